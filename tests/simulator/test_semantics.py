"""The rows of the semantics table, each through nvidia-ml-py."""

import ctypes
import os
import signal
import subprocess

import pynvml
import pytest

from .helpers import NOBODY, error_of, put

PRIVILEGED = {
    "placements": "nvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, 9, a, ctypes.byref(n))",
    "capacity": "nvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, 9)",
    "create": "nvml.nvmlDeviceCreateGpuInstance(gpu, 9)",
    "create with placement": "put(9, 0, 4)",
    "list": "nvml.nvmlDeviceGetGpuInstances(gpu, 9, a, ctypes.byref(n))",
    "by id": "nvml.nvmlDeviceGetGpuInstanceById(gpu, 2)",
    "mode": "nvml.nvmlDeviceSetMigMode(gpu, 1)",
}

ASK_ALL = (
    """
n = ctypes.c_uint(0)
a = (nvml.c_nvmlGpuInstancePlacement_t * 16)()
def ask(what):
    try:
        eval(what)
        return 0
    except nvml.NVMLError as error:
        return error.value
nvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 2)  # profile information is for everybody
print([ask(what) for what in """
    + repr(list(PRIVILEGED.values()))
    + "])"
)


def test_create_with_mig_off_is_not_supported(make, load):
    """With MIG off, what needs it is NOT_SUPPORTED; profiles and placements can still be read."""
    nvml = load(make(mig_enabled=False))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    assert nvml.nvmlDeviceGetMigMode(gpu) == [0, 0]
    for call in (
        lambda: nvml.nvmlDeviceCreateGpuInstance(gpu, 9),
        lambda: put(nvml, gpu, 9, 0, 4),
        lambda: nvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, 9),
        lambda: nvml.nvmlDeviceGetGpuInstanceById(gpu, 2),
    ):
        assert error_of(nvml, call) == nvml.NVML_ERROR_NOT_SUPPORTED
    assert nvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 2).id == 9
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, 9, None, ctypes.byref(count))
    assert count.value == 2
    assert nvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 0
    beyond = error_of(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, 0)
    assert beyond == nvml.NVML_ERROR_NOT_FOUND


def test_gpu_without_mig(make, load):
    """A GPU that has no MIG says NOT_SUPPORTED to every question about it."""
    nvml = load(make("T4-16GB"))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    assert nvml.nvmlDeviceGetName(gpu) == "Tesla T4"
    for call in (
        lambda: nvml.nvmlDeviceGetMigMode(gpu),
        lambda: nvml.nvmlDeviceSetMigMode(gpu, 1),
        lambda: nvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 0),
        lambda: nvml.nvmlDeviceCreateGpuInstance(gpu, 19),
        lambda: nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0),
    ):
        assert error_of(nvml, call) == nvml.NVML_ERROR_NOT_SUPPORTED
    assert nvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 0


def test_only_the_privileged_user_may(make, run):
    """Anybody but the privileged user gets NO_PERMISSION from all that needs privilege."""
    simulation = make(privileged_uid=os.geteuid() + 1)
    answer = run(simulation, ASK_ALL)
    assert answer == str([pynvml.NVML_ERROR_NO_PERMISSION] * len(PRIVILEGED))
    assert simulation.counts().made == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_may_not(make, run):
    """The same, for a process that really runs as another user than root."""
    simulation = make()
    code = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n" + ASK_ALL
    answer = run(simulation, code)
    assert answer == str([pynvml.NVML_ERROR_NO_PERMISSION] * len(PRIVILEGED))


def test_unprivileged_user_sees_mig_devices(make, load, run):
    """Without privilege one still finds MIG devices, their UUIDs and ids."""
    simulation = make()
    nvml = load(simulation)
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(0), 9, 4, 4)
    nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)
    text = (simulation.directory / "gpus").read_text()
    mine = f"privileged_uid {os.geteuid()}"
    assert mine in text
    (simulation.directory / "gpus").write_text(text.replace(mine, "privileged_uid 4242"))
    found = run(
        simulation,
        "mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)\n"
        "print(nvml.nvmlDeviceGetUUID(mig), nvml.nvmlDeviceGetGpuInstanceId(mig))",
    )
    (instance,) = simulation.instances()
    assert found == f"{instance.compute[0].uuid} {instance.id}"


def test_profile_index(make, load):
    """An index beyond COUNT is INVALID_ARGUMENT; one of another GPU's profiles NOT_SUPPORTED."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    info = nvml.nvmlDeviceGetGpuInstanceProfileInfo
    beyond = error_of(nvml, info, gpu, 0x12)
    assert beyond == nvml.NVML_ERROR_INVALID_ARGUMENT
    not_here = error_of(nvml, info, gpu, nvml.NVML_GPU_INSTANCE_PROFILE_8_SLICE)
    assert not_here == nvml.NVML_ERROR_NOT_SUPPORTED
    by_id = error_of(nvml, nvml.nvmlDeviceGetGpuInstanceProfileInfoById, gpu, 77)
    assert by_id == nvml.NVML_ERROR_INVALID_ARGUMENT


def test_compute_profile_index(make, load):
    """The same holds for compute instance profiles, and for their engine profile."""
    nvml = load(make())
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(0), 9, 0, 4)
    info = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo
    assert error_of(nvml, info, gi, 9, 0) == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert error_of(nvml, info, gi, 4, 0) == nvml.NVML_ERROR_NOT_SUPPORTED
    assert error_of(nvml, info, gi, 2, 1) == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert error_of(nvml, info, gi, 2, 0) == 0


def test_unknown_profile_and_bad_placement(make, load):
    """An unknown profile id, and a placement that is not the profile's, are INVALID_ARGUMENT."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    unknown = error_of(nvml, nvml.nvmlDeviceCreateGpuInstance, gpu, 77)
    assert unknown == nvml.NVML_ERROR_INVALID_ARGUMENT
    for start, size in ((2, 4), (0, 3), (8, 4)):
        bad = error_of(nvml, put, nvml, gpu, 9, start, size)
        assert bad == nvml.NVML_ERROR_INVALID_ARGUMENT
    gi = put(nvml, gpu, 9, 0, 4)
    unknown = error_of(nvml, nvml.nvmlGpuInstanceCreateComputeInstance, gi, 4)
    assert unknown == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert simulation.counts().made == 1


def test_occupied_placement(make, load):
    """An occupied explicit placement, and no free one, are INSUFFICIENT_RESOURCES."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    put(nvml, gpu, 9, 0, 4)
    full = nvml.NVML_ERROR_INSUFFICIENT_RESOURCES
    assert error_of(nvml, put, nvml, gpu, 9, 0, 4) == full
    assert error_of(nvml, put, nvml, gpu, 19, 3, 1) == full
    assert error_of(nvml, nvml.nvmlDeviceCreateGpuInstance, gpu, 0) == full
    assert error_of(nvml, nvml.nvmlDeviceCreateGpuInstance, gpu, 5) == full
    put(nvml, gpu, 9, 4, 4)
    assert error_of(nvml, nvml.nvmlDeviceCreateGpuInstance, gpu, 19) == full


def test_compute_slices_never_over_the_sum(make, load):
    """4g and 3g fill the seven compute slices; a 4g leaves three, though four slices of memory."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    put(nvml, gpu, 5, 0, 4)
    assert nvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, 19) == 3
    for start in (4, 5, 6):
        put(nvml, gpu, 19, start, 1)
    for profile in (19, 15, 14):
        assert nvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, profile) == 0


def test_destroy_gpu_instance_with_a_compute_instance(make, load):
    """A GPU instance that has a compute instance is IN_USE; without it, it can go."""
    simulation = make()
    nvml = load(simulation)
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(0), 9, 0, 4)
    ci = nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)
    assert error_of(nvml, nvml.nvmlGpuInstanceDestroy, gi) == nvml.NVML_ERROR_IN_USE
    nvml.nvmlComputeInstanceDestroy(ci)
    nvml.nvmlGpuInstanceDestroy(gi)
    assert simulation.instances() == []


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_destroy_compute_instance_with_a_client(make, load, end):
    """A program that uses a compute instance keeps it IN_USE until it ends, however it ends."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    ci = nvml.nvmlGpuInstanceCreateComputeInstance(put(nvml, gpu, 9, 4, 4), 2)
    mig = nvml.nvmlComputeInstanceGetInfo_v2(ci).device
    with simulation.client(nvml.nvmlDeviceGetUUID(mig), used_bytes=5 << 20) as process:
        assert error_of(nvml, nvml.nvmlComputeInstanceDestroy, ci) == nvml.NVML_ERROR_IN_USE
        for device in (gpu, mig):
            (seen,) = nvml.nvmlDeviceGetComputeRunningProcesses(device)
            assert (seen.pid, seen.usedGpuMemory) == (process.pid, 5 << 20)
            assert (seen.gpuInstanceId, seen.computeInstanceId) == (2, 0)
        assert nvml.nvmlDeviceGetGraphicsRunningProcesses(gpu) == []
        used = nvml.nvmlDeviceGetMemoryInfo(mig).used
        process.send_signal(end)
        process.wait()
        assert nvml.nvmlDeviceGetComputeRunningProcesses(gpu) == []
        assert nvml.nvmlDeviceGetMemoryInfo(mig).used == used - (5 << 20)
        nvml.nvmlComputeInstanceDestroy(ci)


def test_a_zombie_holds_nothing(make, load):
    """A client that was killed but not yet waited for no longer holds its instance."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    ci = nvml.nvmlGpuInstanceCreateComputeInstance(put(nvml, gpu, 9, 4, 4), 2)
    uuid = nvml.nvmlDeviceGetUUID(nvml.nvmlComputeInstanceGetInfo_v2(ci).device)
    with simulation.client(uuid) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        nvml.nvmlComputeInstanceDestroy(ci)
        assert process.returncode is None


def test_not_found(make, load):
    """Absent instances by id, and a MIG index beyond the last device, are NOT_FOUND."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    gi = put(nvml, gpu, 9, 0, 4)
    gone = nvml.NVML_ERROR_NOT_FOUND
    for call, *arguments in (
        (nvml.nvmlDeviceGetGpuInstanceById, gpu, 2),
        (nvml.nvmlDeviceGetGpuInstanceById, gpu, 99),
        (nvml.nvmlGpuInstanceGetComputeInstanceById, gi, 0),
        (nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, 0),
        (nvml.nvmlDeviceGetHandleByUUID, "MIG-00000000-0000-5000-8000-000000000000"),
        (nvml.nvmlDeviceGetHandleByUUID, "GPU-00000000-0000-5000-8000-000000000000"),
    ):
        assert error_of(nvml, call, *arguments) == gone


def test_stale_handles(make, load):
    """A handle of what was destroyed is INVALID_ARGUMENT, also when its like is made again."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    gi = put(nvml, gpu, 9, 0, 4)
    ci = nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)
    mig = nvml.nvmlComputeInstanceGetInfo_v2(ci).device
    nvml.nvmlComputeInstanceDestroy(ci)
    nvml.nvmlGpuInstanceDestroy(gi)
    again = nvml.nvmlGpuInstanceCreateComputeInstance(put(nvml, gpu, 9, 0, 4), 2)
    stale = nvml.NVML_ERROR_INVALID_ARGUMENT
    for call, *arguments in (
        (nvml.nvmlGpuInstanceGetInfo, gi),
        (nvml.nvmlGpuInstanceDestroy, gi),
        (nvml.nvmlGpuInstanceCreateComputeInstance, gi, 2),
        (nvml.nvmlComputeInstanceGetInfo_v2, ci),
        (nvml.nvmlComputeInstanceDestroy, ci),
        (nvml.nvmlDeviceGetUUID, mig),
        (nvml.nvmlDeviceGetGpuInstanceId, mig),
    ):
        assert error_of(nvml, call, *arguments) == stale
    assert nvml.nvmlComputeInstanceGetInfo_v2(again).id == 0


def test_made_up_handles(make, load):
    """A pointer that is no handle of the library is refused, not followed."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    for bits in (0, 1, 0xDEADBEEF, 2**64 - 1):
        wrong = ctypes.cast(bits, nvml.c_nvmlDevice_t)
        assert error_of(nvml, nvml.nvmlDeviceGetName, wrong) == nvml.NVML_ERROR_INVALID_ARGUMENT
    not_gi = error_of(nvml, nvml.nvmlGpuInstanceDestroy, gpu)
    assert not_gi == nvml.NVML_ERROR_INVALID_ARGUMENT


def test_first_gpu_instance_while_a_program_runs(make, load):
    """No GPU instance can be made while a program uses the whole GPU: IN_USE."""
    simulation = make(mig_enabled=False)
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    with simulation.client(nvml.nvmlDeviceGetUUID(gpu)):
        (seen,) = nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
        assert seen.gpuInstanceId == 0xFFFFFFFF
        assert nvml.nvmlDeviceSetMigMode(gpu, 1) == nvml.NVML_ERROR_IN_USE
        assert nvml.nvmlDeviceGetMigMode(gpu) == [0, 1]
    assert nvml.nvmlDeviceSetMigMode(gpu, 1) == nvml.NVML_ERROR_RESET_REQUIRED


def test_uninitialised(make, load):
    """Before nvmlInit and after the last nvmlShutdown every call is UNINITIALIZED."""
    nvml = load(make())
    nvml.nvmlInit()
    nvml.nvmlShutdown()
    assert nvml.nvmlDeviceGetCount() == 1
    nvml.nvmlShutdown()
    assert error_of(nvml, nvml.nvmlDeviceGetCount) == nvml.NVML_ERROR_UNINITIALIZED
    nvml.nvmlInit()


def test_placement_by_value_kills_the_process(make, program):
    """The trap of nvidia-ml-py: a placement passed as a plain struct is taken for an address."""
    trap = "nvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, 9, "
    place = "nvml.c_nvmlGpuInstancePlacement_t(4, 4)"
    simulation = make()
    good = program(simulation, f"{trap}ctypes.byref({place}))")
    assert (good.communicate()[1], good.returncode) == ("", 0)
    bad = program(simulation, f"{trap}{place})")
    bad.communicate()
    assert bad.returncode == -signal.SIGSEGV
    assert simulation.counts().made == 1


def test_no_state_no_driver(make, tmp_path):
    """A library without a simulation around it says that the driver is not loaded."""
    simulation = make()
    (tmp_path / "alone").mkdir()
    copy = tmp_path / "alone" / simulation.library.name
    copy.write_bytes(simulation.library.read_bytes())
    assert ctypes.CDLL(str(copy)).nvmlInitWithFlags(0) == pynvml.NVML_ERROR_DRIVER_NOT_LOADED


def test_found_by_its_soname(make):
    """nvidia-ml-py finds the library by LD_LIBRARY_PATH alone, and needs no other variable."""
    simulation = make("A100-SXM4-40GB:2")
    done = subprocess.run(
        [
            os.sys.executable,
            "-c",
            "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())",
        ],
        env={"LD_LIBRARY_PATH": str(simulation.library.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "2\n"
