"""A look at the ledger by whoever only looks: nothing made, nothing changed, faults told apart."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from slurm_mig.errors import NodeFault
from slurm_mig.ledger import Glance, Ledger, Wish, glance
from slurm_mig.profiles import Placement

NOW, BEFORE = "boot-2", "boot-1"


def wish(start: int) -> Wish:
    """One slice of a GPU."""
    return Wish("GPU-a", "1g.5gb", 19, Placement(start, 1))


def files(folder: Path) -> dict[str, bytes]:
    """What there is."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_nothing_there(tmp_path: Path) -> None:
    """No ledger, or one whose first writer has not begun: None, and none is made."""
    assert glance(tmp_path, NOW) is None
    assert files(tmp_path) == {}
    (tmp_path / "ledger.sqlite").touch()
    assert glance(tmp_path, NOW) is None
    assert files(tmp_path) == {"ledger.sqlite": b""}


def test_what_it_tells(tmp_path: Path) -> None:
    """Rows, how many are in quarantine, the newest, and who owns what lives in this boot."""
    with Ledger(tmp_path) as ledger:
        assert glance(tmp_path, NOW) == Glance(0, 0, 0.0, {})
        (old,) = ledger.intend(6, 1006, [wish(0)], BEFORE)
        ledger.live(old, 3, [0], ["MIG-old"])
        first, second, third = ledger.intend(7, 1007, [wish(1), wish(2), wish(3)], NOW)
        ledger.live(first, 8, [0], ["MIG-1"])
        ledger.live(second, 9, [0], ["MIG-2"])
        ledger.quarantine(second, "in use")
        assert third.gi is None
    before = files(tmp_path)
    seen = glance(tmp_path, NOW)
    assert seen is not None
    assert (seen.rows, seen.quarantined) == (4, 1)
    assert seen.owners == {("GPU-a", 8): 1007}
    assert files(tmp_path) == before
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as database:
        (newest,) = database.execute("SELECT max(since) FROM instance").fetchone()
    assert seen.newest == newest > 0


def test_another_database(tmp_path: Path) -> None:
    """A database of somebody else's, or of a format of the future, is said to be that."""
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as database:
        database.execute("PRAGMA application_id = 7")
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(NodeFault, match=r"not a slurm-mig ledger of format \d \(it says 0x7, 9\)"):
        glance(tmp_path, NOW)


def test_rows_that_nobody_wrote(tmp_path: Path) -> None:
    """Content that is not what slurm-mig wrote is not believed."""
    with Ledger(tmp_path) as ledger:
        ledger.intend(7, 0, [wish(0)], NOW)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as database:
        database.execute("UPDATE instance SET uid = 4711")
    with pytest.raises(NodeFault, match="its content is not what slurm-mig wrote"):
        glance(tmp_path, NOW)


def test_no_database_at_all(tmp_path: Path) -> None:
    """What is no database is a fault of the node, with SQLite's words."""
    (tmp_path / "ledger.sqlite").write_text("not a database, but long enough to be looked at" * 9)
    with pytest.raises(NodeFault, match=r"ledger \S+/ledger.sqlite: file is not a database"):
        glance(tmp_path, NOW)


def test_not_for_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to look, that is what is raised: it is no fault of the node."""

    def refused(self: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "lstat", refused)
    with pytest.raises(PermissionError):
        glance(tmp_path, NOW)
