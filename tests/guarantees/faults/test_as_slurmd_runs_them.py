"""A sample of the sweeps with hooks as slurmd runs them: exit status, last line, what is left."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import effort
import invariants
import pytest
from hooking import Hooks
from invariants import Job
from partitioning import CREATE, CREATE_CI, DESTROY, DESTROY_CI
from sweeping import NAMED, USER

from slurm_mig import drained
from slurm_mig.driver_errors import PASSING
from slurm_mig.simulator.handle import ANY
from slurm_mig.simulator.records import ERRORS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(effort.count(300, 3600))]

#: Functions and the n of their calls; of anything, one early, one in the middle, one late.
SAMPLE = [(ANY, 7), (CREATE_CI, 1), (CREATE, 1), (ANY, 1), (ANY, 40)][: effort.count(2, 5)]
REMOVALS = [(ANY, 1), (DESTROY, 1), (DESTROY_CI, 1), (ANY, 40)][: effort.count(2, 4)]
TRIED = NAMED if effort.SOAK else ("UNKNOWN", "GPU_IS_LOST")


@pytest.fixture
def hooks(new_hooks: Callable[..., Hooks]) -> Hooks:
    """A node with one neighbour; removals give up after a fifth of a second."""
    made = new_hooks("A100-SXM4-40GB", slurm={"request": "token"}, epilog={"budget": 0.2})
    made.job(1, "mig:1g.5gb:1", uid=USER)
    made.job(7, "mig:3g.20gb:1", uid=USER)
    assert made.prolog(1, uid=USER, extra="slurm-mig/1:1g.5gb=1;").rc == 0
    return made


def _reconcile(hooks: Hooks) -> None:
    """`slurm-mig reconcile`, told that only the neighbour lives."""
    (hooks.folder / "queue").write_text("1 RUNNING\n")
    # That the node was drained for it, and is resumed, is tested in tests/hooks/test_drained.py.
    (hooks.node.folder / "state" / drained.NAME).unlink(missing_ok=True)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "slurm_mig.cli.main"),
            *("reconcile", "-c", hooks.node.config, "--node", "n1"),
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run


NEIGHBOUR = {1: Job(USER, ("1g.5gb",))}


def _mended(hooks: Hooks) -> None:
    """After the fault the same job is served, and leaves nothing."""
    hooks.sim.clear_faults()
    assert hooks.epilog(7, uid=USER).rc == 0
    assert hooks.prolog(7, uid=USER, extra="slurm-mig/1:3g.20gb=1;").rc == 0
    invariants.settled(hooks.node, {**NEIGHBOUR, 7: Job(USER, ("3g.20gb",))})
    assert hooks.epilog(7, uid=USER).rc == 0


@pytest.mark.parametrize(("function", "nth"), SAMPLE)
@pytest.mark.parametrize("once", [True, False])
def test_prolog(hooks: Hooks, function: str, nth: int, once: bool, figures: Any) -> None:
    """A Prolog under a fault ends with 1 and the driver's words; short of room it may serve."""
    for error in TRIED:
        hooks.sim.fail(function, nth, once=once, error=error)
        run = hooks.prolog(7, uid=USER, extra="slurm-mig/1:3g.20gb=1;")
        what = (error, run.rc, run.output)
        if function == CREATE and error == "INSUFFICIENT_RESOURCES":
            # Once: lost a race, so made elsewhere. For ever: a miss.
            assert (run.rc, run.output) == (0, ""), what
        else:
            assert run.rc == 1, what
            assert run.last_line.startswith("slurm-mig: "), what
            assert f"(NVML error {ERRORS[error]})" in run.last_line, what
        invariants.settled(hooks.node, NEIGHBOUR, at_work=[7], quarantined=[7])
        folder = invariants.folders(hooks.node).get(7)
        assert run.rc == 0 or folder is None or folder.devices is None, what
        hooks.sim.clear_faults()
        hooks.epilog(7, uid=USER)
        figures("faults", as_slurmd=1)
        if any(row.job == 7 for row in invariants.rows(hooks.node)):
            _reconcile(hooks)
        invariants.settled(hooks.node, NEIGHBOUR)
    _mended(hooks)


@pytest.mark.parametrize(("function", "nth"), REMOVALS)
@pytest.mark.parametrize("once", [True, False])
def test_epilog(hooks: Hooks, function: str, nth: int, once: bool, figures: Any) -> None:
    """An Epilog under a fault removes all, or ends with the status and words of the manual."""
    for error in TRIED:
        assert hooks.prolog(7, uid=USER, extra="slurm-mig/1:3g.20gb=1;").rc == 0
        hooks.sim.fail(function, nth, once=once, error=error)
        run = hooks.epilog(7, uid=USER)
        what = (error, run.rc, run.output)
        if nth == 1 and function == ANY:
            assert run.rc == 1, what  # no driver at all
            assert f"(NVML error {ERRORS[error]})" in run.last_line, what
        elif once and ERRORS[error] in PASSING:
            assert (run.rc, run.output) == (0, ""), what
            invariants.settled(hooks.node, NEIGHBOUR)
        else:
            assert run.rc == 0, what
            assert run.last_line.startswith("slurm-mig: quarantined: "), what
            assert f"(NVML error {ERRORS[error]})" in run.last_line or "in use by" in run.last_line
            invariants.settled(hooks.node, NEIGHBOUR, quarantined=[7])
        figures("faults", as_slurmd=1)
        hooks.sim.clear_faults()
        _reconcile(hooks)
        invariants.settled(hooks.node, NEIGHBOUR)
    _mended(hooks)
