"""Programs that nobody here wrote, and users without root, on the simulated driver."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_mig.simulator import build

from .helpers import NOBODY, put

NOT_ROOT = """
import ctypes, os, sys
import pynvml as nvml
from pathlib import Path
from slurm_mig.simulator import build, models
from slurm_mig.simulator.handle import Simulation
models.all_models()
build.library = lambda: Path(sys.argv[1]) / build.SONAME
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
sim = Simulation.create(Path(sys.argv[1]) / "sim", ["A100-SXM4-40GB"])
nvml.nvmlLib = ctypes.CDLL(str(sim.library))
nvml.nvmlInit()
gi = nvml.nvmlDeviceCreateGpuInstance(nvml.nvmlDeviceGetHandleByIndex(0), 9)
ci = nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)
uuid = nvml.nvmlDeviceGetUUID(nvml.nvmlComputeInstanceGetInfo_v2(ci).device)
sim.attach(uuid, os.getpid())
mig = sim.root / "proc/driver/nvidia/capabilities/gpu0/mig"
print(sorted(str(path.relative_to(mig)) for path in mig.rglob("access")))
print(list((sim.root / "dev/nvidia-caps").iterdir()))
print(len(sim.clients()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_root(public):
    """A user without root makes a simulation and instances; only the device nodes are missing."""
    shutil.copy(build.library(), public / build.SONAME)
    os.chown(public, NOBODY, NOBODY)
    done = subprocess.run(
        [sys.executable, "-c", NOT_ROOT, str(public), str(NOBODY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["['gi2/access', 'gi2/ci0/access']", "[]", "1"]


@pytest.mark.skipif(
    importlib.util.find_spec("nvitop") is None, reason="nvitop is not installed (dev extra)"
)
def test_nvitop(make, load):
    """Unmodified nvitop shows the GPUs, the MIG devices with their ids, and who uses them."""
    simulation = make("A100-SXM4-40GB:2")
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    for profile, start, size, compute in ((9, 4, 4, 2), (19, 0, 1, 0)):
        gi = put(nvml, gpu, profile, start, size)
        nvml.nvmlGpuInstanceCreateComputeInstance(gi, compute)
    device = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    with simulation.client(nvml.nvmlDeviceGetUUID(device)) as process:
        done = subprocess.run(
            [sys.executable, "-m", "nvitop", "--once", "--no-unicode"],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(simulation.library.parent),
                "TERM": "xterm",
                "COLUMNS": "120",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sum("A100-SXM4-40GB" in line for line in lines) == 2
    assert any("3g.20gb @ GI/CI: 2/0" in line for line in lines)
    assert any("1g.5gb @ GI/CI: 7/0" in line for line in lines)
    assert any(f"0:0 {process.pid:>7} C" in line for line in lines)


def nvml_plugin():
    """Slurm's gpu/nvml plugin, where its package (Debian contrib) is installed, or None."""
    folders = [Path(os.environ.get("SLURM_MIG_TEST_PLUGINS", "/nonexistent"))]
    folders += Path("/usr/lib").glob("*/slurm*")
    found = [folder for folder in folders if (folder / "gpu_nvml.so").exists()]
    return found[0] if found else None


SLURM_CONF = """
ClusterName=simulated
SlurmctldHost=localhost
AuthType=auth/none
CryptoType=crypto/none
PluginDir={plugins}
SlurmdSpoolDir={folder}/spool
SlurmdPidFile={folder}/slurmd.pid
SlurmdLogFile={folder}/log
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
GresTypes=gpu
NodeName=node Gres=gpu:3g.20gb:1,gpu:1g.5gb:1
PartitionName=all Nodes=ALL Default=YES
"""

# The plugin knows the driver's files only under their real names, so it gets a view of the system
# in which they lie there.
SLURMD = """
set -e
for node in null:1:3 zero:1:5 random:1:8 urandom:1:9; do
    IFS=: read -r name major minor <<<"$node"
    mknod -m 666 "$1/root/dev/$name" c "$major" "$minor"
done
mount --bind "$1/root/proc/driver" /proc/driver
mount --bind "$1/root/dev" /dev
LD_LIBRARY_PATH="$1/lib" SLURM_CONF="$2" exec "$3" -G -N node
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or nvml_plugin() is None or shutil.which("slurmd") is None,
    reason="needs root, slurmd and Slurm's gpu/nvml plugin (slurm-wlm-nvml-plugin)",
)
def test_slurms_own_plugin(make, load, tmp_path):
    """Slurm's gpu/nvml finds the MIG devices and gives each the device files that are its own."""
    simulation = make("A100-SXM4-40GB")
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    for profile, start, size, compute in ((9, 4, 4, 2), (19, 0, 1, 0)):
        gi = put(nvml, gpu, profile, start, size)
        nvml.nvmlGpuInstanceCreateComputeInstance(gi, compute)
    plugins = f"{Path(shutil.which('slurmd')).parents[1]}/lib/x86_64-linux-gnu/slurm-wlm"
    (tmp_path / "gres.conf").write_text("AutoDetect=nvml\n")
    conf = tmp_path / "slurm.conf"
    conf.write_text(SLURM_CONF.format(plugins=f"{plugins}:{nvml_plugin()}", folder=tmp_path))
    arguments = [str(simulation.directory), str(conf), shutil.which("slurmd")]
    done = subprocess.run(
        ["/usr/bin/unshare", "--mount", "bash", "-c", SLURMD, "bash", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"Type=(\S+) Count=1 .* File=(\S+)", done.stderr))
    caps = "/dev/nvidia0,/dev/nvidia-caps/nvidia-cap{},/dev/nvidia-caps/nvidia-cap{}"
    assert found == {"3g.20gb": caps.format(21, 22), "1g.5gb": caps.format(66, 67)}
