"""Reads a cluster's description from the text of its TOML file, and refuses what cannot be.

Every error is `file:line: [section] key: …`. Pure; `clusterfile.py` reads the file.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from slurm_mig import description_checks as checks
from slurm_mig import settings
from slurm_mig.description import PADDING, Description, Group, Release, Site
from slurm_mig.description_nodes import Layouts, Models, groups
from slurm_mig.description_options import OPTIONS, SECTIONS
from slurm_mig.description_source import Source
from slurm_mig.errors import ConfigError
from slurm_mig.hostlist import shown
from slurm_mig.profiles import TableEntry
from slurm_mig.settings import Settings, nearest
from slurm_mig.tomlfile import Path
from slurm_mig.typeid import type_id

#: The first release whose jobs carry a field `extra` to the Prolog.
_EXTRA = Release(23, 2)
#: Sections of a node's file that are made from the node groups.
_MADE = ("layout", "gpus")


def _options(source: Source) -> dict[tuple[str, str], Any]:
    """The value of every option, checked, or its default."""
    values = {(option.section, option.key): option.default for option in OPTIONS}
    checks_of = {(option.section, option.key): option.check for option in OPTIONS}
    for section, table in source.document.items():
        if section not in SECTIONS:
            if not isinstance(table, dict):
                raise ConfigError(
                    f"{source.where}:{source.line((section,))}: {section} = …: "
                    "a key must stand in a section"
                )
            raise source.fault((section,), f"unknown section{nearest(section, SECTIONS)}")
        if not isinstance(table, dict):
            raise source.fault((section,), f"must be a table, not {shown(table)}")
        if section in {option.section for option in OPTIONS}:
            keys = [option.key for option in OPTIONS if option.section == section]
            for key, value in table.items():
                if key not in keys:
                    raise source.fault((section, key), f"unknown key{nearest(key, keys)}")
                place = (section, key)
                values[place] = source.checked(place, checks_of[place], value)
    return values


def _check_conf(source: Source, path: Path, conf: str, release: Release) -> None:
    """Raise ConfigError for a key of a NodeName line that this release does not know."""
    for key, _ in checks.conf_words(conf):
        missing = checks.NODE_KEYS_MISSING.get(key.casefold())
        if missing and release <= missing:
            raise source.fault(path, f"Slurm {release} has no {key}= for nodes; leave it out")


def _token(source: Source, release: Release, value: str) -> str:
    if value == "auto":
        return "extra" if release >= _EXTRA else ""
    if value == "extra" and release < _EXTRA:
        raise source.fault(
            ("job_submit", "token"),
            f'a job has no field "extra" before Slurm {_EXTRA}, and this is {release}; '
            'write "comment" or "none"',
        )
    return "" if value == "none" else value


def _node(source: Source, token: str) -> tuple[Mapping[str, Mapping[str, Any]], Settings]:
    """The sections for the nodes' own files, as written and as settings."""
    written: dict[str, Mapping[str, Any]] = {}
    known = dict.fromkeys(o.section for o in settings.OPTIONS if o.section not in _MADE)
    for section, table in source.document.get("node", {}).items():
        place = ("node", section)
        if section in _MADE:
            raise source.fault(place, f"{section} is made from the node groups; leave it out")
        if section not in known:
            raise source.fault(place, f"unknown section{nearest(section, known)}")
        if not isinstance(table, dict):
            raise source.fault(place, f"must be a table, not {shown(table)}")
        for key, value in table.items():
            try:
                settings.parse([("", {section: {key: value}})])
            except ConfigError as error:
                # ": [section] key must be …": the place is said better here.
                message = str(error).removeprefix(": ").removeprefix(f"[{section}] {key} ")
                message = message.replace(f" {key!r} in [{section}]", "", 1)
                raise source.fault((*place, key), message) from None
            if isinstance(value, str):
                check = checks.path if value.startswith("/") else checks.text
                if (section, key) != ("driver", "root") or value != "/":
                    source.checked((*place, key), check, value)
        written[section] = MappingProxyType(dict(table))
    parsed = settings.parse([(source.where, written)])
    if parsed.slurm_request == "token" and not token:
        raise source.fault(
            ("node", "slurm", "request"),
            'it cannot be "token" while [job_submit] token is none: no job would carry one',
        )
    return MappingProxyType(written), parsed


def _offered(group: Group, elastic: bool) -> dict[str, str]:
    """Which types of `mig` Slurm sees on a group's nodes, and of which GPU model each is."""
    found: dict[str, str] = {}
    for gpus in group.mig:
        for profile in gpus.entry.geometry.profiles:
            if elastic or profile.name in group.promises:
                found.setdefault(profile.name, gpus.entry.key)
    return found


def _check_ids(source: Source, found: Sequence[Group], elastic: bool) -> None:
    """Raise ConfigError if Slurm would take two types of a GRES for one."""
    mend = (
        "elastic mode offers all profiles of all models: describe such models as two clusters, "
        "or leave elastic mode and have one of the two in no layout"
        if elastic
        else "have one of the two in no layout"
    )
    first: dict[int, tuple[str, str, str]] = {}
    if elastic:
        first[type_id(PADDING)] = (PADDING, "", "")
    whole: dict[int, tuple[str, str]] = {}
    for group in found:
        for name, model in _offered(group, elastic).items():
            known, other, where = first.setdefault(type_id(name), (name, model, group.name))
            if known != name:
                line = source.line(("nodes", where, "gpus"))
                there = f"{known} of {other} in [nodes.{where}] (line {line})"
                raise source.fault(
                    ("nodes", group.name, "gpus"),
                    f"{name} of {model} and {there if where else f'the padding type {known}'} are "
                    f"one GRES type to Slurm, which would send jobs to the wrong GPUs; {mend}",
                )
        for gpus in group.whole:
            if gpus.type:
                other_type, where = whole.setdefault(type_id(gpus.type), (gpus.type, group.name))
                if other_type != gpus.type:
                    raise source.fault(
                        ("nodes", group.name, "gpus"),
                        f"type {gpus.type} and type {other_type} of [nodes.{where}] are one GRES "
                        "type to Slurm; name one of them otherwise",
                    )


def _anchor_conf(found: Sequence[Group]) -> str:
    """A NodeName line that could hold any job that a node of the groups could."""
    largest: dict[str, int] = {}
    features: dict[str, None] = {}
    for group in found:
        words = {key.casefold(): value for key, value in checks.conf_words(group.conf)}
        numbers = {
            key: int(value) for key, value in words.items() if value.isdecimal() and len(value) < 19
        }
        cpus = numbers.get("cpus") or numbers.get("procs")
        if not cpus:
            sockets = numbers.get("sockets") or (
                numbers.get("boards", 1) * numbers.get("socketsperboard", 1)
            )
            cpus = sockets * numbers.get("corespersocket", 1) * numbers.get("threadspercore", 1)
        sizes = {"CPUs": cpus}
        for key in ("RealMemory", "TmpDisk"):
            sizes[key] = numbers.get(key.casefold(), 0)
        for key, size in sizes.items():
            largest[key] = max(size, largest.get(key, 0))
        listed = words.get("features") or words.get("feature") or ""
        features.update(dict.fromkeys(word for word in listed.strip('"').split(",") if word))
    parts = [f"{key}={size}" for key, size in largest.items() if size]
    return " ".join([*parts, *([f"Features={','.join(features)}"] if features else [])])


def parse(
    text: str, where: str, *, entries: Sequence[TableEntry], release: Release | None = None
) -> Description:
    """The cluster that a TOML text describes. `where` is the file's name in errors.

    `entries` are the known GPUs (`table.entries()`); `release` goes before the file's own.
    Raises ConfigError, one line: file, line, section, key, what is wrong and what to do.
    """
    source = Source(text, where)
    values = _options(source)
    release = release or values["slurm", "release"]
    if release is None:
        raise source.fault(("slurm",), 'release is missing; write release = "24.11", say')
    site = Site(
        release,
        values["slurm", "config_directory"],
        values["slurm", "gres_types"],
        values["slurm", "prolog_flags"],
        values["slurm", "accounting_tres"],
        values["slurm", "accounting"],
        values["slurm", "job_submit_plugins"],
    )
    if site.accounting_tres and not site.accounting:
        raise source.fault(
            ("slurm", "accounting_tres"),
            "slurmctld takes none without a slurmdbd; leave it out, or say accounting = true",
        )
    for flag in site.prolog_flags:
        if checks.PROLOG_FLAGS[flag] > site.release:
            raise source.fault(
                ("slurm", "prolog_flags"),
                f"{flag} is there from Slurm {checks.PROLOG_FLAGS[flag]} on, and this is "
                f"{site.release}",
            )
    token = _token(source, site.release, values["job_submit", "token"])
    node, parsed = _node(source, token)
    elastic = values["elastic", "enabled"]
    models = Models(entries)
    layouts = Layouts(source, models, ("layout",), source.document.get("layout", {}))
    found, owner = groups(source, models, layouts, elastic=elastic)
    for group in found:
        _check_conf(source, ("nodes", group.name, "conf"), group.conf, release)
    if not any(group.mig for group in found):
        raise source.fault(("nodes",), "no group has a GPU in MIG mode; there is nothing to render")
    _check_ids(source, found, elastic)
    anchor = values["elastic", "anchor"]
    if elastic and anchor in owner:
        raise source.fault(
            ("elastic", "anchor"),
            f"{anchor!r} is a node of [nodes.{owner[anchor]}]; the anchor must not exist",
        )
    conf = values["elastic", "anchor_conf"]
    _check_conf(source, ("elastic", "anchor_conf"), conf or "", release)
    return Description(
        site=site,
        groups=found,
        token=token,
        elastic=elastic,
        anchor=anchor if elastic else "",
        anchor_conf=(_anchor_conf(found) if conf is None else conf) if elastic else "",
        directory=values["install", "directory"],
        program=values["install", "program"],
        node=node,
        settings=parsed,
    )
