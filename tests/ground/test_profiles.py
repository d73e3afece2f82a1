"""Names of profiles, placements, and the table of GPUs."""

import pytest
from bruteforce import entries, geometry
from hypothesis import given
from hypothesis import strategies as st

from slurm_mig.errors import RequestError
from slurm_mig.profiles import (
    ATTRIBUTES,
    Placement,
    ProfileName,
    find_entry,
    model_name,
)

names = st.builds(
    ProfileName,
    st.none(),
    st.integers(1, 9),
    st.integers(1, 9999),
    st.sampled_from(ATTRIBUTES),
)


@given(names, st.integers(1, 9))
def test_names_of_every_kind_survive_a_round_trip(name, compute):
    """Printing and reading a name gives the same parts, with and without a compute part."""
    assert ProfileName.parse(str(name)) == name
    inside = name._replace(compute=min(compute, name.slices))
    assert ProfileName.parse(str(inside)) == inside
    assert inside.gpu_instance == str(name)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("3g.20gb", (None, 3, 20, "")),
        ("1g.5gb+me", (None, 1, 5, "+me")),
        ("1g.24gb+gfx", (None, 1, 24, "+gfx")),
        ("1g.24gb-me", (None, 1, 24, "-me")),
        ("1g.24gb+me.all", (None, 1, 24, "+me.all")),
        ("1c.3g.20gb", (1, 3, 20, "")),
        ("2c.7g.141gb", (2, 7, 141, "")),
    ],
)
def test_names_are_read_as_nvidia_smi_prints_them(text, parts):
    """Every kind of name is read into its parts."""
    assert ProfileName.parse(text) == parts
    assert str(ProfileName.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "3g", "3g.20", "20gb", "3g.20gb ", " 3g.20gb", "3G.20GB", "0g.5gb", "3g.020gb",
        "3g.20gb+", "3g.20gb+ME", "1g.24gb+all", "1g.24gb+me.all.me", "1g.24gb-gfx", "1c.20gb",
        "0c.3g.20gb", "3g.20gb\n", "\uff13g.20gb", "1g.5gb;id", "1c.1c.3g.20gb", "10g.5gb",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_with_an_example(text):
    """Near-names are refused, none is taken for another, and the message shows what names are."""
    with pytest.raises(RequestError) as failed:
        ProfileName.parse(text)
    assert str(failed.value).endswith(
        "is no MIG profile name; names look like 3g.20gb, 1g.5gb+me, 1c.3g.20gb"
    )


def test_a_compute_part_larger_than_its_instance_is_refused():
    """`4c.3g.20gb` asks for more compute slices than a 3g has, and is told so."""
    with pytest.raises(RequestError) as failed:
        ProfileName.parse("4c.3g.20gb")
    assert str(failed.value) == (
        "'4c.3g.20gb' asks for 4 compute slices of a 3g GPU instance; it has 3"
    )


def test_placements_print_as_start_and_size():
    """`4:4` is four memory slices from the fourth on."""
    assert str(Placement(4, 4)) == "4:4"
    assert Placement.parse("4:4") == Placement(4, 4)
    assert Placement(4, 4).mask == 0b1111_0000
    with pytest.raises(ValueError, match="not enough values"):
        Placement.parse("4")


def test_the_table_has_twenty_gpus_that_are_sound():
    """Every GPU of the table loads: names can be read, placements lie inside it, ids differ."""
    assert len({entry.key for entry in entries()}) == 20
    for entry in entries():
        profiles = entry.geometry.profiles
        assert len({p.name for p in profiles}) == len(profiles), entry.key
        assert len({p.id for p in profiles}) == len(profiles), entry.key
        assert len({p.index for p in profiles}) == len(profiles), entry.key
        for p in profiles:
            assert ProfileName.parse(p.name).slices == p.slices
            assert {place.size for place in p.placements} == {p.size}
            assert all(
                place.start >= 0 and place.start + place.size <= entry.geometry.memory_slices
                for place in p.placements
            )
            assert p.full_compute().slices == p.slices
        whole = [p for p in profiles if p.size == entry.geometry.memory_slices]
        assert whole, entry.key


def test_what_nobody_has_seen_is_marked():
    """A GPU whose numbers are documented has nothing inferred; one that nobody showed says so."""
    table = {entry.key: entry for entry in entries()}
    assert table["A100-SXM4-40GB"].inferred == ()
    assert table["A100-SXM4-40GB"].unknown == ()
    assert "placements" in table["H200-NVL-141GB"].inferred
    assert "memory_size_mb" in table["H200-NVL-141GB"].unknown


def test_variants_of_one_size_are_different_profiles():
    """`1g.24gb` and `1g.24gb-me` have their own ids; neither is found by the other's name."""
    rtx = geometry("RTX-PRO-6000-BLACKWELL-96GB")
    assert rtx.profile("1g.24gb").id == 14
    assert rtx.profile("1g.24gb-me").id == 67
    assert rtx.profile_by_id(67).name == "1g.24gb-me"
    assert rtx.profile_by_id(68) is None


def test_an_unknown_profile_is_told_with_those_there_are():
    """Asking a model for a profile that it lacks names the model and what it has."""
    with pytest.raises(RequestError) as failed:
        geometry("A30-24GB").profile("3g.20gb")
    assert str(failed.value) == (
        "A30 has no profile '3g.20gb'; it has 1g.6gb, 1g.6gb+me, 2g.12gb, 2g.12gb+me, 4g.24gb"
    )


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("a100-sxm4-40gb", "A100-SXM4-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("H100 80GB HBM3", "H100-SXM5-80GB"),
        ("V100", None),
    ],
)
def test_a_gpu_is_found_by_key_or_by_nvml_s_name(model, key):
    """The table is searched by its own key and by NVML's name, with or without the vendor's."""
    found = find_entry(entries(), model)
    assert (found and found.key) == key


def test_model_names_lose_the_vendor():
    """The model is NVML's name as people write it."""
    assert model_name("NVIDIA A30") == "A30"
    assert model_name("A30") == "A30"
