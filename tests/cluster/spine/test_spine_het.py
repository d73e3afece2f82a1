"""Heterogeneous jobs: each component has an id, but its tasks are told that of the first one."""

import json

import pytest
from spinecluster import IMPOSSIBLE, USER, Spine, gres

from slurm_mig.rehearsal.hookrun import run_hook

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("spine")]

FIRST, SECOND = {"3g.20gb": 1}, {"1g.5gb": 2}


def by_profiles(seen: list[dict]) -> dict[str, tuple[str, int]]:
    """The node of each task, and how many MIG devices it found, by what it was given."""
    return {one["profiles"]: (one["node"], len(one["devices"])) for one in seen}


def test_batch_job_with_two_components(spine: Spine) -> None:
    """The tasks of each component see its own instances, and the script those of the first."""
    output = f"--output={spine.folder}/slurm/work/het.out"
    script = f"#!/bin/sh\n{spine.look}\nsrun --het-group=0,1 {spine.look}\n"
    words = ["sbatch", output, "-w", "node1", gres(FIRST), ":", "-w", "node2", gres(SECOND)]
    spine.cluster.run(*words, input=script, user=USER)
    spine.end_of_jobs()
    lines = (spine.folder / "slurm/work/het.out").read_text().splitlines()
    own, *steps = (json.loads(line) for line in lines)
    assert by_profiles([own]) == {"3g.20gb": ("node1", 1)}
    assert by_profiles(steps) == {"3g.20gb": ("node1", 1), "1g.5gb,1g.5gb": ("node2", 2)}


def test_srun_with_two_components(spine: Spine) -> None:
    """The same without a batch script, where a task's environment names no other component."""
    words = ["--quiet", gres(FIRST), spine.look, ":", gres(SECOND), spine.look]
    with spine.cluster.popen("srun", *words, user=USER) as process:
        seen = spine.ended(process)
    assert {profiles: count for profiles, (_, count) in by_profiles(seen).items()} == {
        "3g.20gb": 1,
        "1g.5gb,1g.5gb": 2,
    }


def test_component_without_instances(spine: Spine) -> None:
    """A component that asks for none sees none, although the first one has one."""
    words = ["--quiet", gres(FIRST), spine.look, ":", spine.look]
    with spine.cluster.popen("srun", *words, user=USER) as process:
        seen = spine.ended(process)
    assert sorted(one["visible"].count("MIG-") for one in seen) == [0, 1]


def test_component_that_cannot_be_told(spine: Spine) -> None:
    """Where a task prolog cannot see which component it is of, it lets no task run without."""
    node = spine.nodes["node1"]
    env = {"SLURM_JOB_ID": "4711", "SLURM_HET_SIZE": "2"}
    free = run_hook(node.task_prolog, env, which="task_prolog")
    (node.run_directory / "jobs/4712").mkdir(parents=True)
    refused = run_hook(node.task_prolog, env, which="task_prolog")
    (node.run_directory / "jobs/4712").rmdir()
    assert (free.rc, free.output) == (0, "")
    assert refused.rc == 1
    assert refused.output.startswith("print slurm-mig: job 4711 may not run here: ")


def test_miss_of_one_component(spine: Spine) -> None:
    """Without room for one component the whole batch job goes back, and starts by itself later.

    Its script may have begun on the first component's node by then, since Slurm's DeferBatch does
    not wait for other components; but no task of theirs has.
    """
    foreign = spine.occupy("node2")
    output = f"--output={spine.folder}/slurm/work/hetmiss.out"
    script = f"#!/bin/sh\nsrun --het-group=0,1 {spine.look}\n"
    words = ["sbatch", "--parsable", output, "-w", "node1", gres(FIRST), ":"]
    words += ["-w", "node2", gres(SECOND)]
    job = int(spine.cluster.run(*words, input=script, user=USER).stdout)
    spine.wait_back(job)
    file = spine.folder / "slurm/work/hetmiss.out"
    before = file.read_text() if file.exists() else ""
    for gpu, gi in enumerate(foreign):
        spine.remove_foreign("node2", gpu, gi)
    spine.end_of_jobs()
    seen = [json.loads(line) for line in file.read_text().splitlines()]
    assert '"node2"' not in before
    assert by_profiles(seen) == {"3g.20gb": ("node1", 1), "1g.5gb,1g.5gb": ("node2", 2)}


def test_senseless_request_of_one_component(spine: Spine) -> None:
    """Where one component's request makes no sense, the whole job is held, with the reason."""
    script = f"#!/bin/sh\n{spine.look}\n"
    words = ["sbatch", "--parsable", "-w", "node1", gres(FIRST), ":"]
    words += ["-w", "node2", gres({IMPOSSIBLE: 1})]
    job = int(spine.cluster.run(*words, input=script, user=USER).stdout)
    spine.wait_held(job)
    assert f"has a profile '{IMPOSSIBLE}'" in spine.comment(job)
