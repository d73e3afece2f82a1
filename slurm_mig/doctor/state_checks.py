"""State and run directory, the ledger, the clock and the boot id."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from slurm_mig import ledger
from slurm_mig.doctor.context import Context
from slurm_mig.doctor.finding import (
    ANYWHERE,
    CONFIG,
    ON_NODE,
    Check,
    Finding,
    failure,
    ok,
    warning,
)
from slurm_mig.doctor.owners import mode, weakest
from slurm_mig.errors import NodeFault

#: File systems of the network: their locks and syncs are not what the ledger relies on.
_REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs"}
    | {"glusterfs", "orangefs", "panfs", "wekafs", "pvfs2", "ocfs2", "gfs2"}
)
_MEMORY = frozenset({"tmpfs", "ramfs"})
_LITTLE_BYTES, _NO_BYTES = 64 << 20, 1 << 20
#: So much may a clock be behind the newest entry: it was set back by NTP.
_BACK_SECONDS = 5.0


def _directory(context: Context) -> Iterator[Finding]:
    path = Path(context.settings.state_directory)
    what = f"state directory {path}"
    if path.exists() and not path.is_dir():
        yield failure(
            what, "is no directory", "no MIG job can start", "name another in [state] directory"
        )
        return
    found = weakest(path) if path.exists() else None
    if not path.exists():
        yield ok(what, "not there yet: the first hook makes it")
    elif found is not None:
        where, status = found
        yield failure(
            what,
            mode(status) if where == path else f"{where} is {mode(status)}",
            "whoever can change it can take other jobs' instances; hooks refuse to use it",
            f"chown root:root {where} && chmod go-w {where}",
        )
    else:
        yield ok(what, mode(path.stat()))
    yield from _disk(context, path, what)


def _disk(context: Context, path: Path, what: str) -> Iterator[Finding]:
    mount = context.probe.mount(path)
    if mount.type in _REMOTE or mount.type.startswith("fuse."):
        yield failure(
            what,
            f"on {mount.type} ({mount.point})",
            "the ledger needs a local disk: locks and syncs over a network do not hold",
            "name a folder on a local disk in [state] directory",
        )
    elif mount.type in _MEMORY:
        yield warning(
            what,
            f"on {mount.type} ({mount.point})",
            "it is gone after a reboot; so are the instances, but also the counts of failed starts",
            "name a folder on a local disk in [state] directory, if there is one",
        )
    there = path
    while not there.exists():
        there = there.parent
    room = os.statvfs(there)
    free = room.f_bavail * room.f_frsize
    if free < _NO_BYTES or (room.f_files and not room.f_favail):
        yield failure(
            what,
            f"no space left on {mount.point}",
            "no MIG job can start or be removed",
            f"make room: df -h -i {mount.point}",
        )
    elif free < _LITTLE_BYTES:
        yield warning(
            what,
            f"{free >> 20} MiB left on {mount.point}",
            "when it is full, MIG jobs drain the node",
            f"make room: df -h {mount.point}",
        )


def _ledger(context: Context) -> Iterator[Finding]:
    state = Path(context.settings.state_directory)
    what = f"ledger {state / 'ledger.sqlite'}"
    boot = context.devices.life()
    try:
        seen = ledger.glance(state, boot)
    except NodeFault as error:
        yield failure(
            what,
            str(error).removeprefix(f"{what}: "),
            "every MIG job drains the node",
            "slurm-mig reconcile puts a damaged one aside and rebuilds it",
        )
        return
    if seen is None:
        yield ok(what, "not there yet: the first hook makes it")
        return
    if seen.quarantined:
        yield warning(
            what,
            f"instances in quarantine: {seen.quarantined}",
            "they would not go, and their space is offered to nobody",
            "slurm-mig status says why; then: slurm-mig reconcile",
        )
    else:
        yield ok(what, f"readable, instances of jobs: {seen.rows}")
    behind = seen.newest - context.probe.now()
    if behind > _BACK_SECONDS:
        yield failure(
            "clock",
            f"{behind:.0f} s behind the newest entry of the ledger",
            "munge refuses credentials when clocks differ, and Slurm's times are wrong",
            "set the clock: chronyc makestep, or: timedatectl set-ntp true",
        )


def _run_directory(context: Context) -> Iterator[Finding]:
    run = Path(context.settings.state_run_directory)
    what = f"run directory {run}"
    if not run.exists():
        yield ok(what, "not there yet: the first hook makes it")
        return
    for path in (run, run / "jobs"):
        if not path.exists():
            continue
        found = weakest(path)
        closed = not path.stat().st_mode & stat.S_IXOTH
        if found is not None or not path.is_dir():
            where, status = found or (path, path.stat())
            yield failure(
                what,
                f"{where} is {mode(status)}" if path.is_dir() else f"{path} is no directory",
                "whoever can change it chooses the instances of other users' jobs",
                f"chown root:root {where} && chmod 0755 {where}",
            )
            return
        if closed:
            yield failure(
                what,
                f"{path} is {mode(path.stat())}",
                "the task prolog runs as the job's user and must read in it",
                f"chmod 0755 {path}",
            )
            return
    yield ok(what, mode(run.stat()))


def _boot(context: Context) -> Iterator[Finding]:
    try:
        yield ok("boot id", context.devices.boot_id())
    except NodeFault as error:
        yield failure(
            "boot id",
            str(error).removeprefix("boot id "),
            "every MIG job drains the node",
            f"correct [driver] root in {context.config_path}: it is where proc/ and dev/ are",
        )


def _clock(context: Context) -> Iterator[Finding]:
    if context.probe.synchronised():
        yield ok("clock", "the kernel says that it is synchronised")
    else:
        yield warning(
            "clock",
            "the kernel says that nothing synchronises it",
            "munge refuses credentials when clocks differ by minutes",
            "run chronyd, ntpd or systemd-timesyncd (in a container: look on its host)",
        )


CHECKS = (
    Check("state.directory", "state directory", ON_NODE, (CONFIG,), _directory),
    Check("state.ledger", "ledger", ON_NODE, (CONFIG,), _ledger),
    Check("state.run-directory", "run directory", ON_NODE, (CONFIG,), _run_directory),
    Check("state.boot-id", "boot id", ON_NODE, (CONFIG,), _boot),
    Check("state.clock", "clock", ANYWHERE, (), _clock),
)
