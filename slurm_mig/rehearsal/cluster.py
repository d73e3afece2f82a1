"""A throwaway Slurm cluster on loopback, inside one folder: munged, slurmctld, one slurmd a node.

Every process is a descendant of a keeper (`keeper.py`) that ends with its owner, however that
ends; every file is inside the folder. Ports are free ones on 127.0.0.1. There is no accounting, no
cgroup and no systemd. Needs root, since slurmd starts jobs for other users.
"""

import json
import os
import pwd
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
from typing import IO, Any, Self

from slurm_mig.errors import SlurmMigError
from slurm_mig.rehearsal import cluster_conf, keeper
from slurm_mig.rehearsal.cluster_conf import Node, Ports
from slurm_mig.rehearsal.slurm_install import SlurmInstall, SlurmMissing

__all__ = ["Cluster", "ClusterError", "Node", "SlurmInstall", "SlurmMissing"]

# Socket paths end at 107 bytes, and slurmd makes SPOOL/NODE/NODE_JOBID.STEPID inside the folder.
_LONGEST_FOLDER = 60
_ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"}
    | {"NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)


class ClusterError(SlurmMigError):
    """The cluster could not be started, or did not come to a state in time."""

    def __str__(self) -> str:
        # With the tails of the daemons' logs: for a person who debugs, so not on one line.
        return Exception.__str__(self)


def _states(value: object) -> frozenset[str]:
    """Return a state as Slurm's JSON gives it (a string or a list) as a set."""
    if isinstance(value, str):
        return frozenset(value.split("+"))
    return frozenset(str(part) for part in value) if isinstance(value, list) else frozenset()


def _addresses(hostname: str) -> set[str]:
    """Return the IPv4 addresses of a host's name; none if it has none."""
    try:
        found = socket.getaddrinfo(hostname, None, socket.AF_INET)
    except OSError:
        return set()
    return {str(address[0]) for *_, address in found}


def free_ports(count: int) -> list[int]:
    """Return `count` TCP ports of 127.0.0.1 that nobody is bound to now.

    They are outside the range that the kernel gives to clients (32768 and up), so that no outgoing
    connection takes one between this test and the daemon's own bind.
    """
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.sample(range(20000, 32000), 2000):
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise ClusterError(f"no {count} free TCP ports on 127.0.0.1 between 20000 and 32000")


class Cluster:
    """A Slurm cluster that exists between `start` and `stop`; a context manager.

    `folder` is made when missing, must be short (sockets live in it) and readable by the users
    whose jobs shall run; `Cluster.temporary` picks one and removes it. `requeue_delay` is how many
    seconds a requeued job waits, 5 or more. `also_mount`: folders of this machine that hooks and
    jobs need when `install` is a chroot folder.
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
    ) -> None:
        self.folder = Path(folder).resolve()
        self.nodes = tuple(nodes)
        self.install = install or SlurmInstall.find()
        self.prolog_flags = prolog_flags
        self.extra_conf = extra_conf
        self.requeue_delay = requeue_delay
        self.also_mount = tuple(also_mount)
        self.release = self.install.release
        self.startup_seconds: float | None = None
        self._remove = False
        self._keeper: subprocess.Popen[bytes] | None = None
        self._clients: list[subprocess.Popen[str]] = []
        if requeue_delay < 5:
            raise ClusterError(f"requeue_delay {requeue_delay}: Slurm takes no less than 5 seconds")
        if len(os.fsencode(self.folder)) > _LONGEST_FOLDER:
            raise ClusterError(
                f"{self.folder}: longer than {_LONGEST_FOLDER} bytes, so the sockets in it would"
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
        except BaseException:
            self.stop()
            raise
        self.startup_seconds = time.monotonic() - begun

    def _start_once(self, deadline: float) -> None:
        ports = free_ports(1 + len(self.nodes))
        self._write_files(Ports(ports[0], tuple(ports[1:])))
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        mounts = self.install.mounts(self.folder, *self.also_mount)
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
        left = self.processes()
        for pid in left:  # only after a kill -9 of the keeper itself
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if left:
            self.wait_until(lambda: not self.processes(), "the last processes to end", timeout=10)

    def end_clients(self) -> None:
        """Kill every client that `popen` has started and that still runs."""
        for client in self._clients:
            if client.poll() is None:
                client.kill()
            client.communicate()
        self._clients.clear()

    def processes(self) -> frozenset[int]:
        """Return the ids of all living processes that this cluster has started."""
        found = keeper.marked(str(self.folder))
        if self._keeper is not None:
            found |= keeper.descendants(self._keeper.pid)
        return frozenset(found)

    # --- files and daemons ------------------------------------------------------------------

    @property
    def conf(self) -> Path:
        """The shared slurm.conf, for clients and slurmctld."""
        return self.folder / "etc/slurm.conf"

    def node_conf(self, name: str) -> Path:
        """The slurm.conf of one node, with its own hooks."""
        return self.folder / "etc" / name / "slurm.conf"

    def _write_files(self, ports: Ports) -> None:
        for part in ("etc", "munge", "state", "spool", "run", "log", "work"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "munge").chmod(0o755)
        (self.folder / "work").chmod(0o1777)
        key = self.folder / "munge/key"
        if not key.exists():
            key.touch(mode=0o400)
            key.write_bytes(os.urandom(128))
        hostname = socket.gethostname().partition(".")[0]
        loopback = _addresses(hostname) == {"127.0.0.1"}
        for node in (None, *self.nodes):
            path = self.conf if node is None else self.node_conf(node.name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(
                cluster_conf.slurm_conf(
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
                )
            )
            (path.parent / "gres.conf").write_text(cluster_conf.gres_conf(self.nodes))
            (path.parent / "cgroup.conf").write_text(cluster_conf.cgroup_conf(self.release))
            if node is not None:
                (self.folder / "spool" / node.name).mkdir(exist_ok=True)

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
                "env": self.environment(),
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

    # --- commands ---------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Return the whole environment of client commands; nothing of the caller's is in it."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(self.conf),
            keeper.MARKER: str(self.folder),
        }

    def _argv(self, argv: Sequence[str | Path], user: str | int | None) -> list[str]:
        words = [str(word) for word in argv]
        if "/" not in words[0]:
            with suppress(SlurmMissing):
                words[0] = self.install.program(words[0])
        if user is not None:
            account = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
            identity = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
            words = [self.install.program("setpriv"), *identity, "--clear-groups", "--", *words]
        if self.install.inside:
            if self._keeper is None:
                raise ClusterError(f"the cluster in {self.folder} does not run; call start()")
            space = f"--mount=/proc/{self._keeper.pid}/ns/mnt"
            words = [shutil.which("nsenter") or "nsenter", space, *self.install.inside, *words]
        return words

    def popen(
        self,
        *argv: str | Path,
        user: str | int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """Start a client command in the background; `stop` ends it. Output is piped, as text."""
        child = subprocess.Popen(
            self._argv(argv, user),
            env={**self.environment(), **(env or {})},
            cwd=cwd or self.folder / "work",
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._clients.append(child)
        return child

    def run(
        self,
        *argv: str | Path,
        user: str | int | None = None,
        check: bool = True,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with this cluster's environment, as `user` (name or uid) if given.

        A failure or a timeout is a ClusterError with the output and the tails of the logs.
        """
        child = self.popen(
            *argv,
            user=user,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE if input else subprocess.DEVNULL,
        )
        said = " ".join(str(word) for word in argv)[:200]
        try:
            out, err = child.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            raise ClusterError(
                f"{said}: not ended after {timeout} s\n{out}{err}\n{self._tails()}"
            ) from None
        finally:
            if child in self._clients:
                self._clients.remove(child)
        if check and child.returncode != 0:
            raise ClusterError(
                f"{said}: ended with {child.returncode}\n{out}{err}\n{self._tails()}"
            )
        return subprocess.CompletedProcess(list(argv), child.returncode, out, err)

    def srun(self, *argv: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `srun ARGV...`; options are those of `run`."""
        return self.run("srun", *argv, **options)

    def sbatch(
        self,
        script: str,
        *options: str,
        user: str | int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Submit a batch script (a `#!/bin/sh` line is added if it has none); return the job id.

        Its output goes to `output_file(job id)` unless the options say otherwise.
        """
        text = script if script.startswith("#!") else f"#!/bin/sh\n{script}\n"
        where = f"--output={self.folder}/work/%j.out"
        said = self.run("sbatch", "--parsable", where, *options, user=user, env=env, input=text)
        return int(said.stdout.strip().partition(";")[0])

    def output_file(self, job_id: int) -> Path:
        """Where `sbatch` sends a job's output; array tasks: by the job id of the task."""
        return self.folder / "work" / f"{job_id}.out"

    # --- looking ----------------------------------------------------------------------------

    def jobs(self, job_id: int | None = None) -> list[dict[str, Any]]:
        """Return all jobs that slurmctld remembers, or those shown for one id, from its JSON.

        Of an array's first id all tasks are shown. `gres_detail` is included.
        """
        one = [] if job_id is None else [str(job_id)]
        if self.release < (23, 2):  # scontrol learned --json in 23.02
            argv = ["squeue", "--json", *(["-j", *one] if one else [])]
        else:
            argv = ["scontrol", "show", "job", "-d", "--json", *one]
        found: list[dict[str, Any]] = json.loads(self.run(*argv).stdout)["jobs"]
        if job_id is None or self.release >= (23, 2):
            return found
        # squeue 22.05 shows all jobs whatever it is asked for.
        return [job for job in found if job_id in (job["job_id"], job["array_job_id"])]

    def job(self, job_id: int) -> dict[str, Any]:
        """Return one job from Slurm's JSON; ClusterError if unknown."""
        for job in self.jobs(job_id):
            if job["job_id"] == job_id:
                return job
        raise ClusterError(f"job {job_id}: unknown to slurmctld in {self.folder}")

    def job_states(self, job_id: int) -> frozenset[str]:
        """Return a job's states, e.g. `{"COMPLETED"}`; some releases add `COMPLETING` and such."""
        return _states(self.job(job_id)["job_state"])

    def node(self, name: str) -> dict[str, Any]:
        """Return one node from Slurm's JSON (`gres`, `gres_used`, `extra`, `state`, `reason`)."""
        argv = ["sinfo", "--json"] if self.release < (23, 2) else ["scontrol", "show", "node"]
        if self.release >= (23, 2):
            argv += [name, "-d", "--json"]
        found: list[dict[str, Any]] = json.loads(self.run(*argv).stdout)["nodes"]
        for node in found:
            if node["name"] == name:
                return node
        raise ClusterError(f"node {name}: unknown to slurmctld in {self.folder}")

    def node_states(self, name: str) -> frozenset[str]:
        """Return a node's states with flags, e.g. `{"IDLE"}` or `{"IDLE", "DRAIN"}`."""
        node = self.node(name)
        return frozenset(
            state.upper() for state in _states(node["state"]) | _states(node.get("state_flags", []))
        )

    def _all_idle(self) -> bool:
        said = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False, timeout=30).stdout.split()
        return len(said) == 2 * len(self.nodes) and set(said[1::2]) == {"idle"}

    def log(self, name: str) -> str:
        """Return the log of `slurmctld`, `slurmd-NODE` or `munged`; empty if there is none."""
        path = self.folder / ("munge/log" if name == "munged" else f"log/{name}.log")
        return path.read_text(errors="replace") if path.exists() else ""

    def _tails(self, lines: int = 15) -> str:
        names = ["munged", "slurmctld", *(f"slurmd-{node.name}" for node in self.nodes)]
        parts = []
        for name in names:
            out = self.folder / f"log/{name}.out"
            text = self.log(name) or (out.read_text(errors="replace") if out.exists() else "")
            parts.append("\n".join([f"--- {name}", *text.splitlines()[-lines:]]))
        return "\n".join(parts)

    # --- waiting ----------------------------------------------------------------------------

    def wait_until(self, predicate: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Poll until `predicate()` is true; ClusterError that names `what` after `timeout` s."""
        deadline = time.monotonic() + timeout
        pause = 0.01
        while not predicate():
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {timeout:.0f} s in vain for {what}\n{self._tails()}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)

    def wait_job(
        self, job_id: int, states: str | Sequence[str] = "COMPLETED", timeout: float = 60
    ) -> dict[str, Any]:
        """Wait until a job is in one of `states` and return it.

        A job that has ended otherwise is a ClusterError at once. COMPLETING is not waited for
        unless it is named; `wait_idle` waits until Epilogs are done.
        """
        wanted = {states} if isinstance(states, str) else set(states)
        last: dict[str, Any] = {}

        def check() -> bool:
            nonlocal last
            last = self.job(job_id)
            now = _states(last["job_state"])
            if now & wanted:
                return True
            if now & _ENDED:
                raise ClusterError(
                    f"job {job_id} is {'+'.join(sorted(now))}, not {'/'.join(sorted(wanted))}"
                    f" ({last.get('state_reason')})\n{self._tails()}"
                )
            return False

        self.wait_until(check, f"job {job_id} to be {'/'.join(sorted(wanted))}", timeout)
        return last

    def wait_nodes_idle(self, timeout: float = 60) -> None:
        """Wait until every node is idle: no job, no Epilog, not drained."""
        self.wait_until(self._all_idle, "all nodes to be idle", timeout)
