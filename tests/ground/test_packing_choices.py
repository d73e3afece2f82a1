"""Choices where the first place looked at is not the one: found by a search among random nodes.

Each was the smallest node on which the packer goes that way; brute force says that it is right.
"""

import pytest
from bruteforce import geometry, plain

from slurm_mig.cover import deal
from slurm_mig.occupancy import tables
from slurm_mig.packing import GpuSpace, Slot, Taken, choose, nearest, unkept

SMALL, LARGE, HOPPER = "A100-SXM4-40GB", "A100-SXM4-80GB", "H100-SXM5-80GB"

#: Why: GPUs with (profile, start) of what is taken, wants, promises, and (GPU, start) of each.
CASES = {
    "the least useful place would cost a promise": (
        [(SMALL, [])],
        ["1g.5gb"],
        {"1g.5gb+me": 1, "4g.20gb": 1, "1g.10gb": 1},
        [(0, 4)],
    ),
    "too many places of which greed cannot tell": (
        [(SMALL, []), (LARGE, [])],
        ["2g.10gb", "1g.10gb", "1g.5gb"],
        {"1g.5gb+me": 1, "3g.20gb": 1},
        [(0, 0), (1, 0), (0, 3)],
    ),
    "no place of which greed can tell": (
        [
            (HOPPER, [("1g.20gb", 0)]),
            (HOPPER, [("1g.10gb", 5), ("3g.40gb", 0), ("1g.10gb+me", 4), ("1g.20gb", 6)]),
            (HOPPER, [("1g.10gb", 3)]),
        ],
        ["2g.20gb", "3g.40gb"],
        {"1g.10gb+me": 2, "1g.20gb": 2},
        [(2, 0), (0, 4)],
    ),
    "two of one profile, on the GPU that was dealt both": (
        [(SMALL, [("1g.5gb+me", 2)]), (LARGE, [])],
        ["1g.10gb", "1g.10gb"],
        {"3g.40gb": 1, "1g.10gb": 1, "1g.5gb+me": 1},
        [(0, 0), (0, 6)],
    ),
    "promises are lost anyway, and the best place would lose one more": (
        [(SMALL, [("1g.5gb+me", 2)]), (LARGE, [("7g.80gb", 0)])],
        ["1g.10gb"],
        {"2g.10gb": 1, "1g.5gb": 3, "4g.20gb": 1},
        [(0, 6)],
    ),
    "a profile's best place is on the GPU that must hold another": (
        [(SMALL, [("1g.10gb", 6), ("3g.20gb", 0)]), (LARGE, [])],
        ["1g.20gb", "1g.10gb", "1g.10gb+me"],
        {"4g.20gb": 1},
        [(1, 6), (0, 4), (1, 4)],
    ),
}


def space(number, key, taken):
    """A GPU with these instances on it."""
    mig = plain(key)
    ids = {p.name: p for p, _ in mig.every}
    here = [
        Taken(ids[name].id, place)
        for name, start in taken
        for place in ids[name].placements
        if place.start == start
    ]
    return GpuSpace(f"GPU-{number}", geometry(key), tuple(here))


def most_kept(gpus, promises):
    """How many of the promises can be kept, by brute force; `gpus` as (key, instances on it)."""
    reached = {tuple(0 for _ in promises)}
    for key, taken in gpus:
        mig = plain(key)
        number = {(p.name, place.start): i for i, (p, place) in enumerate(mig.every)}
        occupancy = tuple(sorted(number[one] for one in taken))
        assert mig.legal(occupancy)
        vectors = [mig.counts(vector) for vector in mig.packable[occupancy]]
        reached = {
            tuple(
                min(n, had + vector.get(name, 0))
                for had, (name, n) in zip(before, promises.items(), strict=True)
            )
            for before in reached
            for vector in vectors
        }
    return max(map(sum, reached))


@pytest.mark.parametrize("why", CASES)
def test_another_place_than_the_first(why):
    """The place that is taken costs no promise that could be kept, and is where it was expected."""
    gpus, wants, promises, expected = CASES[why]
    slots = choose([space(k, *gpu) for k, gpu in enumerate(gpus)], wants, promises)
    assert all(isinstance(slot, Slot) for slot in slots)
    assert [slot.profile.name for slot in slots] == wants
    assert [(int(slot.gpu[4:]), slot.placement.start) for slot in slots] == expected
    after = [
        (key, [*taken, *(
            (slot.profile.name, slot.placement.start) for slot in slots if slot.gpu == f"GPU-{k}"
        )])
        for k, (key, taken) in enumerate(gpus)
    ]  # fmt: skip
    # As many as if the job's instances were promises too: its own places are not to be beaten.
    both = dict(promises)
    for name in wants:
        both[name] = both.get(name, 0) + 1
    assert most_kept(after, promises) == most_kept(gpus, both) - len(wants)


def test_a_deal_that_comes_to_the_same_point_twice():
    """A search that meets a rest again, of which it knows that it fails, still leaves out least."""
    taken = [
        [("1g.6gb+me", 2)],
        [("1g.6gb+me", 2)],
        [("1g.6gb", 1)],
        [("1g.6gb", 2), ("2g.12gb+me", 0), ("1g.6gb", 3)],
        [("4g.24gb", 0)],
    ]
    promises = {"1g.6gb": 8, "1g.6gb+me": 1, "2g.12gb": 1}
    spaces = [space(k, "A30-24GB", one) for k, one in enumerate(taken)]
    gpus = [(tables(s.geometry), tables(s.geometry).state(s.taken)) for s in spaces]
    dealt = deal(gpus, promises, promises, 0, 10)
    assert dealt is not None
    kept = most_kept([("A30-24GB", one) for one in taken], promises)
    assert sum(dealt.left.values()) == sum(promises.values()) - kept == 1
    held = {name: sum(one.get(name, 0) for one in dealt.held) for name in promises}
    assert {name: n + dealt.left.get(name, 0) for name, n in held.items()} == promises


def test_a_deal_leaves_nothing_out_unless_told_to():
    """By default all must be held; only with a budget something may be left out."""
    here = space(0, "A30-24GB", [("4g.24gb", 0)])
    gpus = [(tables(here.geometry), tables(here.geometry).state(here.taken))]
    assert deal(gpus, {"1g.6gb": 1}, {"1g.6gb": 1}) is None
    assert deal(gpus, {"1g.6gb": 1}, {"1g.6gb": 1}, 0, 1) == ([{}], {"1g.6gb": 1})


@pytest.mark.parametrize(
    ("name", "there", "end"),
    [
        ("2g.10gb", ["2g.12gb"], "; did you mean 2g.12gb? there is 2g.12gb"),
        ("?", ["1g.6gb", "2g.12gb"], "; there are 1g.6gb, 2g.12gb"),
        ("1g.6gb", [], "; there are none"),
    ],
)
def test_what_there_is_instead(name, there, end):
    """An unknown name is answered with the nearest, if one is near, and with all there are."""
    assert nearest(name, dict.fromkeys(there)) == end


def test_unkept_where_counting_and_greed_both_give_no_answer():
    """What cannot be kept is as little as can be, also where only the exact search finds it."""
    key = "RTX-PRO-6000-BLACKWELL-96GB"
    promises = {"2g.48gb+gfx": 1, "2g.48gb+me.all": 1, "4g.96gb": 1}
    lost = unkept([space(0, key, [])], promises)
    assert sum(lost.values()) == sum(promises.values()) - most_kept([(key, [])], promises) == 2
    assert all(n <= promises[name] for name, n in lost.items())
