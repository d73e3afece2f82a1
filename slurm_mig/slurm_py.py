"""The pyslurm client, for long-lived commands. Never imported by a hook (the import costs 42 ms).

pyslurm must match the site's Slurm release; this is written to the documented interface of 25.11.
It is used for what it does well: acting on jobs and nodes, and listing jobs, without a process for
each call. What a job or node holds of a GRES is asked of the command line, because pyslurm 25.11
gets it wrong for count-only GRES: `Job.get_resource_layout_per_node()` fails on
`mig:3g.20gb(CNT:1)`, `Job.gres` is empty unless AccountingStorageTRES lists the type, and
`Node.configured_gres` is written with a prefix that makes slurmctld count zero.
"""

import importlib
from collections.abc import Callable
from typing import Any

from slurm_mig.errors import one_line
from slurm_mig.slurm import (
    HOLDS_NOTHING,
    JobRecord,
    JobUnknown,
    NodeRecord,
    SlurmClient,
    SlurmRefused,
    SlurmUnavailable,
    expand_hostlist,
    job_number,
    node_name,
    not_over,
    reason_text,
    says_job_is_over,
    says_job_is_pending,
    says_no_answer,
    says_unknown_job,
)


class PyslurmClient:
    """Speaks to Slurm through libslurm. `commands` answers what pyslurm gets wrong."""

    def __init__(self, commands: SlurmClient) -> None:
        self.commands = commands
        try:
            self._py: Any = importlib.import_module("pyslurm")
        except Exception as error:  # a mismatched libslurm fails in many ways
            raise SlurmUnavailable(
                f"pyslurm cannot be imported ({type(error).__name__}: {one_line(error, 200)});"
                " install the one of this Slurm release, or set [slurm] client to scontrol"
            ) from error

    def job(self, job_id: int, node: str) -> JobRecord:
        """Return the job as seen from `node`, by the command line (see the module's text)."""
        return self.commands.job(job_id, node)

    def jobs_on(self, node: str) -> frozenset[int]:
        """Return the ids of all jobs that hold something on `node`, those that end included."""
        name = node_name(node)
        jobs = self._call(f"jobs on node {name}", self._py.Jobs.load)
        return frozenset(
            int(job.id)
            for job in jobs.values()
            if str(job.state) not in HOLDS_NOTHING
            and name in expand_hostlist(job.allocated_nodes or "")
        )

    def requeue(self, job_id: int) -> None:
        """Put a batch job back in the queue; done already is success."""
        what = f"requeue of job {job_number(job_id)}"
        job = not_over(self, what, job_id)
        if self._is_array_number(job):
            self.commands.requeue(job_id)
        elif job.starts_or_runs:
            self._requeue(what, self._py.Job(int(job_number(job_id))), hold=False)

    def hold(self, job_id: int, reason: str) -> None:
        """Requeue a batch job in held state; the reason is its AdminComment."""
        what = f"hold of job {job_number(job_id)}"
        record = not_over(self, what, job_id)
        if self._is_array_number(record):
            self.commands.hold(job_id, reason)
            return
        job = self._explained(job_id, reason)
        if not record.starts_or_runs or not self._requeue(what, job, hold=True):
            # Another node of the job was first and requeued it; now it must not start again.
            self._call(what, job.hold)

    @staticmethod
    def _is_array_number(job: JobRecord) -> bool:
        """Whether this number means a whole array to Slurm; pyslurm can say nothing else."""
        return job.array_task_id is not None and job.array_job_id == job.job_id

    def _requeue(self, what: str, job: Any, *, hold: bool) -> bool:
        """Requeue; False if the job is in the queue already."""
        try:
            self._call(what, lambda: job.requeue(hold=hold))
        except SlurmRefused as error:
            if not says_job_is_pending(str(error)):
                raise
            return False
        return True

    def cancel(self, job_id: int, reason: str) -> None:
        """Cancel a job; the reason is its AdminComment. Ended already is success."""
        try:
            if self._is_array_number(self.job(job_id, "")):
                self.commands.cancel(job_id, reason)
                return
            job = self._explained(job_id, reason)
            self._call(f"cancel of job {job_number(job_id)}", job.cancel)
        except (JobUnknown, SlurmRefused) as error:
            if isinstance(error, SlurmRefused) and not says_job_is_over(str(error)):
                raise

    def notify(self, job_id: int, text: str) -> None:
        """Show one line to the user of a running salloc or srun (a batch job's stderr)."""
        job = self._py.Job(int(job_number(job_id)))
        self._call(f"message to job {job_number(job_id)}", lambda: job.notify(reason_text(text)))

    def node(self, name: str) -> NodeRecord:
        """Return a node's record, by the command line (see the module's text)."""
        return self.commands.node(name)

    def drain(self, name: str, reason: str) -> None:
        """Let no new job start on the node."""
        change = self._py.Node(state="DRAIN", reason=reason_text(reason))
        self._modify(f"drain of node {name}", name, change)

    def resume(self, name: str) -> None:
        """Undo `drain`; a node that is not drained is left as it is."""
        if "DRAIN" in self.node(name).state:
            self._modify(f"resume of node {name}", name, self._py.Node(state="RESUME"))

    def _modify(self, what: str, name: str, change: Any) -> None:
        node = self._py.Node(node_name(name))
        self._call(what, lambda: node.modify(change))

    def _explained(self, job_id: int, reason: str) -> Any:
        job = self._py.Job(int(job_number(job_id)))
        change = self._py.JobSubmitDescription(admin_comment=reason_text(reason))
        self._call(f"comment on job {job_number(job_id)}", lambda: job.modify(change))
        return job

    def _call(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except self._py.RPCError as error:
            said = one_line(error, 300)
            if says_unknown_job(said):
                raise JobUnknown(f"{what}: Slurm does not know it (any more)") from error
            if says_no_answer(said):
                raise SlurmUnavailable(f"{what}: Slurm does not answer: {said}") from error
            raise SlurmRefused(f"{what}: Slurm refuses: {said}") from error
