"""What a GPU promises by default: named layouts, and checking an admin's own.

A layout says, for one GPU, how many instances of each profile can be made at once. Nothing is
created by it: it is what the node tells Slurm. Pure.
"""

from collections.abc import Callable, Mapping

from slurm_mig.errors import ConfigError
from slurm_mig.packing import GpuSpace, counted, fits, nearest, needs
from slurm_mig.profiles import Geometry, GiProfile


def _plain(geometry: Geometry) -> list[GiProfile]:
    """Profiles without media or graphics attributes: all that a named layout uses."""
    return [p for p in geometry.profiles if p.name.endswith("gb")]


def _fit(geometry: Geometry, counts: Mapping[str, int]) -> bool:
    return fits(GpuSpace("", geometry), counts) is not None


def _filled(geometry: Geometry, counts: Mapping[str, int], name: str) -> dict[str, int]:
    """The counts, and as many of `name` as fit beside them."""
    filled = dict(counts)
    while _fit(geometry, more := {**filled, name: filled.get(name, 0) + 1}):
        filled = more
    return filled


def _part(geometry: Geometry, parts: int) -> str | None:
    """The biggest plain profile of 1/parts of the memory of which (at least) two can live."""
    found = [
        p
        for p in _plain(geometry)
        if p.size * parts == geometry.memory_slices and _fit(geometry, {p.name: min(parts, 2)})
    ]
    return max(found, key=lambda p: p.slices).name if found else None


def _smallest(geometry: Geometry) -> str | None:
    plain = _plain(geometry)
    return min(plain, key=lambda p: (p.size, p.slices)).name if plain else None


def _whole(geometry: Geometry) -> dict[str, int]:
    """One instance that is the whole GPU."""
    name = _part(geometry, 1)
    return {name: 1} if name else {}


def _halves(geometry: Geometry) -> dict[str, int]:
    """Two equal halves, as large as can be."""
    name = _part(geometry, 2)
    return {name: 2} if name else {}


def _small(geometry: Geometry) -> dict[str, int]:
    """As many of the smallest profile as fit."""
    name = _smallest(geometry)
    return _filled(geometry, {}, name) if name else {}


def _balanced(geometry: Geometry) -> dict[str, int]:
    """One half, one quarter, and the smallest profile in what is left."""
    smallest = _smallest(geometry)
    chosen: dict[str, int] = {}
    for name in (_part(geometry, 2), _part(geometry, 4)):
        if name and name != smallest:
            chosen[name] = 1
    return _filled(geometry, chosen, smallest) if smallest else {}


#: Named layouts, each computed from what the GPU offers.
NAMED: dict[str, Callable[[Geometry], dict[str, int]]] = {
    "whole": _whole,
    "halves": _halves,
    "balanced": _balanced,
    "small": _small,
}


def layout(geometry: Geometry, spec: str | Mapping[str, int]) -> dict[str, int]:
    """The promises of one GPU of this model: {profile name: count}, all keepable at once.

    `spec` is the name of a layout (`NAMED`) or the admin's own counts. Raises ConfigError.
    """
    if isinstance(spec, str):
        rule = NAMED.get(spec)
        if rule is None:
            raise ConfigError(f"no layout is called {spec!r}{nearest(spec, NAMED)}")
        named = rule(geometry)
        if not named:
            raise ConfigError(f"{geometry.model} has no profile that the layout {spec!r} could use")
        return named
    names = {p.name: p for p in geometry.profiles}
    for name, count in spec.items():
        if name not in names:
            raise ConfigError(f"{geometry.model} has no profile {name!r}{nearest(name, names)}")
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ConfigError(f"{name} = {count!r}: a count of instances must be 0, 1, 2, …")
    # Bounded before anything is packed: a typing error may say a million.
    asked = {name: count for name, count in spec.items() if count}
    memory, compute = needs(geometry, asked)
    most = max(p.slices for p in geometry.profiles)
    fault = None
    if memory > geometry.memory_slices:
        fault = f"needs {memory} of {geometry.memory_slices} memory slices"
    elif compute > most:
        fault = f"needs {compute} of {most} compute slices"
    elif not _fit(geometry, asked):
        fault = _fault(geometry, asked)
    if fault:
        raise ConfigError(f"{geometry.model}: {counted(asked)} {fault}")
    return asked


def _fault(geometry: Geometry, asked: Mapping[str, int]) -> str:
    """Why counts that have slices enough still cannot live together."""
    for name, count in asked.items():
        most = _filled(geometry, {}, name).get(name, 0)
        if count > most:
            return f"cannot be: at most {most} of {name} {'fits' if most == 1 else 'fit'} on a GPU"
    return "cannot be: there are slices enough, but their places or engines exclude each other"
