"""Helpers of the tests in this folder."""

import time
from collections.abc import Callable
from pathlib import Path

HookWriter = Callable[..., Path]


def children() -> set[int]:
    """Ids of this process's children, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(int(pid) for pid in (task / "children").read_text().split())
        except FileNotFoundError:  # a thread that has just ended
            continue
    return found


def wait_for(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until `condition` holds; fail after half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited 30 s for {what}"
        time.sleep(0.002)
