"""What the tests of the guarantees share; `invariants` and `effort` are imported from here."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hooking import Hooks, make_hooks
from partitioning import Site, make_site


@pytest.fixture
def new_hooks(tmp_path: Path) -> Callable[..., Hooks]:
    """Makes a node whose hooks are run as slurmd runs them; see `hooking.make_hooks`."""
    return lambda *gpus, **options: make_hooks(tmp_path, *gpus, **options)


@pytest.fixture
def new_site(tmp_path: Path) -> Callable[..., Site]:
    """Makes a node whose core is driven directly; see `partitioning.make_site`."""
    return lambda *gpus, **options: make_site(tmp_path, *gpus, **options)


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Notes what was tried: `figures("kills", kills=300, seeds=[17])`.

    The numbers of all tests of a topic are added up and printed at the end of the run, one line
    `guarantees: kills: kills=300 seeds=17` for each (tests/conftest.py).
    """

    def note(topic: str, **numbers: object) -> None:
        record_property("guarantees", [topic, numbers])

    return note
