"""Named failpoints between all steps of a hook or of `slurm-mig reconcile`, without a line in them.

The hook's sh starts `$PYTHON`; `install` makes that a launcher of this file, which puts a failpoint
before and after every call into the outside floor (ledger, locks, driver, devices, run directory,
Slurm, log), and before and after every single change inside those calls (a statement of SQLite, a
system call that changes a file, a call that changes the driver). Then it runs the hook's own code.
The product knows nothing of it, so it costs nothing there.

A failpoint's name says where it is: `acquire/ledger.intend/after`, with `#2` when it is met again.
`FOLDER/arm-KEY` names the one at which the program's whole process group gets SIGKILL; KEY is the
job's id, or `reconcile`. Where `FOLDER/record-KEY` is a file, names are added to it as they are
met, and, behind `outside `, each change to the world that no failpoint surrounds. With neither
file the program runs as it is.
"""

import os
import re
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from types import FunctionType
from typing import Any

#: What changes files, by its name in `os`.
_FILES = (
    "chmod chown fchmod fchown link mkdir mknod remove rename replace rmdir symlink unlink write"
)
#: pynvml's functions that change something.
_DRIVER = re.compile(r"nvml(Init|Shutdown)|nvml.*(Create|Destroy|SetMig)")
_STATEMENT = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|INSERT|UPDATE|DELETE|CREATE|PRAGMA \w+ =)")
#: Audit events of changes (PEP 578); `open` is one when it is for writing.
_EVENTS = re.compile(
    r"fcntl\.flock|sqlite3\.connect|subprocess\.Popen|"
    r"os\.(chmod|chown|link|mkdir|posix_spawn|remove|rename|rmdir|symlink|truncate)"
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

#: The failpoints after every single change: between two of them nothing is to be found changed.
CHANGE = re.compile(
    r"/(os\.\w+|sql\.\w+|nvml\w*(Create|Destroy)\w+|Path\.write_text|locks\.(job|gpu|host)(\.free)?|"
    r"scontrol\.(requeue|hold|cancel|notify))/after"
)


class _Points:
    """The failpoints of this process."""

    def __init__(self, folder: Path, key: str) -> None:
        self.verb = key if key == "reconcile" else "hook"
        self._met: Counter[str] = Counter()
        self._inside = self._muted = 0
        armed, record = folder / f"arm-{key}", folder / f"record-{key}"
        self._armed = armed.read_text().strip() if armed.exists() else None
        self._record = os.open(record, os.O_WRONLY | os.O_APPEND) if record.exists() else None
        self._write = os.write  # the one that is no failpoint itself
        if self._record is not None:
            sys.addaudithook(self._audit)

    def _note(self, line: str) -> None:
        if self._record is not None:
            self._write(self._record, f"{line}\n".encode())

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._inside:
            return
        if event == "open":
            path, _, flags = arguments
            if not flags & _WRITING or isinstance(path, int):
                return
        elif not _EVENTS.fullmatch(event):
            return
        # Compiled modules, kept or not as Python pleases, are no step of the product.
        if ".pyc" in str(arguments[:1]):
            return
        self._note(f"outside {event} {arguments}")

    def meet(self, what: str, side: str) -> None:
        """One failpoint."""
        if self._muted:
            return
        name = f"{self.verb}/{what}/{side}"
        self._met[name] += 1
        if self._met[name] > 1:
            name += f"#{self._met[name]}"
        self._note(name)
        if name == self._armed:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    @contextmanager
    def around(self, what: str, *, muted: bool = False) -> Iterator[None]:
        """The failpoints before and after a block; `muted`: none inside."""
        self.meet(what, "before")
        self._inside += 1
        self._muted += muted
        try:
            yield
        finally:
            self._inside -= 1
            self._muted -= muted
            self.meet(what, "after")

    def call(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its failpoints, wherever it is called from."""

        @wraps(function)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            with self.around(what):
                return function(*arguments, **keywords)

        return wrapped

    def outer_call(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same, but not where it is called by another function of the outside floor."""

        @wraps(function)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if self._inside:
                return function(*arguments, **keywords)
            with self.around(what):
                return function(*arguments, **keywords)

        return wrapped

    def manager(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A lock with failpoints before and after it is taken, and before and after it is freed.

        Those inside are muted: how often a lock is tried for is chance.
        """

        @contextmanager
        def wrapped(*arguments: Any, **keywords: Any) -> Iterator[Any]:
            with ExitStack() as stack:
                with self.around(what, muted=True):
                    value = stack.enter_context(function(*arguments, **keywords))
                try:
                    yield value
                finally:
                    with self.around(f"{what}.free", muted=True):
                        stack.close()

        return wrapped

    def verb_of(self, verb: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose failpoints' names begin with its own."""

        @wraps(function)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            before, self.verb = self.verb, verb
            try:
                return function(*arguments, **keywords)
            finally:
                self.verb = before

        return wrapped


def _wrap_floor(points: _Points) -> None:
    """Put failpoints around the outside floor: each public function of its classes."""
    from slurm_mig import devices, handover, ledger, lock, log, nvml, partitioner, slurm

    floor = {
        "ledger": ledger.Ledger,
        "driver": nvml.Driver,
        "devices": devices.Devices,
        "handover": handover.Handover,
        "scontrol": slurm.ScontrolClient,
        "log": log.Log,
    }
    for where, cls in floor.items():
        for name, value in list(vars(cls).items()):
            plain = name == "__init__" or not name.startswith("_")
            if plain and isinstance(value, FunctionType) and name not in ("note", "phase"):
                what = f"{where}.{name.strip('_')}"
                setattr(cls, name, points.outer_call(what, value))
    for name in ("job", "host", "gpu"):
        function = getattr(lock.Locks, name)
        setattr(lock.Locks, name, points.manager(f"locks.{name}", function))
    for name in ("acquire", "release", "reconcile"):
        function = getattr(partitioner.Partitioner, name)
        setattr(partitioner.Partitioner, name, points.verb_of(name, function))


def _wrap_changes(points: _Points) -> None:
    """Put failpoints around every single change, whoever makes it."""
    import sqlite3

    from slurm_mig import nvml

    for name in _FILES.split():
        setattr(os, name, points.call(f"os.{name}", getattr(os, name)))
    os_open = os.open

    def opened(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
        if not flags & os.O_CREAT:
            return os_open(path, flags, *arguments, **keywords)
        with points.around("os.open"):
            return os_open(path, flags, *arguments, **keywords)

    os.open = opened
    write_text: Any = points.call("Path.write_text", Path.write_text)
    Path.write_text = write_text  # type: ignore[method-assign]

    nvml_call = nvml._call  # noqa: SLF001 -- the one way to the driver

    def called(what: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if not _DRIVER.match(function.__name__):
            return nvml_call(what, function, *arguments, **keywords)
        with points.around(function.__name__):
            return nvml_call(what, function, *arguments, **keywords)

    setattr(nvml, "_call", called)  # noqa: B010 -- of another type for mypy

    class Database(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            found = _STATEMENT.match(sql)
            if found is None:
                return super().execute(sql, *arguments)
            with points.around(f"sql.{found[1].split()[0]}"):
                return super().execute(sql, *arguments)

    connect = sqlite3.connect

    def connected(*arguments: Any, **keywords: Any) -> Any:
        return connect(*arguments, factory=Database, **keywords)

    sqlite3.connect = connected


def install(folder: Path, *scripts: Path) -> Path:
    """Make the launcher in `folder`, and installed hooks use it; returns it."""
    folder.mkdir(mode=0o755, exist_ok=True)
    launcher = folder / "python"
    words = (sys.executable, "-I", "-S", __file__, folder)
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    launcher.chmod(0o755)
    for script in scripts:
        text, number = re.subn(
            r"^PYTHON=.*$", f"PYTHON={shlex.quote(str(launcher))}", script.read_text(), flags=re.M
        )
        assert number == 1, script  # noqa: S101 -- an installed hook has one
        script.write_text(text)
    return launcher


def main(folder: str, arguments: list[str]) -> None:
    """Run `python ARGUMENTS`, which is `[-I] [-S] -c CODE PYTHON_PATH …`, with failpoints."""
    at = arguments.index("-c")
    code, sys.argv = arguments[at + 1], ["-c", *arguments[at + 2 :]]
    key = os.environ.get("SLURM_JOB_ID", "reconcile")
    if any(Path(folder, f"{what}-{key}").exists() for what in ("arm", "record")):
        before = list(sys.path)
        sys.path += sys.argv[1].split(":")  # as the code itself will say
        points = _Points(Path(folder), key)
        _wrap_floor(points)
        _wrap_changes(points)
        sys.path[:] = before
    exec(compile(code, "<hook>", "exec"), {"__name__": "__main__"})  # noqa: S102 -- python -c


if __name__ == "__main__":
    del sys.path[0]  # this file's folder
    main(sys.argv[1], sys.argv[2:])
