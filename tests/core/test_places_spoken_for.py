"""Places that another Prolog wrote down, or that a stranger took, are taken with all they need."""

import pytest
from partitioning import CREATE

from slurm_mig.errors import NoRoom
from slurm_mig.ledger import Ledger, Wish
from slurm_mig.profiles import Placement


def intend(site, profile, start, *, gpu=0):
    """What another job's Prolog wrote before it asked the driver."""
    boot = site.acquire(98, "1g.5gb")[0].boot
    site.release(98)
    there = site.sim.gpus()[gpu].uuid
    known = next(p for p in site.sim.models[gpu].profiles if p.name == profile)
    with Ledger(site.node.folder / "state") as ledger:
        ledger.intend(99, 0, [Wish(there, profile, known.id, Placement(start, known.size))], boot)


def asked(site):
    """How often the driver was asked for an instance."""
    return site.sim.calls().get(CREATE, 0)


@pytest.mark.parametrize("wants", ["7g.40gb", "1g.5gb+me", "3g.20gb:2"])
def test_intents_of_others_are_taken(site, wants):
    """An intent keeps its slices and its engines, though nothing lives there yet: a clean miss."""
    intend(site, "1g.5gb+me", 6)
    before = asked(site)
    with pytest.raises(NoRoom, match=r"^no room for "):
        site.acquire(7, wants)
    assert asked(site) == before


def test_what_is_left_beside_an_intent(site):
    """What fits beside the intent of another is made beside it."""
    intend(site, "1g.5gb+me", 6)
    (entry,) = site.acquire(7, "3g.20gb")
    assert str(entry.wish.placement) == "0:4"


def test_intents_on_another_gpu(make):
    """An intent takes space on its own GPU, and on no other."""
    site = make("A100-SXM4-40GB:2")
    intend(site, "1g.5gb", 0, gpu=1)
    (entry,) = site.acquire(7, "7g.40gb")
    assert entry.wish.gpu == site.sim.gpus()[0].uuid
    with pytest.raises(NoRoom, match=r"^no room for "):
        site.acquire(8, "7g.40gb")


def test_engines_of_a_stranger(site):
    """What a stranger made has its engines: nobody asks the driver in vain for the same ones."""
    site.foreigner("1g.5gb+me", 0)
    before = asked(site)
    with pytest.raises(NoRoom, match=r"^no room for 1g\.5gb\+me; free now: "):
        site.acquire(7, "1g.5gb+me")
    assert asked(site) == before


def test_a_job_that_is_served_starts_over(site):
    """Misses count in a row: a start that is served ends the row of this job, and of no other."""
    with Ledger(site.node.folder / "state") as ledger:
        assert [ledger.missed(7), ledger.missed(7), ledger.missed(8)] == [1, 2, 1]
        site.acquire(7, "1g.5gb")
        assert (ledger.missed(7), ledger.missed(8)) == (1, 2)
