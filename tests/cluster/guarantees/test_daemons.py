"""Daemons that die and come back on real Slurms, at every phase of a job's life."""

import signal

import pytest
from spinecluster import USER, Spine, gres

from slurm_mig.ledger import LIVE, REMOVING

pytestmark = pytest.mark.slurm

CREATE_GI = "nvmlDeviceCreateGpuInstanceWithPlacement"
DESTROY_CI = "nvmlComputeInstanceDestroy"
ONE = ("-w", "node1", gres({"1g.5gb": 1}))


def test_slurmd_killed_while_a_job_runs(real: Spine) -> None:
    """A job outlives the slurmd under it, and so does its instance; it is removed at its end."""
    job = real.cluster.sbatch(f"{real.look} it; {real.look}", *ONE, user=USER)
    real.wait_ready("it")
    before = real.instances("node1")
    real.end_slurmd("node1", signal.SIGKILL)
    real.start_slurmd("node1")
    mended = real.reconcile("node1")
    during = [(entry.job, entry.state) for entry in real.entries("node1")]
    real.let_go("it")
    real.cluster.wait_job(job)
    first, second = real.seen(job)
    assert (mended.stdout, during) == ("nothing to mend\n", [(job, LIVE)])
    assert first == second
    assert [ci.uuid for gi in before for ci in gi.compute] == [first["visible"]]


@pytest.mark.parametrize("hooks", [False, True], ids=["alone", "with its Prolog"])
def test_slurmd_killed_in_the_prolog(real: Spine, hooks: bool) -> None:
    """The job does not run, what its Prolog left half made is removed; cancelled, all is gone."""
    simulation = real.nodes["node1"].simulation
    simulation.latency(CREATE_GI, 1.0)
    job = real.cluster.sbatch(str(real.look), *ONE, user=USER)
    real.wait_busy("node1")
    real.end_slurmd("node1", signal.SIGKILL, hooks=hooks)
    real.start_slurmd("node1")
    real.cluster.wait_until(lambda: not real.hook_processes("node1"), "the Prolog to end")
    simulation.clear_faults()
    mended = real.reconcile("node1").stdout
    left = [(entry.job, entry.state) for entry in real.entries("node1")]
    ran = real.cluster.output_file(job).exists()
    real.cluster.run("scancel", str(job))
    real.end_of_jobs()
    if hooks:
        assert mended.startswith(f"mended: job {job}: ")
        assert mended.endswith(": removed (intent)\n")
        assert left == []
    else:
        assert (mended, left) == ("nothing to mend\n", [(job, LIVE)])
    assert (ran, real.state(job)) == (False, "CANCELLED")


def test_slurmd_killed_in_the_epilog(real: Spine) -> None:
    """An Epilog that died with slurmd is run again, or taken for done; then reconcile mends.

    Seen: 22.05 and 24.11 run it again, 26.05 takes it for done. No Slurm is held to either here.
    On the other node meanwhile a job reaches its time limit, of which slurmctld takes notice every
    half minute: nothing of it is left either.
    """
    late = real.cluster.sbatch(f"{real.look} late", "-w", "node2", gres({"3g.20gb": 1}), user=USER)
    job = real.cluster.sbatch(f"{real.look} it", *ONE, user=USER)
    real.wait_ready("late")
    real.wait_ready("it")
    real.cluster.run("scontrol", "update", f"JobId={late}", "EndTime=now")
    simulation = real.nodes["node1"].simulation
    simulation.latency(DESTROY_CI, 2.0)
    real.let_go("it")
    real.wait_busy("node1")
    real.end_slurmd("node1", signal.SIGKILL, hooks=True)
    simulation.clear_faults()
    real.start_slurmd("node1")
    real.cluster.wait_nodes_idle(timeout=100)
    left = [(entry.job, entry.state) for entry in real.entries("node1")]
    states = real.state(job), real.state(late)
    mended = real.reconcile("node1")
    assert states == ("COMPLETED", "TIMEOUT")
    if left:
        assert left == [(job, REMOVING)]
        assert mended.stdout.startswith(f"mended: job {job}: ")
        assert mended.stdout.endswith(": removed (job ended)\n")
    else:
        assert mended.stdout == "nothing to mend\n"


def test_slurmctld_restarted(real: Spine) -> None:
    """Restarted while a job waits, while it runs and in its Epilog: the job notices nothing."""
    simulation = real.nodes["node1"].simulation
    made = simulation.counts().made
    job = real.cluster.sbatch(f"{real.look} it", *ONE, "--hold", user=USER)
    real.restart_slurmctld()
    real.cluster.run("scontrol", "release", str(job))
    real.wait_ready("it")
    real.restart_slurmctld()
    during = [(entry.job, entry.state) for entry in real.entries("node1")]
    simulation.latency(DESTROY_CI, 2.0)
    real.let_go("it")
    real.wait_busy("node1")
    real.restart_slurmctld()
    real.cluster.wait_job(job)
    real.cluster.wait_nodes_idle()
    simulation.clear_faults()
    assert during == [(job, LIVE)]
    assert [one["profiles"] for one in real.seen(job)] == ["1g.5gb"]
    assert simulation.counts().made == made + 1


@pytest.mark.parametrize("how", ["restarted", "reconfigured"])
def test_slurmctld_in_the_prolog(real: Spine, how: str) -> None:
    """Whatever becomes of a job whose Prolog is at work meanwhile: nothing of it is left.

    Slurm may lose the launch of a batch script so, and it never starts; until somebody cancels it.
    """
    simulation = real.nodes["node1"].simulation
    simulation.latency(CREATE_GI, 1.5)
    job = real.cluster.sbatch(str(real.look), *ONE, user=USER)
    real.wait_busy("node1")
    if how == "restarted":
        real.restart_slurmctld()
    else:
        real.cluster.run("scontrol", "reconfigure")
    real.cluster.wait_until(lambda: not real.hook_processes("node1"), "the Prolog to end")
    simulation.clear_faults()
    entries = [(entry.job, entry.state) for entry in real.entries("node1")]
    real.cluster.run("scancel", str(job), check=False)
    real.end_of_jobs()
    assert entries in ([], [(job, LIVE)])  # without it: it is over already
    assert real.state(job) in ("CANCELLED", "COMPLETED")
    if real.state(job) == "COMPLETED":
        assert [one["profiles"] for one in real.seen(job)] == ["1g.5gb"]
