"""The n-th driver call fails, n = 1, 2, … until a run completes without: nothing is lost for it.

In `make test` the n go in steps, each error from another one on; with SOAK=1 all are tried.
"""

from collections.abc import Callable
from typing import Any

import effort
import invariants
import pytest
from hooking import Hooks
from partitioning import Site
from sweeping import JOB, LIES, NAMED, OTHERS, Bench, Fault, sweep

from slurm_mig.simulator.handle import ANY

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600 if effort.SOAK else 120)]

STEP = effort.count(41, 1)
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


@SCENE
def test_acquire(scene: str, set_up: Any, figures: Any) -> None:
    """Whichever call fails, a Prolog serves, or makes nothing and says what the driver said."""
    bench, words = set_up(scene)
    met, longest = sweep(bench, _acquire(bench, words), errors=ERRORS, step=STEP)
    assert longest > 80
    figures("faults", acquire=met)


@SCENE
@pytest.mark.parametrize("drain", [False, True])
def test_release(scene: str, set_up: Any, figures: Any, drain: bool) -> None:
    """Whichever call fails, an Epilog removes, or keeps the rest for reconcile and says why."""
    bench, words = set_up(scene, drain=drain)
    met, longest = sweep(bench, _release(bench, words, drain=drain), errors=ERRORS, step=STEP)
    assert longest > 80
    figures("faults", release=met)
