"""Which promises several GPUs can keep together: the exact search behind the greedy packer.

Pure. Used only where greed cannot prove its answer: engines that exclude each other (`+me`),
models mixed under one profile name, or promises that space no longer allows at all.

Counts of profiles are packed into one int, a field each, with a guard bit on top, so that "at
least as much of everything" and "what is still missing" are a few operations on ints.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from operator import mul
from typing import NamedTuple

from slurm_mig.occupancy import Tables

#: Bits of a count, and of a weighted sum of counts.
_WIDTH = 12
_WIDE = 24


class _Counts:
    """Packing of numbers, one for each name, into fields of an int."""

    def __init__(self, names: Sequence[str], width: int = _WIDTH) -> None:
        self.names = names
        self.width = width
        self.largest_count = (1 << (width - 1)) - 1
        self.shifts = range(0, len(names) * width, width)
        self.unit = {n: 1 << shift for n, shift in zip(names, self.shifts, strict=True)}
        self.guard = sum(unit << (width - 1) for unit in self.unit.values())

    def pack(self, counts: Mapping[str, int]) -> int:
        return sum(self.unit[name] * min(n, self.largest_count) for name, n in counts.items())

    def fields(self, packed: int) -> list[int]:
        return [packed >> shift & self.largest_count for shift in self.shifts]

    def unpack(self, packed: int) -> dict[str, int]:
        return {n: c for n, c in zip(self.names, self.fields(packed), strict=True) if c}

    def missing(self, want: int, have: int) -> int:
        """Per field max(want - have, 0)."""
        left = (want | self.guard) - have
        positive = left & self.guard
        return left & (positive - (positive >> (self.width - 1)))

    def covers(self, have: int, want: int) -> bool:
        """Whether have >= want in every field."""
        return ((have | self.guard) - want) & self.guard == self.guard

    def total(self, packed: int) -> int:
        return packed % ((1 << self.width) - 1)

    def most(self, packings: Iterable[int]) -> int:
        """Per field the largest value."""
        best = 0
        for one in packings:
            best += self.missing(one, best)
        return best

    def largest(self, packings: set[int]) -> list[int]:
        """The packings that no other one covers."""
        if len(packings) == 1:
            return list(packings)
        kept: list[int] = []
        guard = self.guard
        for one in sorted(packings, key=self.total, reverse=True):
            for other in kept:  # `covers`, written out: most of the time of a search is here
                if ((other | guard) - one) & guard == guard:
                    break
            else:
                kept.append(one)
        return kept


def packings(table: Tables, state: int, counts: _Counts, memo: dict[int, list[int]]) -> list[int]:
    """All largest sets of the named profiles that fit on one GPU, as packed counts."""
    wanted = 0
    for name in counts.names:
        wanted |= table.bits.get(name, 0)
    counters = ~((1 << (table.first + len(table.options))) - 1)
    unit = [counts.unit.get(profile.name, 0) for profile, _ in table.options]

    def largest(state: int) -> list[int]:
        here = state & wanted
        if not here:
            return [0]
        key = state & (wanted | counters)
        known = memo.get(key)
        if known is not None:
            return known
        # The first memory slice that anything can use is used by one of these, or by nothing.
        users = next(slice_ & here for slice_ in table.cover if slice_ & here)
        found: set[int] = set()
        spare = True
        left = users >> table.first
        while left:
            low = left & -left
            option = low.bit_length() - 1
            left ^= low
            rest = table.put(key, option)
            found.update(unit[option] + more for more in largest(rest))
            # An option that costs nothing else is never worse than leaving the slice empty.
            spare = spare and rest & wanted != here & ~users
        if spare:
            found.update(largest(key & ~users))
        memo[key] = result = counts.largest(found)
        return result

    return largest(state)


class Dealt(NamedTuple):
    """Who keeps what: per GPU the counts that it holds, and what nobody holds."""

    held: list[dict[str, int]]
    left: dict[str, int]


def _weights(tables: Collection[Tables], names: Sequence[str]) -> list[list[int]]:
    """Ways to add up counts such that no node can hold more than its GPUs' largest sums.

    True of any weights; these are the ones that tell early: memory and compute slices, and how
    many pieces of a size an instance spoils; scarce profiles; engines. A scarce profile costs its
    GPU two things at once, a piece and the only chance for another, hence the mixed ones. On eight
    GPUs almost full each of these groups makes the worst searches several times as short.
    """
    offered = [[t.geometry.profile(n) for t in tables if n in t.bits] for n in names]
    size = [max((p.size for p in found), default=0) for found in offered]
    slices = [max((p.slices for p in found), default=0) for found in offered]
    scarce = [int(any(t.scarce & t.bits.get(n, 0) for t in tables)) for n in names]
    pieces = [[n // piece for n in size] for piece in sorted(set(size)) if piece]
    pieces = _different([*pieces, slices, [n // 2 for n in slices]])
    mixed = [_plus(way, scarce) for way in pieces]
    ways = pieces + mixed + [_plus(a, b) for a, b in combinations(mixed, 2)]
    decoders = [max((p.decoders for p in found), default=0) for found in offered]
    ofas = [max((p.ofas for p in found), default=0) for found in offered]
    return _different([*ways, scarce, decoders, ofas])


def _plus(a: Sequence[int], b: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(a, b, strict=True)]


def _different(ways: Sequence[list[int]]) -> list[list[int]]:
    return [way for k, way in enumerate(ways) if any(way) and way not in ways[:k]]


def _alike(tables: Collection[Tables], names: Iterable[str]) -> dict[str, str]:
    """Of each profile the first one that differs from it in nothing but its name (`+gfx`)."""
    first: dict[object, str] = {}
    return {n: first.setdefault(tuple(t.kind(n) for t in tables), n) for n in names}


class Search:
    """All that can be asked about GPUs in these states and promises of these profiles."""

    def __init__(self, gpus: Sequence[tuple[Tables, int]], names: Iterable[str]) -> None:
        different = dict.fromkeys(table for table, _ in gpus)
        self.kind = _alike(different, sorted(names))
        self.counts = counts = _Counts(list(dict.fromkeys(self.kind.values())))
        memos: dict[Tables, dict[int, list[int]]] = {table: {} for table in different}
        self.holds = [packings(table, state, counts, memos[table]) for table, state in gpus]
        # GPUs with the least choice first.
        self.turn = sorted(
            range(len(gpus)), key=lambda gpu: (len(self.holds[gpu]), self.holds[gpu])
        )
        ways = {str(k): way for k, way in enumerate(_weights(different, counts.names))}
        self.added = added = _Counts(list(ways), _WIDE)
        self.weights = [
            added.pack({way: weights[k] for way, weights in ways.items()})
            for k in range(len(counts.names))
        ]
        self.heaviest = added.pack({way: max(weights) for way, weights in ways.items()})
        self.known: dict[int, int] = {}
        # What the GPUs from the k-th turn on can hold at the very most: of each profile, and in
        # sums.
        self.caps = [0]
        self.tops = [0]
        for gpu in reversed(self.turn):
            self.caps.append(self.caps[-1] + counts.most(self.holds[gpu]))
            self.tops.append(self.tops[-1] + added.most(map(self.sums, self.holds[gpu])))
        self.caps.reverse()
        self.tops.reverse()

    def sums(self, packed: int) -> int:
        """The counts added up in each of the ways, as packed sums."""
        found = self.known.get(packed)
        if found is None:
            found = sum(map(mul, self.counts.fields(packed), self.weights))
            self.known[packed] = found
        return found

    def _pack(self, wanted: Mapping[str, int]) -> int:
        merged: dict[str, int] = {}
        for name, n in wanted.items():
            merged[self.kind[name]] = merged.get(self.kind[name], 0) + n
        return self.counts.pack(merged)

    def deal(
        self, wanted: Mapping[str, int], may_drop: Mapping[str, int], least: int, most: int
    ) -> Dealt | None:
        """See `deal`; `wanted` may be any of the profiles that the search is for."""
        counts, turn, sums, added = self.counts, self.turn, self.sums, self.added
        need = self._pack(wanted)
        drop = self._pack({name: may_drop.get(name, 0) for name, n in wanted.items() if n})
        failed: dict[tuple[int, int], int] = {}

        def serve(k: int, need: int, budget: int) -> list[int] | None:
            """What is still needed after each turn from the k-th on, or None."""
            short = counts.missing(need, self.caps[k])
            if short and (counts.total(short) > budget or not counts.covers(drop, short)):
                return None
            if k == len(turn) or not need:
                return [need] * (len(turn) - k)
            if not added.covers(self.tops[k] + budget * self.heaviest, sums(need)):
                return None
            if failed.get((k, need), -1) >= budget:
                return None
            tried: list[int] = []
            rests = {counts.missing(need, one) for one in self.holds[turn[k]]}
            for rest in sorted(rests, key=lambda rest: added.total(sums(rest))):
                for other in tried:
                    if counts.covers(rest, other):
                        break
                else:
                    later = serve(k + 1, rest, budget)
                    if later is not None:
                        return [rest, *later]
                    tried.append(rest)
            failed[k, need] = budget
            return None

        for budget in range(least, most + 1):
            rests = serve(0, need, budget)
            if rests is not None:
                return self._named(need, rests, wanted, may_drop)
        return None

    def _named(
        self, need: int, rests: Sequence[int], wanted: Mapping[str, int], may: Mapping[str, int]
    ) -> Dealt:
        """The same by name: among profiles that are alike, those go without that may."""
        spare = {name: n for name, n in wanted.items() if n}

        def named(packed: int, limit: Mapping[str, int]) -> dict[str, int]:
            found: dict[str, int] = {}
            for kind, n in self.counts.unpack(packed).items():
                for name in spare:
                    if n and self.kind[name] == kind:
                        found[name] = min(n, spare[name], limit.get(name, 0))
                        spare[name] -= found[name]
                        n -= found[name]
            return {name: n for name, n in found.items() if n}

        left = named(rests[-1] if rests else need, may)
        held: list[dict[str, int]] = [{} for _ in rests]
        before = need
        for gpu, rest in zip(self.turn, rests, strict=True):
            held[gpu] = named(before - rest, wanted)
            before = rest
        return Dealt(held, left)


def deal(
    gpus: Sequence[tuple[Tables, int]],
    wanted: Mapping[str, int],
    may_drop: Mapping[str, int],
    least: int = 0,
    most: int = 0,
) -> Dealt | None:
    """Share out `wanted` among GPUs in these states, leaving out as few as possible.

    From `least` (if the caller knows that fewer cannot be) to `most` in sum may be left out, and of
    each profile what `may_drop` says. None if that cannot be done.
    """
    return Search(gpus, wanted).deal(wanted, may_drop, least, most)
