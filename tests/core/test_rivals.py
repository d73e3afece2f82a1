"""Which rows contradict each other, and a driver that says it removed what it still shows."""

from dataclasses import replace

import pytest

from slurm_mig.books import _overlap
from slurm_mig.errors import TeardownError
from slurm_mig.ledger import Entry, Wish
from slurm_mig.nvml import Driver
from slurm_mig.profiles import Placement

ROW = Entry(1, 7, 0, Wish("GPU-a", "2g.10gb", 14, Placement(2, 2)), "live", 3, (0,), (), "b/1", "")


def at(start, size, gpu="GPU-a", boot="b/1"):
    """Another row."""
    return replace(ROW, wish=Wish(gpu, "?", 0, Placement(start, size)), boot=boot)


@pytest.mark.parametrize("place", [(2, 2), (0, 8), (0, 3), (3, 1), (3, 4), (2, 1)])
def test_rivals(place):
    """Two rows that share a memory slice of a GPU in one life of the driver cannot both be true."""
    assert _overlap(ROW, at(*place))
    assert _overlap(at(*place), ROW)


@pytest.mark.parametrize(
    "other",
    [at(0, 2), at(4, 4), at(4, 1), at(1, 1), at(2, 2, gpu="GPU-b"), at(2, 2, boot="c/1")],
    ids=str,
)
def test_neighbours(other):
    """Rows side by side, on another GPU, or of another boot are both true."""
    assert not _overlap(ROW, other)
    assert not _overlap(other, ROW)


def test_gone_but_still_shown(site, monkeypatch):
    """A removal without an error that removes nothing is no removal: tried again, then said."""
    site.acquire(7, "3g.20gb")
    monkeypatch.setattr(Driver, "destroy_gi", lambda *_: None)
    with pytest.raises(TeardownError) as caught:
        site.release(7)
    assert "the driver says that it was removed, and still shows it after 0.2 s" in str(
        caught.value
    )
    assert site.ledger() == [(7, "3g.20gb", "quarantined")]
    monkeypatch.undo()
    assert list(site.reconcile(set())) == ["mended"]
    assert (site.lives(), site.ledger()) == ([], [])
