"""How doctor looks at the host: short commands, processes, mounts, the clock. Reads only."""

import ctypes
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slurm_mig.child import run
from slurm_mig.errors import NodeFault, one_line

#: Where programs are looked for. Fixed: root does not run what somebody's PATH names. The last is
#: where NVIDIA's GPU operator puts its container toolkit.
FOLDERS = tuple(map(Path, ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/nvidia/toolkit")))
_SECONDS = 10.0
# <sys/timex.h>: with modes 0 adjtimex(2) only reads, which everybody may.
_STA_UNSYNC = 0x40
_TIMEX_BYTES, _STATUS_OFFSET = 256, 5 * ctypes.sizeof(ctypes.c_long)


@dataclass(frozen=True, slots=True)
class Process:
    """A process: `name` as the kernel keeps it, cut to 15 characters."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a file system is mounted, and its type as the kernel names it (`ext4`, `nfs4`)."""

    point: str
    type: str


class Probe:
    """The host. `folders` are where programs are, `proc` is procfs, `seconds` bounds a command."""

    def __init__(
        self,
        folders: Sequence[Path] = FOLDERS,
        proc: Path = Path("/proc"),
        seconds: float = _SECONDS,
    ) -> None:
        self._folders, self._proc, self._seconds = folders, proc, seconds

    def find(self, program: str) -> Path | None:
        """Where a program is; None if it is not installed."""
        for folder in self._folders:
            with suppress(OSError):
                if os.access(folder / program, os.X_OK):
                    return folder / program
        return None

    def say(self, program: Path, *words: str) -> str:
        """What a command prints; raises NodeFault if it fails or does not end in time."""
        what = f"{program} {' '.join(words)}"
        env = {"PATH": ":".join(map(str, self._folders)), "LANG": "C", "LC_ALL": "C"}
        try:
            said = run([str(program), *words], env, self._seconds)
        except OSError as error:
            raise NodeFault(f"{what}: cannot be run: {error.strerror}") from None
        if said.status is None:
            raise NodeFault(f"{what}: did not end within {self._seconds:g} s")
        out = said.out.decode(errors="replace")
        if said.status != 0:
            last = (said.err or out).strip().splitlines()[-1:] or ["it says nothing"]
            raise NodeFault(f"{what}: exit {said.status}: {one_line(last[0], 200)}")
        return out

    def processes(self) -> Iterator[Process]:
        """All processes."""
        for entry in self._proc.iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    name = (entry / "comm").read_text(errors="replace").strip()
                    yield Process(int(entry.name), one_line(name, 40))

    def holds_instances(self, pid: int) -> bool:
        """Whether a process has an instance's capability node open.

        By name: to look at a file may take for ever where it is a dead NFS server's. Raises
        PermissionError for another user's process without root.
        """
        for descriptor in (self._proc / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if descriptor.readlink().name.startswith("nvidia-cap"):
                    return True
        return False

    def mount(self, path: Path) -> Mount:
        """The file system that `path`, or its nearest parent that exists, is on."""
        there = path
        while not there.exists() and there != there.parent:
            there = there.parent
        there = there.resolve()
        best = Mount("", "")
        for line in (self._proc / "self/mountinfo").read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            point = _plain(before.split()[4])
            inside = there == Path(point) or Path(point) in there.parents
            # Of two mounts on one point the later one is on top.
            if inside and len(point) >= len(best.point):
                best = Mount(point, after.split()[0])
        return best

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def synchronised(self) -> bool:
        """Whether the kernel is told that its clock is kept by NTP or PTP; raises OSError."""
        buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.adjtimex(buffer) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        # struct timex: modes (padded to a long), offset, freq, maxerror, esterror, status.
        status = ctypes.c_int.from_buffer(buffer, _STATUS_OFFSET).value
        return not status & _STA_UNSYNC


def _plain(text: str) -> str:
    """A mount point without the kernel's octal escapes of blanks and the like."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
