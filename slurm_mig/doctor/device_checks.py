"""The driver's device nodes: there, and open to those only who may use them."""

import re
import stat
from collections.abc import Iterator
from pathlib import Path

from slurm_mig import ledger
from slurm_mig.doctor.context import Context
from slurm_mig.doctor.finding import (
    CONFIG,
    DRIVER,
    ON_NODE,
    Check,
    Finding,
    failure,
    ok,
    warning,
)
from slurm_mig.doctor.owners import loose, mode
from slurm_mig.errors import NodeFault

#: Makes a capability's node from its access file; nvidia-modprobe is part of the driver.
_MODPROBE = "nvidia-modprobe -f /proc/driver/nvidia/capabilities/mig/config"
_EVERYBODY = 0o006


def _root(context: Context) -> Path:
    return Path(context.settings.driver_root)


def _capabilities(context: Context) -> Iterator[Finding]:
    root = _root(context)
    devices = root / "proc/devices"
    try:
        yield ok(str(devices), f"nvidia-caps is major {context.devices.major()}")
    except NodeFault as error:
        yield failure(
            str(devices),
            str(error).removeprefix(f"{devices}: ").partition(";")[0],
            "no instance can be given to a job",
            f"nvidia-modprobe; or correct [driver] root in {context.config_path}",
        )
        return
    minors = root / "proc/driver/nvidia-caps/mig-minors"
    count = sum(" " in line for line in minors.read_text(errors="replace").splitlines())
    if count:
        yield ok(str(minors), f"{count} capabilities")
    else:
        yield failure(
            str(minors), "names no capability", "no instance can be opened", "reload the driver"
        )
    folder = root / "dev/nvidia-caps"
    if not folder.is_dir():
        yield warning(str(folder), "not there", "no program has needed an instance yet", _MODPROBE)
        return
    status = folder.stat()
    if loose(status):
        yield failure(
            str(folder),
            mode(status),
            "whoever can write there can replace the nodes that keep jobs apart",
            f"chown root:root {folder} && chmod 0755 {folder}",
        )
    else:
        yield ok(str(folder), mode(status))
    yield from _config_node(folder / "nvidia-cap1")


def _config_node(node: Path) -> Iterator[Finding]:
    """Whoever can open mig/config may make and destroy every instance."""
    try:
        status = node.stat()
    except FileNotFoundError:
        yield ok(f"{node} (mig/config)", "not there: only root makes and uses it")
        return
    if status.st_uid != 0 or status.st_mode & 0o077:
        yield failure(
            f"{node} (mig/config)",
            mode(status),
            "whoever can open it can make and destroy everybody's instances",
            f"chown root:root {node} && chmod 0400 {node}",
        )
    else:
        yield ok(f"{node} (mig/config)", mode(status))


def _nodes(context: Context) -> Iterator[Finding]:
    root = _root(context)
    params = _params(root)
    made = params.get("ModifyDeviceFiles") != "0"
    wanted = {f"nvidia{gpu.minor}": f"nvidia-modprobe -c {gpu.minor}" for gpu in context.gpus}
    wanted |= {"nvidiactl": "nvidia-modprobe", "nvidia-uvm": "nvidia-modprobe -u -c 0"}
    good = []
    for name, command in wanted.items():
        node = root / "dev" / name
        if not node.exists():
            yield failure(
                str(node),
                "not there",
                "jobs cannot use any GPU without it"
                if name.startswith(("nvidiactl", "nvidia-uvm"))
                else "jobs cannot use the instances of that GPU",
                command if made else f"{command} (the driver is told NVreg_ModifyDeviceFiles=0)",
            )
            continue
        status = node.stat()
        if not stat.S_ISCHR(status.st_mode):
            yield failure(
                str(node), "is no device", "jobs cannot open it", f"rm -r {node}; {command}"
            )
        elif status.st_mode & _EVERYBODY != _EVERYBODY:
            yield warning(
                str(node),
                f"{mode(status)}, gid {status.st_gid}",
                "users outside that group cannot use any instance",
                "set NVreg_DeviceFileMode=0666 for the module nvidia, or check that all users"
                " are in the group",
            )
        else:
            good.append(name)
    if good:
        yield ok(str(root / "dev"), f"{', '.join(good)} are there, for every user")
    if not made:
        yield warning(
            "NVreg_ModifyDeviceFiles",
            "is 0",
            "the driver's tools then make no device nodes; something else must at every boot",
            "see who does it (udev, a boot script), or take it out of /etc/modprobe.d",
        )


def _params(root: Path) -> dict[str, str]:
    """The module's parameters; empty where only root may read them, or there are none."""
    try:
        text = (root / "proc/driver/nvidia/params").read_text(errors="replace")
    except OSError:
        return {}
    return dict(re.findall(r"^(\w+): (.*)$", text, re.MULTILINE))


def _isolation(context: Context) -> Iterator[Finding]:
    if context.settings.isolation_devices != "owner":
        yield warning(
            "[isolation] devices",
            'is "none"',
            "every local user can use every job's instance",
            f'set it to "owner" in {context.config_path}',
        )
        return
    devices = context.devices
    state = Path(context.settings.state_directory)
    seen = ledger.glance(state, devices.life())
    owners = seen.owners if seen else {}
    uuids = {gpu.minor: gpu.uuid for gpu in context.gpus}
    bad = 0
    nodes = devices.instance_nodes()
    for minor, gi, node in nodes:
        owner = owners.get((uuids.get(minor, ""), gi))
        try:
            status = node.stat()
        except FileNotFoundError:
            continue  # not made, so nobody can open it
        where = f"{node} (GPU {minor} GI {gi})"
        if owner is None and status.st_mode & 0o777:
            bad += 1
            yield warning(
                where,
                f"{mode(status)}, and no job owns it",
                "a local user can use what nobody was given",
                f"chmod 0 {node}; if nobody needs it: nvidia-smi mig -i {minor} -gi {gi} -dci &&"
                f" nvidia-smi mig -i {minor} -gi {gi} -dgi",
            )
        elif owner is not None and (status.st_uid != owner or status.st_mode & 0o077):
            bad += 1
            yield failure(
                where,
                f"{mode(status)}; its job is uid {owner}'s",
                "somebody else can use this job's instance",
                f"chown {owner}:0 {node} && chmod 0400 {node}",
            )
    if not bad:
        yield ok("isolation", f"{len(nodes)} capability nodes, each its owner's alone")


CHECKS = (
    Check("devices.capabilities", "capability files", ON_NODE, (CONFIG,), _capabilities),
    Check("devices.nodes", "device nodes", ON_NODE, (CONFIG, DRIVER), _nodes),
    Check("devices.isolation", "isolation", ON_NODE, (CONFIG, DRIVER), _isolation),
)
