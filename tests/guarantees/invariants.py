"""What may never happen, looked at from outside: the one checker for all tests of the guarantees.

It reads what is there: the simulated driver's own state, the rows of the ledger file, the run
directory, the device nodes. Nothing here calls the code under test, but to learn where things are.

- `look(node)`: all of it as plain records.
- `always(node, …)`: what holds at every moment, also while hooks run or lie dead half way.
- `settled(node, jobs, …)`: what holds of the jobs on which no hook is at work, and once every hook
  of jobs that ended is through (or `reconcile` after one that was killed).

Both raise AssertionError with everything that is wrong, one line each.
"""

import os
import re
import sqlite3
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bruteforce import Plain, plain

from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.simulator.records import GpuInstance


class Row(NamedTuple):
    """A row of the ledger, as it stands in the file."""

    job: int
    uid: int
    gpu: str
    profile: str
    profile_id: int
    start: int
    size: int
    state: str
    gi: int | None
    uuids: tuple[str, ...]
    boot: str


class Folder(NamedTuple):
    """What a job was handed: the instances that its tasks are given, why they must not run."""

    devices: tuple[str, ...] | None
    refuse: str | None


@dataclass(frozen=True)
class Job:
    """A job that has its instances: whose it is, and the profiles that it asked for."""

    uid: int = 0
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """All that there is on a node."""

    instances: list[GpuInstance]
    gpus: dict[int, str]  # UUID by index
    earlier: list[Row]  # of before the instances were looked at
    rows: list[Row]  # of after
    folders: dict[int, Folder]
    boot: str


def rows(node: RehearsalNode) -> list[Row]:
    """The ledger's rows; none before there is one."""
    path = node.folder / "state/ledger.sqlite"
    if not path.exists() or not path.stat().st_size:
        return []
    # Not read-only: what a killed writer left in the journal is undone by whoever comes next.
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=30)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'instance'").fetchone():
            return []
        found = database.execute(
            "SELECT job, uid, gpu, profile, profile_id, start, size, state, gi, uuids, boot "
            "FROM instance ORDER BY id"
        ).fetchall()
    return [Row(*row[:9], tuple(re.findall(r'"([^"]+)"', row[9])), row[10]) for row in found]


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def folders(node: RehearsalNode) -> dict[int, Folder]:
    """The run directory, by job."""
    found = {}
    for path in (node.run_directory / "jobs").glob("*"):
        env = _text(path / "env")
        uuids = None
        if env is not None:
            (line,) = re.findall(r"^export CUDA_VISIBLE_DEVICES=(.*)$", env, re.MULTILINE)
            uuids = tuple(line.split(","))
        found[int(path.name)] = Folder(uuids, _text(path / "refuse"))
    return found


def look(node: RehearsalNode) -> Seen:
    """All that there is on a node."""
    load = node.simulation.root / "sys/module/nvidia"
    earlier = rows(node)
    return Seen(
        node.simulation.instances(),
        {gpu.gpu: gpu.uuid for gpu in node.simulation.gpus()},
        earlier,
        rows(node),
        folders(node),
        f"{node.simulation.boot_id()}/{load.stat().st_ino}",
    )


def _uuids(instance: GpuInstance) -> tuple[str, ...]:
    return tuple(ci.uuid for ci in instance.compute)


def _name(instance: GpuInstance) -> str:
    return (
        f"GPU {instance.gpu} GI {instance.id} ({instance.profile} at {instance.placement}, "
        f"{len(instance.compute)} CIs)"
    )


def _owns(seen: Seen, row: Row, instance: GpuInstance) -> bool:
    return (
        row.boot == seen.boot
        and row.gpu == seen.gpus[instance.gpu]
        and row.profile_id == instance.profile_id
        and (row.start, row.size) == tuple(instance.placement)
        and row.gi in (None, instance.id)
    )


def _nodes(node: RehearsalNode, instance: GpuInstance) -> list[tuple[str, os.stat_result]]:
    """The device nodes of a GI and its CIs."""
    root = node.simulation.root
    # The simulation's GPU N is /dev/nvidiaN unless a test says otherwise, and then looks itself.
    folder = root / f"proc/driver/nvidia/capabilities/gpu{instance.gpu}/mig/gi{instance.id}"
    found = []
    for access in (folder / "access", *(folder / f"ci{ci.id}/access" for ci in instance.compute)):
        text = _text(access)
        minor = re.search(r"^DeviceFileMinor: (\d+)$", text or "", re.MULTILINE)
        if minor is not None:
            path = root / f"dev/nvidia-caps/nvidia-cap{minor[1]}"
            with suppress(FileNotFoundError):  # gone since, with its instance
                found.append((path.name, path.lstat()))
    return found


def _foreign_changed(seen: Seen, foreign: Iterable[GpuInstance]) -> list[str]:
    return [
        f"what somebody else made is gone or another: {_name(instance)}"
        for instance in foreign
        if instance not in seen.instances
    ]


def _always(node: RehearsalNode, seen: Seen, foreign: Collection[GpuInstance]) -> list[str]:
    wrong = _foreign_changed(seen, foreign)
    for instance in seen.instances:
        if instance in foreign:
            continue
        owners = [row for row in seen.rows if _owns(seen, row, instance)]
        # It may have ended between the looks, where others are at work.
        owners = owners or [row for row in seen.earlier if _owns(seen, row, instance)]
        if len(owners) != 1:
            wrong.append(f"{_name(instance)} has {len(owners)} rows in the ledger: {owners}")
    now = [row for row in seen.rows if row.boot == seen.boot]
    taken = Counter((row.gpu, at) for row in now for at in range(row.start, row.start + row.size))
    wrong += [f"{gpu}: slice {at} has {n} rows" for (gpu, at), n in taken.items() if n > 1]
    given = Counter(uuid for folder in seen.folders.values() for uuid in folder.devices or ())
    wrong += [f"{uuid} was handed over {n} times" for uuid, n in given.items() if n > 1]
    if node.settings.isolation_devices == "owner":
        for instance in seen.instances:
            uids = {row.uid for row in (*seen.earlier, *seen.rows) if _owns(seen, row, instance)}
            wrong += [
                f"{_name(instance)}: {name} belongs to uid {status.st_uid}, its job to {uids}"
                for name, status in _nodes(node, instance)
                if status.st_uid not in uids | {0}
            ]
    return wrong


def _served(node: RehearsalNode, seen: Seen, job: int, wanted: Job, before: bool) -> list[str]:
    """What is wrong with a job that has its instances.

    `before`: of an earlier run under its id something may be in quarantine.
    """
    mine = [
        row for row in seen.rows if row.job == job and not (before and row.state == "quarantined")
    ]
    wrong = []
    if Counter(row.profile for row in mine) != Counter(wanted.profiles):
        wrong.append(f"job {job} asked for {wanted.profiles}, its rows are {mine}")
    uuids: list[str] = []
    for row in mine:
        found = [one for one in seen.instances if _owns(seen, row, one)]
        if row.state != "live" or len(found) != 1:
            wrong.append(f"job {job}: {row}, of which the driver has {found}")
            continue
        uuids += _uuids(found[0])
        if row.uid != wanted.uid or row.gi != found[0].id or row.uuids != _uuids(found[0]):
            wrong.append(f"job {job} of uid {wanted.uid}: {row} is not {found[0]}")
        if not found[0].compute:
            wrong.append(f"job {job}: {_name(found[0])} cannot be used")
        if node.settings.isolation_devices == "owner":
            wrong += [
                f"job {job}: {name} is of uid {status.st_uid}, {stat.S_IMODE(status.st_mode):04o}"
                for name, status in _nodes(node, found[0])
                if (status.st_uid, stat.S_IMODE(status.st_mode)) != (wanted.uid, 0o400)
            ]
    folder = seen.folders.get(job)
    if wanted.profiles and (folder is None or folder.refuse is not None):
        wrong.append(f"job {job}: its tasks would not run: {folder}")
    elif folder is not None and sorted(folder.devices or ()) != sorted(uuids):
        wrong.append(f"job {job} was handed {folder.devices}, it has {uuids}")
    return wrong


def _fits(free: list[tuple[Plain, tuple[int, ...]]], names: list[str]) -> bool:
    """Whether all of these profiles can be made at once: tries every place for each in turn."""
    dead: set[tuple[int, tuple[tuple[int, ...], ...]]] = set()

    def fits(taken: tuple[tuple[int, ...], ...], at: int) -> bool:
        if at == len(names):
            return True
        if (at, taken) in dead:
            return False
        for k, (brute, _) in enumerate(free):
            for i, (profile, _) in enumerate(brute.every):
                if profile.name == names[at] and brute.legal((*taken[k], i)):
                    there = tuple(sorted((*taken[k], i)))
                    if fits((*taken[:k], there, *taken[k + 1 :]), at + 1):
                        return True
        dead.add((at, taken))
        return False

    return fits(tuple(taken for _, taken in free), 0)


def _cannot_keep(node: RehearsalNode, seen: Seen) -> list[str]:
    """The promises that are left when what is in the ledger is counted, if they do not fit."""
    left = Counter(node.promises) - Counter(row.profile for row in seen.rows)
    free = []
    for status in node.simulation.gpus():
        brute = plain(status.key)
        number = {(p.id, place): k for k, (p, place) in enumerate(brute.every)}
        here = [i for i in seen.instances if i.gpu == status.gpu]
        free.append((brute, tuple(sorted(number[i.profile_id, i.placement] for i in here))))
    sizes = {p.name: place.size for brute, _ in free for p, place in brute.every}
    if _fits(free, sorted(left.elements(), key=lambda name: (-sizes[name], name))):
        return []
    return [f"promises {dict(left)} cannot be kept beside {[_name(i) for i in seen.instances]}"]


def _raise(wrong: Collection[str]) -> None:
    if wrong:
        raise AssertionError("\n".join(wrong))


def always(
    node: RehearsalNode, *, foreign: Collection[GpuInstance] = (), seen: Seen | None = None
) -> None:
    """Assert what holds at every moment.

    No two jobs share an instance or a place, every instance is in the ledger, and of
    what somebody else made (`foreign`, as `Simulation.instances` told it) nothing is touched.
    """
    _raise(_always(node, seen or look(node), foreign))


def settled(
    node: RehearsalNode,
    jobs: Mapping[int, Job],
    *,
    refused: Collection[int] = (),
    at_work: Collection[int] = (),
    quarantined: Collection[int] = (),
    foreign: Collection[GpuInstance] = (),
    promises: bool = True,
    lock_files: bool = True,
    seen: Seen | None = None,
) -> None:
    """Assert that the node is as its jobs leave it, and else as if it had never had any.

    `jobs` have what they asked for, each exactly; the tasks of `refused` ones would be turned
    away; `quarantined` jobs may have rows of that state; of those `at_work` only what always holds
    is asserted. Nobody else has a row, an instance or a folder. The promises that are left can be
    kept at once (not looked at where a foreign or quarantined instance, or a job at work, takes
    space of its own, nor with `promises` false: what is left of earlier ones may stand in the way).
    `lock_files` false: an empty lock file may stay, until reconcile comes.
    """
    seen = seen or look(node)
    wrong = _always(node, seen, foreign)
    for job, wanted in jobs.items():
        wrong += _served(node, seen, job, wanted, job in quarantined)
    for job in refused:
        folder = seen.folders.get(job)
        if folder is None or (folder.refuse is None and folder.devices is not None):
            wrong.append(f"job {job}: its tasks would run: {folder}")
    known = {*jobs, *refused, *at_work}
    wrong += [
        f"stays behind: {row}"
        for row in seen.rows
        if row.job not in known and (row.state != "quarantined" or row.job not in quarantined)
    ]
    wrong += [
        f"stays behind: folder of job {job}: {folder}"
        for job, folder in seen.folders.items()
        if job not in known
    ]
    locks = node.folder / "state/locks"
    wrong += [
        f"stays behind: {path.name}"
        for path in locks.glob("job-*.lock")
        if lock_files and int(path.stem.removeprefix("job-")) not in {*at_work, *jobs, *refused}
    ]
    if promises and not (
        foreign or at_work or any(row.state == "quarantined" for row in seen.rows)
    ):
        wrong += _cannot_keep(node, seen)
    _raise(wrong)
