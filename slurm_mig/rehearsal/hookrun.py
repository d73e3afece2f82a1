"""Run one hook the way slurmd runs it: nothing inherited, one pipe, 10 ms between TERM and KILL.

What slurmd does was read in src/common/run_command.c (25.11.7; 22.05 and 24.11 do the same) and
measured on running ones (22.05.8, 24.11.5, 26.05.5):

- the environment is exactly the one given, without PATH; stdin is /dev/null; stdout and stderr
  are one pipe; every other descriptor is closed; umask 0022; no signal blocked or ignored
  (26.05.5 ignores SIGHUP and SIGINT in its hooks; that is not imitated);
- the hook leads its own process group, in slurmd's session: there is no setsid;
- the pipe is read to its end, which comes only when the last process that holds it closes it;
  then the hook is waited for; then what is left of its process group is killed;
- a hook that outlives its timeout gets SIGTERM and, 10 ms later, SIGKILL, it and its group;
- a path that is not absolute, or no executable file, counts as exit status 127.

slurmd has no supplementary groups. A hook run from here keeps the caller's, since dropping them
would cost every start a full fork; for root they make no difference.
"""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

TERM_TO_KILL = 0.010
"""Seconds between SIGTERM and SIGKILL (run_command.c, _kill_pg: usleep(10000))."""

CANNOT_RUN = 127
"""Exit status that stands for a hook that could not be started at all."""

UMASK = 0o022
"""slurmd's own umask, which its hooks inherit (measured on 22.05.8)."""


@dataclass(frozen=True)
class HookRun:
    """One finished run of a hook.

    `rc` is the exit status, or minus the signal that ended it. `output` is stdout and stderr in the
    order written; bytes that are no UTF-8 come back as surrogates. `started` and `ended` are
    seconds on the monotonic clock.
    """

    which: str
    node: str
    path: str
    rc: int
    output: str
    environment: dict[str, str]
    started: float
    ended: float
    timed_out: bool = False
    pid: int = 0

    @property
    def duration(self) -> float:
        """Seconds from the start until the hook and everything that held its pipe were gone."""
        return self.ended - self.started

    @property
    def last_line(self) -> str:
        """The last line of the output, which Slurm shows as the reason of a failure."""
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else ""


class Shutdown:
    """A switch that ends every hook started with it, as a stopping slurmd ends its scripts."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def set(self) -> None:
        """Throw the switch; it stays thrown."""
        os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        """Descriptor that is readable once the switch is thrown."""
        return self._fd

    def close(self) -> None:
        """Give the descriptor back; only after every hook that uses it has ended."""
        os.close(self._fd)


def kill_group(group: int, grace: float = TERM_TO_KILL) -> None:
    """Send SIGTERM to a process group and SIGKILL `grace` seconds later; none left is fine."""
    try:
        os.killpg(group, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return
    sleep(grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def run_hook(
    path: Path | str,
    env: Mapping[str, str],
    timeout: float | None = None,
    *,
    which: str = "hook",
    node: str = "",
    cwd: Path | str = "/",
    umask: int = UMASK,
    user: int | None = None,
    group: int | None = None,
    groups: Sequence[int] | None = None,
    shutdown: Shutdown | None = None,
) -> HookRun:
    """Run the executable at `path` with exactly `env`, as slurmd does; `timeout` in seconds.

    `user`, `group` and `groups` are numeric ids to run as (root only; for task prologs).
    `hook_environment` makes the environment of a Prolog or an Epilog. Never raises because of what
    the hook does: a hook that cannot be started comes back with rc 127.
    """
    path = str(path)
    environment = dict(env)
    started = monotonic()

    def result(rc: int, output: str, timed_out: bool = False, pid: int = 0) -> HookRun:
        ended = monotonic()
        return HookRun(which, node, path, rc, output, environment, started, ended, timed_out, pid)

    if not path.startswith("/") or not os.access(path, os.R_OK | os.X_OK):
        return result(CANNOT_RUN, "Run command failed - configuration error")
    try:
        process = subprocess.Popen(
            [path],
            env=environment,
            cwd=cwd,
            umask=umask,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            user=user,
            group=group,
            extra_groups=groups,
        )
    except OSError:  # no such interpreter, environment too large: the forked child's execve
        return result(CANNOT_RUN, "")
    deadline = None if timeout is None else started + timeout
    output, ended_by = _read_to_end(process, deadline, shutdown)
    if ended_by is None:
        ended_by = _wait(process, deadline, shutdown)
    if ended_by is not None:
        kill_group(process.pid)
        process.wait()
    else:
        # What the hook left behind in its group dies with it. The leader is reaped by now, so
        # usually there is no such group any more and this returns at once.
        kill_group(process.pid)
    text = output.decode("utf-8", "surrogateescape")
    return result(process.returncode, text, ended_by == "timeout", process.pid)


def _read_to_end(
    process: "subprocess.Popen[bytes]", deadline: float | None, shutdown: Shutdown | None
) -> tuple[bytes, str | None]:
    """Read the pipe until its last writer is gone; say what cut that short, if anything did."""
    assert process.stdout is not None  # noqa: S101 - tells mypy that the pipe was asked for
    chunks: list[bytes] = []
    with process.stdout as pipe:
        while (why := _poll(pipe.fileno(), deadline, shutdown)) is None:
            chunk = os.read(pipe.fileno(), 65536)
            if not chunk:
                break
            chunks.append(chunk)
    return b"".join(chunks), why


def _wait(
    process: "subprocess.Popen[bytes]", deadline: float | None, shutdown: Shutdown | None
) -> str | None:
    """Wait for a hook that has closed its output; say what cut that short, if anything did."""
    if process.poll() is not None:
        return None
    pidfd = os.pidfd_open(process.pid)
    try:
        why = _poll(pidfd, deadline, shutdown)
    finally:
        os.close(pidfd)
    if why is None:
        process.wait()
    return why


def _poll(fd: int, deadline: float | None, shutdown: Shutdown | None) -> str | None:
    """Wait until `fd` is readable (None), the deadline ("timeout") or the end ("shutdown")."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if shutdown is not None:
        poller.register(shutdown.fileno(), select.POLLIN)
    while True:
        left = None if deadline is None else (deadline - monotonic()) * 1000
        if left is not None and left <= 0:
            return "timeout"
        ready = [found for found, _ in poller.poll(left)]
        if shutdown is not None and shutdown.fileno() in ready:
            return "shutdown"
        if fd in ready:
            return None
