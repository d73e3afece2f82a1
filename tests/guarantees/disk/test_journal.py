"""A journal beside the ledger, cut, flipped or of another time: the state before, or no belief."""

import os
import random
import sqlite3
from pathlib import Path

import effort
import pytest

from slurm_mig.ledger import Ledger, Wish
from slurm_mig.ledger_file import Damaged
from slurm_mig.profiles import Placement

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600 if effort.SOAK else 120)]

STEP = effort.count(401, 7)
ROWS = 400


class Crash:
    """A ledger that died in the middle of a transaction: its file half written, and its journal."""

    def __init__(self, state: Path) -> None:
        self.state, self.path = state, state / "ledger.sqlite"
        self.journal = state / "ledger.sqlite-journal"
        wishes = [Wish(f"GPU-{n}", "1g.5gb", 19, Placement(0, 1)) for n in range(ROWS)]
        with Ledger(state) as ledger:
            ledger.intend(7, 0, wishes, "boot")
            self.entries = ledger.entries()
        self.before = self.path.read_bytes()
        writer = sqlite3.connect(self.path, isolation_level=None)
        # So that pages are written before the end, which makes the journal a hot one.
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE instance SET job = 8")
        self.torn, self.undo = self.path.read_bytes(), self.journal.read_bytes()
        writer.execute("ROLLBACK")
        writer.close()
        assert self.torn != self.before
        assert len(self.undo) > 512

    def outcome(self, content: bytes, journal: bytes) -> str:
        """What a hook reads after a crash that left these."""
        self.path.write_bytes(content)
        self.journal.write_bytes(journal)
        try:
            with Ledger(self.state, lambda: [7]) as ledger:
                entries = ledger.entries()
        except Damaged:
            return "damaged"
        finally:
            self.journal.unlink(missing_ok=True)
        assert entries == self.entries
        return "whole"


@pytest.fixture
def crash(tmp_path):
    """A ledger with many rows and a hot journal."""
    return Crash(tmp_path)


def test_whole_journal(crash):
    """The journal of a killed writer undoes what it had written."""
    assert crash.outcome(crash.torn, crash.undo) == "whole"
    assert crash.outcome(crash.before, b"") == "whole"
    assert crash.outcome(crash.torn, b"") == "damaged"


def test_cut_and_flipped(crash, figures):
    """A journal cut at any byte, or with any byte's bit flipped, never gives a third state."""
    seed = effort.seed()
    chance = random.Random(seed)  # noqa: S311
    tried = 0
    seen = set()
    for at in range(chance.randrange(STEP), len(crash.undo), STEP):
        flipped = bytearray(crash.undo)
        flipped[at] ^= 1 << chance.randrange(8)
        for content in (crash.torn, crash.before):
            for journal in (crash.undo[:at], bytes(flipped)):
                seen.add(crash.outcome(content, journal))
                tried += 1
    assert seen == {"whole", "damaged"}, seed
    figures("disk", journals=tried, seeds=[seed])


def test_of_another_time(crash):
    """An old journal makes of a newer ledger nothing that is believed, but the state it is from."""
    crash.path.write_bytes(crash.before)
    with Ledger(crash.state) as ledger:
        ledger.intend(9, 0, [Wish("GPU-x", "1g.5gb", 19, Placement(0, 1))] * ROWS, "boot")
    assert crash.outcome(crash.path.read_bytes(), crash.undo) in ("whole", "damaged")


def test_garbage(crash):
    """What is no journal at all undoes nothing."""
    for journal in (b"x" * 5000, os.urandom(5000), bytes(5000)):
        assert crash.outcome(crash.before, journal) == "whole"
        assert crash.outcome(crash.torn, journal) == "damaged"
