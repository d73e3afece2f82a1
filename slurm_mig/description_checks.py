"""What a value of the cluster's description may be, so that no file that it is written to breaks.

Each check takes what TOML gave and returns the value to use. It raises ConfigError with a bare
sentence; `description_source.py` puts file, line and key before it. Pure.
"""

import posixpath
import re
from collections.abc import Callable, Iterable
from typing import Any

from slurm_mig.description import Release
from slurm_mig.errors import ConfigError
from slurm_mig.hostlist import expand, shown
from slurm_mig.settings import nearest

#: PrologFlags of slurm.conf(5) and the release that brought each (22.05: it was there before).
PROLOG_FLAGS = {
    "Alloc": Release(22, 5),
    "Contain": Release(22, 5),
    "DeferBatch": Release(22, 5),
    "ForceRequeueOnFail": Release(23, 2),
    "NoHold": Release(22, 5),
    "RunInJob": Release(24, 5),
    "Serial": Release(22, 5),
    "X11": Release(22, 5),
}
_REFUSED_FLAGS = {
    "Serial": "a Prolog that waits for space would wait for an Epilog that Slurm holds back",
    "RunInJob": "the Prolog could then open only the GPUs of its job, and a mig job has none",
}
#: Keys of a NodeName line that Slurm's own parser takes (22.05.8, 24.11.5, 26.05.5), but for those
#: that slurm-mig writes. One that the parser does not know stops every daemon of the cluster.
NODE_KEYS = frozenset(
    (
        *("BcastAddr", "Boards", "CoreSpecCount", "CoresPerSocket", "CPUs", "CpuBind"),
        *("CpuSpecList", "Feature", "Features", "MemSpecLimit", "NodeAddr", "NodeHostname"),
        *("Parameters", "Port", "Procs", "RealMemory", "Reason", "RestrictedCoresPerGPU"),
        *("Sockets", "SocketsPerBoard", "State", "SuspendTime", "ThreadsPerCore", "TmpDisk"),
        *("Topology", "Weight"),
    )
)
#: The last release tried that does not know a key.
NODE_KEYS_MISSING = {
    "parameters": Release(24, 11),
    "restrictedcorespergpu": Release(22, 5),
    "suspendtime": Release(24, 11),
    "topology": Release(24, 11),
}
_OURS = ("nodename", "gres", "gresconf")

_PATH = re.compile(r"/[A-Za-z0-9._+@/-]*", re.ASCII)
_CONF_WORD = re.compile(r'([A-Za-z][A-Za-z0-9]*)=("[^"]*"|[^\s"]+)', re.ASCII)
_CONF = re.compile(rf"(?:{_CONF_WORD.pattern}(?: +|$))*", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_TRES = re.compile(r"[a-z]+(?:/[A-Za-z0-9_.+-]+(?::[A-Za-z0-9_.+-]+)?)?", re.ASCII)
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", re.ASCII)
_COUNT = re.compile(r"\d+[kmgtp]?(?:i?b)?", re.ASCII | re.IGNORECASE)


def text(value: object) -> str:
    """Printable ASCII that stays what it is between the quotes of a TOML file."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"must be a string, not {shown(value)}")
    if not (value.isascii() and value.isprintable()) or set(value) & set("\"'\\"):
        raise ConfigError(
            f"{shown(value)} has a character that may not be there: "
            "printable ASCII without quotes and backslashes"
        )
    return value


def yes(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"must be true or false, not {shown(value)}")
    return value


def path(value: object) -> str:
    """An absolute path that means the same in a shell, a unit file and slurm.conf."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ConfigError(f"must be an absolute path, not {shown(value)}")
    if not _PATH.fullmatch(value):
        raise ConfigError(
            f"{shown(value)} has a character that slurm.conf, systemd or a shell would read "
            "otherwise; letters, digits and . _ - + @ are safe"
        )
    if posixpath.normpath(value) != value:
        raise ConfigError(f"{shown(value)} should be written {posixpath.normpath(value)!r}")
    return value


def one_of(*words: str) -> Callable[[object], str]:
    """One of these words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            known = " or ".join(", ".join(f'"{word}"' for word in words).rsplit(", ", 1))
            raise ConfigError(f"must be {known}, not {shown(value)}")
        return value

    return check


def words(value: object) -> tuple[str, ...]:
    """A list of different strings."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ConfigError(f'must be a list of strings such as ["a", "b"], not {shown(value)}')
    for at, word in enumerate(value):
        if word in value[:at]:
            raise ConfigError(f"names {shown(word)} twice")
    return tuple(value)


def gres_types(value: object) -> tuple[str, ...]:
    """Names of GRES; mig is ours and is left out."""
    for name in words(value):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{shown(name)} is no name of a GRES; one looks like gpu or nic")
    return tuple(name for name in words(value) if name != "mig")


def plugins(value: object) -> tuple[str, ...]:
    """Names of job_submit plugins; lua is ours and is left out."""
    names = tuple(word.removeprefix("job_submit/") for word in words(value))
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{shown(name)} is no name of a plugin; one looks like all_partitions"
            )
    return tuple(name for name in names if name != "lua")


def tres(value: object) -> tuple[str, ...]:
    """Names of trackable resources."""
    for name in words(value):
        if not _TRES.fullmatch(name):
            raise ConfigError(
                f"{shown(name)} is no trackable resource; one looks like gres/gpu or gres/gpu:h100"
            )
    return words(value)


def prolog_flags(value: object) -> tuple[str, ...]:
    """PrologFlags, as slurm.conf(5) writes them."""
    known = {flag.casefold(): flag for flag in PROLOG_FLAGS}
    flags = []
    for word in words(value):
        flag = known.get(word.casefold())
        if flag is None:
            raise ConfigError(f"unknown flag {shown(word)}{nearest(word, PROLOG_FLAGS)}")
        if flag in _REFUSED_FLAGS:
            raise ConfigError(f"{flag} cannot be used with slurm-mig: {_REFUSED_FLAGS[flag]}")
        flags.append(flag)
    if "NoHold" in flags and {"Contain", "X11"} & set(flags):
        raise ConfigError("Slurm cannot combine NoHold with Contain or X11; leave it out")
    return words(flags)


def conf_words(line: str) -> list[tuple[str, str]]:
    """The (key, value) pairs of a checked `conf`; quotes are kept."""
    return [(found[1], found[2]) for found in _CONF_WORD.finditer(line)]


def conf(value: object) -> str:
    """The rest of a NodeName line: KEY=VALUE words."""
    if not isinstance(value, str):
        raise ConfigError(
            f'must be a string such as "CPUs=64 RealMemory=512000", not {shown(value)}'
        )
    if not value.isascii() or not value.isprintable():
        raise ConfigError(f"{shown(value)} must be one line of printable ASCII")
    for mark, why in (("#", "begins a comment"), ("\\", "joins lines"), ("'", "is no quote")):
        if mark in value:
            raise ConfigError(f"{shown(value)} has a {mark!r}, which {why} in slurm.conf")
    if value.count('"') % 2:
        raise ConfigError(f"{shown(value)} has a quote that is not closed")
    line = value.strip()
    if not _CONF.fullmatch(line):
        raise ConfigError(
            f"{shown(value)} must be KEY=VALUE words with blanks between them, "
            "such as CPUs=64 RealMemory=512000"
        )
    seen: set[str] = set()
    keys = {key.casefold() for key in NODE_KEYS}
    for key, _ in conf_words(line):
        if key.casefold() in _OURS:
            raise ConfigError(f"{key}= is written by slurm-mig; leave it out")
        if key.casefold() in seen:
            raise ConfigError(f"has {key}= twice")
        if key.casefold() not in keys:
            raise ConfigError(f"slurm.conf has no {key}= for nodes{nearest(key, NODE_KEYS)}")
        seen.add(key.casefold())
    return " ".join(f"{key}={value}" for key, value in conf_words(line))


def node_name(value: object) -> str:
    """The name of one node."""
    if not isinstance(value, str) or len(hosts := expand(value)) != 1:
        raise ConfigError(f"must be the name of one node, not {shown(value)}")
    return hosts[0]


def gpu_type(value: object) -> str:
    """The GRES type of whole GPUs."""
    if not isinstance(value, str) or not _TYPE.fullmatch(value):
        raise ConfigError(f"type {shown(value)} is no GRES type: letters, digits and . _ - +")
    if _COUNT.fullmatch(value):
        raise ConfigError(f"type {value!r} would be read as a count by Slurm; call it h100, say")
    return value


def keys(table: object, known: Iterable[str], what: str) -> dict[str, Any]:
    """A table that has only these keys; raises ConfigError, which names the nearest."""
    if not isinstance(table, dict):
        raise ConfigError(f"must be {what}, not {shown(table)}")
    for key in table:
        if key not in known:
            raise ConfigError(f"unknown key {shown(key)}{nearest(key, known)}")
    return table
