"""Elastic mode's files: the anchor keeps jobs waiting, and counts may move while nodes stay up."""

import time
from collections.abc import Iterator, Mapping

import pytest
from rendercluster import Rendered, complaints, counts, running

from slurm_mig.rehearsal.cluster import SlurmInstall

pytestmark = pytest.mark.slurm

ELASTIC = """
[elastic]
enabled = true
[nodes.a100]
hosts = "n1"
gpus = "A100-SXM4-40GB:2"
layout = "balanced"
conf = "{n1} CPUs=8 State=UNKNOWN"
"""
LAYOUT = {("mig", "1g.5gb"): 4, ("mig", "2g.10gb"): 2, ("mig", "3g.20gb"): 2, ("mig", "none"): 6}


@pytest.fixture
def elastic(install: SlurmInstall) -> Iterator[Rendered]:
    """One node, and the anchor."""

    def describe(places: Mapping[str, str]) -> str:
        return ELASTIC.format(**places)

    with running(install, ["n1"], describe) as one:
        yield one


def offer(rendered: Rendered, gres: str) -> None:
    """Say what n1 offers, as the planner does."""
    rendered.cluster.run("scontrol", "update", "NodeName=n1", f"Gres={gres}")


def nonzero(rendered: Rendered) -> dict[tuple[str, str], int]:
    """What n1 offers."""
    return {name: count for name, count in rendered.offered()["n1"].items() if count}


def restarted(rendered: Rendered) -> None:
    """Restart n1's slurmd and wait until slurmctld has heard from it."""
    cluster = rendered.cluster
    cluster.end_daemon("slurmd-n1")
    # Slurm shows the second in which a slurmd started.
    before = int(time.time())
    cluster.wait_until(lambda: int(time.time()) > before, "the next second")
    cluster.start_slurmd("n1")

    def heard() -> bool:
        found = cluster.node("n1")["slurmd_start_time"]
        return (found["number"] if isinstance(found, dict) else found) > before

    cluster.wait_until(heard, "n1 to register")


def test_the_anchor_offers_everything_and_stays_down(elastic: Rendered) -> None:
    """It has the most of each profile that a node could have, is DOWN, and nothing complains."""
    cluster = elastic.cluster
    said = cluster.run("sinfo", "-hN", "-n", "mig-anchor", "-o", "%T|%E|%G").stdout
    state, reason, gres = said.strip().split("|")
    assert (state, reason) == ("down", "slurm-mig-anchor")
    assert counts(gres) == {
        ("mig", "1g.5gb"): 14,
        ("mig", "1g.5gb+me"): 2,
        ("mig", "1g.10gb"): 8,
        ("mig", "2g.10gb"): 6,
        ("mig", "3g.20gb"): 4,
        ("mig", "4g.20gb"): 2,
        ("mig", "7g.40gb"): 2,
    }
    assert elastic.offered()["n1"] == LAYOUT == elastic.promises()["n1"]
    assert complaints(cluster.log("slurmctld")) == []


@pytest.mark.parametrize("profile", ["7g.40gb", "2g.10gb"])
def test_a_job_waits_for_its_count(elastic: Rendered, profile: str) -> None:
    """At 0 everywhere, whether the layout has the type or not, jobs wait; raised, they start."""
    cluster = elastic.cluster
    offer(elastic, "mig:1g.5gb:2,mig:none:12")
    batch = cluster.sbatch("true", f"--gres=mig:{profile}:1")
    interactive = cluster.popen("srun", "--quiet", f"--gres=mig:{profile}:1", "echo", "ran")
    cluster.wait_until(
        lambda: [job["state_reason"] for job in cluster.jobs()] == ["ReqNodeNotAvail"] * 2,
        "both jobs to wait for a node",
    )
    offer(elastic, f"mig:{profile}:1,mig:1g.5gb:2,mig:none:11")
    cluster.wait_job(batch)
    assert interactive.communicate(timeout=60) == ("ran\n", "")


def test_the_padding_type_is_nobodys(elastic: Rendered) -> None:
    """Who asks for it is refused."""
    said = elastic.cluster.srun("--gres=mig:none:1", "true", check=False)
    assert said.returncode == 1
    assert "none" in said.stderr


def test_a_restart_of_slurmd_drains_no_node(elastic: Rendered) -> None:
    """With the sum kept, also under a job. What slurm.conf names is back, the rest is as it was."""
    cluster = elastic.cluster
    offer(elastic, "mig:7g.40gb:1,mig:1g.5gb:1,mig:none:12")
    job = cluster.sbatch("sleep 600", "--gres=mig:7g.40gb:1")
    cluster.wait_job(job, "RUNNING")
    restarted(elastic)
    cluster.wait_until(lambda: ("mig", "2g.10gb") in nonzero(elastic), "the counts to be back")
    assert nonzero(elastic) == {**LAYOUT, ("mig", "7g.40gb"): 1}
    assert cluster.node_states("n1") & {"DRAIN", "DOWN", "INVALID_REG"} == set()
    assert "RUNNING" in cluster.job_states(job)
    offer(elastic, "mig:7g.40gb:2,mig:none:12")
    cluster.wait_job(cluster.sbatch("true", "--gres=mig:7g.40gb:1"))
    assert complaints(cluster.log("slurmctld")) == []


def test_a_restart_of_slurmctld_begins_with_the_layout(elastic: Rendered) -> None:
    """The counts are those of slurm.conf, no node is drained, and the anchor is down as before."""
    cluster = elastic.cluster
    offer(elastic, "mig:7g.40gb:2,mig:none:12")
    cluster.end_daemon("slurmctld")
    cluster.start_slurmctld()
    cluster.wait_nodes_idle()
    assert nonzero(elastic) == LAYOUT
    assert "DOWN" in cluster.node_states("mig-anchor")
    cluster.wait_job(cluster.sbatch("true", "--gres=mig:2g.10gb:2"))
