"""The same on other Slurm releases (24.11, 26.05), where a folder holds one."""

import pytest
from spinecluster import IMPOSSIBLE, MEMORY_MB, USER, Spine

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("spine-others")]


def test_srun_without_a_count(other_spine: Spine) -> None:
    """`srun --gres=mig:3g.20gb`, as in the manual, gives a user one instance of that profile."""
    with other_spine.cluster.popen(
        "srun", "--gres=mig:3g.20gb", other_spine.look, user=USER
    ) as process:
        [seen] = other_spine.ended(process)
    assert other_spine.cluster.release in ((24, 11), (26, 5))
    assert seen["profiles"] == "3g.20gb"
    assert [device["memory_mb"] for device in seen["devices"]] == [MEMORY_MB["3g.20gb"]]
    assert [device["uuid"] for device in seen["devices"]] == [seen["visible"]]


def test_batch_job_with_two_instances(other_spine: Spine) -> None:
    """A batch job, and a step in it, see the two instances that it asked for."""
    script = f"{other_spine.look}\nsrun {other_spine.look}"
    job = other_spine.cluster.sbatch(script, "--gres=mig:3g.20gb,mig:1g.5gb", user=USER)
    other_spine.cluster.wait_job(job)
    first, second = other_spine.seen(job)
    assert sorted(first["profiles"].split(",")) == ["1g.5gb", "3g.20gb"]
    assert len(first["devices"]) == 2
    assert second == first


def test_senseless_request(other_spine: Spine) -> None:
    """A profile that the GPUs do not have: the batch job is held, with the reason."""
    job = other_spine.cluster.sbatch(str(other_spine.look), f"--gres=mig:{IMPOSSIBLE}", user=USER)
    other_spine.wait_held(job)
    assert "has a profile '3g.40gb'" in other_spine.comment(job)
    assert not other_spine.cluster.output_file(job).exists()


def test_srun_with_two_components(other_spine: Spine) -> None:
    """The tasks of a heterogeneous job's second component see its own instances."""
    look = other_spine.look
    words = ["--quiet", "--gres=mig:3g.20gb", look, ":", "--gres=mig:1g.5gb", look]
    with other_spine.cluster.popen("srun", *words, user=USER) as process:
        seen = other_spine.ended(process)
    found = {one["profiles"]: [device["memory_mb"] for device in one["devices"]] for one in seen}
    assert found == {profile: [MEMORY_MB[profile]] for profile in ("3g.20gb", "1g.5gb")}
