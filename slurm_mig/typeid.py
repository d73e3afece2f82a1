"""How Slurm tells the types of a GRES apart: by a number that it makes of the name.

Slurm compares these numbers and never the names, so two types with the same number are one to it:
a job that asks for one is sent to nodes that have the other. Pure.
"""

from collections.abc import Iterable


def type_id(name: str) -> int:
    """The 32-bit number that Slurm makes of a GRES or type name.

    The name's bytes are added up as little-endian words of four (`gres_build_id`, src/common/gres.c
    of Slurm, the same from 20.11 to 26.05).
    """
    data = name.encode()
    words = (int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))
    return sum(words) % 2**32


def collisions(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that are one to Slurm, each later name with the first like it."""
    first: dict[int, str] = {}
    found: list[tuple[str, str]] = []
    for name in dict.fromkeys(names):
        known = first.setdefault(type_id(name), name)
        if known != name:
            found.append((known, name))
    return found
