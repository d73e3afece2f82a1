"""The settings of a node: every key once, with its type, default and prose.

Pure: takes parsed TOML, gives `Settings`. The reference file `templates/config.toml` is this
table printed (`reference()`); a test holds the two together. Import budget: this is on the hook
path, so difflib is imported only when there is an error to word.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from slurm_mig.errors import ConfigError
from slurm_mig.indices import compress, indices

#: A layout: the name of one (layouts.py), or counts by profile name.
LayoutSpec = str | Mapping[str, int]


def _text(value: object) -> object:
    return value if isinstance(value, str) and value and value.isprintable() else None


def _path(value: object) -> object:
    return value if _text(value) and str(value).startswith("/") else None


def _seconds(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 86400 else None  # type: ignore[operator,arg-type]


def _count(value: object) -> object:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _yes(value: object) -> object:
    return value if isinstance(value, bool) else None


def _one_of(*words: str) -> Callable[[object], object]:
    return lambda value: value if value in words else None


def _gpus(value: object) -> object:
    """The list in its shortest form, so that two ways to write it are one setting."""
    if value == "all" or not isinstance(value, str):
        return value if value == "all" else None
    try:
        return compress(indices(value))
    except ValueError:
        return None


def _log(value: object) -> object:
    return value if value == "syslog" else _path(value)


@dataclass(frozen=True, slots=True)
class Option:
    """One key: where it stands, what it takes (`check` gives None for a bad value), its prose."""

    section: str
    key: str
    check: Callable[[object], object]
    takes: str
    default: Any
    prose: str

    @property
    def field(self) -> str:
        """The attribute of Settings that holds it."""
        return f"{self.section}_{self.key}"


OPTIONS = (
    Option(
        "driver",
        "library",
        _text,
        "a file name or an absolute path",
        "libnvidia-ml.so.1",
        "The NVML library. A containerised driver has it under its own root.",
    ),
    Option(
        "driver",
        "root",
        _path,
        "an absolute path",
        "/",
        "Root of the driver's trees: proc/driver/nvidia, proc/devices, dev/nvidia-caps.",
    ),
    Option(
        "gpus",
        "mig",
        _gpus,
        '"all" or device minors such as "0-3,5"',
        "all",
        "Which GPUs to partition, by the N of /dev/nvidiaN. The others stay whole: never touched,\n"
        "offered or counted. all: every GPU in MIG mode. A list: these must be in MIG mode.\n"
        "`slurm-mig node-setup` turns it on where it is off; with all, on every GPU that has it.",
    ),
    Option(
        "state",
        "directory",
        _path,
        "an absolute path",
        "/var/lib/slurm-mig",
        "The ledger and the locks. On a local disk, owned by root; made when missing.",
    ),
    Option(
        "state",
        "run_directory",
        _path,
        "an absolute path",
        "/run/slurm-mig",
        "What the task prolog reads; gone after a reboot. Read by job users, owned by root.",
    ),
    Option(
        "slurm",
        "client",
        _one_of("auto", "scontrol", "pyslurm"),
        '"auto", "scontrol" or "pyslurm"',
        "auto",
        "How to talk to Slurm. auto: pyslurm in long-lived commands if it imports, else scontrol.",
    ),
    Option(
        "slurm",
        "scontrol",
        _path,
        "an absolute path",
        "/usr/bin/scontrol",
        "The scontrol of the node's Slurm release; squeue and scancel are looked for beside it.",
    ),
    Option(
        "slurm",
        "request",
        _one_of("ask", "token"),
        '"ask" or "token"',
        "ask",
        "Where a job's request is read. ask: from slurmctld, once per job. token: from the token\n"
        "that the job_submit plugin stamps into the job's extra field; only where it is installed.",
    ),
    Option(
        "slurm",
        "timeout",
        _seconds,
        "seconds",
        60.0,
        "How long to go on asking a slurmctld that does not answer.",
    ),
    Option(
        "lock",
        "timeout",
        _seconds,
        "seconds",
        30.0,
        "How long to wait for the host's lock, which is held for milliseconds.",
    ),
    Option(
        "lock",
        "gpu_timeout",
        _seconds,
        "seconds",
        300.0,
        "How long to wait for a GPU's lock, which is held while the driver works.",
    ),
    Option(
        "prolog",
        "wait",
        _seconds,
        "seconds",
        10.0,
        "How long a Prolog waits for space that is just being given back.",
    ),
    Option(
        "prolog",
        "misses",
        _count,
        "a count",
        5,
        "After so many misses in a row a batch job is held with the reason.",
    ),
    Option(
        "epilog",
        "budget",
        _seconds,
        "seconds",
        30.0,
        "How long to go on removing an instance that is in use; then it is quarantined.",
    ),
    Option(
        "epilog",
        "drain",
        _yes,
        "true or false",
        False,
        "Whether a quarantined instance also drains the node.",
    ),
    Option(
        "reconcile",
        "resume",
        _yes,
        "true or false",
        True,
        "Whether reconcile resumes a node that a hook here drained, once all is mended; at most\n"
        "once an hour, and never a node that somebody else drained.",
    ),
    Option(
        "isolation",
        "devices",
        _one_of("owner", "none"),
        '"owner" or "none"',
        "owner",
        "owner: the capability device nodes of an instance belong to its job's user alone.\n"
        "none: leave them as the driver makes them, readable by every local user.",
    ),
    Option(
        "log",
        "to",
        _log,
        '"syslog" or an absolute path',
        "syslog",
        "Where hooks write their one line per operation.",
    ),
)

_LAYOUT_PROSE = (
    "What each GPU of a model promises to Slurm: the name of a layout (balanced, small, halves,\n"
    "whole) or counts by profile. Models are named as `slurm-mig profiles` prints them; `default`\n"
    "is for all others. No key: no promises, any request that fits is served."
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings of one node. Times are in seconds."""

    driver_library: str
    driver_root: str
    gpus_mig: str
    state_directory: str
    state_run_directory: str
    slurm_client: str
    slurm_scontrol: str
    slurm_request: str
    slurm_timeout: float
    lock_timeout: float
    lock_gpu_timeout: float
    prolog_wait: float
    prolog_misses: int
    epilog_budget: float
    epilog_drain: bool
    reconcile_resume: bool
    isolation_devices: str
    log_to: str
    layout: Mapping[str, LayoutSpec]

    @property
    def mig_minors(self) -> tuple[int, ...] | None:
        """The device minors of the GPUs to partition; None for all that are in MIG mode."""
        return None if self.gpus_mig == "all" else indices(self.gpus_mig)

    def layout_of(self, model: str) -> LayoutSpec | None:
        """The layout for a GPU model, named with or without the vendor; None if there is none."""
        names = (model, model.removeprefix("NVIDIA ").strip())
        for key, spec in self.layout.items():
            if key != "default" and key.removeprefix("NVIDIA ").strip() in names:
                return spec
        return self.layout.get("default")


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for a near miss, else `; known: …`."""
    from difflib import get_close_matches

    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _layout(where: str, table: object) -> dict[str, LayoutSpec]:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: [layout] must be a table of GPU models, not {table!r}")
    layout: dict[str, LayoutSpec] = {}
    for model, spec in table.items():
        if isinstance(spec, str) and spec:
            layout[model] = spec
        elif isinstance(spec, Mapping) and all(_count(count) for count in spec.values()):
            layout[model] = MappingProxyType(dict(spec))
        else:
            raise ConfigError(
                f"{where}: [layout] {model!r} must be a layout's name or a table of counts such as "
                f'{{ "3g.20gb" = 1, "1g.5gb" = 2 }}, not {spec!r}'
            )
    return layout


def parse(documents: Iterable[tuple[str, Mapping[str, Any]]]) -> Settings:
    """Settings from parsed TOML documents `(file name, content)`; a later one wins, key by key.

    Raises ConfigError, which names file, key and the nearest known one.
    """
    values: dict[str, Any] = {option.field: option.default for option in OPTIONS}
    layout: dict[str, LayoutSpec] = {}
    sections = {option.section for option in OPTIONS} | {"layout"}
    for where, document in documents:
        for section, table in document.items():
            if section not in sections:
                raise ConfigError(
                    f"{where}: unknown section [{section}]{nearest(section, sections)}"
                )
            if section == "layout":
                layout.update(_layout(where, table))
                continue
            if not isinstance(table, Mapping):
                raise ConfigError(f"{where}: [{section}] must be a table, not {table!r}")
            options = {option.key: option for option in OPTIONS if option.section == section}
            for key, value in table.items():
                if key not in options:
                    raise ConfigError(
                        f"{where}: unknown key {key!r} in [{section}]{nearest(key, options)}"
                    )
                checked = options[key].check(value)
                if checked is None:
                    raise ConfigError(
                        f"{where}: [{section}] {key} must be {options[key].takes}, not {value!r}"
                    )
                values[options[key].field] = checked
    return Settings(**values, layout=MappingProxyType(layout))


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


def reference() -> str:
    """The reference configuration: every key, commented out, at its default, with its prose."""
    lines = ["# slurm-mig, settings of a node: every key at its default."]
    section = None
    for option in OPTIONS:
        if option.section != section:
            section = option.section
            lines += ["", f"[{section}]"]
        lines += [f"# {line}" for line in option.prose.splitlines()]
        lines.append(f"#{option.key} = {_toml(option.default)}")
    lines += ["", *(f"# {line}" for line in _LAYOUT_PROSE.splitlines()), "[layout]"]
    lines += ['#default = "balanced"', '#"A100-SXM4-40GB" = { "3g.20gb" = 1, "1g.5gb" = 3 }', ""]
    return "\n".join(lines)
