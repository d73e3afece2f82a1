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
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, Unpack, overload

from slurm_mig.rehearsal.fake_scontrol import CommandServer, write_commands
from slurm_mig.rehearsal.hookenv import hook_environment, make_sluid, parse_release
from slurm_mig.rehearsal.hookrun import HookRun, Shutdown, run_hook
from slurm_mig.rehearsal.jobs import (
    Gres,
    Job,
    JobOptions,
    Node,
    Result,
    StandinError,
    StandinNode,
    allot,
    format_gres,
    node_gres,
    parse_array,
    parse_gres,
)
from slurm_mig.rehearsal.processes import end_marked
from slurm_mig.rehearsal.taskenv import task_environment
from slurm_mig.rehearsal.taskrun import Identity, Task

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


@dataclass(eq=False)
class _Run:
    """One incarnation of a job on its nodes: from the first Prolog to the last Epilog."""

    job: Job
    nodes: list[Node]
    prolog_env: dict[str, dict[str, str]]
    epilog_env: dict[str, dict[str, str]] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    tasks: list[Task] = field(default_factory=list)
    tasks_live: bool = False
    ending: bool = False
    requeue: bool = False
    hold: bool = False


class Standin:
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
        *,
        release: str = "24.11",
        prolog: Path | str | None = None,
        epilog: Path | str | None = None,
        task_prolog: Path | str | None = None,
        prolog_timeout: float | None = None,
        epilog_timeout: float | None = None,
        requeue_delay: float = 0.0,
        max_batch_requeue: int = 5,
        nohold_on_prolog_fail: bool = False,
        kill_wait: float = 30.0,
        cluster: str = "standin",
        partition: str = "main",
    ) -> None:
        self.folder = Path(folder).absolute()
        self.release = release
        self.version = parse_release(release)
        self.prolog_timeout = prolog_timeout
        self.epilog_timeout = epilog_timeout
        self.requeue_delay = requeue_delay
        self.max_batch_requeue = max_batch_requeue
        self.nohold_on_prolog_fail = nohold_on_prolog_fail
        self.kill_wait = kill_wait
        self.cluster = cluster
        self.partition = partition
        self.reachable = True
        self.commands: list[tuple[str, ...]] = []
        self.nodes = {
            node.name: Node(
                node,
                node_gres(node.gres),
                _path(node.prolog or prolog),
                _path(node.epilog or epilog),
                _path(node.task_prolog or task_prolog),
            )
            for node in nodes
        }
        self.jobs: dict[int, Job] = {}
        self.changed = threading.Condition()  # its (reentrant) lock guards everything here
        self._runs: dict[int, _Run] = {}
        self._next_id = 1
        self._closed = False
        self._shutdown = Shutdown()
        self._threads: set[threading.Thread] = set()

        for name in ("bin", "spool", "output", "work"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.conf = self.folder / "slurm.conf"
        self.conf.write_text(f"# A scheduler stand-in, no Slurm\nClusterName={cluster}\n")
        self.bin = self.folder / "bin"
        write_commands(self.folder)
        self._server = CommandServer(self)
        self._spawn(self._schedule)

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
            return self._add(argv, batch=False, options=options).id

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
        text = _script(script)
        with self.changed:
            if array is None:
                return self._add((), batch=True, options=options, script=text).id
            indices = tuple(parse_array(array))
            first = self._next_id
            numbers = [*range(first + 1, first + len(indices)), first]
            for index, number in zip(indices, numbers, strict=True):
                job = self._add((), batch=True, options=options, script=text, number=number)
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
            tasks = [task for run in self._runs.values() for task in run.tasks]
            self.changed.notify_all()
        self._server.close()
        self._shutdown.set()
        for task in tasks:
            task.signal(signal.SIGKILL)
        while threads := self._threads - {threading.current_thread()}:
            for thread in threads:
                thread.join()
        end_marked({"SLURM_CONF": str(self.conf)})
        self._shutdown.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # From the queue to the nodes

    def _add(
        self,
        argv: Sequence[str],
        *,
        batch: bool,
        options: JobOptions,
        script: str = "",
        number: int | None = None,
    ) -> Job:
        if self._closed:
            raise StandinError("Unable to contact slurm controller (connect failure)")
        refusal = "Requested node configuration is not available"
        wanted = parse_gres(options.get("gres"), self.version)
        nodelist = tuple(options.get("nodelist", ()))
        count = len(nodelist) or options.get("nodes", 1)
        candidates = [self.node(name) for name in nodelist] or list(self.nodes.values())
        if sum(allot(wanted, node.gres) is not None for node in candidates) < count:
            raise StandinError(refusal)
        identity = Identity.of(options.get("user"))

        job_id = self._next_id if number is None else number
        self._next_id = max(self._next_id, job_id + 1)
        workdir = Path(options.get("workdir", self.folder / "work")).absolute()
        stdout = options.get("stdout")
        if batch:
            argv = [str(self._spool(job_id, script, identity))]
        job = Job(
            job_id,
            list(argv),
            batch,
            identity,
            dict(options.get("env", os.environ)),
            workdir,
            Path(stdout) if stdout else self.folder / "output" / f"slurm-{job_id}.out",
            wanted,
            options.get("gres") or "",
            name=options.get("name", "") or ("sbatch" if batch else Path(argv[0]).name),
            nodes_wanted=count,
            nodelist=nodelist,
            ntasks=options.get("ntasks", count),
            ntasks_asked=options.get("ntasks"),
            comment=options.get("comment"),
            extra=options.get("extra"),
            account=options.get("account"),
            constraints=options.get("constraints"),
            reservation=options.get("reservation"),
            qos=options.get("qos"),
            licenses=options.get("licenses"),
            stdout=None if stdout is None else str(stdout),
            spank_env=dict(options.get("spank_env", {})),
            may_requeue=options.get("requeue", True),
            held=options.get("hold", False),
        )
        if job.held:
            job.reason = "JobHeldUser"
        self.jobs[job_id] = job
        self.changed.notify_all()
        return job

    def _spool(self, job_id: int, script: str, identity: Identity) -> Path:
        path = self.folder / "spool" / f"job{job_id:05d}" / "slurm_script"
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o700)
        if identity.switch:
            os.chown(path, identity.uid, identity.gid)
        return path

    def _schedule(self) -> None:
        """Start whatever can start, whenever something has changed, until the end."""
        with self.changed:
            while not self._closed:
                soonest = self._start_what_fits()
                if soonest is None:
                    self.changed.wait()
                else:
                    self.changed.wait(max(soonest - time.monotonic(), 0))

    def _start_what_fits(self) -> float | None:
        soonest = None
        for job in self.jobs.values():
            if job.state != "PENDING" or job.held:
                continue
            if job.eligible_at > time.monotonic():
                soonest = min(job.eligible_at, soonest or job.eligible_at)
                continue
            nodes = self._place(job)
            if nodes is not None:
                self._start(job, nodes)
            elif job.reason != "Resources":
                job.reason = "Resources"
                self.changed.notify_all()
        return soonest

    def _place(self, job: Job) -> list[Node] | None:
        names = job.nodelist or tuple(self.nodes)
        fit = [
            node
            for node in (self.nodes[name] for name in names)
            # The whole node is closed while one of its jobs is COMPLETING: that, and not its
            # counts, is what keeps a new job off an instance that its Epilog has yet to remove.
            if not (node.drained or node.down or node.completing)
            and allot(job.wanted, node.free) is not None
        ]
        return fit[: job.nodes_wanted] if len(fit) >= job.nodes_wanted else None

    def _start(self, job: Job, nodes: list[Node]) -> None:
        job.nodes = tuple(node.name for node in nodes)
        job.state = job.base_state = "RUNNING"
        job.reason = "Prolog"
        job.start_time = int(time.time())
        job.end_time = 0
        job.sluid = make_sluid(job.id, job.restart_count)
        job.exit_status = 0
        for node in nodes:
            taken = allot(job.wanted, node.free) or {}
            job.allotted[node.name] = taken
            _add_counts(node.gres_used, taken, 1)
            node.running.add(job.id)
        run = _Run(job, nodes, self._hook_env("prolog", job))
        self._runs[job.id] = run
        for node in nodes:
            self._spawn(self._life_on_node, run, node)
        self._spawn(self._life_of_job, run)
        self.changed.notify_all()

    def _hook_env(self, which: Literal["prolog", "epilog"], job: Job) -> dict[str, dict[str, str]]:
        """The environments of a job's hooks by node, from what the job is at this moment."""
        return {
            name: hook_environment(
                which,
                release=self.release,
                node=name,
                nodes=job.nodes,
                job_id=job.id,
                uid=job.identity.uid,
                gid=job.identity.gid,
                conf=str(self.conf),
                cluster=self.cluster,
                work_dir=str(job.workdir),
                partition=self.partition,
                ntasks=job.ntasks_asked,
                restart_count=job.restart_count,
                sluid=job.sluid,
                start_time=job.start_time,
                end_time=int(time.time()) if which == "epilog" else None,
                comment=job.comment,
                extra=job.extra,
                account=job.account,
                constraints=job.constraints,
                licenses=job.licenses,
                reservation=job.reservation,
                qos=job.qos,
                stdin="/dev/null" if job.batch else None,
                stdout=job.stdout,
                exit_status=job.exit_status,
                derived_status=0 if job.batch else job.exit_status,
                spank_env=job.spank_env,
            )
            for name in job.nodes
        }

    def _life_on_node(self, run: _Run, node: Node) -> None:
        """What slurmd does for one job: Prolog, wait for the order to end it, Epilog."""
        job = run.job
        failed = self._run_hook(run, node, "prolog")
        with self.changed:
            run.ready.add(node.name)
            if failed:
                node.drain("Prolog error")
                self._launch_failed(run, node)
            self.changed.notify_all()
            self.changed.wait_for(lambda: (run.ending and not run.tasks_live) or self._closed)
            if self._closed:
                return
        failed = self._run_hook(run, node, "epilog")
        with self.changed:
            if failed:
                node.drain("Epilog error")
            node.completing.discard(job.id)
            run.left.add(node.name)
            if len(run.left) == len(run.nodes) and not self._closed:
                self._finish(run)
            self.changed.notify_all()

    def _run_hook(self, run: _Run, node: Node, which: Literal["prolog", "epilog"]) -> bool:
        """Run one hook, note it, and say whether it failed."""
        path, env = node.prolog, run.prolog_env
        timeout = self.prolog_timeout
        if which == "epilog":
            path, env, timeout = node.epilog, run.epilog_env, self.epilog_timeout
        if path is None:
            return False
        hook = run_hook(
            path, env[node.name], timeout, which=which, node=node.name, shutdown=self._shutdown
        )
        with self.changed:
            run.job.hook_runs.append(hook)
            return hook.rc != 0 and not self._closed

    def _launch_failed(self, run: _Run, node: Node) -> None:
        """A Prolog failed: requeue and hold a batch job, kill any other."""
        job = run.job
        if run.ending:
            return
        if not job.batch:
            job.messages.append(f"Prolog failure on node {node.name}")
            self._end(run, "CANCELLED", exit_status=1)
        elif not job.may_requeue:
            self._end(run, "FAILED", reason="JobLaunchFailure", exit_status=1)
        else:
            job.launch_failures += 1
            reason, hold = "launch_failed_requeued_held", True
            if self.nohold_on_prolog_fail:
                hold = job.launch_failures > self.max_batch_requeue
                reason = "JobHoldMaxRequeue" if hold else "BeginTime"
            self._end(run, "PENDING", reason=reason, requeue=True, hold=hold)

    def _life_of_job(self, run: _Run) -> None:
        """Launch the tasks when the Prologs allow it, and end the job when they have ended."""
        job = run.job
        # slurmd starts a batch script after the Prolog of its own node; srun waits for all nodes.
        waited_for = {node.name for node in (run.nodes[:1] if job.batch else run.nodes)}
        with self.changed:
            self.changed.wait_for(lambda: waited_for <= run.ready or run.ending or self._closed)
            if run.ending or self._closed:
                return
            job.reason = "None"
            job.output_path.write_bytes(b"")  # a restarted batch job starts its output anew
            if job.identity.switch:
                os.chown(job.output_path, job.identity.uid, job.identity.gid)
            run.tasks = self._tasks(run)
            run.tasks_live = True
            self.changed.notify_all()
        threads = [threading.Thread(target=task.run) for task in run.tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not self._closed:
            # slurmstepd ends whatever the job left on the node before the Epilog starts.
            end_marked(
                {"SLURM_CONF": str(self.conf), "SLURM_JOB_ID": str(job.id), "SLURM_PROCID": None}
            )
        with self.changed:
            run.tasks_live = False
            for number, task in enumerate(run.tasks):
                job.task_envs[task.node, number] = task.env
                if task.hook is not None:
                    job.hook_runs.append(task.hook)
            job.env = run.tasks[0].env if run.tasks else {}
            if not run.ending and not self._closed:
                job.exit_status = _worst(run.tasks)
                self._end(run, "FAILED" if job.exit_status else "COMPLETED")
            elif not run.requeue:
                job.exit_status = _worst(run.tasks)
            self.changed.notify_all()

    def _tasks(self, run: _Run) -> list[Task]:
        job, count = run.job, len(run.nodes)
        tasks: list[Task] = []
        for position, node in enumerate(run.nodes[:1] if job.batch else run.nodes):
            here = job.ntasks // count + (position < job.ntasks % count)
            for local in range(1 if job.batch else here):
                env = task_environment(
                    job,
                    node=node.name,
                    position=position,
                    local=local,
                    number=len(tasks),
                    conf=str(self.conf),
                    cluster=self.cluster,
                    partition=self.partition,
                )
                tasks.append(
                    Task(
                        job.argv,
                        env,
                        node.name,
                        job.workdir,
                        job.output_path,
                        job.identity,
                        node.task_prolog,
                    )
                )
        return tasks

    # From the nodes back to the queue

    def _end(
        self,
        run: _Run,
        state: str,
        *,
        reason: str | None = None,
        exit_status: int | None = None,
        requeue: bool = False,
        hold: bool = False,
    ) -> None:
        """Begin COMPLETING: counts are free at once, the nodes only after their Epilogs."""
        job = run.job
        run.ending, run.requeue, run.hold = True, requeue, hold
        job.state, job.base_state = "COMPLETING", state
        job.reason = job.reason if reason is None else reason
        if requeue:
            # Counted before slurmd is told, so the Epilog's count is one above the Prolog's.
            job.restart_count += 1
        run.epilog_env = self._hook_env("epilog", job)
        if exit_status is not None:
            job.exit_status = exit_status
        for node in run.nodes:
            _add_counts(node.gres_used, job.allotted.pop(node.name, {}), -1)
            node.running.discard(job.id)
            node.completing.add(job.id)
        if run.tasks_live:
            self._spawn(self._kill_tasks, run)

    def _kill_tasks(self, run: _Run) -> None:
        for task in run.tasks:
            task.signal(signal.SIGCONT)
            task.signal(signal.SIGTERM)
        with self.changed:
            self.changed.wait_for(lambda: not run.tasks_live or self._closed, self.kill_wait)
        for task in run.tasks:
            task.signal(signal.SIGKILL)

    def _finish(self, run: _Run) -> None:
        job = run.job
        del self._runs[job.id]
        if run.requeue:
            self._queue_again(job, run.hold, job.reason)
        else:
            job.state = job.base_state
            job.end_time = int(time.time())

    def _queue_again(self, job: Job, hold: bool, reason: str) -> None:
        job.state = "PENDING"
        job.nodes = ()
        job.held = job.held or hold
        job.reason = reason
        job.eligible_at = time.monotonic() + self.requeue_delay

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        """Run `target` in a thread that `close` waits for."""

        def body() -> None:
            try:
                target(*args)
            finally:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=body, daemon=True)
        self._threads.add(thread)
        thread.start()

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
                counts: Gres = parse_counts(changes["gres"])
                node.gres = counts
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

    def describe(self, node: Node) -> tuple[str, str]:
        """A node's counts as Slurm prints them: configured and in use."""
        used: Gres = {key: node.gres_used.get(key, 0) for key in node.gres}
        return format_gres(node.gres), format_gres(used)


def parse_counts(text: str) -> Gres:
    """Read the value of `scontrol update NodeName=… Gres=`; a count of 0 stays, unlike a job's."""
    counts: Gres = {}
    for item in text.split(",") if text else ():
        parts = item.split(":")
        if len(parts) not in (2, 3) or not parts[-1].isdigit():
            raise StandinError("Invalid generic resource (gres) specification")
        counts[parts[0], parts[1] if len(parts) == 3 else ""] = int(parts[-1])
    return counts


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _worst(tasks: Sequence[Task]) -> int:
    """The highest wait status; a task without one never came to run."""
    return max((1 << 8 if task.status is None else task.status for task in tasks), default=0)


def _add_counts(counts: Gres, change: Gres, sign: int) -> None:
    for key, count in change.items():
        counts[key] = counts.get(key, 0) + sign * count


def _script(script: str | Path | Sequence[str]) -> str:
    """The text of a batch script: a file's, the one given, or one that runs a command."""
    if isinstance(script, Path):
        return script.read_text()
    if isinstance(script, str):
        return script if script.startswith("#!") else f"#!/bin/sh\n{script}\n"
    words = " ".join("'" + word.replace("'", "'\\''") + "'" for word in script)
    return f"#!/bin/sh\nexec {words}\n"
