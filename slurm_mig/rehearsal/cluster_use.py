"""What one does with a throwaway cluster: run commands, submit jobs, look, wait.

`Cluster` (cluster.py) is this plus its processes and files.
"""

import json
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from slurm_mig.errors import SlurmMigError
from slurm_mig.rehearsal import keeper
from slurm_mig.rehearsal.cluster_conf import Node
from slurm_mig.rehearsal.slurm_install import SlurmInstall, SlurmMissing

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


class ClusterUse:
    """The commands of a cluster in `folder`; its daemons are somebody else's."""

    folder: Path
    nodes: tuple[Node, ...]
    install: SlurmInstall
    release: tuple[int, int]
    conf: Path

    def __init__(self) -> None:
        self._clients: list[subprocess.Popen[str]] = []

    def _namespace(self) -> int:
        """Return the id of the process whose mounts the cluster's programs see."""
        raise NotImplementedError

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
            space = f"--mount=/proc/{self._namespace()}/ns/mnt"
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
            # Slurm prints what users wrote as it is.
            errors="replace",
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

    def end_clients(self) -> None:
        """Kill every client that `popen` has started and that still runs."""
        for client in self._clients:
            if client.poll() is None:
                client.kill()
            client.communicate()
        self._clients.clear()

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
        # A node comes once for each of its partitions, and some have no slurmd by design.
        states = dict(zip(said[::2], said[1::2], strict=True))
        return all(states.get(node.name) == "idle" for node in self.nodes)

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
