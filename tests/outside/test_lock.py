"""The locks: exclusive between processes, free when their holder dies, waited for in bounds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_mig.errors import NodeFault
from slurm_mig.lock import Locks

HOLDER = (
    "import sys; from pathlib import Path; from slurm_mig.lock import Locks\n"
    "locks = Locks(Path(sys.argv[1]), 5, 5)\n"
    "lock = {'host': locks.host, 'gpu': lambda: locks.gpu('GPU-a'), 'job': lambda: locks.job(7)}\n"
    "with lock[sys.argv[2]]():\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


def holder(state: Path, which: str) -> subprocess.Popen[str]:
    """A process that holds a lock until its stdin closes; returns once it has it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state), which],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("which", ["host", "gpu", "job"])
def test_held_by_another_process(tmp_path: Path, which: str) -> None:
    """A lock held elsewhere times out with the holder's pid, and is free once it is let go."""
    locks = Locks(tmp_path, 0.05, 0.05)
    takes = {"host": locks.host, "gpu": lambda: locks.gpu("GPU-a"), "job": lambda: locks.job(7)}
    with holder(tmp_path, which) as process:
        held = pytest.raises(NodeFault, match=f"still held by pid {process.pid} after")
        with held, takes[which]():
            pass
        process.communicate()
    with takes[which]():
        pass


def test_killed_holder_frees_its_lock(tmp_path: Path) -> None:
    """SIGKILL of the holder is enough."""
    with holder(tmp_path, "host") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    with Locks(tmp_path, 5, 5).host():
        pass


def test_gpus_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """The lock of one GPU says nothing about another's, nor about the host's."""
    locks = Locks(tmp_path, 0.05, 0.05)
    with holder(tmp_path, "gpu") as process:
        with locks.host(), locks.gpu("GPU-b"):
            pass
        process.communicate()


def test_job_lock_leaves_no_file(tmp_path: Path) -> None:
    """Jobs come and go by the million; their lock files go with them."""
    locks = Locks(tmp_path, 1, 1)
    with locks.job(7):
        assert [p.name for p in (tmp_path / "locks").iterdir()] == ["job-7.lock"]
    assert list((tmp_path / "locks").iterdir()) == []


def test_waiter_is_not_fooled_by_the_removed_file(tmp_path: Path) -> None:
    """A waiter that opened the file before it was removed still excludes the next one."""
    first = holder(tmp_path, "job")
    waiter = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), "job"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with first, waiter:
        first.communicate()  # lets go, and the file is removed under the waiter
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "held\n"
        held = pytest.raises(NodeFault, match=f"pid {waiter.pid}")
        with held, Locks(tmp_path, 0.05, 0.05).job(7, wait=False):
            pass
        waiter.communicate()


def test_hostile_gpu_name_stays_in_the_folder(tmp_path: Path) -> None:
    """Whatever the driver calls a GPU, its lock lies among the others."""
    with Locks(tmp_path, 1, 1).gpu("../../etc/x"):
        assert [p.name for p in (tmp_path / "locks").iterdir()] == ["gpu-______etc_x.lock"]


def test_lock_file_that_is_a_link(tmp_path: Path) -> None:
    """A symbolic link in the place of a lock is an error, and its target is not touched."""
    (tmp_path / "locks").mkdir()
    target = tmp_path / "target"
    (tmp_path / "locks" / "host.lock").symlink_to(target)
    refused = pytest.raises(NodeFault, match=r"lock .*host\.lock: ")
    with refused, Locks(tmp_path, 0.05, 0.05).host():
        pass
    assert not target.exists()


def test_jobs_by_their_locks(tmp_path: Path) -> None:
    """A job is listed while its lock has a file: held, or left by a killed holder."""
    locks = Locks(tmp_path, 1, 1)
    assert locks.jobs() == []
    with locks.job(7), locks.host(), locks.gpu("GPU-1"):
        (tmp_path / "locks/job-12.lock").touch()
        (tmp_path / "locks/job-x.lock").touch()
        assert locks.jobs() == [7, 12]
    assert locks.jobs() == [12]
