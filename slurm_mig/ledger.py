"""The ledger: the node's durable record of which job owns which instance.

SQLite in `<state>/ledger.sqlite`, one row per instance from the intent to make it until it is
verified gone. A rollback journal with synchronous=FULL: a commit is on the disk when it returns,
and a process killed at any instruction leaves the state before or after it.

A ledger that is not what was last written (ledger_file.py says how that shows) is believed in
nothing: every method raises Damaged, and only reconcile goes on from there (books.py). A ledger
that is missing or empty while jobs hold instances counts as damaged: it was there before.
"""

import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from slurm_mig import ledger_file
from slurm_mig.ancestors import weak
from slurm_mig.errors import NodeFault
from slurm_mig.ledger_file import APPLICATION_ID, VERSION, Damaged
from slurm_mig.profiles import Placement

INTENT = "intent"  # wanted; the driver may or may not have made it
LIVE = "live"  # made, and handed to its job
REMOVING = "removing"  # being destroyed; its space is not free yet
QUARANTINED = "quarantined"  # would not go; its space is offered to nobody

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

    `boot` is the life of the driver (`Devices.life`) in which it was made: instances do not
    survive a reboot or a reload of the driver, and their ids mean something else after one.
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


def same_life(one: str, other: str) -> bool:
    """Whether two texts of `Devices.life` mean the same; a load that is not known is any load."""
    (boot, _, load), (other_boot, _, other_load) = one.partition("/"), other.partition("/")
    return boot == other_boot and (load == other_load or not load or not other_load)


def to_text(entries: Iterable[Entry]) -> str:
    """Entries as the hand-over keeps them, one line."""
    return json.dumps(
        [
            [
                *(e.job, e.uid, e.wish.gpu, e.wish.profile, e.wish.profile_id, *e.wish.placement),
                *(e.gi, e.cis, e.uuids, e.boot),
            ]
            for e in entries
        ]
    )


def from_text(text: str) -> list[Entry]:
    """What `to_text` made into text, as live entries without a row. Raises ValueError."""
    try:
        return [
            _entry((0, *row[:7], LIVE, row[7], json.dumps(row[8]), json.dumps(row[9]), row[10], ""))
            for row in json.loads(text)
        ]
    except (TypeError, LookupError, RecursionError) as error:
        raise ValueError(str(error)) from None


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
        if above := weak(path):
            raise NodeFault(
                f"state directory {path}: {above}, so others can put another in its place; "
                "name one in [state] directory that is in folders of root's alone"
            )
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


def _no_job() -> Iterable[int]:
    return ()


class Ledger:
    """The open ledger; every method is one transaction. Raises NodeFault when it is unusable.

    Damaged, a NodeFault, when it is not what was last written.
    """

    def __init__(self, state: Path, holders: Callable[[], Iterable[int]] = _no_job) -> None:
        """Open `<state>/ledger.sqlite`, making it when missing.

        `holders` gives the jobs that hold instances, asked only where there is no ledger yet: with
        any, it is not made but Damaged is raised.
        """
        self.path = state / ledger_file.NAME
        self._seen = -1  # data_version of the last look at the seal
        prepare_directory(state)
        with self._guarded():
            ledger_file.settle(self.path)
            self._database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            try:
                self._database.execute("PRAGMA synchronous = FULL")
                self._prepare(holders)
            except BaseException:
                self._database.close()
                raise

    def _prepare(self, holders: Callable[[], Iterable[int]]) -> None:
        if ledger_file.header(self._database) == (APPLICATION_ID, VERSION):
            return
        with self._begun("IMMEDIATE"):
            # Looked at again: another process may have made the schema while we waited.
            application, version = ledger_file.header(self._database)
            tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if (application, version, tables) == (0, 0, 0):
                if jobs := sorted(holders()):
                    raise Damaged(
                        self.path, f"empty or gone, but job {jobs[0]} holds instances made by it"
                    )
                self._become(ledger_file.SCHEMA)
            elif application != APPLICATION_ID:
                raise Damaged(self.path, "a database, but not a slurm-mig ledger")
            elif version == 1:
                if why := ledger_file.sound(self._database):
                    raise Damaged(self.path, why)
                self._become(ledger_file.FROM_1)
            elif version != VERSION:
                self._refuse(version)

    def _become(self, statements: Iterable[str]) -> None:
        for statement in statements:
            self._database.execute(statement)
        ledger_file.seal(self._database)

    def _refuse(self, version: int) -> None:
        """Raise for a format that is not ours, or for a header that only says so."""
        with suppress(sqlite3.Error):
            if version < 1 or ledger_file.sealed(self._database):
                raise Damaged(self.path, f"its header says format {version}, its content {VERSION}")
        raise NodeFault(
            f"ledger {self.path}: written by another release (format {version}, this one "
            f"reads {VERSION}); use that release, or drain the node and move it away"
        )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if ledger_file.is_damage(error):
                raise Damaged(self.path, str(error)) from error
            raise NodeFault(
                f"ledger {self.path}: {error}; nothing was changed. Look at the file and its disk, "
                "then run: slurm-mig reconcile"
            ) from error
        except UnicodeDecodeError as error:
            # SQLite quotes the file in its message, and the file is garbage there.
            raise Damaged(self.path, "its schema or content is not text") from error
        except OSError as error:
            raise NodeFault(f"ledger {self.path}: {error.strerror}") from error

    @contextmanager
    def _begun(self, kind: str) -> Iterator[None]:
        self._database.execute(f"BEGIN {kind}")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back already after some errors; the first error is what counts.
            with suppress(sqlite3.Error):
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _sealed(self, kind: str) -> Iterator[None]:
        """A transaction on a ledger that is what was last written."""
        with self._guarded(), self._begun(kind):
            # SQLite reads a page again only after another process wrote; so does this look again.
            (seen,) = self._database.execute("PRAGMA data_version").fetchone()
            if seen != self._seen:
                if not ledger_file.sealed(self._database):
                    raise Damaged(self.path, "its content is not what slurm-mig wrote (bad seal)")
                self._seen = seen
            yield
            if kind == "IMMEDIATE":
                ledger_file.seal(self._database)

    def _write(self, statement: str, *values: object) -> None:
        with self._sealed("IMMEDIATE"):
            self._database.execute(statement, values)

    def check(self) -> None:
        """Look at the whole file, not only at what its tables say. Raises Damaged."""
        with self._sealed("DEFERRED"):
            if why := ledger_file.sound(self._database):
                raise Damaged(self.path, why)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entries(self, job: int | None = None) -> list[Entry]:
        """All rows, or those of one job, oldest first."""
        query = f"SELECT {_COLUMNS} FROM instance ORDER BY id"  # noqa: S608 -- a constant
        with self._sealed("DEFERRED"):
            entries = [_entry(row) for row in self._database.execute(query)]
        return [entry for entry in entries if job in (None, entry.job)]

    def intend(self, job: int, uid: int, wishes: Iterable[Wish], boot: str) -> list[Entry]:
        """Write the intent to make these instances, all or none, and return their rows."""
        with self._sealed("IMMEDIATE"):
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

    def take_up(self, entries: Iterable[Entry]) -> None:
        """Write rows of live instances that the ledger had lost, all or none."""
        with self._sealed("IMMEDIATE"):
            for e in entries:
                self._database.execute(
                    "INSERT INTO instance (job, uid, gpu, profile, profile_id, start, size,"
                    " state, gi, cis, uuids, boot, since)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(e.job, e.uid, e.wish.gpu, e.wish.profile, e.wish.profile_id),
                        *(*e.wish.placement, LIVE, e.gi),
                        *(json.dumps(e.cis), json.dumps(e.uuids), e.boot, time.time()),
                    ),
                )

    def live(self, entry: Entry, gi: int, cis: Iterable[int], uuids: Iterable[str]) -> None:
        """The instance was made and read back."""
        self._write(
            "UPDATE instance SET state = ?, gi = ?, cis = ?, uuids = ? WHERE +id = ?",
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
            "UPDATE instance SET state = ?, reason = ? WHERE +id = ?", QUARANTINED, reason, entry.id
        )

    def forget(self, entry: Entry) -> None:
        """The instance is verified gone."""
        self._write("DELETE FROM instance WHERE +id = ?", entry.id)

    def missed(self, job: int) -> int:
        """Count one more start without room; return how many in a row."""
        with self._sealed("IMMEDIATE"):
            (count,) = self._database.execute(
                "INSERT INTO miss (job, count, last) VALUES (?, 1, ?) ON CONFLICT (job) "
                "DO UPDATE SET count = count + 1, last = excluded.last RETURNING count",
                (job, time.time()),
            ).fetchone()
        return int(count)

    def served(self, job: int) -> None:
        """The job started, or will not: its misses are over; so are those of a week ago."""
        self._write("DELETE FROM miss WHERE job = ? OR last < ?", job, time.time() - 7 * 86400)


@dataclass(frozen=True, slots=True)
class Glance:
    """What a ledger holds, for whoever only looks.

    `owners` is the uid by (GPU UUID, GI id) of what lives now, `newest`
    the time of the newest row in seconds since the epoch, 0 if there is none.
    """

    rows: int
    quarantined: int
    newest: float
    owners: Mapping[tuple[str, int], int]


def glance(state: Path, boot: str) -> Glance | None:
    """Look at the ledger without changing or making anything; None when there is none yet.

    `boot` as in Entry. Raises NodeFault when it is unusable, not ours, or of another format;
    PermissionError without root.
    """
    path = state / ledger_file.NAME
    try:
        path.lstat()
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            database.execute("BEGIN")
            application, version = ledger_file.header(database)
            if (application, version) == (0, 0):
                return None  # just being made
            # Format 1 is upgraded by the next hook.
            if application != APPLICATION_ID or version not in (1, VERSION):
                raise NodeFault(
                    f"ledger {path}: not a slurm-mig ledger of format {VERSION} (it says "
                    f"{application:#x}, {version})"
                )
            if version == VERSION and not ledger_file.sealed(database):
                raise NodeFault(f"ledger {path}: its content is not what slurm-mig wrote")
            rows = database.execute("SELECT gpu, gi, uid, state, boot, since FROM instance")
            found = rows.fetchall()
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
        raise NodeFault(f"ledger {path}: {error}") from None
    return Glance(
        rows=len(found),
        quarantined=sum(row[3] == QUARANTINED for row in found),
        newest=max((row[5] for row in found), default=0.0),
        owners=MappingProxyType(
            {
                (row[0], row[1]): row[2]
                for row in found
                if row[3] == LIVE and same_life(row[4], boot)
            }
        ),
    )
