"""Lists of GPU indices: read, written, and refused with the reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_mig.indices import LARGEST, compress, indices


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0", (0,)),
        ("0-3,5", (0, 1, 2, 3, 5)),
        ("5, 0-3", (0, 1, 2, 3, 5)),
        ("2-2", (2,)),
        ("007", (7,)),
    ],
)
def test_a_list_is_read_in_ascending_order(text: str, found: tuple[int, ...]) -> None:
    """Single indices and ranges, in any order, with spaces after commas."""
    assert indices(text) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is no GPU index and no range; write 0-3,5"),
        ("0,", "'' is no GPU index and no range; write 0-3,5"),
        ("a", "'a' is no GPU index and no range; write 0-3,5"),
        ("0-", "'0-' is no GPU index and no range; write 0-3,5"),
        ("-1", "'-1' is no GPU index and no range; write 0-3,5"),
        ("[0-3]", "'[0-3]' is no GPU index and no range; write 0-3,5"),
        ("0 - 3", "'0 - 3' is no GPU index and no range; write 0-3,5"),
        ("٣", "'٣' is no GPU index and no range; write 0-3,5"),
        ("3-0", "'3-0' counts down; write 0-3"),
        ("0-3,2", "index 2 is named twice"),
        ("0-254", "254 is no GPU index; /dev/nvidia253 is the last one"),
        ("0-999999999", "999999999 is no GPU index; /dev/nvidia253 is the last one"),
    ],
)
def test_a_bad_list_is_refused_with_the_item(text: str, reason: str) -> None:
    """What is no list of indices says which item is wrong, and how to write it."""
    with pytest.raises(ValueError, match=r".") as caught:
        indices(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((), ""), ((4,), "4"), ((0, 1), "0-1"), ((0, 1, 2, 3, 5), "0-3,5"), ((5, 3, 3), "3,5")],
)
def test_the_shortest_list(numbers: tuple[int, ...], text: str) -> None:
    """Neighbours become ranges; order and repetition do not matter."""
    assert compress(numbers) == text


@given(st.sets(st.integers(0, LARGEST), min_size=1))
def test_what_is_written_reads_back(numbers: set[int]) -> None:
    """Compress and indices are each other's inverse."""
    assert indices(compress(numbers)) == tuple(sorted(numbers))
