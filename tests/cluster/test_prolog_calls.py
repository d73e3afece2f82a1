"""What Slurm does when a Prolog calls it: the ground on which the exits of our Prolog stand.

Each test gives a node a throwaway Prolog that runs one call of the command-line client and notes
what came of it. Measured on Debian's Slurm 22.05.8.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm_mig.rehearsal.cluster import Cluster, Node

pytestmark = pytest.mark.slurm

HOOK = """#!{python} -I
import dataclasses, json, os, pathlib, time
here = pathlib.Path({here!r})
node, job = os.environ["SLURMD_NODENAME"], int(os.environ["SLURM_JOB_ID"])
restarts = int(os.environ["SLURM_JOB_RESTART_COUNT"])
from slurm_mig.errors import SlurmMigError
from slurm_mig.slurm import ScontrolClient
client = ScontrolClient()
def wait_for(name):
    deadline = time.monotonic() + 30
    while not (here / name).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
result = None
try:
    {body}
except SlurmMigError as error:
    result = f"{{type(error).__name__}}: {{error}}"
if dataclasses.is_dataclass(result):
    result = dataclasses.asdict(result)
with open(here / "notes", "a") as file:
    print(json.dumps([{name!r}, node, job, restarts, result]), file=file)
"""


class Hooks:
    """Writes hooks whose body is Python and reads what they noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, body: str) -> Path:
        """Write the hook `name`; `body` is one statement or several, separated by `; `."""
        path = self.folder / name
        path.write_text(
            HOOK.format(python=sys.executable, here=str(self.folder), body=body, name=name)
        )
        path.chmod(0o755)
        return path

    def notes(self, name: str) -> list[list]:
        """Return [node, job, restarts, result] of each run of a hook, in order."""
        path = self.folder / "notes"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row[1:] for row in rows if row[0] == name]

    def release(self, name: str) -> None:
        """Let a hook that waits for `name` go on."""
        (self.folder / name).touch()


@pytest.fixture
def hooks(tmp_path: Path) -> Hooks:
    """A place for hooks and their notes."""
    return Hooks(tmp_path)


def noted(cluster: Cluster, hooks: Hooks, name: str, count: int = 1) -> list[list]:
    """Wait until a hook has run `count` times; return its notes."""
    cluster.wait_until(lambda: len(hooks.notes(name)) >= count, f"{count} runs of {name}")
    return hooks.notes(name)


def test_the_job_as_seen_in_its_prolog(make_cluster: Callable, hooks: Hooks) -> None:
    """In the Prolog, batch or interactive, the record is whole: user, nodes, this node's GRES."""
    prolog = hooks.write("prolog", "result = client.job(job, node)")
    cluster = make_cluster(
        *(Node(name, {"3g.20gb": 2, "1g.5gb": 4}, prolog=prolog) for name in ("n1", "n2"))
    )
    gres = "--gres=mig:3g.20gb:1,mig:1g.5gb:2"
    batch = cluster.sbatch("true", "-N2", gres, "--comment=a\nb", user="nobody")
    cluster.wait_job(batch)
    cluster.srun("-w", "n1", gres, "true", user="nobody")
    seen = {(node, job): record for node, job, _, record in noted(cluster, hooks, "prolog", 3)}
    assert set(seen) == {("n1", batch), ("n2", batch), ("n1", batch + 1)}
    wanted = {"user_id": 65534, "gres": "mig:3g.20gb(CNT:1),mig:1g.5gb(CNT:2)"}
    for (_, job), record in seen.items():
        assert {key: record[key] for key in wanted} == wanted
        assert record["batch"] == (job == batch)
        assert record["state"] in ("CONFIGURING", "RUNNING")
        assert record["nodes"] == (["n1", "n2"] if job == batch else ["n1"])


def test_requeue_in_the_prolog(make_cluster: Callable, hooks: Hooks) -> None:
    """Requeue and exit 0: the script does not run, the node is not drained, the job comes back.

    The Epilog sees a RESTART_COUNT one higher than the Prolog did, and the second start is a
    whole one.
    """
    prolog = hooks.write("prolog", "result = client.requeue(job) if restarts == 0 else 'served'")
    epilog = hooks.write("epilog", "result = node")
    cluster = make_cluster(Node("n1", prolog=prolog, epilog=epilog), requeue_delay=5)
    job = cluster.sbatch("echo ran as $SLURM_RESTART_COUNT")
    noted(cluster, hooks, "epilog")
    cluster.wait_until(lambda: cluster.job_states(job) == {"PENDING"}, "the job to be back")
    waiting = cluster.job(job)
    cluster.wait_nodes_idle()
    ran_before = cluster.output_file(job).exists()
    cluster.wait_job(job)
    noted(cluster, hooks, "epilog", 2)
    assert (waiting["restart_cnt"], waiting["state_reason"]) == (1, "BeginTime")
    assert not ran_before
    assert cluster.output_file(job).read_text() == "ran as 1\n"
    assert hooks.notes("prolog") == [["n1", job, 0, None], ["n1", job, 1, "served"]]
    assert [note[:3] for note in hooks.notes("epilog")] == [["n1", job, 1], ["n1", job, 1]]


def test_both_nodes_of_a_job_requeue_it(make_cluster: Callable, hooks: Hooks) -> None:
    """When both Prologs of a job requeue it, the second is told it is done, and it is."""
    body = "wait_for('go'); result = client.requeue(job) if restarts == 0 else 'served'"
    prolog = hooks.write("prolog", body)
    cluster = make_cluster(*(Node(name, prolog=prolog) for name in ("n1", "n2")), requeue_delay=5)
    job = cluster.sbatch("echo ran", "-N2")
    hooks.release("go")
    first = sorted(noted(cluster, hooks, "prolog", 2))
    cluster.wait_job(job)
    cluster.wait_nodes_idle()
    assert first == [["n1", job, 0, None], ["n2", job, 0, None]]
    assert cluster.job(job)["restart_cnt"] == 1
    assert cluster.output_file(job).read_text() == "ran\n"


def test_hold_in_the_prolog(make_cluster: Callable, hooks: Hooks) -> None:
    """Hold and exit 0: the job waits in held state with the reason; no drain, no script."""
    prolog = hooks.write("prolog", "result = client.hold(job, 'no 9g.99gb here; ask for 3g.20gb')")
    cluster = make_cluster(Node("n1", prolog=prolog))
    job = cluster.sbatch("echo ran")
    noted(cluster, hooks, "prolog")
    # The reason appears when the Epilog is over, as the user's hold or, later, as an admin's.
    held = ("JobHeldUser", "JobHeldAdmin")
    cluster.wait_until(lambda: cluster.job(job)["state_reason"] in held, "the job to be held")
    # The node is done with it first; only then is the job's state no longer COMPLETING.
    cluster.wait_nodes_idle()
    record = cluster.job(job)
    assert record["job_state"] == "PENDING"
    assert record["admin_comment"] == "no 9g.99gb here; ask for 3g.20gb"
    assert record["priority"] == 0
    assert not cluster.output_file(job).exists()
    assert hooks.notes("prolog") == [["n1", job, 0, None]]


def test_both_nodes_of_a_job_hold_it(make_cluster: Callable, hooks: Hooks) -> None:
    """A job whose second node is told "pending already" is held all the same."""
    prolog = hooks.write("prolog", "wait_for('go'); result = client.hold(job, 'why ' + node)")
    cluster = make_cluster(*(Node(name, prolog=prolog) for name in ("n1", "n2")))
    job = cluster.sbatch("echo ran", "-N2")
    hooks.release("go")
    assert sorted(noted(cluster, hooks, "prolog", 2)) == [
        ["n1", job, 0, None],
        ["n2", job, 0, None],
    ]
    cluster.wait_until(lambda: cluster.job_states(job) == {"PENDING"}, "the job to be held")
    cluster.wait_nodes_idle()
    assert cluster.job(job)["priority"] == 0
    assert cluster.job(job)["admin_comment"] in ("why n1", "why n2")


def test_requeue_of_an_interactive_job_is_refused(make_cluster: Callable, hooks: Hooks) -> None:
    """An srun cannot be requeued: that is SlurmRefused, although scontrol exits with 0."""
    prolog = hooks.write("prolog", "result = client.requeue(job)")
    cluster = make_cluster(Node("n1", prolog=prolog))
    said = cluster.srun("echo", "ran anyway")
    [[_, job, _, result]] = noted(cluster, hooks, "prolog")
    assert said.stdout == "ran anyway\n"
    assert result == (
        f"SlurmRefused: requeue of job {job}: Slurm refuses: Only batch jobs are accepted or"
        f" processed for job {job}"
    )


def test_requeue_of_a_job_that_must_not_be_requeued(make_cluster: Callable, hooks: Hooks) -> None:
    """`sbatch --no-requeue` is SlurmRefused, and the job's record says so before."""
    body = "result = [client.job(job, node).requeue]; client.requeue(job)"
    cluster = make_cluster(Node("n1", prolog=hooks.write("prolog", body)))
    job = cluster.sbatch("true", "--no-requeue")
    cluster.wait_job(job)
    [[*_, result]] = noted(cluster, hooks, "prolog")
    assert cluster.job(job)["requeue"] is False
    assert result.startswith(f"SlurmRefused: requeue of job {job}: Slurm refuses: ")


def test_notify_and_cancel_in_the_prolog(make_cluster: Callable, hooks: Hooks) -> None:
    """An interactive user is told why, and the job ends without its command; no drain."""
    body = "client.notify(job, 'no room for 3g.20gb'); client.cancel(job, 'no room for 3g.20gb')"
    cluster = make_cluster(Node("n1", prolog=hooks.write("prolog", body)))
    said = cluster.srun("echo", "ran", check=False)
    [[_, job, _, result]] = noted(cluster, hooks, "prolog")
    cluster.wait_nodes_idle()
    assert result is None
    assert said.stdout == ""
    assert said.returncode != 0
    assert "no room for 3g.20gb" in said.stderr
    assert "CANCELLED" in cluster.job_states(job)
    assert cluster.job(job)["admin_comment"] == "no room for 3g.20gb"


def test_scancel_during_the_prolog(make_cluster: Callable, hooks: Hooks) -> None:
    """The Prolog is not disturbed; the job counts as living on the node until its Epilog ends."""
    prolog = hooks.write("prolog", "wait_for('go'); result = sorted(client.jobs_on(node))")
    epilog = hooks.write("epilog", "result = sorted(client.jobs_on(node))")
    cluster = make_cluster(Node("n1", {"1g.5gb": 1}, prolog=prolog, epilog=epilog))
    job = cluster.sbatch("echo ran", "--gres=mig:1g.5gb:1")
    cluster.wait_until(lambda: cluster.node_states("n1") != {"IDLE"}, "the job to be on its node")
    cluster.run("scancel", str(job))
    cluster.wait_until(lambda: "RUNNING" not in cluster.job_states(job), "the cancel")
    hooks.release("go")
    noted(cluster, hooks, "epilog")
    cluster.wait_nodes_idle()
    assert [hooks.notes(name)[0][3] for name in ("prolog", "epilog")] == [[job], [job]]
    assert not cluster.output_file(job).exists()


def test_requeue_of_a_job_that_was_cancelled_meanwhile(
    make_cluster: Callable, hooks: Hooks
) -> None:
    """A job that its user cancels while the Prolog runs is not brought back by our requeue."""
    prolog = hooks.write("prolog", "wait_for('go'); result = client.requeue(job)")
    cluster = make_cluster(Node("n1", prolog=prolog), requeue_delay=5)
    job = cluster.sbatch("echo ran")
    cluster.wait_until(lambda: cluster.node_states("n1") != {"IDLE"}, "the job to be on its node")
    cluster.run("scancel", str(job))
    cluster.wait_until(lambda: "RUNNING" not in cluster.job_states(job), "the cancel")
    hooks.release("go")
    [[*_, result]] = noted(cluster, hooks, "prolog")
    cluster.wait_nodes_idle()
    assert result is None
    assert "CANCELLED" in cluster.job_states(job)
    assert cluster.job(job)["restart_cnt"] == 0
