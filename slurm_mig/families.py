"""What each family of GPUs asks of the driver, and how its MIG mode is switched.

The data are `data/families.json`, whose `_meta` names the sources. Pure but for reading that file,
as `table.py` is. No hook reads this.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from slurm_mig import share, table
from slurm_mig.profiles import find_entry


@dataclass(frozen=True, slots=True)
class Family:
    """GPUs that are alike in this; `name` is an architecture's where the model is not known.

    `driver` is the least version with which MIG works, `advised_driver` the one that NVIDIA's guide
    now asks for where that is more, `cuda` the CUDA version that goes with it ("12", "12.9"). None
    is unknown, and `note` says why. `needs_reset`: switching MIG mode needs a GPU reset, and that
    nobody uses the GPU. `persistent`: the mode survives a reboot.
    """

    name: str
    architecture: str
    driver: str | None
    advised_driver: str | None
    cuda: str | None
    needs_reset: bool
    persistent: bool
    source: tuple[str, ...]
    note: str


def parse(document: Mapping[str, Any]) -> tuple[dict[str, Family], dict[str, Family]]:
    """The families by model key, and by architecture, from the parsed `families.json`."""
    sources = document["_meta"]["sources"]
    architectures = document["architectures"]

    def made(name: str, architecture: str, row: Mapping[str, Any]) -> Family:
        return Family(
            name=name,
            architecture=architecture,
            driver=row["driver"],
            advised_driver=row.get("advised_driver"),
            cuda=row["cuda"],
            needs_reset=architectures[architecture]["needs_reset"],
            persistent=architectures[architecture]["persistent"],
            source=tuple(sources[key] for key in row["source"]),
            note=row.get("note", ""),
        )

    by_model = {
        key: made(row["name"], row["architecture"], row)
        for row in document["families"]
        for key in row["models"]
    }
    return by_model, {name: made(name, name, row) for name, row in architectures.items()}


@cache
def _families() -> tuple[dict[str, Family], dict[str, Family]]:
    return parse(json.loads(share.data("families.json").read_text("utf-8")))


def family(model: str, architecture: str = "") -> Family | None:
    """The family of a GPU, by its key in the table or its NVML name, with or without "NVIDIA".

    A model that the table has not is taken as any of its `architecture` ("ampere", as
    `Driver.architecture` gives it), whose least driver is that of its oldest family. None if that
    is no architecture with MIG either.
    """
    by_model, by_architecture = _families()
    entry = find_entry(table.entries(), model)
    if entry is not None:
        return by_model[entry.key]
    return by_architecture.get(architecture)


def parts(version: str) -> tuple[int, ...]:
    """The numeric parts of a version, without zeros at the end: `450.80.02` is (450, 80, 2).

    What follows the numbers (`-open`) does not count; () for what does not begin with a number.
    """
    found = re.match(r"\d+(?:\.\d+)*", version.strip(), re.ASCII)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def at_least(version: str, least: str) -> bool:
    """Whether a version is `least` or later, part by part; False for what is no version."""
    return bool(parts(version)) and parts(version) >= parts(least)
