"""All that slurm-mig asks of Slurm and tells it: a small protocol, and its command-line client.

Hooks import this, so it imports little (no subprocess, 9 ms; no pyslurm, 42 ms). Users' text only
ever comes in, as JSON values; what goes out as an argument is a whole number, a node name of known
characters, or one line that we wrote ourselves.

Which command says what (each checked on Slurm 22.05.8, 24.11.5 and 26.05.5):

- One job: `scontrol show job ID -d --json` from 23.02 on. The scontrol of 22.05 has no `--json`.
  There its text is read (3 ms), of a task or component that does not stand alone there once more
  by its own address, and if a user's text in it could be taken for something else,
  `squeue --json`, which in 22.05 always loads and shows all jobs of the cluster.
- One node: `scontrol show node NAME --json`; in 22.05 `sinfo --json`, which shows all nodes.
- `scontrol requeue` and `requeuehold` bring back a job that its user has just cancelled; so the
  job's state is looked at first.
- `scontrol requeue` of an interactive job complains on stderr and still exits with 0: a complaint
  is a refusal here, whatever the exit status.
"""

import os
import re
import time
from typing import Protocol

from slurm_mig.child import Said, run
from slurm_mig.errors import one_line
from slurm_mig.slurm_records import (
    HOLDS_NOTHING,
    AmbiguousText,
    JobRecord,
    JobUnknown,
    NodeRecord,
    SlurmRefused,
    SlurmUnavailable,
    expand_hostlist,
    job_from_answer,
    job_from_json,
    job_from_text,
    node_from_json,
)

__all__ = [
    "HOLDS_NOTHING",
    "JobRecord",
    "JobUnknown",
    "NodeRecord",
    "ScontrolClient",
    "SlurmClient",
    "SlurmRefused",
    "SlurmUnavailable",
    "client",
    "expand_hostlist",
    "job_from_answer",
    "job_from_json",
    "job_from_text",
    "node_from_json",
]

# What slurmctld keeps of a comment is not bounded, but people read it in a line of a terminal.
REASON_LIMIT = 300
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,253}", re.ASCII)
# What the commands say when slurmctld does not answer; then it is worth to ask again.
_NO_ANSWER = re.compile(
    r"unable to contact|connection refused|connection reset|socket timed out|zero bytes were"
    r"|controller (not|is not) responding|transport endpoint|send/recv|communication connection"
    r"|resource temporarily unavailable|standby|backup controller",
    re.IGNORECASE,
)
_UNKNOWN_JOB = re.compile(r"invalid job id", re.IGNORECASE)
_IS_OVER = re.compile(
    r"invalid job id|already (finished|completed)|already completing or completed", re.IGNORECASE
)
_IS_PENDING = re.compile(r"job is pending execution", re.IGNORECASE)
_NO_JSON = re.compile(r"unrecognized option '?--json", re.IGNORECASE)


def says_no_answer(text: str) -> bool:
    """Whether an error text of Slurm means that slurmctld or munge did not answer."""
    return _NO_ANSWER.search(text) is not None


def says_unknown_job(text: str) -> bool:
    """Whether an error text of Slurm means that it knows no such job."""
    return _UNKNOWN_JOB.search(text) is not None


def says_job_is_over(text: str) -> bool:
    """Whether an error text of Slurm means that the job has ended or is forgotten."""
    return _IS_OVER.search(text) is not None


def says_job_is_pending(text: str) -> bool:
    """Whether an error text of Slurm means that the job waits in the queue already."""
    return _IS_PENDING.search(text) is not None


def not_over(client: "SlurmClient", what: str, job_id: int) -> JobRecord:
    """The record; SlurmRefused if the job is over: to requeue it would undo a cancellation."""
    job = client.job(job_id, "")
    if job.over:
        raise SlurmRefused(f"{what}: it is over ({job.state})")
    return job


class SlurmClient(Protocol):
    """What slurm-mig needs of Slurm.

    Every call raises SlurmUnavailable if Slurm does not answer within the client's timeout,
    JobUnknown for a job that it does not know, SlurmRefused if it declines.
    """

    def job(self, job_id: int, node: str) -> JobRecord:
        """Return the job as seen from `node`."""

    def jobs_on(self, node: str) -> frozenset[int]:
        """Return the ids of all jobs that hold something on `node`, those that end included."""

    def requeue(self, job_id: int) -> None:
        """Put a batch job back in the queue.

        Success too if it is there already or leaves the node; SlurmRefused if it is over, is not a
        batch job, or was submitted with --no-requeue.
        """

    def hold(self, job_id: int, reason: str) -> None:
        """Requeue a batch job in held state; the reason is its AdminComment."""

    def cancel(self, job_id: int, reason: str) -> None:
        """Cancel a job; the reason is its AdminComment. Ended already is success."""

    def notify(self, job_id: int, text: str) -> None:
        """Show one line to the user of a running salloc or srun (a batch job's stderr)."""

    def node(self, name: str) -> NodeRecord:
        """Return a node's record."""

    def drain(self, name: str, reason: str) -> None:
        """Let no new job start on the node."""

    def resume(self, name: str) -> None:
        """Undo `drain`; a node that is not drained is left as it is."""


def node_name(name: str) -> str:
    """Return `name` if it can be only a node's name (no host list, no option)."""
    if not _NODE_NAME.fullmatch(name):
        raise SlurmUnavailable(
            f"node {one_line(name, 80)!r}: not a Slurm node name; check SLURMD_NODENAME"
        )
    return name


def job_number(job_id: int) -> str:
    """Return a job id as an argument; ValueError for what is no positive whole number."""
    if not isinstance(job_id, int) or job_id <= 0:
        raise ValueError(f"not a job id: {one_line(repr(job_id), 80)}")
    return str(int(job_id))


def reason_text(reason: str) -> str:
    """Return `reason` as Slurm may be given it: one line, no quotes, of bounded length."""
    # scontrol strips quotes of its own accord in some releases; so there are none.
    return one_line(reason, REASON_LIMIT).replace('"', "'").replace("\\", "/")


def _complaint(said: Said, limit: int) -> str:
    """What a command printed on stderr, often several lines, as one that a person can read."""
    return one_line("; ".join(said.err.strip().splitlines()), limit)


class ScontrolClient:
    """Speaks to Slurm by its commands.

    `path` is scontrol; squeue, scancel and sinfo lie beside it. `timeout` (seconds) bounds each
    call as a whole, retries included. Of the environment only SLURM_CONF and TZ are
    passed on.
    """

    def __init__(self, path: str = "/usr/bin/scontrol", timeout: float = 10) -> None:
        self.path = path
        self.timeout = timeout
        self._json = True  # until scontrol says that it has no --json
        self._env = {"PATH": "/usr/bin:/bin", "LANG": "C", "LC_ALL": "C"}
        for name in ("SLURM_CONF", "TZ"):
            if name in os.environ:
                self._env[name] = os.environ[name]

    def job(self, job_id: int, node: str) -> JobRecord:
        """Return the job as seen from `node`."""
        what = f"job {job_number(job_id)}"
        show = ["scontrol", "show", "job", job_number(job_id), "-d"]
        said = self._show(what, [*show, "--json"], show)
        if said.status != 0 and _UNKNOWN_JOB.search(said.err):
            raise JobUnknown(f"{what}: Slurm does not know it (any more)")
        self._demand(said, what)
        if self._json:
            return job_from_json(said.out, job_id, node)
        try:
            try:
                return job_from_text(said.out, job_id, node)
            except AmbiguousText as error:
                if not error.address:
                    raise
                said = self._ask(what, ["scontrol", "show", "job", error.address, "-d"])
                self._demand(said, what)
                return job_from_text(said.out, job_id, node)
        except AmbiguousText:
            said = self._ask(what, ["squeue", "--json", "-j", job_number(job_id)])
            self._demand(said, what)
            return job_from_json(said.out, job_id, node)

    def jobs_on(self, node: str) -> frozenset[int]:
        """Return the ids of all jobs that hold something on `node`, those that end included."""
        # Not JSON: of a large cluster that would be hundreds of megabytes, since no option filters
        # it in 22.05. A requeued job whose Epilog runs is COMPLETING here.
        said = self._ask(
            f"jobs on node {node_name(node)}",
            ["squeue", "-h", "-a", "-t", "all", "-w", node_name(node), "-o", "%A %T"],
        )
        self._demand(said, f"jobs on node {node}")
        rows = (line.split() for line in said.out.decode(errors="replace").splitlines())
        return frozenset(
            int(row[0])
            for row in rows
            if len(row) == 2 and row[0].isdigit() and row[1] not in HOLDS_NOTHING
        )

    def requeue(self, job_id: int) -> None:
        """Put a batch job back in the queue; done already is success."""
        what = f"requeue of job {job_number(job_id)}"
        job = not_over(self, what, job_id)
        if job.starts_or_runs:
            # Pending: another node of the job was first.
            self._change(what, ["scontrol", "requeue", job.address], fine=_IS_PENDING)

    def hold(self, job_id: int, reason: str) -> None:
        """Requeue a batch job in held state; the reason is its AdminComment."""
        what = f"hold of job {job_number(job_id)}"
        job = not_over(self, what, job_id)
        self._explain(job, reason)
        if job.starts_or_runs:
            try:
                self._change(what, ["scontrol", "requeuehold", job.address])
            except SlurmRefused as error:
                if not says_job_is_pending(str(error)):
                    raise
            else:
                return
        # Another node of the job was first and requeued it; now it must not start again.
        self._change(what, ["scontrol", "hold", job.address])

    def cancel(self, job_id: int, reason: str) -> None:
        """Cancel a job; the reason is its AdminComment. Ended already is success."""
        what = f"cancel of job {job_number(job_id)}"
        try:
            job = self.job(job_id, "")
        except JobUnknown:
            return
        self._explain(job, reason, fine=_IS_OVER)
        self._change(what, ["scancel", job.address], fine=_IS_OVER)

    def notify(self, job_id: int, text: str) -> None:
        """Show one line to the user of a running salloc or srun (a batch job's stderr)."""
        words = ["scontrol", "notify", job_number(job_id), reason_text(text)]
        self._change(f"message to job {job_number(job_id)}", words)

    def node(self, name: str) -> NodeRecord:
        """Return a node's record."""
        name = node_name(name)
        said = self._show(
            f"node {name}", ["scontrol", "show", "node", name, "--json"], ["sinfo", "--json"]
        )
        self._demand(said, f"node {name}")
        return node_from_json(said.out, name)

    def version(self) -> str:
        """What scontrol says of its release: `slurm 24.11.5`."""
        said = self._ask("release of Slurm", ["scontrol", "--version"])
        self._demand(said, "release of Slurm")
        return one_line(said.out.decode(errors="replace"), 80)

    def config(self) -> str:
        """The configuration of slurmctld, as `scontrol show config` prints it."""
        said = self._ask("configuration of Slurm", ["scontrol", "show", "config"])
        self._demand(said, "configuration of Slurm")
        return said.out.decode(errors="replace")

    def drain(self, name: str, reason: str) -> None:
        """Let no new job start on the node."""
        words = ["scontrol", "update", f"NodeName={node_name(name)}", "State=DRAIN"]
        self._change(f"drain of node {name}", [*words, f"Reason={reason_text(reason)}"])

    def resume(self, name: str) -> None:
        """Undo `drain`; a node that is not drained is left as it is."""
        words = ["scontrol", "update", f"NodeName={node_name(name)}", "State=RESUME"]
        try:
            self._change(f"resume of node {name}", words)
        except SlurmRefused:
            if "DRAIN" in self.node(name).state:
                raise

    def _explain(self, job: JobRecord, reason: str, fine: re.Pattern[str] | None = None) -> None:
        comment = f"AdminComment={reason_text(reason)}"
        words = ["scontrol", "update", f"JobId={job.address}", comment]
        self._change(f"comment on job {job.job_id}", words, fine)

    def _show(self, what: str, words: list[str], old: list[str]) -> Said:
        """Ask by `words`, or by `old` where scontrol has no --json."""
        if self._json:
            said = self._ask(what, words)
            if said.status == 0 or not _NO_JSON.search(said.err):
                return said
            self._json = False
        return self._ask(what, old)

    def _ask(self, what: str, words: list[str]) -> Said:
        """Run a command until slurmctld answers; SlurmUnavailable after the timeout."""
        argv = [os.path.join(os.path.dirname(self.path), words[0]), *words[1:]]  # noqa: PTH118,PTH120 (pathlib costs 5 ms)
        if words[0] == "scontrol":
            argv[0] = self.path
        deadline = time.monotonic() + self.timeout
        pause = 0.05
        while True:
            left = deadline - time.monotonic()
            try:
                said = run(argv, self._env, max(left, 0.01))
            except OSError as error:
                raise SlurmUnavailable(
                    f"{what}: cannot run {argv[0]}: {error.strerror}; set [slurm] scontrol to its"
                    " path"
                ) from error
            if said.status is not None and not (said.err and _NO_ANSWER.search(said.err)):
                return said
            if said.status is None or time.monotonic() + pause > deadline:
                why = _complaint(said, 200) or f"{words[0]} did not end"
                raise SlurmUnavailable(
                    f"{what}: Slurm does not answer within {self.timeout:g} s: {why};"
                    " check slurmctld and munge"
                )
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    @staticmethod
    def _demand(said: Said, what: str) -> None:
        if said.status != 0:
            raise SlurmUnavailable(f"{what}: {_complaint(said, 300)} (exit {said.status})")

    def _change(self, what: str, words: list[str], fine: re.Pattern[str] | None = None) -> None:
        said = self._ask(what, words)
        complaint = _complaint(said, 300)
        if (said.status == 0 and not complaint) or (fine and fine.search(complaint)):
            return
        if _UNKNOWN_JOB.search(complaint):
            raise JobUnknown(f"{what}: Slurm does not know it (any more)")
        raise SlurmRefused(f"{what}: Slurm refuses: {complaint or f'exit {said.status}'}")


def client(kind: str, *, scontrol: str, timeout: float, long_lived: bool) -> SlurmClient:
    """Return the client of `kind`: "scontrol", "pyslurm" or "auto".

    "auto" takes pyslurm where it can be imported and the process is long-lived (the import costs
    42 ms, `scontrol show job` 8 ms). SlurmUnavailable if "pyslurm" is asked for and not usable.
    """
    commands = ScontrolClient(scontrol, timeout)
    if kind == "scontrol" or (kind == "auto" and not long_lived):
        return commands
    if kind not in ("auto", "pyslurm"):
        raise SlurmUnavailable(
            f"[slurm] client {one_line(kind, 40)!r}: unknown; use auto, scontrol or pyslurm"
        )
    from slurm_mig import slurm_py  # never in a hook

    try:
        return slurm_py.PyslurmClient(commands)
    except SlurmUnavailable:
        if kind == "pyslurm":
            raise
        return commands
