"""The ledger's file: put aside while others use it, and what an error of SQLite is about."""

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_mig import ledger_file
from slurm_mig.errors import NodeFault
from slurm_mig.ledger import LIVE, Ledger, Wish, from_text, glance, same_life, to_text
from slurm_mig.ledger_file import Damaged
from slurm_mig.profiles import Placement

WISH = Wish("GPU-a", "3g.20gb", 9, Placement(4, 4))


def test_whoever_has_it_open_cannot_write_any_more(tmp_path: Path) -> None:
    """A hook that opened the ledger before it was put aside fails, and spoils neither."""
    with Ledger(tmp_path) as old:
        old.intend(7, 0, [WISH], "boot")
        aside = ledger_file.put_aside(old.path, 0)
        before = aside.read_bytes()
        with Ledger(tmp_path) as new:
            new.intend(8, 0, [WISH], "boot")
            with pytest.raises(NodeFault, match="readonly"):
                old.intend(9, 0, [WISH], "boot")
    assert aside == tmp_path / "ledger.damaged-1.sqlite"
    assert aside.read_bytes() == before
    with Ledger(tmp_path) as ledger:
        assert [entry.job for entry in ledger.entries()] == [8]


def test_writer_is_waited_for(tmp_path: Path) -> None:
    """It is not put aside while a process is in the middle of a transaction."""
    with Ledger(tmp_path) as ledger:
        ledger.intend(7, 0, [WISH], "boot")
    path = tmp_path / "ledger.sqlite"
    code = (
        "import sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('BEGIN IMMEDIATE')\n"
        "print('begun', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "begun\n"
        with pytest.raises(NodeFault, match=r"damaged, but a process still uses it after 0\.05 s"):
            ledger_file.put_aside(path, 0.05)
        assert path.exists()
        writer.stdin.close()
        aside = ledger_file.put_aside(path, 30)
    assert (path.exists(), aside.exists()) == (False, True)


def test_numbers_of_those_put_aside(tmp_path: Path) -> None:
    """Each gets the next free number, with what lay beside it; none is overwritten."""
    path = tmp_path / "ledger.sqlite"
    for number in (1, 2, 3):
        path.write_text(str(number))
        for suffix in ("-journal", "-wal", "-shm"):
            path.with_name(path.name + suffix).write_text(f"{suffix} {number}")
        aside = ledger_file.put_aside(path, 0)
        assert aside.name == f"ledger.damaged-{number}.sqlite"
        assert aside.read_text() == str(number)
        assert aside.with_name(aside.name + "-wal").read_text() == f"-wal {number}"
    assert len(list(tmp_path.iterdir())) == 12


def test_that_cannot_be_put_aside(tmp_path: Path) -> None:
    """A ledger that is not there, or cannot be renamed, is one sentence."""
    with pytest.raises(NodeFault, match=r"cannot be put aside: No such file or directory"):
        ledger_file.put_aside(tmp_path / "ledger.sqlite", 0)


def test_socket(tmp_path: Path) -> None:
    """A socket in its place is refused like all that is no file."""
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path may have 107 bytes only
        try:
            listener.bind("ledger.sqlite")
        finally:
            os.chdir(here)
        with pytest.raises(Damaged, match="is no regular file: No such device or address"):
            Ledger(tmp_path)


def test_what_an_error_is_about() -> None:
    """A full disk is not damage, a malformed page is; nor is a mistake of our own."""
    made = {}
    for code in ("FULL", "IOERR", "BUSY", "CONSTRAINT", "CANTOPEN", "CORRUPT", "NOTADB", "ERROR"):
        error = sqlite3.OperationalError(code)
        error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{code}")  # type: ignore[misc]
        made[code] = ledger_file.is_damage(error)
    assert {code for code, damage in made.items() if damage} == {"CORRUPT", "NOTADB", "ERROR"}
    extended = sqlite3.OperationalError("disk I/O error")
    extended.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC  # type: ignore[misc]
    assert not ledger_file.is_damage(extended)
    assert ledger_file.is_damage(sqlite3.OperationalError("could not decode"))
    assert not ledger_file.is_damage(sqlite3.ProgrammingError("closed"))


def test_closed(tmp_path: Path) -> None:
    """Use after close is an error of ours, not a damaged ledger."""
    ledger = Ledger(tmp_path)
    ledger.close()
    with pytest.raises(NodeFault, match="closed database") as caught:
        ledger.entries()
    assert not isinstance(caught.value, Damaged)


def test_check_sees_what_rows_do_not_tell(tmp_path: Path) -> None:
    """A page that no row is on is looked at by `check`."""
    with Ledger(tmp_path) as ledger:
        entries = ledger.intend(7, 0, [WISH] * 300, "boot")
        assert len(entries) == 300
        ledger._write("DELETE FROM instance")
        ledger.check()
    path = tmp_path / "ledger.sqlite"
    content = bytearray(path.read_bytes())
    assert int.from_bytes(content[36:40], "big") > 0
    content[36:40] = (7).to_bytes(4, "big")  # the number of free pages
    path.write_bytes(bytes(content))
    with Ledger(tmp_path) as ledger:
        assert ledger.entries() == []
        with pytest.raises(Damaged, match=r"[Ff]reelist"):
            ledger.check()


def test_glance_at_a_damaged_one(tmp_path: Path) -> None:
    """Whoever only looks is told too; a ledger of format 1 is still understood."""
    with Ledger(tmp_path) as ledger:
        (entry,) = ledger.intend(7, 1000, [WISH], "boot/1")
        ledger.live(entry, 2, [0], ["MIG-x"])
    for life in ("boot/1", "boot"):
        seen = glance(tmp_path, life)
        assert seen is not None
        assert dict(seen.owners) == {("GPU-a", 2): 1000}
    seen = glance(tmp_path, "boot/2")
    assert seen is not None
    assert dict(seen.owners) == {}
    database = sqlite3.connect(tmp_path / "ledger.sqlite")
    database.execute("UPDATE instance SET uid = 0")
    database.commit()
    with pytest.raises(NodeFault, match="its content is not what slurm-mig wrote"):
        glance(tmp_path, "boot/1")
    database.execute("PRAGMA user_version = 1")
    database.commit()
    database.close()
    seen = glance(tmp_path, "boot/1")
    assert seen is not None
    assert dict(seen.owners) == {("GPU-a", 2): 0}


def test_entries_as_text(tmp_path: Path) -> None:
    """What was handed over is read back as it was, but for the row's number."""
    with Ledger(tmp_path) as ledger:
        (entry,) = ledger.intend(7, 1000, [WISH], "boot/1")
        ledger.live(entry, 2, [0, 1], ["MIG-x", "MIG-y"])
        (entry,) = ledger.entries()
        (read,) = from_text(to_text([entry]))
        assert (read.id, read.state, read.wish, read.gi) == (0, LIVE, WISH, 2)
        assert (read.job, read.uid, read.cis, read.uuids) == (7, 1000, (0, 1), ("MIG-x", "MIG-y"))
        assert read.boot == "boot/1"
        ledger.forget(entry)
        ledger.take_up([read])
        (again,) = ledger.entries()
        assert (again.job, again.gi, again.uuids) == (7, 2, ("MIG-x", "MIG-y"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a/1", "a/1", True),
        ("a/1", "a/2", False),
        ("a/1", "b/1", False),
        ("a", "a/1", True),
        ("a/1", "a", True),
        ("a/", "a/1", True),
    ],
)
def test_same_life(one: str, other: str, same: bool) -> None:
    """The boot must be the same; the load where both know it."""
    assert same_life(one, other) is same


def test_disk_that_fails_at_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of the disk is told as that, not taken for damage."""
    Ledger(tmp_path).close()

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ledger_file.os, "open", fail)
    with pytest.raises(NodeFault, match="Input/output error") as caught:
        Ledger(tmp_path)
    assert not isinstance(caught.value, Damaged)


def test_schema_that_is_no_text(tmp_path: Path) -> None:
    """SQLite quotes the file in its message; what is no text there is damage, and no crash."""
    Ledger(tmp_path).close()
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE miss", b"CREATE TA\xff\xfe\xfd miss"))
    with pytest.raises(Damaged, match="its schema or content is not text"):
        Ledger(tmp_path)
    with pytest.raises(NodeFault):
        glance(tmp_path, "boot")


def test_format_1_that_is_not_sound(tmp_path: Path) -> None:
    """A ledger of format 1 has no seal, so the whole file is looked at before it is upgraded."""
    with Ledger(tmp_path) as ledger:
        ledger.intend(7, 0, [WISH] * 300, "boot")
        ledger._write("DELETE FROM instance")
    path = tmp_path / "ledger.sqlite"
    database = sqlite3.connect(path)
    for statement in (
        "DROP TABLE seal",
        "CREATE INDEX instance_job ON instance (job)",
        "PRAGMA user_version = 1",
    ):
        database.execute(statement)
    database.commit()
    database.close()
    content = bytearray(path.read_bytes())
    content[36:40] = (77).to_bytes(4, "big")  # the number of free pages
    path.write_bytes(bytes(content))
    with pytest.raises(Damaged, match=r"[Ff]reelist"):
        Ledger(tmp_path)
    assert path.read_bytes() == bytes(content)


def test_transaction_that_sqlite_has_ended(tmp_path: Path) -> None:
    """After some errors SQLite has rolled back already; the first error is what is raised."""
    with Ledger(tmp_path) as ledger:
        with pytest.raises(ValueError, match="the cause"), ledger._begun("IMMEDIATE"):
            _roll_back(ledger)
        assert len(ledger.intend(7, 0, [WISH], "boot")) == 1


def _roll_back(ledger: Ledger) -> None:
    ledger._database.execute("ROLLBACK")
    raise ValueError("the cause")


def test_holders_make_a_missing_ledger_damaged(tmp_path: Path) -> None:
    """It is not made anew while jobs hold instances, and asked only when it is missing."""
    with pytest.raises(Damaged, match="empty or gone, but job 5 holds instances made by it"):
        Ledger(tmp_path, lambda: [9, 5])
    assert (tmp_path / "ledger.sqlite").stat().st_size == 0
    Ledger(tmp_path, list).close()

    def never() -> list[int]:
        raise AssertionError("asked")

    Ledger(tmp_path, never).close()


def test_what_others_write_meanwhile_is_looked_at(tmp_path: Path) -> None:
    """An open ledger looks at the seal again after any other process wrote."""
    with Ledger(tmp_path) as ledger:
        ledger.intend(7, 0, [WISH], "boot")
        with Ledger(tmp_path) as other:
            other.intend(8, 0, [WISH], "boot")
        assert [entry.job for entry in ledger.entries()] == [7, 8]
        database = sqlite3.connect(tmp_path / "ledger.sqlite")
        database.execute("UPDATE instance SET job = 9")
        database.commit()
        database.close()
        for use in (ledger.entries, lambda: ledger.removing(7), ledger.check):
            with pytest.raises(Damaged, match="bad seal"):
                use()
