# ruff: noqa: RUF001 - messages use the multiplication sign
"""One GPU: the packer against brute force, over every occupancy that can be reached."""

import pytest
from bruteforce import entries, geometry, plain, shape, shapes

from slurm_mig.errors import NoRoom, RequestError
from slurm_mig.occupancy import tables
from slurm_mig.packing import (
    GpuSpace,
    Taken,
    choose,
    fits,
    keepable,
    needs,
    options,
    unkept,
)
from slurm_mig.profiles import Placement

every_shape = pytest.mark.parametrize("key", sorted(shapes()))


def space(mig, occupancy=(), blocked=0, uuid="GPU-0"):
    """The GPU with these instances on it, as the packer is told of it."""
    taken = tuple(Taken(mig.every[i][0].id, mig.every[i][1]) for i in occupancy)
    return GpuSpace(uuid, mig.geometry, taken, blocked)


def index(mig, slot):
    """The brute force's index of a slot."""
    return mig.every.index((slot.profile, slot.placement))


def one_of_each_future(mig):
    """An occupancy for each different set of what can still be added, and that set."""
    return {vectors: occupancy for occupancy, vectors in mig.packable.items()}.items()


def test_every_gpu_of_the_table_has_one_of_the_shapes_tested():
    """All 20 GPUs are covered: each has the shape of one that the other tests go through."""
    assert len(entries()) == 20
    known = {shape(found) for found in shapes().values()}
    assert {shape(entry.geometry) for entry in entries()} == known


@every_shape
def test_options_are_what_brute_force_finds(key):
    """In every reachable occupancy, what still fits is exactly what breaks no rule."""
    mig = plain(key)
    for occupancy in mig.occupancies:
        expected = [mig.every[i] for i, _ in mig.after(occupancy)]
        assert list(options(space(mig, occupancy))) == expected, occupancy


@every_shape
def test_what_fits_together_is_what_brute_force_finds(key):
    """Every largest set that can be added is found, legal; one instance more never is."""
    mig = plain(key)
    for vectors, occupancy in one_of_each_future(mig):
        here = space(mig, occupancy)
        for vector in mig.largest(vectors):
            counts = mig.counts(vector)
            slots = fits(here, counts)
            placed = [index(mig, slot) for slot in slots]
            assert mig.legal((*occupancy, *placed))
            assert mig.vector(counts) == sum(mig.digit[mig.every[i][0].name] for i in placed)
            assert keepable([here], counts)
            assert unkept([here], counts) == {}
        for vector in mig.beyond(vectors):
            counts = mig.counts(vector)
            assert fits(here, counts) is None
            assert not keepable([here], counts)
            # One less of anything can be kept, so exactly one goes unkept.
            assert sum(unkept([here], counts).values()) == 1


@every_shape
def test_equal_futures_are_told_by_options_alone(key):
    """Two occupancies that leave different sets possible never look the same to the packer."""
    mig = plain(key)
    table = tables(mig.geometry)
    seen = {}
    for occupancy, vectors in mig.packable.items():
        state = table.state(space(mig, occupancy).taken) & table.all
        assert seen.setdefault(state, vectors) == vectors


@every_shape
def test_choose_serves_whatever_can_be_served_and_breaks_no_promise(key):
    """From every future and every full set of promises, any one of them can be cashed in."""
    mig = plain(key)
    for vectors, occupancy in one_of_each_future(mig):
        here = space(mig, occupancy)
        for vector in mig.largest(vectors):
            for name, count in mig.counts(vector).items():
                left = mig.counts(vector - mig.digit[name])
                (slot,) = choose([here], [name], left)
                after = tuple(sorted((*occupancy, index(mig, slot))))
                assert slot.profile.name == name
                assert vector - mig.digit[name] in mig.packable[after]
                assert count <= 8


@every_shape
def test_choose_refuses_what_would_break_a_promise(key):
    """A job beyond what the promises leave is refused; without the promises it may be served."""
    mig = plain(key)
    for vectors, occupancy in one_of_each_future(mig):
        here = space(mig, occupancy)
        for vector in mig.beyond(vectors):
            for name in mig.counts(vector):
                promises = mig.counts(vector - mig.digit[name])
                with pytest.raises(NoRoom, match="no room for " + name.replace("+", "[+]")):
                    choose([here], [name], promises)


@every_shape
def test_a_start_never_fails(key):
    """From an empty GPU and any full layout, no order of arrivals and departures is refused.

    Exhaustive: every set of instances that the packer itself can bring about is visited.
    """
    mig = plain(key)
    for vector in mig.largest(mig.packable[()]):
        layout = mig.counts(vector)
        seen = {()}
        todo = [()]
        while todo:
            occupancy = todo.pop()
            here = space(mig, occupancy)
            lives = [mig.every[i][0].name for i in occupancy]
            free = {name: n - lives.count(name) for name, n in layout.items()}
            reached = [tuple(i for i in occupancy if i != gone) for gone in occupancy]
            for name in (name for name, n in free.items() if n):
                (slot,) = choose([here], [name], {**free, name: free[name] - 1})
                reached.append(tuple(sorted((*occupancy, index(mig, slot)))))
            for after in reached:
                assert after in mig.packable
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
        assert len(seen) >= 2


A100 = "A100-SXM4-40GB"
RTX = "RTX-PRO-6000-BLACKWELL-96GB"


def at(mig, slots):
    """Where the slots lie."""
    return [str(slot.placement) for slot in slots]


def test_small_instances_gather_and_leave_the_large_places():
    """Without promises seven 1g fill a GPU from its least useful slice on, fragments first."""
    mig = plain(A100)
    taken = ()
    starts = []
    for _ in range(7):
        here = GpuSpace("GPU-0", mig.geometry, taken)
        (slot,) = choose([here], ["1g.5gb"], {})
        starts.append(slot.placement.start)
        taken += (Taken(slot.profile.id, slot.placement),)
    assert starts == [6, 4, 5, 0, 1, 2, 3]


def test_a_used_gpu_is_preferred_to_a_whole_one():
    """A whole GPU stays whole while another has a place."""
    mig = plain(A100)
    whole = space(mig, uuid="GPU-a")
    used = GpuSpace("GPU-b", mig.geometry, (Taken(19, Placement(6, 1)),))
    (slot,) = choose([whole, used], ["3g.20gb"], {})
    assert (slot.gpu, str(slot.placement)) == ("GPU-b", "0:4")


def test_equal_places_go_to_the_first_gpu():
    """Ties are broken by GPU order, then by the lowest start."""
    mig = plain("A30-24GB")
    spaces = [space(mig, uuid="GPU-b"), space(mig, uuid="GPU-a")]
    (slot,) = choose(spaces, ["2g.12gb"], {})
    assert (slot.gpu, str(slot.placement)) == ("GPU-b", "0:2")


def test_a_promise_moves_the_choice():
    """The place that leaves most open is passed over when a promise needs it."""
    mig = plain(A100)
    assert at(mig, choose([space(mig)], ["3g.20gb"], {})) == ["4:4"]
    assert at(mig, choose([space(mig)], ["3g.20gb"], {"1g.10gb": 1, "2g.10gb": 1})) == ["4:4"]
    assert at(mig, choose([space(mig)], ["1g.5gb"], {})) == ["6:1"]
    assert at(mig, choose([space(mig)], ["1g.5gb"], {"3g.20gb": 1, "1g.10gb": 1})) == ["6:1"]
    assert at(mig, choose([space(mig)], ["1g.5gb"], {"2g.10gb": 3})) == ["6:1"]
    promises = {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 1}
    assert at(mig, choose([space(mig)], ["1g.5gb"], promises)) == ["0:1"]


def test_two_instances_come_in_the_order_asked():
    """A job with several instances gets a slot for each, in its own order, none overlapping."""
    mig = plain(A100)
    slots = choose([space(mig)], ["1g.5gb", "3g.20gb", "2g.10gb", "1g.5gb"], {})
    assert [slot.profile.name for slot in slots] == ["1g.5gb", "3g.20gb", "2g.10gb", "1g.5gb"]
    assert mig.legal([index(mig, slot) for slot in slots])


def test_a_job_gets_all_its_instances_or_none():
    """Where only one of two fits, neither is chosen."""
    mig = plain(A100)
    here = GpuSpace("GPU-0", mig.geometry, (Taken(9, Placement(0, 4)),))
    with pytest.raises(NoRoom) as failed:
        choose([here], ["3g.20gb", "3g.20gb"], {})
    assert str(failed.value) == (
        "no room for 3g.20gb ×2; free now: "
        "1g.5gb ×3 or 1g.5gb+me or 1g.10gb ×2 or 2g.10gb or 3g.20gb"
    )


def test_the_refusal_names_the_promise():
    """A refusal for a promise's sake names that promise, and not the others."""
    mig = plain(A100)
    with pytest.raises(NoRoom) as failed:
        choose([space(mig)], ["4g.20gb"], {"2g.10gb": 1, "3g.20gb": 1})
    assert str(failed.value) == (
        "no room for 4g.20gb: what is free is promised to 2g.10gb or 3g.20gb"
    )


def test_a_full_node_says_that_nothing_is_free():
    """A refusal on a full node says so."""
    mig = plain(A100)
    here = GpuSpace("GPU-0", mig.geometry, (Taken(0, Placement(0, 8)),))
    with pytest.raises(NoRoom) as failed:
        choose([here], ["1g.5gb"], {})
    assert str(failed.value) == "no room for 1g.5gb; free now: nothing"


def test_an_unknown_profile_is_the_request_s_fault():
    """A profile that no GPU of the node has is told with the nearest name and all there are."""
    mig = plain("A30-24GB")
    with pytest.raises(RequestError) as failed:
        choose([space(mig)], ["2g.10gb"], {})
    assert str(failed.value) == (
        "no GPU of this node has a profile '2g.10gb'; did you mean 2g.12gb? "
        "there are 1g.6gb, 1g.6gb+me, 2g.12gb, 2g.12gb+me, 4g.24gb"
    )


def test_attributes_are_never_confused():
    """`1g.24gb` and its four variants are five profiles: each gets its own id."""
    mig = plain(RTX)
    ids = {
        name: choose([space(mig)], [name], {})[0].profile.id
        for name in ("1g.24gb", "1g.24gb+me", "1g.24gb+gfx", "1g.24gb+me.all", "1g.24gb-me")
    }
    assert ids == {
        "1g.24gb": 14,
        "1g.24gb+me": 21,
        "1g.24gb+gfx": 47,
        "1g.24gb+me.all": 65,
        "1g.24gb-me": 67,
    }


def test_all_media_engines_on_one_instance_leave_only_profiles_without():
    """Beside `+me.all` only `-me` can be created (nvml.h, NVML_GPU_INSTANCE_PROFILE_*_ALL_ME)."""
    mig = plain(RTX)
    here = GpuSpace("GPU-0", mig.geometry, (Taken(65, Placement(0, 3)),))
    assert {p.name for p, _ in options(here)} == {"1g.24gb-me", "2g.48gb-me"}
    assert keepable([here], {"2g.48gb-me": 1, "1g.24gb-me": 1})
    assert not keepable([here], {"1g.24gb": 1})


def test_media_extensions_exclude_each_other_across_sizes():
    """On an A30 one `+me` instance of either size is all there is."""
    mig = plain("A30-24GB")
    assert keepable([space(mig)], {"2g.12gb+me": 1, "1g.6gb": 2})
    assert not keepable([space(mig)], {"2g.12gb+me": 1, "1g.6gb+me": 1})
    assert keepable([space(mig), space(mig)], {"2g.12gb+me": 1, "1g.6gb+me": 1})


def test_an_instance_of_an_unknown_profile_takes_its_slices():
    """Somebody else's instance of a profile that we do not know still occupies its memory."""
    mig = plain(A100)
    here = GpuSpace("GPU-0", mig.geometry, (Taken(77, Placement(0, 4)),))
    assert at(mig, choose([here], ["3g.20gb"], {})) == ["4:4"]
    assert not keepable([here], {"4g.20gb": 1})


def test_blocked_slices_are_never_used():
    """Quarantined memory slices are offered to nobody, and nothing else is lost."""
    mig = plain(A100)
    here = space(mig, blocked=0b0000_0001)
    assert all(place.start > 0 for _, place in options(here))
    assert fits(here, {"1g.5gb": 6}) is not None
    assert fits(here, {"1g.5gb": 7}) is None


def test_lost_space_does_not_stop_the_promises_that_are_left():
    """Where a quarantine already broke a promise, jobs still start if they break no other."""
    mig = plain(A100)
    here = space(mig, blocked=0b1111_0000)
    promises = {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 1}
    assert unkept([here], {**promises, "1g.5gb": 2}) == {"3g.20gb": 1}
    (slot,) = choose([here], ["1g.5gb"], promises)
    assert unkept([space_with(here, slot)], promises) == {"3g.20gb": 1}
    with pytest.raises(NoRoom):
        choose([here], ["3g.20gb"], {"2g.10gb": 1, "1g.5gb": 2})


def space_with(here, *slots):
    """The GPU once the slots on it are taken."""
    mine = tuple(Taken(s.profile.id, s.placement) for s in slots if s.gpu == here.uuid)
    return here._replace(taken=here.taken + mine)


def test_needs_counts_memory_and_compute_slices():
    """Two 3g and a 1g need nine memory slices and seven compute slices."""
    assert needs(geometry(A100), {"3g.20gb": 2, "1g.5gb": 1}) == (9, 7)
    assert needs(geometry(RTX), {"2g.48gb": 1, "1g.24gb-me": 2}) == (12, 4)
