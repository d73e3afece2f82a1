"""A finding: how bad, on which object, what, why it matters, and the command that mends it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from slurm_mig.errors import one_line

if TYPE_CHECKING:
    from slurm_mig.doctor.context import Context


class Level(StrEnum):
    """How bad: a failure must be mended, a warning should be looked at."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `why` and `mend` are empty where all is well; `area` and `check` say who found it.

    All texts are one line; `object` is what was looked at, `mend` a command or an instruction.
    """

    level: Level
    object: str
    found: str
    why: str = ""
    mend: str = ""
    area: str = ""
    check: str = ""

    def text(self) -> str:
        """The line, without level and area."""
        said = f"{self.object}: {self.found}"
        said += f": {self.why}" if self.why else ""
        said += f"; mend: {self.mend}" if self.mend else ""
        return one_line(said)


def ok(what: str, found: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, what, found)


def warning(what: str, found: str, why: str, mend: str = "") -> Finding:
    """It works, or may work; somebody should look."""
    return Finding(Level.WARNING, what, found, why, mend)


def failure(what: str, found: str, why: str, mend: str) -> Finding:
    """Jobs fail, or are not isolated, until it is mended."""
    return Finding(Level.FAILURE, what, found, why, mend)


#: What a check may need: without it, it is not run, and one line says so for all of them.
CONFIG, DRIVER, SLURM, CLUSTER = "config", "driver", "slurm", "cluster"
NODE, CONTROLLER = "node", "controller"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. `name` is `area.what` and stays; `title` is for people."""

    name: str
    title: str
    roles: frozenset[str]
    needs: tuple[str, ...]
    look: "Callable[[Context], Iterable[Finding]]"

    @property
    def area(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]


ON_NODE = frozenset({NODE})
ON_CONTROLLER = frozenset({CONTROLLER})
ANYWHERE = frozenset({NODE, CONTROLLER})
