"""Nodes whose hooks are run as slurmd runs them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hooking import Hooks, can_make_nodes

from slurm_mig.rehearsal.node import RehearsalNode

# One build of the driver for all test processes, inside the repository.
os.environ.setdefault("SLURM_MIG_CACHE", str(Path(__file__).parents[2] / ".cache"))

MakeHooks = Callable[..., Hooks]


@pytest.fixture
def make(tmp_path: Path) -> MakeHooks:
    """Makes a node with its hooks: `make("A100-SXM4-40GB:2", slurm={"request": "token"})`."""

    def make_one(*gpus: str, layout: Any = None, **options: Any) -> Hooks:
        sections = {
            name: dict(options.pop(name, {}))
            for name in ("driver", "state", "slurm", "lock", "prolog", "epilog", "isolation")
        }
        if not can_make_nodes(tmp_path):
            sections["isolation"].setdefault("devices", "none")
        sections["prolog"].setdefault("wait", 0)
        folder = tmp_path / "slurm"
        node = RehearsalNode.create(
            tmp_path / "n1",
            "n1",
            gpus or ["A100-SXM4-40GB"],
            scontrol=Hooks.write_scontrol(folder),
            layout_spec=layout,
            settings={name: keys for name, keys in sections.items() if keys},
            **options,
        )
        return Hooks(node, folder)

    return make_one


@pytest.fixture
def hooks(make: MakeHooks) -> Hooks:
    """One A100-SXM4-40GB without promises; removals give up after 0.2 s."""
    return make(epilog={"budget": 0.2})
