"""Nodes with simulated GPUs for the tests of the core."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from partitioning import Site, make_site

MakeSite = Callable[..., Site]


@pytest.fixture
def make(tmp_path: Path) -> MakeSite:
    """Makes a node; see `partitioning.make_site`."""
    return lambda *gpus, base=tmp_path, **options: make_site(base, *gpus, **options)


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
