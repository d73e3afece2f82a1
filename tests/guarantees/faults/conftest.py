"""Nodes for the tests of faults: in memory, since they write much and are about no disk."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hooking import Hooks, make_hooks


@pytest.fixture
def new_hooks(tmp_path: Path) -> Iterator[Callable[..., Hooks]]:
    """As tests/guarantees/conftest.py has it, where a sync of a file costs nothing if possible."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        dir=memory if os.access(memory, os.W_OK) else tmp_path
    ) as folder:

        def make(*gpus: str, **options: Any) -> Hooks:
            return make_hooks(Path(folder), *gpus, **options)

        yield make
