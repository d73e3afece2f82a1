"""Whole jobs under the scheduler stand-in: submitted, served, run, cleaned up by the real hooks."""

import json
import sys
from pathlib import Path

import pytest
from hooking import Hooks, can_make_nodes, wait_for

from slurm_mig.rehearsal import look
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.rehearsal.standin import StandinNode

LOOK = [sys.executable, str(Path(look.__file__))]
ENV = {"PATH": "/usr/bin:/bin"}


def runs(job):
    """Whether the job's tasks run: its Prolog is over."""
    return job.state == "RUNNING" and job.reason == "None"


@pytest.fixture
def cluster(tmp_path, slurm_mig_standin):
    """Makes a cluster of nodes with a simulated A100 each: the stand-in, and the nodes by name."""

    def make(*names, release="24.11", **options):
        layout = options.pop("layout", "balanced")
        # The commands lie in the stand-in's folder, which is made below.
        scontrol = tmp_path / "slurm/bin/scontrol"
        devices = "owner" if can_make_nodes(tmp_path) else "none"
        nodes = {
            name: RehearsalNode.create(
                tmp_path / name,
                name,
                ["A100-SXM4-40GB"],
                scontrol=scontrol,
                layout_spec=layout,
                settings={"prolog": {"wait": 0, "misses": 3}, "isolation": {"devices": devices}},
            )
            for name in names or ["n1"]
        }
        gres = options.pop("gres", None)
        slurm = slurm_mig_standin(
            [
                StandinNode(
                    name,
                    gres or node.promises,
                    prolog=node.prolog,
                    epilog=node.epilog,
                    task_prolog=node.task_prolog,
                )
                for name, node in nodes.items()
            ],
            folder=tmp_path / "slurm",
            release=release,
            **options,
        )
        return slurm, {name: Hooks(node, tmp_path) for name, node in nodes.items()}

    return make


@pytest.mark.parametrize("release", ["22.05", "24.11", "25.11", "26.05"])
def test_srun(cluster, release):
    """An interactive job sees the one device that it asked for, and it is gone after."""
    slurm, nodes = cluster(release=release)
    node = nodes["n1"]
    result = slurm.srun([*LOOK, str(node.sim.library)], gres="mig:3g.20gb:1", env=ENV)
    assert result.exit == 0, result.output
    seen = json.loads(result.output)
    (device,) = seen["devices"]
    assert (device["slices"], device["mig"], seen["profiles"]) == (3, True, "3g.20gb")
    assert seen["visible"] == device["uuid"]
    node.nothing_left()
    assert node.sim.counts() == (1, 1, 0, 0)
    assert not slurm.node("n1").drained


@pytest.mark.parametrize("release", ["22.05", "24.11"])
def test_batch_job_with_two_instances(cluster, release):
    """A batch job gets both of its instances, in its script's environment."""
    slurm, nodes = cluster(release=release)
    script = f"exec {LOOK[0]} {LOOK[1]} {nodes['n1'].sim.library}"
    job = slurm.wait(slurm.sbatch(script, gres="mig:2g.10gb:1,mig:1g.5gb:1", env=ENV))
    assert job.exit == 0, job.output
    seen = json.loads(job.output)
    assert seen["profiles"] == "2g.10gb,1g.5gb"
    assert [device["slices"] for device in seen["devices"]] == [2, 1]
    nodes["n1"].nothing_left()


def test_array(cluster):
    """Seven array tasks at once on one GPU have seven different devices."""
    slurm, nodes = cluster(layout="small")
    node = nodes["n1"]
    # Each task waits until all seven have their instance.
    barrier = slurm.folder / "barrier"
    barrier.mkdir()
    script = (
        f"echo $CUDA_VISIBLE_DEVICES >{barrier}/$SLURM_ARRAY_TASK_ID\n"
        f'while [ "$(ls {barrier} | wc -l)" -lt 7 ]; do sleep 0.02; done'
    )
    ids = slurm.sbatch(script, array=7, gres="mig:1g.5gb:1", env=ENV)
    jobs = [slurm.wait(number) for number in ids]
    assert [job.exit for job in jobs] == [0] * 7, [job.output for job in jobs]
    assert len({path.read_text() for path in barrier.iterdir()}) == 7
    node.nothing_left()
    assert node.sim.counts() == (7, 7, 0, 0)


def test_job_on_two_nodes(cluster):
    """Each node of a job serves its own part; each task sees its node's device."""
    slurm, nodes = cluster("n1", "n2")
    result = slurm.srun(["printenv", "CUDA_VISIBLE_DEVICES"], gres="mig:3g.20gb", nodes=2, env=ENV)
    assert result.exit == 0, result.output
    assert len(set(result.output.split())) == 2
    for node in nodes.values():
        node.nothing_left()
        assert node.sim.counts() == (1, 1, 0, 0)


def test_job_that_asks_for_nothing(cluster):
    """A job that asks for nothing runs beside, and knows nothing of it."""
    slurm, nodes = cluster()
    result = slurm.srun(["env"], env=ENV)
    assert result.exit == 0
    assert "MIG" not in result.output
    assert "CUDA_VISIBLE_DEVICES" not in result.output
    assert nodes["n1"].logged() == []


def test_miss_is_requeued_and_served_later(cluster):
    """A batch job that finds no room goes back, and is served when there is some."""
    slurm, nodes = cluster(gres={"4g.20gb": 2}, layout=None)
    node = nodes["n1"]
    go = slurm.folder / "go"
    first = slurm.sbatch(f"until [ -e {go} ]; do sleep 0.02; done", gres="mig:4g.20gb:1", env=ENV)
    slurm.wait_until(lambda: runs(slurm.job(first)))
    second = slurm.sbatch("exit 0", gres="mig:4g.20gb:1", env=ENV)
    slurm.wait_until(lambda: slurm.job(second).restart_count >= 1)
    assert not slurm.node("n1").drained
    go.touch()
    assert slurm.wait(first).exit == 0
    slurm.wait_until(lambda: slurm.job(second).ended or slurm.job(second).held)
    if slurm.job(second).held:  # three misses came before the first job's end
        assert "(3 times in a row)" in slurm.job(second).admin_comment
        slurm.release_job(second)
    assert slurm.wait(second).exit == 0
    node.nothing_left()


def test_interactive_miss(cluster):
    """An interactive job that finds no room is told so, and its command never runs."""
    slurm, nodes = cluster(gres={"7g.40gb": 2}, layout=None)
    go = slurm.folder / "go"
    first = slurm.sbatch(f"until [ -e {go} ]; do sleep 0.02; done", gres="mig:7g.40gb:1", env=ENV)
    slurm.wait_until(lambda: runs(slurm.job(first)))
    result = slurm.srun(["touch", str(slurm.folder / "ran")], gres="mig:7g.40gb:1", env=ENV)
    assert not (slurm.folder / "ran").exists()
    assert result.messages == ("slurm-mig: no room for 7g.40gb; free now: nothing",)
    assert not slurm.node("n1").drained
    go.touch()
    slurm.wait(first)
    nodes["n1"].nothing_left()


@pytest.mark.parametrize("batch", [True, False])
def test_unknown_profile(cluster, batch):
    """A promise that the GPU cannot keep, by mistake in gres.conf: held or cancelled, no drain."""
    slurm, nodes = cluster(gres={"3g.40gb": 1})
    reason = "slurm-mig: no GPU of this node has a profile '3g.40gb'; did you mean "
    if batch:
        number = slurm.sbatch("touch ran", gres="mig:3g.40gb:1", env=ENV)
        slurm.wait_until(lambda: slurm.job(number).held and slurm.job(number).state == "PENDING")
    else:
        number = slurm.submit(["touch", "ran"], gres="mig:3g.40gb:1", env=ENV)
        slurm.wait(number)
        assert slurm.job(number).messages[0].startswith(reason)
    assert slurm.job(number).admin_comment.startswith(reason)
    assert not slurm.node("n1").drained
    assert list((slurm.folder / "work").iterdir()) == []
    nodes["n1"].nothing_left()


def test_requeued_by_its_user(cluster):
    """A running job that is requeued comes back under its id and is served anew."""
    slurm, nodes = cluster()
    go = slurm.folder / "go"
    script = f"echo $CUDA_VISIBLE_DEVICES\nuntil [ -e {go} ]; do sleep 0.02; done"
    number = slurm.sbatch(script, gres="mig:3g.20gb:1", env=ENV)
    slurm.wait_until(lambda: runs(slurm.job(number)))
    slurm.requeue(number)
    slurm.wait_until(lambda: slurm.job(number).restart_count == 1 and runs(slurm.job(number)))
    go.touch()
    job = slurm.wait(number)
    assert (job.exit, job.output.count("MIG-")) == (0, 1)
    nodes["n1"].nothing_left()
    assert nodes["n1"].sim.counts() == (2, 2, 0, 0)


def test_cancelled_during_its_prolog(cluster):
    """A job that is cancelled while its instance is being made leaves nothing."""
    slurm, nodes = cluster()
    node = nodes["n1"]
    node.sim.latency("nvmlDeviceCreateGpuInstanceWithPlacement", 0.3)
    number = slurm.sbatch("touch ran", gres="mig:3g.20gb:1", env=ENV)
    slurm.wait_until(lambda: slurm.job(number).state == "RUNNING")
    wait_for(lambda: node.sim.busy(0))
    slurm.cancel(number)
    job = slurm.wait(number)
    assert job.state == "CANCELLED"
    assert not (slurm.folder / "work/ran").exists()
    node.nothing_left()
    assert not slurm.node("n1").drained


def test_driver_fault_drains(cluster):
    """A driver that fails drains the node, and the job does not run without its instance."""
    slurm, nodes = cluster()
    node = nodes["n1"]
    node.sim.fail("nvmlGpuInstanceCreateComputeInstance", once=False, error="UNKNOWN")
    number = slurm.sbatch("touch ran", gres="mig:3g.20gb:1", env=ENV)
    slurm.wait_until(lambda: slurm.node("n1").drained and slurm.job(number).state == "PENDING")
    assert slurm.job(number).held
    (failed,) = slurm.job(number).hooks("prolog")
    assert failed.last_line.startswith("slurm-mig: GPU-")
    assert "nvmlGpuInstanceCreateComputeInstance failed: Unknown Error" in failed.last_line
    assert not (slurm.folder / "work/ran").exists()
    node.nothing_left()


def test_prolog_that_times_out(cluster):
    """A Prolog over its time limit: killed, the node drained, the Epilog leaves nothing."""
    slurm, nodes = cluster(prolog_timeout=0.8)
    node = nodes["n1"]
    node.sim.latency("nvmlGpuInstanceCreateComputeInstance", 30)
    number = slurm.sbatch("touch ran", gres="mig:3g.20gb:1", env=ENV)
    slurm.wait_until(lambda: slurm.node("n1").drained and slurm.job(number).state == "PENDING")
    assert slurm.job(number).hooks("prolog")[0].timed_out
    node.nothing_left()
    assert not (slurm.folder / "work/ran").exists()
