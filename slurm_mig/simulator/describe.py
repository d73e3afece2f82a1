"""Writes `DIR/gpus`, from which the C library learns what it simulates.

One line each, fields by position, separated by one space; a GPU's profiles follow it, and a GPU
instance profile's compute instance profiles follow that:

    slurm-mig-simulation 1
    driver CUDA_VERSION VERSION          13000 is CUDA 13.0
    privileged_uid UID                   who may create and destroy
    fresh_uuids 0|1                      1: an instance made again has another UUID
    self_reset 0|1                       1: the driver resets an Ampere GPU to change its MIG mode
    seed HEX16                           of the boot ids
    gpu UUID MINOR BUS PCI_ID ARCH CC_MAJOR CC_MINOR COMPUTE_SLICES MAX_MIG MB MIG_ON SERIAL NAME…
    gi INDEX ID SLICES P2P GFX MB MAX SM CE DEC ENC JPEG OFA SIZE COUNT (START GI_ID)… NAME
    ci INDEX ID SLICES MAX SM SIZE COUNT START…

`driver/config.c` reads it.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from slurm_mig.errors import RequestError
from slurm_mig.profiles import GiProfile, Placement
from slurm_mig.simulator.models import Model, find_model, gi_ids

DRIVER_VERSION = "580.95.05"
CUDA_VERSION = 13000


@dataclass(frozen=True)
class SimulatedGpu:
    """One GPU of a simulation: its model, the GI id scheme, and whether MIG is on at the start."""

    model: Model
    scheme: str | None
    mig_enabled: bool
    minor: int | None = None  # of /dev/nvidia<minor>; None: its index


def parse(text: str, wanted: str | None, mig_enabled: bool) -> list[SimulatedGpu]:
    """The GPUs that `MODEL[:COUNT[:GI-IDS]]` means; `wanted` is the scheme if it names none.

    Raises RequestError for an unknown GPU, a bad count, a scheme that does not fit.
    """
    key, _, more = text.partition(":")
    count, _, scheme = more.partition(":")
    model = find_model(key)
    if more and not (count.isascii() and count.isdecimal() and int(count) > 0):
        raise RequestError(f"{text!r}: {count!r} is no number of GPUs; write {model.key}:2")
    chosen: str | None = scheme or None
    if chosen is None and model.mig:
        fits = model.compute_slices == 4 if wanted == "quad4" else model.compute_slices != 4
        chosen = wanted if wanted and fits else model.schemes[0]
    if chosen is not None:
        gi_ids(model, chosen)
    return [SimulatedGpu(model, chosen, mig_enabled)] * int(count or 1)


def description(
    gpus: Sequence[SimulatedGpu],
    *,
    seed: uuid.UUID,
    privileged_uid: int,
    fresh_uuids: bool,
    self_reset: bool,
    versions: tuple[str, int],
) -> str:
    """The text of `DIR/gpus`; `versions` are the driver's and CUDA's (13000 is 13.0)."""
    lines = [
        "slurm-mig-simulation 1",
        f"driver {versions[1]} {versions[0]}",
        f"privileged_uid {privileged_uid}",
        f"fresh_uuids {int(fresh_uuids)}",
        f"self_reset {int(self_reset)}",
        f"seed {seed.hex}",
    ]
    for index, gpu in enumerate(gpus):
        lines += _gpu(index, gpu, uuid.uuid5(seed, f"gpu {index}"))
    return "\n".join(lines) + "\n"


def _gpu(index: int, gpu: SimulatedGpu, identity: uuid.UUID) -> list[str]:
    model = gpu.model
    major, minor = model.capability
    # Buses as far apart as on real boards; serial numbers have 13 digits.
    fields: list[object] = [
        "gpu",
        identity.hex,
        index if gpu.minor is None else gpu.minor,
        7 + 8 * index,
        f"0x{model.pci_device_id:08X}",
        model.architecture,
        major,
        minor,
        model.compute_slices,
        model.compute_slices,
        model.memory_mb,
        int(gpu.mig_enabled and model.mig),
        identity.int % 10**13,
        model.nvml_name,
    ]
    lines = [" ".join(str(field) for field in fields)]
    ids = gi_ids(model, gpu.scheme) if gpu.scheme else {}
    for profile in model.profiles:
        lines.append(_gi(profile, ids))
        for ci in profile.compute:
            places = model.ci_placements[profile.id, ci.id]
            numbers = [
                ci.index,
                ci.id,
                ci.slices,
                ci.max_count,
                ci.multiprocessors,
                places[0].size,
                len(places),
                *(place.start for place in places),
            ]
            lines.append("ci " + " ".join(str(number) for number in numbers))
    return lines


def _gi(profile: GiProfile, ids: dict[Placement, int]) -> str:
    numbers = [
        profile.index,
        profile.id,
        profile.slices,
        0,  # no MIG profile has peer-to-peer access
        int(profile.name.endswith("+gfx")),
        profile.memory_mb,
        profile.max_count,
        profile.multiprocessors,
        profile.copy_engines,
        profile.decoders,
        profile.encoders,
        profile.jpegs,
        profile.ofas,
        profile.size,
        len(profile.placements),
    ]
    for place in profile.placements:
        numbers += [place.start, ids[place]]
    return f"gi {' '.join(str(number) for number in numbers)} {profile.name}"
