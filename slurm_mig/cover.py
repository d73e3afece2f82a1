"""Which promises several GPUs can keep together: the exact search behind the greedy packer.

Pure. Used only where greed cannot prove its answer: engines that exclude each other (`+me`),
models mixed under one profile name, or promises that space no longer allows at all.

Counts of profiles are packed into one int, a field each, with a guard bit on top, so that "at
least as much of everything" and "what is still missing" are a few operations on ints.
"""

from collections.abc import Mapping, Sequence

from slurm_mig.occupancy import Tables

_WIDTH = 12
_TOP = 1 << (_WIDTH - 1)


class _Counts:
    """Packing of one set of profile names into fields of an int."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.unit = {name: 1 << (k * _WIDTH) for k, name in enumerate(names)}
        self.guard = sum(_TOP * unit for unit in self.unit.values())

    def pack(self, counts: Mapping[str, int]) -> int:
        return sum(self.unit[name] * min(n, _TOP - 1) for name, n in counts.items())

    def unpack(self, packed: int) -> dict[str, int]:
        return {name: packed // unit & (_TOP - 1) for name, unit in self.unit.items()}

    def missing(self, want: int, have: int) -> int:
        """Per field max(want - have, 0)."""
        left = (want | self.guard) - have
        positive = left & self.guard
        return left & (positive - (positive >> (_WIDTH - 1)))

    def covers(self, have: int, want: int) -> bool:
        """Whether have >= want in every field."""
        return ((have | self.guard) - want) & self.guard == self.guard

    @staticmethod
    def total(packed: int) -> int:
        return packed % ((1 << _WIDTH) - 1)

    def most(self, packings: Sequence[int]) -> int:
        """Per field the largest value."""
        best = 0
        for one in packings:
            best += self.missing(one, best)
        return best

    def largest(self, packings: set[int]) -> list[int]:
        """The packings that no other one covers."""
        kept: list[int] = []
        for one in sorted(packings, key=self.total, reverse=True):
            if not any(self.covers(other, one) for other in kept):
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


def deal(
    gpus: Sequence[tuple[Tables, int]],
    wanted: Mapping[str, int],
    may_drop: Mapping[str, int],
    most: int,
) -> dict[str, int] | None:
    """Serve `wanted` from GPUs in these states, leaving out as few as possible, at most `most`.

    Only as many of each profile as `may_drop` says may be left out. Returns what is left out (the
    fewest possible in sum), or None if it cannot be done.
    """
    counts = _Counts(sorted(name for name, n in wanted.items() if n))
    need = counts.pack({name: wanted[name] for name in counts.names})
    drop = counts.pack({name: may_drop.get(name, 0) for name in counts.names})
    memos: dict[int, dict[int, list[int]]] = {}
    per_gpu = [
        packings(table, state, counts, memos.setdefault(id(table), {})) for table, state in gpus
    ]
    per_gpu.sort(key=lambda found: (len(found), found))
    size = {
        name: max(
            (t.geometry.profile(name).size / t.first for t, _ in gpus if name in t.bits), default=0
        )
        for name in counts.names
    }
    # What GPUs k, k+1, … can hold at the very most of each profile.
    caps = [0]
    for found in reversed(per_gpu):
        caps.append(caps[-1] + counts.most(found))
    caps.reverse()
    failed: dict[tuple[int, int], int] = {}

    def serve(k: int, need: int, budget: int) -> int | None:
        short = counts.missing(need, caps[k])
        if counts.total(short) > budget or not counts.covers(drop, short):
            return None
        if k == len(per_gpu) or not need:
            return need
        if failed.get((k, need), -1) >= budget:
            return None
        rests = sorted({counts.missing(need, one) for one in per_gpu[k]}, key=weight)
        for rest in rests:
            result = serve(k + 1, rest, budget)
            if result is not None:
                return result
        failed[k, need] = budget
        return None

    def weight(rest: int) -> float:
        return sum(size[name] * n for name, n in counts.unpack(rest).items())

    for budget in range(min(most, counts.total(drop)) + 1):
        result = serve(0, need, budget)
        if result is not None:
            return counts.unpack(result)
    return None
