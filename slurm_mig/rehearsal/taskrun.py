"""What happens to a task between its launch and its first instruction: the task prolog.

From src/slurmd/slurmstepd/task.c (exec_task, _run_script_and_set_env, _proc_stdout; 25.11.7),
compared with a running 22.05.8: the task prolog runs as the job's user with the task's whole
environment, through the same run_command as a Prolog, so its stderr is read together with its
stdout and a line there counts too. There is no timeout. Its exit status, if not 0, becomes the
task's. SLURM_SCRIPT_CONTEXT=prolog_task stays in the task's environment.
"""

import contextlib
import os
import pwd
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slurm_mig.rehearsal.hookrun import HookRun, Shutdown, run_hook

_SPACE = " \t\n\v\f\r"


def apply_task_prolog(output: str, env: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Apply what a task prolog printed to a task's environment, as slurmstepd parses it.

    Returns the new environment and the text for the task's own stdout. Only lines that start with
    exactly "export NAME=", "unset NAME" or "print " count: no indentation, no quoting (quotes are
    part of the value, which runs to the end of its line, trailing blanks included). Blanks between
    the keyword and the name and before the "=" are dropped. Text after a NUL byte is not seen. A
    last "print" line without a newline is followed by a NUL byte, as slurmstepd writes it.
    """
    result = dict(env)
    printed: list[str] = []
    text = output.split("\0", 1)[0]
    lines = text.split("\n")
    for number, line in enumerate(lines):
        ending = "\n" if number < len(lines) - 1 else "\0"
        if line.startswith("print "):
            if words := line[6:].lstrip(_SPACE):
                printed.append(words + ending)
        elif line.startswith("export "):
            name, equals, value = line[7:].lstrip(_SPACE).partition("=")
            if equals and name:
                result[name.rstrip(_SPACE)] = value
        elif line.startswith("unset ") and (name := line[6:].strip(_SPACE)):
            result.pop(name, None)
    return result, "".join(printed)


@dataclass(frozen=True)
class Identity:
    """Whom a task runs as: numeric ids, or the caller's own where `switch` is false."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def of(cls, user: int | str | None) -> "Identity":
        """Identity of a user by id or name; None is the caller. Only root can be another one."""
        if user is None or user == os.getuid():
            return cls(os.getuid(), os.getgid(), switch=False)
        try:
            entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
            uid, gid = entry.pw_uid, entry.pw_gid
        except KeyError:
            # A number needs no account; a name does.
            uid = gid = int(user)
        if uid == os.getuid():
            return cls(uid, os.getgid(), switch=False)
        if os.geteuid() != 0:
            raise PermissionError(f"user {user}: only root can run jobs as another user")
        return cls(uid, gid, switch=True)

    @property
    def user(self) -> int | None:
        """The uid to switch to, or None to stay."""
        return self.uid if self.switch else None

    @property
    def group(self) -> int | None:
        """The gid to switch to, or None to stay."""
        return self.gid if self.switch else None

    @property
    def groups(self) -> list[int] | None:
        """The supplementary groups to switch to, or None to stay."""
        if not self.switch:
            return None
        try:
            return os.getgrouplist(pwd.getpwuid(self.uid).pw_name, self.gid)
        except KeyError:
            return [self.gid]


@dataclass
class Task:
    """One task of a job on one node. `status` is its wait status once it has ended."""

    argv: Sequence[str]
    env: dict[str, str]
    node: str
    cwd: Path
    output: Path
    identity: Identity
    task_prolog: Path | None = None
    hook: HookRun | None = None
    status: int | None = None
    killed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _prolog_stop: Shutdown | None = field(default=None, repr=False)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def run(self) -> int:
        """Run the task prolog, then the task, to its end; return its wait status."""
        fd = os.open(self.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self.status = self._run(fd)
        finally:
            os.close(fd)
        return self.status

    def signal(self, number: int) -> None:
        """Signal the task's process group; a task prolog is ended, and no task starts after it."""
        with self._lock:
            self.killed = True
            if self._prolog_stop is not None:
                self._prolog_stop.set()
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)

    def _run_task_prolog(self, path: Path) -> HookRun:
        with self._lock:
            stop = self._prolog_stop = Shutdown()
            if self.killed:
                stop.set()
        try:
            return run_hook(
                path,
                self.env,
                which="task_prolog",
                node=self.node,
                cwd=self.cwd,
                user=self.identity.user,
                group=self.identity.group,
                groups=self.identity.groups,
                shutdown=stop,
            )
        finally:
            with self._lock:
                self._prolog_stop = None
            stop.close()

    def _run(self, fd: int) -> int:
        if self.task_prolog is not None:
            self.env["SLURM_SCRIPT_CONTEXT"] = "prolog_task"
            self.hook = self._run_task_prolog(self.task_prolog)
            if self.hook.rc < 0:
                return self._refuse(fd, "TaskProlog failed status=1", 1)
            self.env, printed = apply_task_prolog(self.hook.output, self.env)
            os.write(fd, printed.encode("utf-8", "surrogateescape"))
            if self.hook.rc != 0:
                rc = self.hook.rc
                return self._refuse(fd, f"TaskProlog failed status={rc}", rc)
        self.env.setdefault("TMPDIR", "/tmp")  # noqa: S108 - slurmstepd's own default
        try:
            with self._lock:
                if self.killed:
                    return int(signal.SIGTERM)
                process = self._process = subprocess.Popen(
                    self.argv,
                    env=self.env,
                    cwd=self.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=fd,
                    stderr=fd,
                    start_new_session=True,
                    user=self.identity.user,
                    group=self.identity.group,
                    extra_groups=self.identity.groups,
                )
        except OSError as error:
            what = f"execve(): {self.argv[0]}: {error.strerror}"
            return self._refuse(fd, what, error.errno or 1)
        code = process.wait()
        with self._lock:
            self._process = None
        # The step is over: what its task left in its group goes with it, at once.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        return -code if code < 0 else code << 8

    def _refuse(self, fd: int, why: str, code: int) -> int:
        os.write(fd, f"slurmstepd: error: {why}\n".encode("utf-8", "surrogateescape"))
        return (code & 0xFF) << 8
