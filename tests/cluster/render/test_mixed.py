"""Nodes with some GPUs whole and some partitioned: what Slurm does with the rendered File= lines.

The device nodes are real ones of NVIDIA's major number, in a /dev that only the cluster sees. No
driver is behind them: opening one says ENXIO, or EPERM where the job's cgroup denies it.
"""

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from errno import ENXIO
from pathlib import Path

import pytest
from rendercluster import Rendered, complaints, running

from slurm_mig.rehearsal import keeper
from slurm_mig.rehearsal.cluster import SlurmInstall
from slurm_mig.rehearsal.cluster_conf import CONTROLLERS

pytestmark = pytest.mark.slurm

NVIDIA = 195
#: What programs want of any /dev.
PLAIN = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}

MIXED = """
[nodes.mixed]
hosts = "m1"
layout = "halves"
gpus = [
    {{ model = "H100-SXM5-80GB", index = "0-2" }},
    {{ model = "A100-PCIE-40GB", index = "3", mig = false, type = "a100" }},
    {{ model = "H100-SXM5-80GB", index = "4-7", mig = false, type = "h100" }},
]
conf = "{m1} CPUs=16 State=UNKNOWN"
[nodes.whole]
hosts = "m2"
gpus = [{{ model = "H100-SXM5-80GB", index = "0,2-3,7", mig = false }}]
conf = "{m2} CPUs=16 State=UNKNOWN"
"""

#: Prints which of the GPUs' device nodes it may open, and CUDA_VISIBLE_DEVICES.
LOOK = """
for gpu in 0 1 2 3 4 5 6 7; do
    case $( { : <>/dev/nvidia$gpu; } 2>&1 ) in
        *"No such device"*) printf '%s ' $gpu ;;
        *"not permitted"*) ;;
        *) printf 'what? ' ;;
    esac
done
echo ": ${CUDA_VISIBLE_DEVICES-unset}"
"""


#: What jobs may open, by their options: 0 to 2 are in MIG mode. CUDA counts what it can open, those
#: in MIG mode last, so the indices fit.
EXPECTED = {
    "--gres=mig:3g.40gb:1": (["0", "1", "2"], "unset"),
    "--gres=none": (["0", "1", "2"], "unset"),
    "--gres=gpu:h100:1": (["0", "1", "2", "4"], "0"),
    "--gres=gpu:a100:1": (["0", "1", "2", "3"], "0"),
    "--gres=gpu:5": (["0", "1", "2", "3", "4", "5", "6", "7"], "0,1,2,3,4"),
    "--gres=gpu:h100:2,mig:3g.40gb:6": (["0", "1", "2", "4", "5"], "0,1"),
}


def describe(places: Mapping[str, str]) -> str:
    """The node groups."""
    return MIXED.format(**places)


@pytest.fixture(scope="module")
def devices() -> Iterator[Path]:
    """A /dev with eight GPUs."""
    with tempfile.TemporaryDirectory(prefix="dev-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        gpus = {f"nvidia{gpu}": (NVIDIA, gpu) for gpu in range(8)}
        try:
            for node, number in {**PLAIN, **gpus}.items():
                os.mknod(folder / node, stat.S_IFCHR | 0o666, os.makedev(*number))
                (folder / node).chmod(0o666)
        except PermissionError:
            pytest.skip("no device nodes can be made here")
        with pytest.raises(OSError) as caught:  # noqa: PT011 - errno says which
            (folder / "nvidia7").open("rb")
        if caught.value.errno != ENXIO:
            pytest.skip("no device nodes can be made here that may be opened")
        (folder / "shm").mkdir(mode=0o1777)
        yield folder


@pytest.fixture
def constrained(install: SlurmInstall, devices: Path) -> Iterator[Rendered]:
    """A cluster that holds jobs to their devices."""
    missing = set(CONTROLLERS) - set(keeper.cgroup_mounts())
    if missing:
        pytest.skip(f"no cgroups of version 1 here with {' '.join(sorted(missing))}")
    replace = {"/dev": devices}
    with running(install, ["m1", "m2"], describe, replace=replace, constrain_devices=True) as one:
        yield one


def seen(rendered: Rendered, *options: str) -> tuple[list[str], str]:
    """What a job with these options may open on m1, and its CUDA_VISIBLE_DEVICES."""
    said = rendered.cluster.srun("--quiet", "-w", "m1", *options, "sh", "-c", LOOK).stdout
    found, _, visible = said.partition(":")
    return found.split(), visible.strip()


def test_jobs_open_their_own_gpus_only(constrained: Rendered) -> None:
    """Whole GPUs are for the jobs that have them; those in MIG mode are left to us to guard."""
    assert constrained.offered() == constrained.promises()
    assert {name: constrained.registered(name) for name in ("m1", "m2")} == constrained.promises()
    assert constrained.promises() == {
        "m1": {("mig", "3g.40gb"): 6, ("gpu", "a100"): 1, ("gpu", "h100"): 4},
        "m2": {("gpu", ""): 4},
    }
    assert {options: seen(constrained, *options.split()) for options in EXPECTED} == EXPECTED
    for daemon in ("slurmctld", "slurmd-m1", "slurmd-m2"):
        assert complaints(constrained.cluster.log(daemon)) == []


def test_without_cgroups_indices_count_whole_gpus(install: SlurmInstall, devices: Path) -> None:
    """Jobs may open everything; the indices are CUDA's all the same, which has MIG mode last."""
    with running(install, ["m1", "m2"], describe, replace={"/dev": devices}) as one:
        assert one.offered() == one.promises()
        assert seen(one, "--gres=gpu:h100:2") == (list("01234567"), "1,2")
        assert complaints(one.cluster.log("slurmd-m1")) == []
