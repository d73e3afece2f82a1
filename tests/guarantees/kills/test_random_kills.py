"""Prolog, Epilog and reconcile killed at random moments, while jobs of all kinds come and go.

Whatever is killed, what Slurm does next is done sooner or later: the Epilog, the Prolog again, or a
reconcile. After each round everything is looked at; in the end nothing is left. A seed gives the
same jobs, hooks and moments again; what a moment hits is the machine's.
"""

import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import effort
import invariants
import pytest
from hooking import can_make_nodes
from invariants import Job
from killing import Mortal
from partitioning import Site

from slurm_mig.rehearsal.hookrun import TERM_TO_KILL, HookRun

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0 if effort.SOAK else 300)]

SLOW = [
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlComputeInstanceDestroy",
    "nvmlGpuInstanceDestroy",
]


@dataclass
class Node:
    """A node under Slurm, as far as Slurm knows it: which jobs it has here, and what they have."""

    m: Mortal
    chance: random.Random
    uids: list[int]
    foreign: list[invariants.GpuInstance]
    served: dict[int, Job] = field(default_factory=dict)
    refused: dict[int, Job] = field(default_factory=dict)
    unsure: dict[int, Job] = field(default_factory=dict)  # a hook of theirs was killed
    quarantined: set[int] = field(default_factory=set)
    users: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    runs: int = 0
    kills: int = 0
    jobs: int = 0
    usual: dict[str, float] = field(default_factory=dict)  # seconds that a whole run took

    # -- one hook ---------------------------------------------------------------------------------

    def go(self, which: str, job: int, mortal: bool) -> HookRun:
        """Run a hook, perhaps until it is killed."""
        self.runs += 1
        if not mortal:
            run = self.m.run(which, job)
            self.usual[which] = run.duration
            return run
        seconds = self.chance.random() * 1.1 * self.usual.get(which, 0.1)
        run = self.m.run_for(which, job, seconds, self.chance.choice([None, TERM_TO_KILL]))
        self.kills += run.rc < 0
        if run.rc >= 0:
            self.usual[which] = run.duration
        return run

    def start(self, job: int, wanted: Job, mortal: bool) -> None:
        """The Prolog of a job."""
        names = dict.fromkeys(wanted.profiles)
        gres = ",".join(f"mig:{name}(CNT:{wanted.profiles.count(name)})" for name in names)
        self.m.hooks.job(job, gres, uid=wanted.uid)
        fresh = self.forget(job) is None
        self.unsure[job] = wanted
        run = self.go("prolog", job, mortal)
        if run.rc < 0:
            folder = invariants.folders(self.m.node).get(job)
            if fresh and folder is not None:
                # Its tasks have all they asked for, or are refused.
                had = len(folder.devices or ()) if folder.refuse is None else 0
                assert had in (0, len(wanted.profiles)), (job, wanted, folder)
                assert (self.m.hooks.task(job)[0] == 0) == (had > 0)
            return
        assert run.rc == 0, run
        del self.unsure[job]
        folder = invariants.folders(self.m.node)[job]
        (self.served if folder.refuse is None else self.refused)[job] = wanted
        if folder.devices and job not in self.users and self.chance.random() < 0.15:
            # A program of the job, that does not always end with it; then the instance stays.
            self.quarantined.add(job)
            self.users[job] = subprocess.Popen(["/bin/sleep", "600"])
            self.m.sim.attach(self.chance.choice(folder.devices), self.users[job].pid)

    def end(self, job: int, mortal: bool) -> None:
        """The Epilog of a job; its program may be there still."""
        self.unsure[job] = self.forget(job) or Job()
        if job in self.users and self.chance.random() < 0.7:
            self.stop(job)
        run = self.go("epilog", job, mortal)
        if run.rc >= 0:
            assert run.rc == 0, run
            del self.unsure[job]

    def stop(self, job: int) -> None:
        """Kill the job's program."""
        self.users[job].kill()
        self.users.pop(job).wait()

    def forget(self, job: int) -> Job | None:
        """What is known of the job, which is no longer so."""
        for jobs in (self.served, self.refused, self.unsure):
            if job in jobs:
                return jobs.pop(job)
        return None

    def mend(self, gone: set[int], mortal: bool) -> None:
        """Reconcile; Slurm has none of the jobs that are `gone`."""
        run = self.go("reconcile", 0, mortal)
        if run.rc >= 0:
            assert run.rc in (0, 3), run
            for job in gone:
                del self.unsure[job]

    # -- one round --------------------------------------------------------------------------------

    def draw(self) -> Job:
        """A job that Slurm might send here."""
        profiles = self.chance.choices(
            ["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb"],
            [6, 3, 2, 1],
            k=self.chance.choice([1, 1, 2, 3]),
        )
        return Job(self.chance.choice(self.uids), tuple(profiles))

    def round(self) -> None:
        """One to three hooks at once, of different jobs, and perhaps reconcile."""
        for function in SLOW:
            self.m.sim.latency(function, self.chance.choice([0, 0.002, 0.01]))
        for job in list(self.users):
            if self.chance.random() < 0.2:
                self.stop(job)
        busy = set()
        with ThreadPoolExecutor(4) as pool:
            acts = []
            for _ in range(self.chance.choice([1, 1, 2, 3])):
                idle = [j for j in (*self.unsure, *self.served, *self.refused) if j not in busy]
                if not idle or self.chance.random() < 0.35:
                    self.jobs += 1
                    job, wanted = self.jobs, self.draw()
                    act = self.start
                    arguments = (job, wanted)
                else:
                    job = self.chance.choice(idle)
                    # A job whose hook was killed, or that is sent again, keeps its id.
                    if job in self.served or self.chance.random() < 0.6:
                        act, arguments = self.end, (job,)
                    else:
                        act, arguments = self.start, (job, self.draw())
                busy.add(job)
                acts.append((act, arguments))
            if self.chance.random() < 0.25:
                gone = {j for j in self.unsure if j not in busy and self.chance.random() < 0.5}
                here = {*self.served, *self.refused, *self.unsure, *busy} - gone
                self.m.alive(here)
                acts.append((self.mend, (gone,)))
            done = [
                pool.submit(act, *arguments, self.chance.random() < 0.5) for act, arguments in acts
            ]
        for each in done:
            each.result()
        self.check()

    def check(self) -> None:
        """Nothing that may never happen has happened."""
        invariants.settled(
            self.m.node,
            self.served,
            refused=self.refused,
            at_work=self.unsure,
            quarantined=self.quarantined,
            foreign=self.foreign,
            lock_files=False,
            promises=False,
        )


@pytest.mark.parametrize(
    ("warm", "usual", "soak"),
    [(True, 150, 2500), (True, 140, 2300), (False, 10, 200)],
    ids=["first", "second", "cold"],
)
def test_random_kills(new_hooks, figures, tmp_path, warm, usual, soak):
    """Killed whenever it may be: nothing is shared, lost, leaked or destroyed that is not ours."""
    seed = effort.seed()
    print(f"SEED={seed}")
    hooks = new_hooks("A100-SXM4-40GB:3", epilog={"budget": 0.1})
    Site(hooks.node).foreigner("2g.10gb", 2, gpu=1)
    uids = [0, 1001, 1002] if can_make_nodes(tmp_path) else [0]
    with Mortal(hooks, warm=warm) as m:
        node = Node(m, random.Random(seed), uids, m.sim.instances())  # noqa: S311 -- by the seed
        try:
            while node.kills < effort.count(usual, soak):
                node.round()
            # In the end Slurm has no job here any more.
            m.sim.clear_faults()
            for job in list(node.users):
                node.stop(job)
            m.alive([])
            assert m.run("reconcile").rc == 0
            invariants.settled(m.node, {}, foreign=node.foreign)
        finally:
            for job in list(node.users):
                node.stop(job)
    figures("random kills", kills=node.kills, hooks=node.runs, jobs=node.jobs, seeds=[seed])
