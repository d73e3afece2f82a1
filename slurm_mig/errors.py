"""What can go wrong, by whose fault it is: the one thing that decides a hook's exit.

Library code raises; only the edge turns an exception into an exit status (docs/admin.md has the
table). Every message is one line: what, on which object, why, what to do.
"""

import re

# One line and no control characters, whatever went into a message: user text (job names, comments)
# reaches logs and terminals through here.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: object, limit: int = 1000) -> str:
    """Return `text` on one line: control characters escaped, at most `limit` characters."""
    line = _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", str(text).strip())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class SlurmMigError(Exception):
    """Base of all errors that slurm-mig raises on purpose; `str()` is always one line."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigError(SlurmMigError):
    """A configuration file is wrong: names file, key and the nearest known key."""


class RequestError(SlurmMigError):
    """What the job asks for makes no sense on this node; the user must change it."""


class NoRoom(SlurmMigError):
    """There is no free placement now that keeps every promise; later there may be."""


class NodeFault(SlurmMigError):
    """The node is at fault: driver, ledger, lock or Slurm unusable. Slurm drains the node."""


class TeardownError(SlurmMigError):
    """An instance is still there after the budget for its removal; it is quarantined."""
