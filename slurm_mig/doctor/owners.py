"""Who else can change a file that root relies on: its own owner and mode, and its folders'."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def mode(status: os.stat_result) -> str:
    """`owned by uid 1000, mode 0664`."""
    return f"owned by uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"


def loose(status: os.stat_result, trusted: int = 0) -> bool:
    """Whether somebody but root and `trusted` can change it.

    In a sticky folder (/tmp) nobody can replace what is another's.
    """
    if status.st_uid not in (0, trusted):
        return True
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return bool(status.st_mode & 0o022) and not sticky


def _chain(path: Path) -> Iterator[Path]:
    """The path and its folders, then the same of what it is a link to."""
    seen = set()
    for start in (path.absolute(), path.resolve()):
        for one in (start, *start.parents):
            if one not in seen:
                seen.add(one)
                yield one


def weakest(path: Path, trusted: int = 0) -> tuple[Path, os.stat_result] | None:
    """The file or folder on the way to it that somebody else can change; None if there is none.

    Raises OSError, as FileNotFoundError.
    """
    for one in _chain(path):
        status = one.lstat()
        if not stat.S_ISLNK(status.st_mode) and loose(status, trusted):
            return one, status
    return None
