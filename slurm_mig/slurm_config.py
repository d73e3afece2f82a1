"""What Slurm is configured to: `scontrol show config` and gres.conf, read. Text in, no commands.

The forms are those seen on Slurm 22.05.8, 24.11.5 and 26.05.5: `Key   = value`, `(null)` for none,
`Prolog[0]`, `Prolog[1]` from 24.11 on where 22.05 has one `Prolog`.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slurm_mig.slurm_records import expand_hostlist

_LINE = re.compile(r"(?P<key>[A-Za-z0-9_/]+)(?:\[\d+\])?\s*= ?(?P<value>.*)")
_RELEASE = re.compile(r"(\d{2})\.(\d{2})(?:\.(\d+))?")
#: How a time without limit is written; the numbers are NO_VAL16, INFINITE16, NO_VAL, INFINITE.
_ENDLESS = frozenset({"65534", "65535", "4294967294", "4294967295", "unlimited", "infinite"})
#: PrologFlags that mean Alloc too (slurm.conf.5); DeferBatch does from 26.05 on.
_MEAN_ALLOC = frozenset({"alloc", "contain", "runinjob", "forcerequeueonfail", "x11", "nohold"})


def release(text: str) -> tuple[int, int, int] | None:
    """The release in `slurm-wlm 24.11.5`: (24, 11, 5); None if there is none in it."""
    found = _RELEASE.search(text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


@dataclass(frozen=True, slots=True)
class SlurmConfig:
    """The configuration of a slurmctld: pairs of key (lower case) and value, as printed."""

    pairs: tuple[tuple[str, str], ...]

    def values(self, key: str) -> list[str]:
        """All values of a key, `(null)` and empty ones left out."""
        return [value for one, value in self.pairs if one == key.lower() and value]

    def first(self, key: str) -> str:
        """The value of a key, "" if it has none."""
        return next(iter(self.values(key)), "")

    def words(self, key: str) -> list[str]:
        """The items of a comma list."""
        return [word.strip() for value in self.values(key) for word in value.split(",") if word]

    def seconds(self, *keys: str) -> float:
        """The time of the first of these keys that is there, in seconds; inf without limit."""
        for key in keys:
            for value in self.values(key):
                word = value.split()[0].lower()
                if word in _ENDLESS:
                    return math.inf
                if word.isdecimal():
                    return float(word)
        return math.inf

    def prolog_at_allocation(self, version: tuple[int, int, int]) -> bool:
        """Whether the Prolog runs when a job is allocated, and not only at its first step."""
        flags = {word.lower() for word in self.words("PrologFlags")}
        return bool(flags & _MEAN_ALLOC) or (version >= (26, 5, 0) and "deferbatch" in flags)


def parse(text: str) -> SlurmConfig:
    """Read what `scontrol show config` printed; lines of another form are passed over."""
    pairs = []
    for line in text.splitlines():
        found = _LINE.fullmatch(line.strip())
        if found:
            value = found["value"].strip()
            pairs.append((found["key"].lower(), "" if value in ("(null)", "N/A") else value))
    return SlurmConfig(tuple(pairs))


def _lines(path: Path, depth: int = 0) -> Iterator[dict[str, str]]:
    """The lines of a gres.conf as {key: value}, keys in lower case, included files in place."""
    text = path.read_text(errors="replace").replace("\\\n", " ")
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) == 2 and words[0].lower() == "include" and depth < 8:
            yield from _lines(path.parent / words[1], depth + 1)
        elif words:
            pairs = (word.partition("=") for word in words)
            yield {key.lower(): value for key, _, value in pairs}


def _hosts(text: str) -> Sequence[str]:
    try:
        return expand_hostlist(text)
    except ValueError:
        return ()


def gpu_files(path: Path, node: str) -> frozenset[str]:
    """The files of a node's whole GPUs, `Name=gpu File=…`, in a gres.conf. Raises OSError."""
    found: set[str] = set()
    for line in _lines(path):
        named = "nodename" not in line or node in _hosts(line["nodename"])
        if named and line.get("name", "").lower() == "gpu":
            found.update(_hosts(line.get("file", "")))
    return frozenset(found)


def autodetect(path: Path, node: str) -> str:
    """How the GPUs of a node are found according to a gres.conf: "nvml", "off", "" if not said.

    A line that names the node counts before one for all nodes. Without a node's name (""): for any
    node. Raises OSError.
    """
    for_all, for_node = "", ""
    for line in _lines(path):
        how = line.get("autodetect", "").lower()
        if not how:
            continue
        if "nodename" not in line:
            for_all = how
        elif not node:
            for_node = how if for_node != "nvml" else for_node
        elif node in _hosts(line["nodename"]):
            for_node = how
    if not node:
        return "nvml" if "nvml" in (for_all, for_node) else for_node or for_all
    return for_node or for_all
