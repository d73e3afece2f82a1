"""Where instances go, what they are called, and what excludes what."""

import ctypes

import pytest

from .helpers import error_of, put

ALL_STARTS = {"identity8": [7, 8, 9, 10, 11, 12, 13], "swapped8": [11, 12, 13, 14, 7, 8, 9]}


def info(nvml, gi):
    """Id and start of a GPU instance."""
    found = nvml.nvmlGpuInstanceGetInfo(gi)
    return found.id, found.placement.start


@pytest.mark.parametrize(
    ("scheme", "halves", "quarters"),
    [("identity8", [1, 2], [3, 4, 5, 6]), ("swapped8", [2, 1], [5, 6, 3, 4])],
)
def test_ids_of_eight_slices(make, load, scheme, halves, quarters):
    """Both documented maps from placement to GPU instance id, on one chip."""
    nvml = load(make("A100-SXM4-40GB", gi_ids=scheme))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    for profile, size, ids in (
        (19, 1, ALL_STARTS[scheme]),
        (15, 2, quarters),
        (9, 4, halves),
        (0, 8, [0]),
    ):
        made = [put(nvml, gpu, profile, number * size, size) for number in range(len(ids))]
        assert [info(nvml, gi)[0] for gi in made] == ids
        for gi in made:
            nvml.nvmlGpuInstanceDestroy(gi)


def test_schemes_can_differ_per_gpu(make, load):
    """Two boards of one model in one node may number their instances differently."""
    simulation = make("A100-SXM4-40GB:1:identity8", "A100-SXM4-40GB:1:swapped8")
    nvml = load(simulation)
    for index, expected in ((0, 1), (1, 2)):
        gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(index), 9, 0, 4)
        assert nvml.nvmlGpuInstanceGetInfo(gi).id == expected


@pytest.mark.parametrize(
    ("model", "quarter", "unit"), [("A30-24GB", 14, 1), ("RTX-PRO-6000-BLACKWELL-96GB", 14, 3)]
)
def test_ids_of_four_slices(make, load, model, quarter, unit):
    """GPUs of four slices: 0 the whole, 1 and 2 the halves, 3 to 6 the quarters."""
    nvml = load(make(model))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    for profile, size, ids in (
        (quarter, unit, [3, 4, 5, 6]),
        (5, 2 * unit, [1, 2]),
        (0, 4 * unit, [0]),
    ):
        made = [put(nvml, gpu, profile, number * size, size) for number in range(len(ids))]
        assert [info(nvml, gi)[0] for gi in made] == ids
        for gi in made:
            nvml.nvmlGpuInstanceDestroy(gi)
    assert nvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 4


@pytest.mark.parametrize(
    ("model", "profiles", "starts"),
    [
        ("A100-SXM4-40GB", [19] * 7, [6, 4, 5, 0, 1, 2, 3]),
        ("A100-SXM4-40GB", [9, 9], [4, 0]),
        ("A100-SXM4-40GB", [19, 14, 5], [6, 4, 0]),
        ("A100-SXM4-40GB", [9, 19, 14, 19], [4, 0, 2, 1]),
        ("H100-PCIE-80GB", [15], [6]),
    ],
)
def test_default_placement(make, load, model, profiles, starts):
    """Without a placement the driver takes the one that leaves most options, as documented."""
    nvml = load(make(model))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    made = [nvml.nvmlDeviceCreateGpuInstance(gpu, profile) for profile in profiles]
    assert [info(nvml, gi)[1] for gi in made] == starts


def test_order_matters_without_placement(make, load):
    """19,19,14 leaves no room for a 3g, though all four fit: a known issue, kept."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    for profile in (19, 19, 14):
        nvml.nvmlDeviceCreateGpuInstance(gpu, profile)
    none = error_of(nvml, nvml.nvmlDeviceCreateGpuInstance, gpu, 9)
    assert none == nvml.NVML_ERROR_INSUFFICIENT_RESOURCES


def test_possible_placements_and_instances_by_profile(make, load):
    """Placements are all legal ones, occupied or not; instances are listed per profile, by id."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    put(nvml, gpu, 14, 4, 2)
    put(nvml, gpu, 14, 0, 2)
    put(nvml, gpu, 19, 6, 1)
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, 14, None, ctypes.byref(count))
    places = (nvml.c_nvmlGpuInstancePlacement_t * count.value)()
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, 14, places, ctypes.byref(count))
    assert [(place.start, place.size) for place in places] == [(0, 2), (2, 2), (4, 2)]
    found = (nvml.c_nvmlGpuInstance_t * 8)()
    nvml.nvmlDeviceGetGpuInstances(gpu, 14, found, ctypes.byref(count))
    assert [info(nvml, gi) for gi in found[: count.value]] == [(3, 0), (5, 4)]
    nvml.nvmlDeviceGetGpuInstances(gpu, 9, found, ctypes.byref(count))
    assert count.value == 0
    same = nvml.nvmlDeviceGetGpuInstanceById(gpu, 5)
    assert info(nvml, same) == (5, 4)


def test_remaining_capacity(make, load):
    """Remaining capacity counts how many more of a profile could be made now."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    remaining = nvml.nvmlDeviceGetGpuInstanceRemainingCapacity
    assert [remaining(gpu, p) for p in (19, 20, 15, 14, 9, 5, 0)] == [7, 1, 4, 3, 2, 1, 1]
    put(nvml, gpu, 14, 2, 2)
    assert [remaining(gpu, p) for p in (19, 20, 15, 14, 9, 5, 0)] == [5, 1, 3, 2, 1, 0, 0]


def test_one_media_extension(make, load):
    """One +me instance, of whatever size, blocks every other +me of the GPU."""
    nvml = load(make("A30-24GB"))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    put(nvml, gpu, 21, 0, 1)
    for profile, start, size in ((21, 1, 1), (6, 2, 2)):
        blocked = error_of(nvml, put, nvml, gpu, profile, start, size)
        assert blocked == nvml.NVML_ERROR_INSUFFICIENT_RESOURCES
    put(nvml, gpu, 5, 2, 2)
    assert nvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, 14) == 1


def test_all_media_extensions(make, load):
    """+me.all leaves only -me for the rest; -me and +gfx leave all others."""
    nvml = load(make("RTX-PRO-6000-BLACKWELL-96GB"))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    everything = put(nvml, gpu, 65, 0, 3)
    for profile, start, size in ((14, 3, 3), (21, 3, 3), (47, 3, 3), (5, 6, 6), (64, 6, 6)):
        blocked = error_of(nvml, put, nvml, gpu, profile, start, size)
        assert blocked == nvml.NVML_ERROR_INSUFFICIENT_RESOURCES
    put(nvml, gpu, 67, 3, 3)
    put(nvml, gpu, 66, 6, 6)
    nvml.nvmlGpuInstanceDestroy(everything)
    put(nvml, gpu, 47, 0, 3)


def test_compute_instances_take_the_lowest_free_id(make, load):
    """Compute instance ids are the lowest free ones, and never more fit than slices there are."""
    nvml = load(make())
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(0), 5, 0, 4)
    made = [nvml.nvmlGpuInstanceCreateComputeInstance(gi, 0) for _ in range(4)]
    ids = [nvml.nvmlComputeInstanceGetInfo_v2(ci).id for ci in made]
    assert ids == [0, 1, 2, 3]
    full = error_of(nvml, nvml.nvmlGpuInstanceCreateComputeInstance, gi, 0)
    assert full == nvml.NVML_ERROR_INSUFFICIENT_RESOURCES
    nvml.nvmlComputeInstanceDestroy(made[1])
    again = nvml.nvmlGpuInstanceCreateComputeInstance(gi, 0)
    found = nvml.nvmlComputeInstanceGetInfo_v2(again)
    assert (found.id, found.placement.start, found.placement.size) == (1, 1, 1)


def test_compute_instance_placement(make, load):
    """A compute instance may be placed; its placements and capacity are those of its profile."""
    nvml = load(make())
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(0), 5, 0, 4)
    place = nvml.c_nvmlComputeInstancePlacement_t(2, 2)
    create = nvml.nvmlGpuInstanceCreateComputeInstanceWithPlacement
    ci = create(gi, 1, ctypes.byref(place))
    assert nvml.nvmlComputeInstanceGetInfo_v2(ci).placement.start == 2
    remaining = nvml.nvmlGpuInstanceGetComputeInstanceRemainingCapacity
    assert [remaining(gi, profile) for profile in (0, 1, 3)] == [2, 1, 0]
    occupied = error_of(nvml, create, gi, 1, ctypes.byref(place))
    assert occupied == nvml.NVML_ERROR_INSUFFICIENT_RESOURCES
    count = ctypes.c_uint()
    places = (nvml.c_nvmlComputeInstancePlacement_t * 8)()
    nvml.nvmlGpuInstanceGetComputeInstancePossiblePlacements(gi, 1, places, ctypes.byref(count))
    assert [(p.start, p.size) for p in places[: count.value]] == [(0, 2), (2, 2)]
    found = (nvml.c_nvmlComputeInstance_t * 8)()
    nvml.nvmlGpuInstanceGetComputeInstances(gi, 1, found, ctypes.byref(count))
    assert count.value == 1
    by_id = nvml.nvmlGpuInstanceGetComputeInstanceById(gi, 0)
    assert nvml.nvmlComputeInstanceGetInfo_v2(by_id).profileId == 1


def test_wide_compute_instance_of_hopper(make, load):
    """H100's 2g has a compute profile of one slice and 26 SMs, once, and nothing beside it."""
    nvml = load(make("H100-SXM5-80GB"))
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(0), 14, 0, 2)
    wide = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, 7, 0)
    assert (wide.id, wide.sliceCount, wide.multiprocessorCount) == (7, 1, 26)
    nvml.nvmlGpuInstanceCreateComputeInstance(gi, 7)
    beside = error_of(nvml, nvml.nvmlGpuInstanceCreateComputeInstance, gi, 0)
    assert beside == nvml.NVML_ERROR_INSUFFICIENT_RESOURCES


def test_mig_devices_are_numbered_densely(make, load):
    """MIG index: by GPU instance id, then compute instance id, anew after every change."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    high = put(nvml, gpu, 9, 4, 4)
    low = put(nvml, gpu, 9, 0, 4)
    first = nvml.nvmlGpuInstanceCreateComputeInstance(high, 2)
    for _ in range(2):
        nvml.nvmlGpuInstanceCreateComputeInstance(low, 0)
    assert nvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 7

    def ids():
        found = []
        while not error_of(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, len(found)):
            mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, len(found))
            assert nvml.nvmlDeviceGetIndex(mig) == len(found)
            found.append(
                (nvml.nvmlDeviceGetGpuInstanceId(mig), nvml.nvmlDeviceGetComputeInstanceId(mig))
            )
        return found

    assert ids() == [(1, 0), (1, 1), (2, 0)]
    nvml.nvmlComputeInstanceDestroy(nvml.nvmlGpuInstanceGetComputeInstanceById(low, 0))
    assert ids() == [(1, 1), (2, 0)]
    nvml.nvmlComputeInstanceDestroy(first)
    assert ids() == [(1, 1)]


def test_mig_device(make, load):
    """A MIG device has its instance's name, size and memory, and knows its GPU."""
    nvml = load(make("A100-SXM4-40GB:2"))
    gpu = nvml.nvmlDeviceGetHandleByIndex(1)
    gi = put(nvml, gpu, 9, 4, 4)
    whole = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, 2, 0)
    part = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, 0, 0)
    assert (whole.name, part.name) == ("MIG 3g.20gb", "MIG 1c.3g.20gb")
    mig = nvml.nvmlComputeInstanceGetInfo_v2(
        nvml.nvmlGpuInstanceCreateComputeInstance(gi, 1)
    ).device
    assert nvml.nvmlDeviceIsMigDeviceHandle(mig)
    assert not nvml.nvmlDeviceIsMigDeviceHandle(gpu)
    assert nvml.nvmlDeviceGetName(mig) == "NVIDIA A100-SXM4-40GB MIG 2c.3g.20gb"
    size = nvml.nvmlDeviceGetAttributes(mig)
    assert (size.gpuInstanceSliceCount, size.computeInstanceSliceCount) == (3, 2)
    assert (size.memorySizeMB, size.multiprocessorCount) == (19968, 28)
    assert nvml.nvmlDeviceGetMemoryInfo(mig).total == 19968 << 20
    parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)
    assert nvml.nvmlDeviceGetUUID(parent) == nvml.nvmlDeviceGetUUID(gpu)
    wrong = error_of(nvml, nvml.nvmlDeviceGetGpuInstanceId, gpu)
    assert wrong == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert error_of(nvml, nvml.nvmlDeviceGetMinorNumber, mig) == nvml.NVML_ERROR_NOT_SUPPORTED


def make_and_destroy(nvml, gpu, profile, compute):
    """Make an instance at 0:4, give its MIG UUID, destroy it."""
    gi = put(nvml, gpu, profile, 0, 4)
    ci = nvml.nvmlGpuInstanceCreateComputeInstance(gi, compute)
    uuid = nvml.nvmlDeviceGetUUID(nvml.nvmlComputeInstanceGetInfo_v2(ci).device)
    nvml.nvmlComputeInstanceDestroy(ci)
    nvml.nvmlGpuInstanceDestroy(gi)
    return uuid


def test_stable_uuids(make, load):
    """By default the MIG UUID follows from GPU, instance id and engine, not from the profile."""
    nvml = load(make("A100-SXM4-40GB:2"))
    first, second = (nvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1))
    uuid = make_and_destroy(nvml, first, 9, 2)
    assert uuid == make_and_destroy(nvml, first, 5, 3)
    assert uuid != make_and_destroy(nvml, second, 9, 2)
    prefix, _, number = uuid.partition("-")
    assert (prefix, len(number), number[14]) == ("MIG", 36, "5")


def test_fresh_uuids(make, load):
    """In the other documented mode an instance that is made again has another UUID."""
    nvml = load(make(uuid_mode="fresh"))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    assert make_and_destroy(nvml, gpu, 9, 2) != make_and_destroy(nvml, gpu, 9, 2)


def test_device_by_uuid(make, load):
    """GPUs and MIG devices are found by UUID, MIG devices also by the form before R470."""
    nvml = load(make("A100-SXM4-40GB:2"))
    gpu = nvml.nvmlDeviceGetHandleByIndex(1)
    ci = nvml.nvmlGpuInstanceCreateComputeInstance(put(nvml, gpu, 9, 4, 4), 2)
    mig = nvml.nvmlDeviceGetUUID(nvml.nvmlComputeInstanceGetInfo_v2(ci).device)
    whole = nvml.nvmlDeviceGetUUID(gpu)
    for text, found in ((mig, mig), (whole, whole), (f"MIG-{whole}/2/0", mig)):
        handle = nvml.nvmlDeviceGetHandleByUUID(text)
        assert nvml.nvmlDeviceGetUUID(handle) == found
    for text, error in (
        (f"MIG-{whole}/1/0", nvml.NVML_ERROR_NOT_FOUND),
        (f"MIG-{whole}/2", nvml.NVML_ERROR_INVALID_ARGUMENT),
        ("0", nvml.NVML_ERROR_INVALID_ARGUMENT),
    ):
        assert error_of(nvml, nvml.nvmlDeviceGetHandleByUUID, text) == error


class ProfileV3(ctypes.Structure):
    """nvmlGpuInstanceProfileInfo_v3_t, which nvidia-ml-py has no wrapper for."""

    _fields_ = (
        *((name, ctypes.c_uint) for name in ("version", "id", "slices", "count", "sm")),
        *((name, ctypes.c_uint) for name in ("ce", "dec", "enc", "jpeg", "ofa")),
        ("memory_mb", ctypes.c_ulonglong),
        ("name", ctypes.c_char * 96),
        ("capabilities", ctypes.c_uint),
    )


def test_profile_information_version_3(make, load):
    """Version 3 of the profile information carries capabilities: 2 is graphics."""
    nvml = load(make("RTX-PRO-6000-BLACKWELL-96GB"))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    found = {}
    for index in (0, 10):
        info = ProfileV3(version=ctypes.sizeof(ProfileV3) | 3 << 24)
        assert (
            nvml.nvmlLib.nvmlDeviceGetGpuInstanceProfileInfoV(gpu, index, ctypes.byref(info)) == 0
        )
        found[info.name] = (info.id, info.sm, info.memory_mb, info.capabilities)
    assert found == {b"MIG 1g.24gb": (14, 46, 24192, 0), b"MIG 1g.24gb+gfx": (47, 46, 24192, 2)}


def test_unknown_structure_version(make, load):
    """A structure of a version that the driver does not know is refused untouched."""
    nvml = load(make())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    info = ProfileV3(version=ctypes.sizeof(ProfileV3) | 9 << 24)
    answer = nvml.nvmlLib.nvmlDeviceGetGpuInstanceProfileInfoV(gpu, 0, ctypes.byref(info))
    assert answer == nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
    assert (info.id, info.name) == (0, b"")


def test_names_of_a_gpu(make, load):
    """A GPU is found by index, PCI bus id in every form, and serial number."""
    nvml = load(make("A100-SXM4-40GB:2"))
    gpu = nvml.nvmlDeviceGetHandleByIndex(1)
    bus = nvml.nvmlDeviceGetPciInfo(gpu).busId
    assert bus == "00000000:0F:00.0"
    uuid = nvml.nvmlDeviceGetUUID(gpu)
    for text in (bus, bus[4:], bus[9:]):
        assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByPciBusId(text)) == uuid
    serial = nvml.nvmlDeviceGetSerial(gpu)
    assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleBySerial(serial)) == uuid
    absent = error_of(nvml, nvml.nvmlDeviceGetHandleByPciBusId, "0000:99:00.0")
    assert absent == nvml.NVML_ERROR_NOT_FOUND
    beyond = error_of(nvml, nvml.nvmlDeviceGetHandleByIndex, 2)
    assert beyond == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert nvml.nvmlDeviceGetMinorNumber(gpu) == 1
    assert tuple(nvml.nvmlDeviceGetCudaComputeCapability(gpu)) == (8, 0)


def test_reload_of_the_driver(make):
    """A reload ends every instance; the boot id stays, sysfs has a new folder for the module."""
    simulation = make("A100-SXM4-40GB")
    module = simulation.root / "sys/module/nvidia"
    boot, before = simulation.boot_id(), module.stat().st_ino
    assert module.is_dir()
    simulation.reload()
    assert (simulation.boot_id(), simulation.instances()) == (boot, [])
    assert module.stat().st_ino != before
    assert [path.name for path in module.parent.iterdir()] == ["nvidia"]
