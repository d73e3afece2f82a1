"""The wall clock: nothing that is decided depends on it."""

import ast
import time
from pathlib import Path

import invariants
import pytest
from invariants import Job

import slurm_mig
from slurm_mig.ledger import Ledger

DAY = 86400.0


@pytest.fixture
def clock(monkeypatch):
    """The wall clock, which `clock(seconds)` puts forward or back; other clocks go on."""
    real = time.time

    def put(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return put


@pytest.mark.parametrize("jump", [-DAY, DAY, -20 * 365 * DAY, 3650 * DAY])
def test_between_prolog_and_epilog(new_site, clock, figures, jump):
    """A job's life, with the clock put forward or back between any two of its steps."""
    site = new_site(layout="balanced")
    site.acquire(7, "3g.20gb")
    clock(jump)
    invariants.settled(site.node, {7: Job(profiles=("3g.20gb",))})
    site.acquire(8, "1g.5gb")
    assert site.reconcile({7, 8}) == {}
    clock(0)
    assert site.reconcile({7, 8}) == {}
    assert site.release(7) == 1
    clock(jump)
    assert site.reconcile({8}) == {}
    assert site.reconcile(set())["mended"][0].endswith("removed (job ended)")
    invariants.settled(site.node, {})
    figures("clock", jumps=4)


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_misses_in_a_row(tmp_path, clock, jump):
    """Failed starts are counted in a row, whatever the clock says between them."""
    with Ledger(tmp_path) as ledger:
        assert ledger.missed(7) == 1
        clock(jump)
        ledger.served(8)
        assert ledger.missed(7) == 2
        clock(0)
        ledger.served(8)
        assert ledger.missed(7) == 3


#: Who reads the wall clock or a file's times, and what for.
READERS = {
    "ledger.py": "when a row was written, for people; counts of starts of a week ago are dropped",
    "log.py": "the log line's time",
    "drained.py": "whether a drain is so fresh that slurmctld may not show it yet",
    "handover.py": "whether a folder was touched meanwhile: another time, not a later one",
    "doctor/probe.py": "doctor tells that the clock is behind",
}
_NAMES = {"time.time", "time.time_ns", "time.strftime", "time.localtime", "time.gmtime"}
_TIMES = {"st_mtime", "st_mtime_ns", "st_ctime", "st_ctime_ns", "st_atime", "st_atime_ns"}


def _reads_the_clock(tree: ast.AST) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and (ast.unparse(node) in _NAMES or node.attr in _TIMES))
        or (isinstance(node, ast.ImportFrom) and node.module == "time")
        or (isinstance(node, ast.Import | ast.ImportFrom) and "datetime" in ast.unparse(node))
        for node in ast.walk(tree)
    )


def test_who_reads_the_clock():
    """Only these files of the product read the wall clock; whatever waits uses a monotonic one."""
    package = Path(slurm_mig.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] not in ("simulator", "rehearsal")
        and _reads_the_clock(ast.parse(path.read_text()))
    }
    assert found == set(READERS)
