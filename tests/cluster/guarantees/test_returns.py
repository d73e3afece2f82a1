"""Jobs that come back under their id on real Slurms, and nodes that go and come back with them."""

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from spinecluster import REQUEUE_DELAY, USER, Spine, gres

from slurm_mig.ledger import LIVE, REMOVING

pytestmark = pytest.mark.slurm

CREATE_GI = "nvmlDeviceCreateGpuInstanceWithPlacement"
DESTROY_CI = "nvmlComputeInstanceDestroy"
ONE = ("-w", "node1", gres({"1g.5gb": 1}), "--open-mode=append")


def script(real: Spine) -> str:
    """A job that stays until `run`, `run1`, … (after so many restarts) are let go."""
    return f"{real.look} run$SLURM_RESTART_COUNT"


def slurmstepds(real: Spine, job: int) -> list[int]:
    """The processes of a job on this machine: its slurmstepds and all below them."""
    found = []
    for pid in real.cluster.processes():
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"SLURM_JOB_ID=%d" % job in words or name.startswith(b"slurmstepd: [%d." % job):
            found.append(pid)
    return found


def test_requeue(real: Spine) -> None:
    """A job that is requeued while it runs comes back under its id and gets an instance anew."""
    made = real.nodes["node1"].simulation.counts().made
    job = real.cluster.sbatch(script(real), *ONE, user=USER)
    real.wait_ready("run")
    real.cluster.run("scontrol", "requeue", str(job))
    real.wait_back(job)
    between = real.leftovers()
    real.hasten(job)
    real.wait_ready("run1")
    real.let_go("run1")
    real.cluster.wait_job(job)
    assert between == {}
    assert [one["job"] for one in real.seen(job)] == [str(job)] * 2
    assert real.nodes["node1"].simulation.counts().made == made + 2


def test_requeue_and_hold(real: Spine) -> None:
    """The same with requeuehold: nothing is left while it is held."""
    job = real.cluster.sbatch(script(real), *ONE, user=USER)
    real.wait_ready("run")
    real.cluster.run("scontrol", "requeuehold", str(job))
    real.wait_held(job)
    between = real.leftovers()
    real.cluster.run("scontrol", "release", str(job))
    real.hasten(job)
    real.wait_ready("run1")
    real.let_go("run1")
    real.cluster.wait_job(job)
    assert between == {}
    assert len(real.seen(job)) == 2


def test_requeue_while_the_old_epilog_runs(real: Spine) -> None:
    """On the same node under the same id, the old Epilog still at work: the new Prolog waits.

    Slurm starts nothing on a node that is COMPLETING; an admin who forces the node's state makes
    it do so, once the credential of the first run has expired. Slurm 22.05 may drain the node then
    ("Duplicate jobid") or forget what the job holds; so only newer ones are forced here.
    """
    forced = real.cluster.release >= (25, 5)
    simulation = real.nodes["node1"].simulation
    made = simulation.counts().made
    job = real.cluster.sbatch(script(real), *ONE, user=USER)
    real.wait_ready("run")
    simulation.latency(DESTROY_CI, REQUEUE_DELAY + 4.0)
    real.cluster.run("scontrol", "requeue", str(job))
    real.wait_busy("node1")
    epilog = real.hook_processes("node1")
    if forced:
        real.set_down("node1", "forced")
        real.take_back("node1")
        real.cluster.wait_until(
            lambda: len(set(real.hook_processes("node1")) - set(epilog)) > 0, "the new Prolog"
        )
        # The Epilog is held up by the driver, and the new Prolog waits for it.
        assert [(entry.job, entry.state) for entry in real.entries("node1")] == [(job, REMOVING)]
    else:
        simulation.clear_faults()
    real.wait_ready("run1")
    simulation.clear_faults()
    lives = [ci.uuid for gi in real.instances("node1") for ci in gi.compute]
    real.let_go("run1")
    real.cluster.wait_job(job)
    assert simulation.counts().made == made + 2
    assert lives == [real.seen(job)[-1]["visible"]]


def test_node_down_and_back(real: Spine) -> None:
    """An admin sets a node DOWN under a running job and takes it back: the job starts anew."""
    job = real.cluster.sbatch(script(real), *ONE, user=USER)
    real.wait_ready("run")
    real.set_down("node1", "cable")
    real.take_back("node1")
    real.wait_ready("run1")
    lives = [ci.uuid for gi in real.instances("node1") for ci in gi.compute]
    entries = [(entry.job, entry.state) for entry in real.entries("node1")]
    real.let_go("run1")
    real.cluster.wait_job(job)
    assert entries == [(job, LIVE)]
    assert lives == [real.seen(job)[-1]["visible"]]


def test_reboot(real: Spine) -> None:
    """After a reboot the ledger's entries are forgotten, and their space is there for others.

    `reconcile --offline` runs before slurmd, as the unit at boot does. Slurm takes the node for
    down meanwhile, as it does by itself after SlurmdTimeout.
    """
    node = real.nodes["node1"]
    lost = node.simulation.counts().lost
    one = ("-w", "node1", gres({"3g.20gb": 1}))
    jobs = [real.cluster.sbatch(script(real), *one, "--no-requeue", user=USER) for _ in "ab"]
    real.wait_ready("run", 2)
    real.end_slurmd("node1", signal.SIGKILL, hooks=True)
    for pid in [pid for job in jobs for pid in slurmstepds(real, job)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    real.set_down("node1", "reboot")
    node.simulation.reboot()
    shutil.rmtree(node.run_directory)
    booted = real.reconcile("node1", "--offline")
    after = real.entries("node1")
    real.start_slurmd("node1")
    real.take_back("node1")
    timer = real.reconcile("node1")
    again = [real.cluster.sbatch(str(real.look), *one, user=USER) for _ in "ab"]
    for job in again:
        real.cluster.wait_job(job)
    assert node.simulation.counts().lost == lost + 2
    assert (booted.returncode, after, timer.returncode) == (0, [], 0)
    mended = booted.stdout.splitlines()
    assert [line.split(":")[1] for line in mended] == [f" job {job}" for job in jobs]
    assert all(": ended by a reboot" in line and line.endswith("; forgotten") for line in mended)
    assert [real.state(job) for job in jobs] == ["NODE_FAIL"] * 2
    assert [one["profiles"] for job in again for one in real.seen(job)] == ["3g.20gb"] * 2
