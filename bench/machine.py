"""Names the machine that was measured on."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def describe(scheduler: str) -> dict[str, str | int | float]:
    """What a reader must know to compare numbers; `load` is the load average of a minute."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "scheduler": scheduler,
        "load": round(os.getloadavg()[0], 2),
    }
