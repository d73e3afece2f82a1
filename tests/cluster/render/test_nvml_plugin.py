"""Slurm's own gpu/nvml looks at the simulated driver: it sees the MIG devices that we see.

Debian has the plugin (contrib) for Slurm 24.11. It finds the driver's files by their real names
only, so the daemons get a /dev and a /proc/driver in which the simulation's are.
"""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from rendercluster import complaints

from slurm_mig import table
from slurm_mig.devices import Devices
from slurm_mig.layouts import layout
from slurm_mig.nvml import Driver
from slurm_mig.packing import GpuSpace, fits
from slurm_mig.profiles import TableEntry
from slurm_mig.rehearsal import slurm_folder
from slurm_mig.rehearsal.cluster import Cluster, Node, SlurmInstall
from slurm_mig.settings import LayoutSpec
from slurm_mig.simulator.handle import Simulation

pytestmark = pytest.mark.slurm

PLAIN = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
#: A simulation has at most 16 GPUs, the table some more.
HALVES = (slice(0, 10), slice(10, None))


class MigDevice(NamedTuple):
    """A MIG device: what jobs name it by, its profile, and the files it takes to open it."""

    uuid: str
    profile: str
    files: tuple[str, ...]


@pytest.fixture(scope="module")
def install(slurm_install: SlurmInstall) -> SlurmInstall:
    """Slurm 24.11 with the plugin."""
    found = slurm_folder.find("trixie")
    if found is None:
        pytest.skip("no Slurm of trixie: python -m slurm_mig.rehearsal.slurm_folder trixie")
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path."""
    path = Path(tempfile.mkdtemp(prefix="nvml-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def simulated(folder: Path, models: list[str]) -> Simulation:
    """A simulation whose /dev has what any other has."""
    made = Simulation.create(folder / "sim", models)
    try:
        for name, number in PLAIN.items():
            path = made.root / "dev" / name
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*number))
            path.chmod(0o666)
    except PermissionError:
        pytest.skip("no device nodes can be made here")
    return made


def fill(simulation: Simulation, specs: list[LayoutSpec]) -> list[MigDevice]:
    """Make a layout's instances on each GPU; what our driver and devices say of them."""
    devices = Devices(simulation.root)
    with Driver(str(simulation.library)) as driver:
        for gpu, spec in zip(driver.gpus(), specs, strict=True):
            geometry = driver.geometry(gpu)
            for slot in fits(GpuSpace(gpu.uuid, geometry), layout(geometry, spec)):
                gi = driver.create_gi(gpu.uuid, slot.profile, slot.placement)
                driver.create_ci(gpu.uuid, gi, slot.profile.slices)
        nodes = devices.instance_nodes()
        return [
            MigDevice(
                gi.cis[0].uuid,
                driver.geometry(gpu).profile_by_id(gi.profile_id).name,
                (
                    f"/dev/nvidia{gpu.minor}",
                    *(
                        f"/dev/nvidia-caps/{node.name}"
                        for minor, gi_id, node in nodes
                        if (minor, gi_id) == (gpu.minor, gi.id)
                    ),
                ),
            )
            for gpu in driver.gpus()
            for gi in driver.instances(gpu)
        ]


def found_by_slurm(log: str) -> list[MigDevice]:
    """The MIG devices of slurmd's log; their profiles have the GPU's name before them."""
    rows = re.findall(
        r"MIG Profile: (?:\S+_)?(\d\S+)(?s:.+?)UniqueID: (MIG-\S+)(?s:.+?)Device Files: (\S+)", log
    )
    return [MigDevice(uuid, profile, tuple(files.split(","))) for profile, uuid, files in rows]


def rarest(entry: TableEntry) -> LayoutSpec:
    """A layout with the profiles whose names are longest: +me, +gfx, -me and the like."""
    counts: dict[str, int] = {}
    for profile in sorted(entry.geometry.profiles, key=lambda one: -len(one.name)):
        more = {**counts, profile.name: 1}
        if fits(GpuSpace("", entry.geometry), more) is not None:
            counts = more
    return counts


@pytest.mark.parametrize("half", HALVES, ids=["first", "second"])
@pytest.mark.parametrize("kind", ["balanced", "rarest"])
def test_slurm_sees_the_same_devices(
    install: SlurmInstall, folder: Path, half: slice, kind: str
) -> None:
    """On every model: UUID, profile and device files of each; a job gets the UUID of one."""
    entries = table.entries()[half]
    simulation = simulated(folder, [entry.key for entry in entries])
    specs = [rarest(entry) if kind == "rarest" else kind for entry in entries]
    ours = fill(simulation, specs)

    def rendered(places: Mapping[str, str]) -> dict[str, str]:
        lines = ["GresTypes=gpu", "SlurmdDebug=debug2", f"NodeName=n1 {places['n1']} CPUs=4"]
        lines[-1] += f" Gres=gpu:{len(ours)}"
        return {"slurm-mig.conf": "\n".join(lines) + "\n", "gres.conf": "AutoDetect=nvml\n"}

    replace = {path: simulation.root / path[1:] for path in ("/dev", "/proc/driver")}
    with Cluster.temporary(
        [Node("n1")],
        install=install,
        rendered=rendered,
        also_mount=[folder],
        replace=replace,
        daemon_env={"LD_LIBRARY_PATH": str(simulation.library.parent)},
    ) as cluster:
        log = cluster.log("slurmd-n1")
        visible = cluster.srun("--gres=gpu:1", "printenv", "CUDA_VISIBLE_DEVICES").stdout.strip()
    assert sorted(found_by_slurm(log)) == sorted(ours)
    assert len(ours) >= 2 * len(entries)
    assert visible in {device.uuid for device in ours}
    assert complaints(log) == []
