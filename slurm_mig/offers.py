"""What the job_submit module knows of the cluster: which nodes offer which profiles, as Lua data.

Pure. `data` takes from a Description what `templates/slurm_mig.lua.j2` needs, `literal` writes it
as Lua. Groups that offer the same are one, so the data grows with what differs, not with the nodes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from slurm_mig.description import Description, Group
from slurm_mig.profiles import Geometry, ProfileName

#: Containers whose text is no longer than this stay on one line.
_WIDTH = 96


def _size(name: str) -> tuple[int, int, str]:
    """By memory, then compute slices, then attribute: the order that sizes are compared in."""
    parsed = ProfileName.parse(name)
    return parsed.memory_gb, parsed.slices, parsed.attribute


def _profiles(geometry: Geometry) -> list[str]:
    return sorted((profile.name for profile in geometry.profiles), key=_size)


def _counts(group: Group, *, elastic: bool) -> dict[str, int]:
    """What a job may ask of one node: what it promises, or with elastic mode what it could make."""
    counts = group.maxima if elastic else group.promises
    return {name: counts[name] for name in sorted(counts, key=_size) if counts[name] > 0}


def _room(group: Group, counts: Mapping[str, int]) -> dict[str, Any]:
    """What bounds a mixture of profiles on one node: `room` there is and what each `needs`.

    Both in memory and compute slices. A node with several models has none: there a profile's name
    does not say which of them it is for.
    """
    if len({gpus.entry.key for gpus in group.mig}) > 1:
        return {}
    geometry = group.mig[0].entry.geometry
    number = sum(len(gpus.indices) for gpus in group.mig)
    most = max(profile.slices for profile in geometry.profiles)
    needs = {p.name: [p.size, p.slices] for p in geometry.profiles if p.name in counts}
    return {"room": [number * geometry.memory_slices, number * most], "needs": needs}


def data(description: Description) -> dict[str, Any]:
    """The tables of the Lua module, made of dicts, lists, strings and numbers.

    `field`: the job field that is stamped ("extra", "comment" or ""); `release`: year * 100 +
    month; `models`: {key: its profiles by size}; `kinds`: nodes that offer the same, each with
    `hosts` (a Slurm hostlist), `models` (keys) and `counts` ({profile: most that a job may ask}).
    All counts of a static cluster can be had at once; where they cannot, with elastic mode, a kind
    also has `room` and `needs` (`_room`).
    """
    kinds: dict[str, dict[str, Any]] = {}
    models: dict[str, list[str]] = {}
    for group in description.groups:
        counts = _counts(group, elastic=description.elastic)
        if not counts:
            continue
        for gpus in group.mig:
            models[gpus.entry.key] = _profiles(gpus.entry.geometry)
        kind = {"models": sorted({gpus.entry.key for gpus in group.mig}), "counts": counts}
        if description.elastic:
            kind |= _room(group, counts)
        alike = kinds.setdefault(literal(kind), {"hosts": "", **kind})
        alike["hosts"] += ("," if alike["hosts"] else "") + group.hosts
    release = description.site.release
    return {
        "release": release.year * 100 + release.month,
        "field": description.token,
        "models": {key: models[key] for key in sorted(models)},
        "kinds": list(kinds.values()),
    }


def _text(value: str | bytes) -> str:
    """A Lua string: printable ASCII as it is, every other byte as three decimal digits."""
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    text = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03d}" for byte in raw
    )
    return f'"{text}"'


def literal(value: object, indent: str = "") -> str:
    """`value` as a Lua expression, the same on Lua 5.1 to 5.4 and whatever the locale.

    Strings (as UTF-8, or bytes), booleans, None, integers that a double holds exactly, mappings
    with such keys (not None), sequences. Raises TypeError or ValueError for anything else.
    """
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if abs(value) > 2**53:
            raise ValueError(f"{value} is no integer that every Lua holds exactly")
        return f"{value}"
    if isinstance(value, str | bytes):
        return _text(value)
    more = indent + "  "
    if isinstance(value, Mapping):
        if None in value:
            raise TypeError("nil is no key of a Lua table")
        parts = [f"[{literal(key)}] = {literal(of, more)}" for key, of in value.items()]
    elif isinstance(value, Sequence):
        parts = [literal(one, more) for one in value]
    else:
        raise TypeError(f"{value!r} has no Lua literal")
    line = ", ".join(parts)
    if len(indent) + len(line) <= _WIDTH and "\n" not in line:
        return "{" + line + "}"
    return "{\n" + "".join(f"{more}{part},\n" for part in parts) + indent + "}"
