"""Makes folders with other Slurm releases by debootstrap.

Run it: `python -m slurm_mig.rehearsal.slurm_folder trixie forky`.
Debian's suites carry different releases (bookworm 22.05, trixie 24.11, forky and sid newer). A
folder is made once, under `.cache/debootstrap/SUITE` unless told otherwise, from the mirror that
this machine's own apt uses; `SlurmInstall(folder)` then runs a cluster in it.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from slurm_mig.errors import SlurmMigError
from slurm_mig.rehearsal.slurm_install import PACKAGES, SlurmInstall, SlurmMissing

DEFAULT_FOLDER = Path(__file__).parents[2] / ".cache/debootstrap"
# Hooks may be Python.
EXTRA_PACKAGES = ("python3-minimal",)


class FolderError(SlurmMigError):
    """The folder could not be made."""


def mirror() -> str:
    """Return the URL of the Debian mirror in this machine's apt configuration."""
    shown = subprocess.run(
        [
            shutil.which("apt-get") or "/usr/bin/apt-get",
            "indextargets",
            "--format",
            "$(LABEL)|$(COMPONENT)|$(REPO_URI)",
            "Created-By: Packages",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    for line in shown.splitlines():
        label, component, url = line.split("|", 2)
        if label == "Debian" and component == "main":
            return url
    raise FolderError("no Debian mirror in this machine's apt sources; run apt-get update first")


def make(suite: str, parent: Path = DEFAULT_FOLDER) -> SlurmInstall:
    """Return the Slurm of `suite`, making its folder first if it is not there (minutes)."""
    folder = parent / suite
    if folder.is_dir():
        return SlurmInstall.find(folder)
    tool = shutil.which("debootstrap") or shutil.which("debootstrap", path="/usr/sbin")
    if tool is None:
        raise FolderError("no debootstrap; as root: apt-get install debootstrap")
    parent.mkdir(parents=True, exist_ok=True)
    partial = parent / f"{suite}.partial"
    if partial.exists():
        shutil.rmtree(partial)
    include = ",".join((*PACKAGES, *EXTRA_PACKAGES))
    scripts = Path("/usr/share/debootstrap/scripts")
    # A suite younger than debootstrap has no script of its own; sid's serves.
    script = scripts / (suite if (scripts / suite).exists() else "sid")
    with (parent / f"{suite}.log").open("w") as log:
        made = subprocess.run(
            [tool, "--variant=minbase", f"--include={include}", suite, partial, mirror(), script],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if made.returncode != 0:
        raise FolderError(f"{folder}: debootstrap ended with {made.returncode}; see {log.name}")
    shutil.rmtree(partial / "var/cache/apt/archives", ignore_errors=True)
    partial.rename(folder)
    return SlurmInstall.find(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the folders of the suites named on the command line."""
    parser = argparse.ArgumentParser(description="make folders with other Slurm releases")
    parser.add_argument("suites", nargs="+", metavar="SUITE", help="Debian suite, e.g. trixie")
    parser.add_argument("--into", type=Path, default=DEFAULT_FOLDER, metavar="DIR")
    options = parser.parse_args(arguments)
    for suite in options.suites:
        try:
            install = make(suite, options.into)
        except (FolderError, SlurmMissing) as error:
            sys.stderr.write(f"{suite}: {error}\n")
            return 1
        sys.stdout.write(f"{suite}: Slurm {install.version} in {install.root}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
