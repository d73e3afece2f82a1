"""Whose rows a verb of the ledger gives, and how long a miss is remembered."""

import time
from pathlib import Path

import pytest

from slurm_mig.ledger import Ledger, Wish, from_text, to_text
from slurm_mig.profiles import Placement

DAY = 86400.0


def wish(start: int) -> Wish:
    """One slice of a GPU."""
    return Wish("GPU-a", "1g.5gb", 19, Placement(start, 1))


def test_only_the_job_s_own(tmp_path: Path) -> None:
    """Who intends, or removes, gets its own rows, whatever others intend at the same time."""
    with Ledger(tmp_path) as ledger:
        (first,) = ledger.intend(7, 0, [wish(0)], "b")
        second = ledger.intend(8, 0, [wish(1), wish(2)], "b")
        assert [(entry.job, entry.wish.placement.start) for entry in second] == [(8, 1), (8, 2)]
        assert [entry.id for entry in ledger.removing(7)] == [first.id]
        assert [entry.state for entry in ledger.entries()] == ["removing", "intent", "intent"]


@pytest.mark.parametrize(("days", "count"), [(6.9, 2), (7.1, 1)])
def test_misses_of_a_week_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: float, count: int
) -> None:
    """A miss is forgotten, at the next start that is served, after a week and not before."""
    now = time.time()
    with Ledger(tmp_path) as ledger:
        monkeypatch.setattr(time, "time", lambda: now - days * DAY)
        assert ledger.missed(7) == 1
        monkeypatch.undo()
        ledger.served(8)
        assert ledger.missed(7) == count


def test_as_text_and_back(tmp_path: Path) -> None:
    """What a hand-over keeps of entries is all of them, as live ones."""
    with Ledger(tmp_path) as ledger:
        rows = ledger.intend(7, 4711, [wish(0), wish(3)], "b/1")
        for number, row in enumerate(rows):
            ledger.live(row, number, [0, 1], [f"MIG-{number}", "MIG-x"])
        rows = ledger.entries(7)
    back = from_text(to_text(rows))
    told = [(e.job, e.uid, e.wish, e.state, e.gi, e.cis, e.uuids, e.boot) for e in rows]
    assert [(e.job, e.uid, e.wish, e.state, e.gi, e.cis, e.uuids, e.boot) for e in back] == told
    assert "\n" not in to_text(rows)
