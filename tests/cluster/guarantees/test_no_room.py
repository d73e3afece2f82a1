"""A node without room on real Slurms: jobs go back unrun, and the node is not drained for it."""

import pytest
from spinecluster import USER, Spine, gres

pytestmark = pytest.mark.slurm

NO_ROOM = "slurm-mig: no room for 2g.10gb; free now: nothing"
WANTED = gres({"2g.10gb": 1})


def free(real: Spine, name: str, foreign: list[int]) -> None:
    """Somebody else gives back what `occupy` took."""
    for gpu, gi in enumerate(foreign):
        real.remove_foreign(name, gpu, gi)


def test_batch_and_interactive(real: Spine) -> None:
    """A batch job is requeued and starts by itself once there is room; an srun reads a sentence.

    The mark that the batch script makes first of all is not there before. What somebody else made
    is left alone, and the node stays in service all the time.
    """
    foreign = real.occupy("node1")
    mark = real.folder / "go/mark"
    job = real.cluster.sbatch(f"echo ran >>{mark}\n{real.look}", "-w", "node1", WANTED, user=USER)
    real.wait_back(job)
    said = real.cluster.srun("-w", "node1", WANTED, "touch", mark, user=USER, check=False)
    real.cluster.wait_nodes_idle()
    ran, untouched = mark.exists(), len(real.instances("node1"))
    free(real, "node1", foreign)
    real.cluster.wait_job(job)
    assert (ran, untouched) == (False, 2)
    assert mark.read_text() == "ran\n"
    assert [one["profiles"] for one in real.seen(job)] == ["2g.10gb"]
    assert (said.stdout, said.returncode != 0, said.stderr.count(NO_ROOM)) == ("", True, 1)


def test_misses_in_a_row(real: Spine) -> None:
    """After as many misses as the node allows (two) a batch job is held, with the reason."""
    foreign = real.occupy("node2")
    mark = real.folder / "go/mark"
    job = real.cluster.sbatch(f"touch {mark}", "-w", "node2", WANTED, user=USER)
    real.wait_back(job)
    real.hasten(job)
    real.wait_held(job)
    ran, comment = mark.exists(), real.comment(job)
    free(real, "node2", foreign)
    real.cluster.run("scontrol", "release", str(job))
    real.hasten(job)
    real.cluster.wait_job(job)
    assert (ran, comment) == (False, f"{NO_ROOM} (2 times in a row)")
    assert mark.exists()


def test_slurmctld_away(real: Spine) -> None:
    """A Prolog that finds no room waits for a slurmctld that is down, and then requeues its job."""
    foreign = real.occupy("node1")
    node = real.nodes["node1"]
    count = "nvmlDeviceGetCount"
    node.simulation.latency(count, 1.0)
    before = node.simulation.calls().get(count, 0)
    mark = real.folder / "go/mark"
    job = real.cluster.sbatch(f"touch {mark}", "-w", "node1", WANTED, user=USER)
    # At the driver: the Prolog has asked slurmctld what the job wants, and not yet found no room.
    real.cluster.wait_until(
        lambda: node.simulation.calls().get(count, 0) > before, "the Prolog to ask the driver"
    )
    real.cluster.end_daemon("slurmctld")
    refusal = node.run_directory / f"jobs/{job}/refuse"
    real.cluster.wait_until(refusal.exists, "the Prolog to find no room")
    real.cluster.start_slurmctld()
    real.wait_back(job)
    node.simulation.clear_faults()
    ran = mark.exists()
    free(real, "node1", foreign)
    real.hasten(job)
    real.cluster.wait_job(job)
    assert not ran
