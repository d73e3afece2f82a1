"""Every GPU that can be simulated, through NVML."""

import ctypes

import pytest

from slurm_mig.errors import RequestError
from slurm_mig.profiles import Placement, ProfileName
from slurm_mig.simulator.models import all_models, find_model, gi_ids

from .helpers import error_of, put

MODELS = [model for model in all_models() if model.mig]


def placements(nvml, gpu, profile_id):
    """All legal placements of a profile, as NVML lists them."""
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, profile_id, None, ctypes.byref(count))
    found = (nvml.c_nvmlGpuInstancePlacement_t * count.value)()
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, profile_id, found, ctypes.byref(count))
    return tuple(Placement(place.start, place.size) for place in found)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.key)
def test_profiles_are_the_table(make, load, model):
    """NVML reports each profile as the table has it, by index and by id, and no other."""
    nvml = load(make(model.key))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    assert nvml.nvmlDeviceGetName(gpu) == model.nvml_name
    assert nvml.nvmlDeviceGetPciInfo(gpu).pciDeviceId == model.pci_device_id
    by_index = {profile.index: profile for profile in model.profiles}
    for index in range(nvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        if index not in by_index:
            missing = error_of(nvml, nvml.nvmlDeviceGetGpuInstanceProfileInfo, gpu, index)
            assert missing == nvml.NVML_ERROR_NOT_SUPPORTED
            continue
        profile = by_index[index]
        first = nvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, index, version=1)
        second = nvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, index)
        third = nvml.nvmlDeviceGetGpuInstanceProfileInfoById(gpu, profile.id)
        for info in (first, second, third):
            assert (info.id, info.sliceCount, info.instanceCount, info.memorySizeMB) == (
                profile.id,
                profile.slices,
                profile.max_count,
                profile.memory_mb,
            )
            assert (info.multiprocessorCount, info.copyEngineCount, info.decoderCount) == (
                profile.multiprocessors,
                profile.copy_engines,
                profile.decoders,
            )
            assert (info.encoderCount, info.jpegCount, info.ofaCount) == (
                profile.encoders,
                profile.jpegs,
                profile.ofas,
            )
        assert second.name == third.name == f"MIG {profile.name}"
        assert profile.memory_mb > 0
        assert placements(nvml, gpu, profile.id) == profile.placements


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.key)
def test_every_placement_can_be_used(make, load, model):
    """On an empty GPU each profile fits at each of its placements, with its whole-GI CI."""
    simulation = make(model.key)
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    ids = gi_ids(model, simulation.schemes[0])
    for profile in model.profiles:
        for place in profile.placements:
            gi = put(nvml, gpu, profile.id, *place)
            assert nvml.nvmlGpuInstanceGetInfo(gi).id == ids[place]
            ci = nvml.nvmlGpuInstanceCreateComputeInstance(gi, profile.full_compute().id)
            mig = nvml.nvmlComputeInstanceGetInfo_v2(ci).device
            assert nvml.nvmlDeviceGetName(mig) == f"{model.nvml_name} MIG {profile.name}"
            nvml.nvmlComputeInstanceDestroy(ci)
            nvml.nvmlGpuInstanceDestroy(gi)
    assert simulation.counts().left == 0


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.key)
def test_as_many_as_the_profile_says(make, load, model):
    """From an empty GPU a profile can be made as often as its instanceCount, and not once more."""
    nvml = load(make(model.key))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    for profile in model.profiles:
        made = [nvml.nvmlDeviceCreateGpuInstance(gpu, profile.id) for _ in range(profile.max_count)]
        full = error_of(nvml, nvml.nvmlDeviceCreateGpuInstance, gpu, profile.id)
        assert full == nvml.NVML_ERROR_INSUFFICIENT_RESOURCES
        for gi in made:
            nvml.nvmlGpuInstanceDestroy(gi)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.key)
def test_compute_profiles(make, load, model):
    """Each compute profile is reported as it is, and fits as often as it says."""
    nvml = load(make(model.key))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    for profile in model.profiles:
        gi = put(nvml, gpu, profile.id, *profile.placements[0])
        for compute in profile.compute:
            info = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, compute.index, 0)
            assert (info.id, info.sliceCount, info.instanceCount, info.multiprocessorCount) == (
                compute.id,
                compute.slices,
                compute.max_count,
                compute.multiprocessors,
            )
            assert (info.sharedCopyEngineCount, info.sharedOfaCount) == (
                profile.copy_engines,
                profile.ofas,
            )
            made = [
                nvml.nvmlGpuInstanceCreateComputeInstance(gi, compute.id)
                for _ in range(compute.max_count)
            ]
            full = error_of(nvml, nvml.nvmlGpuInstanceCreateComputeInstance, gi, compute.id)
            assert full == nvml.NVML_ERROR_INSUFFICIENT_RESOURCES
            for ci in made:
                nvml.nvmlComputeInstanceDestroy(ci)
        nvml.nvmlGpuInstanceDestroy(gi)


def test_what_is_not_documented_is_marked(make):
    """A person sees which numbers are inferred or assumed; of a documented GPU there are none."""
    shown = make("B200-180GB", "A100-SXM4-40GB").show()
    first, second = shown.split("GPU 1:")
    assert "inferred from the GPU family: " in first
    assert "unknown, assumed: " in first
    assert "memory_size_mb" in first
    assert "inferred" not in second
    assert "assumed" not in second


def test_unknown_memory_comes_from_the_name(make, load):
    """Where nobody has seen a profile's memory, it is what the profile's name says."""
    model = find_model("H200-NVL-141GB")
    for profile in model.profiles:
        assert profile.memory_mb == 1024 * ProfileName.parse(profile.name).memory_gb
    nvml = load(make(model.key))
    info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(nvml.nvmlDeviceGetHandleByIndex(0), 2)
    assert info.memorySizeMB == 71 * 1024


@pytest.mark.parametrize(
    "name", ["A100-SXM4-40GB", "a100-sxm4-40gb", "NVIDIA A100-SXM4-40GB", "NVIDIA A100 80GB PCIe"]
)
def test_names(name):
    """A GPU may be named by its key or as NVML names it, in any case."""
    assert find_model(name).key.startswith("A100-")


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        ("A100-SXM-40GB", "no GPU 'A100-SXM-40GB'.*nearest is A100-SXM4-40GB"),
        ("A100-SXM4-40GB:0", "'0' is no number of GPUs"),
        ("A100-SXM4-40GB:two", "'two' is no number of GPUs"),
        ("A100-SXM4-40GB:1:quad4", "'quad4' does not fit"),
        ("A30-24GB:1:swapped8", "'swapped8' does not fit"),
        ("A100-SXM4-40GB:1:other", "no GI id scheme 'other'"),
        ("A100-SXM4-40GB:17", "17 GPUs asked for"),
    ],
)
def test_wrong_gpus(make, tmp_path, gpu, message):
    """A GPU, count or scheme that cannot be is refused, with what can be, and nothing is made."""
    with pytest.raises(RequestError, match=message):
        make(gpu)
    assert list(tmp_path.iterdir()) == []


def test_driver_of_another_version(make, load):
    """NVML, CUDA and the driver's tree say the version that was asked for."""
    simulation = make(driver_version="450.80.02", cuda_version=11000)
    nvml = load(simulation)
    assert nvml.nvmlSystemGetDriverVersion() == "450.80.02"
    assert nvml.nvmlSystemGetCudaDriverVersion() == 11000
    text = (simulation.root / "proc/driver/nvidia/version").read_text()
    assert "  450.80.02  " in text


@pytest.mark.parametrize("version", ["", "580 95", "580\n95"])
def test_driver_version_that_cannot_be(make, tmp_path, version):
    """A version that is not one word is refused, and nothing is made."""
    with pytest.raises(RequestError) as caught:
        make(driver_version=version)
    assert str(caught.value) == f"{version!r} is no driver version; write 580.95.05"
    assert list(tmp_path.iterdir()) == []
