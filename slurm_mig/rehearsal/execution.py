"""What Slurm does with jobs: from the queue to the nodes, through their hooks, and back.

One thread starts whatever fits whenever something has changed. A job on its nodes has one thread
for itself and one per node, as slurmd has, so that all hooks of all jobs run in parallel. One lock
(`changed`, a condition) guards every job and node; no hook is ever run under it.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

from slurm_mig.rehearsal.hookenv import hook_environment, make_sluid, parse_release
from slurm_mig.rehearsal.hookrun import Shutdown, run_hook
from slurm_mig.rehearsal.jobs import Gres, Job, Node, StandinNode, allot, node_gres
from slurm_mig.rehearsal.processes import end_marked
from slurm_mig.rehearsal.taskenv import tasks_of
from slurm_mig.rehearsal.taskrun import Task


@dataclass(eq=False)
class Run:
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


class Settings(TypedDict, total=False):
    """Settings of a stand-in beside its folder and nodes."""

    release: str
    prolog: Path | str | None
    epilog: Path | str | None
    task_prolog: Path | str | None
    prolog_timeout: float | None
    epilog_timeout: float | None
    requeue_delay: float
    max_batch_requeue: int
    nohold_on_prolog_fail: bool
    kill_wait: float
    cluster: str
    partition: str


class Execution:
    """Jobs, nodes and the threads that carry jobs through their hooks.

    `Standin` is this with commands around it; its docstring says what the settings mean.
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
        self._runs: dict[int, Run] = {}
        self._closed = False
        self._shutdown = Shutdown()
        self._threads: set[threading.Thread] = set()
        for name in ("bin", "spool", "output", "work"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.conf = self.folder / "slurm.conf"
        self.conf.write_text(f"# A scheduler stand-in, no Slurm\nClusterName={cluster}\n")
        self._spawn(self._schedule)

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
        run = Run(job, nodes, self._hook_env("prolog", job))
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

    def _life_on_node(self, run: Run, node: Node) -> None:
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

    def _run_hook(self, run: Run, node: Node, which: Literal["prolog", "epilog"]) -> bool:
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

    def _launch_failed(self, run: Run, node: Node) -> None:
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

    def _life_of_job(self, run: Run) -> None:
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
            run.tasks = tasks_of(
                job,
                run.nodes,
                conf=str(self.conf),
                cluster=self.cluster,
                partition=self.partition,
            )
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

    # From the nodes back to the queue

    def _end(
        self,
        run: Run,
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

    def _kill_tasks(self, run: Run) -> None:
        for task in run.tasks:
            task.signal(signal.SIGCONT)
            task.signal(signal.SIGTERM)
        with self.changed:
            self.changed.wait_for(lambda: not run.tasks_live or self._closed, self.kill_wait)
        for task in run.tasks:
            task.signal(signal.SIGKILL)

    def _finish(self, run: Run) -> None:
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

    def _end_everything(self) -> None:
        """End all jobs, hooks and threads, once no command can start new ones."""
        tasks = [task for run in self._runs.values() for task in run.tasks]
        self._shutdown.set()
        for task in tasks:
            task.signal(signal.SIGKILL)
        while threads := self._threads - {threading.current_thread()}:
            for thread in threads:
                thread.join()
        end_marked({"SLURM_CONF": str(self.conf)})
        self._shutdown.close()

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


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _worst(tasks: Sequence[Task]) -> int:
    """The highest wait status; a task without one never came to run."""
    return max((1 << 8 if task.status is None else task.status for task in tasks), default=0)


def _add_counts(counts: Gres, change: Gres, sign: int) -> None:
    for key, count in change.items():
        counts[key] = counts.get(key, 0) + sign * count
