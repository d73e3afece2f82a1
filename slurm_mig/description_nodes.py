"""The node groups of a cluster's description, and what their nodes tell Slurm. Pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from slurm_mig import description_checks as checks
from slurm_mig.description import GpuSet, Group
from slurm_mig.description_source import Source
from slurm_mig.errors import ConfigError
from slurm_mig.hostlist import LARGEST, expand, shown, some
from slurm_mig.indices import indices
from slurm_mig.layouts import NAMED, layout
from slurm_mig.packing import GpuSpace, fits
from slurm_mig.profiles import Geometry, TableEntry, find_entry
from slurm_mig.settings import LayoutSpec, nearest
from slurm_mig.tomlfile import Path

_GROUP = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
_SHORT = re.compile(r"(.+):(\d{1,9})", re.ASCII)
#: No board has more GPUs; a typing error may say 10^9.
_LARGEST_INDEX = 63


class Models:
    """The known GPU models, and what each of them can hold: computed once per model and layout."""

    def __init__(self, entries: Sequence[TableEntry]) -> None:
        self._entries = entries
        self._found: dict[str, TableEntry] = {}
        self._layouts: dict[tuple[str, object], Mapping[str, int]] = {}
        self._maxima: dict[str, Mapping[str, int]] = {}

    def find(self, model: object) -> TableEntry:
        """The GPU of that name. Raises ConfigError, which names the nearest."""
        if not isinstance(model, str) or not model:
            raise ConfigError(f"a GPU model must be a string, not {shown(model)}")
        if model not in self._found:
            entry = find_entry(self._entries, model)
            if entry is None:
                near = nearest(model, [entry.key for entry in self._entries])
                raise ConfigError(f"no GPU model {shown(model)} in the table{near}")
            self._found[model] = entry
        return self._found[model]

    def layout(self, entry: TableEntry, spec: LayoutSpec) -> Mapping[str, int]:
        """The promises of one GPU. Raises ConfigError."""
        key = (entry.key, spec if isinstance(spec, str) else tuple(spec.items()))
        if key not in self._layouts:
            self._layouts[key] = layout(entry.geometry, spec)
        return self._layouts[key]

    def maxima(self, entry: TableEntry) -> Mapping[str, int]:
        """For each profile, how many of it alone fit on one GPU."""
        if entry.key not in self._maxima:
            names = [profile.name for profile in entry.geometry.profiles]
            self._maxima[entry.key] = {name: _most(entry.geometry, name) for name in names}
        return self._maxima[entry.key]


def _most(geometry: Geometry, name: str) -> int:
    number = 0
    while fits(GpuSpace("", geometry), {name: number + 1}) is not None:
        number += 1
    return number


def spec(value: object) -> LayoutSpec:
    """A layout as written: a name, or counts by profile. Raises ConfigError."""
    if isinstance(value, str):
        if value not in NAMED:
            raise ConfigError(f"no layout is called {shown(value)}{nearest(value, NAMED)}")
        return value
    if not isinstance(value, dict) or not value:
        raise ConfigError(
            "must be a layout's name or a table of counts such as "
            f'{{ "3g.20gb" = 1, "1g.5gb" = 3 }}, not {shown(value)}'
        )
    for name, count in value.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"{name} = {shown(count)}: a count must be 1, 2, 3, …")
    return MappingProxyType(dict(value))


class Layouts:
    """A [layout] table, of the cluster or of a group: specs by model, and which were used."""

    def __init__(self, source: Source, models: Models, path: Path, table: Mapping[str, Any]):
        self._source = source
        self._written: dict[str, Path] = {}
        self._specs: dict[str, LayoutSpec] = {}
        for model, value in table.items():
            place = (*path, model)
            known = source.checked(place, spec, value)
            key = model if model == "default" else source.checked(place, models.find, model).key
            if key in self._specs:
                raise source.fault(place, f"{key} has a layout already")
            self._specs[key], self._written[key] = known, place

    def of(self, entry: TableEntry) -> tuple[LayoutSpec, Path] | None:
        """The layout of a model and where it is written; None if there is none."""
        key = entry.key if entry.key in self._specs else "default"
        return (self._specs[key], self._written[key]) if key in self._specs else None

    def check_used(self, there: Collection[str], who: str) -> None:
        """Raise ConfigError for the layout of a model that is not among those `there`."""
        for key, place in self._written.items():
            if key != "default" and key not in there:
                raise self._source.fault(place, f"{who} {key} in MIG mode")


class _Reader:
    """Reads one group after the other and sees to it that no node is in two."""

    def __init__(self, source: Source, models: Models, cluster: Layouts, elastic: bool) -> None:
        self.source = source
        self.models = models
        self.cluster = cluster
        self.elastic = elastic
        self.owner: dict[str, str] = {}  # node: its group

    def hosts(self, name: str, text: object) -> int:
        """Check a group's host list against those before it; the number of its nodes."""
        path = ("nodes", name, "hosts")
        if not isinstance(text, str):
            raise self.source.fault(path, f"must be a Slurm host list, not {shown(text)}")
        try:
            names = expand(text)
        except ConfigError as error:
            raise self.source.fault(path, error) from None
        both = [host for host in names if host in self.owner]
        if both:
            other = self.owner[both[0]]
            line = self.source.line(("nodes", other, "hosts"))
            verb = "is" if len(both) == 1 else "are"
            raise self.source.fault(
                path, f"{some(both)} {verb} in [nodes.{other}], too (line {line})"
            )
        if len(self.owner) + len(names) > LARGEST:
            raise self.source.fault(path, f"more than {LARGEST} nodes with those above")
        self.owner.update(dict.fromkeys(names, name))
        return len(names)

    def gpus(self, name: str, value: object) -> tuple[GpuSet, ...]:
        path = ("nodes", name, "gpus")
        if isinstance(value, str):
            return (self.source.checked(path, self.short, value),)
        if not isinstance(value, list) or not value:
            raise self.source.fault(
                path, f'must be "MODEL:COUNT" or a list of tables, not {shown(value)}'
            )
        sets: list[GpuSet] = []
        for at, table in enumerate(value):
            found = self.source.checked((*path, at), self.one, table)
            for other in sets:
                if both := sorted(set(other.indices) & set(found.indices)):
                    raise self.source.fault((*path, at), f"GPU {both[0]} is named twice")
                # slurmd is fatal: "Some gpu GRES in slurm.conf have a type while others do not".
                if not (found.mig or other.mig) and bool(found.type) != bool(other.type):
                    message = "Slurm wants a type for all whole GPUs of a node, or for none"
                    raise self.source.fault((*path, at), message)
            sets.append(found)
        return tuple(sets)

    def short(self, text: object) -> GpuSet:
        """`MODEL:COUNT`."""
        found = _SHORT.fullmatch(str(text))
        if found is None:
            raise ConfigError(f'must be "MODEL:COUNT", as "A100-SXM4-40GB:8", not {shown(text)}')
        entry, count = self.models.find(found[1]), int(found[2])
        if not 1 <= count <= _LARGEST_INDEX + 1:
            raise ConfigError(f"{count} GPUs: a node has 1 to {_LARGEST_INDEX + 1}")
        return GpuSet(entry, tuple(range(count)), mig=True)

    def one(self, table: object) -> GpuSet:
        """`{ model = …, index = …, mig = …, type = … }`."""
        what = 'a table such as { model = "H100-SXM5-80GB", index = "0-3" }'
        values = checks.keys(table, ("model", "index", "mig", "type"), what)
        if "model" not in values or "index" not in values:
            missing = "model" if "model" not in values else "index"
            raise ConfigError(f"{missing} is missing; write {what}")
        entry = self.models.find(values["model"])
        if not isinstance(values["index"], str):
            said = shown(values["index"])
            raise ConfigError(f'index must be a string such as "0-3,5", not {said}')
        try:
            numbers = indices(values["index"])
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if numbers[-1] > _LARGEST_INDEX:
            raise ConfigError(f"index {numbers[-1]}: the last one is {_LARGEST_INDEX}")
        mig = values.get("mig", True)
        if not isinstance(mig, bool):
            raise ConfigError(f"mig must be true or false, not {shown(mig)}")
        if mig and "type" in values:
            raise ConfigError("type is for GPUs that stay whole; add mig = false, or leave it out")
        kind = checks.gpu_type(values["type"]) if "type" in values else ""
        return GpuSet(entry, numbers, mig, kind)

    def layouts(
        self, name: str, value: object, gpus: Sequence[GpuSet]
    ) -> tuple[dict[str, LayoutSpec], dict[str, Mapping[str, int]]]:
        """The layout and the promises of one GPU, by model key, for the group's MIG models."""
        path: Path = ("nodes", name, "layout")
        if value is None:
            own = None
        elif isinstance(value, str):
            spec_ = self.source.checked(path, spec, value)
            own = Layouts(self.source, self.models, path, {"default": spec_})
        elif isinstance(value, dict):
            own = Layouts(self.source, self.models, path, value)
        else:
            raise self.source.fault(
                path, f"must be a layout's name or a table by model, not {shown(value)}"
            )
        written: dict[str, LayoutSpec] = {}
        promised: dict[str, Mapping[str, int]] = {}
        there = {found.entry.key: found.entry for found in gpus if found.mig}
        for entry in there.values():
            found = (own.of(entry) if own else None) or self.cluster.of(entry)
            if found is None:
                if not self.elastic:
                    raise self.source.fault(
                        ("nodes", name, "gpus"),
                        f"there is no layout for {entry.key}, so its nodes would offer nothing; "
                        'write [layout] default = "balanced"',
                    )
                continue
            chosen, place = found
            try:
                promised[entry.key] = self.models.layout(entry, chosen)
            except ConfigError as error:
                about = "" if place[:2] == ("nodes", name) else f"[nodes.{name}]: "
                raise self.source.fault(place, f"{about}{error}") from None
            written[entry.key] = chosen
        if own:
            own.check_used(there, "this group has no")
        return written, promised

    def group(self, name: str, table: object) -> Group:
        path: Path = ("nodes", name)
        if not _GROUP.fullmatch(name):
            raise self.source.fault(
                path, "a group's name must be made of a-z, 0-9, _ and -, and begin with a-z or 0-9"
            )
        known = ("hosts", "gpus", "layout", "conf")
        values = self._keys(path, table, known)
        for key in ("hosts", "gpus"):
            if key not in values:
                raise self.source.fault(path, f"{key} is missing")
        size = self.hosts(name, values["hosts"])
        gpus = self.gpus(name, values["gpus"])
        written, promised = self.layouts(name, values.get("layout"), gpus)
        promises: dict[str, int] = {}
        maxima: dict[str, int] = {}
        most = 0
        for found in gpus:
            if not found.mig:
                continue
            number = len(found.indices)
            for profile, count in promised.get(found.entry.key, {}).items():
                promises[profile] = promises.get(profile, 0) + number * count
            alone = self.models.maxima(found.entry)
            for profile, count in alone.items():
                maxima[profile] = maxima.get(profile, 0) + number * count
            # The smallest profile alone makes the most instances (tests/ground proves it).
            most += number * max(alone.values())
        return Group(
            name=name,
            hosts=values["hosts"],
            size=size,
            gpus=gpus,
            layout=MappingProxyType(written),
            promises=MappingProxyType(promises),
            maxima=MappingProxyType(maxima),
            padding=most - sum(promises.values()) if self.elastic else 0,
            conf=self.source.checked((*path, "conf"), checks.conf, values.get("conf", "")),
        )

    def _keys(self, path: Path, table: object, known: Sequence[str]) -> dict[str, Any]:
        """The group's table; an unknown key is named with its own line."""
        if isinstance(table, dict):
            for key in table:
                if key not in known:
                    raise self.source.fault((*path, key), f"unknown key{nearest(key, known)}")
            return table
        raise self.source.fault(path, f"must be a table, not {shown(table)}")


def groups(
    source: Source, models: Models, cluster: Layouts, *, elastic: bool
) -> tuple[tuple[Group, ...], Mapping[str, str]]:
    """All node groups of the file, and the group of each node. Raises ConfigError."""
    tables = source.document.get("nodes")
    if not isinstance(tables, dict) or not tables:
        message = "there must be a table [nodes.NAME] for each group of nodes"
        raise source.fault(("nodes",), message)
    reader = _Reader(source, models, cluster, elastic)
    found = tuple(reader.group(name, table) for name, table in tables.items())
    there = {gpus.entry.key for group in found for gpus in group.mig}
    cluster.check_used(there, "no group has")
    return found, reader.owner
