"""slurm-mig node-setup where somebody is in the way: named, and left alone."""

import os

import pytest
from setuplines import A_RESET, FOR_NOW, ME, RESET, a100, h100

from slurm_mig.lock import Locks

STOP = "systemctl stop nvidia-persistenced && "
START = " && systemctl start nvidia-persistenced"


@pytest.mark.parametrize(("key", "line"), [("A100-SXM4-40GB", a100), ("H100-SXM5-80GB", h100)])
@pytest.mark.parametrize("graphics", [False, True])
def test_by_a_program(make, holder, key, line, graphics):
    """A program that NVML shows, computing or drawing: pid, command and user."""
    admin = make(key, self_reset=True)
    pid = holder(admin, 9, "train.py")
    admin.sim.attach(admin.sim.gpus()[0].uuid, pid, graphics=graphics)
    said = admin()
    who = f"pid {pid} (train.py, user {ME})"
    text = f"needs an admin: MIG mode is off and the GPU in use by {who}; nothing changed; "
    assert said.lines == [line(0, text + "stop that; run: slurm-mig node-setup")]
    assert (said.status, admin.sets(), admin.modes()) == (3, 0, [(False, False)])
    admin.sim.detach(pid)
    assert (admin().status, admin.modes()) == (0, [(True, True)])


def test_by_daemons(make, holder):
    """Those that only have the device open are named too; the next GPU is turned on."""
    admin = make("H100-SXM5-80GB:2")
    pids = sorted(holder(admin, 1, name) for name in ("nv-hostengine", "exporter"))
    first, second = admin().lines
    assert first == h100(0, FOR_NOW)
    assert [f"pid {pid} (" in second for pid in pids] == [True, True]
    assert admin.modes() == [(True, True), (False, False)]


def test_nvidia_persistenced_on_hopper(make, holder):
    """The persistence daemon, which is always there, is not in Hopper's way."""
    admin = make("H100-SXM5-80GB")
    holder(admin, 0, "nvidia-persistenced")
    assert (admin().status, admin.modes()) == (0, [(True, True)])


def test_nvidia_persistenced_on_ampere(make, holder):
    """For a GPU reset it is stopped, and the command says so."""
    admin = make("A100-SXM4-40GB")
    holder(admin, 0, "nvidia-persistenced")
    said = admin()
    text = f"needs an admin: MIG mode is now set, and on after {A_RESET}; run: "
    assert said.lines == [a100(0, f"{text}{STOP}{RESET.format(0)}{START}")]
    assert said.status == 3


@pytest.mark.parametrize(
    ("key", "line", "command"),
    [
        ("A100-SXM4-40GB", a100, f"{STOP}{RESET.format(0)}{START}"),
        ("H100-SXM5-80GB", h100, f"{STOP}slurm-mig node-setup{START}"),
    ],
)
def test_nvidia_persistenced_in_the_way(make, holder, key, line, command):
    """Where the driver finds the GPU in use all the same, the daemon is to blame."""
    admin = make(key)
    pid = holder(admin, 0, "nvidia-persistenced")
    admin.sim.attach(admin.sim.gpus()[0].uuid, pid)
    admin.sim.fail("nvmlDeviceGetComputeRunningProcesses", error="NOT_SUPPORTED")
    said = admin()
    text = "needs an admin: MIG mode is set, but off while nvidia-persistenced uses the GPU; run: "
    assert (said.status, said.lines) == (3, [line(0, text + command)])


def test_by_somebody_whom_nobody_names(make):
    """Where only the driver knows that the GPU is in use, the way to find out is said."""
    admin = make("H100-SXM5-80GB")
    with admin.sim.client(admin.sim.gpus()[0].uuid):
        admin.sim.fail("nvmlDeviceGetComputeRunningProcesses", error="NOT_SUPPORTED")
        said = admin()
    text = "needs an admin: MIG mode is set, but off while a process that the driver does not name"
    how = "uses the GPU; see who by fuser -v /dev/nvidia0, and stop that; run: slurm-mig node-setup"
    assert said.lines == [h100(0, f"{text} {how}")]
    assert (said.status, admin.modes()) == (3, [(False, True)])
    assert (admin().status, admin.modes()) == (0, [(True, True)])


@pytest.mark.parametrize("which", ["host", "gpu"])
def test_while_a_prolog_works(make, which):
    """While another holds the host's or the GPU's lock its mode is left; later that is a line."""
    admin = make("H100-SXM5-80GB:2", settings={"lock": {"timeout": 0.05, "gpu_timeout": 0.05}})
    state = admin.node.folder / "state"
    state.mkdir(mode=0o700)
    locks = Locks(state, 1, 1)
    uuid = admin.sim.gpus()[1].uuid
    with locks.host() if which == "host" else locks.gpu(uuid):
        said = admin()
    name = state / f"locks/{'host' if which == 'host' else f'gpu-{uuid}'}.lock"
    held = f"still held by pid {os.getpid()} after 0.05 s"
    text = f"failed: lock {name}: {held}; see what it is doing, the lock frees itself when it ends"
    assert said.lines[1] == h100(1, text)
    assert (said.status, admin.modes()[1]) == (1, (False, False))
    assert admin.modes()[0][0] == (which == "gpu")


def test_nothing_to_do_waits_for_nobody(make):
    """Where all is as it should be no lock is taken, and no state folder needed."""
    admin = make("H100-SXM5-80GB", mig_enabled=True)
    assert admin().status == 0
    assert not (admin.node.folder / "state").exists()
