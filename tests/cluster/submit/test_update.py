"""What `scontrol update` can do to a job, in a real slurmctld: everything but move its token."""

import pytest
from submitcluster import A100_OFFERS, SLURMS_OWN, USER, Site

from slurm_mig.request import parse_token

pytestmark = pytest.mark.slurm

#: scontrol tells what the plugin says from 23.02 on.
SPEAKS = (23, 2)


@pytest.mark.parametrize("user", [USER, None])
@pytest.mark.parametrize(
    ("text", "kept"),
    [("other", "other"), ("", ""), ("slurm-mig/1:none;x", "x"), ("slurm-mig/1:7g.80gb=1;x", "x")],
)
def test_the_field(site: Site, user: str | None, text: str, kept: str) -> None:
    """Whoever changes or erases it, root too: the token of the job's request is back."""
    job = site.held("--gres=mig:3g.20gb", site.option("mine"))
    site.set_field(job, text, user)
    assert site.job(job) == ("mig:3g.20gb:1", f"slurm-mig/1:3g.20gb=1;{kept}")


def test_what_the_prolog_gets(site: Site) -> None:
    """Forged at submission, forged again, asked otherwise: the node gets the truth."""
    job = site.held("--gres=mig:20gb", "--partition=gpu", site.option("slurm-mig/1:none;a"))
    other = site.held("--partition=gpu", site.option("slurm-mig/1:3g.20gb=2;a"))
    for one in (job, other):
        site.set_field(one, "slurm-mig/1:7g.80gb=1;b")
    site.update(job, "Gres=mig:1g.5gb:2,mig:3g")
    for one in (job, other):
        site.cluster.run("scontrol", "release", str(one), user=USER)
        site.cluster.wait_job(one)
    assert parse_token(site.seen_by_prolog(job)) == (("1g.5gb", 2), ("3g.20gb", 1))
    assert site.seen_by_prolog(job) == "slurm-mig/1:1g.5gb=2,3g.20gb=1;b"
    assert site.seen_by_prolog(other) == "slurm-mig/1:none;b"


def test_the_field_of_a_running_job(site: Site) -> None:
    """The Prolog has read it, but a requeued job is started by it again."""
    job = site.cluster.sbatch("sleep 60", "--gres=mig:1g.5gb", user=USER)
    site.cluster.wait_job(job, "RUNNING")
    site.set_field(job, "slurm-mig/1:none;x")
    refused = site.update(job, "Gres=mig:1g.5gb:2", user=None)
    assert refused.returncode != 0
    assert site.job(job) == ("mig:1g.5gb:1", "slurm-mig/1:1g.5gb=1;x")


@pytest.mark.parametrize(
    ("gres", "becomes", "token"),
    [
        ("mig:1g.5gb:2", "mig:1g.5gb:2", "1g.5gb=2"),
        ("mig:1g.5gb", "mig:1g.5gb:1", "1g.5gb=1"),
        ("mig:10gb", "mig:2g.10gb:1", "2g.10gb=1"),
        ("", "", "none"),
    ],
)
def test_another_request(site: Site, gres: str, becomes: str, token: str) -> None:
    """The token follows the request, and the user's own text stays."""
    job = site.held("--gres=mig:3g.20gb", site.option("mine"))
    done = site.update(job, f"Gres={gres}")
    assert done.returncode == 0
    assert site.job(job) == (becomes, f"slurm-mig/1:{token};mine")


def test_mig_for_a_job_without(site: Site) -> None:
    """A job that had none gets a request and its token in one update with a forged text."""
    job = site.held(site.option("mine"))
    words = ["Gres=mig:3g.20gb:1", f"{site.field.capitalize()}=slurm-mig/1:none;x"]
    assert site.update(job, *words).returncode == 0
    assert site.job(job) == ("mig:3g.20gb:1", "slurm-mig/1:3g.20gb=1;x")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["Gres=mig:7g.40gb"], ("mig:7g.40gb is not offered by any node of partition gpu; "
         f"{A100_OFFERS}")),
        (["Partition=cpu"], "mig:3g.20gb:1: no node of partition cpu offers MIG instances"),
        (["Partition=big", "Gres=mig:3g.20gb"], ("mig:3g.20gb is not offered by any node of "
         "partition big; H100-SXM5-80GB nodes offer 7g.80gb")),
    ],
)  # fmt: skip
def test_refused(site: Site, words: list[str], sentence: str) -> None:
    """What the job could not run with is refused, with the sentence where scontrol prints it."""
    job = site.held("--partition=gpu", "--gres=mig:3g.20gb", site.option("mine"))
    done = site.update(job, *words)
    said = [line.removeprefix("scontrol: error: ") for line in done.stderr.splitlines()]
    assert done.returncode != 0
    assert said == [sentence] * (site.release >= SPEAKS) + [f"{SLURMS_OWN} for job {job}"]
    assert site.job(job) == ("mig:3g.20gb:1", "slurm-mig/1:3g.20gb=1;mine")
    assert site.cluster.job(job)["partition"] == "gpu"


def test_something_else(site: Site) -> None:
    """Name, time, a partition that fits: nothing of ours is in the way."""
    job = site.held("--gres=mig:3g.20gb", site.option("mine"))
    words = ["JobName=other", "TimeLimit=10", "Partition=gpu"]
    assert site.update(job, *words).returncode == 0
    assert site.cluster.job(job)["partition"] == "gpu"
    assert site.job(job) == ("mig:3g.20gb:1", "slurm-mig/1:3g.20gb=1;mine")
