"""Sixteen processes, fifty jobs each, on four GPUs: no instance has two jobs, everybody is served.

Two detectors that share nothing: the simulated driver's journal, and marks that the jobs make.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import effort
import invariants
import pytest
from hooking import make_hooks
from scratch import memory

sys.path.insert(0, str(Path(__file__).parents[3]))

from bench import crowd

ROOT = Path(__file__).parents[3]
PROCESSES = 16


def run(node, folder, rounds, what, how):
    """Let them all work to their end; what they did."""
    command = crowd.command(node, folder, PROCESSES, rounds, what, how)
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=effort.count(110, 1500),
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return crowd.rounds(folder)


def nothing_wrong(node, done):
    """No overlap by either detector, and nothing left."""
    assert crowd.by_journal(node.simulation, done) == []
    assert crowd.by_marks(done) == []
    invariants.settled(node, {})
    counts = node.simulation.counts()
    assert (counts.left, counts.lost) == (0, 0)
    assert counts.made == counts.destroyed


@pytest.fixture
def node():
    """Four A100s that promise sixteen instances; files where a sync costs nothing."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        yield make_hooks(
            *(Path(folder), "A100-SXM4-40GB:4"),
            layout="balanced",
            slurm={"request": "token"},
        ).node


@pytest.mark.soak
@pytest.mark.timeout(effort.count(120, 1600))
@pytest.mark.parametrize(
    ("how", "rounds"), [("entry", 50), ("hooks", effort.count(1, 50))], ids=["entry", "hooks"]
)
def test_promises_kept(node, tmp_path, figures, how, rounds):
    """With a promise for each, every round is served: no miss, no overlap, no wait for ever."""
    node.simulation.latency(crowd.CREATE, 0.002)
    done = run(node, tmp_path / "crowd", rounds, "promised", how)
    served = "served" if how == "entry" else "done"
    assert Counter(one.outcome for one in done) == {served: PROCESSES * rounds}
    assert all(len(one.uuids) == 1 for one in done)
    nothing_wrong(node, done)
    assert node.simulation.counts().made == PROCESSES * rounds
    # The locks are polled, so nothing orders those that wait for one; what holds is that all get
    # theirs, and that nobody stands still while another goes through all of its rounds.
    most = crowd.overtaken(done)
    assert most < max(rounds, 10)
    figures("together", processes=[PROCESSES], rounds=len(done), overlaps=0, overtaken=[most])


@pytest.mark.soak
@pytest.mark.timeout(effort.count(120, 1600))
def test_more_than_there_is(tmp_path, figures):
    """Requests of all sizes without promises: some miss, none collides, nothing is left."""
    rounds = effort.count(25, 500)
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        node = make_hooks(
            *(Path(folder), "A100-SXM4-40GB:4"), slurm={"request": "token"}, uuid_mode="fresh"
        ).node
        done = run(node, tmp_path / "crowd", rounds, "any", "entry")
        outcomes = Counter(one.outcome.split()[0] for one in done)
        assert sum(outcomes.values()) == PROCESSES * rounds
        assert set(outcomes) <= {"served", "requeued"}
        assert outcomes["served"] > PROCESSES
        assert all(bool(one.uuids) == (one.outcome == "served") for one in done)
        nothing_wrong(node, done)
    figures("together", rounds=len(done), overlaps=0, misses=outcomes["requeued"])
