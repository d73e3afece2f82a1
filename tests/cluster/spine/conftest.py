"""One cluster for all tests of the whole, looked over after each of them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from spinecluster import Spine

from slurm_mig.rehearsal.cluster import SlurmInstall


@pytest.fixture(scope="session")
def spine_folder() -> Iterator[Path]:
    """A folder with a short path, since sockets live in it, that every user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="spine-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shared_spine(slurm_install: SlurmInstall, spine_folder: Path) -> Iterator[Spine]:
    """The running cluster; take `spine` instead, which cleans up and looks for leftovers."""
    spine = Spine(spine_folder, slurm_install)
    with spine.cluster:
        yield spine


@pytest.fixture
def spine(shared_spine: Spine) -> Iterator[Spine]:
    """The cluster, idle; after the test nothing may be left on any node, and none be drained."""
    yield shared_spine
    try:
        shared_spine.end_jobs()
        assert shared_spine.leftovers() == {}
        assert [node.simulation.faults() for node in shared_spine.nodes.values()] == [{}, {}]
    finally:
        shared_spine.repair()
