"""The journal of a simulation: every instance that was made or went, by whom, in order.

Written by the driver itself, in whatever process it is loaded (`driver/journal.c`), once asked for.
"""

from typing import NamedTuple

from slurm_mig.profiles import Placement
from slurm_mig.simulator.handle import Simulation


class Change(NamedTuple):
    """A line of the journal: a GPU instance, or a compute instance in one, was made or went.

    `ns` is on the monotonic clock, `pid` who did it. `serial` and `ci_serial` name this very
    instance: no other one of the GPU ever has them. `uuid` is told where a compute instance was
    made, `placement` of a GPU instance.
    """

    ns: int
    pid: int
    made: bool
    gpu: int
    gi: int
    serial: int
    profile_id: int | None
    placement: Placement | None
    ci: int | None
    ci_serial: int | None
    uuid: str | None


def keep(simulation: Simulation) -> None:
    """From now on write down what is made and goes, by whichever process."""
    path = simulation.directory / "journal"
    path.touch()
    path.chmod(0o666)  # every user's program may be the one that changes something


def read(simulation: Simulation) -> list[Change]:
    """What was written down, in order for each GPU. Raises FileNotFoundError if nobody asked."""
    text = (simulation.directory / "journal").read_text("ascii")
    return [_change(line.split()) for line in text.splitlines()]


def _change(words: list[str]) -> Change:
    gpu, gi, serial = map(int, words[3:6])
    place = profile = ci = ci_serial = None
    if words[6] == "ci":
        ci, ci_serial = int(words[7]), int(words[8])
    else:
        profile, place = int(words[6]), Placement(int(words[7]), int(words[8]))
    return Change(
        *(int(words[0]), int(words[1]), words[2] == "made", gpu, gi, serial),
        *(profile, place, ci, ci_serial, None if words[9] == "-" else words[9]),
    )
