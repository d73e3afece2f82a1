"""TOML with line numbers: what tomllib reads, and where in the file each key stands.

tomllib keeps no positions. `lines` walks the text once more, but only when there is an error to
word; it may trust that the text is valid TOML, so it need not know numbers, dates or escapes. The
tests hold the paths that it finds against those of tomllib. Pure.
"""

import re
import tomllib
from contextlib import suppress
from typing import Any

from slurm_mig.errors import ConfigError

#: A key as a path through tables (names) and arrays (indices).
Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_TRIVIA = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
# A multi-line string may end with two quotes of its own before the three that close it.
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""(?:"{0,2})|"(?:[^"\\\n]|\\.)*"'''
    r"""|\'\'\'(?:.*?)\'\'\'(?:'{0,2})|'[^'\n]*'""",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)")


def parse(text: str, where: str) -> dict[str, Any]:
    """The document; raises ConfigError `where:line: not valid TOML: …`."""
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{where}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # also int() of a number of 5000 digits
        message = str(error)
        place = _PLACE.search(message)
        if place is None:
            raise ConfigError(f"{where}: not valid TOML: {message}") from None
        line = place[1] or text.rstrip().count("\n") + 1
        column = f" (column {place[2]})" if place[2] else " (at the end of the file)"
        message = message[: place.start()] + column
        raise ConfigError(f"{where}:{line}: not valid TOML: {message}") from None
    _check_numbers(document, where)
    return document


def _check_numbers(document: dict[str, Any], where: str) -> None:
    """Refuse integers of more than 64 bits, as TOML does; Python cannot even print large ones."""
    values: list[Any] = [document]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConfigError(f"{where}: not valid TOML: an integer has more than 64 bits")


class _LostError(Exception):
    """The walk is at something that it does not know; what it found so far stands."""


class _Walk:
    """One walk over a valid document: `found` maps each path to its offset in the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.found: dict[Path, int] = {}
        self.arrays: dict[Path, int] = {}  # arrays of tables, and how many they have
        self.position = 0

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def need(self, pattern: re.Pattern[str]) -> str:
        """What stands here, which must be this: so that no loop can stand still."""
        match = pattern.match(self.text, self.position)
        if match is None:
            raise _LostError
        self.position = match.end()
        return match[0]

    def take(self, word: str) -> bool:
        """Whether the text goes on with this, which is then behind us."""
        if not self.text.startswith(word, self.position):
            return False
        self.position += len(word)
        return True

    def key(self) -> list[str]:
        """A dotted key, in parts, and the blanks around it."""
        parts = []
        while True:
            self.skip(_BLANK)
            part = self.need(_KEY)
            parts.append(next(iter(tomllib.loads(f"{part} = 0"))) if part[:1] in "\"'" else part)
            self.skip(_BLANK)
            if not self.take("."):
                return parts

    def mark(self, path: Path, at: int) -> None:
        for end in range(1, len(path) + 1):
            self.found.setdefault(path[:end], at)

    def header(self) -> Path:
        """The table that a header names; the last one of an array of tables is meant."""
        start = self.position
        array = self.take("[[") or not self.take("[")
        parts = self.key()
        self.position += 2 if array else 1
        table: Path = ()
        for at, part in enumerate(parts):
            table += (part,)
            if array and at == len(parts) - 1:
                self.arrays[table] = self.arrays.get(table, 0) + 1
                self.found.setdefault(table, start)
            if table in self.arrays:
                table += (self.arrays[table] - 1,)
        self.mark(table, start)
        self.found[table] = start  # rather than where a table in it was named first
        return table

    def pair(self, table: Path) -> None:
        start = self.position
        path = (*table, *self.key())
        self.mark(path, start)
        self.take("=")
        self.skip(_BLANK)
        self.value(path)

    def value(self, path: Path) -> None:
        if self.take("["):
            self.items(path)
        elif self.take("{"):
            self.skip(_BLANK)
            while not self.take("}"):
                self.pair(path)
                self.skip(_BLANK)
                self.take(",")
                self.skip(_BLANK)
        elif self.text[self.position : self.position + 1] in "\"'":
            self.need(_STRING)
        else:
            self.need(_SCALAR)

    def items(self, path: Path) -> None:
        number = 0
        self.skip(_TRIVIA)
        while not self.take("]"):
            self.mark((*path, number), self.position)
            self.value((*path, number))
            number += 1
            self.skip(_TRIVIA)
            self.take(",")
            self.skip(_TRIVIA)

    def document(self) -> None:
        table: Path = ()
        self.skip(_TRIVIA)
        while self.position < len(self.text):
            if self.text[self.position] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(_TRIVIA)


def lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every key, table and array element of a valid document."""
    walk = _Walk(text)
    with suppress(_LostError, RecursionError):
        walk.document()
    found: dict[Path, int] = {}
    line, at = 1, 0
    for path, offset in sorted(walk.found.items(), key=lambda item: item[1]):
        line += text.count("\n", at, offset)
        at = offset
        found[path] = line
    return found


def line_of(text: str, path: Path) -> int | None:
    """The line of a path, else of the nearest table or array around it; None if there is none."""
    found = lines(text)
    for end in range(len(path), 0, -1):
        if path[:end] in found:
            return found[path[:end]]
    return None
