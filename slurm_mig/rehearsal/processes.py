"""Find and end processes by what their environment says: how a scheduler tracks what it started."""

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path


def _environ(process: Path) -> bytes:
    """The environment that a process was started with; OSError if it is gone or not ours to read.

    In the middle of an exec the environment looks empty, so an empty one is looked at again. Kernel
    threads and zombies, which never have any, have no executable either.
    """
    for _ in range(10):
        if found := (process / "environ").read_bytes():
            return found
        (process / "exe").readlink()
        time.sleep(0.001)
    return b""


def marked(marks: Mapping[str, str | None]) -> list[int]:
    """Ids of live processes that were started with all of `marks`; None means any value.

    The caller itself is never among them, nor is a process whose environment it may not read.
    """
    wanted = [
        f"{name}=".encode() if value is None else f"{name}={value}\0".encode()
        for name, value in marks.items()
    ]
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            environ = b"\0" + _environ(entry)
            if all(b"\0" + mark in environ for mark in wanted):
                found.append(int(entry.name))
    return found


def end_marked(marks: Mapping[str, str | None], patience: float = 10.0) -> None:
    """Kill every process that has `marks`, until there is none, for at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while pids := marked(marks):
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {pids} with {dict(marks)} do not die")
        time.sleep(0.002)
