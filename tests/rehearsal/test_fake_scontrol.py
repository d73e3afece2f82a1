"""The commands of the stand-in: what a hook gets when it asks Slurm."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rehearsing import HookWriter

from slurm_mig.rehearsal import fake_scontrol
from slurm_mig.rehearsal.pytest_plugin import StandinFactory
from slurm_mig.rehearsal.standin import Standin, StandinError, StandinNode

ENV = {"PATH": "/usr/bin:/bin"}
NODES = [StandinNode(name, {"3g.20gb": 2, "1g.5gb": 7}) for name in ("n1", "n2")]
RELEASES = ["22.05", "24.11", "25.11", "26.05"]


def call(program: Path, *words: str) -> tuple[int, str, str]:
    """Run one of the commands without any environment; status, stdout, stderr."""
    done = subprocess.run([str(program), *words], capture_output=True, text=True, env={})
    return done.returncode, done.stdout, done.stderr


def show(slurm: Standin, what: str, *words: str) -> list[dict[str, Any]]:
    """What `scontrol show … --json` lists; in 22.05 squeue and sinfo do it."""
    status, out, err = call(slurm.scontrol, "show", what, *words, "--json")
    if slurm.version < (23, 2):
        assert (status, "unrecognized option '--json'" in err) == (1, True)
        numbers = ("-j", words[-1]) if what == "job" else ()
        status, out, err = call(
            slurm.bin / {"job": "squeue"}.get(what, "sinfo"), "--json", *numbers
        )
    assert (status, err) == (0, "")
    document = json.loads(out)
    return document.get("jobs", document.get("nodes"))


def running(slurm: Standin, **options: Any) -> int:
    """A job that is on its nodes and stays there."""
    number = slurm.submit(["sleep", "600"], env=ENV, **options)
    slurm.wait_running(number)
    return number


def plain(value: Any) -> Any:
    """The number in 22.05's form or in the object that replaced it."""
    return value["number"] if isinstance(value, dict) else value


@pytest.mark.parametrize("release", RELEASES)
def test_show_job_says_what_the_job_holds_on_each_node(
    slurm_mig_standin: StandinFactory, release: str
) -> None:
    """One text per node in gres_detail, in the nodes' order; with scontrol only if -d asks."""
    slurm = slurm_mig_standin(NODES, release=release)
    gres = "mig:3g.20gb:2,mig:1g.5gb:1"
    number = running(slurm, gres=gres, nodes=2, comment="c", extra="e")
    (record,) = show(slurm, "job", "-d", str(number))
    assert record["gres_detail"] == ["mig:3g.20gb(CNT:2),mig:1g.5gb(CNT:1)"] * 2
    assert (record["job_id"], record["nodes"], record["comment"]) == (number, "n[1-2]", "c")
    prefix = "gres:" if release == "22.05" else "gres/"
    assert record["tres_per_node"] == f"{prefix}mig:3g.20gb:2,{prefix}mig:1g.5gb:1"
    without = [] if release != "22.05" else record["gres_detail"]
    assert show(slurm, "job", str(number))[0]["gres_detail"] == without


@pytest.mark.parametrize("release", RELEASES)
def test_releases_differ_in_how_they_write_states_and_numbers(
    slurm_mig_standin: StandinFactory, release: str
) -> None:
    """22.05 writes words and bare numbers, later releases lists and objects."""
    slurm = slurm_mig_standin(NODES, release=release)
    (record,) = show(slurm, "job", str(running(slurm)))
    node = show(slurm, "node", "n1")[0]
    if release == "22.05":
        assert (record["job_state"], record["array_task_id"]) == ("RUNNING", None)
        assert (node["state"], node["state_flags"]) == ("mixed", [])
        assert "extra" not in record
    else:
        unset = {"set": False, "infinite": False, "number": 0}
        assert (record["job_state"], record["array_task_id"]) == (["RUNNING"], unset)
        assert node["state"] == ["MIXED"]
        assert record["extra"] == ""


def test_a_requeued_job_holds_nothing_while_it_is_completing(
    slurm_mig_standin: StandinFactory, hook: HookWriter
) -> None:
    """Requeued in its Prolog, a job is COMPLETING, counted one up, and its GRES are given up."""
    slurm = slurm_mig_standin(NODES)
    ask = f"{slurm.scontrol} show job -d --json $SLURM_JOB_ID"
    body = f"{slurm.scontrol} requeue $SLURM_JOB_ID && {ask}"
    prolog = hook("prolog", f"[ $SLURM_JOB_RESTART_COUNT = 0 ] || exit 0\n{body}")
    slurm.node("n1").prolog = prolog
    job = slurm.wait(slurm.sbatch("exit 0", gres="mig:3g.20gb", env=ENV))
    (record,) = json.loads(job.hook_runs[0].output)["jobs"]
    assert record["job_state"] == ["PENDING", "COMPLETING"]
    assert (record["restart_cnt"], record["gres_detail"]) == (1, [])


def test_show_node_counts_what_is_used(slurm_mig_standin: StandinFactory) -> None:
    """Both gres and gres_used list the same types, in the node's order."""
    slurm = slurm_mig_standin(NODES)
    running(slurm, gres="mig:1g.5gb:3")
    (node,) = show(slurm, "node", "n1")
    assert node["gres"] == "mig:3g.20gb:2,mig:1g.5gb:7"
    assert node["gres_used"] == "mig:3g.20gb:0,mig:1g.5gb:3"


@pytest.mark.parametrize("release", RELEASES)
def test_requeue_of_an_interactive_job_is_refused(
    slurm_mig_standin: StandinFactory, release: str
) -> None:
    """The job goes on (words and exit status as measured on 22.05.8, 24.11.5 and 26.05.5)."""
    slurm = slurm_mig_standin(NODES, release=release)
    number = running(slurm)
    words = f"Only batch jobs are accepted or processed for job {number}\n"
    assert call(slurm.scontrol, "requeue", str(number)) == (1, "", words)
    assert slurm.job(number).state == "RUNNING"


def test_the_number_of_an_array_means_all_its_tasks(slurm_mig_standin: StandinFactory) -> None:
    """The last task has the array's number: to name it alone takes the form 1_2 (measured)."""
    slurm = slurm_mig_standin(NODES)
    ids = slurm.sbatch("exec sleep 600", array=3, env=ENV)
    assert ids == [2, 3, 1]
    for number in ids:
        slurm.wait_running(number)
    assert [record["job_id"] for record in show(slurm, "job", "1")] == [1, 3, 2]
    assert [record["job_id"] for record in show(slurm, "job", "1_2")] == [1]
    assert [record["job_id"] for record in show(slurm, "job", "3")] == [3]
    assert call(slurm.scontrol, "requeue", "1_2")[0] == 0
    assert [slurm.job(i).restart_count for i in ids] == [0, 0, 1]
    slurm.hold(1)
    slurm.wait_until(lambda: slurm.job(1).state == "PENDING")
    words = "1_2: Job is pending execution\n"
    assert call(slurm.scontrol, "requeue", "1") == (1, "", words)
    assert [slurm.job(i).restart_count for i in ids] == [1, 1, 1]
    assert call(slurm.scancel, "1")[0] == 0
    assert [slurm.wait(i).state for i in ids] == ["CANCELLED"] * 3


def test_hold_and_release(slurm_mig_standin: StandinFactory) -> None:
    """A held job waits; a job of a full node cannot be told apart but by its reason."""
    slurm = slurm_mig_standin(NODES)
    number = slurm.sbatch("exit 0", hold=True, env=ENV)
    assert slurm.job(number).reason == "JobHeldUser"
    assert plain(show(slurm, "job", str(number))[0]["priority"]) == 0
    assert call(slurm.scontrol, "release", str(number)) == (0, "", "")
    assert slurm.wait(number).state == "COMPLETED"
    words = f"Job has already finished for job {number}\n"
    assert call(slurm.scontrol, "hold", str(number)) == (1, "", words)


def test_notify_reaches_the_user_of_a_running_job(slurm_mig_standin: StandinFactory) -> None:
    """The text arrives as it is, dashes and blanks included; a job that is over gets none."""
    slurm = slurm_mig_standin(NODES)
    number = running(slurm)
    assert call(slurm.scontrol, "notify", str(number), "no room: -- try", "later") == (0, "", "")
    slurm.cancel(number)
    assert slurm.wait(number).messages == ["no room: -- try later"]
    status, _, err = call(slurm.scontrol, "notify", str(number), "x")
    assert (status, err) == (1, "job notify failure: Job/step already completing or completed\n")
    status, _, err = call(slurm.scontrol, "notify", "777", "x")
    assert (status, err) == (1, "job notify failure: Invalid job id specified\n")


def test_update_of_a_job(slurm_mig_standin: StandinFactory) -> None:
    """Comment, AdminComment and Extra can be set on a running job and come back."""
    slurm = slurm_mig_standin(NODES)
    number = running(slurm)
    words = (f"JobId={number}", "AdminComment=a=b c", "Comment=d", "extra=e")
    assert call(slurm.scontrol, "update", *words) == (0, "", "")
    (record,) = show(slurm, "job", str(number))
    assert [record[key] for key in ("admin_comment", "comment", "extra")] == ["a=b c", "d", "e"]


def test_update_of_a_node(slurm_mig_standin: StandinFactory) -> None:
    """State, Reason, Gres and Extra of a node can be set; draining needs a reason."""
    slurm = slurm_mig_standin(NODES)
    update = (slurm.scontrol, "update", "NodeName=n1")
    status, _, err = call(*update, "State=DRAIN")
    assert (status, "You must specify a reason" in err) == (1, True)
    assert call(*update, "State=DRAIN", "Reason=two words") == (0, "", "")
    assert call(*update, "Gres=mig:3g.20gb:0,mig:1g.5gb:2", 'Extra={"a":1}') == (0, "", "")
    (node,) = show(slurm, "node", "n1")
    assert (node["state"], node["reason"]) == (["IDLE", "DRAIN"], "two words")
    assert (node["gres"], node["extra"]) == ("mig:3g.20gb:0,mig:1g.5gb:2", '{"a":1}')
    assert call(*update, "State=RESUME") == (0, "", "")
    assert show(slurm, "node", "n1")[0]["state"] == ["IDLE"]


def test_lowered_counts_are_honoured_at_once(slurm_mig_standin: StandinFactory) -> None:
    """A count below what is allocated takes nothing from the job and offers nothing to the next."""
    slurm = slurm_mig_standin(NODES[:1])
    first = running(slurm, gres="mig:3g.20gb:2")
    second = slurm.sbatch("exit 0", gres="mig:3g.20gb", env=ENV)
    call(slurm.scontrol, "update", "NodeName=n1", "Gres=mig:3g.20gb:1,mig:1g.5gb:7")
    slurm.wait_until(lambda: slurm.job(second).reason == "Resources")
    assert slurm.job(first).state == "RUNNING"
    slurm.cancel(first)
    assert slurm.wait(second).state == "COMPLETED"


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (("show", "job", "777"), "slurm_load_jobs error: Invalid job id specified\n"),
        (("show", "job", "x"), "slurm_load_jobs error: Invalid job id specified\n"),
        (("show", "job", "7_7"), "slurm_load_jobs error: Invalid job id specified\n"),
        (("show", "node", "n77"), "Node n77 not found\n"),
        (("requeue", "777"), "Invalid job id specified for job 777\n"),
        (("update", "JobId=777", "Comment=x"), "Invalid job id specified for job 777\n"),
        (("frobnicate",), "invalid keyword: frobnicate\n"),
    ],
)
def test_refusals_in_slurms_words(
    slurm_mig_standin: StandinFactory, words: tuple[str, ...], err: str
) -> None:
    """What Slurm refuses is refused with its words and exit status 1."""
    slurm = slurm_mig_standin(NODES)
    assert call(slurm.scontrol, *words) == (1, "", err)


@pytest.mark.parametrize("release", ["24.11", "26.05"])
def test_unknown_names_in_json_are_an_empty_list(
    slurm_mig_standin: StandinFactory, release: str
) -> None:
    """With --json an unknown job or node is no failure: exit 0, and nothing in the list."""
    slurm = slurm_mig_standin(NODES, release=release)
    assert show(slurm, "job", "-d", "777") == []
    assert show(slurm, "node", "n77") == []


def test_untyped_requests_are_listed_by_the_nodes_types(slurm_mig_standin: StandinFactory) -> None:
    """A job that asked for `mig:3` holds what its node has, by type."""
    slurm = slurm_mig_standin(NODES)
    (record,) = show(slurm, "job", "-d", str(running(slurm, gres="mig:3")))
    assert record["gres_detail"] == ["mig:3g.20gb(CNT:2),mig:1g.5gb(CNT:1)"]
    assert record["tres_per_node"] == "gres/mig:3"


def test_scancel_says_nothing_of_a_job_that_it_does_not_know(
    slurm_mig_standin: StandinFactory,
) -> None:
    """An unknown job, or one that is over, is no failure of scancel."""
    slurm = slurm_mig_standin(NODES)
    assert call(slurm.scancel, "777") == (0, "", "")
    number = slurm.srun(["true"], env=ENV).job_id
    assert call(slurm.scancel, str(number)) == (0, "", "")
    assert slurm.job(number).state == "COMPLETED"


def test_squeue_lists_the_jobs_of_a_node(slurm_mig_standin: StandinFactory) -> None:
    """Only jobs that are not over, one a line, in the asked form."""
    slurm = slurm_mig_standin(NODES)
    first = running(slurm, nodelist=["n1"])
    second = running(slurm, nodelist=["n2"])
    words = ("-h", "-a", "-w", "n2", "-o", "%A %T")
    assert call(slurm.squeue, *words) == (0, f"{second} RUNNING\n", "")
    slurm.cancel(second)
    slurm.wait(second)
    assert call(slurm.squeue, *words) == (0, "", "")
    assert call(slurm.squeue, "-t", "all", *words) == (0, f"{second} CANCELLED\n", "")
    assert call(slurm.squeue, "-h", "-o", "%A") == (0, f"{first}\n", "")


def test_calls_are_recorded(slurm_mig_standin: StandinFactory) -> None:
    """Tests can count what a hook asked of Slurm."""
    slurm = slurm_mig_standin(NODES)
    call(slurm.scontrol, "show", "node", "n1")
    call(slurm.scancel, "7")
    assert slurm.commands == [("scontrol", "show", "node", "n1"), ("scancel", "7")]


def test_unreachable_controller(slurm_mig_standin: StandinFactory) -> None:
    """With slurmctld down, and after the end of the stand-in, every command fails at once."""
    slurm = slurm_mig_standin(NODES)
    slurm.reachable = False
    words = "Unable to contact slurm controller (connect failure)\n"
    assert call(slurm.scontrol, "requeue", "1") == (1, "", words)
    assert call(slurm.scontrol, "show", "job", "1") == (1, "", f"slurm_load_jobs error: {words}")
    slurm.close()
    assert call(slurm.scontrol, "requeue", "1") == (1, "", words)


def test_an_answer_larger_than_a_pipe_arrives_whole(slurm_mig_standin: StandinFactory) -> None:
    """A cluster's worth of jobs is one document."""
    slurm = slurm_mig_standin(NODES)
    for _ in range(3):
        slurm.sbatch("exit 0", hold=True, comment="x" * 100_000, env=ENV)
    assert [len(record["comment"]) for record in show(slurm, "job")] == [100_000] * 3


def test_client_works_where_no_interpreter_line_can_name_python(
    tmp_path: Path, slurm_mig_standin: StandinFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long path to Python, or one with a blank, is reached through sh."""
    python = tmp_path / "a b" / "python"
    python.parent.mkdir()
    python.symlink_to(fake_scontrol.base_python())
    monkeypatch.setattr(fake_scontrol, "base_python", lambda: str(python))
    slurm = slurm_mig_standin(NODES)
    assert slurm.scontrol.read_text().startswith("#!/bin/sh\n")
    assert call(slurm.scontrol, "--version") == (0, "slurm 24.11\n", "")
    assert call(slurm.squeue, "-h") == (0, "", "")


def test_the_client_imports_next_to_nothing(slurm_mig_standin: StandinFactory) -> None:
    """What a hook pays for asking is the start of an interpreter without site or encodings more."""
    slurm = slurm_mig_standin(NODES)
    source = slurm.scontrol.read_text()
    imports = [line for line in source.splitlines() if line.startswith(("import", "from"))]
    assert imports == [
        "import posix, sys",
        "from _socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket",
    ]
    assert source.startswith(f"#!{fake_scontrol.base_python()} -ISE\n")
    assert sys.version_info >= (3, 11)


def test_unknown_names_in_the_python_interface(slurm_mig_standin: StandinFactory) -> None:
    """The Python interface refuses with the same words."""
    slurm = slurm_mig_standin(NODES)
    with pytest.raises(StandinError, match="Invalid job id specified"):
        slurm.cancel(7)
    with pytest.raises(StandinError, match="Node n9 not found"):
        slurm.node("n9")
