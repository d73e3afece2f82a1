"""What a GPU promises by default, and what an admin may promise."""

# ruff: noqa: RUF001 - messages use the multiplication sign
import pytest
from bruteforce import entries, geometry, plain, shapes

from slurm_mig.errors import ConfigError
from slurm_mig.layouts import NAMED, layout

A100 = "A100-SXM4-40GB"
RTX = "RTX-PRO-6000-BLACKWELL-96GB"


@pytest.mark.parametrize(
    ("key", "name", "expected"),
    [
        (A100, "whole", {"7g.40gb": 1}),
        (A100, "halves", {"3g.20gb": 2}),
        (A100, "balanced", {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}),
        (A100, "small", {"1g.5gb": 7}),
        ("A30-24GB", "whole", {"4g.24gb": 1}),
        ("A30-24GB", "halves", {"2g.12gb": 2}),
        ("A30-24GB", "balanced", {"2g.12gb": 1, "1g.6gb": 2}),
        ("A30-24GB", "small", {"1g.6gb": 4}),
        (RTX, "whole", {"4g.96gb": 1}),
        (RTX, "halves", {"2g.48gb": 2}),
        (RTX, "balanced", {"2g.48gb": 1, "1g.24gb": 2}),
        (RTX, "small", {"1g.24gb": 4}),
        ("B200-180GB", "balanced", {"3g.90gb": 1, "2g.45gb": 1, "1g.23gb": 2}),
    ],
)
def test_named_layouts(key, name, expected):
    """The named layouts are the familiar ones of each family."""
    assert layout(geometry(key), name) == expected


@pytest.mark.parametrize("name", sorted(NAMED))
def test_named_layouts_can_be_kept_on_every_gpu(name):
    """On each of the 20 GPUs a named layout is plain profiles, all of which fit at once."""
    for entry in entries():
        counts = layout(entry.geometry, name)
        assert sum(counts.values()) > 0
        assert not any("+" in profile or "-" in profile for profile in counts)
        assert layout(entry.geometry, counts) == counts


@pytest.mark.parametrize("key", sorted(shapes()))
def test_an_admin_s_layout_is_taken_if_and_only_if_it_can_be_kept(key):
    """All largest layouts are accepted; one instance more is an error."""
    mig = plain(key)
    vectors = mig.packable[()]
    for vector in mig.largest(vectors):
        counts = mig.counts(vector)
        assert layout(mig.geometry, counts) == counts
    for vector in mig.beyond(vectors):
        with pytest.raises(ConfigError, match=r" needs \d+ of | cannot be: "):
            layout(mig.geometry, mig.counts(vector))


@pytest.mark.parametrize(
    ("key", "spec", "message"),
    [
        (
            A100,
            {"3g.20gb": 2, "1g.5gb": 1},
            "A100-SXM4-40GB: 3g.20gb ×2 + 1g.5gb needs 9 of 8 memory slices",
        ),
        (
            A100,
            {"4g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2},
            "A100-SXM4-40GB: 4g.20gb + 2g.10gb + 1g.5gb ×2 needs 8 of 7 compute slices",
        ),
        (
            A100,
            {"1g.5gb": 1_000_000},
            "A100-SXM4-40GB: 1g.5gb ×1000000 needs 1000000 of 8 memory slices",
        ),
        (
            A100,
            {"1g.5gb+me": 2},
            "A100-SXM4-40GB: 1g.5gb+me ×2 cannot be: at most 1 of 1g.5gb+me fits on a GPU",
        ),
        (
            "A30-24GB",
            {"1g.6gb+me": 1, "2g.12gb+me": 1},
            (
                "A30: 1g.6gb+me + 2g.12gb+me cannot be: there are slices enough, "
                "but their places or engines exclude each other"
            ),
        ),
        (
            "A30-24GB",
            {"2g.10gb": 1},
            (
                "A30 has no profile '2g.10gb'; did you mean 2g.12gb? "
                "there are 1g.6gb, 1g.6gb+me, 2g.12gb, 2g.12gb+me, 4g.24gb"
            ),
        ),
        (
            A100,
            "ballanced",
            (
                "no layout is called 'ballanced'; did you mean balanced? "
                "there are whole, halves, balanced, small"
            ),
        ),
        (A100, {"1g.5gb": -1}, "1g.5gb = -1: a count of instances must be 0, 1, 2, …"),
        (A100, {"1g.5gb": True}, "1g.5gb = True: a count of instances must be 0, 1, 2, …"),
        (A100, {"1g.5gb": 1.0}, "1g.5gb = 1.0: a count of instances must be 0, 1, 2, …"),
        (A100, {"1g.5gb": "7"}, "1g.5gb = '7': a count of instances must be 0, 1, 2, …"),
    ],
)
def test_a_layout_that_cannot_be_says_why(key, spec, message):
    """Each wrong layout gets one sentence: what was asked, of which model, why not."""
    with pytest.raises(ConfigError) as failed:
        layout(geometry(key), spec)
    assert str(failed.value) == message


def test_a_count_of_zero_is_no_promise():
    """A profile at 0 is left out."""
    assert layout(geometry(A100), {"3g.20gb": 2, "1g.5gb": 0}) == {"3g.20gb": 2}
    assert layout(geometry(A100), {}) == {}
