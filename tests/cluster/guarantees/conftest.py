"""One cluster for each release; after each test nothing is left, and every invariant holds."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from invariants import settled
from spinecluster import Spine, looked_over, running

from slurm_mig.rehearsal import slurm_folder
from slurm_mig.rehearsal.cluster import SlurmInstall

RELEASES = {"own": "22.05 of Debian 12", "trixie": "24.11", "forky": "26.05"}


@pytest.fixture(scope="session")
def running_spines() -> Iterator[tuple[dict[str, Spine], ExitStack]]:
    """The clusters that run, by release, and what ends them."""
    with ExitStack() as stack:
        yield {}, stack


@pytest.fixture(
    params=[
        pytest.param(suite, marks=pytest.mark.xdist_group(f"guarantees-{suite}"))
        for suite in RELEASES
    ]
)
def real(
    request: pytest.FixtureRequest,
    slurm_install: SlurmInstall,
    running_spines: tuple[dict[str, Spine], ExitStack],
) -> Iterator[Spine]:
    """A cluster on this machine's own Slurm, and on others where their folders exist."""
    spines, stack = running_spines
    suite = request.param
    if suite not in spines:
        install = slurm_install
        if suite != "own":
            found = slurm_folder.find(suite)
            if found is None:
                pytest.skip(
                    f"no Slurm of {suite}: python -m slurm_mig.rehearsal.slurm_folder {suite}"
                )
            install = found
        spines[suite] = stack.enter_context(contextmanager(running)(install))
    with contextmanager(looked_over)(spines[suite]) as spine:
        yield spine
        spine.end_jobs()
        for node in spine.nodes.values():
            settled(node, {})
