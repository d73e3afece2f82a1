"""Who else could put something else in the place of a folder that root relies on.

A folder of root's own is not enough: whoever can write the folder that it is in can rename it, and
make a link of its name, between any look at it and any use.
"""

import os
import stat
from pathlib import Path


def weak(path: Path) -> str:
    """A sentence on the first folder above `path` that others can change; "" if there is none.

    In a sticky folder (/tmp) nobody can rename what is another's. Raises OSError.
    """
    trusted = (0, os.geteuid())
    real = Path(os.path.realpath(path))  # Path.resolve raises at a loop of links
    for folder in dict.fromkeys((*path.absolute().parents, *real.parents)):
        try:
            status = folder.lstat()
        except FileNotFoundError:
            continue  # still to be made, by us
        # A link's mode says nothing; whose folder it is in does, and where it leads.
        link = stat.S_ISLNK(status.st_mode)
        loose = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX and not link
        if status.st_uid not in trusted or loose:
            mode = stat.S_IMODE(status.st_mode)
            return f"{folder} is owned by uid {status.st_uid}, mode {mode:04o}"
    return ""
