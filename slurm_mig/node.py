"""What the GPUs of a node can still hold together: quick proofs, and an exact search at need.

Pure, and imported by hooks, each a fresh process: cheap imports only.

Largest first, each into the least useful free place: success is a proof. Where only memory decides
so is failure (`Tables._comparable` has the argument), and what fails so even as though there were
no engines cannot succeed with them. What is left are promises of `+me` and its like on GPUs almost
full. There are few GPUs for these: counting proves most failures, and most successes are found by
placing what was left over first and trying again. The rest, about one full node in five thousand,
`cover.Search` settles. So every answer is exact.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from slurm_mig.occupancy import GpuSpace, tables

if TYPE_CHECKING:
    from slurm_mig.cover import Dealt, Search

#: So many tries, each with what the last one left over placed first. Of 1100 random nodes (see
#: bench/packing.py) where all fits but not at the first try, the second solved five in six, the
#: first four 24 in 25, ten all but three.
_TRIES = 10
#: More than fit anywhere.
_MANY = 1 << 20
#: An instance placed: profile name, GPU, option.
Made = tuple[str, int, int]


class Node:
    """The GPUs of one decision: their tables and states, in GPU order."""

    def __init__(self, spaces: Sequence[GpuSpace], names: Iterable[str] = ()) -> None:
        """Names: the profiles that the decision is about; others may be asked about too."""
        self.spaces = spaces
        self.names = names
        self.tables = [tables(space.geometry) for space in spaces]
        self.states = [
            table.state(space.taken, space.blocked)
            for table, space in zip(self.tables, spaces, strict=True)
        ]

        different = set(self.tables)
        self.gpus = range(len(spaces))
        self._search: Search | None = None
        self._keys: dict[str, tuple[float, int, int, str]] = {}
        self.ranks = max((len(c) for t in different for c in t.classes.values()), default=0)
        #: Whether failing to pack largest first, were there no engines, proves that nothing packs:
        #: every model's placements are nested, and no name stands for two things.
        self.nested = all(table.nested for table in different) and sum(
            len(table.bits) for table in different
        ) == len({name for table in different for name in table.bits})

    def order(self, names: Iterable[str]) -> list[str]:
        """Largest first; among equals the one with fewest places, then the one there is less of."""

        def key(name: str) -> tuple[float, int, int, str]:
            if name in self._keys:
                return self._keys[name]
            sizes, places, most = [0.0], [0], [0]
            for table in set(self.tables):
                if name in table.bits:
                    profile = table.geometry.profile(name)
                    sizes.append(profile.size / table.first)
                    places.append(len(profile.placements))
                    most.append(profile.max_count)
            self._keys[name] = (-max(sizes), max(places), max(most), name)
            return self._keys[name]

        return sorted(names, key=key)

    def fill(
        self,
        states: list[int],
        counts: Sequence[tuple[str, int]],
        gpus: Iterable[int],
        loose: bool = False,
        made: list[Made] | None = None,
    ) -> tuple[int, int] | None:
        """Place all in this order, least useful places first. Eats `states`, adds to `made`.

        None if it worked, else which of `counts` did not fit, and how many of these are left over.
        Loose: as if there were no engines.
        """
        for at, (name, count) in enumerate(counts):
            for rank in range(self.ranks):
                for gpu in gpus:
                    table = self.tables[gpu]
                    classes = table.classes.get(name, ())
                    if rank >= len(classes):
                        continue
                    free = states[gpu] & classes[rank]
                    while free and count:
                        option = (free & -free).bit_length() - 1 - table.first
                        if loose:
                            states[gpu] &= ~table.overlap[option]
                        else:
                            states[gpu] = table.put(states[gpu], option)
                        free &= states[gpu]
                        count -= 1
                        if made is not None:
                            made.append((name, gpu, option))
                if not count:
                    break
            if count:
                return at, count
        return None

    def hosts(self, states: Sequence[int], names: Iterable[str]) -> dict[str, int]:
        """Of each scarce profile among these: a mask of the GPUs that can hold one.

        All the scarce profiles together have at most one instance on a GPU.
        """
        found = {}
        for name in names:
            bits = [table.bits.get(name, 0) for table in self.tables]
            if not any(of & ~table.scarce for table, of in zip(self.tables, bits, strict=True)):
                found[name] = sum(1 << k for k, of in enumerate(bits) if states[k] & of)
        return found

    def impossible(self, states: Sequence[int], counts: Sequence[tuple[str, int]]) -> bool:
        """Whether counting proves that not all of `counts` (in `order`) fit."""
        hosts = self.hosts(states, (name for name, _ in counts))
        here = needed = 0
        for name, count in counts:
            if name in hosts:
                if count > hosts[name].bit_count():
                    return True
                here, needed = here | hosts[name], needed + count
        if needed > here.bit_count():
            return True
        if not self.nested:
            return False
        loose = [table.loose(state) for table, state in zip(self.tables, states, strict=True)]
        return self.fill(loose, counts, self.gpus, loose=True) is not None

    def verdict(
        self,
        states: Sequence[int],
        counts: Sequence[tuple[str, int]],
        made: list[Made] | None = None,
    ) -> bool | None:
        """Whether all of `counts` (in `order`) can be made at once; None: only `deal` can tell.

        If so, `made` then holds one way to do it.
        """
        counts = list(counts)
        turns: list[Iterable[int]] = [self.gpus]
        for attempt in range(_TRIES):
            if made is not None:
                made.clear()
            left = self.fill(list(states), counts, turns[attempt % len(turns)], made=made)
            if left is None:
                return True
            if not attempt:
                if self.impossible(states, counts):
                    return False
                # Every other time the GPUs with the fewest choices are filled first.
                turns.append(sorted(self.gpus, key=lambda gpu: self._open(gpu, states)))
            at, count = left
            name, of = counts.pop(at)
            if of > count:
                counts.insert(at, (name, of - count))
            counts.insert(0, (name, count))
        return None

    def _open(self, gpu: int, states: Sequence[int]) -> int:
        return (states[gpu] & self.tables[gpu].all).bit_count()

    def keeps(self, counts: Mapping[str, int]) -> bool:
        """Whether all of `counts` can be made at once, exactly."""
        answer = self.verdict(self.states, [(name, counts[name]) for name in self.order(counts)])
        return self.deal(counts, {}) is not None if answer is None else answer

    def deal(
        self, wanted: Mapping[str, int], may_drop: Mapping[str, int], least: int = 0, most: int = 0
    ) -> "Dealt | None":
        """Exact: see `cover.deal`."""
        from slurm_mig.cover import Search  # rarely needed, and a hook starts anew each time

        if self._search is None or not wanted.keys() <= self._search.kind.keys():
            self._search = Search(
                list(zip(self.tables, self.states, strict=True)), {*self.names, *wanted}
            )
        return self._search.deal(wanted, may_drop, least, most)

    def unkept(self, promises: Mapping[str, int]) -> dict[str, int]:
        """The promises that cannot be kept, as few as possible."""
        order = self.order(promises)
        answer = self.verdict(self.states, [(name, promises[name]) for name in order])
        if answer:
            return {}
        least = 0
        most = sum(promises.values())
        if answer is False and self.chain(order):

            def possible(few: int) -> bool:
                rest = self.relieved(order, promises, promises, few)
                return not self.impossible(self.states, list(rest.items()))

            least = bisect_left(range(most), True, lo=1, key=possible)
            rest = self.relieved(order, promises, promises, least)
            if self.verdict(self.states, list(rest.items())):
                left = {name: n - rest.get(name, 0) for name, n in promises.items()}
                return {name: n for name, n in left.items() if n}
        dealt = self.deal(promises, promises, least, most)
        return dealt.left if dealt else {}

    def chain(self, order: Sequence[str]) -> bool:
        """Whether each of these, wherever it lies, leaves room for the next one when it goes."""
        return all(
            all(
                any(not s.mask & ~place.mask for s in table.places.get(small, ()))
                for place in table.places.get(large, ())
            )
            for table in set(self.tables)
            for large, small in pairwise(order)
        )

    def relieved(
        self,
        order: Sequence[str],
        counts: Mapping[str, int],
        may_drop: Mapping[str, int],
        few: int,
    ) -> dict[str, int]:
        """The counts, in order, without those `few` that it helps most to leave out.

        First scarce ones for which there is no GPU, then the largest. On a chain (`chain`), if
        what is left is `impossible`, so is what any other choice of so many leaves: any choice
        leaves out as many scarce ones, and where it leaves out something else, a larger one in its
        stead makes room for that.
        """
        rest = {name: counts[name] for name in order}

        def drop(name: str, count: int) -> int:
            nonlocal few
            spare = may_drop.get(name, 0) - counts[name] + rest[name]
            count = max(0, min(count, few, spare))
            rest[name] -= count
            few -= count
            return count

        hosts = self.hosts(self.states, order)
        here = 0
        for name, can in hosts.items():
            drop(name, rest[name] - can.bit_count())
            here |= can
        excess = sum(rest[name] for name in hosts) - here.bit_count()
        for name in hosts:
            excess -= drop(name, excess)
        for name in order:
            drop(name, few)
        return {name: n for name, n in rest.items() if n}

    def packs(self, counts: Mapping[str, int]) -> bool:
        """Whether all of `counts` pack at the first try."""
        ordered = [(name, counts[name]) for name in self.order(counts)]
        return self.fill(list(self.states), ordered, self.gpus) is None

    def most(self, name: str) -> int:
        """How many of a profile fit now, alone."""
        made: list[Made] = []
        self.fill(list(self.states), [(name, _MANY)], self.gpus, made=made)
        return len(made)

    def candidates(self, states: Sequence[int], name: str) -> list[tuple[int, int, int, int]]:
        """Open options of a profile as (worth lost, GPU, start, option), best first."""
        found = []
        for gpu, table in enumerate(self.tables):
            free = (states[gpu] & table.bits.get(name, 0)) >> table.first
            if not free:
                continue
            before = table.worth(states[gpu])
            while free:
                option = (free & -free).bit_length() - 1
                free &= free - 1
                lost = before - table.worth(table.put(states[gpu], option))
                found.append((lost, gpu, table.options[option][1].start, option))
        found.sort()
        return found
