"""What the handle of a simulation gives and takes: plain records, and the names of errors."""

from typing import NamedTuple

from slurm_mig.profiles import Placement

#: nvmlReturn_t by the names that pynvml uses, without NVML_ERROR_.
ERRORS = {
    "UNINITIALIZED": 1,
    "INVALID_ARGUMENT": 2,
    "NOT_SUPPORTED": 3,
    "NO_PERMISSION": 4,
    "NOT_FOUND": 6,
    "INSUFFICIENT_SIZE": 7,
    "DRIVER_NOT_LOADED": 9,
    "TIMEOUT": 10,
    "GPU_IS_LOST": 15,
    "RESET_REQUIRED": 16,
    "OPERATING_SYSTEM": 17,
    "LIB_RM_VERSION_MISMATCH": 18,
    "IN_USE": 19,
    "MEMORY": 20,
    "INSUFFICIENT_RESOURCES": 23,
    "UNKNOWN": 999,
    # Not an NVML error: the process that calls dies by SIGKILL.
    "KILL": 0xFFFF,
}


class ComputeInstance(NamedTuple):
    """A compute instance that exists; placement in compute slices."""

    id: int
    profile_id: int
    placement: Placement
    uuid: str


class GpuInstance(NamedTuple):
    """A GPU instance that exists; placement in memory slices."""

    gpu: int
    id: int
    profile_id: int
    profile: str
    placement: Placement
    compute: tuple[ComputeInstance, ...]


class Client(NamedTuple):
    """A process that holds a GPU or an instance (then with `gi` and `ci`)."""

    gpu: int
    gi: int | None
    ci: int | None
    pid: int
    used_bytes: int


class GpuStatus(NamedTuple):
    """One GPU as it is now."""

    gpu: int
    uuid: str
    key: str
    mig_current: bool
    mig_pending: bool


class Counts(NamedTuple):
    """Instances made, destroyed by a call, lost to a reboot or reset, and left."""

    made: int
    destroyed: int
    lost: int
    left: int
