"""Nodes with simulated GPUs for the tests of the core."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from partitioning import Site, can_make_nodes

from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.simulator.handle import Simulation

# One build of the driver for all test processes, inside the repository.
os.environ.setdefault("SLURM_MIG_CACHE", str(Path(__file__).parents[2] / ".cache"))

MakeSite = Callable[..., Site]


@pytest.fixture
def make(tmp_path: Path) -> MakeSite:
    """Makes a node: `make("A100-SXM4-40GB:2", layout="small", epilog={"budget": 1})`."""

    def make_one(*gpus: str, layout: Any = None, base: Path = tmp_path, **options: Any) -> Site:
        sections = {
            name: options.pop(name)
            for name in (
                "driver",
                "gpus",
                "state",
                "slurm",
                "lock",
                "prolog",
                "epilog",
                "isolation",
            )
            if name in options
        }
        if not can_make_nodes(tmp_path):
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

    return make_one


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can reach, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def site(make: MakeSite) -> Site:
    """One A100-SXM4-40GB without promises; removals give up after 0.2 s."""
    return make(epilog={"budget": 0.2})
