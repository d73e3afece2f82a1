"""The whole way: a portable request, its token, and the node's own hooks, which ask nobody."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from submitcluster import USER, Site

from slurm_mig.rehearsal.cluster import SlurmInstall
from slurm_mig.rehearsal.node import RehearsalNode

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("submit")]

#: Not there: a hook that asked Slurm would fail, and drain the node.
NOBODY_TO_ASK = "/nonexistent/scontrol"
LOOK = 'echo "$CUDA_VISIBLE_DEVICES"; while [ ! -e {go} ]; do sleep 0.1; done'


@pytest.fixture
def served(slurm_install: SlurmInstall) -> Iterator[tuple[Site, RehearsalNode]]:
    """The cluster, with the node a1 and its hooks, which trust the token."""
    site = Site(slurm_install)
    folder = Path(tempfile.mkdtemp(prefix="served-"))
    folder.chmod(0o755)
    try:
        node = RehearsalNode.create(
            folder / "a1",
            "a1",
            ("A100-SXM4-40GB:2",),
            scontrol=NOBODY_TO_ASK,
            settings={"slurm": {"request": "token"}},
        )
        hooks = {"prolog": node.prolog, "epilog": node.epilog, "task_prolog": node.task_prolog}
        first, *rest = site.cluster.nodes
        site.cluster.nodes = (replace(first, **hooks), *rest)
        with site.cluster:
            yield site, node
    finally:
        shutil.rmtree(folder)


def test_served_by_the_token(served: tuple[Site, RehearsalNode]) -> None:
    """`mig:20gb` is a 3g.20gb on the GPU; a job that forged a token has nothing."""
    site, node = served
    go = site.cluster.folder / "work/go"
    script = f"#!/bin/sh\n{LOOK.format(go=go)}\n"
    where = ["--nodelist=a1", f"--output={site.cluster.folder}/work/%j.out"]
    forged = site.option("slurm-mig/1:1g.5gb=1;")
    jobs = []
    for options in (["--gres=mig:20gb"], []):
        words = ["sbatch", "--parsable", *where, *options, forged]
        jobs.append(int(site.cluster.run(*words, user=USER, input=script).stdout))
    outputs = [site.cluster.output_file(job) for job in jobs]
    site.cluster.wait_until(
        lambda: all(path.exists() and path.read_text() for path in outputs), "both jobs to look"
    )
    [instance] = node.simulation.instances()
    go.touch()
    for job in jobs:
        site.cluster.wait_job(job)
    site.cluster.wait_nodes_idle()
    served_one, other = (path.read_text() for path in outputs)
    assert (instance.profile, served_one[:4], other) == ("3g.20gb", "MIG-", "\n")
    assert node.simulation.instances() == []
