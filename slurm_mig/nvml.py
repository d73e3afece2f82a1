"""NVML, as far as MIG needs it: the only importer of pynvml.

Enumerates GPU instances, never MIG device handles: a GI without a CI has none (a walk over the
handles overlooks it), and the walk takes seconds on busy nodes. Handles are looked up anew in each
call, since they go stale with every creation and removal (nvml.h, at
nvmlDeviceGetMigDeviceHandleByIndex).
"""

import ctypes
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

try:
    import pynvml
except ImportError:
    pynvml = None  # Driver says it in words

from slurm_mig import driver_errors as errors
from slurm_mig.driver_errors import CHANGES, READS, DriverError, NotThere
from slurm_mig.errors import NodeFault
from slurm_mig.instances import Ci, Gi, Gpu
from slurm_mig.profiles import CiProfile, Geometry, GiProfile, Placement

#: A call that nvidia-ml-py has, and the deprecated packages called pynvml do not.
_OURS = "nvmlDeviceCreateGpuInstanceWithPlacement"

# A GPU with MIG, but more GI profiles than this, would need a newer nvml.h: NVML answers
# INVALID_ARGUMENT from its own COUNT on, so asking beyond pynvml's COUNT is harmless.
_PROFILE_INDICES = range(max(0x12, getattr(pynvml, "NVML_GPU_INSTANCE_PROFILE_COUNT", 0)) + 8)
#: So many looks at a list of instances from which one goes away meanwhile.
_LOOKS = 5

#: What `set_mig` gives: the mode changed, needs a GPU reset, or needs that nobody uses the GPU.
ACTIVE = errors.SUCCESS
RESET_REQUIRED = errors.RESET_REQUIRED
IN_USE = errors.IN_USE
#: `DriverError.code` of what root alone may do.
NO_PERMISSION = errors.NO_PERMISSION

#: nvml.h, NVML_DEVICE_ARCH_*; as numbers, since an older pynvml has not all of the names.
_ARCHITECTURES = {
    2: "kepler",
    3: "maxwell",
    4: "pascal",
    5: "volta",
    6: "turing",
    7: "ampere",
    8: "ada",
    9: "hopper",
    10: "blackwell",
    13: "rubin",
}

#: Answers that mean "this GPU or driver has no such profile", not a fault. NO_PERMISSION is one.
_ABSENT = (errors.NOT_SUPPORTED, errors.INVALID_ARGUMENT)


def _call(
    what: str,
    function: Callable[..., Any],
    *arguments: Any,
    kinds: Mapping[int, type[DriverError]] = READS,
) -> Any:
    """Call a pynvml function; raises DriverError, of the kind for its code, naming `what`."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        kind = kinds.get(error.value, DriverError)
        raise kind(function.__name__, error.value, what, str(error)) from None


def _call_live(
    what: str,
    function: Callable[..., Any],
    *arguments: Any,
    kinds: Mapping[int, type[DriverError]] = READS,
) -> Any:
    """Call with the handle of an instance, which another process may destroy at any moment.

    NVML then answers NOT_FOUND or, not knowing the handle, INVALID_ARGUMENT; both raise NotThere.
    """
    gone = {errors.INVALID_ARGUMENT: NotThere}
    return _call(what, function, *arguments, kinds={**kinds, **gone})


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


class Driver:
    """An open NVML. One per process; use as a context manager. All methods raise DriverError."""

    def __init__(self, library: str) -> None:
        """Load `library` and initialise it. Raises NodeFault if it cannot be."""
        if not hasattr(pynvml, _OURS):
            found = getattr(pynvml, "__file__", None) or "no such module"
            raise NodeFault(
                f"Python module pynvml: {found}: not nvidia-ml-py's; uninstall the package pynvml "
                "and reinstall nvidia-ml-py (slurm-mig doctor says more)"
            )
        try:
            # pynvml has no other way to be told where the library is.
            pynvml.nvmlLib = ctypes.CDLL(library)
        except OSError as error:
            raise NodeFault(
                f"driver library {library}: {error}; install the NVIDIA driver or set "
                "[driver] library"
            ) from None
        pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 -- else it keeps another library's
        _call(f"driver library {library}", pynvml.nvmlInit)
        self._geometries: dict[tuple[str, int], Geometry] = {}
        #: GPUs that the last `gpus()` could not read, one sentence each.
        self.lost: list[str] = []
        # Handles of whole GPUs stay good until shutdown; only those of instances go stale.
        self._devices: dict[str, Any] = {}

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the library; nothing is left open on the GPUs.

        Never raises: what was to be done is done, or failed for a reason that must not be hidden
        by this one, and the end of the process closes what NVML did not.
        """
        with suppress(DriverError):
            _call("NVML", pynvml.nvmlShutdown)

    def version(self) -> str:
        """The driver's version."""
        return _text(_call("NVML", pynvml.nvmlSystemGetDriverVersion))

    def cuda_version(self) -> str:
        """The newest CUDA that the driver serves, as `12.9`."""
        number = int(_call("NVML", pynvml.nvmlSystemGetCudaDriverVersion))
        return f"{number // 1000}.{number % 1000 // 10}"

    def gpus(self) -> list[Gpu]:
        """All GPUs in NVML's order, but for those that fell off the bus: `lost` says which.

        Those do not hide the others: what lives on a healthy GPU must still be removed.
        """
        found = []
        self.lost = []
        for index in range(_call("NVML", pynvml.nvmlDeviceGetCount)):
            try:
                found.append(self._read_gpu(index))
            except DriverError as error:
                if error.code != errors.GPU_IS_LOST:
                    raise
                self.lost.append(str(error))
        return found

    def _read_gpu(self, index: int) -> Gpu:
        what = f"GPU {index}"
        device = _call(what, pynvml.nvmlDeviceGetHandleByIndex, index)
        mig: bool | None = None
        mig_pending: bool | None = None
        try:
            current, pending = _call(what, pynvml.nvmlDeviceGetMigMode, device)
            mig, mig_pending = bool(current), bool(pending)
        except DriverError as error:
            if error.code != errors.NOT_SUPPORTED:
                raise
        uuid = _text(_call(what, pynvml.nvmlDeviceGetUUID, device))
        minor = _call(what, pynvml.nvmlDeviceGetMinorNumber, device)
        name = _text(_call(what, pynvml.nvmlDeviceGetName, device))
        self._devices[uuid] = device
        return Gpu(uuid, index, minor, name, mig, mig_pending)

    def architecture(self, gpu: Gpu) -> str:
        """`ampere`, `hopper`, `blackwell`, …; `unknown` for one that is newer than this."""
        found = _call(gpu.uuid, pynvml.nvmlDeviceGetArchitecture, self._device(gpu.uuid))
        return _ARCHITECTURES.get(found, "unknown")

    def set_mig(self, gpu: Gpu, on: bool) -> int:
        """Set a GPU's MIG mode; ACTIVE, RESET_REQUIRED, IN_USE or another of NVML's numbers.

        Anything but ACTIVE means that the mode is pending only. ACTIVE is not proof either, and
        the driver may have reset the GPU: read it again (`gpus`). Needs root.
        """
        mode = pynvml.NVML_DEVICE_MIG_ENABLE if on else pynvml.NVML_DEVICE_MIG_DISABLE
        device = self._device(gpu.uuid)
        return int(_call(gpu.uuid, pynvml.nvmlDeviceSetMigMode, device, mode, kinds=CHANGES))

    def users(self, gpu: Gpu) -> list[int]:
        """The pids of all processes, compute and graphics, that NVML shows on a GPU."""
        device = self._device(gpu.uuid)
        pids: set[int] = set()
        for function in (
            pynvml.nvmlDeviceGetComputeRunningProcesses,
            pynvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            try:
                pids.update(process.pid for process in _call(gpu.uuid, function, device))
            except DriverError as error:
                if error.code != errors.NOT_SUPPORTED:
                    raise
        return sorted(pids)

    def _device(self, gpu: str) -> Any:
        if gpu not in self._devices:
            self.gpus()
        try:
            return self._devices[gpu]
        except KeyError:
            raise NodeFault(
                f"{gpu}: the driver shows this GPU no more; look at dmesg for Xid errors"
            ) from None

    def geometry(self, gpu: Gpu) -> Geometry:
        """The profiles and placements that the driver reports; needs root and MIG mode.

        CI profiles are not in it: the driver tells those of an existing GI only. GPUs of one name
        and memory share a geometry, so a node of eight asks once.
        """
        device = self._device(gpu.uuid)
        memory = _call(gpu.uuid, pynvml.nvmlDeviceGetMemoryInfo, device).total
        key = (gpu.name, memory)
        if key not in self._geometries:
            self._geometries[key] = self._read_geometry(gpu, device)
        return self._geometries[key]

    def _read_geometry(self, gpu: Gpu, device: Any) -> Geometry:
        profiles = []
        for index in _PROFILE_INDICES:
            try:
                info = _call(gpu.uuid, pynvml.nvmlDeviceGetGpuInstanceProfileInfo, device, index)
            except DriverError as error:
                if error.code in _ABSENT:
                    continue
                raise
            what = f"{gpu.uuid} profile {info.id}"
            places = self._placements(what, device, info.id)
            profiles.append(
                GiProfile(
                    name=_text(info.name).removeprefix("MIG ").strip(),
                    index=index,
                    id=info.id,
                    slices=info.sliceCount,
                    memory_mb=info.memorySizeMB,
                    max_count=info.instanceCount,
                    multiprocessors=info.multiprocessorCount,
                    copy_engines=info.copyEngineCount,
                    decoders=info.decoderCount,
                    encoders=info.encoderCount,
                    jpegs=info.jpegCount,
                    ofas=info.ofaCount,
                    placements=places,
                )
            )
        if not profiles:
            raise NodeFault(f"{gpu.uuid} ({gpu.model}): the driver reports no MIG profile")
        slices = max(p.start + p.size for profile in profiles for p in profile.placements)
        return Geometry(gpu.model, slices, tuple(profiles))

    @staticmethod
    def _placements(what: str, device: Any, profile_id: int) -> tuple[Placement, ...]:
        count = ctypes.c_uint(0)
        function = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements
        _call(what, function, device, profile_id, None, ctypes.byref(count))
        array = (pynvml.c_nvmlGpuInstancePlacement_t * max(1, count.value))()
        _call(what, function, device, profile_id, array, ctypes.byref(count))
        return tuple(sorted(Placement(p.start, p.size) for p in array[: count.value]))

    def instances(self, gpu: Gpu, *, with_cis: bool = True) -> list[Gi]:
        """The GIs that live on a GPU, whoever made them, by start; `cis` only on demand."""
        device = self._device(gpu.uuid)
        found = []
        for profile in self.geometry(gpu).profiles:
            found += self._instances(f"{gpu.uuid} {profile.name}", device, profile, with_cis)
        return sorted(found, key=lambda gi: gi.placement)

    def _instances(self, what: str, device: Any, profile: GiProfile, with_cis: bool) -> list[Gi]:
        """The GIs of one profile.

        One that goes away between the list and the look is not in the next list. One that stays
        there and cannot be read exists: to leave it out would be to forget it.
        """
        function = pynvml.nvmlDeviceGetGpuInstances
        for look in range(_LOOKS):
            count = ctypes.c_uint(0)
            array = (pynvml.c_nvmlGpuInstance_t * max(1, profile.max_count))()
            _call(what, function, device, profile.id, array, ctypes.byref(count))
            try:
                return [self._read_gi(what, handle, with_cis) for handle in array[: count.value]]
            except NotThere:
                if look + 1 == _LOOKS:
                    raise
        raise AssertionError("unreachable")

    def _read_gi(self, what: str, handle: Any, with_cis: bool) -> Gi:
        info = _call_live(what, pynvml.nvmlGpuInstanceGetInfo, handle)
        placement = Placement(info.placement.start, info.placement.size)
        cis = self._cis(f"{what} at {placement}", handle) if with_cis else ()
        return Gi(info.id, info.profileId, placement, cis)

    def _ci_profiles(self, what: str, handle: Any) -> list[CiProfile]:
        found = []
        for index in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            try:
                info = _call(
                    what,
                    pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo,
                    *(handle, index, pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED),
                )
            except DriverError as error:
                if error.code in _ABSENT:
                    continue
                raise
            found.append(
                CiProfile(
                    *(index, info.id, info.sliceCount),
                    *(info.instanceCount, info.multiprocessorCount),
                )
            )
        return found

    def _cis(self, what: str, handle: Any) -> tuple[Ci, ...]:
        found: list[Ci] = []
        for profile in self._ci_profiles(what, handle):
            count = ctypes.c_uint(0)
            array = (pynvml.c_nvmlComputeInstance_t * max(1, profile.max_count))()
            function = pynvml.nvmlGpuInstanceGetComputeInstances
            _call_live(what, function, handle, profile.id, array, ctypes.byref(count))
            for ci in array[: count.value]:
                try:
                    found.append(self._read_ci(what, ci))
                except NotThere:
                    continue
        return tuple(sorted(found, key=lambda ci: ci.id))

    @staticmethod
    def _read_ci(what: str, handle: Any) -> Ci:
        info = _call_live(what, pynvml.nvmlComputeInstanceGetInfo_v2, handle)
        # The info's device is the MIG device: asking it avoids the walk over MIG indices.
        uuid = _text(_call_live(what, pynvml.nvmlDeviceGetUUID, info.device))
        return Ci(info.id, info.profileId, uuid)

    def instance(self, gpu: str, gi: int) -> Gi:
        """One GI by id, read anew. Raises NotThere."""
        what = f"{gpu} GI {gi}"
        handle = _call(what, pynvml.nvmlDeviceGetGpuInstanceById, self._device(gpu), gi)
        return self._read_gi(what, handle, True)

    def create_gi(self, gpu: str, profile: GiProfile, placement: Placement) -> int:
        """Make a GI at exactly this placement; its id.

        Raises NoSpace if it is not free; after any other error it may have been made.
        """
        wanted = pynvml.c_nvmlGpuInstancePlacement_t(placement.start, placement.size)
        what = f"{gpu} {profile.name} at {placement}"
        handle = _call(
            what,
            pynvml.nvmlDeviceCreateGpuInstanceWithPlacement,
            # By reference: pynvml passes it on as it is, and by value it ends the process.
            *(self._device(gpu), profile.id, ctypes.byref(wanted)),
            kinds=CHANGES,
        )
        return int(_call(what, pynvml.nvmlGpuInstanceGetInfo, handle).id)

    def create_ci(self, gpu: str, gi: int, slices: int) -> Ci:
        """Make a CI of so many compute slices in a GI; one of all its slices is the usual one."""
        what = f"{gpu} GI {gi}"
        handle = _call(what, pynvml.nvmlDeviceGetGpuInstanceById, self._device(gpu), gi)
        for profile in self._ci_profiles(what, handle):
            if profile.slices == slices:
                break
        else:
            raise NodeFault(f"{what}: the driver offers no compute instance of {slices} slices")
        function = pynvml.nvmlGpuInstanceCreateComputeInstance
        made = _call(what, function, handle, profile.id, kinds=CHANGES)
        return self._read_ci(what, made)

    def destroy_ci(self, gpu: str, gi: int, ci: int) -> None:
        """Remove a CI; one that is not there is removed already. Raises InUse."""
        what = f"{gpu} GI {gi} CI {ci}"
        try:
            parent = _call(what, pynvml.nvmlDeviceGetGpuInstanceById, self._device(gpu), gi)
            handle = _call_live(what, pynvml.nvmlGpuInstanceGetComputeInstanceById, parent, ci)
            _call_live(what, pynvml.nvmlComputeInstanceDestroy, handle, kinds=CHANGES)
        except NotThere:
            return

    def destroy_gi(self, gpu: str, gi: int) -> None:
        """Remove a GI without CIs; one that is not there is removed already. Raises InUse."""
        what = f"{gpu} GI {gi}"
        try:
            handle = _call(what, pynvml.nvmlDeviceGetGpuInstanceById, self._device(gpu), gi)
            _call_live(what, pynvml.nvmlGpuInstanceDestroy, handle, kinds=CHANGES)
        except NotThere:
            return

    def clients(self, gpu: str, gi: int) -> list[int]:
        """The pids that NVML shows on a GI; empty where it shows none."""
        try:
            device = self._device(gpu)
            running = _call(gpu, pynvml.nvmlDeviceGetComputeRunningProcesses, device)
        except DriverError:
            return []  # for an error message only: no reason to fail
        return sorted({p.pid for p in running if p.gpuInstanceId == gi})


def error_text(code: int) -> str:
    """NVML's own words for one of its numbers, as `In use by another client`."""
    return str(pynvml.NVMLError(code))
