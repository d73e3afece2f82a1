"""SIGKILL at every step of Prolog, Epilog and reconcile, three times in a row at each.

Each case is run to its end once, which records its failpoints; then, for each of them: the case is
set up, the hook killed there three times, each time started again, and then what Slurm does next.
In `make test` failpoints are drawn from those after a change (failpoints.CHANGE); with SOAK=1 it is
every failpoint. The endings take turns, so failpoints between which nothing changes get different
ones.
"""

import itertools
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import effort
import invariants
import pytest
from hooking import Hooks
from invariants import Job
from killing import Mortal

from slurm_mig.rehearsal.failpoints import CHANGE

pytestmark = pytest.mark.soak

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_CI = "nvmlGpuInstanceCreateComputeInstance"
DESTROY_CI = "nvmlComputeInstanceDestroy"
UNFINISHED = "slurm-mig: job {} may not run here: the Prolog on this node did not finish\n"
ME, NEIGHBOUR, RESTLESS = 7, 90, 91
TWO = "A100-SXM4-40GB:2"


def nothing(_: Mortal) -> None:
    """No fault, and nothing there before."""


def gres(*profiles: str) -> str:
    """A request for these, as scontrol shows it."""
    return ",".join(f"mig:{name}(CNT:{profiles.count(name)})" for name in dict.fromkeys(profiles))


def ran(m: Mortal, *profiles: str, job: int = ME) -> None:
    """Let a job have its instances."""
    m.hooks.job(job, gres(*profiles))
    run = m.run("prolog", job)
    assert (run.rc, run.output) == (0, "")


@dataclass(frozen=True)
class Case:
    """What is killed, in which circumstances; `rc` is how it ends when it is not killed."""

    which: str
    wanted: tuple[str, ...]
    gpus: str = "A100-SXM4-40GB"
    before: Callable[[Mortal], None] = nothing
    fault: Callable[[Mortal], None] = nothing  # armed before each run
    rc: int = 0
    room: bool = True  # for neighbours
    serves: bool = True  # the job can be served once the fault is cleared
    others: dict[int, Job] = field(default_factory=dict)


def there_before(m: Mortal) -> None:
    """The job ran here, and had no Epilog."""
    ran(m, "2g.10gb")


def full(m: Mortal) -> None:
    """Another job has the whole GPU."""
    if not m.hooks.lives():
        ran(m, "7g.40gb", job=80)


def served(*profiles: str) -> Callable[[Mortal], None]:
    """The job has its instances."""
    return lambda m: ran(m, *profiles)


def first(m: Mortal) -> None:
    """Nothing was ever done on this node."""
    for folder in ("state", "run"):
        shutil.rmtree(m.node.folder / folder, ignore_errors=True)


CASES = {
    "acquire-first": Case("prolog", ("3g.20gb",), before=first, room=False),
    "acquire": Case("prolog", ("3g.20gb",)),
    "acquire-several": Case("prolog", ("3g.20gb", "3g.20gb", "3g.20gb", "1g.5gb"), TWO),
    "acquire-again": Case("prolog", ("3g.20gb",), before=there_before),
    "acquire-place-taken": Case(
        "prolog",
        ("1g.5gb", "2g.10gb"),
        fault=lambda m: m.sim.fail(CREATE, 2, error="INSUFFICIENT_RESOURCES"),
    ),
    "acquire-undo": Case(
        "prolog",
        ("1g.5gb", "2g.10gb"),
        TWO,
        fault=lambda m: m.sim.fail(CREATE_CI, 2, error="UNKNOWN"),
        rc=1,
    ),
    "acquire-miss": Case(
        "prolog",
        ("3g.20gb",),
        before=full,
        room=False,
        serves=False,
        others={80: Job(0, ("7g.40gb",))},
    ),
    "acquire-senseless": Case("prolog", ("9g.90gb",), serves=False),
    "acquire-nothing": Case("prolog", (), before=there_before),
    "release": Case("epilog", ("3g.20gb",), before=served("3g.20gb")),
    "release-several": Case(
        "epilog",
        ("3g.20gb", "3g.20gb", "1g.5gb"),
        TWO,
        before=served("3g.20gb", "3g.20gb", "1g.5gb"),
    ),
    "release-in-use": Case(
        "epilog",
        ("1g.5gb", "2g.10gb"),
        before=served("1g.5gb", "2g.10gb"),
        fault=lambda m: m.sim.fail(DESTROY_CI, 1, error="IN_USE"),
    ),
    "release-stuck": Case(
        "epilog",
        ("1g.5gb", "2g.10gb"),
        before=served("1g.5gb", "2g.10gb"),
        fault=lambda m: m.sim.fail(DESTROY_CI, 1, once=False, error="IN_USE"),
    ),
}


def as_promised(m: Mortal, case: Case) -> None:
    """Between the kills: nothing shared or lost, and no task would run without all it asked for."""
    seen = invariants.look(m.node)
    invariants.always(m.node, seen=seen)
    folder = seen.folders.get(ME)
    # What an earlier run was given stands until the Prolog gets there; it failed, so no task runs.
    fresh = case.which == "prolog" and case.before is not there_before
    if fresh and folder is not None and folder.refuse is None:
        if folder.devices is not None:
            invariants.settled(m.node, {ME: Job(0, case.wanted)}, at_work=_all(seen), seen=seen)
        else:
            assert m.hooks.task(ME) == (1, {}, UNFINISHED.format(ME))


def _all(seen: invariants.Seen) -> set[int]:
    return {row.job for row in seen.rows} | {NEIGHBOUR, RESTLESS} - {ME}


def mend_all(m: Mortal) -> None:
    """Run reconcile to its end: it mends all there is, and knows of nothing that it cannot."""
    run = m.run("reconcile")
    assert run.rc in (0, 3), run
    # Whether the node is drained is no matter here, and nobody answers for it.
    left = [line for line in run.output.splitlines() if not re.match(r"mended|.* node n1", line)]
    assert set(left) <= {"nothing to mend"}


def mend(m: Mortal, jobs: dict[int, Job]) -> None:
    """What is quarantined is reconcile's; then all is as if the job had never been."""
    if any(state == "quarantined" for *_, state in m.hooks.ledger()):
        invariants.settled(m.node, jobs, quarantined=[ME])
        m.alive(jobs)
        mend_all(m)
        invariants.settled(m.node, jobs)
    # A Prolog killed before it made the folder leaves its lock's file, and no Epilog looks.
    invariants.settled(m.node, jobs, lock_files=False)


def epilog(m: Mortal, case: Case, jobs: dict[int, Job]) -> None:
    """Slurm runs the Epilog."""
    assert m.run("epilog").rc == 0
    mend(m, jobs)


def reconcile(m: Mortal, case: Case, jobs: dict[int, Job]) -> None:
    """No Epilog ever runs; the job is gone when reconcile comes."""
    m.alive(jobs)
    mend_all(m)
    invariants.settled(m.node, jobs)


def again(m: Mortal, case: Case, jobs: dict[int, Job]) -> None:
    """The job comes back under its id, without an Epilog: it is served, or turned away."""
    run = m.run("prolog")
    if any(state == "quarantined" for *_, state in m.hooks.ledger()):
        m.alive([*jobs, ME])
        mend_all(m)
        run = m.run("prolog")
    assert run.rc == 0
    if case.serves:
        invariants.settled(m.node, {**jobs, ME: Job(0, case.wanted)})
    else:
        invariants.settled(m.node, jobs, refused=[ME])
    epilog(m, case, jobs)


def late(m: Mortal, case: Case, jobs: dict[int, Job]) -> None:
    """Reconcile comes while Slurm still has the job; then the Epilog."""
    m.alive([*jobs, ME])
    mend_all(m)
    as_promised(m, case)
    epilog(m, case, jobs)


ENDINGS = (epilog, reconcile, again, late)


@contextmanager
def restless(m: Mortal) -> Iterator[None]:
    """A job that comes and goes all the time, on the same GPUs."""
    over = threading.Event()
    wrong: list[str] = []

    def come_and_go() -> None:
        while not over.is_set():
            for which in ("prolog", "epilog"):
                run = m.run(which, RESTLESS)
                if (run.rc, run.output) != (0, ""):
                    wrong.append(f"{which} of the neighbour: {run.rc} {run.output}")

    m.hooks.job(RESTLESS, gres("1g.5gb"))
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not wrong, wrong


def kill_thrice(m: Mortal, case: Case, point: str, jobs: dict[int, Job]) -> int:
    """How many of three runs in a row died at the failpoint."""
    died = 0
    for _ in range(3):
        case.fault(m)
        run = m.run(case.which, kill=point)
        died += run.rc == -9
        as_promised(m, case)
    m.sim.clear_faults()
    return died


def some(points: list[str], number: int, chance: random.Random) -> list[str]:
    """With SOAK=1 all; else so many of those after a change, in order."""
    if effort.SOAK:
        return points
    changes = [point for point in points if CHANGE.search(point)]
    chosen = set(chance.sample(changes, min(number, len(changes))))
    return [point for point in changes if point in chosen]


RUNS = [
    pytest.param(name, company, id=f"{name}-{'together' if company else 'alone'}")
    for name, case in CASES.items()
    for company in ([False, True] if case.room else [False])
]


@pytest.mark.timeout(0 if effort.SOAK else 300)
@pytest.mark.parametrize(("name", "company"), RUNS)
def test_hook(new_hooks, figures, name, company):
    """A hook killed three times at any step: what Slurm does next leaves all as if never begun."""
    case = CASES[name]
    seed = effort.seed()
    chance = random.Random(seed)  # noqa: S311 -- to be drawn again from the seed
    hooks: Hooks = new_hooks(case.gpus, epilog={"budget": 0.1})
    with Mortal(hooks) as m:
        jobs = dict(case.others)

        def set_up() -> None:
            case.before(m)
            hooks.job(ME, gres(*case.wanted))

        if company:
            ran(m, "1g.5gb", job=NEIGHBOUR)
            jobs[NEIGHBOUR] = Job(0, ("1g.5gb",))
        else:
            ran(m, "1g.5gb")  # makes the ledger
            m.run("epilog")
        set_up()
        case.fault(m)
        points = m.record(case.which)
        assert m.last_run.rc == case.rc
        m.sim.clear_faults()
        m.run("epilog")
        mend(m, jobs)
        killed = missed = 0
        turns = chance.sample(ENDINGS, len(ENDINGS))
        for point, ending in zip(some(points, 2, chance), itertools.cycle(turns), strict=False):
            try:
                set_up()
                # A fault would strike the neighbour as well.
                if company and case.fault is nothing:
                    with restless(m):
                        died = kill_thrice(m, case, point, jobs)
                else:
                    died = kill_thrice(m, case, point, jobs)
                # A step may be one that only the first run took, such as to write a note.
                missed += not died
                killed += died
                ending(m, case, jobs)
            except AssertionError as error:
                error.add_note(f"killed at {point}, then {ending.__name__}; SEED={seed}")
                raise
    assert killed > 10 * missed
    figures("failpoints", points=len(points), kills=killed, never_met=missed)


# -- reconcile ------------------------------------------------------------------------------------

#: Jobs, each of which left something else behind, with 1g.5gb each: the failpoint at which its
#: Prolog or Epilog was killed (None: it was not), and whether Slurm still has it.
LEFT = {
    11: ("live", None, False),
    12: ("prolog", f"acquire/{CREATE}/after", True),
    13: ("prolog", f"acquire/{CREATE_CI}/after", False),
    14: ("prolog", "acquire/ledger.intend/after", True),
    15: ("epilog", f"release/{DESTROY_CI}/after", False),
    16: ("epilog", "release/ledger.forget/after", True),
    17: ("prolog", "acquire/handover.open/after", False),
    18: ("prolog", "acquire/locks.job/after", False),
    19: ("stuck", None, False),
    20: ("stuck", None, True),
    21: ("prolog", "acquire/devices.grant/after", True),
    22: ("prolog", "acquire/handover.give/after", False),
}


def leave(m: Mortal) -> None:
    """Make what the jobs of LEFT leave behind."""
    for job, (how, point, _) in LEFT.items():
        m.hooks.job(job, gres("1g.5gb"))
        if how == "prolog":
            assert m.run("prolog", job, kill=point).rc == -9
            continue
        assert m.run("prolog", job).rc == 0
        if how == "epilog":
            assert m.run("epilog", job, kill=point).rc == -9
        elif how == "stuck":
            m.sim.fail(DESTROY_CI, once=False, error="IN_USE")
            m.run("epilog", job)
            m.sim.clear_faults()


@pytest.mark.timeout(0 if effort.SOAK else 300)
def test_reconcile(new_hooks, figures):
    """Reconcile killed three times at any step, over all that can be left: the next one mends."""
    seed = effort.seed()
    chance = random.Random(seed)  # noqa: S311 -- to be drawn again from the seed
    jobs = {NEIGHBOUR: Job(0, ("1g.5gb",))}
    here = [job for job, (_, _, still) in LEFT.items() if still]
    with Mortal(new_hooks(TWO, epilog={"budget": 0})) as m:
        ran(m, "1g.5gb", job=NEIGHBOUR)

        def mended() -> None:
            invariants.settled(m.node, jobs, at_work=here)
            for job in here:
                if LEFT[job][0] == "prolog":
                    assert m.hooks.task(job) == (1, {}, UNFINISHED.format(job))
                assert m.run("epilog", job).rc == 0
            invariants.settled(m.node, jobs)

        leave(m)
        m.alive([NEIGHBOUR, *here])
        points = m.record("reconcile")
        assert m.last_run.rc == 0
        mended()
        killed = 0
        for point in some(points, 5, chance):
            try:
                leave(m)
                m.alive([NEIGHBOUR, *here])
                for _ in range(3):
                    killed += m.run("reconcile", kill=point).rc == -9
                    invariants.always(m.node)
                mend_all(m)
                mended()
            except AssertionError as error:
                error.add_note(f"killed at {point}; SEED={seed}")
                raise
    figures("failpoints", points=len(points), kills=killed, never_met=0)
