"""A scheduler stand-in: the real hook scripts, run as slurmd runs them, with no Slurm installed.

    with Standin(folder, [StandinNode("n1", {"3g.20gb": 2}, prolog=..., epilog=...)]) as slurm:
        result = slurm.srun(["python3", "train.py"], gres="mig:3g.20gb")
        job = slurm.wait(slurm.sbatch("nvidia-smi -L", gres="mig:3g.20gb:2"))

It needs no root, no daemon and no port; everything it writes is in its folder, and `close` (the
end of the `with`) ends everything that it started. `slurm.scontrol` is a program that answers as
that release's scontrol does, so whatever calls Slurm by its command line works on it unchanged.

What it keeps of the real thing: counts of typed GRES per node, first fit in order of submission; no
new job on a node while one of its jobs is COMPLETING; a Prolog and an Epilog per node and job, of
all jobs in parallel; requeue, hold, cancel at any moment; a node drained by a failing hook. What
it leaves out: CPUs, memory, time limits, priorities, accounting, srun inside a job.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack, overload

from slurm_mig.rehearsal.execution import Execution, Settings
from slurm_mig.rehearsal.fake_scontrol import CommandServer, write_commands
from slurm_mig.rehearsal.hookenv import hook_environment
from slurm_mig.rehearsal.hookrun import HookRun, run_hook
from slurm_mig.rehearsal.jobs import (
    Job,
    JobOptions,
    Node,
    Result,
    StandinError,
    StandinNode,
    parse_array,
    parse_counts,
)
from slurm_mig.rehearsal.submission import new_job, script_text

__all__ = [
    "HookRun",
    "Job",
    "Node",
    "Result",
    "Standin",
    "StandinError",
    "StandinNode",
    "hook_environment",
    "run_hook",
]


class Standin(Execution):
    """A cluster of `nodes` under one Slurm `release`, in `folder`, until `close`.

    `prolog`, `epilog` and `task_prolog` are the hooks of every node that has none of its own.
    Times are in seconds. `requeue_delay` is what Slurm calls so (120 there; 0 here, so that tests
    need not wait). `commands` lists every call of the stand-in's scontrol, squeue and scancel.
    While `reachable` is False those commands fail as they do when slurmctld is down.
    """

    def __init__(
        self,
        folder: Path | str,
        nodes: Sequence[StandinNode] = (StandinNode("n1"),),
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(folder, nodes, **settings)
        self.reachable = True
        self.commands: list[tuple[str, ...]] = []
        self._next_id = 1
        self.bin = self.folder / "bin"
        write_commands(self.folder)
        self._server = CommandServer(self)

    # What a caller runs

    @property
    def scontrol(self) -> Path:
        """The program that answers as scontrol; scancel, squeue and sinfo lie beside it."""
        return self.bin / "scontrol"

    @property
    def scancel(self) -> Path:
        """The program that answers as scancel."""
        return self.bin / "scancel"

    @property
    def squeue(self) -> Path:
        """The program that answers as squeue (-h, -w, -j, -t all, --json, -o with %A %i %T …)."""
        return self.bin / "squeue"

    def srun(
        self, argv: Sequence[str], *, timeout: float | None = None, **options: Unpack[JobOptions]
    ) -> Result:
        """Run an interactive job to its end, its Epilogs included, and return what it gave.

        `gres` as for srun; `nodes` how many, or `nodelist` which; `ntasks` in all (default one a
        node). `env` is the submitter's environment (default: this process's, as with srun);
        `user` a uid or a login (only root can be another one). `spank_env` are the variables that
        a SPANK plugin would hand to the hooks. Raises StandinError if Slurm would refuse the job,
        TimeoutError after `timeout` seconds; in both cases no job is left.
        """
        job_id = self.submit(argv, **options)
        try:
            job = self.wait(job_id, timeout)
        except BaseException:
            with contextlib.suppress(StandinError):
                self.cancel(job_id)
            raise
        return Result(job.exit, job.output, job_id, tuple(job.messages), job)

    def submit(self, argv: Sequence[str], **options: Unpack[JobOptions]) -> int:
        """Start an interactive job as `srun` does, without waiting for it; its id."""
        with self.changed:
            return self._add(argv, options).id

    @overload
    def sbatch(
        self,
        script: str | Path | Sequence[str],
        *,
        array: None = None,
        **options: Unpack[JobOptions],
    ) -> int: ...

    @overload
    def sbatch(
        self,
        script: str | Path | Sequence[str],
        *,
        array: str | int,
        **options: Unpack[JobOptions],
    ) -> list[int]: ...

    def sbatch(
        self,
        script: str | Path | Sequence[str],
        *,
        array: str | int | None = None,
        **options: Unpack[JobOptions],
    ) -> int | list[int]:
        """Submit a batch job; its id, or with `array` ("0-6" or a count) the ids of its tasks.

        `script` is a file to copy, the text of one, or a command as a list. As in Slurm every
        array task is a job with its own number, and the last one has the number of the array.
        """
        text = script_text(script)
        with self.changed:
            if array is None:
                return self._add((), options, script=text).id
            indices = tuple(parse_array(array))
            first = self._next_id
            numbers = [*range(first + 1, first + len(indices)), first]
            for index, number in zip(indices, numbers, strict=True):
                job = self._add((), options, script=text, number=number)
                job.array_job_id, job.array_task_id, job.array = first, index, indices
                job.output_path = self.folder / "output" / f"slurm-{first}_{index}.out"
            return numbers

    def job(self, job_id: int) -> Job:
        """The job of that number; StandinError if there is none."""
        with self.changed:
            try:
                return self.jobs[job_id]
            except KeyError:
                raise StandinError("Invalid job id specified") from None

    def node(self, name: str) -> Node:
        """The node of that name; StandinError if there is none."""
        try:
            return self.nodes[name]
        except KeyError:
            raise StandinError(f"Node {name} not found") from None

    def wait(self, job_id: int, timeout: float | None = 60.0) -> Job:
        """Wait until a job has ended and left its nodes; TimeoutError after `timeout` seconds."""
        job = self.job(job_id)
        self.wait_until(lambda: job.ended, timeout, f"job {job_id} to end")
        return job

    def wait_running(self, job_id: int, timeout: float | None = 60.0) -> Job:
        """Wait until a job's tasks are being started, its Prologs done.

        StandinError if it ends without that, TimeoutError after `timeout` seconds.
        """
        job = self.job(job_id)
        self.wait_until(
            lambda: job.ended or (job.state == "RUNNING" and job.reason == "None"),
            timeout,
            f"job {job_id} to run",
        )
        if job.ended:
            raise StandinError(f"job {job_id}: ended as {job.state} before it was seen to run")
        return job

    def wait_until(
        self, condition: Callable[[], bool], timeout: float | None = 60.0, what: str = ""
    ) -> None:
        """Wait until `condition` holds; it is asked again whenever a job or node has changed."""
        with self.changed:
            if not self.changed.wait_for(lambda: condition() or self._closed, timeout):
                states = ", ".join(f"{j.id} {j.state} ({j.reason})" for j in self.jobs.values())
                nodes = ", ".join(f"{n.name} {n.state} {n.reason}" for n in self.nodes.values())
                raise TimeoutError(
                    f"waited {timeout} s for {what or condition}; jobs: {states}; nodes: {nodes}"
                )
            if not condition():
                raise RuntimeError(f"the stand-in was closed while waiting for {what or condition}")

    def cancel(self, job_id: int) -> None:
        """Cancel a job, as scancel does: a Prolog is not signalled, its Epilog follows it."""
        with self.changed:
            job, run = self.job(job_id), self._runs.get(job_id)
            if run is not None:
                run.requeue = False
                if run.ending:
                    job.base_state = "CANCELLED" if job.base_state == "PENDING" else job.base_state
                else:
                    self._end(run, "CANCELLED")
            elif not job.ended:
                job.state = job.base_state = "CANCELLED"
                job.end_time = int(time.time())
            self.changed.notify_all()

    def requeue(self, job_id: int, *, hold: bool = False) -> None:
        """Requeue a batch job, as `scontrol requeue` or `requeuehold`; StandinError if refused."""
        with self.changed:
            job, run = self.job(job_id), self._runs.get(job_id)
            if not job.batch:
                raise StandinError("Only batch jobs are accepted or processed")
            if not job.may_requeue:
                raise StandinError("Requested operation is presently disabled")
            if job.base_state == "PENDING":
                raise StandinError("Job is pending execution")
            reason = "JobHeldUser" if hold else "BeginTime"
            if run is None:
                job.restart_count += 1
                job.base_state = "PENDING"
                self._queue_again(job, hold, reason)
            elif run.ending:
                job.restart_count += 1
                job.base_state, job.reason = "PENDING", reason
                run.requeue, run.hold = True, hold
            else:
                self._end(run, "PENDING", reason=reason, requeue=True, hold=hold)
            self.changed.notify_all()

    def hold(self, job_id: int) -> None:
        """Hold a job, as `scontrol hold`; one that runs is held once it is requeued."""
        with self.changed:
            job = self.job(job_id)
            if job.ended:
                raise StandinError("Job has already finished")
            job.held = True
            if job.state == "PENDING":
                job.reason = "JobHeldUser"
            self.changed.notify_all()

    def release_job(self, job_id: int) -> None:
        """Let a held job run, as `scontrol release`."""
        with self.changed:
            job = self.job(job_id)
            if job.ended:
                raise StandinError("Job has already finished")
            job.held = False
            if job.state == "PENDING":
                job.reason = "None"
            self.changed.notify_all()

    def close(self) -> None:
        """End every job, hook and process that the stand-in started, and wait until they are gone.

        No Epilog is run for what was running. Jobs and nodes can still be looked at.
        """
        with self.changed:
            if self._closed:
                return
            self._closed = True
            self.changed.notify_all()
        self._server.close()
        self._end_everything()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # What the fake scontrol asks for

    def update_node(self, name: str, changes: Mapping[str, str]) -> None:
        """Apply `scontrol update NodeName=…`: State, Reason, Gres, Extra, Comment."""
        with self.changed:
            node = self.node(name)
            state = changes.get("state", "").upper()
            if state in ("DRAIN", "DOWN", "FAIL") and not changes.get("reason"):
                raise StandinError(
                    "You must specify a reason when DOWNING or DRAINING a node. Request denied"
                )
            if state in ("DRAIN", "FAIL"):
                node.drained = True
            elif state == "DOWN":
                node.down = True
            elif state in ("RESUME", "UNDRAIN", "IDLE"):
                if state != "UNDRAIN" and not (node.drained or node.down):
                    raise StandinError("Invalid node state specified")
                node.resume()
            elif state:
                raise StandinError("Invalid node state specified")
            if changes.get("reason") and state not in ("RESUME", "UNDRAIN", "IDLE"):
                node.reason = changes["reason"]
            if "gres" in changes:
                node.gres = parse_counts(changes["gres"])
            node.extra = changes.get("extra", node.extra)
            node.comment = changes.get("comment", node.comment)
            self.changed.notify_all()

    def update_job(self, job_id: int, changes: Mapping[str, str]) -> None:
        """Apply `scontrol update JobId=…`: Comment, AdminComment, Extra."""
        with self.changed:
            job = self.job(job_id)
            if job.ended:
                raise StandinError("Job has already finished")
            job.comment = changes.get("comment", job.comment)
            job.admin_comment = changes.get("admincomment", job.admin_comment)
            job.extra = changes.get("extra", job.extra)
            self.changed.notify_all()

    def notify(self, job_id: int, text: str) -> None:
        """Deliver `scontrol notify`; srun prints it, here it is in the job's `messages`."""
        with self.changed:
            job = self.job(job_id)
            if job.id not in self._runs or self._runs[job.id].ending:
                raise StandinError("Job/step already completing or completed")
            job.messages.append(text)
            self.changed.notify_all()

    def _add(
        self,
        argv: Sequence[str],
        options: JobOptions,
        *,
        script: str | None = None,
        number: int | None = None,
    ) -> Job:
        if self._closed:
            raise StandinError("Unable to contact slurm controller (connect failure)")
        job_id = self._next_id if number is None else number
        job = new_job(
            job_id,
            argv,
            options,
            script=script,
            folder=self.folder,
            nodes=self.nodes,
            release=self.version,
        )
        self._next_id = max(self._next_id, job_id + 1)
        self.jobs[job_id] = job
        self.changed.notify_all()
        return job
