"""Who uses a whole GPU: what NVML shows, and who has its device node open."""

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from slurm_mig.gpu_users import User, holders, look_up, persistenced, users
from slurm_mig.nvml import Driver, DriverError
from slurm_mig.simulator.handle import Simulation

# One build of the driver for all test processes, inside the repository.
os.environ.setdefault("SLURM_MIG_CACHE", str(Path(__file__).parents[2] / ".cache"))

_HOLD = """
import sys
with open("/proc/self/comm", "w") as comm:
    comm.write(sys.argv[2])
with open(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with dev/nvidia0, which is a file here."""
    (tmp_path / "root/dev").mkdir(parents=True)
    (tmp_path / "root/dev/nvidia0").write_text("")
    return tmp_path / "root"


@pytest.fixture
def holder() -> Iterator[Callable[..., int]]:
    """Starts a process of a given name that has a file open; its pid, once it has."""

    @contextmanager
    def started(device: Path, name: str) -> Iterator[int]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _HOLD, device, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with process:  # which closes its standard input, and waits
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            yield process.pid

    with ExitStack() as stack:
        yield lambda device, name: stack.enter_context(started(device, name))


def test_who_has_the_device_open(root, holder):
    """Every process with the node open, by whatever name it opened it; nobody else."""
    (root / "other").symlink_to(root / "dev/nvidia0")
    (root / "dev/nvidia1").write_text("")
    first = holder(root / "dev/nvidia0", "dcgm")
    second = holder(root / "other", "exporter")
    assert holders(root, 0) == sorted([first, second])
    assert holders(root, 1) == []


def test_a_device_is_known_by_its_number(root, tmp_path):
    """A character device is the same in every folder: its number counts, not its inode."""
    primary, secondary = os.openpty()
    try:
        (root / "dev/nvidia3").symlink_to(os.ttyname(secondary))
        assert holders(root, 3) == [os.getpid()]
    finally:
        os.close(primary)
        os.close(secondary)


def test_no_such_device(root):
    """Where there is no node nobody has it open."""
    assert holders(root, 7) == []


def test_process_in_words(root, holder):
    """A process is named by pid, command and user; one that is gone by its pid."""
    pid = holder(root / "dev/nvidia0", "nv-hostengine")
    assert look_up(pid) == User(pid, "nv-hostengine", ME)
    assert str(look_up(pid)) == f"pid {pid} (nv-hostengine, user {ME})"
    assert str(look_up(4194305)) == "pid 4194305 (?, user ?)"


def test_user_without_a_name(root, holder, monkeypatch):
    """A uid that nobody has a name for is shown as the number."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    pid = holder(root / "dev/nvidia0", "dcgm")
    assert look_up(pid).user == str(os.getuid())


def test_users_of_a_gpu(tmp_path, root, holder):
    """NVML's processes and the node's holders together, without us and nvidia-persistenced."""
    simulation = Simulation.create(tmp_path / "sim", ["A100-SXM4-40GB:2"], mig_enabled=False)
    with Driver(str(simulation.library)) as driver, (root / "dev/nvidia0").open():
        first, second = driver.gpus()
        assert users(driver, root, first) == []
        daemon = holder(root / "dev/nvidia0", "nv-hostengine")
        assert not persistenced(root, 0)
        holder(root / "dev/nvidia0", "nvidia-persistenced")
        assert (persistenced(root, 0), persistenced(root, 1)) == (True, False)
        with simulation.client(first.uuid) as program:
            found = users(driver, root, first)
        assert [user.pid for user in found] == sorted([daemon, program.pid])
        assert {user.command for user in found} == {"nv-hostengine", "python3.11"} or len(
            found
        ) == 2
        assert users(driver, root, second) == []
        simulation.fail("nvmlDeviceGetComputeRunningProcesses", error="UNKNOWN")
        with pytest.raises(DriverError, match="Unknown Error"):
            users(driver, root, first)
