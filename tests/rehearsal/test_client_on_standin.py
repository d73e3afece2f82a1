"""The product's own Slurm client, unchanged, on the stand-in."""

from collections.abc import Callable

import pytest
from rehearsing import HookWriter

from slurm_mig.rehearsal.pytest_plugin import StandinFactory
from slurm_mig.rehearsal.standin import Standin, StandinNode
from slurm_mig.slurm import JobUnknown, ScontrolClient, SlurmRefused, SlurmUnavailable

ENV = {"PATH": "/usr/bin:/bin"}
NODES = [StandinNode(name, {"3g.20gb": 2, "1g.5gb": 7}) for name in ("n1", "n2")]

Pair = tuple[Standin, ScontrolClient]


@pytest.fixture(params=["22.05", "24.11", "25.11", "26.05"])
def pair(request: pytest.FixtureRequest, slurm_mig_standin: StandinFactory) -> Pair:
    """A stand-in of each release and a client that talks to it."""
    slurm = slurm_mig_standin(NODES, release=request.param)
    return slurm, ScontrolClient(str(slurm.scontrol), timeout=10)


def running(slurm: Standin, submit: Callable[..., int], what: object, **options: object) -> int:
    """A job that is on its nodes and stays there."""
    number = submit(what, env=ENV, **options)
    slurm.wait_running(number)
    return number


def test_job_on_each_of_its_nodes(pair: Pair) -> None:
    """The client reads of a running job what it holds on a node, and whose it is."""
    slurm, client = pair
    number = running(slurm, slurm.submit, ["sleep", "600"], gres="mig:3g.20gb:2", nodes=2)
    for node in ("n1", "n2"):
        job = client.job(number, node)
        assert (job.job_id, job.gres, job.state) == (number, "mig:3g.20gb(CNT:2)", "RUNNING")
        assert (job.batch, job.nodes, job.restarts) == (False, ("n1", "n2"), 0)
        assert (job.array_job_id, job.array_task_id) == (0, None)
    assert client.job(number, "elsewhere").gres == ""


def test_job_of_an_array(pair: Pair) -> None:
    """The client finds the last task of an array among all its tasks."""
    slurm, client = pair
    ids = slurm.sbatch("exec sleep 600", array=3, gres="mig:1g.5gb:1", env=ENV)
    for number in ids:
        slurm.wait_running(number)
    found = [client.job(number, "n1") for number in ids]
    assert [(job.array_job_id, job.array_task_id) for job in found] == [(1, 0), (1, 1), (1, 2)]
    assert {job.gres for job in found} == {"mig:1g.5gb(CNT:1)"}


def test_job_that_asked_for_nothing(pair: Pair) -> None:
    """A job without GRES holds nothing, and that is no error."""
    slurm, client = pair
    number = running(slurm, slurm.sbatch, "exec sleep 600")
    job = client.job(number, "n1")
    assert (job.gres, job.batch, job.requeue) == ("", True, True)


def test_job_that_is_being_requeued(pair: Pair, hook: HookWriter) -> None:
    """After its requeue in the Prolog a job is on its node, and holds nothing."""
    slurm, client = pair
    seen: list[object] = []

    def look() -> bool:
        if not seen and (slurm.folder / "work" / "requeued").exists():
            job = client.job(1, "n1")
            seen.append((job.state.split("+")[-1], job.restarts, job.gres))
            seen.append(client.jobs_on("n1"))
            (slurm.folder / "work" / "go").touch()
        return bool(seen)

    gate = "until [ -e go ]; do sleep 0.01; done"
    here = f"cd {slurm.folder}/work"
    slurm.node("n1").prolog = hook(
        "prolog",
        f"[ $SLURM_JOB_RESTART_COUNT = 0 ] || exit 0\n{here}; "
        f"{slurm.scontrol} requeue $SLURM_JOB_ID; : > requeued; {gate}",
    )
    slurm.sbatch("exit 0", gres="mig:3g.20gb:1", env=ENV)
    while not look():
        pass
    assert seen == [("COMPLETING", 1, ""), frozenset({1})]
    assert slurm.wait(1).state == "COMPLETED"


def test_jobs_on_a_node(pair: Pair) -> None:
    """Jobs that are on the node, and neither those that wait nor those that are over."""
    slurm, client = pair
    first = running(slurm, slurm.submit, ["sleep", "600"], nodelist=["n1"])
    running(slurm, slurm.submit, ["sleep", "600"], nodelist=["n2"])
    slurm.sbatch("exit 0", hold=True, env=ENV)
    slurm.srun(["true"], nodelist=["n1"], env=ENV)
    assert client.jobs_on("n1") == {first}


def test_requeue_hold_cancel(pair: Pair) -> None:
    """The client's changes arrive; the reason is the job's AdminComment."""
    slurm, client = pair
    number = running(slurm, slurm.sbatch, "exec sleep 600")
    client.hold(number, "no room on n1")
    job = slurm.job(number)
    slurm.wait_until(lambda: job.state == "PENDING")
    assert (job.held, job.restart_count, job.admin_comment) == (True, 1, "no room on n1")
    client.requeue(number)
    client.cancel(number, "given up")
    assert slurm.wait(number).state == "CANCELLED"
    client.cancel(number, "again")


def test_interactive_jobs_cannot_be_requeued(pair: Pair) -> None:
    """The client tells a refusal, and its notice reaches the user."""
    slurm, client = pair
    number = running(slurm, slurm.submit, ["sleep", "600"])
    with pytest.raises(SlurmRefused, match="Only batch jobs"):
        client.requeue(number)
    client.notify(number, "slurm-mig: no room")
    assert slurm.job(number).messages == ["slurm-mig: no room"]


def test_node_record_drain_and_resume(pair: Pair) -> None:
    """The client reads a node's counts and takes it out of service and back."""
    slurm, client = pair
    running(slurm, slurm.submit, ["sleep", "600"], gres="mig:1g.5gb:3")
    client.drain("n1", "Ledger unusable")
    node = client.node("n1")
    assert (node.state, node.reason) == ("MIXED+DRAIN", "Ledger unusable")
    assert (node.gres, node.gres_used) == (
        "mig:3g.20gb:2,mig:1g.5gb:7",
        "mig:3g.20gb:0,mig:1g.5gb:3",
    )
    client.resume("n1")
    client.resume("n1")
    assert client.node("n1").state == "MIXED"


def test_unknown_job_and_silent_controller(slurm_mig_standin: StandinFactory) -> None:
    """An unknown job and a controller that does not answer are told apart."""
    for release in ("22.05", "24.11"):
        slurm = slurm_mig_standin(NODES, release=release)
        client = ScontrolClient(str(slurm.scontrol), timeout=0.2)
        with pytest.raises(JobUnknown):
            client.job(777, "n1")
        with pytest.raises(JobUnknown):
            client.requeue(777)
        slurm.reachable = False
        with pytest.raises(SlurmUnavailable, match="does not answer"):
            client.job(1, "n1")
