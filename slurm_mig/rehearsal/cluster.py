"""A throwaway Slurm cluster on loopback, inside one folder: munged, slurmctld, one slurmd a node.

Every process is a descendant of a keeper (`keeper.py`) that ends with its owner, however that
ends; every file is inside the folder. Ports are free ones on 127.0.0.1. There is no accounting, no
cgroup and no systemd. Needs root, since slurmd starts jobs for other users.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slurm_mig.rehearsal import cluster_conf, keeper
from slurm_mig.rehearsal.cluster_conf import Node, Ports
from slurm_mig.rehearsal.cluster_use import ClusterError, ClusterUse
from slurm_mig.rehearsal.slurm_install import SlurmInstall, SlurmMissing

__all__ = ["Cluster", "ClusterError", "Node", "SlurmInstall", "SlurmMissing"]

# Socket paths end at 107 bytes, and slurmd makes SPOOL/NODE/NODE_JOBID.STEPID inside the folder.
LONGEST_FOLDER = 60


def _addresses(hostname: str) -> set[str]:
    """Return the IPv4 addresses of a host's name; none if it has none."""
    try:
        found = socket.getaddrinfo(hostname, None, socket.AF_INET)
    except OSError:
        return set()
    return {str(address[0]) for *_, address in found}


def free_ports(count: int, held: ExitStack) -> list[int]:
    """Return `count` TCP ports of 127.0.0.1 that nobody is bound to now.

    They are outside the range that the kernel gives to clients (32768 and up), so that no outgoing
    connection takes one between this test and the daemon's own bind. Nor does another cluster: the
    UDP port of the same number, which Slurm does not use, is ours until `held` is closed.
    """
    ports: list[int] = []
    for port in random.sample(range(20000, 32000), 12000):
        with ExitStack() as one:
            claim = one.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            try:
                claim.bind(("127.0.0.1", port))
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            held.enter_context(one.pop_all())
            ports.append(port)
        if len(ports) == count:
            return ports
    raise ClusterError(f"no {count} free TCP ports on 127.0.0.1 between 20000 and 32000")


class Cluster(ClusterUse):
    """A Slurm cluster that exists between `start` and `stop`; a context manager.

    `folder` is made when missing, must be short (sockets live in it) and readable by the users
    whose jobs shall run; `Cluster.temporary` picks one and removes it. `requeue_delay` is how many
    seconds a requeued job waits, 5 or more. `also_mount`: folders of this machine that hooks and
    jobs need when `install` is a chroot folder. `replace`: {path: folder or file that is mounted
    over it}, seen by daemons, hooks and jobs only. `constrain_devices`: jobs may open only those of
    the devices of gres.conf that they have, by cgroups of version 1 (ClusterError without).
    `daemon_env`: variables for the daemons, besides what `environment` says.

    `rendered` makes it a rendered cluster: called with what the NodeName line of each node has to
    say of where it is ({"n1": "NodeHostname=localhost NodeAddr=127.0.0.1 Port=20001"}), it returns
    the texts of the files of the folder's `etc` by name, among them gres.conf and slurm-mig.conf,
    which slurm.conf includes and which has these lines. `nodes` are then those that get a slurmd;
    only their names count, and hooks and GRES are those of the files.
    """

    def __init__(
        self,
        folder: Path | str,
        nodes: Sequence[Node],
        *,
        install: SlurmInstall | None = None,
        prolog_flags: str = "Alloc",
        extra_conf: str = "",
        requeue_delay: int = 10,
        also_mount: Sequence[Path] = (),
        replace: Mapping[str, Path] | None = None,
        constrain_devices: bool = False,
        daemon_env: Mapping[str, str] | None = None,
        rendered: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__()
        self.folder = Path(folder).resolve()
        self.conf = self.folder / "etc/slurm.conf"  # for clients and slurmctld
        self.nodes = tuple(nodes)
        self.install = install or SlurmInstall.find()
        self.prolog_flags = prolog_flags
        self.extra_conf = extra_conf
        self.requeue_delay = requeue_delay
        self.also_mount = tuple(also_mount)
        self.replace = dict(replace or {})
        self.rendered = rendered
        self.constrain_devices = constrain_devices
        self.daemon_env = dict(daemon_env or {})
        self.release = self.install.release
        self.startup_seconds: float | None = None
        self._remove = False
        self._keeper: subprocess.Popen[bytes] | None = None
        self._ports = ExitStack()
        if requeue_delay < 5:
            raise ClusterError(f"requeue_delay {requeue_delay}: Slurm takes no less than 5 seconds")
        if len(os.fsencode(self.folder)) > LONGEST_FOLDER:
            raise ClusterError(
                f"{self.folder}: longer than {LONGEST_FOLDER} bytes, so the sockets in it would"
                " not work; use a shorter path or Cluster.temporary()"
            )

    @classmethod
    def temporary(cls, nodes: Sequence[Node], **options: Any) -> Self:
        """Return a cluster in a new folder of the temporary directory, removed by `stop`."""
        folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        folder.chmod(0o755)
        try:
            cluster = cls(folder, nodes, **options)
        except BaseException:
            folder.rmdir()
            raise
        cluster._remove = True
        return cluster

    # --- life -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, timeout: float = 60) -> None:
        """Start everything and wait until all nodes are idle; ClusterError if that fails."""
        if os.geteuid() != 0:
            raise ClusterError("a throwaway Slurm cluster needs root, since slurmd starts jobs")
        begun = time.monotonic()
        try:
            # A port may be taken between the test and the bind: then try others.
            for attempt in (1, 2, 3):
                try:
                    self._start_once(begun + timeout)
                    break
                except ClusterError as error:
                    if attempt == 3 or "in use" not in str(error):
                        raise
                    self._end()
                    shutil.rmtree(self.folder / "log")
        except BaseException:
            self.stop()
            raise
        self.startup_seconds = time.monotonic() - begun

    def _start_once(self, deadline: float) -> None:
        ports = free_ports(1 + len(self.nodes), self._ports)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(self.folder)]
            + (["remove"] if self._remove else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._write_files(Ports(ports[0], tuple(ports[1:])))
        if self.constrain_devices:
            below = str(self.folder / cluster_conf.CGROUPS)
            self._ask({"cgroups": cluster_conf.CONTROLLERS, "below": below})
        mounts = self.install.mounts(self.folder, *self.also_mount)
        root = str(self.install.root).rstrip("/")
        mounts += [[str(source), f"{root}{path}"] for path, source in self.replace.items()]
        if mounts:
            self._ask({"mount": mounts})
        munge = self.folder / "munge"
        argv = ["munged", "--foreground", "--force", "--num-threads=2"]
        argv += [f"--socket={munge}/socket", f"--key-file={munge}/key", f"--pid-file={munge}/pid"]
        argv += [f"--log-file={munge}/log", f"--seed-file={munge}/seed"]
        self._daemon("munged", *argv)
        self._wait_up((munge / "socket").exists, "munged to listen", deadline)
        self._daemon("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        self._wait_up(lambda: self._accepts(ports[0]), "slurmctld to listen", deadline)
        for node in self.nodes:
            self.start_slurmd(node.name)
        self._wait_up(self._all_idle, "all nodes to be idle", deadline)

    def stop(self) -> None:
        """End every process of the cluster, verify that none is left; may be repeated."""
        try:
            self._end()
        finally:
            if self._remove:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        self.end_clients()
        if self._keeper is not None:
            with suppress(ClusterError):
                self._ask({"end": True})
        one, self._keeper = self._keeper, None
        if one is not None:
            with suppress(BrokenPipeError):
                if one.stdin is not None:
                    one.stdin.close()
            try:
                one.wait(timeout=20)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
            if one.stdout is not None:
                one.stdout.close()
        # Only after a kill -9 of the keeper itself is anything left. Killed again and again: one
        # may have been starting another, or between fork and exec, when it was looked for.
        try:
            self.wait_until(self._kill_left, "the last processes to end", timeout=10)
        finally:
            self._ports.close()

    def _kill_left(self) -> bool:
        """Kill what is left of the cluster and its cgroups; whether that was nothing."""
        left = self.processes()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left and (not self.constrain_devices or keeper.remove_cgroups(str(self.folder)))

    def processes(self) -> frozenset[int]:
        """Return the ids of all living processes that this cluster has started."""
        found = keeper.marked(str(self.folder))
        if self._keeper is not None:
            found |= keeper.descendants(self._keeper.pid)
        return frozenset(found)

    # --- files and daemons ------------------------------------------------------------------

    def node_conf(self, name: str) -> Path:
        """The slurm.conf of one node, with its own hooks; of a rendered cluster all nodes'."""
        return self.conf if self.rendered else self.folder / "etc" / name / "slurm.conf"

    def _host(self) -> tuple[str, bool]:
        """The name that the daemons shall know this host by, and whether that is 127.0.0.1.

        Slurm binds to the address of its host's name, or to all; whatever the host is called, its
        daemons are told that it is localhost. Where that is forbidden (a container without
        CAP_SYS_ADMIN) it keeps its name.
        """
        try:
            self._ask({"rename": "localhost"})
        except ClusterError:
            hostname = socket.gethostname().partition(".")[0]
            return hostname, _addresses(hostname) == {"127.0.0.1"}
        return "localhost", True

    def _write_files(self, ports: Ports) -> None:
        for part in ("etc", "munge", "state", "spool", "run", "log", "work"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "munge").chmod(0o755)
        (self.folder / "work").chmod(0o1777)
        key = self.folder / "munge/key"
        if not key.exists():
            key.touch(mode=0o400)
            key.write_bytes(os.urandom(128))
        hostname, loopback = self._host()
        written = {}
        if self.rendered is not None:
            places = [cluster_conf.place(hostname, port) for port in ports.nodes]
            names = [node.name for node in self.nodes]
            written = dict(self.rendered(dict(zip(names, places, strict=True))))
        for node in (None, *(() if self.rendered else self.nodes)):
            path = self.conf if node is None else self.node_conf(node.name)
            path.parent.mkdir(exist_ok=True)
            files = {
                "slurm.conf": cluster_conf.slurm_conf(
                    self.folder,
                    self.nodes,
                    ports,
                    hostname=hostname,
                    hostname_is_loopback=loopback,
                    release=self.release,
                    prolog_flags=self.prolog_flags,
                    requeue_delay=self.requeue_delay,
                    extra_conf=self.extra_conf,
                    node=node,
                    constrain_devices=self.constrain_devices,
                    fragment=written[cluster_conf.FRAGMENT] if self.rendered else None,
                ),
                "gres.conf": cluster_conf.gres_conf(self.nodes),
                "cgroup.conf": cluster_conf.cgroup_conf(
                    self.release, self.folder if self.constrain_devices else None
                ),
                **written,
            }
            for name, text in files.items():
                (path.parent / name).write_text(text)
        for node in self.nodes:
            (self.folder / "spool" / node.name).mkdir(exist_ok=True)

    def _namespace(self) -> int:
        if self._keeper is None:
            raise ClusterError(f"the cluster in {self.folder} does not run; call start()")
        return self._keeper.pid

    def _ask(self, command: dict[str, object]) -> dict[str, Any]:
        one = self._keeper
        if one is None or one.stdin is None or one.stdout is None:
            raise ClusterError(f"the cluster in {self.folder} does not run; call start()")
        try:
            one.stdin.write(json.dumps(command).encode() + b"\n")
            one.stdin.flush()
            reply: dict[str, Any] = json.loads(one.stdout.readline())
        except (BrokenPipeError, ValueError) as error:
            raise ClusterError(f"the keeper of {self.folder} is gone: {error}") from error
        if "error" in reply:
            raise ClusterError(f"the keeper of {self.folder} could not obey: {reply['error']}")
        return reply

    def _daemon(self, name: str, program: str, *arguments: str) -> None:
        self._ask(
            {
                "start": name,
                "argv": [*self.install.inside, self.install.program(program), *arguments],
                "env": {**self.environment(), **self.daemon_env},
                "log": str(self.folder / "log" / f"{name}.out"),
            }
        )

    def start_slurmd(self, name: str) -> None:
        """Start the slurmd of one node (again, after `end_daemon`)."""
        self._daemon(f"slurmd-{name}", "slurmd", "-D", "-N", name, "-f", str(self.node_conf(name)))

    def start_slurmctld(self) -> None:
        """Start slurmctld again, after `end_daemon`; it recovers its saved state."""
        self._daemon("slurmctld", "slurmctld", "-D", "-f", str(self.conf))

    def end_daemon(self, name: str, signum: int = signal.SIGTERM, timeout: float = 30) -> None:
        """Signal `slurmctld` or `slurmd-NODE` and wait until it has ended."""
        self._ask({"signal": name, "signum": int(signum)})
        self.wait_until(
            lambda: self._ask({"status": True})["exits"][name] is not None,
            f"{name} to end after signal {signum}",
            timeout=timeout,
        )

    def _accepts(self, port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def _wait_up(self, predicate: Callable[[], bool], what: str, deadline: float) -> None:
        def check() -> bool:
            for name, code in self._ask({"status": True})["exits"].items():
                if code is not None:
                    raise ClusterError(f"{name} ended with {code} while starting\n{self._tails()}")
            return predicate()

        self.wait_until(check, what, timeout=max(0.1, deadline - time.monotonic()))
