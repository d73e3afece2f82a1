"""A real Slurm over two rehearsed nodes, each with two simulated A100-SXM4-40GB and its own hooks.

The nodes are made as an admin makes them (RehearsalNode): a TOML, the installed hooks, the counts
of the layout in gres.conf. What runs inside jobs is `look`, a copy that any user can read and run.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import filelock
import pynvml
import pytest

import slurm_mig
from slurm_mig import drained
from slurm_mig.ledger import Entry, Ledger
from slurm_mig.nvml import Driver
from slurm_mig.profiles import Placement
from slurm_mig.rehearsal import look
from slurm_mig.rehearsal.cluster import Cluster, Node, SlurmInstall
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.simulator.records import GpuInstance

GPUS = ("A100-SXM4-40GB:2",)
#: What "balanced" promises for two of them, and what NVML says of the memory of each.
PROMISES = {"3g.20gb": 2, "2g.10gb": 2, "1g.5gb": 4}
MEMORY_MB = {"3g.20gb": 19968, "2g.10gb": 9856, "1g.5gb": 4864}
#: In gres.conf by an admin's mistake: no A100-SXM4-40GB has it.
IMPOSSIBLE = "3g.40gb"
#: node2 is the impatient one: it holds a job after two misses and quarantines after a second.
SETTINGS: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "node1": {},
    "node2": {"prolog": {"misses": 2}, "epilog": {"budget": 1}},
}
USER, USER_ID = "nobody", 65534
REQUEUE_DELAY = 5

_LOOK = """#!/bin/sh
# look [NAME]: print what this job sees; with NAME, stay until the test lets go of NAME.
cd {folder} || exit 1
[ $# = 0 ] || set -- ready/"$1.$SLURM_JOB_ID.$SLURMD_NODENAME" go/"$1"
exec {python} -E -s -S job/look.py {folder}/"$SLURMD_NODENAME"/sim/lib/libnvidia-ml.so.1 "$@"
"""
_PYTHON = """#!/bin/sh
export LD_LIBRARY_PATH={folder}/lib
exec {folder}/bin/python "$@"
"""
#: Parts of the standard library that no hook and no job needs.
_LEFT_OUT = shutil.ignore_patterns(
    *("site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "lib2to3"),
    *("ensurepip", "config-*", "turtledemo", "*.a"),
)


def _libraries(program: Path) -> list[Path]:
    """The shared libraries of a program, but for those that every Linux has."""
    said = subprocess.run(
        ["/usr/bin/ldd", program], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    found = [Path(line.split()[2]) for line in said.splitlines() if "=> /" in line]
    glibc = ("libc.", "libm.", "libpthread.", "libdl.", "libutil.", "librt.", "ld-")
    return [path for path in found if not path.name.startswith(glibc)]


def portable_python(folder: Path) -> Path:
    """Copy the interpreter that runs this to `folder`; returns the program to call.

    Its own place may be closed to other users (a home directory), and is not there at all in a
    folder with another Debian.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    stdlib = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(stdlib, folder / "lib" / version, ignore=_LEFT_OUT, symlinks=False)
    (folder / "bin").mkdir()
    program = folder / "bin/python"
    shutil.copy2(Path(sys.executable).resolve(), program)
    dynload = folder / "lib" / version / "lib-dynload"
    users = [program, *dynload.glob("_sqlite3.*"), *dynload.glob("_ctypes.*")]
    for library in {path for user in users for path in _libraries(user)}:
        shutil.copy2(library, folder / "lib" / library.name)
    wrapper = folder / "python"
    wrapper.write_text(_PYTHON.format(folder=folder))
    wrapper.chmod(0o755)
    return wrapper


def _home(module: ModuleType) -> Path:
    """The folder of a package, or the file of a module."""
    path = Path(str(module.__file__))
    return path.parent if path.name == "__init__.py" else path


def gres(counts: Mapping[str, int]) -> str:
    """`--gres=mig:3g.20gb:1,…`, with counts, which Slurm 22.05 wants."""
    return "--gres=" + ",".join(f"mig:{profile}:{count}" for profile, count in counts.items())


def _number(value: object) -> int:
    """A number as Slurm's JSON has it: plain, or from 23.02 on with a flag whether it is set."""
    return int(value["number"] if isinstance(value, dict) else value)


class Spine:
    """The cluster, its nodes, and short words for what the tests do with them."""

    def __init__(self, folder: Path, install: SlurmInstall) -> None:
        """Make the nodes in `folder`; `install` may be a folder with another Debian."""
        self.folder = folder
        folder.chmod(0o755)
        for part in ("ready", "go"):
            (folder / part).mkdir()
            (folder / part).chmod(0o1777)
        self.python = portable_python(folder / "python")
        (folder / "job").mkdir()
        for source in (look.__file__, pynvml.__file__):
            shutil.copy(source, folder / "job")
        self.look = folder / "look"
        self.look.write_text(_LOOK.format(folder=folder, python=self.python))
        self.look.chmod(0o755)
        mounts = []
        with pytest.MonkeyPatch.context() as patch:
            if install.inside:
                # The hooks are to run a Python that is there too.
                patch.setattr(sys, "executable", str(self.python))
                mounts = [folder, _home(slurm_mig), *{_home(m).parent for m in (filelock, pynvml)}]
            self.nodes = {
                name: RehearsalNode.create(
                    folder / name,
                    name,
                    GPUS,
                    scontrol=install.program("scontrol"),
                    settings=settings,
                )
                for name, settings in SETTINGS.items()
            }
        offered = [{**node.promises, IMPOSSIBLE: 1} for node in self.nodes.values()]
        self.cluster = Cluster(
            folder / "slurm",
            [
                Node(
                    node.name,
                    types,
                    prolog=node.prolog,
                    epilog=node.epilog,
                    task_prolog=node.task_prolog,
                )
                for node, types in zip(self.nodes.values(), offered, strict=True)
            ],
            install=install,
            # Else a batch script starts when the Prolog of its first node is done, and may run in
            # part before that of another node turns the job away.
            prolog_flags="Alloc,DeferBatch",
            requeue_delay=REQUEUE_DELAY,
            also_mount=mounts,
        )

    # -- jobs -------------------------------------------------------------------------------

    def srun(self, name: str, *options: str, user: str | None = None) -> "subprocess.Popen[str]":
        """Start `srun … look NAME`, which stays until `let_go(NAME)`."""
        return self.cluster.popen("srun", *options, self.look, name, user=user)

    def wait_ready(self, name: str, count: int = 1, timeout: float = 60) -> None:
        """Wait until `count` tasks that look under this name have looked."""
        self.cluster.wait_until(
            lambda: len(list((self.folder / "ready").glob(f"{name}.*"))) >= count,
            f"{count} tasks of {name} to look",
            timeout,
        )

    def let_go(self, name: str) -> None:
        """Let the tasks that look under this name end."""
        (self.folder / "go" / name).touch()

    def ended(self, process: "subprocess.Popen[str]") -> list[dict[str, Any]]:
        """Wait until a client has ended well; what its tasks saw."""
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    def seen(self, job: int) -> list[dict[str, Any]]:
        """What the looks of a batch job printed; slurmstepd may have said something between."""
        lines = self.cluster.output_file(job).read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def comment(self, job: int) -> str:
        """The job's AdminComment."""
        return str(self.cluster.job(job)["admin_comment"])

    def wait_back(self, job: int, restarts: int = 1) -> None:
        """Wait until a job is back in the queue so many times and its node is done with it."""

        def back() -> bool:
            record = self.cluster.job(job)
            return _number(record["restart_cnt"]) >= restarts and self.state(job) == "PENDING"

        self.cluster.wait_until(back, f"job {job} to be back")
        self.cluster.wait_nodes_idle()

    def wait_held(self, job: int) -> None:
        """Wait until a job is held in the queue and its node is done with it."""

        def held() -> bool:
            return self.state(job) == "PENDING" and _number(self.cluster.job(job)["priority"]) == 0

        self.cluster.wait_until(held, f"job {job} to be held")
        self.cluster.wait_nodes_idle()

    def hasten(self, job: int) -> None:
        """Let a job that was requeued start soon, not after REQUEUE_DELAY.

        Not in the second in which it was killed: until then slurmd takes its credential for that
        of the killed run.
        """
        self.cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def state(self, job: int) -> str:
        """The job's states, joined by a plus."""
        return "+".join(sorted(self.cluster.job_states(job)))

    def end_of_jobs(self) -> None:
        """Wait until no job is left and every Epilog is done."""
        self.cluster.wait_until(
            lambda: not self.cluster.run("squeue", "-h").stdout, "the queue to be empty"
        )
        self.cluster.wait_nodes_idle()

    # -- nodes ------------------------------------------------------------------------------

    def instances(self, name: str) -> list[GpuInstance]:
        """What lives on the GPUs of a node."""
        return self.nodes[name].simulation.instances()

    def entries(self, name: str) -> list[Entry]:
        """What stands in a node's ledger."""
        with Ledger(self.nodes[name].folder / "state") as ledger:
            return ledger.entries()

    def device_nodes(self, name: str) -> dict[str, tuple[int, int]]:
        """Owner and mode of each capability device node of the instances that live on a node."""
        root = self.nodes[name].simulation.root
        found = {}
        for access in root.glob("proc/driver/nvidia/capabilities/gpu*/mig/gi*/**/access"):
            with suppress(FileNotFoundError):
                minor = access.read_text().partition("DeviceFileMinor:")[2].split()[0]
                status = (root / f"dev/nvidia-caps/nvidia-cap{minor}").stat()
                found[str(access.relative_to(root))] = (status.st_uid, status.st_mode & 0o7777)
        return found

    def owned(self, name: str, uid: int) -> list[str]:
        """The device nodes of a node that belong to a user, whether an instance lives or not."""
        folder = self.nodes[name].simulation.root / "dev/nvidia-caps"
        return [path.name for path in folder.iterdir() if path.stat().st_uid == uid]

    def foreign(self, name: str, gpu: int, profile: str, placement: Placement) -> int:
        """Make an instance as somebody else would, through NVML; returns its GI id."""
        with Driver(str(self.nodes[name].simulation.library)) as driver:
            it = driver.gpus()[gpu]
            return driver.create_gi(it.uuid, driver.geometry(it).profile(profile), placement)

    def remove_foreign(self, name: str, gpu: int, gi: int) -> None:
        """Remove such an instance."""
        with Driver(str(self.nodes[name].simulation.library)) as driver:
            driver.destroy_gi(driver.gpus()[gpu].uuid, gi)

    def occupy(self, name: str) -> list[int]:
        """Somebody else takes both GPUs of a node whole; returns the GI ids."""
        return [self.foreign(name, gpu, "7g.40gb", Placement(0, 8)) for gpu in (0, 1)]

    def reconcile(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `slurm-mig reconcile` on a node."""
        # Where another Debian is, only the interpreter that was copied runs.
        packages = {str(_home(module).parent) for module in (slurm_mig, filelock, pynvml)}
        inside = self.cluster.install.inside
        return self.cluster.run(
            *(self.python if inside else sys.executable, "-m", "slurm_mig.cli.main"),
            *("reconcile", "--config", self.nodes[name].config, "--node", name, *words),
            env={"PYTHONPATH": ":".join(packages), "PYTHONDONTWRITEBYTECODE": "1"},
            check=False,
        )

    def wait_busy(self, name: str) -> None:
        """Wait until a call that changes a GPU of the node is under way in its driver."""
        simulation = self.nodes[name].simulation
        self.cluster.wait_until(
            lambda: simulation.busy(0) or simulation.busy(1), f"the driver of {name} to be at work"
        )

    def wait_drained(self, name: str) -> str:
        """Wait until a node is drained and no job is on it any more; the reason."""
        self.cluster.wait_until(
            lambda: self.cluster.node_states(name) == {"IDLE", "DRAIN"}, f"the drain of {name}"
        )
        return str(self.cluster.node(name)["reason"])

    def hook_processes(self, name: str) -> list[int]:
        """The processes of the hooks that run on a node, sh and Python."""
        folder = bytes(self.nodes[name].folder)
        words = [b"%s/hooks/slurm-mig-%s" % (folder, hook) for hook in (b"prolog", b"epilog")]
        words.append(b"%s/config.toml" % folder)
        found = []
        for pid in self.cluster.processes():
            with suppress(OSError):
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if not set(words).isdisjoint(argv):
                    found.append(pid)
        return found

    def end_slurmd(self, name: str, signum: int = signal.SIGTERM, *, hooks: bool = False) -> None:
        """End a node's slurmd and, with `hooks`, what it was running for jobs to come and gone."""
        self.cluster.end_daemon(f"slurmd-{name}", signum)
        for pid in self.hook_processes(name) if hooks else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_slurmd(self, name: str) -> None:
        """Start it again, and wait until slurmctld hears from it."""
        before = self.cluster.log("slurmctld").count(f"Node {name} now responding")
        boot = self.cluster.node(name)["slurmd_start_time"]
        self.cluster.start_slurmd(name)
        self.cluster.wait_until(
            lambda: (
                self.cluster.node(name)["slurmd_start_time"] != boot
                or self.cluster.log("slurmctld").count(f"Node {name} now responding") > before
            ),
            f"slurmd of {name} to be back",
        )

    def restart_slurmctld(self, signum: int = signal.SIGTERM) -> None:
        """End slurmctld and start it again; it answers when this returns."""
        self.cluster.end_daemon("slurmctld", signum)
        self.cluster.start_slurmctld()
        self.cluster.wait_until(
            lambda: "UP" in self.cluster.run("scontrol", "ping", check=False).stdout,
            "slurmctld to be back",
        )

    def resume(self, name: str) -> None:
        """Undo a drain, as the admin does."""
        self.cluster.run("scontrol", "update", f"NodeName={name}", "State=RESUME")

    def set_down(self, name: str, reason: str) -> None:
        """Take a node for down, as an admin does."""
        words = (f"NodeName={name}", "State=DOWN", f"Reason={reason}")
        self.cluster.run("scontrol", "update", *words)

    def take_back(self, name: str) -> None:
        """Undo `set_down`, if the node has not come back by itself already."""
        self.cluster.run("scontrol", "update", f"NodeName={name}", "State=RESUME", check=False)
        self.cluster.wait_until(
            lambda: "DOWN" not in self.cluster.node_states(name), f"{name} to be back"
        )

    def log_lines(self, name: str) -> list[str]:
        """What the hooks of a node have logged so far."""
        path = self.nodes[name].log
        return path.read_text().splitlines() if path.exists() else []

    def reason(self, name: str, job: int) -> str:
        """Why the hooks of a node failed for a job, from their log."""
        lines = [line for line in self.log_lines(name) if f" job={job} " in line]
        return "".join(line.partition(" reason=")[2] for line in lines if "node-at-fault" in line)

    # -- between tests ----------------------------------------------------------------------

    def end_jobs(self) -> None:
        """End every job and wait for the Epilogs."""
        self.cluster.end_clients()
        for job in self.cluster.run("squeue", "-h", "-o", "%A").stdout.split():
            self.cluster.run("scancel", job, check=False)
        self.end_of_jobs()
        for part in ("ready", "go"):
            for path in (self.folder / part).iterdir():
                path.unlink()

    def leftovers(self) -> dict[str, object]:
        """Everything that should not be there when no job runs, by what and where."""
        found: dict[str, object] = {}
        for name, node in self.nodes.items():
            found[f"{name} instances"] = self.instances(name)
            found[f"{name} clients"] = node.simulation.clients()
            found[f"{name} ledger"] = self.entries(name)
            found[f"{name} device nodes"] = self.owned(name, USER_ID)
            for folder, pattern in (("run/jobs", "*"), ("state/locks", "job-*")):
                paths = (node.folder / folder).glob(pattern)
                found[f"{name} {folder}"] = [path.name for path in paths]
        return {what: things for what, things in found.items() if things}

    def repair(self) -> None:
        """Make both nodes as new, so that one failed test is one failure."""
        for name, node in self.nodes.items():
            node.simulation.clear_faults()
            if not {"DRAIN", "DOWN"}.isdisjoint(self.cluster.node_states(name)):
                self.resume(name)
            # Else reconcile would not resume the node again for an hour.
            (node.folder / "state" / drained.NAME).unlink(missing_ok=True)
            if self.leftovers():
                node.simulation.reboot()
                for folder in ("state", "run"):
                    shutil.rmtree(node.folder / folder, ignore_errors=True)


def running(install: SlurmInstall) -> Iterator[Spine]:
    """A cluster that runs, in a folder with a short path, since sockets live in it."""
    folder = Path(tempfile.mkdtemp(prefix="spine-"))
    try:
        spine = Spine(folder, install)
        with spine.cluster:
            yield spine
    finally:
        shutil.rmtree(folder)


def looked_over(spine: Spine) -> Iterator[Spine]:
    """The cluster, idle; after the test nothing may be left on any node, and none be drained."""
    yield spine
    try:
        spine.end_jobs()
        assert spine.leftovers() == {}
        assert [node.simulation.faults() for node in spine.nodes.values()] == [{}, {}]
    finally:
        spine.repair()
