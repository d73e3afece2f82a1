"""The driver's files under the simulation's root."""

import os
import stat

import pytest

from slurm_mig.errors import RequestError

from .helpers import can_make_nodes, put

CAPS = "proc/driver/nvidia/capabilities"


@pytest.fixture
def with_nodes(tmp_path):
    """Skips where device nodes cannot be made, as without root."""
    if not can_make_nodes(tmp_path):
        pytest.skip("no device nodes can be made here")


def create(nvml, gpu=0):
    """A 3g.20gb at 4:4 (GI 2) with its full compute instance; gives (GI, CI)."""
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(gpu), 9, 4, 4)
    return gi, nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)


def destroy(nvml, gi, ci):
    """Undo `create`."""
    nvml.nvmlComputeInstanceDestroy(ci)
    nvml.nvmlGpuInstanceDestroy(gi)


def minors(simulation):
    """mig-minors, as a mapping."""
    text = (simulation.root / "proc/driver/nvidia-caps/mig-minors").read_text()
    return {name: int(minor) for name, minor in (line.split() for line in text.splitlines())}


def test_minors(make):
    """mig-minors lists every combination: gi = 3 + GPU * 135 + GI * 9, ci = gi + 1 + CI."""
    found = minors(make())
    assert (found["config"], found["monitor"], found["gpu0/gi0/access"]) == (1, 2, 3)
    assert found["gpu0/gi0/ci0/access"] == 4
    assert found["gpu3/gi14/ci7/access"] == 3 + 3 * 135 + 14 * 9 + 1 + 7
    assert len(found) == 2 + 32 * 15 * 9


def test_minors_that_are_not_the_indices(make, load):
    """A GPU has the device minor that it was given, in NVML's answers and in the trees."""
    simulation = make("A100-SXM4-40GB:2", minors=(5, 3))
    nvml = load(simulation)
    gpus = [nvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1)]
    assert [nvml.nvmlDeviceGetMinorNumber(gpu) for gpu in gpus] == [5, 3]
    create(nvml, gpu=0)
    folder = simulation.root / CAPS
    assert [path.name for path in sorted(folder.glob("gpu*"))] == ["gpu3", "gpu5"]
    minor = minors(simulation)["gpu5/gi2/access"]
    access = (folder / "gpu5/mig/gi2/access").read_text()
    assert access.startswith(f"DeviceFileMinor: {minor}\n")


@pytest.mark.parametrize("wrong", [(0,), (0, 0), (0, 32), (-1, 0), (0, 1, 2)])
def test_minors_that_cannot_be(make, tmp_path, wrong):
    """One minor for each GPU, each once, of those that mig-minors lists; else nothing is made."""
    with pytest.raises(RequestError) as caught:
        make("A100-SXM4-40GB:2", minors=wrong)
    assert str(caught.value) == f"2 GPUs need as many device minors, not {wrong}"
    assert list(tmp_path.iterdir()) == []


def test_access_files_live_as_long_as_the_instance(make, load):
    """An instance's access files say which node is its, and vanish with it."""
    simulation = make("A100-SXM4-40GB:2")
    nvml = load(simulation)
    gi, ci = create(nvml, gpu=1)
    folder = simulation.root / CAPS / "gpu1/mig/gi2"
    minor = minors(simulation)["gpu1/gi2/access"]
    text = "DeviceFileMinor: {}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
    assert (folder / "access").read_text() == text.format(minor)
    assert (folder / "ci0/access").read_text() == text.format(minor + 1)
    nvml.nvmlComputeInstanceDestroy(ci)
    assert not (folder / "ci0").exists()
    nvml.nvmlGpuInstanceDestroy(gi)
    assert list((simulation.root / CAPS / "gpu1/mig").iterdir()) == []


def test_config_and_monitor(make):
    """The two capabilities of the whole driver: config for root alone, monitor for all."""
    folder = make().root / CAPS / "mig"
    assert (folder / "config").read_text().splitlines()[:2] == [
        "DeviceFileMinor: 1",
        "DeviceFileMode: 256",
    ]
    assert (folder / "monitor").read_text().splitlines()[:2] == [
        "DeviceFileMinor: 2",
        "DeviceFileMode: 292",
    ]


def test_version_and_devices(make, load):
    """The version file names the driver that NVML names; /proc/devices the majors."""
    simulation = make()
    nvml = load(simulation)
    version = (simulation.root / "proc/driver/nvidia/version").read_text()
    assert f"  {nvml.nvmlSystemGetDriverVersion()}  " in version
    devices = (simulation.root / "proc/devices").read_text().split()
    assert {"nvidia", "nvidia-uvm", "nvidia-caps"} <= set(devices)


def caps_major(simulation):
    """The major of nvidia-caps, from /proc/devices."""
    words = (simulation.root / "proc/devices").read_text().split()
    return int(words[words.index("nvidia-caps") - 1])


@pytest.mark.usefixtures("with_nodes")
def test_nodes(make, load):
    """Nodes are made with the instance: root's, readable by all, with the right device number."""
    simulation = make()
    nvml = load(simulation)
    create(nvml)
    for name, mode in (("nvidia-cap21", 0o444), ("nvidia-cap22", 0o444), ("nvidia-cap1", 0o400)):
        node = (simulation.root / "dev/nvidia-caps" / name).stat()
        assert stat.filemode(node.st_mode) == stat.filemode(stat.S_IFCHR | mode)
        assert node.st_rdev == os.makedev(caps_major(simulation), int(name[10:]))
        assert (node.st_uid, node.st_gid) == (0, 0)
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"):
        assert stat.S_ISCHR((simulation.root / "dev" / name).stat().st_mode)


@pytest.mark.usefixtures("with_nodes")
def test_modify_0_keeps_owner_and_mode(make, load):
    """DeviceFileModify 0 stops the driver from resetting a node; 1 lets the next change do it."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    create(nvml)
    access = simulation.root / CAPS / "gpu0/mig/gi2/access"
    access.write_text(access.read_text().replace("Modify: 1", "Modify: 0"))
    for name in ("nvidia-cap21", "nvidia-cap22"):
        node = simulation.root / "dev/nvidia-caps" / name
        node.chmod(0o400)
        os.chown(node, 4242, 4242)
    put(nvml, gpu, 19, 0, 1)
    kept = (simulation.root / "dev/nvidia-caps/nvidia-cap21").stat()
    reset = (simulation.root / "dev/nvidia-caps/nvidia-cap22").stat()
    assert (kept.st_uid, kept.st_mode & 0o777) == (4242, 0o400)
    assert (reset.st_uid, reset.st_mode & 0o777) == (0, 0o444)


@pytest.mark.usefixtures("with_nodes")
def test_nodes_linger(make, load):
    """A node stays when its instance goes, and is the driver's again when it comes back."""
    simulation = make()
    nvml = load(simulation)
    gi, ci = create(nvml)
    access = simulation.root / CAPS / "gpu0/mig/gi2/access"
    access.write_text(access.read_text().replace("Modify: 1", "Modify: 0"))
    node = simulation.root / "dev/nvidia-caps/nvidia-cap21"
    node.chmod(0o400)
    destroy(nvml, gi, ci)
    assert node.stat().st_mode & 0o777 == 0o400
    create(nvml)
    assert access.read_text().endswith("DeviceFileModify: 1\n")
    assert node.stat().st_mode & 0o777 == 0o444


@pytest.mark.usefixtures("with_nodes")
def test_nodes_are_gone_after_a_reboot(make, load):
    """A reboot begins with an empty /dev, but for the nodes of the whole driver."""
    simulation = make()
    create(load(simulation))
    simulation.reboot()
    names = sorted(path.name for path in (simulation.root / "dev/nvidia-caps").iterdir())
    assert names == ["nvidia-cap1", "nvidia-cap2"]
    assert not (simulation.root / CAPS / "gpu0/mig/gi2").exists()


def test_boot_id_file(make):
    """The boot id is a UUID, its own in every simulation."""
    first, second = make(), make()
    assert len(first.boot_id()) == len("00000000-0000-0000-0000-000000000000")
    assert first.boot_id() != second.boot_id()


def test_files_are_repaired(make, load):
    """Whatever became of an instance's files, the next change makes them right again."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    create(nvml)
    mig = simulation.root / CAPS / "gpu0/mig"
    (mig / "gi2/ci0/access").unlink()
    (mig / "gi2/ci0").rmdir()
    (mig / "gi9/ci1").mkdir(parents=True)
    (mig / "gi9/access").write_text("DeviceFileMinor: 84\n")
    (mig / "gi9/ci1/access.4711").write_text("half-written by a process that was killed")
    put(nvml, gpu, 19, 0, 1)
    found = sorted(str(path.relative_to(mig)) for path in mig.rglob("access"))
    assert found == ["gi2/access", "gi2/ci0/access", "gi7/access"]
    assert not (mig / "gi9").exists()
