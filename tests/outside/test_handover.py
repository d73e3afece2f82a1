"""What is handed to the task prolog, and that nobody else can write it."""

from pathlib import Path

import pytest

from slurm_mig.errors import NodeFault
from slurm_mig.handover import Handover


def test_served_job(tmp_path: Path) -> None:
    """The task prolog's lines are there, readable by all, and gone with the job."""
    handover = Handover(tmp_path / "run")
    handover.open(7)
    handover.give(7, ["MIG-a", "MIG-b"], ["3g.20gb", "1g.5gb"])
    env = tmp_path / "run/jobs/7/env"
    assert env.read_text() == (
        "export CUDA_VISIBLE_DEVICES=MIG-a,MIG-b\n"
        "export SLURM_MIG_DEVICES=MIG-a,MIG-b\n"
        "export SLURM_MIG_PROFILES=3g.20gb,1g.5gb\n"
    )
    assert [oct(p.stat().st_mode & 0o777) for p in (env, env.parent, env.parent.parent)] == [
        *("0o644", "0o755", "0o755"),
    ]
    assert handover.open_jobs() == [7]
    handover.close(7)
    handover.close(7)
    assert handover.open_jobs() == []


def test_an_earlier_incarnation_leaves_nothing(tmp_path: Path) -> None:
    """Opening a job's folder takes away what an earlier run of that id was told."""
    handover = Handover(tmp_path / "run")
    handover.open(7)
    handover.give(7, ["MIG-a"], ["3g.20gb"])
    handover.refuse(7, "no room")
    handover.open(7)
    assert list((tmp_path / "run/jobs/7").iterdir()) == []


def test_reason_is_one_line(tmp_path: Path) -> None:
    """A reason that quotes hostile text is still the one line that sh reads."""
    handover = Handover(tmp_path)
    handover.open(7)
    handover.refuse(7, "bad\nexport LD_PRELOAD=/x\n")
    assert (tmp_path / "jobs/7/refuse").read_text() == "bad\\x0aexport LD_PRELOAD=/x\n"


def test_folder_that_others_can_write(tmp_path: Path) -> None:
    """A jobs folder that somebody else can write is refused."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs").chmod(0o777)
    with pytest.raises(NodeFault, match="nobody else can write"):
        Handover(tmp_path).open(7)


def test_job_folder_that_is_a_link(tmp_path: Path) -> None:
    """A symbolic link in the place of a job's folder is refused, its target untouched."""
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "jobs").mkdir(mode=0o755)
    (tmp_path / "jobs/7").symlink_to(target)
    with pytest.raises(NodeFault, match="must be a folder"):
        Handover(tmp_path).open(7)
    assert list(target.iterdir()) == []


def test_whether_the_driver_was_asked(tmp_path):
    """A row's note is there from `begin` until it is refused, or the folder goes."""
    handover = Handover(tmp_path / "run")
    handover.open(7)
    assert not handover.begun(7, 1)
    handover.begin(7, 1)
    handover.begin(7, 1)
    assert [handover.begun(*row) for row in ((7, 1), (7, 2), (8, 1))] == [True, False, False]
    handover.open(7)
    assert handover.begun(7, 1)
    handover.refused(7, 1)
    handover.refused(7, 1)
    assert not handover.begun(7, 1)
    handover.begin(7, 2)
    handover.close(7)
    assert not handover.begun(7, 2)
    with pytest.raises(NodeFault, match=r"run directory .*begun-2: No such file"):
        handover.begin(7, 2)
