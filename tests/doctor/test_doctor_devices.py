"""Capability files and device nodes: there, and open to those only who may use them."""

import os
import re
import stat

import pytest


@pytest.fixture(autouse=True)
def with_nodes(tmp_path):
    """Skips where device nodes cannot be made."""
    try:
        os.mknod(tmp_path / "node", stat.S_IFCHR | 0o600, os.makedev(120, 9))
    except OSError:
        pytest.skip("no device nodes can be made here")
    (tmp_path / "node").unlink()


def caps(host):
    """The folder of capability nodes."""
    return host.sim.root / "dev/nvidia-caps"


def node_of(host, profile="3g.20gb"):
    """The GI's capability node of the one instance of a profile, by its access file."""
    (gi,) = (gi for gi in host.sim.instances() if gi.profile == profile)
    path = host.sim.root / f"proc/driver/nvidia/capabilities/gpu0/mig/gi{gi.id}/access"
    minor = re.search(r"DeviceFileMinor: (\d+)", path.read_text())
    return caps(host) / f"nvidia-cap{minor[1]}"


def test_capabilities(host):
    """All there, root's, and the one that makes and destroys instances for root alone."""
    assert host.found("devices.capabilities") == [
        "ok ~/n1/sim/root/proc/devices: nvidia-caps is major 120",
        "ok ~/n1/sim/root/proc/driver/nvidia-caps/mig-minors: 4322 capabilities",
        "ok ~/n1/sim/root/dev/nvidia-caps: owned by uid 0, mode 0755",
        "ok ~/n1/sim/root/dev/nvidia-caps/nvidia-cap1 (mig/config): owned by uid 0, mode 0400",
    ]


def test_everybody_may_partition(host):
    """A mig/config that others can open lets them destroy every instance."""
    (caps(host) / "nvidia-cap1").chmod(0o444)
    assert host.found("devices.capabilities")[-1] == (
        "failure ~/n1/sim/root/dev/nvidia-caps/nvidia-cap1 (mig/config): owned by uid 0, mode "
        "0444: whoever can open it can make and destroy everybody's instances; mend: chown "
        "root:root ~/n1/sim/root/dev/nvidia-caps/nvidia-cap1 && chmod 0400 "
        "~/n1/sim/root/dev/nvidia-caps/nvidia-cap1"
    )


def test_no_config_node(host):
    """Without the node nobody but root can do it."""
    (caps(host) / "nvidia-cap1").unlink()
    assert host.found("devices.capabilities")[-1] == (
        "ok ~/n1/sim/root/dev/nvidia-caps/nvidia-cap1 (mig/config): not there: only root makes and "
        "uses it"
    )


@pytest.mark.parametrize(("uid", "mode"), [(4242, 0o755), (0, 0o777)])
def test_folder_of_somebody_else(host, uid, mode):
    """Whoever can write to the folder can replace its nodes."""
    caps(host).chmod(mode)
    os.chown(caps(host), uid, 0)
    assert host.found("devices.capabilities")[2] == (
        f"failure ~/n1/sim/root/dev/nvidia-caps: owned by uid {uid}, mode {mode:04o}: whoever can "
        "write there can replace the nodes that keep jobs apart; mend: chown root:root "
        "~/n1/sim/root/dev/nvidia-caps && chmod 0755 ~/n1/sim/root/dev/nvidia-caps"
    )


def test_module_without_capabilities(host):
    """A /proc/devices without nvidia-caps: no module."""
    (host.sim.root / "proc/devices").write_text("Character devices:\n  1 mem\n")
    assert host.found("devices.capabilities") == [
        (
            "failure ~/n1/sim/root/proc/devices: no nvidia-caps: no instance can be given to a "
            "job; mend: nvidia-modprobe; or correct [driver] root in ~/n1/config.toml"
        )
    ]


def test_nodes(host):
    """The nodes that every job opens are there for every user."""
    assert host.found("devices.nodes") == [
        "ok ~/n1/sim/root/dev: nvidia0, nvidiactl, nvidia-uvm are there, for every user"
    ]


def test_missing_nodes(host):
    """What is missing, or is none, is named with the command that makes it."""
    dev = host.sim.root / "dev"
    for name in ("nvidiactl", "nvidia-uvm", "nvidia0"):
        (dev / name).unlink()
    (dev / "nvidia0").write_text("")
    assert host.found("devices.nodes") == [
        (
            "failure ~/n1/sim/root/dev/nvidia0: is no device: jobs cannot open it; mend: rm -r "
            "~/n1/sim/root/dev/nvidia0; nvidia-modprobe -c 0"
        ),
        (
            "failure ~/n1/sim/root/dev/nvidiactl: not there: jobs cannot use any GPU without it; "
            "mend: nvidia-modprobe"
        ),
        (
            "failure ~/n1/sim/root/dev/nvidia-uvm: not there: jobs cannot use any GPU without it; "
            "mend: nvidia-modprobe -u -c 0"
        ),
    ]


def test_driver_is_told_not_to_make_nodes(host):
    """NVreg_ModifyDeviceFiles=0, and nodes for a group only."""
    params = host.sim.root / "proc/driver/nvidia/params"
    params.write_text("ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 0\nDeviceFileGID: 27\n")
    (host.sim.root / "dev/nvidia0").chmod(0o660)
    assert host.found("devices.nodes") == [
        (
            "warning ~/n1/sim/root/dev/nvidia0: owned by uid 0, mode 0660, gid 0: users outside "
            "that group cannot use any instance; mend: set NVreg_DeviceFileMode=0666 for the "
            "module nvidia, or check that all users are in the group"
        ),
        "ok ~/n1/sim/root/dev: nvidiactl, nvidia-uvm are there, for every user",
        (
            "warning NVreg_ModifyDeviceFiles: is 0: the driver's tools then make no device nodes; "
            "something else must at every boot; mend: see who does it (udev, a boot script), or "
            "take it out of /etc/modprobe.d"
        ),
    ]


def test_isolation(host):
    """Each instance's nodes are its owner's alone."""
    host.acquire(7, "3g.20gb", uid=4242)
    assert host.found("devices.isolation") == [
        "ok isolation: 2 capability nodes, each its owner's alone"
    ]


def test_instance_that_others_can_open(host):
    """Another's node, or one for everybody: a failure, with what it should be."""
    host.acquire(7, "3g.20gb", uid=4242)
    node = node_of(host)
    node.chmod(0o444)
    what = f"~/n1/sim/root/dev/nvidia-caps/{node.name}"
    gi = host.sim.instances()[0].id
    assert host.found("devices.isolation") == [
        (
            f"failure {what} (GPU 0 GI {gi}): owned by uid 4242, mode 0444; its job is uid "
            "4242's: somebody else can use this job's instance; mend: chown 4242:0 "
            f"{what} && chmod 0400 {what}"
        )
    ]


def test_instance_without_owner(host):
    """Somebody else's instance is as the driver made it: open to every user."""
    host.foreigner()
    first, second = host.found("devices.isolation")
    node = node_of(host, "1g.5gb")
    gi = host.sim.instances()[0].id
    assert first == (
        f"warning ~/n1/sim/root/dev/nvidia-caps/{node.name} (GPU 0 GI {gi}): owned by uid 0, mode "
        "0444, and no job owns it: a local user can use what nobody was given; mend: chmod 0 "
        f"~/n1/sim/root/dev/nvidia-caps/{node.name}; if nobody needs it: nvidia-smi mig -i 0 -gi "
        f"{gi} -dci && nvidia-smi mig -i 0 -gi {gi} -dgi"
    )
    assert second.startswith("warning ~/n1/sim/root/dev/nvidia-caps/nvidia-cap")


def test_no_isolation(make):
    """A site that has switched it off is told so."""
    host = make(settings={"isolation": {"devices": "none"}})
    assert host.found("devices.isolation") == [
        (
            'warning [isolation] devices: is "none": every local user can use every job\'s '
            'instance; mend: set it to "owner" in ~/n1/config.toml'
        )
    ]
