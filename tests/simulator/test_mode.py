"""MIG mode, resets and reboots."""

import pytest

from slurm_mig.errors import SlurmMigError

from .helpers import error_of, put


def test_ampere_needs_a_reset(make, load):
    """Ampere: the call succeeds, the mode is pending until a reset, and survives a reboot."""
    simulation = make(mig_enabled=False)
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    assert nvml.nvmlDeviceSetMigMode(gpu, 1) == nvml.NVML_ERROR_RESET_REQUIRED
    assert nvml.nvmlDeviceGetMigMode(gpu) == [0, 1]
    off = error_of(nvml, nvml.nvmlDeviceCreateGpuInstance, gpu, 19)
    assert off == nvml.NVML_ERROR_NOT_SUPPORTED
    simulation.reset_gpu(0)
    assert nvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    simulation.reboot()
    assert nvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    assert nvml.nvmlDeviceSetMigMode(gpu, 1) == nvml.NVML_SUCCESS


@pytest.mark.parametrize("model", ["H100-SXM5-80GB", "B200-180GB", "RTX-PRO-6000-BLACKWELL-96GB"])
def test_hopper_and_later(make, load, model):
    """Hopper and later: the mode changes at once, survives a reset, and is lost at reboot."""
    simulation = make(model, mig_enabled=False)
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    assert nvml.nvmlDeviceSetMigMode(gpu, 1) == nvml.NVML_SUCCESS
    assert nvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    simulation.reset_gpu(0)
    assert nvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    simulation.reboot()
    assert nvml.nvmlDeviceGetMigMode(gpu) == [0, 0]


def test_resetless_is_announced(make, load):
    """Field 184 says whether MIG mode changes without a reset, 199 that profiles show without."""
    nvml = load(make("A100-SXM4-40GB", "H200-SXM5-141GB", "T4-16GB"))
    answers = []
    for index in range(3):
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        fields = nvml.nvmlDeviceGetFieldValues(gpu, [184, 199, 1])
        answers.append([(field.nvmlReturn, field.value.uiVal) for field in fields])
    no = (nvml.NVML_ERROR_NOT_SUPPORTED, 0)
    assert answers == [[(0, 0), (0, 1), no], [(0, 1), (0, 1), no], [(0, 0), (0, 0), no]]


def test_mode_with_instances(make, load):
    """MIG cannot be switched off while there are GPU instances: IN_USE, and nothing pends."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    gi = put(nvml, gpu, 9, 0, 4)
    assert error_of(nvml, nvml.nvmlDeviceSetMigMode, gpu, 0) == nvml.NVML_ERROR_IN_USE
    assert nvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    nvml.nvmlGpuInstanceDestroy(gi)
    assert nvml.nvmlDeviceSetMigMode(gpu, 0) == nvml.NVML_ERROR_RESET_REQUIRED
    assert nvml.nvmlDeviceGetMigMode(gpu) == [1, 0]


def test_mode_takes_only_0_and_1(make, load):
    """Another mode than 0 and 1 is INVALID_ARGUMENT."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    assert error_of(nvml, nvml.nvmlDeviceSetMigMode, gpu, 2) == nvml.NVML_ERROR_INVALID_ARGUMENT


def test_nothing_survives_a_reboot(make, load):
    """A reboot takes all instances and clients, makes handles stale and changes the boot id."""
    simulation = make("A100-SXM4-40GB:2")
    nvml = load(simulation)
    made = [put(nvml, nvml.nvmlDeviceGetHandleByIndex(i), 9, 0, 4) for i in (0, 1)]
    ci = nvml.nvmlGpuInstanceCreateComputeInstance(made[0], 2)
    uuid = nvml.nvmlDeviceGetUUID(nvml.nvmlComputeInstanceGetInfo_v2(ci).device)
    before = simulation.boot_id()
    with simulation.client(uuid):
        simulation.reboot()
        assert simulation.clients() == []
    assert simulation.instances() == []
    assert simulation.counts() == (2, 0, 2, 0)
    assert simulation.counts(compute=True) == (1, 0, 1, 0)
    assert simulation.boot_id() != before
    stale = error_of(nvml, nvml.nvmlGpuInstanceDestroy, made[0])
    assert stale == nvml.NVML_ERROR_INVALID_ARGUMENT


def test_reset_of_a_gpu_in_use(make, load):
    """A GPU that a program uses cannot be reset; without it, its instances are lost."""
    simulation = make("A100-SXM4-40GB:2")
    nvml = load(simulation)
    for index in (0, 1):
        gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(index), 9, 0, 4)
        nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)
    with (
        simulation.client(simulation.instances()[0].compute[0].uuid),
        pytest.raises(SlurmMigError, match="cannot reset GPU 0: IN_USE"),
    ):
        simulation.reset_gpu(0)
    simulation.reset_gpu(0)
    assert [gi.gpu for gi in simulation.instances()] == [1]


def test_driver_that_resets_the_gpu_itself(make, load):
    """On bare metal the driver resets an idle Ampere GPU to change its mode; not one in use."""
    simulation = make("A100-SXM4-40GB:2", mig_enabled=False, self_reset=True)
    nvml = load(simulation)
    idle, used = (nvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1))
    with simulation.client(nvml.nvmlDeviceGetUUID(used)):
        assert nvml.nvmlDeviceSetMigMode(idle, 1) == nvml.NVML_SUCCESS
        assert nvml.nvmlDeviceSetMigMode(used, 1) == nvml.NVML_ERROR_IN_USE
    assert nvml.nvmlDeviceGetMigMode(idle) == [1, 1]
    assert nvml.nvmlDeviceGetMigMode(used) == [0, 1]
    simulation.reboot()
    assert nvml.nvmlDeviceGetMigMode(idle) == nvml.nvmlDeviceGetMigMode(used) == [1, 1]
