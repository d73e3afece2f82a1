"""Faults of the driver on real Slurms: one readable reason, and reconcile mends and resumes."""

import pytest
from spinecluster import USER, Spine, gres

from slurm_mig.ledger import LIVE

pytestmark = pytest.mark.slurm

CREATE_GI = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_CI = "nvmlGpuInstanceCreateComputeInstance"
GPUS = "nvmlDeviceGetCount"
ONE = ("-w", "node1", gres({"1g.5gb": 1}))


def runs_again(real: Spine, job: int) -> None:
    """A job whose Prolog failed is held; let go, it gets its instance."""
    assert real.state(job) == "PENDING"
    assert real.cluster.job(job)["priority"] in (0, {"set": True, "infinite": False, "number": 0})
    real.cluster.run("scontrol", "release", str(job))
    real.hasten(job)
    real.cluster.wait_job(job)
    assert [one["profiles"] for one in real.seen(job)] == ["1g.5gb"]


@pytest.mark.parametrize(
    ("function", "after"),
    [(CREATE_GI, False), (CREATE_GI, True), (CREATE_CI, False)],
    ids=["no GI", "a GI all the same", "no CI"],
)
def test_in_the_prolog(real: Spine, function: str, after: bool) -> None:
    """The node says which call failed on which GPU; nothing leaks; reconcile resumes it."""
    real.nodes["node1"].simulation.fail(function, error="UNKNOWN", after=after)
    job = real.cluster.sbatch(str(real.look), *ONE, user=USER)
    reason = real.wait_drained("node1")
    real.cluster.wait_until(lambda: real.state(job) == "PENDING", "the job to be back")
    left, listed = real.leftovers(), real.cluster.run("sinfo", "-h", "-R", "-o", "%E").stdout
    mended = real.reconcile("node1")
    real.cluster.wait_nodes_idle()
    assert reason.startswith("slurm-mig: GPU-")
    assert reason.endswith(f": {function} failed: Unknown Error (NVML error 999)")
    assert listed == f"{reason}\n"
    assert (mended.stdout, mended.returncode, left) == (
        f"resumed: node node1: drained for {reason!r}; resumed\n",
        0,
        {},
    )
    runs_again(real, job)


def test_in_the_epilog(real: Spine) -> None:
    """An Epilog that cannot reach the driver leaves the instance; reconcile removes it, resumes."""
    simulation = real.nodes["node1"].simulation
    job = real.cluster.sbatch(f"{real.look} it", *ONE, user=USER)
    real.wait_ready("it")
    [entry] = real.entries("node1")
    simulation.fail(GPUS, error="UNKNOWN")
    real.let_go("it")
    reason = real.wait_drained("node1")
    left = [(e.job, e.state) for e in real.entries("node1")]
    mended = real.reconcile("node1")
    real.cluster.wait_nodes_idle()
    assert (reason, left) == (
        f"slurm-mig: NVML: {GPUS} failed: Unknown Error (NVML error 999)",
        [(job, LIVE)],
    )
    where = f"{entry.wish.gpu} 1g.5gb at {entry.wish.placement}"
    assert mended.stdout.splitlines() == [
        f"mended: job {job}: {where}: removed (job ended)",
        f"resumed: node node1: drained for {reason!r}; resumed",
    ]


def test_drain_of_an_admin(real: Spine) -> None:
    """A node that an admin drained keeps the admin's reason, and reconcile leaves it so."""
    job = real.cluster.sbatch(f"{real.look} it", *ONE, user=USER)
    real.wait_ready("it")
    drain = ["scontrol", "update", "NodeName=node1", "State=DRAIN", "Reason=fan broken"]
    real.cluster.run(*drain)
    real.nodes["node1"].simulation.fail(GPUS, error="UNKNOWN")
    real.let_go("it")
    reason = real.wait_drained("node1")
    mended = real.reconcile("node1")
    after = real.cluster.node("node1")["reason"]
    real.resume("node1")
    assert real.state(job) == "COMPLETED"
    assert (reason, after) == ("fan broken", "fan broken")
    assert mended.stdout.startswith(f"mended: job {job}: ")
    assert "resumed" not in mended.stdout


def test_prolog_killed(real: Spine) -> None:
    """A Prolog that is killed just after a GI was made cannot say why: Slurm says it.

    The ledger has the intent, so the Epilog removes the GI. No hook drained the node, so reconcile
    does not resume it.
    """
    simulation = real.nodes["node1"].simulation
    made = simulation.counts().made
    simulation.fail(CREATE_GI, error="KILL", after=True)
    job = real.cluster.sbatch(str(real.look), *ONE, user=USER)
    reason = real.wait_drained("node1")
    real.cluster.wait_until(lambda: real.state(job) == "PENDING", "the job to be back")
    left, mended = real.leftovers(), real.reconcile("node1")
    still = real.cluster.node_states("node1")
    real.resume("node1")
    assert (reason, left, mended.stdout) == ("Prolog error", {}, "nothing to mend\n")
    assert still == {"IDLE", "DRAIN"}
    assert simulation.counts().made == made + 1
    runs_again(real, job)
