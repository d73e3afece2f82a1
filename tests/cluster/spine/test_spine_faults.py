"""Instances that somebody holds when their job ends; other faults: tests/cluster/guarantees."""

import pytest
from spinecluster import PROMISES, USER, Spine, gres

from slurm_mig.ledger import QUARANTINED, REMOVING

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("spine")]

DESTROY_CI = "nvmlComputeInstanceDestroy"


def on(name: str, **counts: int) -> tuple[str, ...]:
    """Options of a job for one instance on one node."""
    return ("-w", name, gres(counts or {"1g.5gb": 1}))


def test_instance_held_for_a_while(spine: Spine) -> None:
    """A client outside the job that goes away later delays the Epilog, which then succeeds."""
    simulation = spine.nodes["node1"].simulation
    process = spine.srun("it", *on("node1"), user=USER)
    spine.wait_ready("it")
    [entry] = spine.entries("node1")
    tries = simulation.calls().get(DESTROY_CI, 0)
    with simulation.client(entry.uuids[0]):
        spine.let_go("it")
        spine.ended(process)
        spine.cluster.wait_until(
            lambda: simulation.calls().get(DESTROY_CI, 0) >= tries + 2, "the Epilog to try again"
        )
        during = [entry.state for entry in spine.entries("node1")]
    spine.cluster.wait_nodes_idle()
    assert during == [REMOVING]
    assert spine.leftovers() == {}


def test_instance_held_for_ever(spine: Spine) -> None:
    """A client that stays: quarantined, its space offered to nobody, no drain; then mended.

    All other promises of the node are kept meanwhile, except that of the lost space.
    """
    simulation = spine.nodes["node2"].simulation
    process = spine.srun("it", *on("node2", **{"1g.5gb": 1}), user=USER)
    spine.wait_ready("it")
    [entry] = spine.entries("node2")
    with simulation.client(entry.uuids[0]) as client:
        spine.let_go("it")
        spine.ended(process)
        spine.cluster.wait_until(
            lambda: [e.state for e in spine.entries("node2")] == [QUARANTINED], "the quarantine"
        )
        spine.cluster.wait_nodes_idle()
        [quarantined] = spine.entries("node2")
        nodes = set(spine.device_nodes("node2").values())
        stuck = spine.reconcile("node2")
        wanted = {**PROMISES, "1g.5gb": PROMISES["1g.5gb"] - 1}
        profiles = [profile for profile, count in wanted.items() for _ in range(count)]
        jobs = [
            spine.cluster.sbatch(f"{spine.look} all", *on("node2", **{p: 1}), user=USER)
            for p in profiles
        ]
        spine.wait_ready("all", len(jobs))
        lives = spine.instances("node2")
        spine.let_go("all")
        for job in jobs:
            spine.cluster.wait_job(job)
    mended = spine.reconcile("node2")
    assert f"in use by pid {client.pid}" in quarantined.reason
    assert nodes == {(0, 0)}  # nobody can open it any more
    assert stuck.returncode == 3
    assert f"in use by pid {client.pid}" in stuck.stdout
    assert len(lives) == len(jobs) + 1
    assert mended.returncode == 0
    assert mended.stdout.startswith(f"mended: job {entry.job}: ")
