"""Whatever comes, in whatever order: nothing is shared, lost, left behind or taken from others."""

import effort
import nodemodel
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

EXAMPLES = effort.count(60, 2000)
STEPS = 50


@pytest.mark.soak
# A failure is shrunk, for at most five minutes.
@pytest.mark.timeout(0 if effort.SOAK else 600)
def test_any_history(figures):
    """Any history of jobs, strangers, faults, reboots and reconciles keeps every guarantee."""
    number = effort.seed()
    nodemodel.TRIED.steps.clear()
    nodemodel.TRIED.outcomes.clear()
    machine = seed(number)(nodemodel.NodeModel)
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException:
        print(f"SEED={number}")
        raise
    steps = sum(nodemodel.TRIED.steps.values())
    figures("model", steps=steps, histories=EXAMPLES, seeds=[number])
    print(f"SEED={number}", *sorted(nodemodel.TRIED.outcomes.items()), sep="\n")
    assert steps >= effort.count(2000, 60000)
