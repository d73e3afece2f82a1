"""The driver's trees: device nodes given to one user and taken back, facts read, never guessed."""

import os
import pwd
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slurm_mig.devices import Devices, describe_processes
from slurm_mig.errors import NodeFault

# Major and minor of /dev/null: a device that can be opened wherever nodes can be made.
MAJOR, GI_MINOR, CI_MINOR = 1, 3, 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What a driver shows of GI 2 with CI 0 on GPU 1."""
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("boot-1\n")
    (tmp_path / "proc/devices").write_text(
        f"Character devices:\n  1 mem\n195 nvidia\n{MAJOR:3} nvidia-caps\n\nBlock devices:\n"
    )
    (tmp_path / "dev").mkdir()
    gi = tmp_path / "proc/driver/nvidia/capabilities/gpu1/mig/gi2"
    (gi / "ci0").mkdir(parents=True)
    for path, minor in ((gi, GI_MINOR), (gi / "ci0", CI_MINOR)):
        text = f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
        (path / "access").write_text(text)
    return tmp_path


def nodes(root: Path) -> bool:
    """Whether device nodes can be made there."""
    try:
        os.mknod(root / "try", stat.S_IFCHR, os.makedev(1, 3))
    except OSError:
        return False
    (root / "try").unlink()
    return True


def look(root: Path) -> list[tuple[str, int, int, tuple[int, int]]]:
    """(name, mode, owner, device) of every node."""
    found = []
    for path in sorted((root / "dev/nvidia-caps").iterdir()):
        status = path.lstat()
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        found.append((path.name, stat.S_IMODE(status.st_mode), status.st_uid, device))
    return found


def test_boot_id(root: Path) -> None:
    """The boot id is read where the root says; none is a fault that names the file."""
    assert Devices(root).boot_id() == "boot-1"
    path = root / "proc/sys/kernel/random/boot_id"
    path.unlink()
    with pytest.raises(NodeFault) as caught:
        Devices(root).boot_id()
    assert str(caught.value) == f"boot id {path}: No such file or directory"


def test_grant_and_revoke(root: Path) -> None:
    """Both nodes are the user's alone, then nobody's; the tools are told to leave them so."""
    if not nodes(root):
        pytest.skip("no device nodes can be made here")
    devices = Devices(root)
    devices.grant(1, 2, (0,), 4321)
    assert look(root) == [
        ("nvidia-cap3", 0o400, 4321, (MAJOR, GI_MINOR)),
        ("nvidia-cap5", 0o400, 4321, (MAJOR, CI_MINOR)),
    ]
    for access in (root / "proc").rglob("access"):
        first, *rest = access.read_text().splitlines()
        assert first == "DeviceFileModify: 0"
        assert [line.split(":")[0] for line in rest] == ["DeviceFileMinor", "DeviceFileMode"]
    devices.grant(1, 2, (0,), 4321)
    devices.revoke(1, 2, (0,))
    assert [(mode, owner) for _, mode, owner, _ in look(root)] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("kind", ["file", "other device", "link"])
def test_node_that_is_something_else(root: Path, kind: str) -> None:
    """What lies in the node's place and is not that device is replaced; a link is not followed."""
    if not nodes(root):
        pytest.skip("no device nodes can be made here")
    (root / "dev/nvidia-caps").mkdir()
    node = root / "dev/nvidia-caps/nvidia-cap3"
    target = root / "target"
    target.write_text("theirs")
    target.chmod(0o644)
    if kind == "file":
        node.write_text("")
    elif kind == "link":
        node.symlink_to(target)
    else:
        os.mknod(node, stat.S_IFCHR, os.makedev(1, 5))
    Devices(root).grant(1, 2, (), 4321)
    assert look(root) == [("nvidia-cap3", 0o400, 4321, (MAJOR, GI_MINOR))]
    status = target.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.getuid(), 0o644)


def test_revoke_never_fails(root: Path) -> None:
    """Taking back what is gone, was never given, or is no node, does nothing."""
    devices = Devices(root)
    devices.revoke(1, 2, (0,))
    devices.revoke(1, 99, (7,))
    (root / "dev/nvidia-caps").mkdir()
    (root / "dev/nvidia-caps/nvidia-cap3").write_text("a file")
    (root / "proc/driver/nvidia/capabilities/gpu1/mig/gi2/ci0/access").write_text("nonsense")
    devices.revoke(1, 2, (0,))
    assert (root / "dev/nvidia-caps/nvidia-cap3").read_text() == "a file"


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("proc/devices", "195 nvidia\n", "{}: no nvidia-caps; load the nvidia module"),
        ("proc/devices", None, "{}: No such file or directory"),
        (
            "proc/driver/nvidia/capabilities/gpu1/mig/gi2/access",
            "x\n",
            "{}: names no DeviceFileMin",
        ),
        (
            "proc/driver/nvidia/capabilities/gpu1/mig/gi2/access",
            None,
            "{}: cannot give its device to uid 4321: No such file or directory",
        ),
    ],
)
def test_trees_that_are_not_as_they_should_be(
    root: Path, path: str, content: str | None, message: str
) -> None:
    """What cannot be read is a fault that names the file; no node is made on a guess."""
    file = root / path
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(NodeFault) as caught:
        Devices(root).grant(1, 2, (0,), 4321)
    assert str(caught.value).startswith(message.format(file))
    assert not (root / "dev/nvidia-caps").exists()


def test_holders(root: Path) -> None:
    """The processes that have a node of the instance open, by its device number."""
    if not nodes(root):
        pytest.skip("no device nodes can be made here")
    # A device of which nobody else has a node open: unassigned minors of the memory devices.
    access = root / "proc/driver/nvidia/capabilities/gpu1/mig/gi2/access"
    access.write_text(access.read_text().replace(f": {GI_MINOR}\n", ": 8\n", 1))  # /dev/random
    devices = Devices(root)
    devices.grant(1, 2, (), os.getuid())
    before = devices.holders(1, 2, ())
    assert os.getpid() not in before
    with (root / "dev/nvidia-caps/nvidia-cap8").open("rb"):
        assert os.getpid() in devices.holders(1, 2, ())
    assert devices.holders(1, 99, ()) == []


def test_only_what_has_the_name_of_a_node_is_looked_at(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other files that processes have open may be on a file server that does not answer."""
    if not nodes(root):
        pytest.skip("no device nodes can be made here")
    devices = Devices(root)
    devices.grant(1, 2, (), os.getuid())
    looked: list[str] = []
    stat_of = Path.stat

    def noted(path: Path, **options: bool) -> os.stat_result:
        if path.parent == Path(f"/proc/{os.getpid()}/fd"):
            looked.append(path.readlink().name)
        return stat_of(path, **options)

    monkeypatch.setattr(Path, "stat", noted)
    other = tmp_path / "data"
    other.touch()
    with other.open(), (root / f"dev/nvidia-caps/nvidia-cap{GI_MINOR}").open("rb"):
        assert os.getpid() in devices.holders(1, 2, ())
    assert looked == [f"nvidia-cap{GI_MINOR}"]


def test_describe_processes() -> None:
    """Processes are named as far as they are known: pid, command, user."""
    name = Path("/proc/self/comm").read_text().strip()
    user = pwd.getpwuid(os.getuid()).pw_name
    assert describe_processes([os.getpid(), 2**30]) == [
        f"pid {os.getpid()} ({name}, user {user})",
        f"pid {2**30}",
    ]
    assert describe_processes([]) == []


def test_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uid that no directory knows is said as such."""
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    (line,) = describe_processes([os.getpid()])
    assert line.endswith(f", uid {os.getuid()})")


def test_directory_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up of users that hangs is left behind: the message says the uid, and comes."""
    asked, answer, done = threading.Event(), threading.Event(), threading.Event()

    def hang(_uid: int) -> None:
        asked.set()
        answer.wait(60)
        done.set()
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", hang)
    try:
        (line,) = describe_processes([os.getpid()], patience=0.01)
        assert line.endswith(f", uid {os.getuid()})")
        assert asked.wait(60)
        assert not done.is_set()
    finally:
        answer.set()
        assert done.wait(60)


def test_process_with_a_hostile_name() -> None:
    """Line breaks and terminal escapes that a process put into its name are escaped."""
    code = "open('/proc/self/comm', 'w').write('a\\nb\\x1b[2J'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        (line,) = describe_processes([process.pid])
        process.stdin.write(b"\n")
    assert line.startswith(f"pid {process.pid} (a\\x0ab\\x1b[2J, ")
    assert line.isprintable()
