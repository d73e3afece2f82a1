"""Several GPUs: the packer against brute force, and the claim that a start never fails."""

from functools import reduce
from itertools import combinations_with_replacement

import pytest
from bruteforce import Plain, plain, shapes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from slurm_mig.cover import deal
from slurm_mig.errors import NoRoom
from slurm_mig.layouts import NAMED, layout
from slurm_mig.occupancy import tables
from slurm_mig.packing import GpuSpace, Taken, choose, keepable, options, unkept
from slurm_mig.profiles import Geometry, GiProfile, Placement

KEYS = ("A100-SXM4-40GB", "A30-24GB", "RTX-PRO-6000-BLACKWELL-96GB")
#: 1g.10gb is one memory slice on the 80 GB model and two on the 40 GB model.
MIXED = ("A100-SXM4-40GB", "A100-SXM4-80GB", "A30-24GB")


def space(mig, occupancy, uuid="GPU-0"):
    """The GPU with these instances on it, as the packer is told of it."""
    taken = tuple(Taken(mig.every[i][0].id, mig.every[i][1]) for i in occupancy)
    return GpuSpace(uuid, mig.geometry, taken)


def futures(mig):
    """For each different set of what can be added: an occupancy that leaves it."""
    return {vectors: occupancy for occupancy, vectors in mig.packable.items()}


def plus(a, b):
    """Counts added."""
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}


def kept_at_most(migs, occupancies, promises):
    """By brute force: how many of the promises can be kept, one vector per GPU tried after all."""
    reached = [dict.fromkeys(promises, 0)]
    for mig, occupancy in zip(migs, occupancies, strict=True):
        sums = {}
        for before in reached:
            for vector in mig.largest(mig.packable[occupancy]):
                more = plus(before, mig.counts(vector))
                clipped = {name: min(more[name], promises[name]) for name in promises}
                sums[tuple(clipped.values())] = clipped
        reached = list(sums.values())
    return max(sum(counts.values()) for counts in reached)


@pytest.mark.parametrize("key", KEYS)
def test_two_gpus_keep_whatever_two_gpus_can(key):
    """For every pair of futures, every sum of what each can hold is keepable by both together."""
    mig = plain(key)
    for a, b in combinations_with_replacement(futures(mig).items(), 2):
        spaces = [space(mig, a[1], "GPU-a"), space(mig, b[1], "GPU-b")]
        for vector in {x + y for x in mig.largest(a[0]) for y in mig.largest(b[0])}:
            counts = mig.counts(vector)
            assert keepable(spaces, counts), (a[1], b[1], counts)
            assert unkept(spaces, counts) == {}, (a[1], b[1], counts)


@pytest.mark.parametrize("key", KEYS)
def test_two_gpus_keep_nothing_more(key):
    """For every pair of futures, one instance beyond what both can hold is refused."""
    mig = plain(key)
    pairs = list(combinations_with_replacement(futures(mig).items(), 2))
    for a, b in pairs[:: max(1, len(pairs) // 150)]:
        spaces = [space(mig, a[1], "GPU-a"), space(mig, b[1], "GPU-b")]
        full = {x + y for x in mig.largest(a[0]) for y in mig.largest(b[0])}
        can = {x + y for x in a[0] for y in b[0]}
        edge = {vector + digit for vector in full for digit in mig.digit.values()} - can
        for vector in edge:
            assert not keepable(spaces, mig.counts(vector)), (a[1], b[1], mig.counts(vector))


@st.composite
def nodes(draw, keys=KEYS, mixed=False):
    """(brute force per GPU, occupancy per GPU, promises about as many as the node can keep)."""
    one = draw(st.sampled_from(keys))
    count = draw(st.integers(1, 3))
    migs = [plain(draw(st.sampled_from(MIXED)) if mixed else one) for _ in range(count)]
    occupancies = [draw(st.sampled_from(list(futures(mig).values()))) for mig in migs]
    promises = {}
    for mig, occupancy in zip(migs, occupancies, strict=True):
        vector = draw(st.sampled_from(sorted(mig.packable[occupancy])))
        promises = plus(promises, mig.counts(vector))
    names = sorted({name for mig in migs for name in mig.digit})
    for name in draw(st.lists(st.sampled_from(names), max_size=2)):
        promises = plus(promises, {name: 1})
    return migs, occupancies, promises


def spaces_of(migs, occupancies):
    """The node as the packer is told of it."""
    return [
        space(mig, occupancy, f"GPU-{k}")
        for k, (mig, occupancy) in enumerate(zip(migs, occupancies, strict=True))
    ]


few = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@few
@given(nodes() | nodes(mixed=True))
def test_keepable_is_what_brute_force_finds(node):
    """On one to three GPUs, also of mixed models: keepable if and only if a packing exists."""
    migs, occupancies, promises = node
    expected = sum(promises.values()) - kept_at_most(migs, occupancies, promises)
    spaces = spaces_of(migs, occupancies)
    assert keepable(spaces, promises) == (expected == 0)
    left = unkept(spaces, promises)
    assert sum(left.values()) == expected
    assert keepable(spaces, {name: n - left.get(name, 0) for name, n in promises.items()})


@few
@given(nodes() | nodes(mixed=True))
def test_the_exact_search_alone_is_exact(node):
    """The search behind the greedy packer gives the same answer without it."""
    migs, occupancies, promises = node
    gpus = [
        (tables(s.geometry), tables(s.geometry).state(s.taken))
        for s in spaces_of(migs, occupancies)
    ]
    expected = sum(promises.values()) - kept_at_most(migs, occupancies, promises)
    held, left = deal(gpus, promises, promises, 0, sum(promises.values()))
    assert sum(left.values()) == expected
    assert reduce(plus, held, left) == {name: n for name, n in promises.items() if n}
    for mig, occupancy, counts in zip(migs, occupancies, held, strict=True):
        assert mig.vector(counts) in mig.packable[occupancy]
    assert (deal(gpus, promises, {}) is None) == (expected > 0)


def placed(migs, occupancies, slots):
    """The occupancies with the slots taken; None if that is not legal."""
    after = list(occupancies)
    for slot in slots:
        k = int(slot.gpu.removeprefix("GPU-"))
        i = migs[k].every.index((slot.profile, slot.placement))
        after[k] = tuple(sorted((*after[k], i)))
        if after[k] not in migs[k].packable:
            return None
    return after


def ways(migs, occupancies, wants):
    """By brute force: all occupancies that serving the wants can lead to."""
    reached = {tuple(occupancies)}
    for name in wants:
        reached = {
            (*before[:k], after, *before[k + 1 :])
            for before in reached
            for k, mig in enumerate(migs)
            for i, after in mig.after(before[k])
            if mig.every[i][0].name == name
        }
    return reached


@few
@given(nodes() | nodes(mixed=True), st.data())
def test_choose_serves_if_and_only_if_no_promise_more_is_lost(node, data):
    """One or two instances are placed exactly when brute force finds a way that costs nobody.

    That is: of the remaining promises no more are lost than of them and the job's own now.
    """
    migs, occupancies, promises = node
    names = sorted({name for mig in migs for name in mig.digit})
    wants = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2))
    keep = data.draw(st.sampled_from([promises, {n: c - 1 for n, c in promises.items()}, {}]))
    keep = {name: n for name, n in keep.items() if n > 0}
    owed = {name: wants.count(name) for name in data.draw(st.sampled_from([wants, []]))}
    due = plus(keep, owed)
    lost = sum(due.values()) - kept_at_most(migs, occupancies, due)
    least = sum(keep.values()) - lost
    can = any(kept_at_most(migs, after, keep) >= least for after in ways(migs, occupancies, wants))
    if not can:
        with pytest.raises(NoRoom):
            choose(spaces_of(migs, occupancies), wants, keep, owed)
        return
    slots = choose(spaces_of(migs, occupancies), wants, keep, owed)
    assert [slot.profile.name for slot in slots] == wants
    after = placed(migs, occupancies, slots)
    assert after is not None
    assert kept_at_most(migs, after, keep) >= least


class Arrivals(RuleBasedStateMachine):
    """A node of eight GPUs with a named layout on each; jobs come and go in any order."""

    def __init__(self):
        super().__init__()
        self.jobs = []

    @initialize(
        key=st.sampled_from(sorted(shapes())),
        names=st.lists(st.sampled_from(sorted(NAMED)), min_size=1, max_size=8),
    )
    def start(self, key, names):
        """An empty node; each GPU keeps the promises of one layout."""
        self.mig = plain(key)
        self.spaces = [GpuSpace(f"GPU-{k}", self.mig.geometry) for k in range(len(names))]
        self.free = reduce(plus, (layout(self.mig.geometry, name) for name in names))
        assert keepable(self.spaces, self.free)

    @precondition(lambda self: any(self.free.values()))
    @rule(data=st.data())
    def arrive(self, data):
        """A job that Slurm let through, for one or two promised instances, always starts."""
        wants = []
        for _ in range(data.draw(st.integers(1, min(2, sum(self.free.values()))))):
            name = data.draw(st.sampled_from(sorted(n for n, c in self.free.items() if c)))
            self.free[name] -= 1
            wants.append(name)
        slots = choose(self.spaces, wants, self.free)
        assert [slot.profile.name for slot in slots] == wants
        self.jobs.append(slots)
        self.spaces = [self.without(s, []) for s in self.spaces]
        for slot in slots:
            k = int(slot.gpu.removeprefix("GPU-"))
            one = Taken(slot.profile.id, slot.placement)
            self.spaces[k] = self.spaces[k]._replace(taken=(*self.spaces[k].taken, one))
            ids = [
                self.mig.every.index((self.mig.geometry.profile_by_id(t.profile_id), t.placement))
                for t in self.spaces[k].taken
            ]
            assert self.mig.legal(ids)
        assert keepable(self.spaces, self.free)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def depart(self, data):
        """A job ends; its instances go, and Slurm may hand their promises out again."""
        job = self.jobs.pop(data.draw(st.integers(0, len(self.jobs) - 1)))
        self.spaces = [self.without(s, [x for x in job if x.gpu == s.uuid]) for s in self.spaces]
        for slot in job:
            self.free[slot.profile.name] += 1
        assert keepable(self.spaces, self.free)

    @staticmethod
    def without(here, slots):
        """The GPU without these instances."""
        taken = list(here.taken)
        for slot in slots:
            taken.remove(Taken(slot.profile.id, slot.placement))
        return here._replace(taken=tuple(taken))


TestArrivals = Arrivals.TestCase
TestArrivals.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("name", sorted(NAMED))
@pytest.mark.parametrize("key", KEYS)
def test_a_stranger_s_instance_costs_what_it_takes_and_no_more(key, name):
    """On a node that lost space, jobs start as long as there is space, and only then fail."""
    mig = plain(key)
    small = min(mig.geometry.profiles, key=lambda p: p.size)
    stranger = (Taken(small.id, small.placements[0]),)
    spaces = [GpuSpace("GPU-0", mig.geometry, stranger), GpuSpace("GPU-1", mig.geometry)]
    due = {n: 2 * count for n, count in layout(mig.geometry, name).items()}
    lost = sum(unkept(spaces, due).values())
    assert lost > 0
    refused = 0
    for want in [n for n, count in due.items() for _ in range(count)]:
        due[want] -= 1
        try:
            (slot,) = choose(spaces, [want], due, {want: 1})
        except NoRoom:
            refused += 1
            continue
        k = int(slot.gpu.removeprefix("GPU-"))
        one = Taken(slot.profile.id, slot.placement)
        spaces[k] = spaces[k]._replace(taken=(*spaces[k].taken, one))
    assert refused == lost


def odd(slices, *rows):
    """A GPU that nobody makes, of (name, compute slices, decoders, most, places)."""
    profiles = []
    for k, (name, compute, decoders, most, places) in enumerate(rows):
        where = tuple(Placement.parse(place) for place in places.split())
        engines = (0, decoders, 0, 0, 0)
        profiles.append(GiProfile(name, k, k, compute, 0, most, 0, *engines, where))
    return Geometry("Odd", slices, tuple(profiles))


ODD = {
    "places that overlap without nesting": odd(
        6,
        ("1g.1gb", 1, 1, 3, "0:1 1:1 2:1 3:1 4:1 5:1"),
        ("2g.2gb", 2, 0, 3, "0:2 1:2 2:2 3:2 4:2"),
        ("3g.3gb", 3, 2, 1, "0:3 2:3"),
    ),
    "places of which the first listed is the worst": odd(
        6,
        ("2g.2gb", 2, 0, 3, "1:2 0:2 2:2 4:2"),
        ("6g.6gb", 6, 0, 1, "0:6"),
    ),
    "an engine that three can exhaust though no two do": odd(
        4,
        ("1g.1gb", 1, 1, 4, "0:1 1:1 2:1 3:1"),
        ("1g.1gb-me", 1, 0, 4, "0:1 1:1 2:1 3:1"),
        ("2g.2gb", 2, 3, 1, "0:2 2:2"),
    ),
    "halves of which neither can hold all that the other can": odd(
        8,
        ("1g.1gb", 1, 0, 4, "4:1 5:1 6:1 7:1"),
        ("2g.2gb", 2, 0, 2, "0:2 2:2"),
        ("4g.4gb", 4, 0, 2, "0:4 4:4"),
        ("8g.8gb", 8, 0, 1, "0:8"),
    ),
    "compute slices that run out before memory does": odd(
        8,
        ("1g.1gb", 1, 0, 4, "4:1 5:1 6:1 7:1"),
        ("2g.2gb", 2, 0, 2, "0:2 2:2"),
        ("4g.4gb", 4, 0, 2, "0:4 4:4"),
    ),
    "fewer of a profile than there are places": odd(
        4,
        ("1g.1gb", 1, 0, 3, "0:1 1:1 2:1 3:1"),
        ("2g.2gb", 1, 0, 2, "0:2 2:2"),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_a_geometry_nobody_has_seen_is_packed_by_what_it_reports(name):
    """Whatever a driver reports of places and engines, the answers are brute force's."""
    mig = Plain(ODD[name])
    table = tables(mig.geometry)
    for occupancy in mig.occupancies:
        here = space(mig, occupancy)
        assert list(options(here)) == [mig.every[i] for i, _ in mig.after(occupancy)]
    for vectors, occupancy in futures(mig).items():
        here = space(mig, occupancy)
        gpus = [(table, table.state(here.taken))]
        for vector in mig.largest(vectors):
            assert keepable([here], mig.counts(vector))
            assert deal(gpus, mig.counts(vector), {}) is not None
            for want in mig.counts(vector):
                left = mig.counts(vector - mig.digit[want])
                (after,) = placed([mig], [occupancy], choose([here], [want], left))
                assert vector - mig.digit[want] in mig.packable[after]
        for vector in mig.beyond(vectors):
            assert not keepable([here], mig.counts(vector))
            assert deal(gpus, mig.counts(vector), {}) is None


def test_the_last_place_for_a_scarce_profile_is_not_given_away():
    """A fragment that alone can hold the promised `+me` is kept for it, though memory abounds."""
    mig = plain("A100-SXM4-40GB")
    fragment = GpuSpace(
        "GPU-0", mig.geometry, (Taken(5, Placement(0, 4)), Taken(14, Placement(4, 2)))
    )
    other = GpuSpace("GPU-1", mig.geometry, (Taken(20, Placement(6, 1)),))
    (slot,) = choose([fragment, other], ["1g.5gb"], {})
    assert slot.gpu == "GPU-0"
    (slot,) = choose([fragment, other], ["1g.5gb"], {"1g.5gb+me": 1})
    assert slot.gpu == "GPU-1"
