"""What the stand-in knows of a job and of a node, and how a request for GRES reads."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from slurm_mig.errors import SlurmMigError
from slurm_mig.rehearsal.hookenv import Release
from slurm_mig.rehearsal.hookrun import HookRun
from slurm_mig.rehearsal.taskrun import Identity

FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
"""States in which a job stays."""

Gres = dict[tuple[str, str], int]
"""Counts by (name, type), e.g. {("mig", "3g.20gb"): 2}; an untyped count has the type ""."""


class StandinError(SlurmMigError):
    """The stand-in refuses, with the words that Slurm's own command would print."""


class JobOptions(TypedDict, total=False):
    """What srun and sbatch of the stand-in take beside the command; see `Standin.srun`."""

    gres: str | None
    nodes: int
    nodelist: Sequence[str]
    ntasks: int
    env: Mapping[str, str]
    user: int | str | None
    name: str
    comment: str | None
    extra: str | None
    account: str | None
    constraints: str | None
    reservation: str | None
    qos: str | None
    licenses: str | None
    spank_env: Mapping[str, str]
    workdir: Path | str
    stdout: Path | str | None
    hold: bool
    requeue: bool


def parse_gres(text: str | None, release: Release = (24, 11)) -> Gres:
    """Read "mig:3g.20gb:2,mig:1g.5gb" as counts per node; StandinError in Slurm's words if wrong.

    22.05 takes no type that begins with a digit without a count behind it (22.05.8 refuses
    "mig:3g.20gb" and takes "mig:3g.20gb:1"; 24.11.5 and 26.05.5 take both).
    """
    refusal = "Invalid generic resource (gres) specification"
    if release < (23, 11):
        refusal = "Invalid Trackable RESource (TRES) specification"
    wanted: Gres = {}
    for item in text.split(",") if text else ():
        name, *rest = item.removeprefix("gres:").removeprefix("gres/").split(":")
        if not re.fullmatch(r"[A-Za-z]\w*", name) or len(rest) > 2:
            raise StandinError(refusal)
        kind, count = "", "1"
        if len(rest) == 1:
            kind, count = ("", rest[0]) if rest[0].isdigit() else (rest[0], "1")
            if release < (23, 2) and kind[:1].isdigit():
                raise StandinError(refusal)
        elif rest:
            kind, count = rest
        if not count.isdigit() or (rest and not rest[0]):
            raise StandinError(refusal)
        wanted[name, kind] = wanted.get((name, kind), 0) + int(count)
    return {key: count for key, count in wanted.items() if count}


def parse_counts(text: str) -> Gres:
    """Read the value of `scontrol update NodeName=… Gres=`; a count of 0 stays, unlike a job's."""
    counts: Gres = {}
    for item in text.split(",") if text else ():
        parts = item.split(":")
        if len(parts) not in (2, 3) or not parts[-1].isdigit():
            raise StandinError("Invalid generic resource (gres) specification")
        counts[parts[0], parts[1] if len(parts) == 3 else ""] = int(parts[-1])
    return counts


def format_gres(counts: Gres) -> str:
    """Write counts as Slurm does: "mig:3g.20gb:2,mig:1g.5gb:7"."""
    return ",".join(
        f"{name}:{kind}:{count}" if kind else f"{name}:{count}"
        for (name, kind), count in counts.items()
    )


def node_gres(counts: Mapping[str, int]) -> Gres:
    """Counts of a node by key: "3g.20gb" means the type of `mig`, "gpu:a100" names its own."""
    result: Gres = {}
    for key, count in counts.items():
        name, colon, kind = key.partition(":")
        result[(name, kind) if colon else ("mig", name)] = count
    return result


def allot(wanted: Gres, free: Gres) -> Gres | None:
    """Take `wanted` out of `free`; what was taken, by the node's own types, or None if too much."""
    left = dict(free)
    taken: Gres = {}
    for (name, kind), count in wanted.items():
        for key in [key for key in left if key[0] == name and kind in ("", key[1])]:
            part = min(count, max(left[key], 0))
            if part:
                left[key] -= part
                taken[key] = taken.get(key, 0) + part
                count -= part
        if count > 0:
            return None
    return taken


def parse_array(text: str | int) -> list[int]:
    """Read an array specification, "0-6", "1,3,5", "0-10:2" or a count; a "%" limit is ignored."""
    if isinstance(text, int):
        return list(range(text))
    indices: set[int] = set()
    for part in text.split("%", 1)[0].split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+)(?::([1-9]\d*))?)?", part)
        if found is None:
            raise StandinError("Invalid job array specification")
        first, last = int(found[1]), int(found[2] or found[1])
        indices.update(range(first, last + 1, int(found[3] or 1)))
    if not indices:
        raise StandinError("Invalid job array specification")
    return sorted(indices)


@dataclass(frozen=True)
class StandinNode:
    """A node to rehearse on: its name, its GRES counts by type, its own hooks.

    A hook left at None is the stand-in's. Two nodes that should look like two machines have hooks
    of their own (small wrappers that name the node's configuration), since slurmd tells a hook
    nothing but its environment.
    """

    name: str
    gres: Mapping[str, int] = field(default_factory=dict)
    prolog: Path | None = None
    epilog: Path | None = None
    task_prolog: Path | None = None
    cpus: int = 64


@dataclass
class Node:
    """A node as it stands. `gres` and `gres_used` are by (name, type); jobs are by id."""

    config: StandinNode
    gres: Gres
    prolog: Path | None
    epilog: Path | None
    task_prolog: Path | None
    gres_used: Gres = field(default_factory=dict)
    drained: bool = False
    down: bool = False
    reason: str = ""
    comment: str = ""
    extra: str = ""
    running: set[int] = field(default_factory=set)
    completing: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The node's name, as in SLURMD_NODENAME."""
        return self.config.name

    @property
    def free(self) -> Gres:
        """What may still be allocated; negative where the counts were lowered under the jobs."""
        return {key: count - self.gres_used.get(key, 0) for key, count in self.gres.items()}

    @property
    def state(self) -> str:
        """State as Slurm prints it, e.g. "MIXED+DRAIN"."""
        return "+".join(self.states)

    @property
    def states(self) -> list[str]:
        """Base state and flags, e.g. ["IDLE", "COMPLETING", "DRAIN"]."""
        base = "DOWN" if self.down else "MIXED" if self.running else "IDLE"
        flags = ["COMPLETING"] if self.completing else []
        return [base, *flags, *(["DRAIN"] if self.drained else [])]

    def drain(self, reason: str) -> None:
        """Take the node out of service; a reason that is already there stays."""
        if not self.drained:
            self.reason = reason
        self.drained = True

    def resume(self) -> None:
        """Put the node back into service."""
        self.drained = self.down = False
        self.reason = ""


@dataclass
class Job:
    """One job. Attributes change while it lives; `Standin.wait` returns it when it has ended.

    `state` is PENDING, RUNNING (the Prolog included, with the reason "Prolog"), COMPLETING,
    COMPLETED, FAILED or CANCELLED. `base_state` is what COMPLETING hides. `exit_status` is a wait
    status (256 * code + signal). `env` is the environment of the first task as it was started,
    task prolog included, and `task_envs` all of them by (node, task number on the job).
    `hook_runs` holds every hook of every incarnation in the order in which they ended.
    """

    id: int
    argv: Sequence[str]
    batch: bool
    identity: Identity
    submit_env: dict[str, str]
    workdir: Path
    output_path: Path
    wanted: Gres
    gres_text: str
    name: str = ""
    nodes_wanted: int = 1
    nodelist: tuple[str, ...] = ()
    ntasks: int = 1
    ntasks_asked: int | None = None
    comment: str | None = None
    admin_comment: str = ""
    extra: str | None = None
    account: str | None = None
    constraints: str | None = None
    reservation: str | None = None
    qos: str | None = None
    licenses: str | None = None
    stdout: str | None = None
    spank_env: dict[str, str] = field(default_factory=dict)
    may_requeue: bool = True
    array_job_id: int = 0
    array_task_id: int | None = None
    array: tuple[int, ...] = ()

    state: str = "PENDING"
    base_state: str = "PENDING"
    reason: str = "None"
    held: bool = False
    restart_count: int = 0
    sluid: str = ""
    launch_failures: int = 0
    submit_time: float = field(default_factory=time.time)
    eligible_at: float = 0.0
    start_time: int = 0
    end_time: int = 0
    nodes: tuple[str, ...] = ()
    allotted: dict[str, Gres] = field(default_factory=dict)
    exit_status: int = 0
    messages: list[str] = field(default_factory=list)
    hook_runs: list[HookRun] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    task_envs: dict[tuple[str, int], dict[str, str]] = field(default_factory=dict)

    @property
    def exit(self) -> int:
        """What srun would exit with: the code, or 128 + signal."""
        return self.exit_status >> 8 or (128 + self.exit_status if self.exit_status else 0)

    @property
    def output(self) -> str:
        """What the job's tasks wrote, stdout and stderr together in the order written."""
        try:
            data = self.output_path.read_bytes()
        except FileNotFoundError:
            return ""
        return data.decode("utf-8", "surrogateescape")

    @property
    def ended(self) -> bool:
        """Whether the job is over and has left its nodes."""
        return self.state in FINAL

    def hooks(self, which: str, node: str | None = None) -> list[HookRun]:
        """The runs of one kind of hook: "prolog", "epilog" or "task_prolog"."""
        return [run for run in self.hook_runs if run.which == which and node in (None, run.node)]


@dataclass(frozen=True)
class Result:
    """What srun gives back: its exit status, its output, the job's number and the job itself.

    `output` is what the tasks wrote; `messages` is what srun itself would have printed on top
    (`scontrol notify`, a failed Prolog).
    """

    exit: int
    output: str
    job_id: int
    messages: tuple[str, ...]
    job: Job
