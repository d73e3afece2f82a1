"""One cluster for each release; after each test its log has no error of the plugin."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from submitcluster import Site

from slurm_mig.rehearsal import slurm_folder
from slurm_mig.rehearsal.cluster import SlurmInstall


@pytest.fixture(scope="session")
def running_sites() -> Iterator[tuple[dict[str, Site], ExitStack]]:
    """The clusters that run, by release, and what ends them."""
    with ExitStack() as stack:
        yield {}, stack


@pytest.fixture(
    params=[
        pytest.param("own", marks=pytest.mark.xdist_group("submit")),
        pytest.param("trixie", marks=pytest.mark.xdist_group("submit-others")),
        pytest.param("forky", marks=pytest.mark.xdist_group("submit-others")),
    ]
)
def site(
    request: pytest.FixtureRequest,
    slurm_install: SlurmInstall,
    running_sites: tuple[dict[str, Site], ExitStack],
) -> Iterator[Site]:
    """A cluster with the module: this machine's Slurm, and others where their folders exist."""
    sites, stack = running_sites
    suite = request.param
    if suite not in sites:
        install = slurm_install
        if suite != "own":
            found = slurm_folder.find(suite)
            if found is None:
                pytest.skip(
                    f"no Slurm of {suite}: python -m slurm_mig.rehearsal.slurm_folder {suite}"
                )
            install = found
        made = Site(install)
        stack.enter_context(made.cluster)
        sites[suite] = made
    one = sites[suite]
    yield one
    assert one.complaints() == []
    for job in one.cluster.jobs():
        one.cluster.run("scancel", str(job["job_id"]), check=False)
    one.cluster.wait_nodes_idle()
