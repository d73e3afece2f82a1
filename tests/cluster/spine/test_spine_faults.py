"""What goes wrong around a job: cancels, requeues, faults, holders, restarts. Nothing is left."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from spinecluster import PROMISES, USER, Spine, gres

from slurm_mig.ledger import LIVE, QUARANTINED, REMOVING

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("spine")]

CREATE_GI = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_CI = "nvmlGpuInstanceCreateComputeInstance"
DESTROY_CI = "nvmlComputeInstanceDestroy"


def on(name: str, **counts: int) -> tuple[str, ...]:
    """Options of a job for one instance on one node."""
    return ("-w", name, gres(counts or {"1g.5gb": 1}))


def slurmstepds(spine: Spine, job: int) -> list[int]:
    """The processes of a job on this machine: its slurmstepds and all below them."""
    found = []
    for pid in spine.cluster.processes():
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"SLURM_JOB_ID=%d" % job in words or name.startswith(b"slurmstepd: [%d." % job):
            found.append(pid)
    return found


def test_scancel_while_the_prolog_creates(spine: Spine) -> None:
    """A job that is cancelled while its instance is being made never runs; its Epilog cleans."""
    simulation = spine.nodes["node1"].simulation
    made = simulation.counts().made
    simulation.latency(CREATE_GI, 2.0)
    job = spine.cluster.sbatch(str(spine.look), *on("node1"), user=USER)
    spine.cluster.wait_until(
        lambda: simulation.busy(0) or simulation.busy(1), "the driver to be at work"
    )
    spine.cluster.run("scancel", str(job))
    spine.cluster.wait_nodes_idle()
    simulation.clear_faults()
    assert spine.state(job) == "CANCELLED"
    assert not spine.cluster.output_file(job).exists()
    assert simulation.counts().made == made + 1
    assert spine.leftovers() == {}


def test_requeue_of_a_running_job(spine: Spine) -> None:
    """A job that is requeued while it runs comes back under its id and gets an instance anew."""
    made = spine.nodes["node1"].simulation.counts().made
    script = f"{spine.look} run$SLURM_RESTART_COUNT"
    job = spine.cluster.sbatch(script, *on("node1"), "--open-mode=append", user=USER)
    spine.wait_ready("run")
    spine.cluster.run("scontrol", "requeue", str(job))
    spine.wait_back(job)
    between = spine.leftovers()
    spine.wait_ready("run1")
    spine.let_go("run1")
    spine.cluster.wait_job(job)
    assert between == {}
    assert [one["job"] for one in spine.seen(job)] == [str(job)] * 2
    assert spine.nodes["node1"].simulation.counts().made == made + 2


@pytest.mark.parametrize(
    ("function", "after"),
    [(CREATE_GI, False), (CREATE_GI, True), (CREATE_CI, False)],
    ids=["no GI", "a GI all the same", "no CI"],
)
def test_driver_fault_at_creation(spine: Spine, function: str, after: bool) -> None:
    """A driver that fails drains its node, with the reason; nothing leaks, the job is held.

    reconcile finds nothing to mend; after the admin's resume and release all is well again.
    """
    simulation = spine.nodes["node1"].simulation
    simulation.fail(function, error="UNKNOWN", after=after)
    job = spine.cluster.sbatch(str(spine.look), *on("node1"), user=USER)
    spine.cluster.wait_until(
        lambda: spine.cluster.node_states("node1") == {"IDLE", "DRAIN"}, "the drain"
    )
    spine.cluster.wait_until(lambda: spine.state(job) == "PENDING", "the job to be back")
    record, reason = spine.cluster.job(job), spine.cluster.node("node1")["reason"]
    left = spine.leftovers()
    mended = spine.reconcile("node1")
    spine.resume("node1")
    spine.cluster.run("scontrol", "release", str(job))
    spine.cluster.wait_job(job)
    assert "Prolog error" in reason
    assert f"{function} failed: Unknown Error" in spine.reason("node1", job)
    assert record["priority"] == 0
    assert left == {}
    assert (mended.stdout, mended.returncode) == ("nothing to mend\n", 0)
    assert [one["profiles"] for one in spine.seen(job)] == ["1g.5gb"]


def test_prolog_killed_in_the_middle(spine: Spine) -> None:
    """A Prolog that dies when a GI was just made drains its node; the Epilog removes the GI.

    The ledger has the intent, so the Epilog knows whose it is.
    """
    simulation = spine.nodes["node1"].simulation
    made = simulation.counts().made
    simulation.fail(CREATE_GI, error="KILL", after=True)
    job = spine.cluster.sbatch(str(spine.look), *on("node1"), user=USER)
    spine.cluster.wait_until(
        lambda: spine.cluster.node_states("node1") == {"IDLE", "DRAIN"}, "the drain"
    )
    spine.cluster.wait_until(lambda: spine.state(job) == "PENDING", "the job to be back")
    left = spine.leftovers()
    spine.resume("node1")
    assert simulation.counts().made == made + 1
    assert left == {}
    assert not spine.cluster.output_file(job).exists()


def test_slurmctld_away_when_a_job_must_go_back(spine: Spine) -> None:
    """A Prolog that finds no room waits for a slurmctld that is down, and then requeues its job."""
    foreign = spine.occupy("node1")
    node = spine.nodes["node1"]
    count = "nvmlDeviceGetCount"
    node.simulation.latency(count, 2.0)
    before = node.simulation.calls().get(count, 0)
    job = spine.cluster.sbatch(str(spine.look), *on("node1"), user=USER)
    # At the driver: the Prolog has asked slurmctld what the job wants, and not yet found no room.
    spine.cluster.wait_until(
        lambda: node.simulation.calls().get(count, 0) > before, "the Prolog to ask the driver"
    )
    spine.cluster.end_daemon("slurmctld")
    refusal = node.run_directory / f"jobs/{job}/refuse"
    spine.cluster.wait_until(refusal.exists, "the Prolog to find no room")
    spine.cluster.start_slurmctld()
    spine.wait_back(job)
    node.simulation.clear_faults()
    ran = spine.cluster.output_file(job).exists()
    for gpu, gi in enumerate(foreign):
        spine.remove_foreign("node1", gpu, gi)
    spine.cluster.wait_job(job)
    assert not ran
    assert [one["profiles"] for one in spine.seen(job)] == ["1g.5gb"]


def test_interrupt_of_srun_while_the_prolog_creates(spine: Spine) -> None:
    """A user who loses patience with srun leaves nothing behind either."""
    simulation = spine.nodes["node1"].simulation
    made = simulation.counts().made
    simulation.latency(CREATE_GI, 2.0)
    process = spine.srun("it", *on("node1"), user=USER)
    spine.cluster.wait_until(
        lambda: simulation.busy(0) or simulation.busy(1), "the driver to be at work"
    )
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    spine.end_of_jobs()
    simulation.clear_faults()
    assert process.returncode != 0
    assert simulation.counts().made == made + 1
    assert spine.leftovers() == {}


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


def test_slurmd_restarted_while_a_job_runs(spine: Spine) -> None:
    """A job outlives the slurmd under it, and so does its instance; it is removed at its end."""
    job = spine.cluster.sbatch(f"{spine.look} it; {spine.look}", *on("node1"), user=USER)
    spine.wait_ready("it")
    before = spine.instances("node1")
    spine.cluster.end_daemon("slurmd-node1")
    spine.cluster.start_slurmd("node1")
    spine.cluster.wait_until(
        lambda: (
            "slurmd started on"
            in spine.cluster.log("slurmd-node1").rpartition("Slurmd shutdown")[2]
        ),
        "slurmd to be back",
    )
    mended = spine.reconcile("node1")
    during = [(entry.job, entry.state) for entry in spine.entries("node1")]
    spine.let_go("it")
    spine.cluster.wait_job(job)
    first, second = spine.seen(job)
    assert (mended.stdout, during) == ("nothing to mend\n", [(job, LIVE)])
    assert first == second
    assert [ci.uuid for gi in before for ci in gi.compute] == [first["visible"]]


def test_reboot_of_a_node(spine: Spine) -> None:
    """After a reboot the ledger's entries are forgotten, and the job starts anew with another.

    Slurm takes the node for down meanwhile, as it does by itself after SlurmdTimeout.
    """
    node = spine.nodes["node1"]
    lost = node.simulation.counts().lost
    script = f"{spine.look} run$SLURM_RESTART_COUNT"
    job = spine.cluster.sbatch(script, *on("node1"), "--open-mode=append", user=USER)
    spine.wait_ready("run")
    spine.cluster.end_daemon("slurmd-node1", signal.SIGKILL)
    for pid in slurmstepds(spine, job):
        os.kill(pid, signal.SIGKILL)
    words = ["scontrol", "update", "NodeName=node1"]
    spine.cluster.run(*words, "State=DOWN", "Reason=reboot")
    node.simulation.reboot()
    shutil.rmtree(node.run_directory)
    booted = spine.reconcile("node1")
    after = spine.leftovers()
    spine.cluster.start_slurmd("node1")
    spine.cluster.run(*words, "State=RESUME")
    spine.wait_ready("run1")
    spine.let_go("run1")
    spine.cluster.wait_job(job)
    assert node.simulation.counts().lost == lost + 1
    assert booted.returncode == 0
    assert "ended by a reboot or a reload of the driver; forgotten" in booted.stdout
    assert after == {}
    assert [one["profiles"] for one in spine.seen(job)] == ["1g.5gb", "1g.5gb"]
