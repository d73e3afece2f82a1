"""One node as its jobs, its neighbours and its driver make it: a stateful model for hypothesis.

Prolog and Epilog run in this process, but for their sh: `prolog.work`, `epilog.work`, and below
them the real core, ledger, locks and nvidia-ml-py on the simulated driver. Slurm is a record of
what it was told. After each step `invariants` looks at everything from outside.

What the model knows of each job: it was served and lives (`jobs`: it has exactly what it asked
for), it was turned away (`refused`), or a fault struck while a hook was at its work (`unsure`:
only what always holds is asserted, until an Epilog or a reconcile without a fault is through).
"""

import os
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from uuid import UUID

import invariants
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from partitioning import make_site
from scratch import memory

from slurm_mig import epilog, hook, prolog, slurm
from slurm_mig.errors import NodeFault
from slurm_mig.log import Log
from slurm_mig.nvml import Driver, DriverError
from slurm_mig.profiles import Placement
from slurm_mig.request import Wanted, token
from slurm_mig.simulator.models import find_model
from slurm_mig.slurm_records import JobRecord

ME = {"3g.20gb": 1, "1g.5gb+me": 1, "1g.5gb": 2}
#: Nodes to try: GPUs, layout, how the driver behaves.
KINDS = (
    (("A100-SXM4-40GB:2",), "balanced", {}),
    (("A100-SXM4-40GB",), None, {"uuid_mode": "fresh"}),
    (("A100-SXM4-40GB",), "small", {"gi_ids": "swapped8"}),
    (("A100-SXM4-40GB:2",), ME, {"uuid_mode": "fresh"}),
    (("H100-SXM5-80GB",), "balanced", {}),
    (("A30-24GB", "H100-SXM5-80GB"), "halves", {}),
    (("B200-180GB",), None, {}),
    (("RTX-PRO-6000-BLACKWELL-96GB",), {"2g.48gb": 1, "1g.24gb+gfx": 1}, {"uuid_mode": "fresh"}),
)
JOBS = st.integers(1, 9)
ERRORS = (
    *("IN_USE", "INSUFFICIENT_RESOURCES", "GPU_IS_LOST"),
    *("UNKNOWN", "NO_PERMISSION", "TIMEOUT"),
)
CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_CI = "nvmlGpuInstanceCreateComputeInstance"
#: What hooks call, those that change something more often.
CALLS = (
    *(CREATE, CREATE_CI, "nvmlGpuInstanceDestroy", "nvmlComputeInstanceDestroy") * 3,
    "nvmlInit",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetGpuInstanceProfileInfo",
    "nvmlDeviceGetGpuInstances",
    "nvmlDeviceGetGpuInstanceById",
    "nvmlGpuInstanceGetInfo",
    "nvmlGpuInstanceGetComputeInstances",
    "nvmlComputeInstanceGetInfo",
    "nvmlDeviceGetUUID",
)


class Tried(NamedTuple):
    """What a run of the model tried, for its figures."""

    steps: Counter[str]
    outcomes: Counter[str]


#: Added up over all examples of this process.
TRIED = Tried(Counter(), Counter())


class Told:
    """Slurm, as far as the Prolog talks to it: a client that writes down what it was told."""

    def __init__(self) -> None:
        self.batch = True
        self.said: list[str] = []

    def job(self, job_id, node):
        return JobRecord(
            *(job_id, 0, self.batch, self.batch, 0, 0, "RUNNING", "", ("n1",)),
            *("", "", "", 0, None, 0),
        )

    def requeue(self, job_id):
        self.said.append(f"requeue {job_id}")

    def hold(self, job_id, reason):
        self.said.append(f"hold {job_id}")

    def cancel(self, job_id, reason):
        self.said.append(f"cancel {job_id}")

    def notify(self, job_id, text):
        self.said.append(f"notify {job_id}")


class NodeModel(RuleBasedStateMachine):
    """See the module."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="model-", dir=memory()))
        self.slurm = Told()
        self.patch = mock.patch.object(slurm, "client", return_value=self.slurm)
        self.patch.start()
        self.jobs: dict[int, invariants.Job] = {}
        self.refused: set[int] = set()
        self.unsure: set[int] = set()
        self.foreign: list = []
        #: Whether something that is not ours to judge shaped what lies where: strangers, faults.
        self.disturbed = False
        #: Steps since the last reboot.
        self.quiet = 0

    def teardown(self):
        self.patch.stop()
        shutil.rmtree(self.folder)

    @initialize(kind=st.sampled_from(KINDS))
    def begin(self, kind):
        gpus, layout, options = kind
        self.site = make_site(
            *(self.folder, *gpus),
            layout=layout,
            slurm={"request": "token"},
            epilog={"budget": 0},
            seed=UUID(int=4),  # or the same history would go another way the next time
            **options,
        )
        self.node, self.sim = self.site.node, self.site.sim
        self.settings = self.node.settings
        self.models = [find_model(gpu.key) for gpu in self.sim.gpus()]
        self.profiles = sorted({p.name for model in self.models for p in model.profiles})
        self.promised = Counter(self.node.promises)

    # -- looking ------------------------------------------------------------------------------

    @invariant()
    def nothing_lost(self):
        """What may never happen has not, and each job is as it must be."""
        if not hasattr(self, "site"):
            return
        seen = invariants.look(self.node)
        quarantined = {row.job for row in seen.rows if row.state == "quarantined"}
        invariants.always(self.node, foreign=self.foreign, seen=seen)
        invariants.settled(
            self.node,
            self.jobs,
            refused=self.refused,
            at_work=self.unsure,
            quarantined=quarantined,
            foreign=self.foreign,
            promises=not self.disturbed,
            seen=seen,
        )
        for row in seen.rows:
            # The Epilog's sh looks for the folder, and does nothing without.
            assert row.state == "quarantined" or row.boot != seen.boot or row.job in seen.folders
        for job, wanted in self.jobs.items():
            folder = seen.folders.get(job)
            order = {uuid: row.profile for row in seen.rows for uuid in row.uuids}
            handed = tuple(order[uuid] for uuid in folder.devices) if folder else ()
            assert handed == wanted.profiles, (job, handed, wanted)
        if not seen.rows and not seen.instances:
            self.disturbed = False

    def held(self):
        """The (GPU, GI) that a client holds."""
        return {(client.gpu, client.gi) for client in self.sim.clients()}

    def step(self, name, outcome):
        self.quiet += 1
        TRIED.steps[name] += 1
        TRIED.outcomes[f"{name}: {outcome}"] += 1

    @contextmanager
    def faults(self):
        """Whether a fault is armed, asked before the step; afterwards nobody may judge places."""
        armed = bool(self.sim.faults())
        self.disturbed |= armed
        yield armed

    # -- jobs ---------------------------------------------------------------------------------

    def wants(self, data):
        """A request; now and then one for what no GPU has."""
        names = st.sampled_from(self.profiles)
        if data.draw(st.integers(0, 19)) == 0:
            return (Wanted("9g.99gb", 1),)
        if self.promised and data.draw(st.booleans()):
            names = st.sampled_from(sorted(self.promised))
        chosen = data.draw(st.lists(names, min_size=1, max_size=3))
        return tuple(Wanted(*pair) for pair in Counter(chosen).items())

    def promise_left(self, job, profiles):
        """Whether Slurm could send this job here: so much was promised, and is not in use."""
        held = Counter(row.profile for row in invariants.rows(self.node) if row.job != job)
        return Counter(profiles) <= self.promised - held

    def start(self, job, uid, wanted):
        """A Prolog, as slurmd calls it."""
        # The token lists them by name.
        profiles = tuple(w.profile for w in sorted(wanted) for _ in range(w.number))
        busy = {(gi.gpu, gi.id) for gi in self.sim.instances()} & self.held()
        due = self.promise_left(job, profiles)
        self.disturbed |= bool(busy)  # its old instance may be in use, and be quarantined
        env = {
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_UID": str(uid),
            "SLURM_JOB_EXTRA": token(wanted),
            "SLURM_JOB_START_TIME": "1",
            "SLURMD_NODENAME": "n1",
        }
        self.forget(job)
        with self.faults() as armed:
            try:
                outcome, status = prolog.work(
                    *(self.settings, job, Log("/dev/null", "prolog")), env=env, answer=""
                )
            except NodeFault:
                if not armed:
                    raise  # a request drains no node
                self.unsure.add(job)
                return "node-at-fault"
        assert status == hook.OK
        if outcome == "served":
            self.jobs[job] = invariants.Job(uid, profiles)
            return outcome
        assert outcome.split()[0] in ("requeued", "held", "cancelled")
        assert not due or armed or self.disturbed, f"promised, but {outcome}: {profiles}"
        self.refused.add(job)
        if armed:
            self.unsure.add(job)  # the undo of what it began may have failed
        return outcome.split()[0]

    def forget(self, job):
        """What was known of a job is over."""
        self.jobs.pop(job, None)
        self.refused.discard(job)
        self.unsure.discard(job)

    def end(self, job):
        """An Epilog, as slurmd calls it."""
        mine = {
            (gi.gpu, gi.id)
            for gi in self.sim.instances()
            for row in invariants.rows(self.node)
            if row.job == job and invariants._owns(invariants.look(self.node), row, gi)
        }
        busy = mine & self.held()
        self.disturbed |= bool(busy)
        with self.faults() as armed:
            self.forget(job)
            try:
                outcome, status = epilog.work(self.settings, job, Log("/dev/null", "epilog"))
            except NodeFault:
                assert armed
                self.unsure.add(job)
                return "node-at-fault"
        assert (outcome, status) in (("removed", hook.OK), ("quarantined", hook.OK))
        assert (outcome == "removed") or busy or armed
        return outcome

    @rule(uid=st.integers(0, 3), batch=st.booleans(), data=st.data())
    def prolog(self, uid, batch, data):
        """A job starts: a new one, one that runs already, one that was turned away before."""
        job = data.draw(st.sampled_from([*range(1, 10), *sorted(self.jobs)]))
        again = "again" if job in self.jobs else "first"
        self.slurm.batch = batch
        self.step(f"prolog {again}", self.start(job, uid, self.wants(data)))

    @rule(data=st.data())
    def epilog(self, data):
        """A job ends: one that runs, one that ended before, one that never was."""
        job = data.draw(st.sampled_from([*sorted(self.jobs), *range(1, 5)]))
        when = "of a job" if job in self.jobs else "of none"
        self.step(f"epilog {when}", self.end(job))

    @rule(job=JOBS, uid=st.integers(0, 3), data=st.data())
    def requeue(self, job, uid, data):
        """A job is requeued, and comes back under its id at once."""
        wanted = self.wants(data)
        self.end(job)
        self.step("requeue", self.start(job, uid, wanted))

    @rule(first=st.integers(20, 28), size=st.integers(2, 5), data=st.data())
    def array(self, first, size, data):
        """The tasks of an array start: many ids, one request."""
        wanted = self.wants(data)
        for job in range(first, first + size):
            self.step("array task", self.start(job, 0, wanted))

    @rule(first=st.integers(20, 28), size=st.integers(2, 5))
    def array_ends(self, first, size):
        """The tasks of an array end."""
        for job in range(first, first + size):
            self.step("epilog of an array task", self.end(job))

    # -- neighbours ---------------------------------------------------------------------------

    @rule(data=st.data(), ci=st.booleans())
    def foreign_comes(self, data, ci):
        """Somebody else makes an instance, at any place that the driver lets him have."""
        gpu = data.draw(st.integers(0, len(self.models) - 1))
        known = {p.name: p for p in self.models[gpu].profiles}
        profile = known[data.draw(st.sampled_from(sorted(known)))]
        place = data.draw(st.sampled_from(profile.placements))
        self.step("foreign comes", self.by_hand(self._make, gpu, profile, place, ci))

    @precondition(lambda self: self.foreign)
    @rule(data=st.data())
    def foreign_goes(self, data):
        """Somebody else removes what he made."""
        gi = data.draw(st.sampled_from(self.foreign))
        self.step("foreign goes", self.by_hand(self._remove, gi))

    def _make(self, driver, gpu, profile, place, ci):
        uuid = driver.gpus()[gpu].uuid
        gi = driver.create_gi(uuid, profile, Placement(place.start, profile.size))
        if ci:
            driver.create_ci(uuid, gi, profile.slices)

    def _remove(self, driver, gi):
        uuid = driver.gpus()[gi.gpu].uuid
        for ci in gi.compute:
            driver.destroy_ci(uuid, gi.id, ci.id)
        driver.destroy_gi(uuid, gi.id)

    def by_hand(self, action, *arguments):
        """Let somebody else do that; what changes by it is his, also where the driver says no."""
        before = self.sim.instances()
        ours = [gi for gi in before if gi not in self.foreign]
        outcome = "done"
        try:
            with Driver(self.settings.driver_library) as driver:
                action(driver, *arguments)
        except (DriverError, IndexError):
            outcome = "refused"
        self.foreign = [gi for gi in self.sim.instances() if gi not in ours]
        if self.foreign:
            self.disturbed = True
        return outcome

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def client_comes(self, data):
        """A program of a job opens its instance."""
        seen = invariants.folders(self.node)
        uuids = sorted(u for job in self.jobs if job in seen for u in seen[job].devices or ())
        if uuids:
            self.sim.attach(data.draw(st.sampled_from(uuids)), os.getpid())
            self.step("client", "comes")

    @precondition(lambda self: self.sim.clients())
    @rule()
    def clients_go(self):
        """All programs end."""
        self.sim.detach(os.getpid())
        self.step("client", "goes")

    # -- the machine --------------------------------------------------------------------------

    @precondition(lambda self: not self.sim.faults())
    @rule(
        call=st.sampled_from(CALLS),
        error=st.sampled_from(ERRORS),
        nth=st.integers(1, 6),
        once=st.booleans(),
        after=st.booleans(),
    )
    def fault(self, call, error, nth, once, after):
        """A call of the driver will fail, once or from then on, done all the same or not."""
        # A refusal for want of room means, by definition, that nothing was made.
        after = after and error != "INSUFFICIENT_RESOURCES"
        self.sim.fail(call, nth, once=once, error=error, after=after)
        self.step("fault", "armed")

    @precondition(lambda self: self.sim.faults())
    @rule()
    def faults_cleared(self):
        """The driver is well again."""
        self.sim.clear_faults()
        self.step("fault", "cleared")

    @precondition(lambda self: self.quiet > 12)
    @rule()
    def reboot(self):
        """The machine reboots; the run directory, a tmpfs, goes with it."""
        self.sim.clear_faults()
        self.sim.reboot()
        with Driver(self.settings.driver_library) as driver:
            for gpu in driver.gpus():
                if not gpu.mig:  # Hopper and later forget it; node-setup turns it on again
                    driver.set_mig(gpu, True)
        shutil.rmtree(self.node.run_directory, ignore_errors=True)
        self.unsure |= {*self.jobs, *self.refused}
        self.jobs.clear()
        self.refused.clear()
        self.foreign.clear()
        self.quiet = 0
        self.step("reboot", "done")

    @rule(data=st.data(), answer=st.sampled_from(["truth", "any", "none"]))
    def reconcile(self, data, answer):
        """Reconcile, with what Slurm says: which jobs live, whichever those be, or nothing."""
        alive = None
        if answer == "truth":
            alive = frozenset(self.jobs)
        elif answer == "any":
            alive = frozenset(data.draw(st.sets(st.sampled_from([*range(1, 10), *range(20, 33)]))))
        with self.faults() as armed:
            outcome = self._reconcile(alive, armed)
        self.step(f"reconcile, {answer}", outcome)

    def _reconcile(self, alive, armed):
        if alive is not None:
            for job in [*self.jobs, *self.refused]:
                if job not in alive:
                    self.forget(job)
                    self.unsure.add(job)
        boot = invariants.look(self.node).boot
        for row in invariants.rows(self.node):
            if row.boot != boot:
                # A job without its instances is refused, until Slurm says that it has ended.
                self.unsure.add(row.job)
        held = self.held()
        try:
            with hook.partitioner(self.settings, Log("/dev/null", "reconcile")) as core:
                report = core.reconcile(lambda: alive)
        except NodeFault:
            assert armed
            return "node-at-fault"
        if armed:
            return "with faults"
        assert report.busy == report.skipped == report.lost == []
        assert len(report.foreign) == len(self.foreign)
        assert not report.stuck or held
        seen = invariants.look(self.node)
        assert all(row.boot == seen.boot for row in seen.rows)
        if alive is None:
            return "no answer"
        for row in seen.rows:
            owned = [gi for gi in seen.instances if invariants._owns(seen, row, gi)]
            in_use = {(gi.gpu, gi.id) for gi in owned} & held
            assert (row.state == "live" and row.job in alive) or (
                row.state == "quarantined" and in_use
            ), row
        self.unsure -= {
            job
            for job in self.unsure
            if job not in seen.folders and all(row.job != job for row in seen.rows)
        }
        # Of a job that ended, only an instance that a client holds may be left.
        for job in self.unsure - alive:
            assert all(row.state == "quarantined" for row in seen.rows if row.job == job)
        return "all well"
