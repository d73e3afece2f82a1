"""NVML as the product uses it, on the simulated driver: what is read, made, and how it fails."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm_mig.driver_errors import DriverError, InUse, NoSpace, NotThere
from slurm_mig.errors import NodeFault
from slurm_mig.nvml import ACTIVE, IN_USE, RESET_REQUIRED, Driver, error_text
from slurm_mig.profiles import Placement
from slurm_mig.simulator.handle import Simulation

# One build of the driver for all test processes, inside the repository.
os.environ.setdefault("SLURM_MIG_CACHE", str(Path(__file__).parents[2] / ".cache"))

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., tuple[Simulation, Driver]]]:
    """Makes a simulation and opens its driver."""
    opened: list[Driver] = []

    def make_one(*gpus: str, **options: object) -> tuple[Simulation, Driver]:
        folder = tmp_path / f"sim{len(opened)}"
        simulation = Simulation.create(folder, gpus or ["A100-SXM4-40GB"], **options)
        opened.append(Driver(str(simulation.library)))
        return simulation, opened[-1]

    yield make_one
    for driver in opened[-1:]:
        driver.close()


@pytest.fixture
def one(make):
    """A simulation, its driver, its one GPU, and its profiles by name."""
    simulation, driver = make()
    (gpu,) = driver.gpus()
    return simulation, driver, gpu, {p.name: p for p in driver.geometry(gpu).profiles}


def test_gpus(make):
    """GPUs by index, with what MIG they do: none, off, on."""
    simulation, driver = make("T4-16GB", "A100-SXM4-40GB", "A30-24GB", mig_enabled=False)
    found = driver.gpus()
    assert [(g.index, g.model, g.mig, g.mig_pending) for g in found] == [
        (0, "Tesla T4", None, None),
        (1, "A100-SXM4-40GB", False, False),
        (2, "A30", False, False),
    ]
    assert [g.uuid for g in found] == [g.uuid for g in simulation.gpus()]
    assert len({g.minor for g in found}) == 3
    assert driver.version()


MODELS = ["A100-SXM4-40GB", "A30-24GB", "H100-SXM5-80GB", "RTX-PRO-6000-BLACKWELL-96GB"]


@pytest.mark.parametrize("key", MODELS)
def test_geometry(make, key):
    """Profiles, placements and sizes are what the driver says."""
    simulation, driver = make(key)
    (gpu,) = driver.gpus()
    geometry = driver.geometry(gpu)
    (model,) = simulation.models
    assert geometry.memory_slices == model.memory_slices
    said = {
        p.name: (p.id, p.slices, p.memory_mb, p.max_count, p.placements) for p in model.profiles
    }
    read = {
        p.name: (p.id, p.slices, p.memory_mb, p.max_count, p.placements) for p in geometry.profiles
    }
    assert read == said


def test_geometry_is_asked_once(make):
    """Eight GPUs of a kind are asked once for their profiles."""
    simulation, driver = make("A100-SXM4-40GB:8")
    geometries = {id(driver.geometry(gpu)) for gpu in driver.gpus()}
    assert len(geometries) == 1
    assert simulation.calls()["nvmlDeviceGetGpuInstancePossiblePlacements"] == 14


def test_life_of_an_instance(one):
    """Made where it was asked for, read back by id and in the list, destroyed, gone."""
    simulation, driver, gpu, profiles = one
    gi = driver.create_gi(gpu.uuid, profiles["3g.20gb"], Placement(4, 4))
    bare = driver.instance(gpu.uuid, gi)
    assert (bare.profile_id, bare.placement, bare.cis) == (9, Placement(4, 4), ())
    ci = driver.create_ci(gpu.uuid, gi, 3)
    lives = driver.instance(gpu.uuid, gi)
    assert lives.cis == (ci,)
    assert driver.instances(gpu) == [lives]
    (seen,) = simulation.instances()
    assert (seen.id, seen.compute[0].uuid) == (gi, ci.uuid)
    driver.destroy_ci(gpu.uuid, gi, ci.id)
    driver.destroy_gi(gpu.uuid, gi)
    assert driver.instances(gpu) == []
    with pytest.raises(NotThere):
        driver.instance(gpu.uuid, gi)


def test_all_kinds_are_listed(one):
    """A list holds every GI, also without CI, and with two CIs, by its place."""
    _, driver, gpu, profiles = one
    driver.create_gi(gpu.uuid, profiles["1g.5gb"], Placement(6, 1))
    two = driver.create_gi(gpu.uuid, profiles["4g.20gb"], Placement(0, 4))
    for slices in (2, 1):
        driver.create_ci(gpu.uuid, two, slices)
    found = driver.instances(gpu)
    assert [(gi.placement, len(gi.cis)) for gi in found] == [
        (Placement(0, 4), 2),
        (Placement(6, 1), 0),
    ]
    assert len({ci.uuid for ci in found[0].cis}) == 2


def test_gone_is_success(one):
    """Destroying what is not there is success, for a CI, for a GI."""
    _, driver, gpu, _ = one
    driver.destroy_ci(gpu.uuid, 2, 0)
    driver.destroy_gi(gpu.uuid, 2)


def test_instance_that_goes_while_it_is_read(one, monkeypatch):
    """What another process destroys between the list and the look is not in the list."""
    _, driver, gpu, profiles = one
    stays = driver.create_gi(gpu.uuid, profiles["3g.20gb"], Placement(0, 4))
    goes = driver.create_gi(gpu.uuid, profiles["3g.20gb"], Placement(4, 4))
    read = driver._read_gi

    def overtaken(*arguments):
        monkeypatch.setattr(driver, "_read_gi", read)
        driver.destroy_gi(gpu.uuid, goes)
        return read(*arguments)

    monkeypatch.setattr(driver, "_read_gi", overtaken)
    assert [gi.id for gi in driver.instances(gpu)] == [stays]


@pytest.mark.parametrize("error", ["NOT_FOUND", "INVALID_ARGUMENT"])
def test_ci_that_goes_while_it_is_read(one, error):
    """A CI that another process destroys between the list and the look is not in the list."""
    simulation, driver, gpu, profiles = one
    gi = driver.create_gi(gpu.uuid, profiles["3g.20gb"], Placement(4, 4))
    driver.create_ci(gpu.uuid, gi, 3)
    simulation.fail("nvmlComputeInstanceGetInfo", error=error)
    assert [found.cis for found in driver.instances(gpu)] == [()]
    assert len(driver.instances(gpu)[0].cis) == 1


@pytest.mark.parametrize("error", ["NOT_FOUND", "INVALID_ARGUMENT"])
@pytest.mark.parametrize(
    "function", ["nvmlGpuInstanceGetInfo", "nvmlGpuInstanceGetComputeInstances"]
)
def test_instance_that_cannot_be_read(one, function, error):
    """What stays in the driver's list is there, whatever the driver says when asked about it."""
    simulation, driver, gpu, profiles = one
    gi = driver.create_gi(gpu.uuid, profiles["3g.20gb"], Placement(4, 4))
    simulation.fail(function, error=error)
    assert [found.id for found in driver.instances(gpu)] == [gi]
    simulation.fail(function, once=False, error=error)
    with pytest.raises(NotThere, match=f"3g.20gb.*: {function} failed"):
        driver.instances(gpu)


@pytest.mark.parametrize("function", ["nvmlGpuInstanceDestroy", "nvmlComputeInstanceDestroy"])
def test_instance_that_goes_while_it_is_destroyed(one, function):
    """When another process was faster, the destruction is a success."""
    simulation, driver, gpu, profiles = one
    gi = driver.create_gi(gpu.uuid, profiles["3g.20gb"], Placement(4, 4))
    ci = driver.create_ci(gpu.uuid, gi, 3)
    simulation.fail(function, error="INVALID_ARGUMENT", after=True)
    driver.destroy_ci(gpu.uuid, gi, ci.id)
    driver.destroy_gi(gpu.uuid, gi)
    assert simulation.counts().left == 0


def test_taken_place(one):
    """A place that is taken is NoSpace, with NVML's own words and what was asked."""
    _, driver, gpu, profiles = one
    driver.create_gi(gpu.uuid, profiles["3g.20gb"], Placement(4, 4))
    with pytest.raises(NoSpace) as caught:
        driver.create_gi(gpu.uuid, profiles["2g.10gb"], Placement(4, 2))
    assert str(caught.value) == (
        f"{gpu.uuid} 2g.10gb at 4:2: {CREATE} failed: Insufficient Resources (NVML error 23)"
    )


def test_instance_in_use(one):
    """An instance that a process holds is InUse; who holds it can be told."""
    simulation, driver, gpu, profiles = one
    gi = driver.create_gi(gpu.uuid, profiles["3g.20gb"], Placement(4, 4))
    ci = driver.create_ci(gpu.uuid, gi, 3)
    with simulation.client(ci.uuid) as process:
        with pytest.raises(
            InUse, match=r"nvmlComputeInstanceDestroy failed: .* \(NVML error 19\)$"
        ):
            driver.destroy_ci(gpu.uuid, gi, ci.id)
        with pytest.raises(InUse):
            driver.destroy_gi(gpu.uuid, gi)
        assert driver.clients(gpu.uuid, gi) == [process.pid]
        assert driver.clients(gpu.uuid, gi + 1) == []
    driver.destroy_ci(gpu.uuid, gi, ci.id)


def test_clients_that_cannot_be_told(one):
    """Who holds an instance is for a message only: an error there is nobody."""
    simulation, driver, gpu, _ = one
    simulation.fail("nvmlDeviceGetComputeRunningProcesses", error="UNKNOWN")
    assert driver.clients(gpu.uuid, 2) == []


def test_no_privilege(one):
    """A driver that tells its profiles to others only is not one without profiles."""
    simulation, driver, gpu, _ = one
    driver._geometries.clear()
    function = "nvmlDeviceGetGpuInstanceProfileInfo"
    simulation.fail(function, once=False, error="NO_PERMISSION")
    with pytest.raises(DriverError, match=rf"{function} failed: .* \(NVML error 4\)$"):
        driver.geometry(gpu)


def test_no_ci_of_that_size(one):
    """A GI without a CI profile of that many slices is a fault that names both."""
    _, driver, gpu, profiles = one
    gi = driver.create_gi(gpu.uuid, profiles["2g.10gb"], Placement(0, 2))
    with pytest.raises(NodeFault) as caught:
        driver.create_ci(gpu.uuid, gi, 3)
    said = f"{gpu.uuid} GI {gi}: the driver offers no compute instance of 3 slices"
    assert str(caught.value) == said


def test_unknown_gpu(one):
    """A UUID that the driver does not show is a fault that says where to look."""
    _, driver, _, _ = one
    with pytest.raises(NodeFault) as caught:
        driver.destroy_gi("GPU-gone", 2)
    said = "GPU-gone: the driver shows this GPU no more; look at dmesg for Xid errors"
    assert str(caught.value) == said


def test_gpu_that_fell_off_the_bus(one):
    """A lost GPU is a DriverError with its code, not a missing profile."""
    simulation, driver, gpu, _ = one
    driver._geometries.clear()
    simulation.fail("nvmlDeviceGetGpuInstanceProfileInfo", nth=3, error="GPU_IS_LOST")
    with pytest.raises(DriverError) as caught:
        driver.geometry(gpu)
    assert (caught.value.code, type(caught.value)) == (15, DriverError)
    assert "GPU is lost" in str(caught.value)


def test_gpu_without_profiles(make):
    """A GPU that reports no profile at all is a fault, not an empty GPU."""
    simulation, driver = make()
    (gpu,) = driver.gpus()
    simulation.fail("nvmlDeviceGetGpuInstanceProfileInfo", once=False, error="NOT_SUPPORTED")
    with pytest.raises(NodeFault, match="the driver reports no MIG profile"):
        driver.geometry(gpu)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot open shared object file: No such file or directory"),
        ("not a library", "file too short"),
    ],
)
def test_library_that_cannot_be_loaded(tmp_path, text, said):
    """A missing or broken library is one sentence with the way out."""
    library = tmp_path / "libnvidia-ml.so.1"
    if text is not None:
        library.write_text(text)
    with pytest.raises(NodeFault) as caught:
        Driver(str(library))
    assert str(caught.value) == (
        f"driver library {library}: {library}: {said}; install the NVIDIA driver or set [driver] "
        "library"
    )


def test_another_library_in_the_same_process(make):
    """A second library in one process is really the second, not what was bound before."""
    first, driver = make("A30-24GB")
    assert [gpu.model for gpu in driver.gpus()] == ["A30"]
    driver.close()
    second, driver = make("A100-SXM4-40GB:2")
    assert len(driver.gpus()) == 2
    assert first.calls()["nvmlInit"] == second.calls()["nvmlInit"] == 1


def test_handles_are_passed_by_reference(one):
    """The placement reaches the driver: by value it would end the process (nvidia-ml-py)."""
    simulation, driver, gpu, profiles = one
    for start in (6, 0, 3):
        driver.create_gi(gpu.uuid, profiles["1g.5gb"], Placement(start, 1))
    assert [str(gi.placement) for gi in driver.instances(gpu)] == ["0:1", "3:1", "6:1"]
    assert simulation.counts().made == 3


@pytest.mark.parametrize(
    ("key", "architecture"),
    [
        ("T4-16GB", "turing"),
        ("A30-24GB", "ampere"),
        ("GH200-96GB", "hopper"),
        ("B200-180GB", "blackwell"),
        ("RTX-PRO-6000-BLACKWELL-96GB", "blackwell"),
    ],
)
def test_architecture(make, key, architecture):
    """The architecture has the name that the table of families uses."""
    _, driver = make(key)
    assert driver.architecture(driver.gpus()[0]) == architecture


def test_versions(make):
    """The driver's version as it says it, CUDA's as people write it."""
    _, driver = make(driver_version="450.80.02", cuda_version=12090)
    assert (driver.version(), driver.cuda_version()) == ("450.80.02", "12.9")


@pytest.mark.parametrize(
    ("key", "self_reset", "status", "after"),
    [
        ("A100-SXM4-40GB", False, RESET_REQUIRED, (False, True)),
        ("A100-SXM4-40GB", True, ACTIVE, (True, True)),
        ("H100-SXM5-80GB", False, ACTIVE, (True, True)),
        ("B200-180GB", False, ACTIVE, (True, True)),
    ],
)
def test_mig_mode_is_turned_on(make, key, self_reset, status, after):
    """Setting the mode says whether it is active now; reading it again shows what it is."""
    _, driver = make(key, mig_enabled=False, self_reset=self_reset)
    (gpu,) = driver.gpus()
    assert driver.set_mig(gpu, True) == status
    (gpu,) = driver.gpus()
    assert (gpu.mig, gpu.mig_pending) == after


def test_mig_mode_of_a_gpu_in_use(make):
    """On a GPU in use the call succeeds and the mode is pending, with NVML's words for it."""
    simulation, driver = make("H100-SXM5-80GB", mig_enabled=False)
    (gpu,) = driver.gpus()
    with simulation.client(gpu.uuid):
        assert driver.set_mig(gpu, True) == IN_USE
    (gpu,) = driver.gpus()
    assert (gpu.mig, gpu.mig_pending) == (False, True)
    assert error_text(IN_USE) == "In use by another client"


def test_mig_mode_that_cannot_be_set(make):
    """With instances MIG mode cannot be turned off; without MIG there is no mode."""
    _, driver = make("A100-SXM4-40GB", "T4-16GB")
    able, unable = driver.gpus()
    driver.create_gi(able.uuid, driver.geometry(able).profiles[0], Placement(0, 1))
    with pytest.raises(InUse, match="nvmlDeviceSetMigMode failed: In use by another client"):
        driver.set_mig(able, False)
    with pytest.raises(DriverError) as caught:
        driver.set_mig(unable, True)
    said = f"{unable.uuid}: nvmlDeviceSetMigMode failed: Not Supported (NVML error 3)"
    assert str(caught.value) == said


def test_users_of_a_gpu(make):
    """Compute and graphics processes, each once; nobody on the next GPU."""
    simulation, driver = make("A100-SXM4-40GB:2", mig_enabled=False)
    first, second = driver.gpus()
    with simulation.client(first.uuid) as process:
        simulation.attach(first.uuid, os.getpid(), graphics=True)
        assert driver.users(first) == sorted([process.pid, os.getpid()])
        assert driver.users(second) == []
        simulation.detach(os.getpid())
        assert driver.users(first) == [process.pid]
    assert driver.users(first) == []


def test_users_where_graphics_are_unknown(one):
    """A driver that lists no graphics processes has none; another error is an error."""
    simulation, driver, gpu, _ = one
    function = "nvmlDeviceGetGraphicsRunningProcesses"
    simulation.fail(function, error="NOT_SUPPORTED")
    assert driver.users(gpu) == []
    simulation.fail(function, error="GPU_IS_LOST")
    with pytest.raises(DriverError, match="GPU is lost"):
        driver.users(gpu)
