"""The command-line client against programs that misbehave; none of these needs Slurm."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slurm_mig.child import Said, run
from slurm_mig.slurm import (
    JobUnknown,
    ScontrolClient,
    SlurmRefused,
    SlurmUnavailable,
    client,
)
from slurm_mig.slurm_py import PyslurmClient

SAMPLES = Path(__file__).parent / "samples"
# Each program notes its arguments, one in a line, then does what its body says.
PROGRAM = """#!/bin/sh
for word; do printf '%s|' "$word"; done >>{log}
echo >>{log}
{body}
"""


class Commands:
    """A folder with programs named as Slurm's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        for name in ("scontrol", "squeue", "scancel", "sinfo"):
            self.write(name, "exit 0")

    def write(self, name: str, body: str) -> None:
        """Give a program its body (sh)."""
        path = self.folder / name
        path.write_text(PROGRAM.format(log=self.log, body=body))
        path.chmod(0o755)

    def client(self, timeout: float = 10) -> ScontrolClient:
        """Return a client of these programs."""
        return ScontrolClient(str(self.folder / "scontrol"), timeout)

    def calls(self) -> list[list[str]]:
        """Return the arguments of every call."""
        return [line.split("|")[:-1] for line in self.log.read_text().splitlines()]


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """Programs that succeed and say nothing."""
    return Commands(tmp_path)


def test_run_returns_status_and_both_outputs() -> None:
    """Status, output and complaint of a program, however much it says."""
    words = [
        sys.executable,
        "-c",
        "import sys; sys.stderr.write('e' * 300000); print('o' * 300000)",
    ]
    said = run(words, {}, 30)
    assert (said.status, len(said.out), len(said.err)) == (0, 300001, 300000)


@pytest.mark.parametrize(("body", "status"), [("exit 3", 3), ("kill -9 $$", -9)])
def test_run_tells_how_it_ended(body: str, status: int) -> None:
    """An exit status, or a signal as a negative number."""
    assert run(["/bin/sh", "-c", body], {}, 10) == Said(status, b"", "")


def test_run_kills_at_the_deadline() -> None:
    """A program that does not end is killed, and what it said until then is returned."""
    said = run(["/bin/sh", "-c", "echo begun; exec sleep 600"], {"PATH": "/usr/bin:/bin"}, 0.3)
    assert said == Said(None, b"begun\n", "")


def test_run_does_not_wait_for_what_a_program_leaves_behind(tmp_path: Path) -> None:
    """A child that keeps the pipe open cannot hold a hook beyond its deadline."""
    body = f"sleep 600 & echo $! >{tmp_path}/pid; echo done"
    said = run(["/bin/sh", "-c", body], {"PATH": "/usr/bin:/bin"}, 0.3)
    os.kill(int((tmp_path / "pid").read_text()), 9)
    assert said.out == b"done\n"


def test_run_gives_nothing_of_our_own_to_the_program() -> None:
    """Environment, standard input and SIGPIPE are what a program expects; no file leaks in."""
    shown = "env; ls /proc/self/fd; grep SigIgn /proc/self/status; cat"
    with Path("/dev/null").open():
        said = run(["/bin/sh", "-c", shown], {"PATH": "/usr/bin:/bin", "A": "b"}, 10)
    lines = said.out.decode().split("\n")
    ignored = next(line for line in lines if line.startswith("SigIgn"))
    assert {"A=b", "0", "1", "2", "3"} <= set(lines)
    assert "4" not in lines  # 3 is the folder that ls reads
    assert int(ignored.split()[1], 16) & (1 << 12) == 0


def test_run_leaves_no_open_file() -> None:
    """Neither success nor failure leaves a file descriptor behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    run(["/bin/true"], {}, 10)
    run(["/bin/sleep", "600"], {}, 0.05)
    with pytest.raises(FileNotFoundError):
        run(["/nix/nix"], {}, 10)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """One line that says which program and which setting."""
    with pytest.raises(SlurmUnavailable) as caught:
        ScontrolClient(str(tmp_path / "scontrol"), 1).job(7, "n1")
    assert str(caught.value) == (
        f"job 7: cannot run {tmp_path}/scontrol: No such file or directory; set [slurm] scontrol"
        " to its path"
    )


@pytest.mark.parametrize(
    "complaint",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "slurm_load_jobs error: Zero Bytes were transmitted or received",
        "slurm_load_jobs error: Slurm backup controller in standby mode",
    ],
)
def test_asks_again_while_slurmctld_is_away(commands: Commands, complaint: str) -> None:
    """No answer is not an answer: the same question is asked until there is one."""
    count = commands.folder / "count"
    commands.write(
        "scontrol",
        f"echo >>{count}; [ $(wc -l <{count}) -ge 3 ] || {{ echo '{complaint}' >&2; exit 1; }}",
    )
    commands.client().notify(7, "text")
    assert commands.calls() == [["notify", "7", "text"]] * 3


def test_gives_up_in_time(commands: Commands) -> None:
    """After the timeout: one line with what Slurm said, how long, and what to look at."""
    commands.write("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmUnavailable) as caught:
        commands.client(0.2).job(7, "n1")
    assert str(caught.value) == (
        "job 7: Slurm does not answer within 0.2 s: Unable to contact slurm controller;"
        " check slurmctld and munge"
    )


def test_a_command_that_hangs_is_ended(commands: Commands) -> None:
    """A scontrol that never ends costs no more than the timeout."""
    commands.write("scontrol", "exec sleep 600")
    with pytest.raises(SlurmUnavailable, match=r"within 0.2 s: scontrol did not end"):
        commands.client(0.2).requeue(7)


def test_release_with_json_is_asked_once(commands: Commands) -> None:
    """From 23.02 on one command gives the record."""
    sample = SAMPLES / "24.11/running.json"
    commands.write("scontrol", f"cat {sample}")
    record = commands.client().job(2, "node01")
    assert record.gres == "mig:3g.20gb(CNT:1)"
    assert commands.calls() == [["show", "job", "2", "-d", "--json"]]


def old_scontrol(sample: str) -> str:
    """Return the body of a scontrol of 22.05."""
    return (
        'case "$*" in *--json*) echo "scontrol: unrecognized option --json" >&2; exit 1;; esac\n'
        f"cat {SAMPLES}/22.05/{sample}"
    )


def test_release_without_json_is_noticed_once(commands: Commands) -> None:
    """On 22.05 the text is read; that there is no --json is found out once for each client."""
    commands.write("scontrol", old_scontrol("running.txt"))
    slurm = commands.client()
    records = [slurm.job(2, "node01"), slurm.job(2, "node01")]
    assert [record.gres for record in records] == ["mig:3g.20gb(CNT:1)"] * 2
    text = ["show", "job", "2", "-d"]
    assert commands.calls() == [[*text, "--json"], text, text]


def test_text_that_could_be_forged_makes_it_ask_for_json(commands: Commands) -> None:
    """Where a user's text imitates scontrol's, the expensive but unmistakable answer counts."""
    forged = commands.folder / "forged.txt"
    text = (SAMPLES / "22.05/running.txt").read_text()
    forged.write_text(text.replace("JobName=sbatch", "JobName=x\n   TRES=cpu=1", 1))
    commands.write("scontrol", old_scontrol("running.txt").rpartition("\n")[0] + f"\ncat {forged}")
    commands.write("squeue", f"cat {SAMPLES}/22.05/running.json")
    assert commands.client().job(2, "node01").gres == "mig:3g.20gb(CNT:1)"
    assert commands.calls()[-1] == ["--json", "-j", "2"]


def test_one_of_several_records_is_asked_for_alone(commands: Commands) -> None:
    """Where scontrol's text has a whole array, the task is asked for by its own address."""
    text = (SAMPLES / "22.05/array.txt").read_text()
    [alone] = [one for one in text.split("\n\n") if one.lstrip().startswith("JobId=8 ")]
    (commands.folder / "alone.txt").write_text(alone)
    old, _ = old_scontrol("array.txt").split("\n")
    commands.write(
        "scontrol",
        f'{old}\ncase "$*" in *6_4*) cat {commands.folder}/alone.txt;; '
        f"*) cat {SAMPLES}/22.05/array.txt;; esac",
    )
    assert commands.client().job(8, "node02").gres == "mig:1g.5gb(CNT:1)"
    assert commands.calls()[1:] == [["show", "job", "8", "-d"], ["show", "job", "6_4", "-d"]]


def test_a_complaint_is_a_refusal_even_with_exit_0(commands: Commands) -> None:
    """Slurm 24.11 refuses with exit 0; what it says on stderr decides."""
    commands.write(
        "scontrol",
        f'case "$1" in show) cat {SAMPLES}/24.11/running.json;;'
        " *) echo 'Only batch jobs are accepted or processed for job 2' >&2;; esac",
    )
    with pytest.raises(SlurmRefused, match="requeue of job 2: Slurm refuses: Only batch jobs"):
        commands.client().requeue(2)


@pytest.mark.parametrize(
    ("sample", "job", "called"),
    [
        ("running", 2, [["requeue", "2"]]),
        ("requeued_waiting", 11, []),
        ("in_epilog", 14, SlurmRefused),
        ("done", 13, SlurmRefused),
    ],
)
def test_requeue_looks_first(commands: Commands, sample: str, job: int, called: object) -> None:
    """Only a job that starts or runs is requeued: one that is over would come back to life."""
    commands.write("scontrol", f'[ "$1" = show ] && cat {SAMPLES}/24.11/{sample}.json; true')
    if called is SlurmRefused:
        with pytest.raises(SlurmRefused, match=rf"requeue of job {job}: it is over \(COMPLETED"):
            commands.client().requeue(job)
        called = []
    else:
        commands.client().requeue(job)
    assert [call for call in commands.calls() if call[0] != "show"] == called


def test_hold_gives_the_reason_first(commands: Commands) -> None:
    """The reason stands before the job is held, in one argument, on one line."""
    commands.write("scontrol", f'[ "$1" = show ] && cat {SAMPLES}/24.11/running.json; true')
    commands.client().hold(2, 'no "9g.99gb" here\nState=x')
    assert commands.calls()[1:] == [
        ["update", "JobId=2", "AdminComment=no '9g.99gb' here/x0aState=x"],
        ["requeuehold", "2"],
    ]


@pytest.mark.parametrize(
    "node", ["", "-w", "a,b", "a[1-2]", "a b", "a;b", "a\nb", "../a", "ALL=1", "a" * 300, "é"]
)
def test_a_node_name_is_a_node_name(commands: Commands, node: str) -> None:
    """Nothing but one node's name becomes an argument; no command is run for anything else."""
    slurm = commands.client()
    for call in (
        lambda: slurm.node(node),
        lambda: slurm.jobs_on(node),
        lambda: slurm.drain(node, "why"),
        lambda: slurm.resume(node),
    ):
        with pytest.raises(SlurmUnavailable, match=r"^node '.*': not a Slurm node name"):
            call()
    assert not commands.log.exists()


@pytest.mark.parametrize("job", ["7; id", "-x", "7_1", "7", None, 0, -1, 7.0])
def test_a_job_id_is_a_number(commands: Commands, job: object) -> None:
    """What is no whole number never reaches a command."""
    slurm = commands.client()
    for call in (slurm.requeue, lambda one: slurm.cancel(one, ""), lambda one: slurm.job(one, "n")):
        with pytest.raises(ValueError, match="not a job id"):
            call(job)
    assert not commands.log.exists()


def test_a_reason_is_one_bounded_line(commands: Commands) -> None:
    """However long and strange a reason is, Slurm gets one line of at most 300 characters."""
    commands.client().drain("n1", "x" * 10_000 + "\n\x1b[31m")
    commands.client().notify(7, "a\x00b\r\nc\u2028d")
    drain, notify = commands.calls()
    assert drain == ["update", "NodeName=n1", "State=DRAIN", "Reason=" + "x" * 299 + "…"]
    assert notify == ["notify", "7", "a/x00b/x0d/x0ac/x2028d"]


def test_jobs_on_reads_states(commands: Commands) -> None:
    """What runs, starts, is suspended or ends counts; what has ended or waits does not."""
    rows = (
        "1 RUNNING\n2 COMPLETING\n3 PENDING\n4 CONFIGURING\n5 COMPLETED\n6 SUSPENDED\n7 STAGE_OUT\n"
    )
    rows += "8 CANCELLED\n9 NODE_FAIL\n10 SIGNALING\n11 REQUEUED\n12 STOPPED\nx RUNNING\n\n13\n"
    (commands.folder / "rows").write_text(rows)
    commands.write("squeue", f"cat {commands.folder}/rows")
    assert commands.client().jobs_on("n1") == {1, 2, 4, 6, 7, 10, 12}
    assert commands.calls() == [["-h", "-a", "-t", "all", "-w", "n1", "-o", "%A %T"]]


def test_an_unknown_job_at_release_24_11(commands: Commands) -> None:
    """An empty list of jobs is JobUnknown, and so is squeue's error."""
    commands.write("scontrol", f"cat {SAMPLES}/24.11/unknown.json")
    with pytest.raises(JobUnknown):
        commands.client().job(4711, "n1")
    commands.write("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    with pytest.raises(JobUnknown):
        commands.client().job(4711, "n1")


def test_from_many_threads(commands: Commands) -> None:
    """A long-lived program may call from several threads."""
    commands.write("scontrol", f"cat {SAMPLES}/26.05/mixed.json")
    slurm, found = commands.client(), []

    def ask() -> None:
        found.append(slurm.job(3, "node02").gres)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["mig:3g.20gb(CNT:1),mig:1g.5gb(CNT:2)"] * 8


def test_an_unknown_kind_of_client() -> None:
    """A wrong setting names itself and what there is."""
    with pytest.raises(SlurmUnavailable, match="'rest': unknown; use auto, scontrol or pyslurm"):
        client("rest", scontrol="/usr/bin/scontrol", timeout=1, long_lived=True)


def test_auto_without_pyslurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyslurm `auto` is the command line, and `pyslurm` says what to do."""
    monkeypatch.setitem(sys.modules, "pyslurm", None)
    chosen = client("auto", scontrol="/usr/bin/scontrol", timeout=1, long_lived=True)
    assert not isinstance(chosen, PyslurmClient)
    with pytest.raises(SlurmUnavailable, match=r"pyslurm cannot be imported .* set \[slurm\]"):
        client("pyslurm", scontrol="/usr/bin/scontrol", timeout=1, long_lived=True)


def test_the_import_is_cheap() -> None:
    """Hooks import this: no subprocess, no pyslurm, nothing that Python's start does not cost."""
    code = (
        "import sys; import slurm_mig.slurm;"
        "print([name for name in ('subprocess', 'pyslurm', 'threading', 'pathlib', 'tempfile',"
        " 'logging', 'selectors', 'asyncio', 'slurm_mig.slurm_py') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(root)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "[]\n"
