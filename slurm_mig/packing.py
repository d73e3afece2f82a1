"""Where the next GPU instance goes, so that every promise that a node made stays keepable.

Pure, and imported by hooks, each a fresh process: cheap imports only.

A promise is a count of instances of a profile that the node has told Slurm it can still create.
Largest first, each into the least useful free place: success is a proof. Where only memory decides
so is failure (`Tables.nested` has the argument); and if even that fails as though there were no
engines, nothing can succeed. What is left, promises of `+me` and its like on GPUs almost full, gets
three more greedy tries and then `cover.deal`, which searches. So every answer is exact.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from slurm_mig.errors import NoRoom, RequestError
from slurm_mig.occupancy import GpuSpace, Tables, Taken, options, tables
from slurm_mig.profiles import Geometry, GiProfile, Placement

__all__ = [
    "GpuSpace",
    "Slot",
    "Taken",
    "choose",
    "counted",
    "fits",
    "keepable",
    "nearest",
    "needs",
    "options",
    "unkept",
]


class Slot(NamedTuple):
    """Where an instance shall be made: what is wanted, not yet what lives."""

    gpu: str
    profile: GiProfile
    placement: Placement


class _Node:
    """The GPUs of one decision: their tables and states, in GPU order."""

    def __init__(self, spaces: Sequence[GpuSpace]) -> None:
        self.spaces = spaces
        self.tables = [tables(space.geometry) for space in spaces]
        self.states = [
            table.state(space.taken, space.blocked)
            for table, space in zip(self.tables, spaces, strict=True)
        ]

        different = set(self.tables)
        self.ranks = max((len(c) for t in different for c in t.classes.values()), default=0)
        #: Whether failing to pack largest first, were there no engines, proves that nothing packs:
        #: every model's placements are nested, and no name stands for two things.
        self.nested = all(table.nested for table in different) and sum(
            len(table.bits) for table in different
        ) == len({name for table in different for name in table.bits})

    def order(self, names: Sequence[str]) -> list[str]:
        """Largest first; among equals the one with fewest places, then the one there is less of."""

        def key(name: str) -> tuple[float, int, int, str]:
            sizes, places, most = [0.0], [0], [0]
            for table in set(self.tables):
                if name in table.bits:
                    profile = table.geometry.profile(name)
                    sizes.append(profile.size / table.first)
                    places.append(len(profile.placements))
                    most.append(profile.max_count)
            return (-max(sizes), max(places), max(most), name)

        return sorted(names, key=key)

    def greedy(
        self,
        states: list[int],
        counts: Sequence[tuple[str, int]],
        loose: bool = False,
        tilt: int = 0,
    ) -> bool:
        """Place all in this order, least useful places first; whether it worked. Eats `states`.

        Loose: as if there were no engines. With `tilt`, GPUs on which something scarce (`self.
        scarce`) can be made come last, and before that the emptiest (-1) or fullest (1) first.
        """
        gpus = list(zip(range(len(states)), self.tables, strict=True))
        for name, count in counts:
            for rank in range(self.ranks):
                if tilt:
                    gpus.sort(
                        key=lambda g: (
                            states[g[0]] & g[1].scarce != 0,
                            tilt * (states[g[0]] & g[1].all).bit_count(),
                        )
                    )
                for gpu, table in gpus:
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
                if not count:
                    break
            if count:
                return False
        return True

    def careful(self, states: list[int], counts: Sequence[tuple[str, int]]) -> bool:
        """Greedy again, with the scarce profiles placed first."""
        names = [name for name, _ in counts]
        later = []
        for name, count in counts:
            if not any(table.scarce & table.bits.get(name, 0) for table in self.tables):
                later.append((name, count))
                continue
            for _ in range(count):
                best = min(self.candidates(states, name, names), default=None)
                if best is None:
                    return False
                _, gpu, _, option = best
                states[gpu] = self.tables[gpu].put(states[gpu], option)
        return self.greedy(states, later)

    def verdict(self, states: Sequence[int], counts: Sequence[tuple[str, int]]) -> bool | None:
        """Whether all of `counts` (in `order`) can be made at once; None: only `deal` can tell."""
        if self.greedy(list(states), counts):
            return True
        if self.nested:
            loose = [t.loose(state) for t, state in zip(self.tables, states, strict=True)]
            if not self.greedy(loose, counts, loose=True):
                return False
        if (
            self.greedy(list(states), counts, tilt=-1)
            or self.greedy(list(states), counts, tilt=1)
            or self.careful(list(states), counts)
        ):
            return True
        return None

    def keeps(self, states: Sequence[int], counts: Sequence[tuple[str, int]]) -> bool:
        """Whether all of `counts` (in `order`) can be made at once, exactly."""
        answer = self.verdict(states, counts)
        if answer is None:
            return self.deal(states, dict(counts), {}, 0) is not None
        return answer

    def deal(
        self,
        states: Sequence[int],
        wanted: Mapping[str, int],
        may_drop: Mapping[str, int],
        most: int,
    ) -> dict[str, int] | None:
        """Exact: see `cover.deal`."""
        from slurm_mig.cover import deal  # rarely needed, and a hook starts anew each time

        return deal(list(zip(self.tables, states, strict=True)), wanted, may_drop, most)

    def unkept(self, states: Sequence[int], promises: Mapping[str, int]) -> dict[str, int]:
        """The promises that cannot be kept, as few as possible."""
        counts = [(name, promises[name]) for name in self.order(list(promises))]
        if self.greedy(list(states), counts):
            return {}
        left = self.deal(states, promises, promises, sum(promises.values())) or {}
        return {name: n for name, n in left.items() if n}

    def candidates(
        self, states: Sequence[int], name: str, among: Sequence[str] | None = None
    ) -> list[tuple[int, int, int, int]]:
        """Open options of a profile as (worth lost, GPU, start, option).

        Worth counts all profiles, or those named in `among`.
        """
        found = []
        for gpu, table in enumerate(self.tables):
            free = (states[gpu] & table.bits.get(name, 0)) >> table.first
            if not free:
                continue
            some = table.all if among is None else sum(table.bits.get(n, 0) for n in among)
            before = table.worth(states[gpu] & some)
            while free:
                option = (free & -free).bit_length() - 1
                free &= free - 1
                lost = before - table.worth(table.put(states[gpu], option) & some)
                found.append((lost, gpu, table.options[option][1].start, option))
        return found

    def slot(self, gpu: int, option: int) -> Slot:
        """The option in words."""
        return Slot(self.spaces[gpu].uuid, *self.tables[gpu].options[option])


def _tally(names: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if n > 0}


def fits(space: GpuSpace, wants: Mapping[str, int]) -> list[Slot] | None:
    """Slots for all of `wants` on one GPU, beside what is there, or None if there are none."""
    node = _Node([space])
    table, start = node.tables[0], node.states[0]
    names = [name for name in node.order(list(_positive(wants))) for _ in range(wants[name])]
    dead: set[tuple[int, int]] = set()

    def place(state: int, at: int) -> list[int] | None:
        if at == len(names):
            return []
        if (state, at) in dead:
            return None
        for rank in table.classes.get(names[at], ()):
            free = state & rank
            while free:
                option = (free & -free).bit_length() - 1 - table.first
                free &= free - 1
                rest = place(table.put(state, option), at + 1)
                if rest is not None:
                    return [option, *rest]
        dead.add((state, at))
        return None

    placed = place(start, 0)
    return None if placed is None else [node.slot(0, option) for option in placed]


def keepable(spaces: Sequence[GpuSpace], promises: Mapping[str, int]) -> bool:
    """Whether all promises can be kept at once, on any GPUs that have such profiles."""
    node = _Node(spaces)
    promises = _positive(promises)
    counts = [(name, promises[name]) for name in node.order(list(promises))]
    return node.keeps(node.states, counts)


def unkept(spaces: Sequence[GpuSpace], promises: Mapping[str, int]) -> dict[str, int]:
    """The promises that cannot be kept whatever one does, as few as possible; {} if none."""
    node = _Node(spaces)
    return node.unkept(node.states, _positive(promises))


def choose(
    spaces: Sequence[GpuSpace], wants: Sequence[str], promises: Mapping[str, int]
) -> list[Slot]:
    """Slots for a job's instances, in the order of `wants`: all of them, or none.

    `promises` are those that remain once this job is served. No more of them become unkeepable
    than are so already. Among the places that allow that, the one that leaves most open is taken
    (options count by the square of their size: fragments go first, whole GPUs stay whole), then
    the first GPU, then the lowest start. A place that only the exact search could prove safe is
    passed over where another is proved at once.

    Raises RequestError if no GPU here has such a profile, NoRoom if there is no such place now.
    """
    node = _Node(spaces)
    _known(node, wants)
    promises = _positive(promises)
    mine = _tally(wants)
    both = _sum(promises, mine)
    order = node.order(list(both))
    counts = [(name, both[name]) for name in order]
    answer = node.verdict(node.states, counts)
    if answer is not False:
        slots = _serve(node, wants, both, order, node.verdict)
        if slots is not None:
            return slots
        answer = node.keeps(node.states, counts)
    keep = promises
    if not answer:
        # Space is short for the promises alone (a quarantine, a stranger's instance): then keep
        # as many as could be kept without this job.
        already = sum(node.unkept(node.states, promises).values())
        left = node.deal(node.states, both, promises, already) if already else None
        if left is None:
            raise NoRoom(_why(node, wants, promises))
        keep = {name: n - left.get(name, 0) for name, n in promises.items()}
    slots = _serve(node, wants, _sum(keep, mine), order, node.keeps)
    if slots is None:
        raise AssertionError(f"no place for {counted(mine)}, though all fit at once")
    return slots


def _serve(
    node: _Node,
    wants: Sequence[str],
    both: Mapping[str, int],
    order: Sequence[str],
    keeps: Callable[[Sequence[int], Sequence[tuple[str, int]]], bool | None],
) -> list[Slot] | None:
    """One instance after the other, each where `both` (promises and wants) stays possible."""
    rest = dict(both)
    states = list(node.states)
    slots: list[Slot] = []
    for name in wants:
        rest[name] -= 1
        counts = [(other, rest[other]) for other in order if rest.get(other, 0)]
        tried: set[tuple[Tables, int, int]] = set()
        for _, gpu, _, option in sorted(node.candidates(states, name)):
            table, before = node.tables[gpu], states[gpu]
            after = table.put(before, option)
            if (table, before, after) in tried:
                continue
            tried.add((table, before, after))
            states[gpu] = after
            if keeps(states, counts):
                slots.append(node.slot(gpu, option))
                break
            states[gpu] = before
        else:
            return None
    return slots


def _known(node: _Node, wants: Sequence[str]) -> None:
    """Raise RequestError if no GPU of the node has one of the profiles."""
    there = {name: None for table in node.tables for name in table.bits}
    for name in wants:
        if name not in there:
            raise RequestError(f"no GPU of this node has a profile {name!r}{nearest(name, there)}")


def nearest(name: str, there: Mapping[str, object]) -> str:
    """The end of a sentence about an unknown name: what there is, and what may be meant."""
    from difflib import get_close_matches  # 2 ms, and only for errors

    close = get_close_matches(name, list(there), 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"; {hint}there {'is' if len(there) == 1 else 'are'} {', '.join(there) or 'none'}"


def counted(counts: Mapping[str, int], join: str = " + ") -> str:
    """Counts in words: `3g.20gb ×2 + 1g.5gb`."""  # noqa: RUF002 - the sign is meant
    return join.join(
        name if n == 1 else f"{name} ×{n}"  # noqa: RUF001 - the sign is meant
        for name, n in counts.items()
        if n
    )


def _why(node: _Node, wants: Sequence[str], promises: Mapping[str, int]) -> str:
    """One sentence: what was asked, what is free, which promise forbids it."""
    mine = _tally(wants)
    asked = counted(mine)
    order = node.order(list(mine))
    if not node.keeps(node.states, [(name, mine[name]) for name in order]):
        free = {
            name: most
            for name in dict.fromkeys(n for table in node.tables for n in table.bits)
            if (most := _at_most(node, name))
        }
        can = counted(free, " or ") or "nothing"
        return f"no room for {asked}; free now: {can}"
    guilty = [
        name
        for name in promises
        if node.keeps(
            node.states,
            [
                (other, n)
                for other, n in (
                    (o, _sum(promises, mine)[o] - (promises[o] if o == name else 0))
                    for o in node.order(list(_sum(promises, mine)))
                )
                if n
            ],
        )
    ]
    kept = counted({name: promises[name] for name in guilty}, " or ") or counted(promises)
    return f"no room for {asked}: what is free is promised to {kept}"


def _at_most(node: _Node, name: str) -> int:
    """How many of a profile fit now, alone."""
    count = 0
    while node.keeps(node.states, [(name, count + 1)]):
        count += 1
    return count


def needs(geometry: Geometry, counts: Mapping[str, int]) -> tuple[int, int]:
    """What a set of profiles takes of a GPU: (memory slices, compute slices)."""
    memory = compute = 0
    for name, n in counts.items():
        profile = geometry.profile(name)
        memory += n * profile.size
        compute += n * profile.slices
    return memory, compute
