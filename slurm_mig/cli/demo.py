"""`slurm-mig demo`: the main job on a throwaway cluster with simulated GPUs, checked as it goes.

Two nodes with two A100-SXM4-40GB each, under a real Slurm on loopback where there is one, else
under the scheduler stand-in: the same Prolog, task prolog and Epilog either way.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.text import Text

from slurm_mig.cli import picture, terminal
from slurm_mig.errors import SlurmMigError
from slurm_mig.hook import partitioner
from slurm_mig.log import Log
from slurm_mig.rehearsal.cluster import LONGEST_FOLDER, Cluster, Node
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.rehearsal.slurm_install import SlurmInstall, SlurmMissing
from slurm_mig.rehearsal.standin import Standin, StandinNode

NAMES = ("node1", "node2")
GPUS = ("A100-SXM4-40GB:2",)
MODEL_MEMORY_MB = {"3g.20gb": 19968, "2g.10gb": 9856, "1g.5gb": 4864}
DEADLINE_SECONDS = 120.0
MARKER = ".slurm-mig-demo"


class DemoFailed(SlurmMigError):
    """Something that the demo promises is not so."""


class Scheduler(Protocol):
    """What the demo needs of a scheduler: start jobs, and see that all have left.

    `wants_counts`: a GRES whose type begins with a digit must say how many. Slurm 22.05 takes
    `mig:3g.20gb` for a bad count; 24.11 and 26.05 do not.
    """

    wants_counts: bool

    def interactive(self, gres: str, argv: Sequence[str], output: Path) -> None:
        """Start `srun --gres=…`, its output going to a file."""

    def batch(self, gres: str, argv: Sequence[str], output: str, array: str | None = None) -> None:
        """Submit `sbatch --gres=…`; `%a` in `output` is the array task's index."""

    def all_done(self) -> bool:
        """Whether no job and no Epilog is left, and no node is drained."""


class OnSlurm:
    """A real Slurm on loopback."""

    def __init__(self, folder: Path, nodes: Sequence[RehearsalNode]) -> None:
        members = [
            Node(
                node.name,
                node.promises,
                prolog=node.prolog,
                epilog=node.epilog,
                task_prolog=node.task_prolog,
            )
            for node in nodes
        ]
        self._logs = folder / "log"
        # Sockets cannot live in a long path, which a checkout may well have.
        fits = len(os.fsencode(folder.resolve())) <= LONGEST_FOLDER
        flags = "Alloc,DeferBatch"  # as docs/admin.md wants it
        self._cluster = (
            Cluster(folder, members, prolog_flags=flags)
            if fits
            else Cluster.temporary(members, prolog_flags=flags)
        )
        self.wants_counts = self._cluster.release < (24, 11)
        self._srun: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "OnSlurm":
        self._cluster.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self._logs.exists():
                shutil.copytree(self._cluster.folder / "log", self._logs)
        finally:
            self._cluster.stop()

    def interactive(self, gres: str, argv: Sequence[str], output: Path) -> None:
        """Start `srun --gres=…` in the background."""
        self._srun.append(
            self._cluster.popen("srun", f"--gres={gres}", f"--output={output}", *argv)
        )

    def batch(self, gres: str, argv: Sequence[str], output: str, array: str | None = None) -> None:
        """Submit `sbatch --gres=…`."""
        words = " ".join(f"'{word}'" for word in argv)
        options = [f"--gres={gres}", f"--output={output}"]
        self._cluster.sbatch(words, *options, *([f"--array={array}"] if array else []))

    def all_done(self) -> bool:
        """No client left, no job in the queue, every node idle."""
        if any(process.poll() is None for process in self._srun):
            return False
        if self._cluster.run("squeue", "-h").stdout.strip():
            return False
        return all(self._cluster.node_states(name) == {"IDLE"} for name in NAMES)


class OnStandin:
    """The embedded scheduler stand-in."""

    wants_counts = False

    def __init__(self, folder: Path, nodes: Sequence[RehearsalNode]) -> None:
        self._nodes = nodes
        self._standin = Standin(
            folder,
            [
                StandinNode(
                    node.name,
                    gres=node.promises,
                    prolog=node.prolog,
                    epilog=node.epilog,
                    task_prolog=node.task_prolog,
                )
                for node in nodes
            ],
        )
        self._jobs: dict[int, str] = {}

    def __enter__(self) -> "OnStandin":
        return self

    def __exit__(self, *_: object) -> None:
        self._standin.close()

    def interactive(self, gres: str, argv: Sequence[str], output: Path) -> None:
        """Submit an interactive job."""
        self._jobs[self._standin.submit(list(argv), gres=gres)] = str(output)

    def batch(self, gres: str, argv: Sequence[str], output: str, array: str | None = None) -> None:
        """Submit a batch job or an array."""
        if array is None:
            self._jobs[self._standin.sbatch(list(argv), gres=gres)] = output
            return
        for index, job in enumerate(self._standin.sbatch(list(argv), gres=gres, array=array)):
            self._jobs[job] = output.replace("%a", str(index))

    def all_done(self) -> bool:
        """All jobs ended, their outputs where they belong, no node drained."""
        for job, output in self._jobs.items():
            Path(output).write_text(self._standin.job(job).output)
        ended = all(self._standin.job(job).ended for job in self._jobs)
        return ended and not any(self._standin.node(name).drained for name in NAMES)


class Demo:
    """One run of the demo in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = terminal.console()
        self.go = folder / "go"
        self.nodes: list[RehearsalNode] = []

    def say(self, text: str) -> None:
        """Print a heading."""
        self.out.print(Text(text, "bold"))

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Show at a terminal that something is going on."""
        with self.out.status(what):
            yield

    def show(self, title: str) -> int:
        """Draw every GPU; returns how many instances there are."""
        self.say(title)
        count = 0
        for node in self.nodes:
            with partitioner(node.settings, Log("syslog", "demo")) as core:
                views = core.survey()
            for view in views:
                self.out.print(f"{node.name} GPU {view.gpu.index}  {view.gpu.model}")
                assert view.geometry is not None  # noqa: S101 -- made with MIG mode on
                self.out.print(picture.draw(view.geometry, picture.blocks(view)))
                count += len(view.instances)
        return count

    def wait(self, what: str, condition: Any) -> None:
        """Wait for a condition. Raises DemoFailed after the deadline."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        with self.doing(f"waiting for {what}"):
            while not condition():
                if time.monotonic() > deadline:
                    raise DemoFailed(
                        f"waited {DEADLINE_SECONDS:g} s in vain for {what}; the logs are in "
                        f"{self.folder}"
                    )
                time.sleep(0.05)

    def run(self, scheduler: Scheduler) -> None:
        """Submit, look, let go, look again. Raises DemoFailed."""
        python = Path(sys.executable)
        ready = self.folder / "ready"
        ready.mkdir()

        def job(name: str) -> list[str]:
            # The job finds its node's library and says that it is ready under its own name.
            library = f"{self.folder}/$SLURMD_NODENAME/sim/lib/libnvidia-ml.so.1"
            files = f'"{ready}/{name}$SLURM_ARRAY_TASK_ID" "{self.go}"'
            run = f'exec {python} -m slurm_mig.rehearsal.look "{library}" {files}'
            return ["/bin/sh", "-c", run]

        if self.show("before: nothing exists, every slice is free"):
            raise DemoFailed("there are instances before the first job")
        self.out.print()
        plan: list[tuple[str, str, dict[str, int]]] = []
        for command, name, counts in (
            ("srun", "srun", {"3g.20gb": 1}),
            ("sbatch", "batch", {"3g.20gb": 1, "1g.5gb": 1}),
            ("sbatch --array=0-6", "array", {"1g.5gb": 1}),
        ):
            count = ":1" if scheduler.wants_counts else ""
            gres = ",".join(f"mig:{profile}{count}" for profile in counts)
            self.out.print(f"$ {command} --gres={gres} …")
            if name == "srun":
                scheduler.interactive(gres, job(name), self.folder / f"{name}.out")
                plan.append((name, name, counts))
            elif name == "batch":
                scheduler.batch(gres, job(name), str(self.folder / f"{name}.out"))
                plan.append((name, name, counts))
            else:
                scheduler.batch(gres, job(name), str(self.folder / f"{name}%a.out"), "0-6")
                plan += [(f"{name}[{index}]", f"{name}{index}", counts) for index in range(7)]
        wanted = sum(sum(counts.values()) for _, _, counts in plan)
        self.wait(
            f"{len(plan)} jobs to run",
            lambda: all((ready / name).exists() for _, name, _ in plan),
        )
        self.out.print()
        during = self.show("during: every job has its own")
        self.go.touch()
        self.wait("the Epilogs", scheduler.all_done)
        self.out.print()
        self._check_jobs(plan)
        if during != wanted:
            raise DemoFailed(f"{during} instances while the jobs ran; they had asked for {wanted}")
        self.out.print()
        self.show("after: every slice is free again")
        totals = [node.simulation.counts() for node in self.nodes]
        made = sum(total.made for total in totals)
        destroyed = sum(total.destroyed for total in totals)
        left = sum(total.left for total in totals)
        self.out.print()
        self.say(f"instances made: {made}, destroyed: {destroyed}, left: {left}")
        if (made, destroyed, left) != (wanted, wanted, 0):
            raise DemoFailed(f"{wanted} should have been made and destroyed, and none left")

    def _check_jobs(self, plan: Sequence[tuple[str, str, dict[str, int]]]) -> None:
        """Print what each job saw; raises DemoFailed if it is not just what it asked for."""
        self.say("what each job saw")
        everyone: list[str] = []
        for title, name, counts in plan:
            seen = json.loads((self.folder / f"{name}.out").read_text())
            self.out.print(f"{title}: job {seen['job']} on {seen['node']}")
            self.out.print(f"  CUDA_VISIBLE_DEVICES={seen['visible']}")
            for device in seen["devices"]:
                self.out.print(
                    f"  NVML: {device['uuid']}: GPU {device['gpu']} GI {device['gi']}, "
                    f"{device['slices']} slices, {device['memory_mb']} MiB"
                )
            memory = sorted(device["memory_mb"] for device in seen["devices"] if device["mig"])
            asked = sorted(MODEL_MEMORY_MB[p] for p, n in counts.items() for _ in range(n))
            if memory != asked:
                raise DemoFailed(f"{title} asked for {counts} and saw devices of {memory} MiB")
            everyone += [f"{seen['node']} {device['uuid']}" for device in seen["devices"]]
        if len(set(everyone)) != len(everyone):
            raise DemoFailed("two jobs saw the same instance")


def _fresh(folder: Path) -> None:
    """Empty the demo's folder; anything that is not a demo's folder is left alone."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise DemoFailed(f"{folder}: not empty, and no earlier demo; name another --directory")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / MARKER).touch()


def _install(arguments: argparse.Namespace) -> SlurmInstall | str:
    """The Slurm to run on, or why there is none."""
    if arguments.stand_in:
        return "the stand-in was asked for"
    if os.geteuid() != 0:
        return "only root can start slurmd"
    try:
        return SlurmInstall.find()
    except SlurmMissing as error:
        return str(error)


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 if everything it promises is so."""
    began = time.monotonic()
    install = _install(arguments)
    if isinstance(install, str):
        print(f"No Slurm here: the same hooks run under the scheduler stand-in ({install})")
    else:
        print(f"Slurm {install.version} on loopback, two nodes, two simulated GPUs each")
    temporary = None
    if arguments.directory is None:
        temporary = Path(tempfile.mkdtemp(prefix="slurm-mig-demo-"))
    folder = (temporary or arguments.directory).absolute()
    try:
        _fresh(folder)
        run = Demo(folder)
        with run.doing("making two nodes"):
            real = isinstance(install, SlurmInstall)
            scontrol = install.program("scontrol") if isinstance(install, SlurmInstall) else ""
            run.nodes = [
                RehearsalNode.create(
                    folder / name,
                    name,
                    GPUS,
                    scontrol=scontrol if real else folder / "slurm/bin/scontrol",
                )
                for name in NAMES
            ]
        chosen = OnSlurm if real else OnStandin
        with chosen(folder / "slurm", run.nodes) as scheduler:
            run.run(scheduler)
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    print(f"done in {time.monotonic() - began:.1f} s")
    return 0


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo",
        help="run the main job on a throwaway cluster with simulated GPUs",
        description="Run the main job on a throwaway cluster with simulated GPUs.",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        help="keep everything in this folder (default: removed at the end)",
    )
    parser.add_argument(
        "--stand-in", action="store_true", help="use the scheduler stand-in even if Slurm is there"
    )
    parser.set_defaults(func=demo)
