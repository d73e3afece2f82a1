"""Nodes whose hooks are run as slurmd runs them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hooking import Hooks, make_hooks

MakeHooks = Callable[..., Hooks]


@pytest.fixture
def make(tmp_path: Path) -> MakeHooks:
    """Makes a node with its hooks; see `hooking.make_hooks`."""
    return lambda *gpus, **options: make_hooks(tmp_path, *gpus, **options)


@pytest.fixture
def hooks(make: MakeHooks) -> Hooks:
    """One A100-SXM4-40GB without promises; removals give up after 0.2 s."""
    return make(epilog={"budget": 0.2})
