"""The bench: its launcher starts hooks as slurmd does, and it does not measure what failed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.timing import BenchError, Launcher, Summary


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """The launcher, built."""
    return Launcher(tmp_path_factory.mktemp("launch"))


def hook(tmp_path: Path, body: str) -> Path:
    """An executable sh script."""
    path = tmp_path / "hook"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_hook_gets_its_environment_and_nothing_else(launcher: Launcher, tmp_path: Path) -> None:
    """The environment is the one given, / the folder, stdin empty, stderr in the same pipe."""
    body = "/usr/bin/env -u PWD -u _ ; pwd; /bin/cat; umask; echo said >&2"
    run = launcher.run(hook(tmp_path, body), {"SLURM_JOB_ID": "7"})
    assert run.output.splitlines() == ["SLURM_JOB_ID=7", "/", "0022", "said"]


def test_a_run_is_measured(launcher: Launcher, tmp_path: Path) -> None:
    """Times and the peak of the largest process are those of the hook, not of Python here."""
    run = launcher.run(hook(tmp_path, "exit 0"), {})
    assert run.status == 0
    assert run.start < run.end
    assert 100 < run.peak_kib < 8000


def test_several_at_once(launcher: Launcher, tmp_path: Path) -> None:
    """Hooks that wait for each other all end, so they do run at once."""
    fifo = tmp_path / "fifo"
    body = f'if [ "$N" = 1 ]; then echo x >{fifo}; else read line <{fifo}; echo "$line"; fi'
    path = hook(tmp_path, f"[ -p {fifo} ] || /usr/bin/mkfifo {fifo} 2>/dev/null\n{body}")
    first, second = launcher.together([(path, {"N": "1"}), (path, {"N": "2"})])
    assert (first.output, second.output) == ("", "x\n")


def test_a_failed_hook_is_no_measurement(launcher: Launcher, tmp_path: Path) -> None:
    """A hook that fails ends the bench with what it said."""
    with pytest.raises(BenchError, match="wait status 768: no driver"):
        launcher.run(hook(tmp_path, "echo no driver; exit 3"), {})


def test_summary() -> None:
    """Median, smallest, and the smallest value that nine in ten do not exceed."""
    assert Summary.of([float(n) for n in range(20, 0, -1)]) == Summary(10.5, 1.0, 18.0, 20)
