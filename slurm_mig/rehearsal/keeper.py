"""The keeper: one process that owns every process of a throwaway cluster and outlives none of them.

Run as a program (never imported by the product), with the standard library only. It makes itself a
"child subreaper", so that a slurmstepd, a job or a hook that detaches becomes its child instead of
init's; ending the cluster is then: kill all my descendants until there are none. Its standard
input is held by the owner. When that closes, for whatever reason (stop, exception, kill -9 of the
owner), the cluster ends.

With `remove` as its second argument it also removes the cluster's folder if the owner dies without
a word (`{"end": true}` is the word).

Commands, one JSON object a line on standard input, one answer a line on standard output:
`{"start": NAME, "argv": [...], "env": {...}, "log": PATH}` -> `{"pid": N}`,
`{"signal": NAME, "signum": N}` -> `{}`, `{"status": true}` -> `{"exits": {NAME: code or null}}`,
`{"mount": [[SOURCE, TARGET], ...]}` -> `{}` (bind mounts, in a mount namespace of its own),
`{"rename": HOST}` -> `{}` (what the host is called, for the keeper and what it starts only),
`{"cgroups": [CONTROLLER, ...], "below": FOLDER}` -> `{}` (a cgroup of its own in each of these
controllers of version 1, mounted on FOLDER/CONTROLLER; removed at the end).
"""

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS, CLONE_NEWUTS = 0x20000, 0x4000000
MS_REC, MS_BIND, MS_PRIVATE = 0x4000, 0x1000, 0x40000
MARKER = "SLURM_MIG_CLUSTER"

_libc = ctypes.CDLL(None, use_errno=True)


def descendants(root: int) -> set[int]:
    """Return the ids of all living descendants of process `root` (zombies are left out)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        # The command is in parentheses and may hold anything; the fields follow the last one.
        state, parent = stat.rpartition(")")[2].split()[:2]
        if state not in "ZX":
            parents[int(entry.name)] = int(parent)
    found: set[int] = set()
    for pid in parents:
        line, at = [], pid
        while at in parents and at != root and at not in found:
            line.append(at)
            at = parents[at]
        if at == root or at in found:
            found.update(line)
    return found


def marked(marker: str) -> set[int]:
    """Return the ids of living processes whose environment says that they are of this cluster."""
    wanted = f"{MARKER}={marker}".encode()
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def cgroup_name(marker: str) -> str:
    """The name of a cluster's own cgroup."""
    return "slurm-mig" + marker.replace("/", "-")


def cgroup_mounts() -> dict[str, Path]:
    """Where this machine has hierarchies of cgroup version 1 to write to, by controller."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup" and "rw" in options.split(","):
            for option in options.split(","):
                found.setdefault(option, Path(place))
    return found


def remove_cgroups(marker: str) -> bool:
    """Remove a cluster's cgroups; whether none is left. Those with processes in them stay."""
    gone = True
    for place in set(cgroup_mounts().values()):
        top = place / cgroup_name(marker)
        for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                folder.rmdir()
        with suppress(OSError):
            top.rmdir()
        gone = gone and not top.exists()
    return gone


class Keeper:
    """Starts, watches and ends the processes of one cluster."""

    def __init__(self, marker: str) -> None:
        self.marker = marker
        self.pids: dict[str, int] = {}
        self.exits: dict[int, int] = {}
        self.own_mounts = False
        self.own_cgroups = False

    def reap(self) -> None:
        """Collect every dead child; orphans of daemons are among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.exits[pid] = os.waitstatus_to_exitcode(status)

    def start(self, name: str, argv: list[str], env: dict[str, str], log: str) -> dict[str, Any]:
        """Start a daemon; it dies with the keeper even if the keeper is killed."""
        with Path(log).open("ab") as sink:
            child = subprocess.Popen(
                argv,
                env={**env, MARKER: self.marker},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # One thread only here, so running Python between fork and exec is safe.
                preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        child.returncode = 0  # reaped by reap(), not by Popen
        self.pids[name] = child.pid
        self.exits.pop(child.pid, None)
        return {"pid": child.pid}

    def mount(self, pairs: list[list[str]]) -> dict[str, Any]:
        """Bind-mount each source on its target, seen by nobody outside this keeper."""
        self._unshare_mounts()
        for source, target in pairs:
            if Path(source).is_dir():
                Path(target).mkdir(parents=True, exist_ok=True)
            else:
                Path(target).touch()
            self._mount(source, target, MS_BIND | MS_REC)
        return {}

    def cgroups(self, controllers: list[str], below: str) -> dict[str, Any]:
        """Make a cgroup in each hierarchy and mount it below a folder."""
        known = cgroup_mounts()
        for controller in controllers:
            if controller not in known:
                raise OSError(f"no cgroup v1 hierarchy with the controller {controller}")
            folder = known[controller] / cgroup_name(self.marker)
            folder.mkdir()
            self.own_cgroups = True
            self.mount([[str(folder), f"{below}/{controller}"]])
        return {}

    def _unshare_mounts(self) -> None:
        if not self.own_mounts:
            self._call("unshare", _libc.unshare(CLONE_NEWNS))
            self._mount(None, "/", MS_REC | MS_PRIVATE)
            self.own_mounts = True

    def rename(self, host: str) -> dict[str, Any]:
        """Call this host `host` for everything started from now on, and for nobody else."""
        self._call("unshare", _libc.unshare(CLONE_NEWUTS))
        socket.sethostname(host)
        return {}

    def _mount(self, source: str | None, target: str, flags: int) -> None:
        code = _libc.mount(source and source.encode(), target.encode(), None, flags, None)
        self._call(f"mount on {target}", code)

    @staticmethod
    def _call(what: str, code: int) -> None:
        if code != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        self.reap()
        if "start" in command:
            name = command["start"]
            return self.start(name, command["argv"], command["env"], command["log"])
        if "mount" in command:
            return self.mount(command["mount"])
        if "cgroups" in command:
            return self.cgroups(command["cgroups"], command["below"])
        if "rename" in command:
            return self.rename(command["rename"])
        if "signal" in command:
            pid = self.pids[command["signal"]]
            if pid not in self.exits:
                os.kill(pid, command["signum"])
            return {}
        return {"exits": {name: self.exits.get(pid) for name, pid in self.pids.items()}}

    def end(self, seconds: float = 10) -> set[int]:
        """Kill all descendants and all marked processes; return what is left after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            left = (descendants(os.getpid()) | marked(self.marker)) - {os.getpid()}
            # A cgroup is busy for a moment after its last process.
            if not left and (not self.own_cgroups or remove_cgroups(self.marker)):
                return left
            if time.monotonic() > deadline:
                return left
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.reap()
            time.sleep(0.01)


def main() -> int:
    """Serve commands until standard input closes or SIGTERM, then end everything."""
    keeper = Keeper(sys.argv[1])
    told = False
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    ended = False

    def on_term(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pending = b""
    while not ended:
        ready, _, _ = select.select([0, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            keeper.reap()
        if 0 not in ready:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            break
        pending += chunk
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            try:
                command = json.loads(line)
                told = told or "end" in command
                reply = keeper.answer(command)
            except (OSError, KeyError, ValueError) as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            os.write(1, json.dumps(reply).encode() + b"\n")
    left = keeper.end()
    if sys.argv[2:] == ["remove"] and not told:
        shutil.rmtree(sys.argv[1], ignore_errors=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
