"""What still fits on one GPU, as a few operations on one integer.

Pure, and imported by hooks: no import here but the ground and the cheapest of the standard library.

A GPU's *state* is one int. From its lowest bit: one bit per memory slice (set: free), one bit per
option (set: this profile can still be created at this placement), then, only for a model whose
engine limits geometry does not already imply, counters of engines in use. Creating an instance is
`state & keep[option]`. That works because nearly every rule of MIG is a rule about pairs: two
instances overlap in memory, or together they need an engine that the GPU has once (`+me`, nvml.h:
NVML_GPU_INSTANCE_PROFILE_*_REV1; `+me.all` takes all of them).

Rules, from what the driver reports and nothing else:
- memory slices: placements do not overlap;
- compute slices sum to at most those of the largest profile;
- per engine, the sum is at most the most that any one profile can add up to (`max_count` times its
  engines): a safe lower bound of what the GPU has, also where some numbers are not known (0);
- `max_count` of each profile, where placements alone would allow more.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from slurm_mig.profiles import Geometry, GiProfile, Placement

# A counter has 8 bits; its top bit is set when the limit is passed. Real limits are below 20 and
# at most 12 instances add to one, so nothing carries into the next counter.
_BITS = 8
_OVER = 1 << (_BITS - 1)


class Taken(NamedTuple):
    """One instance that exists, or is intended, on a GPU.

    The profile may be unknown to the geometry; then only its memory slices count.
    """

    profile_id: int
    placement: Placement


class GpuSpace(NamedTuple):
    """One GPU and what is taken of it; `blocked` is a mask of memory slices never to use."""

    uuid: str
    geometry: Geometry
    taken: tuple[Taken, ...] = ()
    blocked: int = 0


class Limit(NamedTuple):
    """No more than `most` of something on a GPU; `need` says what each profile takes of it."""

    most: int
    need: tuple[int, ...]


def limits(geometry: Geometry) -> list[Limit]:
    """The limits of a GPU beyond its memory slices, from what its profiles report, each once."""
    profiles = geometry.profiles
    slices = tuple(p.slices for p in profiles)
    rows = [Limit(max(slices), slices)]
    engines = [(p.copy_engines, p.decoders, p.encoders, p.jpegs, p.ofas) for p in profiles]
    for need in zip(*engines, strict=True):
        most = max(max(p.max_count, 1) * n for p, n in zip(profiles, need, strict=True))
        if most:
            rows.append(Limit(most, need))
    for at, profile in enumerate(profiles):
        if 0 < profile.max_count < _disjoint(profile.placements):
            rows.append(Limit(profile.max_count, tuple(int(k == at) for k in range(len(profiles)))))
    return list(dict.fromkeys(rows))


def _disjoint(placements: Iterable[Placement]) -> int:
    """How many of the placements fit side by side."""
    count = end = 0
    for place in sorted(placements, key=lambda p: p.start + p.size):
        if place.start >= end:
            count, end = count + 1, place.start + place.size
    return count


class _Block(NamedTuple):
    """Memory slices that some profiles can occupy, and the largest such blocks inside."""

    mask: int
    profiles: list[int]
    parts: list["_Block"]


class Tables:
    """One geometry, compiled. `tables(geometry)` keeps one per geometry.

    `options[i]` is (profile, placement); `keep[i]` clears from a state what option i rules out;
    `bits[name]` are the state bits of a profile; `classes[name]` are the same bits, split by how
    much a placement destroys, least first.
    """

    __slots__ = (
        "_by_id",
        "_counters",
        "_guard",
        "_loose",
        "_lost",
        "_needs",
        "all",
        "apart",
        "bits",
        "classes",
        "cover",
        "empty",
        "first",
        "geometry",
        "keep",
        "nested",
        "options",
        "overlap",
        "places",
        "scarce",
        "weights",
    )

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        profiles = geometry.profiles
        #: State bit of option 0; below it are the memory slices.
        self.first = first = geometry.memory_slices
        self.options = [(p, place) for p in profiles for place in p.placements]
        of = [at for at, p in enumerate(profiles) for _ in p.placements]
        masks = [place.mask for _, place in self.options]
        self.places = {p.name: p.placements for p in profiles}
        by_profile = [0] * len(profiles)
        for i, at in enumerate(of):
            by_profile[at] |= 1 << (first + i)
        self.bits: dict[str, int] = {
            p.name: bits for p, bits in zip(profiles, by_profile, strict=True)
        }
        self.all = ((1 << len(self.options)) - 1) << first
        #: Options that use memory slice s.
        self.cover = [0] * first
        for i, (_, place) in enumerate(self.options):
            for s in range(place.start, place.start + place.size):
                self.cover[s] |= 1 << (first + i)
        self._by_id = {p.id: at for at, p in enumerate(profiles)}
        self._lost: dict[int, int] = {}
        self.overlap = [self._overlap(mask) for mask in masks]
        found = limits(geometry)
        #: Per profile: options of other profiles, or its own, that it rules out wherever they lie.
        self.apart = [0] * len(profiles)
        for most, need in found:
            if 2 * max(need) > most:
                for a, mine in enumerate(need):
                    for b in range(len(need)) if mine else ():
                        if need[b] and mine + need[b] > most:
                            self.apart[a] |= by_profile[b]
        blocks = self._blocks(masks, of)
        #: Whether any two placements are nested or apart: the shape of every MIG GPU so far.
        self.nested = bool(blocks)
        self._counters = [limit for limit in found if not self._implied(limit, blocks, by_profile)]
        shift = first + len(self.options)
        self._guard = 0
        start = 0
        needs = [0] * len(profiles)
        for limit in self._counters:
            self._guard |= _OVER << shift
            start |= (_OVER - 1 - limit.most) << shift
            needs = [n + (of_it << shift) for n, of_it in zip(needs, limit.need, strict=True)]
            shift += _BITS
        self._needs = list(zip(needs, by_profile, strict=True))
        self.keep = [~(lost | self.apart[at]) for lost, at in zip(self.overlap, of, strict=True)]
        #: The state of a GPU with nothing on it.
        self.empty = (1 << first) - 1 | self.all | start
        #: For scores. Squares, since then a whole GPU outweighs all that a part of one can hold.
        self.weights = [(bits, p.size**2) for p, bits in zip(profiles, by_profile, strict=True)]
        self._loose: dict[int, int] = {}
        #: Options of `+me` and its like: profiles of which one rules out the next though that lies
        #: elsewhere. Of all of them together a GPU holds at most one.
        self.scarce = 0
        for at, bits in enumerate(by_profile):
            alone = self.scarce | bits
            if alone & self.apart[at] == alone and _disjoint(profiles[at].placements) > 1:
                self.scarce = alone
        # Of two places of a profile, the one with less inside is the less useful.
        self.classes: dict[str, tuple[int, ...]] = {}
        for profile, bits in zip(profiles, by_profile, strict=True):
            ranks: dict[int, int] = {}
            for i in self.open(bits):
                inside = sum(1 for mask in masks if not mask & ~masks[i])
                ranks[inside] = ranks.get(inside, 0) | 1 << (first + i)
            self.classes[profile.name] = tuple(ranks[r] for r in sorted(ranks))
        if self.nested:
            self.nested = self._comparable(blocks)

    def _overlap(self, mask: int) -> int:
        """State bits that an instance on these memory slices takes away by lying there."""
        lost = self._lost.get(mask)
        if lost is None:
            lost = mask & ((1 << self.first) - 1)
            for s in range(self.first):
                if mask >> s & 1:
                    lost |= self.cover[s]
            self._lost[mask] = lost
        return lost

    @staticmethod
    def _blocks(masks: list[int], of: list[int]) -> list[_Block]:
        """The blocks, parts before wholes, a root last; [] if two overlap without nesting."""
        owners: dict[int, list[int]] = {}
        for mask, at in zip(masks, of, strict=True):
            owners.setdefault(mask, []).append(at)
        blocks: list[_Block] = []
        tops: list[_Block] = []
        for mask in sorted(owners, key=int.bit_count):
            parts = [block for block in tops if block.mask & mask]
            if any(block.mask & ~mask for block in parts):
                return []
            tops = [block for block in tops if not block.mask & mask]
            tops.append(_Block(mask, owners[mask], parts))
            blocks.append(tops[-1])
        return [*blocks, _Block(-1, [], tops)]

    @staticmethod
    def _comparable(blocks: list[_Block]) -> bool:
        """Whether of two equal-sized blocks one can always hold what the other holds.

        Then, and without engines in the way, packing largest first into the least useful block
        never goes wrong: whatever a solution keeps in the less useful block can move to the other.
        """
        held: dict[int, set[tuple[int, int]]] = {}
        by_size: dict[int, list[set[tuple[int, int]]]] = {}
        for mask, profiles, parts in blocks[:-1]:
            start = (mask & -mask).bit_length()
            held[mask] = {(0, at) for at in profiles}
            for part in parts:
                shift = (part.mask & -part.mask).bit_length() - start
                held[mask].update((there + shift, at) for there, at in held[part.mask])
            by_size.setdefault(mask.bit_count(), []).append(held[mask])
        for like in by_size.values():
            like.sort(key=len)
            if any(not less <= more for less, more in pairwise(like)):
                return False
        return True

    def _implied(self, limit: Limit, blocks: list[_Block], by_profile: list[int]) -> bool:
        """Whether the rules about pairs and memory already keep this limit.

        On nested placements the largest sum is found from the smallest block up. Profiles that
        exclude each other anyway (`+me`) are counted once, not once per block; a profile that
        goes with no other user of this engine stands alone.
        """
        most, need = limit
        users = [at for at, n in enumerate(need) if n]
        least = min((need[at] for at in users), default=0)
        users = [at for at in users if need[at] + least <= most]
        if not users:
            return True
        if not blocks:
            return False
        once: list[int] = []
        for a in users:
            if all(self.apart[a] & by_profile[b] for b in (*once, a)):
                once.append(a)
        # Per block: the largest sum without any of `once`, and what one of them can add to it.
        many: dict[int, int] = {}
        gain: dict[int, int] = {}
        for mask, profiles, parts in blocks:
            inside = sum(many[part.mask] for part in parts)
            best = inside + max((gain[part.mask] for part in parts), default=0)
            for at in profiles:
                if at in users:
                    best = max(best, need[at])
                    if at not in once:
                        inside = max(inside, need[at])
            many[mask] = inside
            gain[mask] = best - inside
        return many[-1] + gain[-1] <= most

    def kind(self, name: str) -> object:
        """Equal for two profiles of which each fits, and leaves room, exactly as the other does."""
        for at, profile in enumerate(self.geometry.profiles):
            if profile.name == name:
                return profile.placements, self.apart[at], self._needs[at][0]
        return None

    def put(self, state: int, option: int) -> int:
        """The state once the option is created; the option must be open in `state`."""
        state &= self.keep[option]
        if not self._counters:
            return state
        return self._settle(state + self._needs_of(option))

    def _needs_of(self, option: int) -> int:
        bit = 1 << (self.first + option)
        return next(need for need, bits in self._needs if bits & bit)

    def _settle(self, state: int) -> int:
        for need, bits in self._needs:
            if state & bits and (state + need) & self._guard:
                state &= ~bits
        return state

    def state(self, taken: Iterable[Taken], blocked: int = 0) -> int:
        """The state of a GPU with these instances on it and these memory slices forbidden."""
        state = self.empty & ~self._overlap(blocked)
        for one in taken:
            state &= ~self._overlap(one.placement.mask)
            at = self._by_id.get(one.profile_id)
            if at is not None:
                state &= ~self.apart[at]
                if self._counters:
                    state = self._settle(state + self._needs[at][0])
        return state

    def open(self, state: int) -> Iterator[int]:
        """The options still open, in the driver's order of profiles, by start."""
        left = (state & self.all) >> self.first
        while left:
            low = left & -left
            yield low.bit_length() - 1
            left ^= low

    def worth(self, state: int) -> int:
        """How much can still be done: open options, weighted."""
        return sum((state & bits).bit_count() * weight for bits, weight in self.weights)

    def loose(self, state: int) -> int:
        """The state if memory alone decided: an upper bound of what fits."""
        found = self._loose.get(free := state & ((1 << self.first) - 1))
        if found is None:
            found = self.empty & ~self._overlap(free ^ ((1 << self.first) - 1))
            self._loose[free] = found
        return found


_TABLES: dict[Geometry, Tables] = {}


def tables(geometry: Geometry) -> Tables:
    """The tables of a geometry, compiled once in a process."""
    found = _TABLES.get(geometry)
    if found is None:
        found = _TABLES[geometry] = Tables(geometry)
    return found


def options(space: GpuSpace) -> tuple[tuple[GiProfile, Placement], ...]:
    """What can still be created on the GPU, each by itself."""
    table = tables(space.geometry)
    state = table.state(space.taken, space.blocked)
    return tuple(table.options[i] for i in table.open(state))
