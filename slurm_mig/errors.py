"""What can go wrong, by whose fault it is: the one thing that decides a hook's exit.

Library code raises; only the edge turns an exception into an exit status (docs/admin.md has the
table). Every message is one line: what, on which object, why, what to do.
"""


def one_line(text: object, limit: int = 1000) -> str:
    """Return `text` on one line: what is not printable escaped, at most `limit` characters.

    User text (job names, comments) reaches logs and terminals through here: no line break, terminal
    escape, bidirectional override or lone surrogate gets through.
    """
    whole = str(text).strip()
    line = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in whole)
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
