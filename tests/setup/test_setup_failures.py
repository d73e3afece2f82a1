"""slurm-mig node-setup where something is wrong: one line each, and the other GPUs are done."""

import os
from types import SimpleNamespace

import pytest
from setuplines import FOR_NOW, h100

from slurm_mig import node_setup
from slurm_mig.nvml import Driver

GONE = "look at dmesg for Xid errors"
NOT_ROOT = "slurm-mig: only root may change MIG mode; run as root: slurm-mig node-setup\n"


@pytest.mark.parametrize(
    ("key", "old", "said"),
    [
        ("A100-SXM4-40GB", "450.80.01", "A100; install 450.80.02 or later (CUDA 11)"),
        ("A30-24GB", "450.51.06", "A30; install 450.80.02 or later (CUDA 11)"),
        ("H100-PCIE-80GB", "520.61.05", "H100; install 525.53 or later (CUDA 12)"),
        ("H200-SXM5-141GB", "525.52", "H200; install 525.53 or later (CUDA 12)"),
        ("B200-180GB", "570.124.06", "B200; install 570.133.20 or later (CUDA 12)"),
        ("B300-269GB", "575.57.08", "B300; install 580.82.07 or later (CUDA 12.9)"),
        (
            "RTX-PRO-6000-BLACKWELL-96GB",
            "575.51.02",
            "RTX PRO 6000 Blackwell; install 575.51.03 or later (CUDA 12)",
        ),
    ],
)
def test_driver_too_old(make, key, old, said):
    """Below the family's least driver nothing is changed; the line says which one to install."""
    admin = make(key, driver_version=old)
    ended = admin()
    (line,) = ended.lines
    assert line.endswith(f": failed: driver {old} is too old for MIG on {said}")
    assert (ended.status, admin.sets()) == (1, 0)


@pytest.mark.parametrize(
    ("key", "version"),
    [("A100-SXM4-40GB", "450.80.02"), ("H100-SXM5-80GB", "525.53"), ("GB300-278GB", "1.0")],
)
def test_driver_just_new_enough(make, key, version):
    """The least driver is enough, and so is any where the least is not known."""
    admin = make(key, driver_version=version, self_reset=True)
    assert (admin().status, admin.modes()) == (0, [(True, True)])


def test_named_gpu_that_cannot_do_mig(make):
    """A GPU without MIG that the list names is a mistake in the list."""
    admin = make("T4-16GB", "H100-SXM5-80GB", mig="0-1")
    said = admin()
    assert said.status == 1
    assert said.lines == [
        (
            "GPU 0 (/dev/nvidia0, Tesla T4): failed: [gpus] mig names it, but it cannot do MIG; "
            "take it out"
        ),
        h100(1, FOR_NOW),
    ]


def test_node_without_mig(make):
    """A node none of whose GPUs can do MIG has nothing to set up."""
    said = make("T4-16GB:2")()
    assert (said.status, said.lines) == (1, [])
    assert said.err == "slurm-mig: no GPU of this node can do MIG: the driver shows Tesla T4\n"


def test_named_gpus_that_are_not_there(make):
    """A minor that the driver does not show is a line; what is there is set up."""
    admin = make("H100-SXM5-80GB", mig="0,4-5")
    said = admin()
    text = f"failed: the driver does not show it; correct [gpus] mig, or {GONE}"
    assert said.lines == [h100(0, FOR_NOW), f"/dev/nvidia4: {text}", f"/dev/nvidia5: {text}"]
    assert said.status == 1


def test_gpu_off_the_bus(make):
    """A lost GPU is said in the driver's words, if it may be one of those to set up."""
    admin = make("H100-SXM5-80GB:2")
    function = "nvmlDeviceGetHandleByIndex"
    lost = f"failed: GPU 1: {function} failed: GPU is lost (NVML error 15); {GONE}"
    admin.sim.fail(function, nth=2, error="GPU_IS_LOST")
    said = admin()
    assert (said.status, said.lines) == (1, [h100(0, FOR_NOW), lost])
    admin.partition("1")
    admin.sim.fail(function, nth=2, error="GPU_IS_LOST")
    assert admin().lines[-1] == lost
    admin.partition("0")
    admin.sim.fail(function, nth=2, error="GPU_IS_LOST")
    said = admin()
    assert (said.status, len(said.lines)) == (0, 1)


def test_driver_that_refuses(make):
    """An error of the driver is the GPU's line; the next GPU is done."""
    admin = make("H100-SXM5-80GB:2")
    uuid = admin.sim.gpus()[0].uuid
    admin.sim.fail("nvmlDeviceSetMigMode", error="UNKNOWN")
    said = admin()
    text = f"failed: {uuid}: nvmlDeviceSetMigMode failed: Unknown Error (NVML error 999)"
    assert (said.status, said.lines, said.err) == (1, [h100(0, text), h100(1, FOR_NOW)], "")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "the driver said that MIG mode is on, but it is off still; look at dmesg"),
        (999, "MIG mode is set, but off: Unknown Error (NVML error 999)"),
    ],
)
def test_mode_that_does_not_come_on(make, monkeypatch, status, text):
    """What the driver says is not believed: the mode is read again."""
    admin = make("H100-SXM5-80GB")
    monkeypatch.setattr(Driver, "set_mig", lambda *_: status)
    said = admin()
    assert (said.status, said.lines) == (1, [h100(0, f"failed: {text}")])


def test_gpu_that_goes_while_its_mode_changes(make):
    """A GPU that does not come back from the change is said to be gone."""
    admin = make("H100-SXM5-80GB")
    uuid = admin.sim.gpus()[0].uuid
    # The third look at it: the first lists it, the second is under the lock.
    admin.sim.fail("nvmlDeviceGetHandleByIndex", nth=3, error="GPU_IS_LOST")
    said = admin()
    text = f"failed: {uuid}: the driver shows this GPU no more; {GONE}"
    assert (said.status, said.lines) == (1, [h100(0, text)])


def test_only_root_by_the_driver(make):
    """Whom the driver does not let is told so in one line; a dry run may be anybody's."""
    admin = make("H100-SXM5-80GB:2", privileged_uid=os.geteuid() + 1)
    said = admin()
    assert (said.status, said.lines, said.err) == (1, [], NOT_ROOT)
    assert admin("--dry-run").status == 3


def test_only_root_by_the_state_folder(make, monkeypatch):
    """Who cannot use the state folder, and is not root, is told the same."""
    admin = make("H100-SXM5-80GB")
    (admin.node.folder / "state").write_text("")
    monkeypatch.setattr(node_setup, "os", SimpleNamespace(geteuid=lambda: 4711))
    said = admin()
    assert (said.status, said.lines, said.err) == (1, [], NOT_ROOT)
    assert admin.sets() == 0


def test_state_folder_that_others_can_write_to(make, monkeypatch):
    """For root such a folder is a fault of the node, and nothing is changed."""
    admin = make("H100-SXM5-80GB")
    state = admin.node.folder / "state"
    state.mkdir()
    state.chmod(0o777)
    monkeypatch.setattr(node_setup, "os", SimpleNamespace(geteuid=lambda: 0))
    said = admin()
    assert said.lines[0].startswith(h100(0, f"failed: state directory {state}: owned by uid "))
    assert (said.status, admin.sets()) == (1, 0)


def test_bad_configuration(make, run):
    """A configuration that is wrong, or not there, is a usage error; so is a wrong word."""
    admin = make("H100-SXM5-80GB")
    admin.partition("0-")
    said = admin()
    assert (said.status, said.lines) == (2, [])
    text = '[gpus] mig must be "all" or device minors such as "0-3,5", not \'0-\'\n'
    assert said.err.endswith(f"gpus.toml: {text}")
    assert run("node-setup", "-c", "/nonexistent.toml").status == 2
    assert run("node-setup", "--dry-run", "now").status == 2
    assert run("node-setup", "--force").status == 2


def test_no_driver(make):
    """Without a driver library there is one line."""
    said = make("H100-SXM5-80GB", settings={"driver": {"library": "/nonexistent.so"}})()
    assert (said.status, said.lines) == (1, [])
    assert said.err.startswith("slurm-mig: driver library /nonexistent.so: ")
