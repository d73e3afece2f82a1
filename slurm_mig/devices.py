"""The driver's trees under one root: capability device nodes, /proc/devices, the boot id.

Every GI and CI has a capability: an `access` file under proc/driver/nvidia/capabilities that
exists as long as it does, and a device node /dev/nvidia-caps/nvidia-cap<minor> that a process must
be able to open to use it. The driver's tools make the node 0444, so any local user could use any
instance. Here it is given to one user, and DeviceFileModify: 0 tells the tools not to undo it.
Source: open-gpu-kernel-modules, nv-caps.c; facts on sizes of minors are read, never computed.
"""

import os
import pwd
import re
import stat
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from slurm_mig.errors import NodeFault, one_line

OWNED = 0o400  # an instance with a job: its user alone
NOBODY = 0o000  # without one: nobody; root passes all the same


class Devices:
    """The trees under `root`. Raises NodeFault when they are not as a driver keeps them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._capabilities = root / "proc/driver/nvidia/capabilities"
        self._nodes = root / "dev/nvidia-caps"

    def boot_id(self) -> str:
        """The kernel's id of this boot: no instance outlives it."""
        path = self._root / "proc/sys/kernel/random/boot_id"
        try:
            return path.read_text().strip()
        except OSError as error:
            raise NodeFault(f"boot id {path}: {error.strerror}") from None

    def life(self) -> str:
        """What no instance outlives: this boot and this load of the driver, `<boot id>/<load>`.

        The load is the inode of sysfs's folder for the module: the kernel gives none twice within
        a boot (fs/kernfs/dir.c, 64-bit ids). Where there is no sysfs under the root, only the boot
        id is known. Raises NodeFault.
        """
        try:
            load = (self._root / "sys/module/nvidia").stat().st_ino
        except OSError:
            return self.boot_id()
        return f"{self.boot_id()}/{load}"

    def present(self) -> bool:
        """Whether a driver is loaded."""
        return (self._root / "proc/driver/nvidia").is_dir()

    def major(self) -> int:
        """The major number of capability device nodes."""
        path = self._root / "proc/devices"
        try:
            found = re.search(
                r"^\s*(\d+) nvidia-caps$", path.read_text(errors="replace"), re.MULTILINE
            )
        except OSError as error:
            raise NodeFault(f"{path}: {error.strerror}") from None
        if found is None:
            raise NodeFault(f"{path}: no nvidia-caps; load the nvidia module (nvidia-modprobe)")
        return int(found[1])

    def _accesses(self, minor: int, gi: int, cis: tuple[int, ...]) -> list[Path]:
        folder = self._capabilities / f"gpu{minor:d}/mig/gi{gi:d}"
        return [folder / "access", *(folder / f"ci{ci:d}" / "access" for ci in cis)]

    @staticmethod
    def _device_minor(access: Path) -> int:
        found = re.search(r"^DeviceFileMinor: (\d+)$", access.read_text(), re.MULTILINE)
        if found is None:
            raise NodeFault(f"{access}: names no DeviceFileMinor")
        return int(found[1])

    @staticmethod
    def _forbid_changes(access: Path) -> None:
        """Tell the driver's tools to leave the node as it is.

        The driver takes what is written up to the close as one text, which must begin with the key
        it lets us set (nv-caps.c, nv_cap_procfs_release); the other lines only keep the file whole
        for readers where a plain file stands in its place.
        """
        lines = [
            line
            for line in access.read_text().splitlines()
            if not line.startswith("DeviceFileModify:")
        ]
        access.write_text("\n".join(["DeviceFileModify: 0", *lines, ""]))

    def instance_nodes(self) -> list[tuple[int, int, Path]]:
        """The nodes of all GIs and CIs as (GPU minor, GI id, path); a node may not be there."""
        found = []
        for access in sorted(self._capabilities.glob("gpu*/mig/gi*/**/access")):
            gpu, _, gi = access.relative_to(self._capabilities).parts[:3]
            with suppress(FileNotFoundError):  # gone between the list and the look
                node = self._nodes / f"nvidia-cap{self._device_minor(access)}"
                found.append((int(gpu.removeprefix("gpu")), int(gi.removeprefix("gi")), node))
        return found

    def grant(self, minor: int, gi: int, cis: tuple[int, ...], uid: int) -> None:
        """Give the nodes of a GI and its CIs on GPU `minor` to `uid` alone."""
        major = self.major()
        for access in self._accesses(minor, gi, cis):
            try:
                # Before the node is touched: the driver's tools set it back otherwise.
                self._forbid_changes(access)
                node = self._node(major, self._device_minor(access))
                # The folder is root's alone, so the node just looked at is the node changed here.
                node.chmod(OWNED)
                os.chown(node, uid, 0)
            except OSError as error:
                raise NodeFault(
                    f"{access}: cannot give its device to uid {uid}: {error.strerror} "
                    f"({error.filename})"
                ) from None

    def _node(self, major: int, minor: int) -> Path:
        """The node, made as nvidia-modprobe would when it is missing or not the right device."""
        node = self._nodes / f"nvidia-cap{minor}"
        wanted = os.makedev(major, minor)
        try:
            status = node.lstat()
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == wanted:
                return node
            node.unlink()
        except FileNotFoundError:
            self._nodes.mkdir(mode=0o755, exist_ok=True)
        os.mknod(node, stat.S_IFCHR | NOBODY, wanted)
        return node

    def revoke(self, minor: int, gi: int, cis: tuple[int, ...]) -> None:
        """Take the nodes back, so that nobody opens them any more; what is gone is taken back.

        Never raises: the instance is about to go, and must not stay because its node did.
        """
        for access in self._accesses(minor, gi, cis):
            with suppress(OSError, NodeFault):
                node = self._nodes / f"nvidia-cap{self._device_minor(access)}"
                if not stat.S_ISCHR(node.lstat().st_mode):
                    continue
                os.chown(node, 0, 0)
                node.chmod(NOBODY)

    def holders(self, minor: int, gi: int, cis: tuple[int, ...]) -> list[int]:
        """The pids that have a node of the instance open, from /proc/<pid>/fd."""
        wanted = set()
        for access in self._accesses(minor, gi, cis):
            with suppress(OSError, NodeFault):
                wanted.add((self._nodes / f"nvidia-cap{self._device_minor(access)}").stat().st_rdev)
        pids = []
        for process in Path("/proc").iterdir() if wanted else ():
            if not process.name.isdecimal():
                continue
            with suppress(OSError):
                for descriptor in (process / "fd").iterdir():
                    with suppress(OSError):
                        # By its name first: to look at a file of a dead NFS server may take for
                        # ever, and what users have open is on such.
                        if not descriptor.readlink().name.startswith("nvidia-cap"):
                            continue
                        status = descriptor.stat()
                        if stat.S_ISCHR(status.st_mode) and status.st_rdev in wanted:
                            pids.append(int(process.name))
                            break
        return pids


def _user_names(uids: set[int], patience: float) -> dict[int, str]:
    """The names of these users, as many as are found within `patience` seconds.

    Where users come from a directory (sssd, LDAP) a look-up may hang as long as that does, and
    there is no way to end it: so it is left behind, in a thread of which no end waits.
    """
    found: dict[int, str] = {}

    def look_up() -> None:
        for uid in sorted(uids):
            with suppress(KeyError):
                found[uid] = pwd.getpwuid(uid).pw_name

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(patience)
    return dict(found)


def describe_processes(pids: Iterable[int], patience: float = 2.0) -> list[str]:
    """`pid 4711 (dcgm, user root)` for each, as far as /proc tells; for error messages.

    `uid 4321` stands for a user whose name was not found within `patience` seconds, for all of
    them together. A process names itself: what is not printable is escaped.
    """
    seen: dict[int, tuple[str, int]] = {}
    pids = list(pids)
    for pid in pids:
        with suppress(OSError):
            name = Path(f"/proc/{pid:d}/comm").read_text(errors="replace").removesuffix("\n")
            seen[pid] = one_line(name), Path(f"/proc/{pid:d}").stat().st_uid
    users = _user_names({uid for _, uid in seen.values()}, patience) if seen else {}
    lines = []
    for pid in pids:
        line = f"pid {pid}"
        if pid in seen:
            name, uid = seen[pid]
            line += f" ({name}, {f'user {one_line(users[uid])}' if uid in users else f'uid {uid}'})"
        lines.append(line)
    return lines
