"""Nodes with simulated GPUs to set up, through the command line."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slurm_mig.cli import main
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.simulator.handle import Simulation

# One build of the driver for all test processes, inside the repository.
os.environ.setdefault("SLURM_MIG_CACHE", str(Path(__file__).parents[2] / ".cache"))

SET_MODE = "nvmlDeviceSetMigMode"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    lines: list[str]
    err: str


class Admin:
    """A node, and `slurm-mig node-setup` on it."""

    def __init__(
        self, node: RehearsalNode, simulation: Simulation, run: Callable[..., Ended]
    ) -> None:
        self.node, self.sim, self._run = node, simulation, run

    def __call__(self, *words: str) -> Ended:
        """Run node-setup with this node's configuration."""
        return self._run("node-setup", "--config", str(self.node.config), *words)

    def modes(self) -> list[tuple[bool, bool]]:
        """(current, pending) of each GPU's MIG mode."""
        return [(gpu.mig_current, gpu.mig_pending) for gpu in self.sim.gpus()]

    def sets(self) -> int:
        """How often somebody tried to set a MIG mode."""
        return self.sim.calls().get(SET_MODE, 0)

    def partition(self, minors: str) -> None:
        """Write another list of GPUs to partition into the configuration."""
        (self.node.folder / "config.d").mkdir(exist_ok=True)
        (self.node.folder / "config.d/gpus.toml").write_text(f'[gpus]\nmig = "{minors}"\n')
        (self.node.folder / "config.d/gpus.toml").chmod(0o644)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """Runs `slurm-mig` with these words, in this process, its output captured as in a pipe."""

    def run_one(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["slurm-mig", *words])
        capsys.readouterr()
        try:
            status = main.main()
        except SystemExit as exit_:  # argparse's, for wrong usage
            status = exit_.code if isinstance(exit_.code, int) else 1
        said = capsys.readouterr()
        return Ended(status, said.out.splitlines(), said.err)

    return run_one


@pytest.fixture
def make(tmp_path: Path, run: Callable[..., Ended]) -> Callable[..., Admin]:
    """Makes a node, with MIG mode off: `make("H100-SXM5-80GB:2", mig="0", self_reset=True)`."""

    def make_one(*gpus: str, mig: str = "all", settings: Any = None, **options: Any) -> Admin:
        options.setdefault("mig_enabled", False)
        sections = {"gpus": {"mig": mig}, **(settings or {})}
        other = None
        if any(gpu.startswith("T4") for gpu in gpus):  # in no table of MIG GPUs
            other = Simulation.create(tmp_path / "sim", gpus, **options)
            sections["driver"] = {"library": str(other.library), "root": str(other.root)}
            gpus = ("A30-24GB",)
        node = RehearsalNode.create(
            tmp_path / "n1",
            "n1",
            gpus,
            scontrol="/nonexistent/scontrol",
            layout_spec=None,
            settings=sections,
            **options,
        )
        return Admin(node, other or node.simulation, run)

    return make_one


_HOLD = """
import sys
with open("/proc/self/comm", "w") as comm:
    comm.write(sys.argv[2])
with open(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[Callable[[Admin, int, str], int]]:
    """Starts a process of a given name that has /dev/nvidia<minor> of a node open; its pid."""

    @contextmanager
    def started(admin: Admin, minor: int, name: str) -> Iterator[int]:
        device = admin.sim.root / f"dev/nvidia{minor}"
        # A plain file: nobody could open a device node of a driver that is not there.
        if not device.is_file():
            device.unlink(missing_ok=True)
            device.write_text("")
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _HOLD, device, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with process:  # which closes its standard input, and waits
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            yield process.pid

    with ExitStack() as stack:
        yield lambda *which: stack.enter_context(started(*which))
