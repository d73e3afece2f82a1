"""Runs `slurm-mig` in this process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from rendering import TWO_GROUPS

from slurm_mig.cli import main


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `slurm-mig` with these words, its output captured as in a pipe."""

    def run_one(*words: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["slurm-mig", *map(str, words)])
        capsys.readouterr()
        try:
            status = main.main()
        except SystemExit as exit_:  # argparse's
            status = exit_.code if isinstance(exit_.code, int) else 1
        said = capsys.readouterr()
        return Ended(status, said.out, said.err)

    return run_one


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A cluster.toml of two groups."""
    path = tmp_path / "cluster.toml"
    path.write_text(TWO_GROUPS)
    return path


@pytest.fixture
def render(run: Run, cluster: Path) -> Run:
    """Runs `slurm-mig render` on that file."""
    return lambda *words: run("render", "--config", cluster, *words)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives this host another name."""
    import os

    found = os.uname()

    def named(name: str) -> None:
        fake = os.uname_result((found.sysname, name, *tuple(found)[2:]))
        monkeypatch.setattr("slurm_mig.cli.configuration.os.uname", lambda: fake)

    return named
