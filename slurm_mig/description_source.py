"""The file of a cluster's description: parsed, and where in it an error stands. Pure."""

from collections.abc import Callable
from typing import TypeVar

from slurm_mig import tomlfile
from slurm_mig.errors import ConfigError

_Value = TypeVar("_Value")


class Source:
    """One TOML file; `where` is its name as errors say it. Raises ConfigError if it is no TOML."""

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where
        self.document = tomlfile.parse(text, where)

    def line(self, path: tomlfile.Path) -> int:
        """The line of a key, else of what is around it, else 1."""
        return tomlfile.line_of(self.text, path) or 1

    def fault(self, path: tomlfile.Path, message: object) -> ConfigError:
        """The error `file:line: [section] key: message` about a key of the file."""
        deep = 2 if path[:1] in (("nodes",), ("node",)) else 1
        keys = [str(key) for key in path[deep:] if isinstance(key, str)]
        section = ".".join(str(key) for key in path[:deep])
        place = " ".join(part for part in (f"[{section}]", ".".join(keys)) if part)
        return ConfigError(f"{self.where}:{self.line(path)}: {place}: {message}")

    def checked(
        self, path: tomlfile.Path, check: Callable[[object], _Value], value: object
    ) -> _Value:
        """The value that `check` makes of this one; its error with the place before it."""
        try:
            return check(value)
        except ConfigError as error:
            raise self.fault(path, error) from None
