"""Real Slurm clusters for tests; marked `slurm`. Without Slurm: a skip, and under CI a failure."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slurm_mig.rehearsal import slurm_folder
from slurm_mig.rehearsal.cluster import Cluster, Node, SlurmInstall, SlurmMissing

MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def slurm_install() -> SlurmInstall:
    """Return this machine's own Slurm."""
    if os.geteuid() != 0:
        pytest.skip("a throwaway Slurm cluster needs root")
    try:
        return SlurmInstall.find()
    except SlurmMissing as error:
        pytest.skip(str(error))


def in_folder(suite: str) -> SlurmInstall:
    """The Slurm of another Debian suite, where its folder exists; else a skip."""
    found = slurm_folder.find(suite)
    if found is None:
        pytest.skip(f"no Slurm of {suite}: python -m slurm_mig.rehearsal.slurm_folder {suite}")
    return found


@pytest.fixture(params=["trixie", "forky"])
def other_install(request: pytest.FixtureRequest, slurm_install: SlurmInstall) -> SlurmInstall:
    """Other releases, where their folders exist; never required."""
    return in_folder(request.param)


@pytest.fixture
def make_cluster(slurm_install: SlurmInstall) -> Iterator[MakeCluster]:
    """Return a function that starts a cluster of the given nodes (0.1 s); all end with the test."""
    made: list[Cluster] = []

    def make(*nodes: Node, **options: Any) -> Cluster:
        cluster = Cluster.temporary(nodes, **{"install": slurm_install, **options})
        made.append(cluster)
        cluster.start()
        return cluster

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture(scope="session")
def session_cluster(slurm_install: SlurmInstall) -> Iterator[Cluster]:
    """One cluster for each test worker; take `cluster` instead, which cleans up between tests."""
    gres = {"3g.20gb": 2, "2g.10gb": 2, "1g.5gb": 4}
    nodes = [Node("node01", gres), Node("node02", gres)]
    with Cluster.temporary(nodes, install=slurm_install, requeue_delay=5) as cluster:
        yield cluster


@pytest.fixture
def cluster(session_cluster: Cluster) -> Iterator[Cluster]:
    """A shared cluster without hooks, node01 and node02, idle and without jobs at the start."""
    yield session_cluster
    session_cluster.end_clients()
    for job in session_cluster.jobs():
        session_cluster.run("scancel", str(job["job_id"]), check=False)
    for node in session_cluster.nodes:
        if "DRAIN" in session_cluster.node_states(node.name):
            session_cluster.run("scontrol", "update", f"NodeName={node.name}", "State=RESUME")
    session_cluster.wait_nodes_idle()
