"""What lives on a GPU, by identity: the GPU, its GPU instances, their compute instances.

Pure: types only, filled by `nvml.py`. What is *wanted* is another type (`ledger.Wish`).
"""

from dataclasses import dataclass

from slurm_mig.profiles import Placement, model_name


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `index` is NVML's, `minor` that of /dev/nvidia<minor>; `mig` None: not capable."""

    uuid: str
    index: int
    minor: int
    name: str
    mig: bool | None
    mig_pending: bool | None

    @property
    def model(self) -> str:
        """The name without the vendor's."""
        return model_name(self.name)


@dataclass(frozen=True, slots=True)
class Ci:
    """A compute instance that lives, by id, with the UUID of its MIG device."""

    id: int
    profile_id: int
    uuid: str


@dataclass(frozen=True, slots=True)
class Gi:
    """A GPU instance that lives; without CIs it cannot be used, but occupies its placement."""

    id: int
    profile_id: int
    placement: Placement
    cis: tuple[Ci, ...]
