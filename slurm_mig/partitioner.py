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
from slurm_mig.books import Books
from slurm_mig.devices import Devices
from slurm_mig.driver_errors import DriverError, NoSpace
from slurm_mig.errors import NodeFault, NoRoom, SlurmMigError, TeardownError
from slurm_mig.handover import Handover
from slurm_mig.layouts import layout
from slurm_mig.ledger import Entry, Wish
from slurm_mig.lock import Busy, Locks
from slurm_mig.log import Log
from slurm_mig.nvml import Driver
from slurm_mig.packing import GpuSpace, Slot, Taken
from slurm_mig.request import Wanted, describe
from slurm_mig.settings import Settings
from slurm_mig.sight import GpuView, Sight
from slurm_mig.teardown import Teardown

#: Somebody else may take a placement between our look and our call; look again so many times.
_RACES = 3
#: Seconds between two looks at space that is just being given back.
_LOOK_AGAIN = 0.05


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

    def __init__(self, settings: Settings, driver: Driver, log: Log, *, mend: bool = False) -> None:
        """`mend`: a damaged ledger is put aside and rebuilt (books.py), else it is an error."""
        state = Path(settings.state_directory)
        self._settings, self._driver, self._log = settings, driver, log
        self._locks = Locks(state, settings.lock_timeout, settings.lock_gpu_timeout)
        self._devices = Devices(Path(settings.driver_root))
        self._handover = Handover(Path(settings.state_run_directory))
        self._isolate = settings.isolation_devices == "owner"
        self._sight = Sight(driver, self._devices.life(), settings.mig_minors, self._handover.begun)
        self._books = Books(state, self._locks, self._handover, self._sight, settings.lock_timeout)
        self._ledger = self._books.open(mend=mend)
        if self._books.aside:
            log.note(aside="; ".join(self._books.aside))
        self._all = self._sight.gpus
        self.lost = self._sight.lost
        self._teardown = Teardown(
            *(self._sight, driver, self._ledger, self._locks, self._devices),
            budget=settings.epilog_budget,
            isolate=self._isolate,
        )

    # -- looking ----------------------------------------------------------------------------

    def promises(self) -> Counter[str]:
        """How many instances of each profile the node's layout promises, all GPUs together.

        Raises ConfigError for a layout that a GPU cannot keep.
        """
        total: Counter[str] = Counter()
        for gpu in self._all:
            if not gpu.mig or not self._sight.named(gpu):
                continue
            spec = self._settings.layout_of(gpu.name)
            if spec is not None:
                total.update(layout(self._driver.geometry(gpu), spec))
        return total

    def survey(self) -> list[GpuView]:
        """Every GPU with what lives on it."""
        entries = self._ledger.entries()
        return [self._sight.view(gpu, entries) for gpu in self._all]

    def _spaces(self, entries: Iterable[Entry]) -> list[GpuSpace]:
        """What is taken on each MIG GPU: what the driver shows and what the ledger intends."""
        spaces = []
        for gpu in chosen.partitioned(self._all, self.lost, self._settings.mig_minors):
            gis = self._sight.gis(gpu, with_cis=False)
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
            self._books.demand(self._ledger, job)
            self._handover.open(job)
            self._drop(job, "drop")  # this id ran here before, and its Epilog did not finish
            deadline = time.monotonic() + self._settings.prolog_wait
            for race in range(_RACES):
                with self._log.phase("choose"):
                    entries = self._intend(job, uid, wanted, deadline)
                begun = 0
                try:
                    with self._log.phase("create"):
                        for place, intent in enumerate(entries):
                            begun = place + 1
                            entries[place] = self._make(intent)
                    # Before its tasks may run: if the ledger fails here, all is undone.
                    self._ledger.served(job)
                    self._books.hand_over(job, entries)
                    self._handover.give(
                        job,
                        [uuid for entry in entries for uuid in entry.uuids],
                        [entry.wish.profile for entry in entries for _ in entry.uuids],
                    )
                except NoSpace:
                    self._undo(job, entries[begun:])
                    if race + 1 == _RACES:
                        raise NoRoom(
                            f"{describe(tuple(wanted))}: the driver refused the placement "
                            f"{_RACES} times; somebody else makes instances on this node"
                        ) from None
                except BaseException:
                    self._undo(job, entries[begun:])
                    raise
                else:
                    return entries
        raise AssertionError("unreachable")

    def _intend(self, job: int, uid: int, wanted: Sequence[Wanted], deadline: float) -> list[Entry]:
        """Choose placements and write the intent; waits while space is just being given back."""
        names = [profile for profile, number in wanted for _ in range(number)]
        total = self.promises()
        while True:
            with self._locks.host():
                # Entries of an earlier boot hold nothing any more; reconcile will forget them.
                entries = [e for e in self._ledger.entries() if self._sight.now(e)]
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
                    return self._ledger.intend(job, uid, map(_wish, slots), self._sight.life)
            time.sleep(_LOOK_AGAIN)

    def _make(self, entry: Entry) -> Entry:
        """Create GI and CI as intended, read them back, and give the devices to the user."""
        wish = entry.wish
        gpu = self._sight.gpu(wish.gpu)
        profile = self._driver.geometry(gpu).profile(wish.profile)
        with self._locks.gpu(wish.gpu):
            self._handover.begin(entry.job, entry.id)
            try:
                gi = self._driver.create_gi(wish.gpu, profile, wish.placement)
            except NoSpace:
                # Forgotten, not undone: what is at that place now was made by somebody else.
                self._handover.refused(entry.job, entry.id)
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

    def _undo(self, job: int, not_begun: Sequence[Entry]) -> None:
        """Take back what acquire began, after a failure. Its own failures are noted, not raised.

        What the driver was not yet asked for is only forgotten: an instance that stands at such a
        place by now was made by somebody else.
        """
        try:
            self._handover.disown(job)
            for entry in not_begun:
                self._ledger.forget(entry)
            self._drop(job, "undo")
        except SlurmMigError as error:
            self._log.note(undo=str(error))

    def _drop(self, job: int, phase: str) -> None:
        """Remove what the job has here, latest first; what will not go is quarantined and noted."""
        entries = self._ledger.removing(job)[::-1]
        if entries:
            with self._log.phase(phase):
                try:
                    self._teardown.remove_all(entries)
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
            self._books.demand(self._ledger, job)
            self._handover.disown(job)
            entries = self._ledger.removing(job)
            with self._log.phase("destroy"):
                try:
                    self._teardown.remove_all(entries)
                finally:
                    self._handover.close(job)
        return len(entries)

    # -- reconcile --------------------------------------------------------------------------

    def reconcile(self, ask: Callable[[], frozenset[int] | None]) -> Report:
        """Bring ledger, driver and run directory together.

        `ask` gives the jobs that Slurm has here; with None (it does not answer) only what a reboot
        ended is cleared. Its answer says nothing of jobs that start after it, so only what was here
        before is judged by it. A job whose Prolog or Epilog is at work is left to it.

        All removals together have the budget of one Epilog: it runs before slurmd starts.
        """
        report = Report(
            mended=[*self._books.aside, *self._books.taken_up], skipped=list(self._books.doubts)
        )
        before = self._ledger.entries()
        stamps = {job: self._handover.stamp(job) for job in self._handover.open_jobs()}
        alive = ask()
        deadline = time.monotonic() + self._settings.epilog_budget
        # Locks too: of a Prolog killed before it made its folder, nothing else is left.
        for job in sorted({entry.job for entry in before} | stamps.keys() | {*self._locks.jobs()}):
            old = [entry.id for entry in before if entry.job == job]
            try:
                with self._locks.job(job, wait=False):
                    self._reconcile_job(job, old, stamps.get(job), alive, report, deadline)
            except Busy:
                report.busy.append(f"job {job}: its Prolog or Epilog is at work; left to it")
            except NodeFault as error:
                report.skipped.append(f"job {job}: {error}")
        entries = self._ledger.entries()
        for gpu in self._all:
            try:
                view = self._sight.view(gpu, entries)
            except DriverError as error:
                report.skipped.append(f"{gpu.uuid}: not looked for what others made: {error}")
                continue
            for gi, owner in view.instances:
                if owner is None and not view.whole:
                    report.foreign.append(
                        f"{view.gpu.uuid} GI {gi.id} at {gi.placement}: not made by slurm-mig; "
                        "left alone, its space is not offered"
                    )
        if self._books.aside and report.foreign:
            report.skipped.append(
                "since the ledger was put aside nobody knows whose the foreign instances are; for "
                "one that no job uses: nvidia-smi mig -i GPU -dci -gi GI, then -dgi -gi GI"
            )
        return report

    def _reconcile_job(
        self,
        job: int,
        old: Sequence[int],
        stamp: int | None,
        alive: frozenset[int] | None,
        report: Report,
        deadline: float,
    ) -> None:
        entries = [entry for entry in self._ledger.entries(job) if entry.id in old]
        ended = alive is not None and job not in alive
        doomed = []
        if entries and not ended and not any(map(self._sight.now, entries)):
            # By now the UUIDs that it was handed may be those of somebody else's instances.
            self._handover.open(job)
            self._handover.refuse(job, "a reboot or a reload of the driver ended its instances")
        for entry in entries:
            wish = entry.wish
            where = f"job {job}: {wish.gpu} {wish.profile} at {wish.placement}"
            if not self._sight.now(entry):
                self._ledger.forget(entry)
                report.mended.append(
                    f"{where}: ended by a reboot or a reload of the driver; forgotten"
                )
            elif ended or (alive is not None and entry.state != states.LIVE):
                doomed.append(entry)
            elif entry.state == states.LIVE:
                try:
                    if self._sight.find(entry) is None:
                        report.lost.append(f"{where}: gone from the GPU while its job runs")
                except NodeFault as error:
                    report.skipped.append(f"{where}: {error}")
        if not ended and any(entry.state == states.INTENT for entry in doomed):
            # Its Prolog died between intent and hand-over: the job must not run without.
            self._handover.open(job)
            self._handover.refuse(job, "the Prolog on this node did not finish")
        if ended and doomed:
            unchanged = self._handover.stamp(job) == stamp
            self._handover.disown(job)
            stamp = self._handover.stamp(job) if unchanged else None
        for entry in doomed:
            where = f"job {job}: {entry.wish.gpu} {entry.wish.profile} at {entry.wish.placement}"
            # One attempt for what had its budget before: a timer's run must not wait for it again.
            until = 0.0 if entry.state == states.QUARANTINED else deadline
            try:
                self._teardown.remove_all([entry], until)
                report.mended.append(f"{where}: removed ({'job ended' if ended else entry.state})")
            except TeardownError as error:
                report.stuck.append(str(error))
        left = [e for e in self._ledger.entries(job) if e.state != states.QUARANTINED]
        if not ended or stamp is None or left:
            return
        # Not a folder that vouches for what the ledger lost and was not taken up this time.
        self._books.demand(self._ledger, job)
        # Nor one that the job was given since: it may say that its tasks must not run.
        if self._handover.stamp(job) == stamp:
            self._handover.close(job)
            if not doomed:
                report.mended.append(f"job {job}: removed what was handed over; it has ended")

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()


def _wish(slot: Slot) -> Wish:
    return Wish(slot.gpu, slot.profile.name, slot.profile.id, slot.placement)
