"""scancel at every phase of a job's life: it never runs after it, and nothing of it is left."""

import signal

import pytest
from spinecluster import USER, Spine, gres

from slurm_mig.ledger import LIVE

pytestmark = pytest.mark.slurm

CREATE_GI = "nvmlDeviceCreateGpuInstanceWithPlacement"
DESTROY_CI = "nvmlComputeInstanceDestroy"
ONE = ("-w", "node1", gres({"1g.5gb": 1}))


def made(real: Spine) -> int:
    """How many instances were made on both nodes so far."""
    return sum(node.simulation.counts().made for node in real.nodes.values())


def test_while_it_waits(real: Spine) -> None:
    """A job that is cancelled in the queue has had nothing made."""
    before = made(real)
    job = real.cluster.sbatch(str(real.look), *ONE, "--hold", user=USER)
    real.cluster.run("scancel", str(job))
    real.end_of_jobs()
    assert (real.state(job), made(real)) == ("CANCELLED", before)


def test_in_the_prolog(real: Spine) -> None:
    """Cancelled while the driver creates: never runs, and its Epilog removes what was made."""
    before = made(real)
    real.nodes["node1"].simulation.latency(CREATE_GI, 1.0)
    job = real.cluster.sbatch(str(real.look), *ONE, user=USER)
    real.wait_busy("node1")
    real.cluster.run("scancel", str(job))
    real.end_of_jobs()
    real.nodes["node1"].simulation.clear_faults()
    assert (real.state(job), made(real)) == ("CANCELLED", before + 1)
    assert not real.cluster.output_file(job).exists()


def test_interrupted_srun_in_the_prolog(real: Spine) -> None:
    """A user who loses patience with srun leaves nothing behind either."""
    before = made(real)
    real.nodes["node1"].simulation.latency(CREATE_GI, 1.0)
    process = real.srun("it", *ONE, user=USER)
    real.wait_busy("node1")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    real.end_of_jobs()
    real.nodes["node1"].simulation.clear_faults()
    assert process.returncode != 0
    assert (out, made(real)) == ("", before + 1)


def test_between_prolog_and_start(real: Spine) -> None:
    """Cancelled when one node has its instance and the other not yet: never runs on either."""
    before = made(real)
    real.nodes["node2"].simulation.latency(CREATE_GI, 1.5)
    job = real.cluster.sbatch(str(real.look), "-N2", gres({"1g.5gb": 1}), user=USER)
    real.cluster.wait_until(
        lambda: [entry.state for entry in real.entries("node1")] == [LIVE], "node1 to be done"
    )
    real.wait_busy("node2")
    real.cluster.run("scancel", str(job))
    real.end_of_jobs()
    real.nodes["node2"].simulation.clear_faults()
    assert (real.state(job), made(real)) == ("CANCELLED", before + 2)
    assert not real.cluster.output_file(job).exists()


def test_while_it_runs(real: Spine) -> None:
    """Cancelled while it runs: its Epilog removes its instance."""
    before = made(real)
    job = real.cluster.sbatch(f"{real.look} it", *ONE, user=USER)
    real.wait_ready("it")
    real.cluster.run("scancel", str(job))
    real.end_of_jobs()
    assert (real.state(job), made(real)) == ("CANCELLED", before + 1)


def test_while_it_completes(real: Spine) -> None:
    """Cancelled again and again while it does not want to die: the same."""
    job = real.cluster.sbatch(f"trap '' TERM CONT\n{real.look} it", *ONE, user=USER)
    real.wait_ready("it")
    real.cluster.run("scancel", str(job))
    real.cluster.wait_until(
        lambda: "COMPLETING" in real.cluster.node_states("node1"), "the job to complete"
    )
    during = [entry.state for entry in real.entries("node1")]
    real.cluster.run("scancel", str(job), check=False)
    real.cluster.run("scancel", "--signal=KILL", str(job), check=False)
    real.end_of_jobs()
    assert (real.state(job), during) == ("CANCELLED", [LIVE])


def test_in_the_epilog(real: Spine) -> None:
    """Cancelled while its instance is being removed: the job stays what it was, completed."""
    simulation = real.nodes["node1"].simulation
    job = real.cluster.sbatch(f"{real.look} it", *ONE, user=USER)
    real.wait_ready("it")
    simulation.latency(DESTROY_CI, 1.0)
    real.let_go("it")
    real.wait_busy("node1")
    real.cluster.run("scancel", str(job), check=False)
    real.cluster.run("scancel", "--signal=KILL", str(job), check=False)
    real.end_of_jobs()
    simulation.clear_faults()
    assert real.state(job) == "COMPLETED"
