"""Faults, counters, clients without permission: what the handle can bring about."""

import os
import signal

import pytest

from slurm_mig.errors import RequestError, SlurmMigError
from slurm_mig.simulator.handle import ANY

from .helpers import NOBODY, can_make_nodes, error_of, put


def test_the_nth_call_fails_once(make, load):
    """The n-th call from now on fails with the chosen error, without effect; others do not."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    simulation.fail("nvmlDeviceCreateGpuInstance", nth=2, error="INSUFFICIENT_RESOURCES")
    answers = [error_of(nvml, nvml.nvmlDeviceCreateGpuInstance, gpu, 19) for _ in range(3)]
    assert answers == [0, nvml.NVML_ERROR_INSUFFICIENT_RESOURCES, 0]
    assert simulation.counts().made == 2


def test_from_the_nth_call_on(make, load):
    """With once=False all calls from the n-th on fail, until the faults are cleared."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    simulation.fail("nvmlDeviceGetMigMode", nth=2, once=False, error="GPU_IS_LOST")
    answers = [error_of(nvml, nvml.nvmlDeviceGetMigMode, gpu) for _ in range(4)]
    assert answers == [0] + [nvml.NVML_ERROR_GPU_IS_LOST] * 3
    assert simulation.faults() == {"nvmlDeviceGetMigMode": "GPU_IS_LOST, from then on"}
    simulation.clear_faults()
    assert error_of(nvml, nvml.nvmlDeviceGetMigMode, gpu) == 0
    assert simulation.faults() == {}


def test_fails_after_it_was_done(make, load):
    """With after=True a create is carried out although it reports an error."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    simulation.fail("nvmlDeviceCreateGpuInstanceWithPlacement", error="TIMEOUT", after=True)
    assert error_of(nvml, put, nvml, gpu, 9, 0, 4) == nvml.NVML_ERROR_TIMEOUT
    assert simulation.counts().left == 1


def test_the_nth_call_of_anything(make, load):
    """With ANY calls are counted over all functions, and a fault hits whichever is the n-th."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    before = simulation.calls_of_any()
    assert before == sum(simulation.calls().values())
    simulation.fail(ANY, nth=3, error="TIMEOUT")
    assert simulation.faults() == {"any": "TIMEOUT, once"}
    asked = (nvml.nvmlDeviceGetName, nvml.nvmlDeviceGetUUID, nvml.nvmlDeviceGetMigMode)
    answers = [error_of(nvml, function, gpu) for function in (*asked, *asked)]
    assert answers == [0, 0, nvml.NVML_ERROR_TIMEOUT, 0, 0, 0]
    assert simulation.faults() == {}
    simulation.fail(ANY, nth=2, once=False, error="UNKNOWN")
    answers = [error_of(nvml, function, gpu) for function in asked]
    assert answers == [0, nvml.NVML_ERROR_UNKNOWN, nvml.NVML_ERROR_UNKNOWN]
    assert simulation.calls_of_any() == before + 9
    simulation.clear_faults()
    assert error_of(nvml, nvml.nvmlDeviceGetName, gpu) == 0
    assert simulation.calls()["nvmlDeviceGetName"] == 4


def test_fault_of_one_function_beside_that_of_any(make, load):
    """Both count down at every call; a function's own fault comes first."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    simulation.fail("nvmlDeviceGetName", error="TIMEOUT")
    simulation.fail(ANY, nth=2, error="UNKNOWN")
    answers = [error_of(nvml, nvml.nvmlDeviceGetName, gpu) for _ in range(3)]
    assert answers == [nvml.NVML_ERROR_TIMEOUT, nvml.NVML_ERROR_UNKNOWN, 0]


@pytest.mark.parametrize(("after", "left"), [(False, 0), (True, 1)])
def test_kill(make, program, after, left):
    """KILL kills the calling process by SIGKILL, before the call or after its effect."""
    simulation = make()
    simulation.fail("nvmlDeviceCreateGpuInstance", error="KILL", after=after)
    process = program(simulation, "nvml.nvmlDeviceCreateGpuInstance(gpu, 9)")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert simulation.counts().left == left


def test_init_can_fail(make, load):
    """Even nvmlInit can be made to fail, as when the driver is not there."""
    simulation = make()
    nvml = load(simulation)
    simulation.fail("nvmlInit", error="DRIVER_NOT_LOADED")
    assert error_of(nvml, nvml.nvmlInit) == nvml.NVML_ERROR_DRIVER_NOT_LOADED


def test_calls_are_counted(make, load, run):
    """Calls are counted per function over all processes, also those that fail."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    before = simulation.calls()
    for _ in range(3):
        nvml.nvmlDeviceGetUUID(gpu)
    error_of(nvml, nvml.nvmlDeviceCreateGpuInstance, gpu, 77)
    run(simulation, "nvml.nvmlDeviceGetUUID(gpu)")
    after = simulation.calls()
    assert after["nvmlDeviceGetUUID"] - before.get("nvmlDeviceGetUUID", 0) == 4
    assert after["nvmlDeviceCreateGpuInstance"] == 1
    assert after["nvmlInit"] == 2


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses"),
        ("nvmlDeviceGetGpuInstanceProfileInfoV", "nvmlDeviceGetGpuInstanceProfileInfo"),
        ("nvmlInitWithFlags", "nvmlInit"),
        ("DeviceGetUUID", "nvmlDeviceGetUUID"),
    ],
)
def test_function_names(make, name, counted):
    """A function may be named with its version, or without the prefix."""
    assert make().function(name) == counted


def test_unknown_names(make):
    """Unknown functions, errors and call numbers are refused, with the nearest name."""
    simulation = make()
    with pytest.raises(RequestError, match=r"'nvmlGpuInstanceDestory'.*nvmlGpuInstanceDestroy"):
        simulation.fail("nvmlGpuInstanceDestory")
    with pytest.raises(RequestError, match=r"'INUSE'.*IN_USE"):
        simulation.fail("nvmlGpuInstanceDestroy", error="INUSE")
    with pytest.raises(RequestError, match="call number 0"):
        simulation.fail("nvmlGpuInstanceDestroy", nth=0)


def test_client_of_what_is_not_there(make):
    """Nobody can use a MIG device that does not exist, nor the whole of a partitioned GPU."""
    simulation = make()
    absent = "MIG-00000000-0000-5000-8000-000000000000"
    with pytest.raises(SlurmMigError, match="NOT_FOUND"), simulation.client(absent):
        pass
    with (
        pytest.raises(SlurmMigError, match="NOT_SUPPORTED"),
        simulation.client(simulation.gpus()[0].uuid),
    ):
        pass
    assert simulation.clients() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_client_needs_the_capability_files(public, make_in, load):
    """A user who may not open an instance's capability files cannot use it; by default all may."""
    if not can_make_nodes(public):
        pytest.skip("no device nodes can be made here")
    simulation = make_in(public / "sim")
    nvml = load(simulation)
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(0), 9, 0, 4)
    ci = nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)
    uuid = nvml.nvmlDeviceGetUUID(nvml.nvmlComputeInstanceGetInfo_v2(ci).device)
    with simulation.client(uuid, user=NOBODY) as process:
        (seen,) = simulation.clients()
        assert seen.pid == process.pid
    (simulation.root / "dev/nvidia-caps/nvidia-cap12").chmod(0o400)
    with (
        pytest.raises(SlurmMigError, match="NO_PERMISSION"),
        simulation.client(uuid, user=NOBODY),
    ):
        pass
    os.chown(simulation.root / "dev/nvidia-caps/nvidia-cap12", NOBODY, NOBODY)
    with simulation.client(uuid, user=NOBODY):
        assert len(simulation.clients()) == 1
