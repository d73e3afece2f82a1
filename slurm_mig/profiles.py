"""Names and geometry of MIG: profiles, placements, and what one GPU model offers.

Pure: no I/O. On a node the numbers come from NVML (`nvml.py`); elsewhere from the table
`data/mig_profiles.json` (`from_table`). Words are NVIDIA's (MIG User Guide): a GPU instance (GI)
profile has a fixed list of legal placements `start:size` in memory slices; a compute instance (CI)
profile divides the compute slices of one GI.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from slurm_mig.errors import RequestError

#: What may follow `<n>g.<m>gb`, as nvidia-smi prints it (nvml.h, NVML_GPU_INSTANCE_PROFILE_*:
#: REV1 is +me, GFX +gfx, NO_ME -me, ALL_ME +me.all).
ATTRIBUTES = ("", "+me", "+gfx", "-me", "+me.all")

_NAME = re.compile(
    r"(?:(?P<compute>[1-9])c\.)?(?P<slices>[1-9])g\.(?P<gb>[1-9][0-9]{0,3})gb"
    r"(?P<attribute>\+me\.all|\+me|\+gfx|-me)?",
    re.ASCII,
)


class Placement(NamedTuple):
    """Where a GI lies: first memory slice and how many."""

    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.start}:{self.size}"

    @property
    def mask(self) -> int:
        """The memory slices as bits."""
        return ((1 << self.size) - 1) << self.start

    @classmethod
    def parse(cls, text: str) -> "Placement":
        """Read `start:size`; raises ValueError."""
        start, size = text.split(":")
        return cls(int(start), int(size))


class ProfileName(NamedTuple):
    """The parts of a profile's name: `1c.3g.20gb+me` is (1, 3, 20, '+me')."""

    compute: int | None
    slices: int
    memory_gb: int
    attribute: str

    def __str__(self) -> str:
        compute = "" if self.compute is None else f"{self.compute}c."
        return f"{compute}{self.slices}g.{self.memory_gb}gb{self.attribute}"

    @property
    def gpu_instance(self) -> str:
        """The name of the GI profile, without the CI part."""
        return str(self._replace(compute=None))

    @classmethod
    def parse(cls, text: str) -> "ProfileName":
        """Read a profile name of any kind; raises RequestError."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise RequestError(
                f"{text!r} is no MIG profile name; names look like 3g.20gb, 1g.5gb+me, 1c.3g.20gb"
            )
        compute, slices = found["compute"], int(found["slices"])
        if compute is not None and int(compute) > slices:
            raise RequestError(
                f"{text!r} asks for {compute} compute slices of a {slices}g GPU instance; "
                f"it has {slices}"
            )
        return cls(
            int(compute) if compute else None, slices, int(found["gb"]), found["attribute"] or ""
        )


@dataclass(frozen=True, slots=True)
class CiProfile:
    """A compute instance profile inside one GI profile.

    `index` is the enumeration index that profile info is asked by, `id` what create takes.
    """

    index: int
    id: int
    slices: int
    max_count: int
    multiprocessors: int


@dataclass(frozen=True, slots=True)
class GiProfile:
    """A GPU instance profile of one GPU model.

    `index` is NVML_GPU_INSTANCE_PROFILE_*, the input of GetGpuInstanceProfileInfo; `id` (19, 14,
    9, …) is what create, placements and instances take. Memory in MiB; engines are counts.
    """

    name: str
    index: int
    id: int
    slices: int
    memory_mb: int
    max_count: int
    multiprocessors: int
    copy_engines: int
    decoders: int
    encoders: int
    jpegs: int
    ofas: int
    placements: tuple[Placement, ...]
    compute: tuple[CiProfile, ...] = ()

    @property
    def size(self) -> int:
        """Memory slices that one instance occupies."""
        return self.placements[0].size if self.placements else 0

    def full_compute(self) -> CiProfile:
        """The CI profile that takes the whole GI; raises LookupError if the driver named none."""
        for ci in self.compute:
            if ci.slices == self.slices:
                return ci
        raise LookupError(f"no compute instance profile of {self.slices} slices in {self.name}")


@dataclass(frozen=True, slots=True)
class Geometry:
    """All GI profiles that one GPU offers, in the driver's order, and its memory slices."""

    model: str
    memory_slices: int
    profiles: tuple[GiProfile, ...]

    def profile(self, name: str) -> GiProfile:
        """The profile of that name; raises RequestError, which names what there is."""
        for profile in self.profiles:
            if profile.name == name:
                return profile
        raise RequestError(
            f"{self.model} has no profile {name!r}; "
            f"it has {', '.join(profile.name for profile in self.profiles)}"
        )

    def profile_by_id(self, profile_id: int) -> GiProfile | None:
        """The profile that create calls `profile_id`, or None."""
        for profile in self.profiles:
            if profile.id == profile_id:
                return profile
        return None


def model_name(nvml_name: str) -> str:
    """The model as people write it: NVML's name without the vendor's."""
    return nvml_name.removeprefix("NVIDIA ").strip()


class TableEntry(NamedTuple):
    """One GPU of the table: its geometry, and how far its numbers can be trusted.

    `inferred` names the fields that only the family's pattern gives, `unknown` those that nobody
    has seen and no pattern gives (they are 0 in the geometry).
    """

    key: str
    nvml_names: tuple[str, ...]
    arch: str
    geometry: Geometry
    inferred: tuple[str, ...]
    unknown: tuple[str, ...]


class _Row:
    """One table row: a number, or its `*_inferred` sibling, with a note of which it was."""

    def __init__(self, row: Mapping[str, Any], inferred: set[str], unknown: set[str]) -> None:
        self.row, self.inferred, self.unknown = row, inferred, unknown

    def get(self, key: str) -> Any:
        value = self.row.get(key)
        if value is not None:
            return value
        value = self.row.get(key + "_inferred")
        (self.unknown if value is None else self.inferred).add(key)
        return value

    def number(self, key: str) -> int:
        return int(self.get(key) or 0)


def from_table(entry: Mapping[str, Any]) -> TableEntry:
    """Build the geometry of one `gpus[]` entry of mig_profiles.json."""
    inferred: set[str] = set()
    unknown: set[str] = set()
    profiles = []
    for fields in entry["gi_profiles"]:
        row = _Row(fields, inferred, unknown)
        profiles.append(
            GiProfile(
                name=fields["name"],
                index=fields["nvml_profile_index"],
                id=row.number("id"),
                slices=fields["slice_count"],
                memory_mb=row.number("memory_size_mb"),
                max_count=row.number("max_instance_count"),
                multiprocessors=row.number("multiprocessor_count"),
                copy_engines=row.number("copy_engine_count"),
                decoders=row.number("decoder_count"),
                encoders=row.number("encoder_count"),
                jpegs=row.number("jpeg_count"),
                ofas=row.number("ofa_count"),
                placements=tuple(Placement(p["start"], p["size"]) for p in row.get("placements")),
                compute=tuple(
                    CiProfile(
                        ci["nvml_ci_profile_index"],
                        ci["id"],
                        ci["slice_count"],
                        _Row(ci, inferred, unknown).number("max_instance_count"),
                        _Row(ci, inferred, unknown).number("multiprocessor_count"),
                    )
                    for ci in fields["ci_profiles"]
                ),
            )
        )
    names = tuple(entry["nvml_names"])
    geometry = Geometry(model_name(names[0]), int(entry["memory_slices"]), tuple(profiles))
    return TableEntry(
        entry["key"],
        names,
        entry["arch"],
        geometry,
        tuple(sorted(inferred)),
        tuple(sorted(unknown)),
    )


def find_entry(entries: Sequence[TableEntry], model: str) -> TableEntry | None:
    """The table's GPU that `model` means: its key, or its NVML name with or without "NVIDIA"."""
    wanted = model_name(model).casefold()
    for entry in entries:
        names = {entry.key.casefold(), *(model_name(n).casefold() for n in entry.nvml_names)}
        if wanted in names:
            return entry
    return None
