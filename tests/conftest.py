"""What holds for every test: nothing is skipped under CI for want of a part, nothing stays behind.

The CI rule is here and only here: a test skips with `pytest.skip`, and with CI=true that is a
failure. What a machine need not have is listed in `OPTIONAL`.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

#: Skips that stay skips under CI: parts that the issue's fresh machine cannot get from Debian main,
#: and what a container forbids.
OPTIONAL = (
    "rehearsal.slurm_folder",  # other Slurm releases, made by debootstrap
    "slurm-wlm-nvml-plugin",  # in Debian's contrib
    "no device nodes can be made here",
    "needs a mount namespace of its own",
    "no cgroups of version 1 here",  # which constrain jobs to their devices
    "this compiler has no address sanitizer",
)
CI = os.environ.get("CI") == "true"
#: Marks every process of this run, workers and what they start; see `_strays`.
MARK = "SLURM_MIG_TEST_RUN"
_FIRST = MARK not in os.environ
os.environ.setdefault(MARK, uuid.uuid4().hex)
# One build of the simulated driver for all test processes, inside the repository.
os.environ.setdefault("SLURM_MIG_CACHE", str(Path(__file__).parents[1] / ".cache"))

_left = pytest.StashKey[list[str]]()


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test or module was skipped."""
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


def _forbid(report: Any) -> None:
    if not CI or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = _reason(report)
    if not any(part in reason for part in OPTIONAL):
        report.outcome = "failed"
        report.longrepr = f"{reason} (CI=true: a missing part is a failure)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Turn a skip into a failure under CI."""
    report = yield
    _forbid(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """Turn the skip of a whole module into a failure under CI."""
    report = yield
    _forbid(report)
    return report


def _describe(pid: int) -> str | None:
    """A process in words; None if it is gone or a zombie."""
    with suppress(OSError):
        words = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
        if words:
            return f"{pid}: {words.strip()[:200]}"
    return None


def _children() -> list[int]:
    """Children of this process that still run."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def _strays() -> list[int]:
    """Processes that carry the mark of this run, but for this one and its ancestors."""
    wanted = f"{MARK}={os.environ[MARK]}".encode()
    family = {os.getpid()}
    pid = os.getpid()
    while pid > 1:
        with suppress(OSError):
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            family.add(pid)
            continue
        break
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) not in family:
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Note what is left: each worker its children, the first process all that carry the mark."""
    worker = hasattr(session.config, "workeroutput")
    found = [line for pid in _children() if (line := _describe(pid))] if worker or _FIRST else []
    if worker:
        session.config.workeroutput["left"] = found
        return
    found += [line for pid in _strays() if (line := _describe(pid))]
    left = session.config.stash.setdefault(_left, [])
    left += [line for line in dict.fromkeys(found) if line not in left]
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect what a worker has left."""
    left = node.config.stash.setdefault(_left, [])
    left += getattr(node, "workeroutput", {}).get("left", [])


def _tried(reports: list[Any]) -> dict[str, dict[str, Any]]:
    """What the tests of the guarantees tried, by topic; the fixture `figures` notes it."""
    totals: dict[str, dict[str, Any]] = {}
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == "guarantees":
                topic, numbers = value
                total = totals.setdefault(topic, {})
                for key, number in numbers.items():
                    total[key] = total[key] + number if key in total else number
    return totals


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was tried of the guarantees, and what is left."""
    stats = terminalreporter.stats
    reports = [report for name in ("passed", "failed") for report in stats.get(name, [])]
    for topic, numbers in sorted(_tried(reports).items()):
        words = (
            f"{key}={','.join(map(str, n)) if isinstance(n, list) else n}"
            for key, n in numbers.items()
        )
        terminalreporter.write_line(f"guarantees: {topic}: {' '.join(words)}")
    for line in terminalreporter.config.stash.get(_left, []):
        terminalreporter.write_line(f"left behind: {line}", red=True)
