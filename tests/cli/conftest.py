"""The command line on a node with simulated GPUs."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slurm_mig import hook
from slurm_mig.cli import main
from slurm_mig.log import Log
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.request import Wanted

# One build of the driver for all test processes, inside the repository.
os.environ.setdefault("SLURM_MIG_CACHE", str(Path(__file__).parents[2] / ".cache"))

_SCONTROL = """#!/bin/sh
cd '{folder}' || exit 9
if [ ! -e "${{0##*/}}.answer" ]; then
	echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
	exit 1
fi
cat "${{0##*/}}.answer"
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `slurm-mig` with these words, in this process, its output captured as in a pipe."""
    monkeypatch.delenv("NO_COLOR", raising=False)

    def run_one(*words: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["slurm-mig", *map(str, words)])
        capsys.readouterr()
        try:
            status = main.main()
        except SystemExit as exit_:  # argparse's, for --help and wrong usage
            status = exit_.code if isinstance(exit_.code, int) else 1
        said = capsys.readouterr()
        return Ended(status, said.out, said.err)

    return run_one


@pytest.fixture
def program() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs `slurm-mig` as a program of its own."""

    def run_one(*words: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "slurm_mig.cli.main", *map(str, words)]
        defaults = {"capture_output": True, "text": True, "check": False, "timeout": 60}
        return subprocess.run(command, **{**defaults, **options})

    return run_one


class Admin:
    """A node and what its administrator can do."""

    def __init__(self, node: RehearsalNode, folder: Path, run: Run) -> None:
        self.node, self.sim, self.folder = node, node.simulation, folder
        self._run = run

    def __call__(self, command: str, *words: str | Path) -> Ended:
        """Run a command with this node's configuration."""
        return self._run(command, "--config", self.node.config, *words)

    def acquire(self, job: int, *profiles: str, uid: int = 0) -> list[str]:
        """Serve a job, as its Prolog would; the UUIDs."""
        with hook.partitioner(self.node.settings, Log(str(self.node.log), "test")) as core:
            entries = core.acquire(job, uid, [Wanted(profile, 1) for profile in profiles])
        return [entry.uuids[0] for entry in entries]

    def foreigner(self) -> None:
        """An instance that somebody else made: 1g.5gb at 0:1 of GPU 0."""
        from slurm_mig.nvml import Driver
        from slurm_mig.profiles import Placement

        with Driver(self.node.settings.driver_library) as driver:
            gpu = driver.gpus()[0]
            profile = next(p for p in driver.geometry(gpu).profiles if p.name == "1g.5gb")
            driver.create_ci(gpu.uuid, driver.create_gi(gpu.uuid, profile, Placement(0, 1)), 1)

    def slurm_says(self, text: str) -> None:
        """Let squeue answer; without this Slurm is down."""
        (self.folder / "squeue.answer").write_text(text)


@pytest.fixture
def make(tmp_path: Path, run: Run) -> Callable[..., Admin]:
    """Makes a node: `make("A100-SXM4-40GB:2", layout="small")`."""

    def make_one(
        *gpus: str, layout: Any = "balanced", settings: Any = None, **options: Any
    ) -> Admin:
        folder = tmp_path / "slurm"
        folder.mkdir()
        for name in ("scontrol", "squeue"):
            (folder / name).write_text(_SCONTROL.format(folder=folder))
            (folder / name).chmod(0o755)
        node = RehearsalNode.create(
            tmp_path / "n1",
            "n1",
            gpus or ["A100-SXM4-40GB"],
            scontrol=folder / "scontrol",
            layout_spec=layout,
            settings={
                "slurm": {"timeout": 0.1},
                "isolation": {"devices": "none"},
                "epilog": {"budget": 0.1},
                "prolog": {"wait": 0},
                **(settings or {}),
            },
            **options,
        )
        return Admin(node, folder, run)

    return make_one


@pytest.fixture
def admin(make: Callable[..., Admin]) -> Admin:
    """One A100-SXM4-40GB with the balanced layout."""
    return make()
