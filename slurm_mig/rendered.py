"""Rendered files on a disk: written to an output folder, compared with what is installed.

What is installed may have been written by anybody: it is read with a limit, and shown escaped.
"""

import difflib
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slurm_mig.errors import NodeFault

#: In the first line of each rendered file: this is how one of ours is known.
MARK = "Made by slurm-mig "

#: More than any rendered file has; the files of 10,000 nodes have 1 MB.
_LARGEST = 8 * 1024 * 1024
#: Where an output folder has rendered files.
_PLACES = ("slurm/*", "nodes/*/config.toml", "systemd/*", "systemd/*/*", "tmpfiles.d/*")


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """One file and where it goes.

    `what` is what one asks for on the command line, `name` its path below the output folder,
    `install` the absolute path where it belongs, `group` the node group that it is for ("" for
    all).
    """

    what: str
    name: str
    install: str
    text: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """An installed file that is not as rendered; the diff turns it into what is rendered."""

    file: RenderedFile
    missing: bool
    diff: tuple[str, ...]  # lines without their ends, escaped


def _read(path: Path, limit: int) -> bytes | None:
    """The content, at most `limit` bytes and one; None if there is no such file. NodeFault."""
    try:
        # Not blocking: what is there may be a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NodeFault(f"{path}: is no regular file; move it away")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(limit + 1)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NodeFault(f"{path}: cannot be read: {error.strerror}") from None


def _refuse_links_of_others(folder: Path, path: Path) -> None:
    """Raise NodeFault where another user's link leads away: root may render into /tmp."""
    while path != folder:
        path = path.parent
        with suppress(FileNotFoundError):
            owner = path.lstat().st_uid
            if path.is_symlink() and owner not in (0, os.geteuid()):
                raise NodeFault(f"{path}: a link that uid {owner} made; move it away")


def write(folder: Path, file: RenderedFile) -> bool:
    """Write the file below the folder in one step, if it is not there as it is. NodeFault."""
    path = folder / file.name
    content = file.text.encode()
    if _read(path, len(content)) == content:
        return False
    try:
        _refuse_links_of_others(folder, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as output:
                os.fchmod(descriptor, 0o644)
                output.write(content)
            Path(draft).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(draft).unlink()
            raise
    except OSError as error:
        raise NodeFault(f"{path}: cannot be written: {error.strerror}") from None
    return True


def stale(folder: Path, files: Iterable[RenderedFile]) -> list[Path]:
    """Files in an output folder that were rendered once and are no more. NodeFault."""
    known = {folder / file.name for file in files}
    found = []
    for place in _PLACES:
        for path in sorted(folder.glob(place)):
            if path not in known and path.is_file():
                first, _, _ = (_read(path, 200) or b"").partition(b"\n")
                if MARK.encode() in first:
                    found.append(path)
    return found


def _lines(content: bytes) -> list[str]:
    """The lines as one may print them: what does not print is escaped, tabs too."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    if lines.pop():
        lines = [*content.decode("utf-8", "surrogateescape").split("\n"), "(no newline at the end)"]
    return ["".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line) for line in lines]


def compare(file: RenderedFile, root: Path) -> Difference | None:
    """How the file that is installed below `root` differs; None if it does not. NodeFault."""
    path = root / file.install.lstrip("/")
    found = _read(path, _LARGEST)
    content = file.text.encode()
    if found == content:
        return None
    if found is not None and len(found) > _LARGEST:
        raise NodeFault(
            f"{path}: has more than {_LARGEST >> 20} MiB, so it is not what it should be"
        )
    before = "/dev/null" if found is None else str(path)
    diff = difflib.unified_diff(
        _lines(found or b""), _lines(content), before, f"{path} (rendered)", lineterm=""
    )
    return Difference(file, found is None, tuple(diff))
