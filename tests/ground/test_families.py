"""What families of GPUs ask of the driver: the data, the look-up, the order of versions."""

import json
import re

import pytest

from slurm_mig import families, share, table
from slurm_mig.families import at_least, family, parts

DOCUMENT = json.loads(share.data("families.json").read_text())

#: Key: least driver, CUDA, architecture.
LEAST = {
    "A100-SXM4-40GB": ("450.80.02", "11", "ampere"),
    "A100-PCIE-40GB": ("450.80.02", "11", "ampere"),
    "A100-SXM4-80GB": ("450.80.02", "11", "ampere"),
    "A100-PCIE-80GB": ("450.80.02", "11", "ampere"),
    "A30-24GB": ("450.80.02", "11", "ampere"),
    "H100-SXM5-80GB": ("525.53", "12", "hopper"),
    "H100-SXM5-94GB": ("525.53", "12", "hopper"),
    "H100-NVL-94GB": ("525.53", "12", "hopper"),
    "H100-PCIE-80GB": ("525.53", "12", "hopper"),
    "H200-SXM5-141GB": ("525.53", "12", "hopper"),
    "H200-NVL-141GB": ("525.53", "12", "hopper"),
    "B200-180GB": ("570.133.20", "12", "blackwell"),
    "RTX-PRO-6000-BLACKWELL-96GB": ("575.51.03", "12", "blackwell"),
    "GB200-186GB": ("570.133.20", "12", "blackwell"),
    "B300-269GB": ("580.82.07", "12.9", "blackwell"),
    "H20-96GB": ("535.161.07", "12", "hopper"),
    "GB300-278GB": (None, None, "blackwell"),
    "GH200-96GB": (None, None, "hopper"),
    "GH200-144GB": (None, None, "hopper"),
    "H800-80GB": (None, None, "hopper"),
}


@pytest.mark.parametrize("key", LEAST)
def test_least_driver_and_cuda(key: str) -> None:
    """Each model asks for the driver and CUDA that NVIDIA names for its family."""
    found = family(key)
    assert (found.driver, found.cuda, found.architecture) == LEAST[key]


def test_every_model_of_the_table_has_a_family() -> None:
    """The two tables name the same models, each once, and agree about the architecture."""
    named = [key for row in DOCUMENT["families"] for key in row["models"]]
    assert sorted(named) == sorted(entry.key for entry in table.entries())
    assert {family(e.key).architecture == e.arch for e in table.entries()} == {True}


def test_what_is_known_has_a_source_and_what_is_not_a_reason() -> None:
    """A number comes with its source, null with a note; no other keys than these."""
    keys = {"name", "architecture", "models", "driver", "advised_driver", "cuda", "source", "note"}
    for row in DOCUMENT["families"]:
        assert set(row) == keys
        assert bool(row["source"]) == (row["driver"] is not None) == (row["cuda"] is not None)
        assert bool(row["note"]) == (row["driver"] is None)
        for version in (row["driver"], row["advised_driver"]):
            assert version is None or re.fullmatch(r"[0-9]{3}(\.[0-9]{2,3}){1,2}", version)
        if row["advised_driver"]:
            assert not at_least(row["driver"], row["advised_driver"])


@pytest.mark.parametrize(
    ("architecture", "needs_reset", "persistent"),
    [("ampere", True, True), ("hopper", False, False), ("blackwell", False, False)],
)
def test_how_the_mode_is_switched(architecture: str, needs_reset: bool, persistent: bool) -> None:
    """Ampere needs a reset and keeps its mode; later ones need none and lose it at reboot."""
    models = [family(e.key) for e in table.entries() if e.arch == architecture]
    for found in [*models, family("NVIDIA Unheard Of", architecture)]:
        assert (found.needs_reset, found.persistent) == (needs_reset, persistent)


@pytest.mark.parametrize(
    "name", ["a100-sxm4-80gb", "NVIDIA A100-SXM4-80GB", "A100 80GB PCIe", "NVIDIA A100 80GB PCIe"]
)
def test_by_any_name(name: str) -> None:
    """The table's key in any case, or NVML's name with or without the vendor's."""
    assert family(name, "hopper").name == "A100"


@pytest.mark.parametrize("architecture", ["ampere", "hopper", "blackwell"])
def test_unknown_model_of_a_known_architecture(architecture: str) -> None:
    """A model that the table has not asks for what the oldest family of its architecture does."""
    found = family("NVIDIA A999-SXM9", architecture)
    drivers = [family(e.key).driver for e in table.entries() if e.arch == architecture]
    assert found.name == found.architecture == architecture
    assert parts(found.driver) == min(parts(driver) for driver in drivers if driver)


@pytest.mark.parametrize("architecture", ["", "turing", "unknown"])
def test_unknown_model_without_mig(architecture: str) -> None:
    """What is neither in the table nor of an architecture with MIG has no family."""
    assert family("Tesla T4", architecture) is None


def test_parse_needs_nothing_but_the_document() -> None:
    """The parsed document alone gives both look-ups."""
    by_model, by_architecture = families.parse(DOCUMENT)
    assert by_model["H20-96GB"] == family("H20-96GB")
    assert by_architecture["hopper"] == family("?", "hopper")


@pytest.mark.parametrize(
    ("version", "least", "enough"),
    [
        ("450.80.02", "450.80.02", True),
        ("450.80.2", "450.80.02", True),
        ("450.80.01", "450.80.02", False),
        ("450.119.03", "450.80.02", True),
        ("525.53", "525.53", True),
        ("525.53.00", "525.53", True),
        ("525.53", "525.53.00", True),
        ("525.9", "525.53", False),
        ("99.99.99", "525.53", False),
        ("1000.1", "525.53", True),
        ("580.95.05-open", "580.95.05", True),
        ("12.9", "12", True),
        ("11.8", "12", False),
        ("", "525.53", False),
        ("unknown", "525.53", False),
    ],
)
def test_order_of_versions(version: str, least: str, enough: bool) -> None:
    """Versions are compared by their numeric parts, not as text."""
    assert at_least(version, least) is enough
