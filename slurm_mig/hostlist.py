"""Slurm's host lists, `gpu[01-16,20],rack[1-2]n[01-16]`, checked and expanded.

The grammar is that of NodeName in slurm.conf(5): names, or prefixes each followed by a range list
in brackets, the last of which ends the name; commas between them. `scontrol show hostnames` is the
oracle of the tests. It also takes what nobody means (`n[1` is a node `n`, `n[1-]` is `n1`); that is
refused here, and so is all that only ClusterShell knows (`@group`, `a!b`, `n[1-9/2]`), which
expands the ranges. Pure, but not for hooks: ClusterShell takes 30 ms to import.
"""

import itertools
import math
import re
from collections import Counter

from ClusterShell.RangeSet import RangeSet

from slurm_mig.errors import ConfigError, one_line

#: The most names that one list may have; no cluster is larger, and a typing error may say 10^9.
LARGEST = 100_000
#: The most names in one range (MAX_RANGE in Slurm's hostlist.c).
_LARGEST_RANGE = 65_536

_PART = re.compile(r"(?:[^,\[\]]|\[[^\[\]]*\])+")
_PIECE = re.compile(r"([^\[\]]*)\[([^\[\]]*)\]")
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)
_LETTERS = re.compile(r"[A-Za-z0-9._-]*", re.ASCII)
#: Names that slurm.conf keeps for itself.
_RESERVED = ("all", "default")


def _range(text: str) -> tuple[int, str]:
    """How many names a range such as `01-16` has, and the same as ClusterShell writes it."""
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ConfigError(f"{shown(text)} is no range of node numbers; write [1-16] or [01-16,20]")
    low, high = found[1], found[2] or found[1]
    first, last = int(low), int(high)
    if last < first:
        raise ConfigError(f"the range {text} counts down; write {high}-{low}")
    size = last - first + 1
    if size > _LARGEST_RANGE:
        raise ConfigError(f"the range {text} has {size} nodes; Slurm takes {_LARGEST_RANGE}")
    # Slurm pads to the width of the first number; ClusterShell wants both alike.
    widest = 10 ** len(low) - 1
    if not low.startswith("0") or low == "0":
        return size, f"{first}-{last}"
    padded = f"{low}-{min(last, widest):0{len(low)}d}"
    return size, padded if last <= widest else f"{padded},{widest + 1}-{last}"


def _part(text: str) -> tuple[int, list[str | list[str]]]:
    """One name with its ranges: how many nodes, and its pieces: text, or ranges to expand."""
    if "[" not in text:
        return 1, [text]
    pieces: list[str | list[str]] = []
    size, at = 1, 0
    for found in _PIECE.finditer(text):
        ranges = [_range(item) for item in found[2].split(",")]
        size *= sum(number for number, _ in ranges)
        pieces += [found[1], [written for _, written in ranges]]
        at = found.end()
    if at != len(text):
        raise ConfigError(
            f"{shown(text)} goes on after its last bracket; "
            "in Slurm a name with ranges ends with one"
        )
    return size, pieces


def _check(text: str) -> list[str]:
    """The list cut at its commas; raises ConfigError for what is no host list of Slurm."""
    parts = _PART.findall(text)
    if not text or ",".join(parts) != text:
        if text.strip(",") != text or ",," in text or not text:
            raise ConfigError(f"{shown(text)} has an empty name in it; write gpu[01-16],gpu20")
        raise ConfigError(f"{shown(text)} has a bracket that does not match; write gpu[01-16]")
    for part in parts:
        plain = re.sub(r"\[[^\[\]]*\]", "", part)
        if not _LETTERS.fullmatch(plain):
            raise ConfigError(
                f"{shown(part)} is no node name: "
                "letters, digits, '-', '_', '.' and ranges in brackets"
            )
        if not part[0].isalnum():
            raise ConfigError(
                f"{shown(part)} is no node name: it must begin with a letter or digit"
            )
        if part.casefold() in _RESERVED:
            raise ConfigError(f"{shown(part)} is no node name: Slurm keeps that word for itself")
    return list(parts)


def expand(text: str) -> list[str]:
    """The node names of a host list, in the order in which they are written, at most LARGEST.

    Raises ConfigError, without the place in the file: not a host list, too long, a node twice.
    """
    parts = [_part(part) for part in _check(text)]
    size = sum(number for number, _ in parts)
    if size > LARGEST:
        raise ConfigError(f"{shown(text)} has {size} nodes; {LARGEST} are the most")
    names: list[str] = []
    for number, pieces in parts:
        choices = [
            [piece] if isinstance(piece, str) else [name for r in piece for name in RangeSet(r)]
            for piece in pieces
        ]
        if math.prod(map(len, choices)) != number:
            raise AssertionError(f"{shown(text)} is not {number} nodes to ClusterShell")
        names += map("".join, itertools.product(*choices))
    if len(set(names)) != len(names):
        twice = [name for name, number in Counter(names).items() if number > 1]
        raise ConfigError(f"{shown(text)} names {some(twice)} more than once")
    return names


def shown(value: object) -> str:
    """A value as an error shows it: on one line and not too long."""
    return one_line(repr(value), 80)


def some(names: list[str], most: int = 3) -> str:
    """The first few of many names, in words: `n1, n2, n3 and 5 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
