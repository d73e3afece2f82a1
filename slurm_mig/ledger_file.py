"""The ledger's file: its format, what tells that it is damaged, and how it is put aside.

SQLite notices a torn page, but not a flipped bit in a number, an old copy, or a file that was cut
at a page. So every transaction seals what the tables say with a CRC-32 (all single flipped bits
and bursts up to 32 of them show), and every reader and writer looks at the seal first. The index
of format 1 is gone: a row that a damaged index hides is a row that is lost.
"""

import errno
import fcntl
import os
import sqlite3
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slurm_mig.errors import NodeFault

NAME = "ledger.sqlite"
#: "smig" in SQLite's header: tells our file from any other database.
APPLICATION_ID = 0x736D6967
#: Format 1 had no seal.
VERSION = 2

_SEAL = "CREATE TABLE seal (one INTEGER PRIMARY KEY CHECK (one = 0), value INTEGER NOT NULL) STRICT"

#: What makes an empty database a ledger; then it is sealed.
SCHEMA = (
    """CREATE TABLE instance (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gpu TEXT NOT NULL,
    profile TEXT NOT NULL,
    profile_id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    size INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('intent', 'live', 'removing', 'quarantined')),
    gi INTEGER,
    cis TEXT NOT NULL DEFAULT '[]',
    uuids TEXT NOT NULL DEFAULT '[]',
    boot TEXT NOT NULL,
    since REAL NOT NULL,
    reason TEXT NOT NULL DEFAULT ''
) STRICT""",
    """CREATE TABLE miss (
    job INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    last REAL NOT NULL
) STRICT""",
    _SEAL,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
#: What makes a ledger of format 1 one of format 2.
FROM_1 = ("DROP INDEX instance_job", _SEAL, f"PRAGMA user_version = {VERSION}")

#: What lies beside the file while SQLite works on it, or after somebody else's tool did.
_JOURNAL, _FOREIGN = "-journal", ("-wal", "-shm")

#: Errors of SQLite that say something of the disk or of who else is at work; any other one is
#: about what stands in the file.
_NOT_THE_FILE = (
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL),
    *(sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_AUTH),
)

#: unixFile's lock bytes (https://www.sqlite.org/src/doc/trunk/src/os.h, PENDING_BYTE): pending,
#: reserved, and 510 shared.
_LOCK_BYTES, _LOCK_START = 512, 0x40000000


class Damaged(NodeFault):
    """The ledger is not what slurm-mig wrote. Hooks stop; `slurm-mig reconcile` rebuilds it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"ledger {path}: {why}; nothing was changed. To put it aside and rebuild it run: "
            "slurm-mig reconcile"
        )
        self.why = why


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error of SQLite is about what stands in the file."""
    if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return False
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _NOT_THE_FILE


def _wrong(status: os.stat_result) -> str:
    """Why a file cannot be one that we made; "" if it can."""
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    if status.st_uid != os.geteuid() or mode & 0o022:
        return f"owned by uid {status.st_uid}, mode {mode:04o}: others may have written it"
    return f"has {status.st_nlink} names (hard links)" if status.st_nlink > 1 else ""


def settle(path: Path) -> None:
    """See that the file is there, and is one that only we wrote. Raises Damaged, OSError."""
    # Settled before SQLite opens it by name. O_NONBLOCK: nothing waits for whatever it may be.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV):
            raise Damaged(path, f"is no regular file: {error.strerror}") from None
        raise
    try:
        status = os.fstat(descriptor)
        head = os.pread(descriptor, 20, 0) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(descriptor)
    if why := _wrong(status):
        raise Damaged(path, why)
    # Otherwise SQLite takes it for a file that may only be read, or looks for a write-ahead log.
    if len(head) == 20 and head.startswith(b"SQLite format 3\0") and head[18:20] != b"\x01\x01":
        raise Damaged(path, "its header says that something else than slurm-mig writes it")
    with suppress(FileNotFoundError):
        if why := _wrong(path.with_name(NAME + _JOURNAL).lstat()):
            raise Damaged(path, f"its journal {why}")
    for suffix in _FOREIGN:
        if os.path.lexists(path.with_name(NAME + suffix)):
            raise Damaged(path, f"{NAME}{suffix} lies beside it, which slurm-mig never makes")


def header(database: sqlite3.Connection) -> tuple[int, int]:
    """Whose file it is, and its format."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return application, version


def _value(database: sqlite3.Connection) -> int:
    """What the seal has to be: over the format, the schema, and every row."""
    said = [
        database.execute(query).fetchall()
        for query in (
            "SELECT type, name, sql FROM sqlite_master ORDER BY name",
            "SELECT * FROM instance ORDER BY id",
            "SELECT * FROM miss ORDER BY job",
        )
    ]
    return zlib.crc32(repr((VERSION, said)).encode())


def sealed(database: sqlite3.Connection) -> bool:
    """Whether the file says what was last written; within a transaction. Raises sqlite3.Error."""
    return database.execute("SELECT value FROM seal").fetchall() == [(_value(database),)]


def seal(database: sqlite3.Connection) -> None:
    """Seal what a transaction has written, in that transaction."""
    database.execute("INSERT OR REPLACE INTO seal VALUES (0, ?)", (_value(database),))


def sound(database: sqlite3.Connection) -> str:
    """What SQLite finds wrong in the file, in one line; "" if nothing."""
    found = [row[0] for row in database.execute("PRAGMA integrity_check(3)")]
    return "" if found == ["ok"] else "; ".join(found)


@contextmanager
def _at_rest(path: Path, timeout: float) -> Iterator[None]:
    """Keep out whoever still writes by SQLite; what is no regular file has no writers."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        deadline = time.monotonic() + timeout
        while stat.S_ISREG(os.fstat(descriptor).st_mode):
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_START)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise NodeFault(
                        f"ledger {path}: damaged, but a process still uses it after {timeout:g} s; "
                        f"see which (fuser {path}), then run: slurm-mig reconcile"
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def put_aside(path: Path, timeout: float) -> Path:
    """Rename the file, whatever it is, to `ledger.damaged-<n>.sqlite`; its new path.

    Whoever still has it open cannot write to it any more: SQLite looks whether a file was moved.
    The caller holds the host's lock. Raises NodeFault.
    """
    number = 1
    while os.path.lexists(aside := path.with_name(f"ledger.damaged-{number}.sqlite")):
        number += 1
    try:
        with _at_rest(path, timeout):
            # A file before its journal: should we die in between, SQLite drops a journal that has
            # no file, while a file without its journal could pass for whole.
            path.rename(aside)
            for suffix in (_JOURNAL, *_FOREIGN):
                with suppress(FileNotFoundError):
                    path.with_name(NAME + suffix).rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise NodeFault(
            f"ledger {path}: damaged, and cannot be put aside: {error.strerror}"
        ) from None
    return aside
