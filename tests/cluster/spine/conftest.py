"""One cluster for all tests of the whole, looked over after each of them."""

from collections.abc import Iterator

import pytest
from spinecluster import Spine, looked_over, running

from slurm_mig.rehearsal.cluster import SlurmInstall
from slurm_mig.rehearsal.slurm_folder import DEFAULT_FOLDER


@pytest.fixture(scope="session")
def shared_spine(slurm_install: SlurmInstall) -> Iterator[Spine]:
    """The cluster on this machine's own Slurm; take `spine` instead."""
    yield from running(slurm_install)


@pytest.fixture
def spine(shared_spine: Spine) -> Iterator[Spine]:
    """The cluster on this machine's own Slurm, looked over after the test."""
    yield from looked_over(shared_spine)


@pytest.fixture(scope="session", params=["trixie", "forky"])
def shared_other_spine(
    request: pytest.FixtureRequest, slurm_install: SlurmInstall
) -> Iterator[Spine]:
    """A cluster on another release, where its folder exists; take `other_spine` instead."""
    folder = DEFAULT_FOLDER / request.param
    if not folder.is_dir():
        pytest.skip(f"no {folder}: python -m slurm_mig.rehearsal.slurm_folder {request.param}")
    yield from running(SlurmInstall.find(folder))


@pytest.fixture
def other_spine(shared_other_spine: Spine) -> Iterator[Spine]:
    """A cluster on another release, looked over after the test."""
    yield from looked_over(shared_other_spine)
