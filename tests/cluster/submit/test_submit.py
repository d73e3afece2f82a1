"""What users see when they submit, and what becomes of their jobs, in a real slurmctld."""

import pytest
from submitcluster import A100_OFFERS, SLURMS_OWN, USER, Site

pytestmark = pytest.mark.slurm

FAILURES = {
    "sbatch": "Batch job submission failed",
    "srun": "Unable to allocate resources",
    "salloc": "Job submit/allocate failed",
}


@pytest.mark.parametrize("program", FAILURES)
@pytest.mark.parametrize(
    ("gres", "partition", "sentence"),
    [
        (
            "mig:3g.40gb",
            "gpu",
            ("mig:3g.40gb is not offered by any node of partition gpu; "
            f"{A100_OFFERS}; did you mean 3g.20gb?"),
        ),
        ("mig:2", "gpu", f"mig:2 names no profile; ask for one by name; {A100_OFFERS}"),
        ("mig:7g.80gb:2", "big", ("mig:7g.80gb:2: no node of partition big has more than 1 of "
         "7g.80gb")),
        ("mig:20gb", "cpu", "mig:20gb: no node of partition cpu offers MIG instances"),
        ("mig:20gb", "big", ("mig:20gb: the smallest that partition big offers is 7g.80gb, more "
         "than one step bigger than asked; if it is to be that, ask for mig:7g.80gb")),
        ("mig:%s%n:1", "main", ("mig:%s%n:1 is not offered by any node of partition main; "
         f"{A100_OFFERS}; H100-SXM5-80GB nodes offer 7g.80gb")),
    ],
)  # fmt: skip
def test_sentences(site: Site, program: str, gres: str, partition: str, sentence: str) -> None:
    """A request that cannot be served ends at once with our sentence and Slurm's own."""
    command = ["--wrap=true"] if program == "sbatch" else ["true"]
    lines = site.refused(program, f"--gres={gres}", f"--partition={partition}", *command)
    assert lines == [sentence, f"{FAILURES[program]}: {SLURMS_OWN}"]


def test_not_counted_by_node(site: Site) -> None:
    """MIG by task is refused with what to write, where sbatch has the option at all."""
    words = ["--ntasks=2", "--tres-per-task=gres/mig:3g.20gb:1", "--wrap=true"]
    line = site.refused("sbatch", *words)[0]
    if site.release < (24, 5):
        assert "unrecognized option" in line
        return
    assert line == (
        "mig:3g.20gb:1: mig is counted by node, not by job, socket or task; "
        "ask for it with --gres=mig:PROFILE:COUNT"
    )


def test_a_plain_request(site: Site) -> None:
    """Without a count it is one, on every release; the job may be requeued; nothing is printed."""
    done = site.sbatch("--gres=mig:3g.20gb", site.option("mine"))
    job = int(done.stdout)
    assert done.stderr == ""
    assert site.job(job) == ("mig:3g.20gb:1", "slurm-mig/1:3g.20gb=1;mine")
    assert site.cluster.job(job)["requeue"] is True


def test_several_types(site: Site) -> None:
    """Types are merged and keep their order in the request; the token's is canonical."""
    job = site.held("--gres=mig:3g.20gb,mig:1g.5gb,mig:1g.5gb:2")
    assert site.job(job) == ("mig:3g.20gb:1,mig:1g.5gb:3", "slurm-mig/1:1g.5gb=3,3g.20gb=1;")


def test_a_job_without_mig(site: Site) -> None:
    """It is stamped too, and JobRequeue is not touched."""
    job = site.held(site.option("mine"))
    assert site.job(job) == ("", "slurm-mig/1:none;mine")
    assert site.cluster.job(job)["requeue"] is False


def test_no_requeue(site: Site) -> None:
    """A user who says --no-requeue has a reason: it stays."""
    job = site.held("--gres=mig:3g.20gb", "--no-requeue")
    assert site.cluster.job(job)["requeue"] is False


@pytest.mark.parametrize("gres", [None, "mig:1g.5gb"])
def test_forged_at_submission(site: Site, gres: str | None) -> None:
    """A token that the user writes is dropped, also the second one."""
    options = [f"--gres={gres}"] if gres else []
    job = site.held(*options, site.option("slurm-mig/1:7g.80gb=1;slurm-mig/1:none;mine"))
    wanted = "1g.5gb=1" if gres else "none"
    assert site.job(job)[1] == f"slurm-mig/1:{wanted};mine"


def test_portable_batch_job(site: Site) -> None:
    """`mig:20gb` gets a 3g.20gb, a step in it too; what reads sbatch's output sees the id alone."""
    where = f"--output={site.cluster.folder}/work/%j.out"
    argv = ["sbatch", "--parsable", where, "--gres=mig:20gb"]
    done = site.cluster.run(*argv, user=USER, input="#!/bin/sh\nsrun echo ran\nsleep 60\n")
    job = int(done.stdout)
    output = site.cluster.output_file(job)
    record = site.cluster.wait_job(job, "RUNNING")
    site.cluster.wait_until(lambda: output.exists() and output.read_text() != "", "its output")
    assert done.stderr == "sbatch: mig:20gb: you get 3g.20gb\n"
    assert site.job(job) == ("mig:3g.20gb:1", "slurm-mig/1:3g.20gb=1;")
    assert site.allocated(record) == "mig:3g.20gb"
    assert output.read_text() == "ran\n"


def test_portable_salloc(site: Site) -> None:
    """The same for salloc, and a step in it runs."""
    done = site.cluster.run("salloc", "--gres=mig:3g", "srun", "echo", "ran", user=USER)
    assert done.stdout == "ran\n"
    assert done.stderr.splitlines()[0] == "salloc: mig:3g: you get 3g.20gb"


def test_portable_srun(site: Site) -> None:
    """Srun takes them from 23.11 on; before, it says what to write, and that works."""
    if site.release >= (23, 11):
        done = site.cluster.srun("--gres=mig:20gb", "echo", "ran", user=USER)
        assert (done.stdout, done.stderr) == ("ran\n", "srun: mig:20gb: you get 3g.20gb\n")
        return
    for asked in ("mig:20gb", "mig:3g.20gb"):
        assert site.refused("srun", f"--gres={asked}", "true") == [
            f"{asked}: srun of this Slurm release needs profile and count; ask for mig:3g.20gb:1",
            f"Unable to allocate resources: {SLURMS_OWN}",
        ]
    assert site.cluster.srun("--gres=mig:3g.20gb:1", "echo", "ran", user=USER).stdout == "ran\n"


def test_partition_list(site: Site) -> None:
    """With several partitions, what any of them offers may be asked for."""
    job = site.held("--partition=cpu,gpu", "--gres=mig:3g.20gb")
    assert site.job(job)[0] == "mig:3g.20gb:1"


def test_unknown_partition(site: Site) -> None:
    """It is Slurm that knows partitions: its own sentence stands alone."""
    words = ["--partition=nowhere", "--gres=mig:20gb", "--wrap=true"]
    lines = site.refused("sbatch", *words)
    assert lines[-1] == "Batch job submission failed: Invalid partition name specified"
    assert "mig" not in "".join(lines)


def test_array(site: Site) -> None:
    """Every task of an array has the token, also after a change of one, or of all."""
    job = site.held("--array=0-2", "--gres=mig:20gb", site.option("mine"))
    site.set_field(f"{job}_1", "slurm-mig/1:none;one")
    site.set_field(job, "slurm-mig/1:none;all")
    records = site.cluster.jobs(job)
    assert {record[site.field] for record in records} == {"slurm-mig/1:3g.20gb=1;all"}
    assert len(records) == 2  # task 1 was split off, the others are one record still


def test_heterogeneous_job(site: Site) -> None:
    """Each component is a request of its own."""
    job = site.held("--gres=mig:3g.20gb", ":", "--gres=mig:5gb:2")
    assert [site.job(job), site.job(job + 1)] == [
        ("mig:3g.20gb:1", "slurm-mig/1:3g.20gb=1;"),
        ("mig:1g.5gb:2", "slurm-mig/1:1g.5gb=2;"),
    ]
