"""Writes the little TOML that rendered files need: tables of strings, numbers and counts.

The standard library only reads TOML. Pure; what is written here, tomllib reads back as it was.
"""

import re
from collections.abc import Mapping

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def string(text: str) -> str:
    """A basic string.

    TOML forbids control characters in it; others that do not print are escaped too, so that nobody
    overlooks them. ValueError for half a surrogate pair, which is no character.
    """
    text.encode()
    return f'"{"".join(_SHORT.get(c) or (c if c.isprintable() else _escape(c)) for c in text)}"'


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def key(name: str) -> str:
    """A key, quoted where it must be."""
    return name if _BARE.fullmatch(name) else string(name)


def value(thing: object) -> str:
    """A string, boolean, finite number, or a table of such in one line. TypeError for all else."""
    if isinstance(thing, bool):
        return str(thing).lower()
    if isinstance(thing, str):
        return string(thing)
    if isinstance(thing, int | float):
        return repr(thing)
    if isinstance(thing, Mapping):
        pairs = ", ".join(f"{key(name)} = {value(of)}" for name, of in thing.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    raise TypeError(f"{thing!r} has no place in a rendered TOML file")


def table(name: str, content: Mapping[str, object]) -> str:
    """A table with its header, each line ended."""
    pairs = "".join(f"{key(one)} = {value(content[one])}\n" for one in content)
    return f"[{key(name)}]\n{pairs}"
