"""The ledger: the node's durable record of which job owns which instance.

SQLite in `<state>/ledger.sqlite`, one row per instance from the intent to make it until it is
verified gone. A rollback journal with synchronous=FULL: a commit is on the disk when it returns,
and a process killed at any instruction leaves the state before or after it.
"""

import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from slurm_mig.errors import NodeFault
from slurm_mig.profiles import Placement

#: "smig" in SQLite's header: tells our file from any other database.
APPLICATION_ID = 0x736D6967
VERSION = 1

INTENT = "intent"  # wanted; the driver may or may not have made it
LIVE = "live"  # made, and handed to its job
REMOVING = "removing"  # being destroyed; its space is not free yet
QUARANTINED = "quarantined"  # would not go; its space is offered to nobody

_SCHEMA = f"""
CREATE TABLE instance (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gpu TEXT NOT NULL,
    profile TEXT NOT NULL,
    profile_id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    size INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('{INTENT}', '{LIVE}', '{REMOVING}', '{QUARANTINED}')),
    gi INTEGER,
    cis TEXT NOT NULL DEFAULT '[]',
    uuids TEXT NOT NULL DEFAULT '[]',
    boot TEXT NOT NULL,
    since REAL NOT NULL,
    reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX instance_job ON instance (job);
CREATE TABLE miss (
    job INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    last REAL NOT NULL
) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""

_COLUMNS = (
    "id, job, uid, gpu, profile, profile_id, start, size, state, gi, cis, uuids, boot, reason"
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted: a profile at a placement of a GPU (by UUID)."""

    gpu: str
    profile: str
    profile_id: int
    placement: Placement


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: what is wanted, and, once it lives, by which ids and UUIDs.

    `boot` is the kernel's boot id when it was made: instances do not survive a reboot, and their
    ids mean something else after one.
    """

    id: int
    job: int
    uid: int
    wish: Wish
    state: str
    gi: int | None
    cis: tuple[int, ...]
    uuids: tuple[str, ...]
    boot: str
    reason: str


def _entry(row: tuple[object, ...]) -> Entry:
    (ident, job, uid, gpu, profile, profile_id, start, size, state, gi, cis, uuids, boot, why) = row
    return Entry(
        id=int(str(ident)),
        job=int(str(job)),
        uid=int(str(uid)),
        wish=Wish(
            str(gpu), str(profile), int(str(profile_id)), Placement(int(str(start)), int(str(size)))
        ),
        state=str(state),
        gi=None if gi is None else int(str(gi)),
        cis=tuple(json.loads(str(cis))),
        uuids=tuple(json.loads(str(uuids))),
        boot=str(boot),
        reason=str(why),
    )


def prepare_directory(path: Path) -> None:
    """Make the state directory, or check that it is ours: owner and mode. Raises NodeFault."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise NodeFault(f"state directory {path}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise NodeFault(f"state directory {path}: is no directory; set [state] directory to one")
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise NodeFault(
            f"state directory {path}: owned by uid {status.st_uid}, mode "
            f"{stat.S_IMODE(status.st_mode):04o}; it must belong to uid {os.geteuid()} and be "
            "writable by nobody else"
        )


class Ledger:
    """The open ledger; every method is one transaction. Raises NodeFault when it is unusable."""

    def __init__(self, state: Path) -> None:
        """Open `<state>/ledger.sqlite`, making it when missing."""
        self.path = state / "ledger.sqlite"
        prepare_directory(state)
        with self._guarded():
            # O_NOFOLLOW and the mode are settled before SQLite opens the file by name.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(self.path, flags, 0o600))
            self._database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            self._database.execute("PRAGMA synchronous = FULL")
            self._prepare()

    def _prepare(self) -> None:
        application, version = self._header()
        if (application, version) == (APPLICATION_ID, VERSION):
            return
        with self._transaction():
            # Looked at again: another process may have made the schema while we waited.
            application, version = self._header()
            tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if (application, version, tables) == (0, 0, 0):
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                return
        if application != APPLICATION_ID:
            raise NodeFault(
                f"ledger {self.path}: a database, but not a slurm-mig ledger; move it away"
            )
        if version != VERSION:
            raise NodeFault(
                f"ledger {self.path}: written by another release (format {version}, this one "
                f"reads {VERSION}); use that release, or drain the node and move it away"
            )

    def _header(self) -> tuple[int, int]:
        (application,) = self._database.execute("PRAGMA application_id").fetchone()
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        return application, version

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise NodeFault(
                f"ledger {self.path}: {error}; nothing was changed. Look at the file and its disk, "
                "then run: slurm-mig reconcile"
            ) from error
        except OSError as error:
            raise NodeFault(f"ledger {self.path}: {error.strerror}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _write(self, statement: str, *values: object) -> None:
        with self._guarded():
            self._database.execute(statement, values)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entries(self, job: int | None = None) -> list[Entry]:
        """All rows, or those of one job, oldest first."""
        query = f"SELECT {_COLUMNS} FROM instance"  # noqa: S608 -- a constant
        with self._guarded():
            if job is None:
                rows = self._database.execute(f"{query} ORDER BY id")
            else:
                rows = self._database.execute(f"{query} WHERE job = ? ORDER BY id", (job,))
            return [_entry(row) for row in rows]

    def intend(self, job: int, uid: int, wishes: Iterable[Wish], boot: str) -> list[Entry]:
        """Write the intent to make these instances, all or none, and return their rows."""
        with self._guarded(), self._transaction():
            for wish in wishes:
                self._database.execute(
                    "INSERT INTO instance (job, uid, gpu, profile, profile_id, start, size,"
                    " state, boot, since) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(job, uid, wish.gpu, wish.profile, wish.profile_id),
                        *(*wish.placement, INTENT, boot, time.time()),
                    ),
                )
        return [entry for entry in self.entries(job) if entry.state == INTENT]

    def live(self, entry: Entry, gi: int, cis: Iterable[int], uuids: Iterable[str]) -> None:
        """The instance was made and read back."""
        self._write(
            "UPDATE instance SET state = ?, gi = ?, cis = ?, uuids = ? WHERE id = ?",
            *(LIVE, gi, json.dumps(list(cis)), json.dumps(list(uuids)), entry.id),
        )

    def removing(self, job: int) -> list[Entry]:
        """Mark a job's instances as on their way out, and return them.

        Quarantined ones are not among them: they had their budget, and are reconcile's.
        """
        self._write(
            "UPDATE instance SET state = ? WHERE job = ? AND state != ?", REMOVING, job, QUARANTINED
        )
        return [entry for entry in self.entries(job) if entry.state == REMOVING]

    def quarantine(self, entry: Entry, reason: str) -> None:
        """The instance would not go; keep its space from everybody."""
        self._write(
            "UPDATE instance SET state = ?, reason = ? WHERE id = ?", QUARANTINED, reason, entry.id
        )

    def forget(self, entry: Entry) -> None:
        """The instance is verified gone."""
        self._write("DELETE FROM instance WHERE id = ?", entry.id)

    def missed(self, job: int) -> int:
        """Count one more start without room; return how many in a row."""
        self._write(
            "INSERT INTO miss (job, count, last) VALUES (?, 1, ?) "
            "ON CONFLICT (job) DO UPDATE SET count = count + 1, last = excluded.last",
            *(job, time.time()),
        )
        with self._guarded():
            (count,) = self._database.execute(
                "SELECT count FROM miss WHERE job = ?", (job,)
            ).fetchone()
        return int(count)

    def served(self, job: int) -> None:
        """The job started, or will not: its misses are over; so are those of a week ago."""
        self._write("DELETE FROM miss WHERE job = ? OR last < ?", job, time.time() - 7 * 86400)


@dataclass(frozen=True, slots=True)
class Glance:
    """What a ledger holds, for whoever only looks.

    `owners` is the uid by (GPU UUID, GI id) of what lives in this boot, `newest`
    the time of the newest row in seconds since the epoch, 0 if there is none.
    """

    rows: int
    quarantined: int
    newest: float
    owners: Mapping[tuple[str, int], int]


def glance(state: Path, boot: str) -> Glance | None:
    """Look at the ledger without changing or making anything; None when there is none yet.

    Raises NodeFault when it is unusable, not ours, or of another format; PermissionError without
    root.
    """
    path = state / "ledger.sqlite"
    try:
        path.lstat()
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            (application,) = database.execute("PRAGMA application_id").fetchone()
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if (application, version) == (0, 0):
                return None  # just being made
            if (application, version) != (APPLICATION_ID, VERSION):
                raise NodeFault(
                    f"ledger {path}: not a slurm-mig ledger of format {VERSION} (it says "
                    f"{application:#x}, {version})"
                )
            rows = database.execute("SELECT gpu, gi, uid, state, boot, since FROM instance")
            found = rows.fetchall()
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise NodeFault(f"ledger {path}: {error}") from None
    return Glance(
        rows=len(found),
        quarantined=sum(row[3] == QUARANTINED for row in found),
        newest=max((row[5] for row in found), default=0.0),
        owners=MappingProxyType(
            {(row[0], row[1]): row[2] for row in found if row[3] == LIVE and row[4] == boot}
        ),
    )
