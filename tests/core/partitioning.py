"""A simulated node to partition, and what the tests of the core do to it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slurm_mig import hook
from slurm_mig.errors import NodeFault
from slurm_mig.ledger import Entry, Ledger
from slurm_mig.log import Log
from slurm_mig.nvml import Driver
from slurm_mig.partitioner import Partitioner
from slurm_mig.profiles import Placement
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.request import Wanted
from slurm_mig.simulator.handle import Simulation

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_CI = "nvmlGpuInstanceCreateComputeInstance"
DESTROY = "nvmlGpuInstanceDestroy"
DESTROY_CI = "nvmlComputeInstanceDestroy"


def wanted(*words: str) -> list[Wanted]:
    """`3g.20gb`, `1g.5gb:2` as the core takes them."""
    parts = [word.partition(":") for word in words]
    return [Wanted(profile, int(number or 1)) for profile, _, number in parts]


def wait_for(condition: Callable[[], object], what: str = "the condition") -> None:
    """Return once it holds; fail after half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited 30 s for {what}"
        time.sleep(0.002)


class Site:
    """One node: `sim` is its driver, `core()` opens a partitioner on it, as a hook would."""

    def __init__(self, node: RehearsalNode, simulation: Simulation | None = None) -> None:
        self.node = node
        self.sim = simulation or node.simulation
        self.run = node.run_directory

    @contextmanager
    def core(self) -> Iterator[Partitioner]:
        """A partitioner, closed after."""
        with hook.partitioner(self.node.settings, Log(str(self.node.log), "test")) as core:
            yield core

    def acquire(self, job: int, *words: str, uid: int = 0) -> list[Entry]:
        """Acquire in a core of its own."""
        with self.core() as core:
            return core.acquire(job, uid, wanted(*words))

    def release(self, job: int) -> int:
        """Release in a core of its own."""
        with self.core() as core:
            return core.release(job)

    def reconcile(self, alive: "set[int] | None") -> dict[str, list[str]]:
        """What reconcile reports, without the empty parts."""
        jobs = None if alive is None else frozenset(alive)
        with hook.partitioner(
            self.node.settings, Log(str(self.node.log), "test"), mend=True
        ) as core:
            report = core.reconcile(lambda: jobs)
        return {
            name: sentences for name in report.__slots__ if (sentences := getattr(report, name))
        }

    def ledger(self) -> list[tuple[int, str, str]]:
        """(job, profile, state) of every row."""
        with Ledger(self.node.folder / "state") as ledger:
            return [(entry.job, entry.wish.profile, entry.state) for entry in ledger.entries()]

    def entries(self) -> list[Entry]:
        """Every row."""
        with Ledger(self.node.folder / "state") as ledger:
            return ledger.entries()

    def lives(self) -> list[tuple[int, str, str, int]]:
        """(GPU, profile, placement, CIs) of everything that the driver has."""
        return [
            (gi.gpu, gi.profile, str(gi.placement), len(gi.compute)) for gi in self.sim.instances()
        ]

    def foreigner(self, profile: str, start: int, *, gpu: int = 0, ci: bool = True) -> int:
        """An instance that somebody else makes; its GI id."""
        with Driver(self.node.settings.driver_library) as driver:
            there = driver.gpus()[gpu]
            made = next(p for p in driver.geometry(there).profiles if p.name == profile)
            gi = driver.create_gi(there.uuid, made, Placement(start, made.size))
            if ci:
                driver.create_ci(there.uuid, gi, made.slices)
            return gi

    def program(self, code: str) -> "subprocess.Popen[str]":
        """Python in a process of its own, with `core`, `wanted` and `say` in it."""
        return subprocess.Popen(
            [sys.executable, "-c", _PREAMBLE + code, str(self.node.config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parent,
            text=True,
        )


_PREAMBLE = """
import sys
from pathlib import Path
from partitioning import wanted
from slurm_mig import configfile, hook
from slurm_mig.errors import SlurmMigError
from slurm_mig.log import Log
settings = configfile.load(Path(sys.argv[1]))
def say(text):
    print(text, flush=True)
def opened():
    return hook.partitioner(settings, Log(settings.log_to, "test"))
"""


def can_make_nodes(folder: Path) -> bool:
    """Whether device nodes may be made here (root, and a system that lets it)."""
    try:
        os.mknod(folder / "node", 0o20600, os.makedev(120, 9))
    except OSError:
        return False
    (folder / "node").unlink()
    return True


def refusal(action: Callable[[], Any]) -> str:
    """The text of the NodeFault that an action raises."""
    try:
        action()
    except NodeFault as error:
        return str(error)
    raise AssertionError("nothing was raised")


def make_site(base: Path, *gpus: str, layout: Any = None, **options: Any) -> Site:
    """A node `n1`: `make_site(tmp_path, "A100-SXM4-40GB:2", epilog={"budget": 1})`.

    Keywords named like a section are its keys; the others go to Simulation.create.
    """
    names = ("driver", "gpus", "state", "slurm", "lock", "prolog", "epilog", "isolation")
    sections = {name: options.pop(name) for name in names if name in options}
    if not can_make_nodes(base):
        sections.setdefault("isolation", {"devices": "none"})
    sections.setdefault("prolog", {}).setdefault("wait", 0)
    other = None
    if any(gpu.startswith("T4") for gpu in gpus):  # in no table of MIG GPUs, so in no layout
        other = Simulation.create(base / "sim", gpus, **options)
        sections["driver"] = {"library": str(other.library), "root": str(other.root)}
        gpus = ()
    node = RehearsalNode.create(
        base / "n1",
        "n1",
        gpus or ["A100-SXM4-40GB"],
        scontrol="/nonexistent/scontrol",
        layout_spec=layout,
        settings=sections,
        **options,
    )
    return Site(node, other)
