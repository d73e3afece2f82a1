"""Jobs that cannot be served here: requeued, held or cancelled, with a reason; never a drain."""

import pytest
from spinecluster import IMPOSSIBLE, USER, Spine, gres

from slurm_mig.profiles import Placement

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("spine")]

NO_ROOM = "slurm-mig: no room for 2g.10gb; free now: nothing"
SENSELESS = f"slurm-mig: no GPU of this node has a profile '{IMPOSSIBLE}'; "


def outcomes(spine: Spine, name: str, job: int) -> list[str]:
    """How each Prolog of a job on a node ended, from the log."""
    lines = [line for line in spine.log_lines(name) if f" job={job} " in line]
    return [
        line.partition("outcome=")[2].split(" job=")[0].strip('"')
        for line in lines
        if " prolog: " in line
    ]


def test_senseless_request_of_a_batch_job(spine: Spine) -> None:
    """A profile that gres.conf offers and the GPUs do not have: held at once, with the sentence."""
    job = spine.cluster.sbatch(str(spine.look), "-w", "node1", gres({IMPOSSIBLE: 1}), user=USER)
    spine.wait_held(job)
    assert not spine.cluster.output_file(job).exists()
    assert spine.comment(job).startswith(SENSELESS)
    assert outcomes(spine, "node1", job) == ["held"]


def test_senseless_request_of_an_interactive_job(spine: Spine) -> None:
    """The same from srun: one sentence to the user, the job is cancelled, no drain."""
    words = ["-w", "node1", gres({IMPOSSIBLE: 1}), "echo", "ran"]
    said = spine.cluster.srun(*words, user=USER, check=False)
    spine.cluster.wait_nodes_idle()
    assert said.stdout == ""
    assert said.returncode != 0
    assert said.stderr.count(SENSELESS) == 1


def test_impossible_part_of_a_possible_request(spine: Spine) -> None:
    """A request of which one part makes no sense gets nothing at all, not the other part."""
    made = spine.nodes["node1"].simulation.counts().made
    wanted = gres({"1g.5gb": 1, IMPOSSIBLE: 1})
    job = spine.cluster.sbatch(str(spine.look), "-w", "node1", wanted, user=USER)
    spine.wait_held(job)
    assert spine.nodes["node1"].simulation.counts().made == made


def test_miss_on_one_of_two_nodes(spine: Spine) -> None:
    """A job on two nodes of which one has no room goes back as a whole, unrun, and leaves nothing.

    Also when the Prolog on the script's node was done long before the other turned the job away.
    """
    foreign = spine.occupy("node2")
    slow = spine.nodes["node2"].simulation
    slow.latency("nvmlDeviceGetCount", 1.0)
    job = spine.cluster.sbatch(f"srun {spine.look}", "-N2", gres({"3g.20gb": 1}), user=USER)
    spine.wait_back(job)
    slow.clear_faults()
    left = [entry for name in spine.nodes for entry in spine.entries(name)]
    ran = spine.cluster.output_file(job).exists()
    for gpu, gi in enumerate(foreign):
        spine.remove_foreign("node2", gpu, gi)
    spine.cluster.wait_job(job)
    assert (left, ran) == ([], False)
    assert sorted(seen["node"] for seen in spine.seen(job)) == ["node1", "node2"]


def test_miss_of_a_job_that_must_not_be_requeued(spine: Spine) -> None:
    """With --no-requeue a batch job is cancelled instead, with the reason, and never runs."""
    foreign = spine.occupy("node1")
    words = ("-w", "node1", gres({"2g.10gb": 1}), "--no-requeue")
    job = spine.cluster.sbatch(str(spine.look), *words, user=USER)
    spine.end_of_jobs()
    for gpu, gi in enumerate(foreign):
        spine.remove_foreign("node1", gpu, gi)
    assert (spine.state(job), spine.comment(job)) == ("CANCELLED", NO_ROOM)
    assert not spine.cluster.output_file(job).exists()


@pytest.mark.parametrize("profile", ["3g.20gb", IMPOSSIBLE], ids=["no room", "senseless"])
def test_array_task_that_has_the_number_of_its_array(spine: Spine, profile: str) -> None:
    """A task whose job id is the array's own is turned away alone; the other tasks run on."""
    options = ("-w", "node1", "--array=0-1", "--hold")
    array = spine.cluster.sbatch(f"{spine.look} task", *options, gres({"3g.20gb": 1}), user=USER)
    spine.cluster.run("scontrol", "release", f"{array}_0")
    spine.wait_ready("task")
    [entry] = spine.entries("node1")
    gpu = next(g.gpu for g in spine.nodes["node1"].simulation.gpus() if g.uuid == entry.wish.gpu)
    other = Placement(4 - entry.wish.placement.start, 4)
    foreign = [
        (gpu, spine.foreign("node1", gpu, "3g.20gb", other)),
        (1 - gpu, spine.foreign("node1", 1 - gpu, "7g.40gb", Placement(0, 8))),
    ]
    spine.cluster.run("scontrol", "update", f"JobId={array}_1", f"Gres=mig:{profile}:1")
    spine.cluster.run("scontrol", "release", f"{array}_1")
    spine.cluster.wait_until(lambda: len(outcomes(spine, "node1", array)) == 1, "the miss")
    spine.cluster.wait_until(lambda: spine.state(array) == "PENDING", "the task to be back")
    running = [spine.state(entry.job), spine.cluster.job(entry.job)["restart_cnt"]]
    for index, gi in foreign:
        spine.remove_foreign("node1", index, gi)
    spine.let_go("task")
    spine.cluster.wait_job(entry.job)
    assert entry.job != array
    assert running == ["RUNNING", 0]
