"""Where the next GPU instance goes, so that every promise that a node made stays keepable.

Pure, and imported by hooks, each a fresh process: cheap imports only.

A promise is a count of instances of a profile that the node has told Slurm it can still create.
`node.py` says what can be kept, this page where to put things so that it stays so.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from slurm_mig.errors import NoRoom, RequestError
from slurm_mig.node import Made, Node
from slurm_mig.occupancy import GpuSpace, Tables, Taken, options
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


#: After so many places of which greed cannot tell whether they are safe, take one known to be.
_DOUBTS = 2


class Slot(NamedTuple):
    """Where an instance shall be made: what is wanted, not yet what lives."""

    gpu: str
    profile: GiProfile
    placement: Placement


def _slot(node: Node, gpu: int, option: int) -> Slot:
    """The option in words."""
    return Slot(node.spaces[gpu].uuid, *node.tables[gpu].options[option])


def _tally(names: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if n > 0}


def _pack(table: Tables, state: int, names: Sequence[str]) -> list[int] | None:
    """Options for all of the names on one GPU, or None: tries everything, remembers failures."""
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

    return place(state, 0)


def fits(space: GpuSpace, wants: Mapping[str, int]) -> list[Slot] | None:
    """Slots for all of `wants` on one GPU, beside what is there, or None if there are none."""
    node = Node([space])
    names = [name for name in node.order(_positive(wants)) for _ in range(wants[name])]
    placed = _pack(node.tables[0], node.states[0], names)
    return None if placed is None else [_slot(node, 0, option) for option in placed]


def keepable(spaces: Sequence[GpuSpace], promises: Mapping[str, int]) -> bool:
    """Whether all promises can be kept at once, on any GPUs that have such profiles."""
    return Node(spaces).keeps(_positive(promises))


def unkept(spaces: Sequence[GpuSpace], promises: Mapping[str, int]) -> dict[str, int]:
    """The promises that cannot be kept whatever one does, as few as possible; {} if none."""
    return Node(spaces).unkept(_positive(promises))


def choose(
    spaces: Sequence[GpuSpace],
    wants: Sequence[str],
    promises: Mapping[str, int],
    owed: Mapping[str, int] | None = None,
) -> list[Slot]:
    """Slots for a job's instances, in the order of `wants`: all of them, or none.

    `promises` are those that remain once this job is served, `owed` those among the wants that were
    promised too. No more of the promises become unkeepable than could not be kept anyway: none on a
    sound node; where a stranger's instance or a quarantine took their space, as many as that cost.
    Among the places that allow that, the one that leaves most open is taken (options count by the
    square of their size: fragments go first, whole GPUs stay whole), then the first GPU, then the
    lowest start. A place that only the exact search could prove safe is passed over where another
    is proved at once.

    Raises RequestError if no GPU here has such a profile, NoRoom if there is no such place now.
    """
    promises = _positive(promises)
    both = _sum(promises, _tally(wants))
    node = Node(spaces, {**both, **(owed or {})})
    _known(node, wants)
    order = node.order(both)
    made: list[Made] = []
    answer = node.verdict(node.states, [(name, both[name]) for name in order], made)
    if answer:
        return _by_greed(node, wants, both, order) or _as_made(node, wants, made)
    dealt = None if answer is False else node.deal(both, {})
    if dealt is None and (short := sum(node.unkept(_sum(promises, owed or {})).values())):
        # As many of the promises as are lost anyway are left out.
        if node.chain(order):
            rest = node.relieved(order, both, promises, short)
            answer = node.verdict(node.states, list(rest.items()), made)
            if answer:
                return _by_greed(node, wants, rest, list(rest)) or _as_made(node, wants, made)
        else:
            answer = None
        if answer is None:
            dealt = node.deal(both, promises, short, short)
    if dealt is None:
        raise NoRoom(_why(node, wants, promises))
    return _as_dealt(node, wants, dealt.held)


def _by_greed(
    node: Node, wants: Sequence[str], both: Mapping[str, int], order: Sequence[str]
) -> list[Slot] | None:
    """One instance after the other, each where greed shows that `both` (all else) still fits."""
    rest = dict(both)
    states = list(node.states)
    slots: list[Slot] = []
    for name in wants:
        rest[name] -= 1
        counts = [(other, rest[other]) for other in order if rest[other]]
        tried: set[tuple[Tables, int, int]] = set()
        doubts = 0
        for _, gpu, _, option in node.candidates(states, name):
            table, before = node.tables[gpu], states[gpu]
            after = table.put(before, option)
            if (table, before, after) in tried:
                continue
            tried.add((table, before, after))
            states[gpu] = after
            answer = node.verdict(states, counts)
            if answer:
                slots.append(_slot(node, gpu, option))
                break
            states[gpu] = before
            doubts += answer is None
            if doubts > _DOUBTS:
                return None
        else:
            return None
    return slots


def _as_made(node: Node, wants: Sequence[str], made: Iterable[Made]) -> list[Slot]:
    """The wants as in this way to make everything."""
    where: dict[str, list[Slot]] = {}
    for name, gpu, option in made:
        where.setdefault(name, []).append(_slot(node, gpu, option))
    return [where[name].pop() for name in wants]


def _as_dealt(node: Node, wants: Sequence[str], held: Sequence[dict[str, int]]) -> list[Slot]:
    """One instance after the other, each on a GPU that was dealt it and can hold the rest."""
    states = list(node.states)
    slots: list[Slot] = []
    for name in wants:
        for _, gpu, _, option in node.candidates(states, name):
            if not held[gpu].get(name):
                continue
            table = node.tables[gpu]
            after = table.put(states[gpu], option)
            rest = {**held[gpu], name: held[gpu][name] - 1}
            if _pack(table, after, [n for n in node.order(rest) for _ in range(rest[n])]) is None:
                continue
            states[gpu] = after
            held[gpu].update(rest)
            slots.append(_slot(node, gpu, option))
            break
        else:
            raise AssertionError(f"dealt, but without a place for {name}")
    return slots


def _known(node: Node, wants: Sequence[str]) -> None:
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


def _why(node: Node, wants: Sequence[str], promises: Mapping[str, int]) -> str:
    """One sentence: what was asked, what is free, which promise forbids it.

    Only words, so without a search: a promise is named if greed shows that all fits without it,
    and if there is no such promise all are.
    """
    mine = _tally(wants)
    asked = counted(mine)
    if not node.packs(mine):
        names = dict.fromkeys(name for table in node.tables for name in table.bits)
        free = {name: node.most(name) for name in names}
        return f"no room for {asked}; free now: {counted(free, ' or ') or 'nothing'}"
    both = _sum(promises, mine)
    guilty = [n for n in promises if node.packs({**both, n: both[n] - promises[n]})]
    kept = counted({name: promises[name] for name in guilty}, " or ") or counted(promises)
    return f"no room for {asked}: what is free is promised to {kept}"


def needs(geometry: Geometry, counts: Mapping[str, int]) -> tuple[int, int]:
    """What a set of profiles takes of a GPU: (memory slices, compute slices)."""
    memory = compute = 0
    for name, n in counts.items():
        profile = geometry.profile(name)
        memory += n * profile.size
        compute += n * profile.slices
    return memory, compute
