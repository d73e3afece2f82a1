"""The partitioning core: acquire, release, reconcile. The only place that decides.

Every verb may be repeated at any point: the intent is durable before the driver is asked, and what
the driver shows is compared with the ledger before anything is destroyed. NVML is the truth about
what exists, Slurm about which jobs live, the ledger about who owns what. A GI that no ledger entry
matches was made by somebody else: it counts as occupied and is never touched.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slurm_mig import chosen, packing
from slurm_mig import ledger as states
from slurm_mig.devices import Devices, describe_process
from slurm_mig.errors import NodeFault, NoRoom, TeardownError
from slurm_mig.handover import Handover
from slurm_mig.instances import Gi, Gpu
from slurm_mig.layouts import layout
from slurm_mig.ledger import Entry, Ledger, Wish
from slurm_mig.lock import Busy, Locks
from slurm_mig.log import Log
from slurm_mig.nvml import Driver, InUse, NoSpace
from slurm_mig.packing import GpuSpace, Slot, Taken
from slurm_mig.profiles import Geometry
from slurm_mig.request import Wanted, describe
from slurm_mig.settings import Settings

#: Somebody else may take a placement between our look and our call; look again so many times.
_RACES = 3
_FIRST_RETRY, _LONGEST_RETRY = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class GpuView:
    """One GPU as it is now: what lives on it, and whose it is (None: somebody else's)."""

    gpu: Gpu
    geometry: Geometry | None  # None: not in MIG mode
    instances: tuple[tuple[Gi, Entry | None], ...]
    pending: tuple[Entry, ...]  # in the ledger, not (or no longer) on the GPU
    whole: bool = False  # [gpus] mig leaves it out: never partitioned


@dataclass(slots=True)
class Report:
    """What reconcile found and did, one sentence each."""

    mended: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


class Partitioner:
    """The core over one node's driver, ledger and locks. One per process."""

    def __init__(self, settings: Settings, driver: Driver, log: Log) -> None:
        state = Path(settings.state_directory)
        self._settings, self._driver, self._log = settings, driver, log
        self._ledger = Ledger(state)
        self._locks = Locks(state, settings.lock_timeout, settings.lock_gpu_timeout)
        self._devices = Devices(Path(settings.driver_root))
        self._handover = Handover(Path(settings.state_run_directory))
        self._isolate = settings.isolation_devices == "owner"
        self._boot = self._devices.boot_id()
        self._all = driver.gpus()
        self.lost = tuple(driver.lost)  # GPUs that fell off the bus, a sentence each

    # -- looking ----------------------------------------------------------------------------

    def _gpu(self, uuid: str) -> Gpu:
        for gpu in self._all:
            if gpu.uuid == uuid:
                return gpu
        raise NodeFault(f"{uuid}: the driver shows this GPU no more; look at dmesg for Xid errors")

    def _named(self, gpu: Gpu) -> bool:
        return chosen.named(gpu, self._settings.mig_minors)

    def _gis(self, gpu: Gpu, *, with_cis: bool = True) -> list[Gi]:
        """What lives on a GPU; out of MIG mode, nothing can."""
        return self._driver.instances(gpu, with_cis=with_cis) if gpu.mig else []

    def promises(self) -> Counter[str]:
        """How many instances of each profile the node's layout promises, all GPUs together.

        Raises ConfigError for a layout that a GPU cannot keep.
        """
        total: Counter[str] = Counter()
        for gpu in self._all:
            if not gpu.mig or not self._named(gpu):
                continue
            spec = self._settings.layout_of(gpu.name)
            if spec is not None:
                total.update(layout(self._driver.geometry(gpu), spec))
        return total

    def survey(self) -> list[GpuView]:
        """Every GPU with what lives on it."""
        entries = self._ledger.entries()
        views = []
        for gpu in self._all:
            mine = [entry for entry in entries if entry.wish.gpu == gpu.uuid]
            gis = self._gis(gpu)
            pairs = tuple((gi, next((e for e in mine if self._is(e, gi)), None)) for gi in gis)
            shown = {entry.id for _, entry in pairs if entry is not None}
            missing = tuple(entry for entry in mine if entry.id not in shown)
            geometry = self._driver.geometry(gpu) if gpu.mig else None
            views.append(GpuView(gpu, geometry, pairs, missing, whole=not self._named(gpu)))
        return views

    def _is(self, entry: Entry, gi: Gi) -> bool:
        """Whether this GI is the one of the entry.

        An intent has no id yet: its placement was free when it was written, so a GI of that very
        profile and placement is what the intent made.
        """
        return (
            entry.boot == self._boot
            and entry.gi in (None, gi.id)
            and entry.wish.profile_id == gi.profile_id
            and entry.wish.placement == gi.placement
        )

    def _spaces(self, entries: Iterable[Entry]) -> list[GpuSpace]:
        """What is taken on each MIG GPU: what the driver shows and what the ledger intends."""
        spaces = []
        for gpu in chosen.partitioned(self._all, self.lost, self._settings.mig_minors):
            gis = self._gis(gpu, with_cis=False)
            taken = {gi.placement: Taken(gi.profile_id, gi.placement) for gi in gis}
            for entry in entries:
                wish = entry.wish
                if wish.gpu == gpu.uuid:
                    taken.setdefault(wish.placement, Taken(wish.profile_id, wish.placement))
            spaces.append(GpuSpace(gpu.uuid, self._driver.geometry(gpu), tuple(taken.values())))
        return spaces

    # -- acquire ----------------------------------------------------------------------------

    def acquire(self, job: int, uid: int, wanted: Sequence[Wanted]) -> list[Entry]:
        """Make the job's instances, all or none, and hand them over.

        Raises NoRoom, RequestError (nothing was made), NodeFault (undone, or quarantined).
        """
        with self._locks.job(job):
            self._handover.open(job)
            self._drop(job, "drop")  # this id ran here before, and its Epilog did not finish
            deadline = time.monotonic() + self._settings.prolog_wait
            for race in range(_RACES):
                with self._log.phase("choose"):
                    entries = self._intend(job, uid, wanted, deadline)
                try:
                    with self._log.phase("create"):
                        entries = [self._make(entry) for entry in entries]
                    self._handover.give(
                        job,
                        [uuid for entry in entries for uuid in entry.uuids],
                        [entry.wish.profile for entry in entries for _ in entry.uuids],
                    )
                except NoSpace:
                    self._drop(job, "undo")
                    if race + 1 == _RACES:
                        raise NoRoom(
                            f"{describe(tuple(wanted))}: the driver refused the placement "
                            f"{_RACES} times; somebody else makes instances on this node"
                        ) from None
                except BaseException:
                    self._drop(job, "undo")
                    raise
                else:
                    self._ledger.served(job)
                    return entries
        raise AssertionError("unreachable")

    def _intend(self, job: int, uid: int, wanted: Sequence[Wanted], deadline: float) -> list[Entry]:
        """Choose placements and write the intent; waits while space is just being given back."""
        names = [profile for profile, number in wanted for _ in range(number)]
        total = self.promises()
        while True:
            with self._locks.host():
                # Entries of an earlier boot hold nothing any more; reconcile will forget them.
                entries = [e for e in self._ledger.entries() if e.boot == self._boot]
                spaces = self._spaces(entries)
                # What lives on a GPU that has since been left out takes nothing of these.
                here = {space.uuid for space in spaces}
                left = total - Counter(e.wish.profile for e in entries if e.wish.gpu in here)
                # What Slurm may still send here once this job has its own.
                kept = left - Counter(names)
                try:
                    slots = packing.choose(spaces, names, kept, left & Counter(names))
                except NoRoom:
                    if not any(entry.state == states.REMOVING for entry in entries):
                        raise
                    if time.monotonic() >= deadline:
                        raise
                else:
                    return self._ledger.intend(job, uid, map(_wish, slots), self._boot)
            time.sleep(_FIRST_RETRY)

    def _make(self, entry: Entry) -> Entry:
        """Create GI and CI as intended, read them back, and give the devices to the user."""
        wish = entry.wish
        gpu = self._gpu(wish.gpu)
        profile = self._driver.geometry(gpu).profile(wish.profile)
        with self._locks.gpu(wish.gpu):
            try:
                gi = self._driver.create_gi(wish.gpu, profile, wish.placement)
            except NoSpace:
                # Forgotten, not undone: what is at that place now was made by somebody else.
                self._ledger.forget(entry)
                raise
            try:
                self._driver.create_ci(wish.gpu, gi, profile.slices)
            except NoSpace as error:
                # Nobody raced us into a GI that is a moment old: the driver is at fault.
                raise NodeFault(str(error)) from None
            lives = self._driver.instance(wish.gpu, gi)
        if (lives.profile_id, lives.placement) != (wish.profile_id, wish.placement):
            raise NodeFault(
                f"{wish.gpu} {wish.profile} at {wish.placement}: the driver made profile "
                f"{lives.profile_id} at {lives.placement} instead"
            )
        cis = tuple(ci.id for ci in lives.cis)
        if not cis:
            raise NodeFault(f"{wish.gpu} GI {gi}: the driver does not show the CI that it made")
        if self._isolate:
            self._devices.grant(gpu.minor, gi, cis, entry.uid)
        self._ledger.live(entry, gi, cis, [ci.uuid for ci in lives.cis])
        return next(e for e in self._ledger.entries(entry.job) if e.id == entry.id)

    def _drop(self, job: int, phase: str) -> None:
        """Remove what the job has here, latest first; what will not go is quarantined and noted."""
        entries = self._ledger.removing(job)[::-1]
        if entries:
            with self._log.phase(phase):
                try:
                    self._remove_all(entries)
                except (NodeFault, TeardownError) as error:
                    # Not raised: after a failed creation, its cause is what people must read.
                    self._log.note(**{phase: str(error)})

    # -- release ----------------------------------------------------------------------------

    def release(self, job: int) -> int:
        """Remove all instances of a job and what was handed over; returns how many there were.

        Raises TeardownError for what is still there after the budget; it is quarantined. A job
        without instances is success.
        """
        with self._locks.job(job):
            entries = self._ledger.removing(job)
            with self._log.phase("destroy"):
                try:
                    self._remove_all(entries)
                finally:
                    self._handover.close(job)
        return len(entries)

    def _remove_all(self, entries: Sequence[Entry]) -> None:
        """Remove these within one budget; quarantine what stays, and raise TeardownError for it."""
        deadline = time.monotonic() + self._settings.epilog_budget
        stuck = []
        for entry in entries:
            try:
                self._remove(entry, deadline)
            except (NodeFault, TeardownError) as error:
                self._ledger.quarantine(entry, str(error))
                stuck.append(str(error))
        if stuck:
            raise TeardownError("; ".join(stuck))

    def _remove(self, entry: Entry, deadline: float) -> None:
        """Remove one instance, trying again while it is in use, and forget it once it is gone."""
        wish = entry.wish
        delay = _FIRST_RETRY
        while True:
            with self._locks.gpu(wish.gpu):
                try:
                    gone = self._remove_once(entry)
                except InUse:
                    gone = False
            if gone:
                self._ledger.forget(entry)
                return
            # Not under the lock: others may work on this GPU while we wait.
            if time.monotonic() + delay > deadline:
                raise TeardownError(
                    f"{wish.gpu} {wish.profile} at {wish.placement} of job {entry.job}: in use by "
                    f"{self._users(entry)} after {self._settings.epilog_budget:g} s; stop them, "
                    "then run: slurm-mig reconcile"
                )
            time.sleep(delay)
            delay = min(delay * 2, _LONGEST_RETRY)

    def _find(self, entry: Entry) -> Gi | None:
        if entry.boot != self._boot:
            return None  # instances do not survive a reboot; what is there now is not ours
        gis = self._gis(self._gpu(entry.wish.gpu))
        return next((gi for gi in gis if self._is(entry, gi)), None)

    def _remove_once(self, entry: Entry) -> bool:
        """One attempt; True when a second look shows that the instance is gone. Raises InUse."""
        gi = self._find(entry)
        if gi is None:
            return True
        gpu = self._gpu(entry.wish.gpu)
        if self._isolate:
            # First, so that nothing can open it any more between our attempts.
            self._devices.revoke(gpu.minor, gi.id, tuple(ci.id for ci in gi.cis))
        for ci in gi.cis:
            self._driver.destroy_ci(gpu.uuid, gi.id, ci.id)
        self._driver.destroy_gi(gpu.uuid, gi.id)
        return self._find(entry) is None

    def _users(self, entry: Entry) -> str:
        """Who holds an instance, as far as the driver and /proc tell."""
        gi = self._find(entry)
        if gi is None:
            return "nobody"
        minor = self._gpu(entry.wish.gpu).minor
        pids = set(self._driver.clients(entry.wish.gpu, gi.id))
        pids.update(self._devices.holders(minor, gi.id, tuple(ci.id for ci in gi.cis)))
        return ", ".join(map(describe_process, sorted(pids))) or "a client that NVML does not name"

    # -- reconcile --------------------------------------------------------------------------

    def reconcile(self, ask: Callable[[], frozenset[int] | None]) -> Report:
        """Bring ledger, driver and run directory together.

        `ask` gives the jobs that Slurm has here; with None (it does not answer) only what a reboot
        ended is cleared. Its answer says nothing of jobs that start after it, so only what was here
        before is judged by it. A job whose Prolog or Epilog is at work is left to it.
        """
        report = Report()
        before = self._ledger.entries()
        stamps = {job: self._handover.stamp(job) for job in self._handover.open_jobs()}
        alive = ask()
        for job in sorted({entry.job for entry in before} | stamps.keys()):
            old = [entry.id for entry in before if entry.job == job]
            try:
                with self._locks.job(job, wait=False):
                    self._reconcile_job(job, old, stamps.get(job), alive, report)
            except Busy:
                report.busy.append(f"job {job}: its Prolog or Epilog is at work; left to it")
            except NodeFault as error:
                report.skipped.append(f"job {job}: {error}")
        for view in self.survey():
            for gi, owner in view.instances:
                if owner is None and not view.whole:
                    report.foreign.append(
                        f"{view.gpu.uuid} GI {gi.id} at {gi.placement}: not made by slurm-mig; "
                        "left alone, its space is not offered"
                    )
        return report

    def _reconcile_job(
        self,
        job: int,
        old: Sequence[int],
        stamp: int | None,
        alive: frozenset[int] | None,
        report: Report,
    ) -> None:
        entries = [entry for entry in self._ledger.entries(job) if entry.id in old]
        ended = alive is not None and job not in alive
        doomed = []
        for entry in entries:
            wish = entry.wish
            where = f"job {job}: {wish.gpu} {wish.profile} at {wish.placement}"
            if entry.boot != self._boot:
                self._ledger.forget(entry)
                report.mended.append(f"{where}: ended by a reboot; forgotten")
            elif ended or (alive is not None and entry.state != states.LIVE):
                doomed.append(entry)
            elif entry.state == states.LIVE and self._find(entry) is None:
                report.lost.append(f"{where}: gone from the GPU while its job runs")
        if not ended and any(entry.state == states.INTENT for entry in doomed):
            # Its Prolog died between intent and hand-over: the job must not run without.
            self._handover.open(job)
            self._handover.refuse(job, "the Prolog on this node did not finish")
        for entry in doomed:
            where = f"job {job}: {entry.wish.gpu} {entry.wish.profile} at {entry.wish.placement}"
            try:
                self._remove_all([entry])
                report.mended.append(f"{where}: removed ({'job ended' if ended else entry.state})")
            except TeardownError as error:
                report.stuck.append(str(error))
        if not ended or stamp is None or self._ledger.entries(job):
            return
        # Not a folder that the job was given since: it may say that its tasks must not run.
        if self._handover.stamp(job) == stamp:
            self._handover.close(job)
            if not doomed:
                report.mended.append(f"job {job}: removed what was handed over; it has ended")

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()


def _wish(slot: Slot) -> Wish:
    return Wish(slot.gpu, slot.profile.name, slot.profile.id, slot.placement)
