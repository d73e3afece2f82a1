"""MIG's rules written as plainly as they can be, and everything that follows by trying all of it.

Shares no code with the packer: sets of (profile, placement), lists of slices, sums. Vectors of
counts are ints in base 16, one digit per profile (no GPU holds 16 of anything).
"""

import json
from functools import cached_property, lru_cache
from importlib.resources import files

from slurm_mig.profiles import from_table

ENGINES = ("copy_engines", "decoders", "encoders", "jpegs", "ofas")


@lru_cache
def entries():
    """All GPUs of the table."""
    text = files("slurm_mig").joinpath("data/mig_profiles.json").read_text("utf-8")
    return [from_table(entry) for entry in json.loads(text)["gpus"]]


def geometry(key):
    """The geometry of one GPU of the table."""
    return next(entry.geometry for entry in entries() if entry.key == key)


def shape(geometry):
    """All that packing depends on; GPUs of equal shape differ in names and megabytes only."""
    return (
        geometry.memory_slices,
        tuple(
            (p.slices, p.max_count, p.placements, *(getattr(p, e) for e in ENGINES))
            for p in geometry.profiles
        ),
    )


@lru_cache
def shapes():
    """One GPU per shape: {key: geometry}."""
    found = {}
    for entry in entries():
        found.setdefault(shape(entry.geometry), entry)
    return {entry.key: entry.geometry for entry in found.values()}


class Plain:
    """One GPU by brute force. An occupancy is an ascending tuple of indexes into `every`."""

    def __init__(self, geometry):
        self.geometry = geometry
        self.every = [(p, place) for p in geometry.profiles for place in p.placements]
        self.digit = {p.name: 16**k for k, p in enumerate(geometry.profiles)}
        self.limit = {
            engine: max(max(p.max_count, 1) * getattr(p, engine) for p in geometry.profiles)
            for engine in ENGINES
        }

    def legal(self, occupancy):
        """Whether these instances can live together."""
        chosen = [self.every[i] for i in occupancy]
        slices = [s for _, place in chosen for s in range(place.start, place.start + place.size)]
        if len(slices) != len(set(slices)):
            return False
        if sum(p.slices for p, _ in chosen) > max(p.slices for p in self.geometry.profiles):
            return False
        for engine in ENGINES:
            if sum(getattr(p, engine) for p, _ in chosen) > self.limit[engine]:
                return False
        names = [p.name for p, _ in chosen]
        return all(names.count(p.name) <= (p.max_count or 99) for p, _ in chosen)

    @cached_property
    def occupancies(self):
        """Every legal occupancy: each part of a legal one is legal, so all can be reached."""
        found = [()]
        for occupancy in found:
            for i in range(occupancy[-1] + 1 if occupancy else 0, len(self.every)):
                if self.legal((*occupancy, i)):
                    found.append((*occupancy, i))
        return found

    def after(self, occupancy):
        """(index, occupancy with it) of everything that still fits."""
        known = self._known
        for i in range(len(self.every)):
            more = tuple(sorted((*occupancy, i)))
            if more in known:
                yield i, more

    @cached_property
    def _known(self):
        return set(self.occupancies)

    @cached_property
    def packable(self):
        """{occupancy: all vectors of counts that can be added to it}."""
        found = {}
        for occupancy in sorted(self.occupancies, key=len, reverse=True):
            vectors = {0}
            for i, more in self.after(occupancy):
                one = self.digit[self.every[i][0].name]
                vectors.update(one + v for v in found[more])
            found[occupancy] = frozenset(vectors)
        return found

    def largest(self, vectors):
        """Those vectors to which no single instance can be added."""
        return [v for v in vectors if not any(v + d in vectors for d in self.digit.values())]

    def beyond(self, vectors):
        """The vectors just out of reach: any instance less and they could be."""
        edge = {v + d for v in vectors for d in self.digit.values()} - vectors
        return [
            v for v in edge if all(v - d in vectors for d in self.digit.values() if v // d % 16)
        ]

    def counts(self, vector):
        """The vector as {profile name: count}."""
        return {name: vector // d % 16 for name, d in self.digit.items() if vector // d % 16}

    def vector(self, counts):
        """The counts as a vector."""
        return sum(self.digit[name] * n for name, n in counts.items())


@lru_cache
def plain(key):
    """The brute force of one GPU of the table, kept for the session."""
    return Plain(geometry(key))
