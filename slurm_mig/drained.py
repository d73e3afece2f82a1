"""Why this node was drained, when it was for us, and the way back.

Slurm drains a node whose hook fails, but all it says is "Prolog error". So a hook at fault drains
the node itself, just before it fails, with its own sentence; Slurm then leaves the reason of a
drained node alone (seen on 22.05.8, 24.11.5 and 26.05.5). It also leaves a note in the state
directory, by which `reconcile` knows that the drain is ours to undo. Only with that note, and only
while Slurm still says the same reason: a drain that an admin made, or put another reason to, is
the admin's. Without a note nothing is asked of Slurm.

Imported by a hook only once it has failed (json alone costs 6 ms).
"""

import json
import os
import stat
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

from slurm_mig import slurm
from slurm_mig.errors import SlurmMigError
from slurm_mig.ledger import prepare_directory
from slurm_mig.settings import Settings
from slurm_mig.slurm import SlurmClient

NAME = "drained"
PREFIX = "slurm-mig: "
#: Slurm's own words for a node whose hook failed: what stands there where ours did not arrive.
SLURM_SAYS = ("Prolog error", "Epilog error", "batch job complete failure")
#: Seconds that a hook at fault spends at most on each question to Slurm.
_PATIENCE = 5.0
#: A node that is drained again so soon after it was resumed has a fault that reconcile does not
#: see. A resume costs the next job its place in the queue, so from then on it is the admin's.
_SOON = 3600.0
#: A hook leaves its note a moment before slurmd says that it failed; until then it may be early.
_SETTLES = 120.0


@dataclass(slots=True)
class _Note:
    """`reason`: what the node was drained for, "" if it is not. `told`: whether Slurm took it."""

    reason: str = ""
    job: int = 0
    told: bool = False
    at: float = 0.0
    resumed: float = 0.0


@dataclass(slots=True)
class Resumed:
    """What became of the node's drain, one sentence each."""

    resumed: list[str] = field(default_factory=list)
    drained: list[str] = field(default_factory=list)


def drain(settings: Settings, node: str, job: int, reason: str) -> str:
    """Drain the node on which a job's hook is about to fail, for this reason, and note it.

    Returns why Slurm could not be told, "" if it was; never raises. Slurm drains the node anyway.
    """
    said = slurm.reason_text(PREFIX + reason)
    failure = ""
    client = _client(settings, min(_PATIENCE, settings.slurm_timeout))
    try:
        if "DRAIN" in client.node(node).state:
            # Somebody's, or ours of a moment ago: the first reason is the one to keep.
            return ""
        client.drain(node, said)
    except SlurmMigError as error:
        failure = str(error)
    state = Path(settings.state_directory)
    note = _read(state) or _Note()
    try:
        _write(state, _Note(said, job, not failure, time.time(), note.resumed))
    except (OSError, SlurmMigError) as error:
        failure = failure or f"{state / NAME}: {error}"
    return failure


def resume(
    settings: Settings, node: str, alive: Collection[int], in_the_way: Callable[[], str]
) -> Resumed:
    """Undo our own drain of this node, if it is drained and `in_the_way` says nothing against it.

    `alive`: the jobs that Slurm has there. As long as that of the hook is among them, Slurm may yet
    hear that it failed, and drain the node anew. Raises SlurmMigError, OSError.
    """
    found = Resumed()
    state = Path(settings.state_directory)
    note = _read(state)
    if note is None or not note.reason:
        return found
    client = _client(settings, settings.slurm_timeout)
    record = client.node(node)
    ours = [note.reason] if note.told else [note.reason, *SLURM_SAYS]
    if "DRAIN" not in record.state or record.reason not in ours:
        if abs(time.time() - note.at) > _SETTLES or "DRAIN" in record.state:
            _forget(state, note)
        return found
    where = f"node {node}: drained for {record.reason!r}"
    again = f"then run: {slurm_words(node)}"
    if not settings.reconcile_resume:
        found.drained.append(f"{where}; not resumed ([reconcile] resume is false); {again}")
    elif "DOWN" in record.state:
        # To Slurm, RESUME takes that back, too.
        found.drained.append(f"{where}; not resumed: Slurm says that it is down")
    elif abs(time.time() - note.resumed) < _SOON:
        found.drained.append(
            f"{where}; not resumed: it was, less than an hour ago, and the fault came back; "
            f"find its cause, {again}"
        )
    elif note.job in alive:
        found.drained.append(f"{where}; not resumed: job {note.job} is still on its way out")
    elif why := in_the_way():
        found.drained.append(f"{where}; not resumed: {why}")
    else:
        # First the note: were it not written, the node would be resumed again and again.
        _write(state, _Note(note.reason, note.job, note.told, note.at, time.time()))
        client.resume(node)
        _forget(state, _Note(resumed=time.time()))
        found.resumed.append(f"{where}; resumed")
    return found


def slurm_words(node: str) -> str:
    """The command by which an admin resumes a node."""
    return f"scontrol update NodeName={node} State=RESUME"


def _client(settings: Settings, timeout: float) -> SlurmClient:
    return slurm.client(
        settings.slurm_client, scontrol=settings.slurm_scontrol, timeout=timeout, long_lived=False
    )


def _forget(state: Path, note: _Note) -> None:
    """Only when it was resumed last is remembered."""
    _write(state, _Note(resumed=note.resumed))


def _write(state: Path, note: _Note) -> None:
    """Raises OSError, NodeFault."""
    prepare_directory(state)
    path = state / NAME
    draft = state / f".{NAME}"
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600), "w") as file:
        json.dump(asdict(note), file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _read(state: Path) -> _Note | None:
    """The note; None where there is none that root alone can have written."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(state / NAME, flags)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return None
        if status.st_mode & 0o022 or status.st_nlink != 1:
            return None
        text = os.read(descriptor, 1 << 14)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    try:
        note = _Note(**json.loads(text))
    except (ValueError, TypeError):
        return None
    kinds = (str, int, bool, float | int, float | int)
    values = (note.reason, note.job, note.told, note.at, note.resumed)
    return note if all(map(isinstance, values, kinds)) else None
