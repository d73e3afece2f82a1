"""Lists of GPU indices as people write them: `0-3,5`.

Pure. An index is the device minor everywhere in slurm-mig: index 3 is /dev/nvidia3.
"""

import re
from collections.abc import Iterable

#: /dev/nvidia254 is nvidia-modeset and 255 nvidiactl, so no GPU has a larger minor.
LARGEST = 253

_ITEM = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def indices(text: str) -> tuple[int, ...]:
    """The indices of a list such as `0-3,5`, ascending.

    Raises ValueError, whose text says what is wrong with which item: to be prefixed by the caller.
    """
    found: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None:
            raise ValueError(f"{item.strip()!r} is no GPU index and no range; write 0-3,5")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise ValueError(f"{item.strip()!r} counts down; write {last}-{first}")
        if last > LARGEST:
            raise ValueError(f"{last} is no GPU index; /dev/nvidia{LARGEST} is the last one")
        numbers = set(range(first, last + 1))
        if twice := found & numbers:
            raise ValueError(f"index {min(twice)} is named twice")
        found |= numbers
    return tuple(sorted(found))


def compress(numbers: Iterable[int]) -> str:
    """The shortest such list, as `0-3,5`; two neighbours are a range too; empty for none."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
