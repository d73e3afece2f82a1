"""Who uses a whole GPU: the processes that keep its MIG mode from being changed.

NVML names those that compute or draw. A daemon that only looks (dcgm, an exporter) is not among
them, but has /dev/nvidia<minor> open, and the driver counts that too: those are in /proc/*/fd.
"""

import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from slurm_mig.errors import one_line
from slurm_mig.instances import Gpu
from slurm_mig.nvml import Driver

#: /proc/<pid>/comm of nvidia-persistenced, cut off by the kernel. It has every GPU open all its
#: life, on Hopper and later in nobody's way; only a GPU reset may need it stopped (NVIDIA's
#: gpu-operator, issue 118).
_PERSISTENCED = "nvidia-persiste"


class User(NamedTuple):
    """A process that uses a GPU; `command` and `user` as far as /proc tells."""

    pid: int
    command: str
    user: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command}, user {self.user})"


def _identity(status: os.stat_result) -> tuple[object, ...]:
    """What two names of one device have in common, also in another mount namespace."""
    if stat.S_ISCHR(status.st_mode):
        return ("device", status.st_rdev)
    return ("file", status.st_dev, status.st_ino)


def holders(root: Path, minor: int) -> list[int]:
    """The pids that have `root`/dev/nvidia<minor> open; none where there is no such node.

    Other users' processes are seen by root alone.
    """
    try:
        wanted = _identity((root / f"dev/nvidia{minor:d}").stat())
    except OSError:
        return []
    pids = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with suppress(OSError):  # it ended, or is somebody else's
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if _identity(descriptor.stat()) == wanted:
                        pids.append(int(process.name))
                        break
    return sorted(pids)


def look_up(pid: int) -> User:
    """A process by its pid; what /proc does not tell (any more) is `?`.

    A process names itself: what is not printable is escaped.
    """
    command = user = "?"
    with suppress(OSError):
        name = Path(f"/proc/{pid:d}/comm").read_text(errors="replace").removesuffix("\n")
        command = one_line(name)
        uid = Path(f"/proc/{pid:d}").stat().st_uid
        user = str(uid)
        with suppress(KeyError):
            user = pwd.getpwuid(uid).pw_name
    return User(pid, command, user)


def persistenced(root: Path, minor: int) -> bool:
    """Whether nvidia-persistenced has the GPU open."""
    return any(look_up(pid).command == _PERSISTENCED for pid in holders(root, minor))


def users(driver: Driver, root: Path, gpu: Gpu) -> list[User]:
    """Everybody but ourselves who uses a GPU, by pid; nvidia-persistenced is not counted.

    `root` is where dev/nvidia<minor> is. Raises DriverError when NVML cannot tell.
    """
    shown = set(driver.users(gpu))
    open_ = set(holders(root, gpu.minor))
    found = [look_up(pid) for pid in sorted((shown | open_) - {os.getpid()})]
    return [user for user in found if user.pid in shown or user.command != _PERSISTENCED]
