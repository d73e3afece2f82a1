"""What a lock that is not had in time says of its holder, wherever that can be found out or not."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from slurm_mig.lock import Busy, Locks


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The host's lock is held, by this process."""
    (folder / "locks").mkdir()
    with FileLock(folder / "locks/host.lock", mode=0o600):
        yield


def refusal(folder: Path) -> str:
    """What one hears who waits for it."""
    with pytest.raises(Busy) as caught, Locks(folder, 0.01, 0.01).host():
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    "locks",
    [
        None,  # no /proc, or none that one may read
        "",
        "1: FLOCK  ADVISORY  WRITE 4711 fd:01:1 0 EOF\n",  # of another file
        "1: POSIX  ADVISORY  WRITE 4711 fd:01:{inode} 0 EOF\n",  # no flock
        "1: FLOCK  ADVISORY  WRITE 4711\n",  # cut short
    ],
)
def test_holder_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str | None) -> None:
    """Where the kernel does not tell who holds it, nobody is named."""
    read = Path.read_text

    def proc(self: Path, *arguments: str) -> str:
        if str(self) != "/proc/locks":
            return read(self, *arguments)
        if locks is None:
            raise FileNotFoundError(2, "No such file or directory")
        return locks.format(inode=(tmp_path / "locks/host.lock").stat().st_ino)

    with held(tmp_path):
        monkeypatch.setattr(Path, "read_text", proc)
        assert refusal(tmp_path) == (
            f"lock {tmp_path}/locks/host.lock: still held by somebody after 0.01 s; "
            "see what it is doing, the lock frees itself when it ends"
        )


def test_several_holders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the kernel lists for the file are named."""
    with held(tmp_path):
        inode = (tmp_path / "locks/host.lock").stat().st_ino
        lines = f"1: FLOCK  ADVISORY  WRITE 7 fd:01:{inode} 0 EOF\n"
        lines += f"2: FLOCK  ADVISORY  WRITE 8 fd:01:{inode} 0 EOF\n"
        monkeypatch.setattr(Path, "read_text", lambda self: lines)
        assert re.search(r"still held by pid 7, 8 after", refusal(tmp_path))
