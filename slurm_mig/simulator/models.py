"""The GPUs that can be simulated, with every number that the driver must answer filled in.

They are those of `data/mig_profiles.json`, whose numbers are documented or follow the family's
pattern (`*_inferred`), and one GPU without MIG. What neither is known nor inferred is derived here
from what is, and listed in `Model.assumed`, so that a person can see it.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from slurm_mig.errors import RequestError
from slurm_mig.profiles import GiProfile, Placement, ProfileName, TableEntry, find_entry, from_table

#: NVML_DEVICE_ARCH_* and the CUDA compute capability of each architecture's MIG GPUs.
_ARCHITECTURES = {"turing": (6, 7, 5), "ampere": (7, 8, 0), "hopper": (9, 9, 0)}
_BLACKWELL_CAPABILITY = {"RTX": (12, 0), "B300": (10, 3), "GB300": (10, 3)}
_BLACKWELL = 10


@dataclasses.dataclass(frozen=True)
class Model:
    """One GPU that can be simulated.

    `schemes` are the GI id schemes seen on it, the first one is the default. `inferred` and
    `assumed` name the fields whose numbers come from the family's pattern, and from us.
    `ci_placements` is by (GI profile id, CI profile id), in compute slices.
    """

    key: str
    nvml_name: str
    architecture: int
    capability: tuple[int, int]
    pci_device_id: int
    memory_mb: int
    compute_slices: int
    memory_slices: int
    schemes: tuple[str, ...]
    profiles: tuple[GiProfile, ...]
    ci_placements: Mapping[tuple[int, int], tuple[Placement, ...]]
    inferred: tuple[str, ...]
    assumed: tuple[str, ...]

    @property
    def mig(self) -> bool:
        """Whether it has MIG at all."""
        return bool(self.profiles)

    def trust(self) -> list[str]:
        """What a person should know about its numbers: none, one or two lines."""
        lines = []
        if self.inferred:
            lines.append(f"inferred from the GPU family: {', '.join(self.inferred)}")
        if self.assumed:
            lines.append(f"unknown, assumed: {', '.join(self.assumed)}")
        return lines


#: For what happens on a node whose driver knows no MIG.
_T4 = Model(
    key="T4-16GB",
    nvml_name="Tesla T4",
    architecture=6,
    capability=(7, 5),
    pci_device_id=0x1EB810DE,
    memory_mb=15360,
    compute_slices=0,
    memory_slices=0,
    schemes=(),
    profiles=(),
    ci_placements={},
    inferred=(),
    assumed=(),
)


@cache
def _table() -> dict[str, Any]:
    text = resources.files("slurm_mig").joinpath("data/mig_profiles.json").read_text("utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


@cache
def all_models() -> tuple[Model, ...]:
    """Every GPU that can be simulated, in the table's order."""
    return (*(_model(entry) for entry in _table()["gpus"]), _T4)


def find_model(text: str) -> Model:
    """The GPU of that key or NVML name; raises RequestError, which names the nearest."""
    entries = [from_table(entry) for entry in _table()["gpus"]]
    found = find_entry(entries, text)
    wanted = found.key if found else text
    for model in all_models():
        if model.key.casefold() == wanted.casefold():
            return model
    keys = [model.key for model in all_models()]
    by_folded = {key.casefold(): key for key in keys}
    near = difflib.get_close_matches(text.casefold(), by_folded, n=1, cutoff=0)
    raise RequestError(
        f"no GPU {text!r} can be simulated; the nearest is {by_folded[near[0]]} "
        f"(all: {', '.join(keys)})"
    )


def gi_ids(model: Model, scheme: str) -> dict[Placement, int]:
    """The GI id of each placement under one scheme of the table; raises RequestError."""
    schemes = _table()["gi_id_schemes"]
    known = [name for name, value in schemes.items() if isinstance(value, dict)]
    if scheme not in known:
        raise RequestError(f"no GI id scheme {scheme!r}; there are {', '.join(known)}")
    quarters = model.compute_slices == 4
    if (scheme == "quad4") != quarters:
        fitting = "quad4" if quarters else "identity8 or swapped8"
        raise RequestError(f"GI id scheme {scheme!r} does not fit {model.key}; it has {fitting}")
    ids = {}
    for placement in {p for profile in model.profiles for p in profile.placements}:
        if quarters:
            # Ids count within each fraction of the GPU: 0 the whole, 1-2 halves, 3-6 quarters.
            fraction = model.memory_slices // placement.size
            ids[placement] = fraction - 1 + placement.start // placement.size
        else:
            ids[placement] = int(schemes[scheme][str(placement.size)][str(placement.start)])
    return ids


def _model(raw: Mapping[str, Any]) -> Model:
    entry = from_table(raw)
    assumed: set[str] = set()
    quarter_sm = next((p.multiprocessors for p in entry.geometry.profiles if p.slices == 1), 0)
    profiles = tuple(_complete(profile, quarter_sm, assumed) for profile in entry.geometry.profiles)
    architecture, *capability = _ARCHITECTURES.get(entry.arch, (_BLACKWELL, 10, 0))
    if architecture == _BLACKWELL:
        prefix = entry.key.split("-")[0]
        capability = list(_BLACKWELL_CAPABILITY.get(prefix, (10, 0)))
    gigabytes = re.search(r"([0-9]+)GB$", entry.key)
    schemes = tuple(raw["gi_id_schemes_seen"]) or (
        "quad4" if raw["compute_slices"] == 4 else "identity8",
    )
    return Model(
        key=entry.key,
        nvml_name=entry.nvml_names[0],
        architecture=architecture,
        capability=(capability[0], capability[1]),
        pci_device_id=int(raw["pci_device_ids"][0][:10], 16),
        memory_mb=1024 * int(gigabytes[1]) if gigabytes else profiles[-1].memory_mb,
        compute_slices=raw["compute_slices"],
        memory_slices=raw["memory_slices"],
        schemes=schemes,
        profiles=profiles,
        ci_placements=_ci_placements(raw, entry),
        inferred=entry.inferred,
        assumed=tuple(sorted(assumed)),
    )


def _complete(profile: GiProfile, slice_sm: int, assumed: set[str]) -> GiProfile:
    """Fill what the table leaves at 0 and a driver cannot leave so."""
    changes: dict[str, Any] = {}
    if not profile.memory_mb:
        assumed.add("memory_size_mb")
        changes["memory_mb"] = 1024 * ProfileName.parse(profile.name).memory_gb
    if not profile.multiprocessors:
        assumed.add("multiprocessor_count")
        changes["multiprocessors"] = profile.slices * slice_sm
    sm = changes.get("multiprocessors", profile.multiprocessors)
    compute = []
    for ci in profile.compute:
        if not ci.multiprocessors:
            assumed.add("ci multiprocessor_count")
            whole = ci.slices == profile.slices
            ci = dataclasses.replace(ci, multiprocessors=sm if whole else ci.slices * slice_sm)
        if not ci.max_count:
            assumed.add("ci max_instance_count")
            ci = dataclasses.replace(ci, max_count=profile.slices // ci.slices)
        compute.append(ci)
    return dataclasses.replace(profile, compute=tuple(compute), **changes)


def _ci_placements(
    raw: Mapping[str, Any], entry: TableEntry
) -> dict[tuple[int, int], tuple[Placement, ...]]:
    found = {}
    for profile, fields in zip(entry.geometry.profiles, raw["gi_profiles"], strict=True):
        for ci in fields["ci_profiles"]:
            listed = ci.get("placements") or ci.get("placements_inferred")
            if listed:
                places = tuple(Placement(p["start"], p["size"]) for p in listed)
            else:
                size = ci["slice_count"]
                places = tuple(
                    Placement(start, size) for start in range(0, profile.slices - size + 1, size)
                )
            found[profile.id, ci["id"]] = places
    return found
