"""Whole jobs on the stand-in: what Slurm does around the hooks."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from rehearsing import HookWriter, wait_for

from slurm_mig.rehearsal.processes import marked
from slurm_mig.rehearsal.pytest_plugin import StandinFactory
from slurm_mig.rehearsal.standin import Job, Standin, StandinError, StandinNode

ENV = {"PATH": "/usr/bin:/bin"}
TWO = [StandinNode("n1", {"3g.20gb": 2}), StandinNode("n2", {"3g.20gb": 2})]

# Waits in a hook or job until the test makes the file; keeps on sleeping rather than end by itself.
GATE = "until [ -e $D/go ]; do sleep 0.01; done"


def counts(job: Job, variable: str = "SLURM_JOB_RESTART_COUNT") -> list[tuple[str, str]]:
    """A variable of each Prolog and Epilog of a job, in the order in which they ended."""
    return [(r.which, r.environment[variable]) for r in job.hook_runs if r.which != "task_prolog"]


def order(job: Job) -> list[str]:
    """The kinds of hooks that a job had, in the order in which they ended."""
    return [run.which for run in job.hook_runs]


def test_a_job_runs_between_its_prolog_and_its_epilog(
    slurm_mig_standin: StandinFactory, hook: HookWriter, tmp_path: Path
) -> None:
    """Prolog, task prolog, command, Epilog: in this order, and srun has the command's status."""
    log = "echo $SLURM_SCRIPT_CONTEXT >> $D/log"
    slurm = slurm_mig_standin(
        prolog=hook("prolog", log), epilog=hook("epilog", log), task_prolog=hook("task", log)
    )
    command = ["sh", "-c", f"echo job >> {tmp_path}/log; echo out; echo err >&2; exit 3"]
    result = slurm.srun(command, env=ENV)
    assert (result.exit, result.output, result.job.state) == (3, "out\nerr\n", "FAILED")
    lines = (tmp_path / "log").read_text().split()
    assert lines == ["prolog_slurmd", "prolog_task", "job", "epilog_slurmd"]
    assert [run.rc for run in result.job.hook_runs] == [0, 0, 0]


def test_hooks_of_a_job_see_what_slurmd_would_tell_them(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """Job id, owner, node, comment and extra reach the hooks; an Epilog learns the exit status."""
    dump = "cat /proc/$$/environ"
    slurm = slurm_mig_standin(prolog=hook("prolog", dump), epilog=hook("epilog", dump))
    job = slurm.srun(["sh", "-c", "exit 3"], env=ENV, comment="a b", extra="mig").job
    prolog, epilog = job.hook_runs
    for run in (prolog, epilog):
        seen = dict(entry.split("=", 1) for entry in run.output.rstrip("\0").split("\0"))
        assert seen == run.environment
        assert seen["SLURM_JOB_ID"] == str(job.id)
        assert (seen["SLURM_JOB_COMMENT"], seen["SLURM_JOB_EXTRA"]) == ("a b", "mig")
        assert seen["SLURM_CONF"] == str(slurm.conf)
    assert set(epilog.environment) - set(prolog.environment) == {
        "SLURM_JOB_EXIT_CODE",
        "SLURM_JOB_EXIT_CODE2",
        "SLURM_JOB_DERIVED_EC",
    }
    assert epilog.environment["SLURM_JOB_EXIT_CODE2"] == "3:0"


def test_a_comment_changed_while_the_job_runs_reaches_the_epilog(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """A job's owner can rewrite its comment at any time; the Prolog saw the old one."""
    nothing = hook("hook", "exit 0")
    slurm = slurm_mig_standin(prolog=nothing, epilog=nothing)
    command = [str(slurm.scontrol), "update", "JobId=1", "Comment=new words"]
    job = slurm.srun(command, env=ENV, comment="old").job
    assert job.exit == 0
    assert counts(job, "SLURM_JOB_COMMENT") == [("prolog", "old"), ("epilog", "new words")]


def test_task_prolog_changes_the_environment_of_srun_tasks_and_batch_scripts(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """What the task prolog exports is in the environment of both kinds of job."""
    slurm = slurm_mig_standin(task_prolog=hook("task", "echo export CUDA_VISIBLE_DEVICES=MIG-1"))
    env = ENV | {"CUDA_VISIBLE_DEVICES": "all"}
    interactive = slurm.srun(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], env=env).job
    batch = slurm.wait(slurm.sbatch("echo $CUDA_VISIBLE_DEVICES", env=env))
    assert [interactive.output, batch.output] == ["MIG-1\n"] * 2
    assert batch.env["CUDA_VISIBLE_DEVICES"] == "MIG-1"


def test_prologs_of_several_jobs_run_at_once_on_a_node(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """Four Prologs on one node wait for one another, and so do the four Epilogs."""
    meet = (
        ": > $D/$SLURM_SCRIPT_CONTEXT.$SLURM_JOB_ID; for i in 1 2 3 4; do "
        "until [ -e $D/$SLURM_SCRIPT_CONTEXT.$i ]; do sleep 0.01; done; done"
    )
    # The Epilogs can only meet if all jobs end together: a first one would close the node.
    slurm = slurm_mig_standin(prolog=hook("prolog", meet), epilog=hook("epilog", meet))
    jobs = [slurm.wait(job) for job in slurm.sbatch("exit 0", array=4, env=ENV)]
    assert [job.state for job in jobs] == ["COMPLETED"] * 4
    assert {run.rc for job in jobs for run in job.hook_runs} == {0}


def test_a_node_takes_no_job_while_one_of_its_jobs_is_completing(
    slurm_mig_standin: StandinFactory, hook: HookWriter, tmp_path: Path
) -> None:
    """The counts are free when the Epilog starts, but the node is closed until it has ended."""
    epilog = hook(
        "epilog", f"[ $SLURM_JOB_ID = 1 ] || exit 0\n: > $D/busy; {GATE}; echo e >> $D/log"
    )
    slurm = slurm_mig_standin(TWO[:1], prolog=hook("prolog", "echo p >> $D/log"), epilog=epilog)
    first = slurm.sbatch("exit 0", gres="mig:3g.20gb", env=ENV)
    wait_for((tmp_path / "busy").exists)
    second = slurm.sbatch("exit 0", gres="mig:3g.20gb", env=ENV)
    slurm.wait_until(lambda: slurm.job(second).reason == "Resources")
    assert slurm.node("n1").completing == {first}
    assert slurm.node("n1").gres_used == {("mig", "3g.20gb"): 0}
    (tmp_path / "go").touch()
    slurm.wait(second)
    assert (tmp_path / "log").read_text().split() == ["p", "e", "p"]


def test_counts_of_typed_gres_are_kept_per_node(
    slurm_mig_standin: StandinFactory, tmp_path: Path
) -> None:
    """Five jobs that want one of four instances: two on each node, and one that waits."""
    slurm = slurm_mig_standin(TWO)
    script = f"D={tmp_path}\n{GATE}"
    ids = slurm.sbatch(script, gres="mig:3g.20gb:1", array=5, env=ENV)
    slurm.wait_until(lambda: [slurm.job(i).state for i in ids].count("RUNNING") == 4)
    slurm.wait_until(lambda: slurm.job(ids[4]).reason == "Resources")
    assert [slurm.job(i).nodes for i in ids] == [("n1",), ("n1",), ("n2",), ("n2",), ()]
    assert [node.gres_used for node in slurm.nodes.values()] == [{("mig", "3g.20gb"): 2}] * 2
    (tmp_path / "go").touch()
    assert {slurm.wait(i).state for i in ids} == {"COMPLETED"}
    assert [node.gres_used for node in slurm.nodes.values()] == [{("mig", "3g.20gb"): 0}] * 2


@pytest.mark.parametrize(
    ("gres", "nodes", "words"),
    [
        ("mig:3g.20gb:3", 1, "Requested node configuration is not available"),
        ("mig:3g.20gb", 3, "Requested node configuration is not available"),
        ("mig:7g.40gb", 1, "Requested node configuration is not available"),
        ("mig:3g.20gb:two", 1, r"Invalid generic resource \(gres\) specification"),
        ("mig::2", 1, r"Invalid generic resource \(gres\) specification"),
        ("mig:a:1:1", 1, r"Invalid generic resource \(gres\) specification"),
    ],
)
def test_requests_that_no_node_can_serve_are_refused(
    slurm_mig_standin: StandinFactory, gres: str, nodes: int, words: str
) -> None:
    """What can never run is refused at submission, in Slurm's words, and leaves no job."""
    slurm = slurm_mig_standin(TWO)
    with pytest.raises(StandinError, match=words):
        slurm.sbatch("exit 0", gres=gres, nodes=nodes)
    assert slurm.jobs == {}


def test_multi_node_job_has_a_prolog_and_an_epilog_on_each_node(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """Each node runs its own hooks with its own name; the tasks know their node and number."""
    slurm = slurm_mig_standin(TWO, prolog=hook("p", "exit 0"), epilog=hook("e", "exit 0"))
    command = ["sh", "-c", "echo $SLURMD_NODENAME $SLURM_NODEID $SLURM_PROCID $SLURM_LOCALID"]
    job = slurm.srun(command, gres="mig:3g.20gb:2", nodes=2, ntasks=3, env=ENV).job
    assert sorted(job.output.splitlines()) == ["n1 0 0 0", "n1 0 1 1", "n2 1 2 0"]
    names = {(run.which, run.environment["SLURMD_NODENAME"]) for run in job.hook_runs}
    assert names == {(which, node) for which in ("prolog", "epilog") for node in ("n1", "n2")}
    assert {run.environment["SLURM_NODELIST"] for run in job.hook_runs} == {"n[1-2]"}


def test_nodes_may_have_hooks_of_their_own(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """A node's own hook goes before the stand-in's: two nodes can be two machines."""
    nodes = [StandinNode("n1", prolog=hook("own", "echo own")), StandinNode("n2")]
    slurm = slurm_mig_standin(nodes, prolog=hook("common", "echo common"))
    job = slurm.srun(["true"], nodes=2, env=ENV).job
    assert {run.node: run.output for run in job.hook_runs} == {"n1": "own\n", "n2": "common\n"}


def test_array_tasks_have_job_ids_of_their_own(slurm_mig_standin: StandinFactory) -> None:
    """Each array task is a job with its own number; the last one has the array's."""
    slurm = slurm_mig_standin()
    words = "echo $SLURM_JOB_ID $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_COUNT"
    ids = slurm.sbatch(words, array="1,4-8:2", env=ENV)
    assert ids == [2, 3, 4, 1]
    outputs = [slurm.wait(number).output.split() for number in ids]
    assert outputs == [[str(i), "1", a, "4"] for i, a in zip(ids, "1468", strict=True)]
    assert slurm.sbatch("exit 0", env=ENV) == 5


@pytest.mark.parametrize("body", ["echo broken; exit 3", "kill -9 $$"])
def test_failed_prolog_drains_the_node_and_holds_a_batch_job(
    slurm_mig_standin: StandinFactory, hook: HookWriter, body: str
) -> None:
    """Any exit but 0, or a signal: node drained, job requeued and held, Epilog run."""
    slurm = slurm_mig_standin(prolog=hook("prolog", body), epilog=hook("epilog", "exit 0"))
    job = slurm.job(slurm.sbatch("echo ran", env=ENV))
    slurm.wait_until(lambda: job.restart_count == 1 and job.state == "PENDING")
    assert (job.held, job.reason, job.output) == (True, "launch_failed_requeued_held", "")
    assert (slurm.node("n1").drained, slurm.node("n1").reason) == (True, "Prolog error")
    assert counts(job) == [("prolog", "0"), ("epilog", "1")]


def test_failed_prolog_kills_an_interactive_job(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """An srun whose Prolog fails ends without its command, told which node it was."""
    slurm = slurm_mig_standin(prolog=hook("prolog", "exit 1"), epilog=hook("epilog", "exit 0"))
    result = slurm.srun(["echo", "ran"], env=ENV)
    assert (result.exit != 0, result.output, result.job.state) == (True, "", "CANCELLED")
    assert result.messages == ("Prolog failure on node n1",)
    assert order(result.job) == ["prolog", "epilog"]
    assert slurm.node("n1").drained


def test_failed_prolog_of_one_node_requeues_the_job_from_all(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """Only the node at fault is drained; both nodes run their Epilog."""
    slurm = slurm_mig_standin(
        TWO, prolog=hook("p", "[ $SLURMD_NODENAME = n1 ]"), epilog=hook("e", "exit 0")
    )
    job = slurm.job(slurm.sbatch("sleep 600", nodes=2, env=ENV))
    slurm.wait_until(lambda: job.restart_count == 1 and job.state == "PENDING")
    assert [node.drained for node in slurm.nodes.values()] == [False, True]
    assert sorted(run.node for run in job.hooks("epilog")) == ["n1", "n2"]


def test_no_hold_on_prolog_failure_is_bounded(
    slurm_mig_standin: StandinFactory, hook: HookWriter, tmp_path: Path
) -> None:
    """With nohold_on_prolog_fail a job tries again, and is held after max_batch_requeue times."""
    # Each failure drains its node, so each try needs another one.
    slurm = slurm_mig_standin(
        ["n1", "n2", "n3", "n4"],
        prolog=hook("prolog", "exit 1"),
        nohold_on_prolog_fail=True,
        max_batch_requeue=2,
    )
    job = slurm.job(slurm.sbatch("echo ran", env=ENV))
    slurm.wait_until(lambda: job.held and job.state == "PENDING")
    assert (job.restart_count, job.reason, job.output) == (3, "JobHoldMaxRequeue", "")
    assert [node.drained for node in slurm.nodes.values()] == [True, True, True, False]


def test_a_batch_job_that_may_not_be_requeued_fails(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """Under --no-requeue a failed Prolog ends a batch job."""
    slurm = slurm_mig_standin(prolog=hook("prolog", "exit 1"))
    job = slurm.wait(slurm.sbatch("echo ran", requeue=False, env=ENV))
    assert (job.state, job.output, job.restart_count) == ("FAILED", "", 0)


def test_failed_epilog_drains_the_node_and_the_job_completes(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """The job is done and stays so; the node is drained with the reason "Epilog error"."""
    slurm = slurm_mig_standin(epilog=hook("epilog", "exit 1"))
    job = slurm.wait(slurm.sbatch("exit 0", env=ENV))
    assert job.state == "COMPLETED"
    assert (slurm.node("n1").drained, slurm.node("n1").reason) == (True, "Epilog error")


def test_a_drained_node_takes_no_job_until_it_is_resumed(slurm_mig_standin: StandinFactory) -> None:
    """Pending jobs wait for `scontrol update State=RESUME`."""
    slurm = slurm_mig_standin()
    slurm.update_node("n1", {"state": "drain", "reason": "by hand"})
    number = slurm.sbatch("exit 0", env=ENV)
    slurm.wait_until(lambda: slurm.job(number).reason == "Resources")
    slurm.update_node("n1", {"state": "resume"})
    assert slurm.wait(number).state == "COMPLETED"
    assert slurm.node("n1").reason == ""


def test_prolog_timeout_is_a_failed_prolog(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """A Prolog that outlives prolog_timeout is killed, and its node drained."""
    slurm = slurm_mig_standin(prolog=hook("prolog", "sleep 600"), prolog_timeout=0.05)
    result = slurm.srun(["true"], env=ENV)
    assert [run.timed_out for run in result.job.hook_runs] == [True]
    assert slurm.node("n1").reason == "Prolog error"


def test_requeue_from_the_prolog_keeps_the_node_and_the_script_from_running(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """The Prolog requeues its own job and exits 0: Epilog with a count one higher, then again."""
    slurm = slurm_mig_standin(epilog=hook("epilog", "exit 0"))
    requeue = f"[ $SLURM_JOB_RESTART_COUNT = 2 ] || {slurm.scontrol} requeue $SLURM_JOB_ID"
    slurm.node("n1").prolog = hook("prolog", requeue)
    job = slurm.wait(slurm.sbatch("echo $SLURM_RESTART_COUNT", env=ENV))
    assert (job.state, job.output) == ("COMPLETED", "2\n")
    hooks = ["prolog", "epilog"] * 3
    assert counts(job) == list(zip(hooks, ["0", "1", "1", "2", "2", "2"], strict=True))
    assert not slurm.node("n1").drained


def test_requeue_waits_for_the_requeue_delay(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """With a delay the job is pending for BeginTime, not held, and starts nothing."""
    slurm = slurm_mig_standin(requeue_delay=3600)
    slurm.node("n1").prolog = hook("prolog", f"{slurm.scontrol} requeue $SLURM_JOB_ID")
    job = slurm.job(slurm.sbatch("echo ran", env=ENV))
    slurm.wait_until(lambda: job.restart_count == 1 and job.state == "PENDING")
    assert (job.reason, job.held, job.output) == ("BeginTime", False, "")


def test_requeuehold_from_the_prolog_holds_the_job(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """After `scontrol requeuehold` the job waits until it is released."""
    slurm = slurm_mig_standin()
    hold = f"[ $SLURM_JOB_RESTART_COUNT = 1 ] || {slurm.scontrol} requeuehold $SLURM_JOB_ID"
    slurm.node("n1").prolog = hook("prolog", hold)
    job = slurm.job(slurm.sbatch("echo ran", env=ENV))
    slurm.wait_until(lambda: job.held and job.state == "PENDING")
    assert job.reason == "JobHeldUser"
    slurm.release_job(job.id)
    assert slurm.wait(job.id).output == "ran\n"


def test_requeue_of_a_running_batch_job(
    slurm_mig_standin: StandinFactory, hook: HookWriter, tmp_path: Path
) -> None:
    """The script is ended, the Epilog runs, and the next run starts its output anew."""
    slurm = slurm_mig_standin(epilog=hook("epilog", "exit 0"))
    script = 'echo run $SLURM_RESTART_COUNT\n[ -n "$SLURM_RESTART_COUNT" ] || exec sleep 600'
    job = slurm.job(slurm.sbatch(script, env=ENV))
    slurm.wait_running(job.id)
    slurm.requeue(job.id)
    slurm.wait(job.id)
    assert (job.state, job.output, len(job.hooks("epilog"))) == ("COMPLETED", "run 1\n", 2)


def test_cancel_during_the_prolog_lets_it_end_and_runs_the_epilog(
    slurm_mig_standin: StandinFactory, hook: HookWriter, tmp_path: Path
) -> None:
    """Nothing signals a Prolog; the job is COMPLETING until it ends, then the Epilog follows."""
    prolog = hook("prolog", f"trap 'echo signalled' TERM INT HUP; : > $D/in; {GATE}; echo whole")
    slurm = slurm_mig_standin(prolog=prolog, epilog=hook("epilog", "exit 0"))
    number = slurm.submit(["echo", "ran"], env=ENV)
    wait_for((tmp_path / "in").exists)
    slurm.cancel(number)
    job = slurm.job(number)
    assert (job.state, job.hook_runs) == ("COMPLETING", [])
    (tmp_path / "go").touch()
    slurm.wait(number)
    assert (job.state, job.output) == ("CANCELLED", "")
    assert [(run.which, run.rc) for run in job.hook_runs] == [("prolog", 0), ("epilog", 0)]
    assert job.hook_runs[0].output == "whole\n"
    assert job.hook_runs[1].started >= job.hook_runs[0].ended


def test_cancel_of_a_running_job_ends_it_before_the_epilog(
    slurm_mig_standin: StandinFactory, hook: HookWriter, tmp_path: Path
) -> None:
    """The Epilog starts when every process of the job is gone, also one in a session of its own."""
    # The task ignores SIGTERM for its child but not for itself; the child is setsid'ed away.
    script = f"setsid sleep 600 & : > {tmp_path}/in; wait"
    slurm = slurm_mig_standin(epilog=hook("epilog", "exit 0"))
    number = slurm.submit(["sh", "-c", script], env=ENV)
    wait_for((tmp_path / "in").exists)
    slurm.cancel(number)
    job = slurm.wait(number)
    assert job.state == "CANCELLED"
    assert marked({"SLURM_CONF": str(slurm.conf)}) == []
    assert order(job) == ["epilog"]


def test_cancel_kills_what_ignores_sigterm(
    slurm_mig_standin: StandinFactory, tmp_path: Path
) -> None:
    """After kill_wait seconds SIGKILL follows SIGTERM."""
    slurm = slurm_mig_standin(kill_wait=0.05)
    script = f"trap '' TERM; : > {tmp_path}/in; while :; do sleep 0.01; done"
    number = slurm.submit(["sh", "-c", script], env=ENV)
    wait_for((tmp_path / "in").exists)
    slurm.cancel(number)
    assert slurm.wait(number).state == "CANCELLED"


def test_cancel_during_the_task_prolog_starts_no_task(
    slurm_mig_standin: StandinFactory, hook: HookWriter, tmp_path: Path
) -> None:
    """A task prolog belongs to the job: it is ended with it, and the command never starts."""
    slurm = slurm_mig_standin(task_prolog=hook("task", ": > $D/in; sleep 600"))
    number = slurm.submit(["touch", str(tmp_path / "ran")], env=ENV)
    wait_for((tmp_path / "in").exists)
    slurm.cancel(number)
    assert slurm.wait(number).state == "CANCELLED"
    assert not (tmp_path / "ran").exists()


def test_cancel_of_a_pending_job_runs_no_hook(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """A job that never had a node has neither Prolog nor Epilog."""
    slurm = slurm_mig_standin(prolog=hook("prolog", "exit 0"), epilog=hook("epilog", "exit 0"))
    number = slurm.sbatch("exit 0", hold=True, env=ENV)
    slurm.cancel(number)
    job = slurm.wait(number)
    assert (job.state, job.hook_runs) == ("CANCELLED", [])


def test_cancel_after_requeue_in_the_prolog_ends_the_job_for_good(
    slurm_mig_standin: StandinFactory, hook: HookWriter, tmp_path: Path
) -> None:
    """A job cancelled while it is being requeued does not come back."""
    slurm = slurm_mig_standin(epilog=hook("epilog", "exit 0"))
    body = f"{slurm.scontrol} requeue $SLURM_JOB_ID; : > $D/in; {GATE}"
    slurm.node("n1").prolog = hook("prolog", body)
    number = slurm.sbatch("echo ran", env=ENV)
    wait_for((tmp_path / "in").exists)
    slurm.cancel(number)
    (tmp_path / "go").touch()
    job = slurm.wait(number)
    assert (job.state, order(job)) == ("CANCELLED", ["prolog", "epilog"])


def test_srun_that_is_given_up_leaves_no_job(slurm_mig_standin: StandinFactory) -> None:
    """When srun's own patience ends, its job is cancelled."""
    slurm = slurm_mig_standin()
    with pytest.raises(TimeoutError, match=r"waited 0\.05 s for job 1 to end"):
        slurm.srun(["sleep", "600"], timeout=0.05, env=ENV)
    assert slurm.wait(1).state == "CANCELLED"


def test_waiting_for_a_job_to_run_ends_with_the_job(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """A job that ends in its Prolog is not waited for any longer."""
    slurm = slurm_mig_standin(prolog=hook("prolog", "exit 1"))
    with pytest.raises(StandinError, match="job 1: ended as CANCELLED before it was seen to run"):
        slurm.wait_running(slurm.submit(["true"], env=ENV))


def test_an_instance_of_environment_is_the_submitters(
    slurm_mig_standin: StandinFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `env` a job gets the caller's environment, as with srun; no hook ever does."""
    monkeypatch.setenv("FROM_SUBMITTER", "yes")
    slurm = slurm_mig_standin()
    assert slurm.srun(["sh", "-c", "echo $FROM_SUBMITTER"]).output == "yes\n"
    assert slurm.srun(["sh", "-c", "echo $FROM_SUBMITTER"], env=ENV).output == "\n"


def test_batch_scripts_come_as_text_file_or_command(
    slurm_mig_standin: StandinFactory, tmp_path: Path
) -> None:
    """A script may be a text, a text with its own interpreter, a file, or a list of words."""
    file = tmp_path / "script"
    file.write_text("#!/bin/sh\necho from a file\n")
    slurm = slurm_mig_standin()
    scripts = ["echo text", "#!/bin/cat\nwhole", file, ["echo", "it's", "two  blanks"]]
    outputs = [slurm.wait(slurm.sbatch(script, env=ENV)).output for script in scripts]
    assert outputs == ["text\n", "#!/bin/cat\nwhole", "from a file\n", "it's two  blanks\n"]


def test_close_ends_everything_at_every_stage(
    hook: HookWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing ends jobs in their Prolog, in their task and pending, and daemons of hooks."""
    daemon = "setsid sleep 600 </dev/null >/dev/null 2>&1 &"
    prolog = hook(
        "prolog", f"{daemon}\n: > $D/in.$SLURM_JOB_ID; [ $SLURM_JOB_ID = 1 ] || sleep 600"
    )
    slurm = Standin(tmp_path / "s", [StandinNode("n1", {"3g.20gb": 2})], prolog=prolog)
    slurm.submit(["sh", "-c", f": > {tmp_path}/task; sleep 600"], gres="mig:3g.20gb", env=ENV)
    slurm.sbatch("exit 0", gres="mig:3g.20gb", env=ENV)
    slurm.sbatch("exit 0", gres="mig:3g.20gb", env=ENV)
    for name in ("in.1", "in.2", "task"):
        wait_for((tmp_path / name).exists)
    slurm.close()
    slurm.close()
    assert marked({"SLURM_CONF": str(slurm.conf)}) == []
    assert not (tmp_path / "s" / "standin.sock").exists()
    with pytest.raises(StandinError, match="Unable to contact slurm controller"):
        slurm.sbatch("exit 0", env=ENV)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run jobs as another user")
def test_root_runs_jobs_as_their_user_and_hooks_as_itself(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """Hooks run as root and are told the owner's id; the job runs as its owner."""
    slurm = slurm_mig_standin(prolog=hook("prolog", "id -u"))
    job = slurm.srun(["id", "-u"], user=65534, env=ENV).job
    assert (job.output, job.hook_runs[0].output) == ("65534\n", "0\n")
    assert job.hook_runs[0].environment["SLURM_JOB_UID"] == "65534"


def test_a_folder_name_longer_than_a_socket_address(
    tmp_path: Path, slurm_mig_standin: StandinFactory
) -> None:
    """The stand-in works in a folder whose path does not fit the address of a Unix socket."""
    slurm = slurm_mig_standin(folder=tmp_path / ("x" * 120))
    command = [str(slurm.scontrol), "show", "node", "--json"]
    answer = subprocess.run(command, capture_output=True, check=True)
    assert [node["name"] for node in json.loads(answer.stdout)["nodes"]] == ["n1"]
