"""Slurm's weak hash of type names: the known numbers and collisions, and no others."""

from itertools import combinations

import pytest
from bruteforce import entries

from slurm_mig.description import PADDING
from slurm_mig.typeid import collisions, type_id

NAMES = sorted({p.name for entry in entries() for p in entry.geometry.profiles})
KNOWN = {
    frozenset(pair)
    for pair in (
        ("4g.20gb", "1g.23gb"),
        ("3g.47gb", "2g.48gb"),
        ("7g.40gb", "2g.45gb"),
        ("3g.72gb", "4g.71gb"),
        ("3g.48gb", "4g.47gb"),
        ("2g.35gb", "1g.36gb"),
    )
}


@pytest.mark.parametrize(("name", "number"), [("gpu", 7696487), ("mic", 6515053), ("", 0)])
def test_numbers_that_slurm_is_known_to_use(name: str, number: int) -> None:
    """The names gpu and mic have the ids that others read out of Slurm (ParaStation's psslurm)."""
    assert type_id(name) == number


def test_number_is_one_of_32_bits() -> None:
    """The sum wraps around."""
    assert type_id("zzzz" * 3) == 3 * 0x7A7A7A7A % 2**32


def test_collisions_of_the_table() -> None:
    """Of all profile names six pairs are one to Slurm, and no more; none has the padding's id."""
    assert len(NAMES) == 75
    assert {frozenset(pair) for pair in collisions([*NAMES, PADDING])} == KNOWN
    alike = {frozenset(p) for p in combinations(NAMES, 2) if type_id(p[0]) == type_id(p[1])}
    assert alike == KNOWN


def test_no_gpu_has_two_profiles_that_are_one() -> None:
    """Within one GPU model no names collide."""
    for entry in entries():
        assert collisions(p.name for p in entry.geometry.profiles) == []


def test_the_same_name_twice_is_no_collision() -> None:
    """Only different names collide; the first of them is named first."""
    assert collisions(["4g.20gb", "4g.20gb", "1g.23gb"]) == [("4g.20gb", "1g.23gb")]
