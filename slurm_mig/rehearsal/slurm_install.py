"""Finds a Slurm on this machine: the system's own, or one inside a folder made by debootstrap."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from slurm_mig.errors import SlurmMigError

PROGRAMS = ("munged", "slurmctld", "slurmd", "scontrol", "srun", "sbatch", "sinfo", "scancel")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
_FOLDERS = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/local/sbin", "usr/local/bin")
# What a program inside the folder sees of this machine. The account files make user names the
# same on both sides.
_SHARED = ("/proc", "/dev", "/sys", "/etc/passwd", "/etc/group", "/etc/hosts")


class SlurmMissing(SlurmMigError):
    """There is no usable Slurm; the message says which packages bring it."""


@dataclass(frozen=True, slots=True)
class SlurmInstall:
    """A Slurm below `root`; "/" is this machine's own, else a folder that is entered by chroot."""

    root: Path = Path("/")

    @classmethod
    def find(cls, root: Path | str = "/") -> "SlurmInstall":
        """Return the Slurm below `root`; SlurmMissing names the programs and packages it lacks."""
        install = cls(Path(root).resolve())
        missing = [name for name in PROGRAMS if install._look(name) is None]
        if missing:
            raise SlurmMissing(
                f"no Slurm below {install.root}: {', '.join(missing)} not found; "
                f"as root: apt-get install {' '.join(PACKAGES)}"
            )
        return install

    def _look(self, name: str) -> Path | None:
        for folder in _FOLDERS:
            found = self.root / folder / name
            # Debian's are links to /etc/alternatives, which only a chroot resolves: do not follow.
            if found.is_symlink() or found.is_file():
                return Path("/") / folder / name
        if self.root == Path("/") and (on_path := shutil.which(name)):
            return Path(on_path)
        return None

    def program(self, name: str) -> str:
        """Return the path of `name` as seen from inside `root`; SlurmMissing if it is not there."""
        found = self._look(name)
        if found is None:
            raise SlurmMissing(
                f"no {name} below {self.root}; as root: apt-get install {' '.join(PACKAGES)}"
            )
        return str(found)

    @property
    def inside(self) -> list[str]:
        """The words that come before a command so that it runs inside `root`."""
        if self.root == Path("/"):
            return []
        return [shutil.which("chroot") or "/usr/sbin/chroot", str(self.root)]

    def mounts(self, *folders: Path) -> list[list[str]]:
        """Return the bind mounts (source, target) that a cluster in `folders` needs inside."""
        if self.root == Path("/"):
            return []
        sources = [*_SHARED, *(str(folder) for folder in folders)]
        return [[source, f"{self.root}{source}"] for source in sources]

    @property
    def version(self) -> str:
        """The release as Slurm says it, e.g. `22.05.8`."""
        said = subprocess.run(
            [*self.inside, self.program("slurmctld"), "-V"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout
        found = re.search(r"\d+\.\d+(\.\d+)?", said)
        if found is None:
            raise SlurmMissing(f"slurmctld -V below {self.root} says {said!r}: no version in it")
        return found.group()

    @property
    def release(self) -> tuple[int, int]:
        """Year and month of the release: `(22, 5)`."""
        year, month = self.version.split(".")[:2]
        return int(year), int(month)
