"""What the hooks are measured in: a scheduler that answers, and nodes with simulated GPUs."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slurm_mig.rehearsal.cluster import Cluster, Node
from slurm_mig.rehearsal.hookenv import hook_environment
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.rehearsal.slurm_install import SlurmInstall, SlurmMissing
from slurm_mig.rehearsal.standin import Standin, StandinNode

NODE = "node1"
#: What the scheduler believes of the node; no hook runs in it, so it need not fit a GPU.
COUNTS = {"3g.20gb": 17, "1g.5gb": 7}
JOB = ("/bin/sleep", "infinity")


@dataclass(frozen=True, slots=True)
class Jobs:
    """Ids of jobs that run: one without MIG, and some with one instance each."""

    plain: int
    halves: tuple[int, ...]
    sevenths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scheduler:
    """What answers the hooks: its name for the table, its scontrol and slurm.conf, its jobs."""

    name: str
    real: bool
    release: str
    scontrol: str
    conf: str
    jobs: Jobs


class Scene:
    """A folder with nodes in it, beside one scheduler."""

    def __init__(self, folder: Path, scheduler: Scheduler) -> None:
        self.folder, self.scheduler = folder, scheduler

    def node(
        self, name: str, gpus: Sequence[str], layout: str, request: Literal["ask", "token"]
    ) -> RehearsalNode:
        """A new node in its own folder, with its hooks installed."""
        settings: Mapping[str, Mapping[str, Any]] = {"slurm": {"request": request}}
        return RehearsalNode.create(
            self.folder / name,
            NODE,
            gpus,
            scontrol=self.scheduler.scontrol,
            layout_spec=layout,
            settings=settings,
        )

    def env(
        self, which: Literal["prolog", "epilog"], job: int, extra: str | None = None
    ) -> dict[str, str]:
        """What slurmd hands this hook for this job; `extra` where the plugin stamps its token."""
        # Slurm before 23.02 has no SLURM_JOB_EXTRA: the comment takes its part.
        stamp = {"extra": extra, "comment": extra} if extra else {}
        return hook_environment(
            which,
            release=self.scheduler.release,
            node=NODE,
            job_id=job,
            conf=self.scheduler.conf,
            **stamp,
        )


def _on_slurm(folder: Path, install: SlurmInstall) -> Iterator[Scheduler]:
    with Cluster(folder, [Node(NODE, COUNTS)], install=install) as cluster:

        def submit(*options: str) -> int:
            job = cluster.sbatch(f"exec {' '.join(JOB)}", *options)
            cluster.wait_job(job, "RUNNING")
            return job

        jobs = Jobs(
            submit(),
            tuple(submit("--gres=mig:3g.20gb:1") for _ in range(16)),
            tuple(submit("--gres=mig:1g.5gb:1") for _ in range(7)),
        )
        version = install.version
        yield Scheduler(
            f"Slurm {version}",
            True,
            ".".join(version.split(".")[:2]),
            install.program("scontrol"),
            str(cluster.node_conf(NODE)),
            jobs,
        )


def _on_standin(folder: Path, why: str) -> Iterator[Scheduler]:
    standin = Standin(folder, [StandinNode(NODE, COUNTS)])
    try:

        def submit(gres: str | None) -> int:
            job = standin.sbatch(list(JOB), gres=gres)
            standin.wait_until(lambda: standin.job(job).state == "RUNNING")
            return job

        jobs = Jobs(
            submit(None),
            tuple(submit("mig:3g.20gb:1") for _ in range(16)),
            tuple(submit("mig:1g.5gb:1") for _ in range(7)),
        )
        name = f"the stand-in, whose scontrol is a Python program ({why})"
        scontrol, conf = str(standin.scontrol), str(standin.conf)
        yield Scheduler(name, False, standin.release, scontrol, conf, jobs)
    finally:
        standin.close()


def _scheduler(folder: Path) -> Iterator[Scheduler]:
    if os.geteuid() != 0:
        yield from _on_standin(folder, "a real Slurm needs root")
        return
    try:
        install = SlurmInstall.find()
    except SlurmMissing as error:
        yield from _on_standin(folder, str(error))
        return
    yield from _on_slurm(folder, install)


@contextmanager
def scene() -> Iterator[Scene]:
    """The scene, in a temporary folder; nothing of it is left after."""
    # Not "slurm-mig-": the hooks look for "mig" in what Slurm answers, paths included.
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = contextmanager(_scheduler)
        with made(folder / "slurm") as scheduler:
            yield Scene(folder, scheduler)
