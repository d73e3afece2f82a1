"""`slurm-mig demo` as a newcomer types it: on a real Slurm, and under the stand-in."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_mig.cli.main import main
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.rehearsal.slurm_install import SlurmInstall
from slurm_mig.simulator import build

PROGRAM = Path(sys.executable).with_name("slurm-mig")
ARGV = ("slurm-mig", "demo", "--stand-in", "--directory")
TOTAL = "instances made: 10, destroyed: 10, left: 0"
#: In a mount namespace of its own, make all but one folder read-only and say the namespace's id.
CONFINE = """
set -e
mount --bind "$1" "$1"
while read -r source at type rest; do
  case $type in proc | sysfs | devtmpfs | devpts | mqueue | cgroup*) continue ;; esac
  case $at in "$1") continue ;; esac
  mount -o remount,bind,ro "$at"
done </proc/self/mounts
! touch "$2" 2>/dev/null
readlink /proc/self/ns/mnt
shift 2
exec "$@"
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, since sockets live in it."""
    made = Path(tempfile.mkdtemp(prefix="demo-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def run(*words: str | Path, **env: str) -> tuple[int, list[str]]:
    """Run a program; its exit status and all it said, line by line."""
    done = subprocess.run(
        words,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def processes_with(words: bytes) -> list[int]:
    """The living processes that have these bytes in their arguments or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if words in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def processes_in(namespace: str) -> list[int]:
    """The living processes in a mount namespace."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str((entry / "ns/mnt").readlink()) == namespace:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.slurm
def test_on_a_real_slurm(slurm_install: SlurmInstall, folder: Path) -> None:
    """It says which Slurm, shows each job and the totals, exits 0, and no process is left."""
    status, said = run(PROGRAM, "demo", "--directory", folder / "x")
    assert status == 0
    version = slurm_install.version
    assert said[0] == f"Slurm {version} on loopback, two nodes, two simulated GPUs each"
    assert said[-2] == TOTAL
    assert said[-1].startswith("done in ")
    assert len([line for line in said if "CUDA_VISIBLE_DEVICES=MIG-" in line]) == 9
    assert len([line for line in said if line.startswith("  NVML: MIG-")]) == 10
    assert processes_with(os.fsencode(folder)) == []


def test_under_the_stand_in(folder: Path) -> None:
    """With --stand-in its first line says so, and everything else is the same."""
    status, said = run(PROGRAM, "demo", "--stand-in", "--directory", folder / "x")
    assert status == 0
    assert said[0].startswith("No Slurm here: the same hooks run under the scheduler stand-in")
    assert said[-2] == TOTAL
    assert len([line for line in said if "CUDA_VISIBLE_DEVICES=MIG-" in line]) == 9
    assert processes_with(os.fsencode(folder)) == []


@pytest.mark.slurm
def test_in_a_long_path(slurm_install: SlurmInstall, folder: Path) -> None:
    """A folder whose path is too long for sockets does as well, and has Slurm's logs in the end."""
    temporary = folder / "temporary"
    temporary.mkdir(mode=0o755)
    deep = folder / ("d" * 70) / "demo"
    status, said = run(PROGRAM, "demo", "--directory", deep, TMPDIR=str(temporary))
    assert (status, said[-2]) == (0, TOTAL)
    assert (deep / "slurm/log/slurmctld.log").stat().st_size > 0
    assert list(temporary.iterdir()) == []


@pytest.mark.slurm
@pytest.mark.parametrize("option", [(), ("--stand-in",)], ids=["slurm", "stand-in"])
def test_leaves_nothing(slurm_install: SlurmInstall, folder: Path, option: tuple[str, ...]) -> None:
    """It works where only its temporary folder can be written, and leaves that empty.

    No process that it has started lives on.
    """
    probe = folder.with_name(f"{folder.name}.probe")
    unshare = shutil.which("unshare") or "/usr/bin/unshare"
    space = [unshare, "--mount", "--propagation", "private", "sh", "-c", CONFINE, "sh"]
    if run(*space, folder, probe, "true")[0] != 0:
        pytest.skip("needs a mount namespace of its own, which this machine does not allow")
    build.library()  # compiled once for all, in the checkout
    words = [*space, folder, probe, PROGRAM, "demo", *option]
    status, said = run(*words, TMPDIR=str(folder), HOME=str(folder))
    assert (status, said[-2]) == (0, TOTAL)
    assert not probe.exists()
    assert said[0].startswith("mnt:[")
    assert list(folder.iterdir()) == []
    assert processes_in(said[0]) == []


def test_a_folder_of_somebody_else_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that holds anything but an earlier demo is refused, and nothing in it changes."""
    (folder / "thesis").write_text("mine")
    monkeypatch.setattr(sys, "argv", [*ARGV, str(folder)])
    assert main() == 1
    assert "not empty, and no earlier demo" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["thesis"]


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        ("epilog", "10 should have been made and destroyed, and none left"),
        ("task_prolog", "asked for {'3g.20gb': 1} and saw devices of [] MiB"),
    ],
)
def test_fails_when_it_is_not_so(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hook: str,
    why: str,
) -> None:
    """Where instances stay, or jobs see none, it says what is not so and exits with 1."""
    nothing = folder / "nothing"
    nothing.write_text("#!/bin/sh\nexit 0\n")
    nothing.chmod(0o755)
    monkeypatch.setattr(RehearsalNode, hook, nothing)
    monkeypatch.setattr(sys, "argv", [*ARGV, str(folder / "x")])
    assert main() == 1
    assert why in capsys.readouterr().err
