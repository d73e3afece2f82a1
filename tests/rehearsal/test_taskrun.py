"""How slurmstepd reads a task prolog."""

import os
from pathlib import Path

import pytest
from rehearsing import HookWriter

from slurm_mig.rehearsal.taskrun import Identity, Task, apply_task_prolog

BASE = {"KEEP": "1", "DROP": "2"}


@pytest.mark.parametrize(
    ("output", "changes", "printed"),
    [
        ("export A=b\n", {"A": "b"}, ""),
        ('export A="b c"  \n', {"A": '"b c"  '}, ""),
        ("export A='x'\n", {"A": "'x'"}, ""),
        ("export A=$HOME\n", {"A": "$HOME"}, ""),
        ("export A=b=c\n", {"A": "b=c"}, ""),
        ("export A=\n", {"A": ""}, ""),
        ("export   A  =b\n", {"A": "b"}, ""),
        ("export A=last line has no newline", {"A": "last line has no newline"}, ""),
        ("export A=1\nexport A=2\n", {"A": "2"}, ""),
        ("export A=b\r\n", {"A": "b\r"}, ""),
        (" export A=b\n", {}, ""),
        ("EXPORT A=b\n", {}, ""),
        ("export\tA=b\n", {}, ""),
        ("export A\n", {}, ""),
        ("export A\nexport B=c\n", {"B": "c"}, ""),
        ("export \nB=c\n", {}, ""),
        ("A=b\n", {}, ""),
        ("echo export A=b\n", {}, ""),
        ("export A=b\0export C=d\n", {"A": "b"}, ""),
        ("unset DROP\n", {"DROP": None}, ""),
        ("unset   DROP  \n", {"DROP": None}, ""),
        ("unset DRO\n", {}, ""),
        ("unset \n", {}, ""),
        ("unset DROP KEEP\n", {}, ""),
        ("print hello  there\n", {}, "hello  there\n"),
        ("print    indented\n", {}, "indented\n"),
        ("print \n", {}, ""),
        ("printed\n", {}, ""),
        ("print a\nexport A=b\nprint c", {"A": "b"}, "a\nc\0"),
        ("", {}, ""),
    ],
)
def test_lines_of_a_task_prolog(output: str, changes: dict[str, str | None], printed: str) -> None:
    """Only export, unset and print at the start of a line count; values are literal to its end."""
    expected = {name: value for name, value in (BASE | changes).items() if value is not None}
    assert apply_task_prolog(output, BASE) == (expected, printed)


def task(tmp_path: Path, task_prolog: Path | None, *argv: str, **env: str) -> Task:
    """A task of the caller's own in the test's folder."""
    env.setdefault("PATH", "/usr/bin:/bin")
    out = tmp_path / "out"
    identity = Identity.of(None)
    return Task(list(argv), dict(env), "n1", tmp_path, out, identity, task_prolog)


def test_the_task_starts_with_what_its_prolog_made(hook: HookWriter, tmp_path: Path) -> None:
    """The task prolog sees the task's environment, changes it, and prints before the task does."""
    prolog = hook("task-prolog", 'echo "export SEEN=$FROM_JOB"; echo unset FROM_JOB; echo print hi')
    one = task(
        tmp_path, prolog, "sh", "-c", "echo $SEEN,$FROM_JOB,$SLURM_SCRIPT_CONTEXT", FROM_JOB="x"
    )
    assert one.run() == 0
    assert (tmp_path / "out").read_text() == "hi\nx,,prolog_task\n"
    assert one.hook is not None
    assert one.hook.environment["SLURM_SCRIPT_CONTEXT"] == "prolog_task"


def test_stderr_of_a_task_prolog_counts_like_its_stdout(hook: HookWriter, tmp_path: Path) -> None:
    """Both are read as one text (measured on 22.05.8), so a stray line there is obeyed."""
    prolog = hook("task-prolog", "echo export FROM_STDERR=1 >&2")
    one = task(tmp_path, prolog, "sh", "-c", "echo $FROM_STDERR")
    assert one.run() == 0
    assert (tmp_path / "out").read_text() == "1\n"


def test_a_failing_task_prolog_takes_the_task_with_it(hook: HookWriter, tmp_path: Path) -> None:
    """A task prolog that exits 5 ends its task with 5; the command never starts."""
    one = task(tmp_path, hook("task-prolog", "echo print why; exit 5"), "touch", "ran")
    assert one.run() == 5 << 8
    assert not (tmp_path / "ran").exists()
    expected = "why\nslurmstepd: error: TaskProlog failed status=5\n"
    assert (tmp_path / "out").read_text() == expected


def test_a_task_prolog_ended_by_a_signal(hook: HookWriter, tmp_path: Path) -> None:
    """A killed task prolog counts as exit 1, and nothing that it printed is obeyed."""
    one = task(tmp_path, hook("task-prolog", "echo print no; kill -9 $$"), "touch", "ran")
    assert one.run() == 1 << 8
    assert (tmp_path / "out").read_text() == "slurmstepd: error: TaskProlog failed status=1\n"


def test_a_missing_task_prolog_fails_the_task(tmp_path: Path) -> None:
    """A task prolog that cannot be run is a failed one, never one that is left out."""
    one = task(tmp_path, tmp_path / "nowhere", "touch", "ran")
    assert one.run() == 127 << 8
    assert not (tmp_path / "ran").exists()


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    """The task's output says what could not be started, and the status is the error's number."""
    assert task(tmp_path, None, "/no/such/command").run() == 2 << 8
    assert "execve(): /no/such/command: No such file" in (tmp_path / "out").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_task_runs_as_its_user(hook: HookWriter) -> None:
    """Root runs task prolog and task as the job's user, with that user's groups only."""
    identity = Identity.of(65534)
    assert (identity.user, identity.switch) == (65534, True)
    out = Path(os.devnull)
    one = Task(
        ["sh", "-c", "exit $(id -u | cut -c1-2)"],
        {"PATH": "/usr/bin:/bin"},
        "n1",
        Path("/"),
        out,
        identity,
    )
    assert one.run() == 65 << 8


def test_nobody_but_root_can_become_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for another user without being root is refused at submission."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionError, match="only root"):
        Identity.of(os.getuid() + 1)
