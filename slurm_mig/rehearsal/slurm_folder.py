"""Makes folders with other Slurm releases by debootstrap.

Run it: `python -m slurm_mig.rehearsal.slurm_folder trixie forky`.
Debian's suites carry different releases (bookworm 22.05, trixie 24.11, forky and sid newer). A
folder is made once, under `.cache/debootstrap/SUITE` unless told otherwise, from the mirror that
this machine's own apt uses; `SlurmInstall(folder)` then runs a cluster in it. It gets its name only
when it is whole, with a stamp that says what is in it; one with another stamp is made anew.
"""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from slurm_mig.errors import SlurmMigError
from slurm_mig.rehearsal.slurm_install import PACKAGES, SlurmInstall, SlurmMissing

DEFAULT_FOLDER = Path(__file__).parents[2] / ".cache/debootstrap"
# Hooks may be Python.
EXTRA_PACKAGES = ("python3-minimal",)
#: What a suite has besides: its components, and packages of them. Slurm's gpu/nvml plugin is in
#: contrib, since it loads NVIDIA's library; forky has no build of it.
MORE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "trixie": (("main", "contrib"), ("slurm-wlm-nvml-plugin",)),
}
STAMP = ".slurm-mig-made-of"


class FolderError(SlurmMigError):
    """The folder could not be made."""


def mirror() -> str:
    """Return the URL of the Debian mirror in this machine's apt configuration."""
    apt = shutil.which("apt-get")
    if apt is None:
        raise FolderError("no apt-get here, so no Debian mirror is known")
    for update in (False, True):
        # Whose a mirror is stands in what `update` fetches, and images are shipped without that.
        if update:
            subprocess.run([apt, "update", "-qq"], capture_output=True, check=True, timeout=300)
        words = ["indextargets", "--format", "$(LABEL)|$(COMPONENT)|$(REPO_URI)"]
        shown = subprocess.run(
            [apt, *words, "Created-By: Packages"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for line in shown.splitlines():
            label, component, url = line.split("|", 2)
            if label == "Debian" and component == "main":
                return url
    raise FolderError("no Debian mirror in this machine's apt sources")


def recipe(suite: str) -> tuple[str, str]:
    """The components and packages of a suite's folder, each joined by commas."""
    components, packages = MORE.get(suite, (("main",), ()))
    return ",".join(components), ",".join((*PACKAGES, *EXTRA_PACKAGES, *packages))


def find(suite: str, parent: Path = DEFAULT_FOLDER) -> SlurmInstall | None:
    """Return the Slurm of `suite` if its folder is there and whole."""
    folder = parent / suite
    try:
        made_of = (folder / STAMP).read_text()
    except OSError:
        return None
    return SlurmInstall.find(folder) if made_of == "\n".join(recipe(suite)) else None


@contextmanager
def _alone(parent: Path, suite: str) -> Iterator[None]:
    """While nobody else makes the same folder."""
    with (parent / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(suite: str, parent: Path = DEFAULT_FOLDER) -> SlurmInstall:
    """Return the Slurm of `suite`, making its folder first if it is not there (a minute).

    Raises FolderError when it cannot be made; what was there before is then as it was.
    """
    if found := find(suite, parent):
        return found
    tool = shutil.which("debootstrap") or shutil.which("debootstrap", path="/usr/sbin")
    if tool is None:
        raise FolderError("no debootstrap; as root: apt-get install debootstrap")
    if os.geteuid() != 0:
        raise FolderError("debootstrap needs root")
    parent.mkdir(parents=True, exist_ok=True)
    with _alone(parent, suite):
        return find(suite, parent) or _made(suite, parent, tool)


def _made(suite: str, parent: Path, tool: str) -> SlurmInstall:
    folder, partial, old = parent / suite, parent / f"{suite}.partial", parent / f"{suite}.old"
    for left in (partial, old):
        if left.exists():
            shutil.rmtree(left)
    components, packages = recipe(suite)
    scripts = Path("/usr/share/debootstrap/scripts")
    # A suite younger than debootstrap has no script of its own; sid's serves.
    script = scripts / (suite if (scripts / suite).exists() else "sid")
    options = ["--variant=minbase", f"--components={components}", f"--include={packages}"]
    with (parent / f"{suite}.log").open("w") as log:
        made = subprocess.run(
            [tool, *options, suite, partial, mirror(), script],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if made.returncode != 0:
        raise FolderError(f"debootstrap ended with {made.returncode}; see {log.name}")
    shutil.rmtree(partial / "var/cache/apt/archives", ignore_errors=True)
    (partial / STAMP).write_text("\n".join((components, packages)))
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return SlurmInstall.find(folder)


def _said(suite: str, parent: Path) -> tuple[bool, str]:
    """Make one folder; whether it is there, and a line about it."""
    try:
        install = make(suite, parent)
        said = f"{suite}: Slurm {install.version} in {install.root}"
    except (FolderError, SlurmMissing, OSError, subprocess.SubprocessError) as error:
        return False, f"{suite}: no folder with another Slurm: {error}"
    return True, said


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the folders of the suites named on the command line, side by side."""
    parser = argparse.ArgumentParser(description="make folders with other Slurm releases")
    parser.add_argument("suites", nargs="+", metavar="SUITE", help="Debian suite, e.g. trixie")
    parser.add_argument("--into", type=Path, default=DEFAULT_FOLDER, metavar="DIR")
    options = parser.parse_args(arguments)
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda suite: _said(suite, options.into), options.suites))
    for made, line in results:
        (sys.stdout if made else sys.stderr).write(f"{line}\n")
    return 0 if all(made for made, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
