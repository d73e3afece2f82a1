"""One hook at a time: what slurmd's run_command does to it."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from rehearsing import HookWriter, wait_for

from slurm_mig.rehearsal import hookrun
from slurm_mig.rehearsal.hookenv import hook_environment
from slurm_mig.rehearsal.hookrun import HookRun, Shutdown, run_hook
from slurm_mig.rehearsal.processes import marked


def in_thread(path: Path, env: dict[str, str]) -> tuple[threading.Thread, list[HookRun]]:
    """Start a hook without waiting for it; its run appears in the list."""
    runs: list[HookRun] = []
    thread = threading.Thread(target=lambda: runs.append(run_hook(path, env)))
    thread.start()
    return thread, runs


@pytest.mark.parametrize("release", ["22.05", "23.02", "24.11", "25.11", "26.05"])
@pytest.mark.parametrize("which", ["prolog", "epilog"])
def test_environment_is_exactly_the_one_given(hook: HookWriter, which: str, release: str) -> None:
    """A hook finds the variables of its release and not one more: no PATH, nothing inherited."""
    env = hook_environment(which, release=release, comment="two\nlines", extra="mig=3g.20gb:1")
    run = run_hook(hook("hook", "cat /proc/$$/environ"), env)
    seen = dict(entry.split("=", 1) for entry in run.output.rstrip("\0").split("\0"))
    assert seen == env
    assert run.environment == env
    assert "PATH" not in seen


def test_output_is_stdout_and_stderr_in_the_order_written(hook: HookWriter) -> None:
    """Both streams are one pipe, so what a hook says is kept in its order."""
    run = run_hook(hook("hook", "echo 1; echo 2 >&2; echo 3; echo last words >&2; exit 7"), {})
    assert (run.rc, run.output) == (7, "1\n2\n3\nlast words\n")
    assert run.last_line == "last words"


def test_nothing_but_the_three_streams_is_open(hook: HookWriter) -> None:
    """Stdin is /dev/null, stdout and stderr the same pipe, and no descriptor is handed down."""
    ours, theirs = os.pipe()
    os.set_inheritable(ours, True)
    os.set_inheritable(theirs, True)
    try:
        run = run_hook(hook("hook", "ls -l /proc/$$/fd"), {})
        pipe = f"pipe:[{os.fstat(ours).st_ino}]"
    finally:
        os.close(ours)
        os.close(theirs)
    links = dict(re.findall(r"(\d+) -> (\S+)", run.output))
    assert links["0"] == "/dev/null"
    assert links["1"] == links["2"] != pipe
    assert links["1"].startswith("pipe:")
    assert pipe not in links.values()


def test_a_hook_leads_its_own_group_in_the_session_of_its_caller(hook: HookWriter) -> None:
    """A hook gets setpgid, not setsid; its umask is 0022 and its signals are at their default."""
    # Nothing but builtins: dash blocks all signals while it starts a program.
    body = (
        "read -r pid name state parent group session rest < /proc/$$/stat\n"
        "echo $pid $group $session; umask; pwd -P\n"
        "while read -r key value; do case $key in SigBlk:|SigIgn:) echo $key $value; esac; done "
        "< /proc/$$/status"
    )
    old = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    mask = os.umask(0o077)
    try:
        run = run_hook(hook("hook", body), {})
    finally:
        signal.signal(signal.SIGPIPE, old)
        os.umask(mask)
    ids, umask, cwd, blocked, ignored = run.output.splitlines()
    pid, group, session = (int(word) for word in ids.split())
    assert (pid, group, session) == (run.pid, run.pid, os.getsid(0))
    assert (umask, cwd) == ("0022", "/")
    assert int(blocked.split()[1], 16) == 0
    assert not int(ignored.split()[1], 16) & 1 << signal.SIGPIPE - 1


def test_timeout_sends_term_and_ten_milliseconds_later_kill(
    hook: HookWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that is late gets SIGTERM, 10 ms, SIGKILL, and so does its whole process group."""
    path = hook(
        "hook",
        "trap ': > $D/term; sleep 60; : > $D/late' TERM\nsleep 60 & : > $D/ready; echo ready; wait",
    )
    log: list[object] = []
    killpg = os.killpg

    def note_kill(group: int, number: int) -> None:
        log.append(signal.Signals(number))
        killpg(group, number)

    def pause(seconds: float) -> None:
        log.append(seconds)
        wait_for((tmp_path / "term").exists, "the hook's answer to SIGTERM")

    # The clock jumps past the deadline once the hook is ready; the line that the hook then prints
    # wakes the reader, which looks at the clock again.
    ready = tmp_path / "ready"
    monkeypatch.setattr(hookrun, "monotonic", lambda: time.monotonic() + 7200 * ready.exists())
    monkeypatch.setattr(hookrun, "sleep", pause)
    monkeypatch.setattr(os, "killpg", note_kill)
    run = run_hook(path, {"MARK": str(tmp_path)}, timeout=3600)
    assert log == [signal.SIGTERM, 0.01, signal.SIGKILL]
    assert (run.rc, run.timed_out) == (-signal.SIGKILL, True)
    assert not (tmp_path / "late").exists()
    wait_for(lambda: marked({"MARK": str(tmp_path)}) == [], "the end of the group")


def test_timeout_also_ends_a_hook_that_closed_its_output(hook: HookWriter) -> None:
    """Closing stdout and stderr does not hide a hook from its timeout."""
    path = hook("hook", "exec >&- 2>&-; while :; do sleep 0.01; done")
    run = run_hook(path, {}, timeout=0.05)
    assert run.timed_out
    assert run.rc in (-signal.SIGTERM, -signal.SIGKILL)


def test_a_hook_that_closed_its_output_is_waited_for(hook: HookWriter, tmp_path: Path) -> None:
    """The end of the pipe is not the end of the hook: its exit status is."""
    path = hook("hook", "exec >&- 2>&-; until [ -e $D/go ]; do sleep 0.01; done; exit 5")
    env = {"MARK": str(tmp_path)}
    thread, runs = in_thread(path, env)
    wait_for(lambda: marked(env))
    assert runs == []
    (tmp_path / "go").touch()
    thread.join()
    assert runs[0].rc == 5


def test_a_daemon_that_holds_the_pipe_makes_the_hook_wait(hook: HookWriter, tmp_path: Path) -> None:
    """A hook is over when the last process that can write to its output is gone, not before."""
    daemon = "setsid sh -c 'until [ -e $D/go ]; do sleep 0.01; done; echo from the daemon' &"
    path = hook("hook", f"export D; {daemon}\necho $$ > $D/pid.new; mv $D/pid.new $D/pid; exit 3")
    thread, runs = in_thread(path, {"MARK": str(tmp_path)})
    wait_for((tmp_path / "pid").exists)
    stat = Path("/proc") / (tmp_path / "pid").read_text().strip() / "stat"
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "the hook's exit")
    assert runs == []
    (tmp_path / "go").touch()
    thread.join()
    assert (runs[0].rc, runs[0].output) == (3, "from the daemon\n")


def test_what_a_hook_leaves_in_its_group_dies_with_it(hook: HookWriter, tmp_path: Path) -> None:
    """A background process that let go of the pipe is killed once the hook has ended."""
    env = {"MARK": str(tmp_path)}
    run = run_hook(hook("hook", "sleep 600 </dev/null >/dev/null 2>&1 & exit 0"), env)
    assert run.rc == 0
    wait_for(lambda: marked(env) == [], "the end of the background process")


@pytest.mark.parametrize(
    ("name", "shebang", "mode"),
    [
        ("missing", None, 0),
        ("not-executable", "#!/bin/sh", 0o644),
        ("no-such-interpreter", "#!/no/such/interpreter", 0o755),
    ],
)
def test_a_hook_that_cannot_run_counts_as_127(
    hook: HookWriter, tmp_path: Path, name: str, shebang: str | None, mode: int
) -> None:
    """What slurmd cannot start fails like a hook that exits 127."""
    if shebang is not None:
        hook(name, "echo ran", shebang).chmod(mode)
    run = run_hook(tmp_path / name, {})
    assert run.rc == 127
    assert "ran" not in run.output


def test_a_relative_path_is_refused(
    hook: HookWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that does not start at the root is no hook."""
    hook("hook", "echo ran")
    monkeypatch.chdir(tmp_path)
    assert run_hook("hook", {}).rc == 127


@pytest.mark.parametrize(("size", "rc"), [(100_000, 0), (140_000, 127)])
def test_hostile_sizes_of_environment(hook: HookWriter, size: int, rc: int) -> None:
    """100 KB in one variable reach the hook; more than the kernel takes fails the hook, not us."""
    assert run_hook(hook("hook", "exit 0"), {"SLURM_JOB_COMMENT": "x" * size}).rc == rc


def test_output_that_is_no_utf8_survives(hook: HookWriter) -> None:
    """Bytes that are no UTF-8 come back as surrogates and can be encoded again."""
    run = run_hook(hook("hook", r"printf '\377\n'"), {})
    assert run.output.encode("utf-8", "surrogateescape") == b"\xff\n"


def test_shutdown_ends_a_running_hook(hook: HookWriter, tmp_path: Path) -> None:
    """A stopping slurmd ends its scripts and does not call that a timeout."""
    stop = Shutdown()
    runs: list[HookRun] = []
    path = hook("hook", ": > $D/started; sleep 600")
    thread = threading.Thread(target=lambda: runs.append(run_hook(path, {}, shutdown=stop)))
    thread.start()
    wait_for((tmp_path / "started").exists)
    stop.set()
    thread.join()
    stop.close()
    assert (runs[0].rc < 0, runs[0].timed_out) == (True, False)
