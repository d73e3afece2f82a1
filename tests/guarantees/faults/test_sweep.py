"""The n-th driver call fails, n = 1, 2, … until a run completes without: nothing is lost for it.

In `make test` the n go in steps, each error from another one on; with SOAK=1 all are tried.
"""

from collections.abc import Callable
from typing import Any

import effort
import invariants
import pytest
from hooking import Hooks
from partitioning import CREATE, CREATE_CI, DESTROY, DESTROY_CI, Site
from sweeping import JOB, LIES, NAMED, OTHERS, Bench, Fault, rewrite, sweep

from slurm_mig.nvml import Driver
from slurm_mig.simulator.handle import ANY

pytestmark = [pytest.mark.soak, pytest.mark.timeout(effort.count(600, 7200))]

STEP = effort.count(131, 1)
ERRORS = (*NAMED, *OTHERS, *LIES)

#: GPUs, the jobs that run beside, what the job wants, what a stranger has made (profile, start).
SCENES: dict[str, tuple[str, dict[int, tuple[str, ...]], tuple[str, ...], tuple[str, int] | None]]
SCENES = {
    "first-and-last-on-7-slices": ("A100-SXM4-40GB", {}, ("3g.20gb",), None),
    "several-with-neighbours-on-7-slices": (
        "A100-SXM4-40GB:2",
        {1: ("1g.5gb:2",), 2: ("3g.20gb",)},
        ("3g.20gb", "2g.10gb", "1g.5gb"),
        None,
    ),
    "fills-4-slices-beside-a-stranger": (
        "A30-24GB",
        {1: ("1g.6gb",)},
        ("2g.12gb",),
        ("1g.6gb", 0),
    ),
}
SCENE = pytest.mark.parametrize("scene", SCENES)


@pytest.fixture
def set_up(
    new_hooks: Callable[..., Hooks], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Bench, tuple[str, ...]]]:
    """Makes the node of a scene, with its neighbours; gives it and what the job wants."""

    def make(scene: str, *, drain: bool = False) -> tuple[Bench, tuple[str, ...]]:
        gpus, neighbours, words, stranger = SCENES[scene]
        hooks = new_hooks(gpus, slurm={"request": "token"}, epilog={"budget": 30, "drain": drain})
        bench = Bench(hooks, monkeypatch)
        if stranger:
            Site(bench.node).foreigner(*stranger)
            bench.foreign = bench.sim.instances()
        for job, theirs in neighbours.items():
            bench.start(job, *theirs)
        return bench, words

    return make


def _acquire(bench: Bench, words: tuple[str, ...]) -> Callable[[Fault], None]:
    """A Prolog under a fault, and everything back as it was before."""

    def act(fault: Fault) -> None:
        with bench.armed(fault):
            status, said = bench.prolog(JOB, *words)
        seen = invariants.look(bench.node)
        rows = [row for row in seen.rows if row.job == JOB]
        folder = seen.folders.get(JOB)
        if status == 0 and folder is not None and folder.refuse is None:
            assert said == ""
            bench.settled(served={JOB: bench.served(*words)})
            bench.jobs[JOB] = bench.served(*words)
        elif status == 0:
            # Turned away: only where the driver says that it has no room for what it was asked to
            # make, or no such profile, which a Prolog must believe.
            assert fault.error == "INSUFFICIENT_RESOURCES" or fault.lies, said
            bench.settled(refused=[JOB], quarantined=[JOB])
        else:
            assert status == 1
            assert fault.text_in(said) or fault.lies, said
            assert fault.function == ANY or f": {fault.function}" in said or fault.lies, said
            assert folder is None or folder.devices is None
            assert {row.state for row in rows} <= ({"quarantined"} if not fault.once else set())
            bench.settled(at_work=[JOB])
        bench.mended()
        if JOB in bench.jobs:
            assert bench.epilog(JOB) == (0, "")
            del bench.jobs[JOB]
            bench.settled()

    return act


def _release(bench: Bench, words: tuple[str, ...], *, drain: bool) -> Callable[[Fault], None]:
    """An Epilog under a fault."""

    def act(fault: Fault) -> None:
        assert bench.prolog(JOB, *words) == (0, "")
        with bench.armed(fault):
            status, said = bench.epilog(JOB)
        seen = invariants.look(bench.node)
        rows = [row for row in seen.rows if row.job == JOB]
        if said == "":
            assert status == 0
            bench.settled()
        elif said.startswith("slurm-mig: quarantined: "):
            assert status == int(drain)
            assert fault.text_in(said) or fault.lies, said
            assert {row.state for row in rows} == {"quarantined"}
            assert not fault.passes, said
            bench.settled(quarantined=[JOB])
        else:
            # The driver could not be looked at at all.
            assert status == 1
            assert fault.text_in(said) or fault.lies, said
            assert {row.state for row in rows} == {"live"}
            bench.settled(served={JOB: bench.served(*words)})
        bench.mended()

    return act


def _reconcile(bench: Bench, words: tuple[str, ...]) -> Callable[[Fault], None]:
    """`slurm-mig reconcile` under a fault, with one job of each kind to mend."""
    ended, died, stuck = JOB, JOB + 1, JOB + 2

    def act(fault: Fault) -> None:
        for job in (ended, died, stuck):
            assert bench.prolog(job, *words) == (0, "")
        # Its Prolog died between GI and CI.
        (row,) = (row for row in invariants.rows(bench.node) if row.job == died)
        assert row.gi is not None
        with Driver(bench.node.settings.driver_library) as driver:
            driver.gpus()
            driver.destroy_ci(row.gpu, row.gi, 0)
        for name in ("env", "instances"):
            (bench.node.run_directory / f"jobs/{died}/{name}").unlink()
        rewrite(bench.node, died, "state = 'intent', gi = NULL, cis = '[]', uuids = '[]'")
        # What its Epilog could not remove.
        with bench.armed(Fault(DESTROY, 1, False, "NO_PERMISSION")):
            status, said = bench.epilog(stuck)
        assert (status, said[:24]) == (0, "slurm-mig: quarantined: ")
        with bench.armed(fault):
            status, report, said = bench.reconcile()
        sentences = [*report.get("stuck", ()), *report.get("skipped", ())]
        if status == 0:
            assert sentences == []
            bench.settled()
        elif status == 3:
            assert any(map(fault.text_in, sentences)) or fault.lies, report
        else:
            assert status == 1
            assert fault.text_in(said) or fault.lies, said
        assert not report.get("lost"), report
        bench.settled(at_work=[ended, died, stuck])
        bench.mended()

    return act


@SCENE
def test_acquire(scene: str, set_up: Any, figures: Any) -> None:
    """Whichever call fails, a Prolog serves, or makes nothing and says what the driver said."""
    bench, words = set_up(scene)
    met, longest = sweep(bench, _acquire(bench, words), errors=ERRORS, step=STEP)
    assert longest > 50
    figures("faults", acquire=met)


@SCENE
def test_release(scene: str, set_up: Any, figures: Any) -> None:
    """Whichever call fails, an Epilog removes, or keeps the rest for reconcile and says why."""
    bench, words = set_up(scene)
    met, longest = sweep(bench, _release(bench, words, drain=False), errors=ERRORS, step=STEP)
    assert longest > 50
    figures("faults", release=met)


def test_release_that_drains(set_up: Any, figures: Any) -> None:
    """With [epilog] drain what is quarantined ends the Epilog with 1, and nothing else differs."""
    bench, words = set_up("first-and-last-on-7-slices", drain=True)
    met, _ = sweep(bench, _release(bench, words, drain=True), errors=ERRORS, step=STEP)
    figures("faults", release=met)


@pytest.mark.parametrize(
    ("gpus", "small"), [("A100-SXM4-40GB:2", "1g.5gb"), ("A30-24GB", "1g.6gb")]
)
def test_reconcile(
    gpus: str, small: str, new_hooks: Any, monkeypatch: pytest.MonkeyPatch, figures: Any
) -> None:
    """Whichever call fails, reconcile touches no job that lives, and the next one ends the work."""
    hooks = new_hooks(gpus, slurm={"request": "token"}, epilog={"budget": 30})
    bench = Bench(hooks, monkeypatch)
    bench.start(1, small)
    step = effort.count(197, 3)  # the longest of all, and its cases take the longest
    met, longest = sweep(bench, _reconcile(bench, (small,)), errors=ERRORS, step=step)
    assert longest > 100
    figures("faults", reconcile=met)


def _called(bench: Bench, run: Callable[[], object]) -> list[str]:
    """The functions that a run calls."""
    before = bench.sim.calls()
    run()
    after = bench.sim.calls()
    return sorted(name for name, number in after.items() if number > before.get(name, 0))


@pytest.mark.parametrize(
    "scene", ["first-and-last-on-7-slices", "fills-4-slices-beside-a-stranger"]
)
def test_one_function_fails_from_then_on(scene: str, set_up: Any, figures: Any) -> None:
    """A driver of which one function does not work, while all others do, loses nothing either."""
    bench, words = set_up(scene)
    made = _called(bench, lambda: bench.prolog(JOB, *words))
    removed = _called(bench, lambda: bench.epilog(JOB))
    assert {CREATE, CREATE_CI} < set(made)
    assert {DESTROY, DESTROY_CI} < set(removed)
    errors = ERRORS if effort.SOAK else ("UNKNOWN", "GPU_IS_LOST")
    options = {"errors": errors, "step": effort.count(37, 5), "modes": (False,)}
    met, _ = sweep(bench, _acquire(bench, words), functions=made, **options)
    figures("faults", acquire=met)
    met, _ = sweep(bench, _release(bench, words, drain=False), functions=removed, **options)
    figures("faults", release=met)


@SCENE
@pytest.mark.parametrize("after", [False, True])
def test_what_changes_the_gpu_fails(scene: str, set_up: Any, figures: Any, after: bool) -> None:
    """Every creation and removal, refused, or carried out and then called a failure."""
    bench, words = set_up(scene)
    errors = ERRORS if effort.SOAK else ("IN_USE", "UNKNOWN", "GPU_IS_LOST")
    # "No room" after it was made is what a race with somebody else looks like: what stands there
    # then is taken for theirs, since to remove it could be to destroy it.
    creation = tuple(e for e in errors if not after or e != "INSUFFICIENT_RESOURCES")
    for act, functions, kinds in (
        (_acquire(bench, words), [CREATE], creation),
        (_acquire(bench, words), [CREATE_CI], errors),
        (_release(bench, words, drain=False), [DESTROY, DESTROY_CI], errors),
    ):
        met, _ = sweep(bench, act, functions=functions, errors=kinds, after=after)
        assert met >= 2 * len(functions) * len(kinds)
        figures("faults", changes=met)
