"""The command-line client against a real Slurm (Debian's 22.05, and others where they are)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm_mig.rehearsal.cluster import Cluster, Node, SlurmInstall
from slurm_mig.slurm import (
    JobUnknown,
    ScontrolClient,
    SlurmClient,
    SlurmRefused,
    SlurmUnavailable,
    client,
)

pytestmark = pytest.mark.slurm
HOSTILE = (
    "\"}],\n   UserId=root(0) GroupId=root(0)\n   TRES=x\n\tGRES=mig:7g.40gb:9 $(id)`id`'; é 漢"
)


def client_of(cluster: Cluster, timeout: float = 10) -> SlurmClient:
    """Return the client as a hook on one of the cluster's nodes would have it."""
    path = cluster.install.program("scontrol")
    if cluster.install.inside:
        # Stand-ins that enter the folder: the client starts plain programs.
        folder = cluster.folder / "bin"
        folder.mkdir(exist_ok=True)
        for name in ("scontrol", "squeue", "scancel", "sinfo"):
            words = " ".join(cluster._argv([name], None))
            (folder / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            (folder / name).chmod(0o755)
        path = str(folder / "scontrol")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.conf))
        return client("scontrol", scontrol=path, timeout=timeout, long_lived=False)


@pytest.fixture
def slurm(cluster: Cluster) -> SlurmClient:
    """A client of the shared cluster."""
    return client_of(cluster)


@pytest.fixture
def other_cluster(other_install: SlurmInstall) -> Iterator[Cluster]:
    """A cluster of another release."""
    gres = {"3g.20gb": 2, "2g.10gb": 2, "1g.5gb": 4}
    nodes = [Node("node01", gres), Node("node02", gres)]
    with Cluster.temporary(nodes, install=other_install) as cluster:
        yield cluster


def running(cluster: Cluster, *options: str, user: str | None = None) -> int:
    """Start a batch job and return its id."""
    job = cluster.sbatch("sleep 600", *options, user=user)
    cluster.wait_job(job, "RUNNING")
    return job


def check_everything(cluster: Cluster, slurm: SlurmClient) -> None:
    """Go once through the whole protocol."""
    name = f"--job-name={HOSTILE}", f"--comment={HOSTILE}"
    job = running(cluster, "-N2", "--gres=mig:3g.20gb:1,mig:1g.5gb:2", *name, user="nobody")
    record = slurm.job(job, "node02")
    assert (record.job_id, record.user_id, record.batch, record.requeue) == (job, 65534, True, True)
    assert record.gres == "mig:3g.20gb(CNT:1),mig:1g.5gb(CNT:2)"
    assert record.nodes == ("node01", "node02")
    assert record.comment == HOSTILE
    assert slurm.jobs_on("node02") == {job}
    before = slurm.node("node02")
    assert before.gres == "mig:3g.20gb:2,mig:2g.10gb:2,mig:1g.5gb:4"
    assert before.gres_used == "mig:3g.20gb:1,mig:2g.10gb:0,mig:1g.5gb:2"
    slurm.drain("node02", 'a=b, "c"\n$(id)')
    assert (slurm.node("node02").state, slurm.node("node02").reason) == (
        "MIXED+DRAIN",
        "a=b, 'c'/x0a$(id)",
    )
    slurm.resume("node02")
    slurm.resume("node02")
    assert "DRAIN" not in slurm.node("node02").state
    slurm.hold(job, "first reason")
    slurm.hold(job, 'second reason = "x"')
    cluster.wait_until(lambda: cluster.job_states(job) == {"PENDING"}, "the hold")
    held = slurm.job(job, "node02")
    assert (held.state, held.restarts, held.gres, held.nodes) == ("PENDING", 1, "", ())
    assert held.admin_comment == "second reason = 'x'"
    assert cluster.job(job)["priority"] in (0, {"set": True, "infinite": False, "number": 0})
    slurm.cancel(job, "enough")
    slurm.cancel(job, "again")
    assert slurm.job(job, "node02").over
    assert slurm.jobs_on("node02") == frozenset()
    with pytest.raises(SlurmRefused, match=rf"requeue of job {job}: it is over \(CANCELLED\)"):
        slurm.requeue(job)
    again = running(cluster, "-w", "node01")
    slurm.requeue(again)
    slurm.requeue(again)
    assert slurm.job(again, "node01").restarts == 1
    slurm.cancel(again, "")
    check_the_task_that_has_the_arrays_number(cluster, slurm)


def check_the_task_that_has_the_arrays_number(cluster: Cluster, slurm: SlurmClient) -> None:
    """One task has the array's own number; what is done to it leaves the others alone."""
    for act in (
        slurm.requeue,
        lambda job: slurm.hold(job, "why"),
        lambda job: slurm.cancel(job, "why"),
    ):
        array = cluster.sbatch("sleep 600", "--array=0-1", "-w", "node01")
        # A task has a number of its own only once it is started.
        cluster.wait_until(lambda: len(slurm.jobs_on("node01")) == 2, "both tasks to start")
        tasks = slurm.jobs_on("node01")
        assert array in tasks
        (sibling,) = tasks - {array}
        act(array)
        assert slurm.job(array, "").state != "RUNNING"
        other = slurm.job(sibling, "")
        assert (other.state, other.restarts, other.admin_comment) == ("RUNNING", 0, "")
        cluster.run("scancel", str(array))
        cluster.wait_until(lambda: not slurm.jobs_on("node01"), "both tasks to end")


def test_the_whole_protocol(cluster: Cluster, slurm: SlurmClient) -> None:
    """Job, node, requeue, hold, cancel, drain and resume, with hostile text wherever it may be."""
    check_everything(cluster, slurm)


def test_the_whole_protocol_on_other_releases(other_cluster: Cluster) -> None:
    """The same on newer releases, where their folders exist."""
    check_everything(other_cluster, client_of(other_cluster))


def test_array_tasks_are_told_apart(cluster: Cluster, slurm: SlurmClient) -> None:
    """The array's first id is one task among others; each has its own record."""
    array = cluster.sbatch("sleep 600", "--array=0-2", "--gres=mig:2g.10gb:1", "-w", "node01")
    cluster.wait_until(
        lambda: sum(one["job_state"] == "RUNNING" for one in cluster.jobs(array)) == 2, "two tasks"
    )
    records = {job: slurm.job(job, "node01") for job in range(array, array + 3)}
    assert [record.gres for record in records.values()].count("mig:2g.10gb(CNT:1)") == 2
    assert {record.array_job_id for record in records.values()} == {array}
    assert slurm.jobs_on("node01") == {job for job, one in records.items() if one.gres}


@pytest.mark.parametrize("call", ["job", "requeue", "hold", "notify"])
def test_an_unknown_job(slurm: SlurmClient, call: str) -> None:
    """A job that Slurm has never heard of is JobUnknown for every call but cancel."""
    arguments = {"job": ["node01"], "hold": ["why"], "notify": ["text"]}.get(call, [])
    with pytest.raises(JobUnknown, match="job 99999: Slurm does not know it"):
        getattr(slurm, call)(99999, *arguments)
    slurm.cancel(99999, "why")


def test_an_unknown_node(slurm: SlurmClient) -> None:
    """A node that Slurm does not have is a fault that names it."""
    with pytest.raises(SlurmUnavailable, match="node nix: Slurm does not know it"):
        slurm.node("nix")
    with pytest.raises(SlurmUnavailable, match=r"jobs on node nix: .*Invalid node name nix"):
        slurm.jobs_on("nix")


def test_notify_reaches_a_running_srun(cluster: Cluster, slurm: SlurmClient) -> None:
    """The user of an interactive job reads our line on their terminal."""
    child = cluster.popen("srun", "-w", "node01", "sleep", "600")
    cluster.wait_until(lambda: len(slurm.jobs_on("node01")) == 1, "srun to run")
    [job] = slurm.jobs_on("node01")
    slurm.notify(job, "no room for 3g.20gb\non this node")
    slurm.cancel(job, "no room")
    _, said = child.communicate(timeout=30)
    assert "no room for 3g.20gb/x0aon this node" in said


def test_requeue_of_an_interactive_job_is_refused(cluster: Cluster, slurm: SlurmClient) -> None:
    """The same text in every release, although the exit statuses differ."""
    cluster.popen("srun", "-w", "node01", "sleep", "600")
    cluster.wait_until(lambda: len(slurm.jobs_on("node01")) == 1, "srun to run")
    [job] = slurm.jobs_on("node01")
    assert slurm.job(job, "node01").batch is False
    with pytest.raises(SlurmRefused, match="Only batch jobs are accepted"):
        slurm.requeue(job)


def test_slurmctld_that_is_away(make_cluster: Callable[..., Cluster]) -> None:
    """Without slurmctld a call ends within its timeout; it succeeds if slurmctld comes back."""
    cluster = make_cluster(Node("n1"))
    job = running(cluster)
    impatient, patient = client_of(cluster, timeout=0.5), client_of(cluster, timeout=30)
    cluster.end_daemon("slurmctld")
    with pytest.raises(SlurmUnavailable, match=rf"job {job}: Slurm does not answer within 0.5 s"):
        impatient.job(job, "n1")
    cluster.start_slurmctld()
    assert patient.job(job, "n1").state == "RUNNING"


def test_only_a_named_environment_is_passed_on(cluster: Cluster, tmp_path: Path) -> None:
    """Neither SQUEUE_ nor other variables of a hostile environment change an answer."""
    job = running(cluster, "-w", "node01")
    hostile = {
        "SQUEUE_FORMAT": "%i",
        "SQUEUE_STATES": "PD",
        "SLURM_TIME_FORMAT": "relative",
        "SLURM_CLUSTERS": "nix",
        "LD_PRELOAD": str(tmp_path / "nix.so"),
        "LC_ALL": "xx",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hostile.items():
            patch.setitem(os.environ, name, value)
        slurm = client_of(cluster)
        record = slurm.job(job, "node01")
        jobs = slurm.jobs_on("node01")
    assert (record.state, jobs) == ("RUNNING", {job})
    assert record.start_time > 1_700_000_000


def test_the_client_is_the_documented_one() -> None:
    """`auto` in a hook is the command line."""
    chosen = client("auto", scontrol="/usr/bin/scontrol", timeout=1, long_lived=False)
    assert type(chosen) is ScontrolClient
