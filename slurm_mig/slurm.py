"""All that slurm-mig asks of Slurm and tells it: a small protocol, and its command-line client.

Hooks import this, so it imports little (no subprocess, 9 ms; no pyslurm, 42 ms). Users' text only
ever comes in, as JSON values; what goes out as an argument is a whole number, a node name of known
characters, or one line that we wrote ourselves.

Which command says what (each checked on Slurm 22.05.8, 24.11.5 and 26.05.5):

- One job: `scontrol show job ID -d --json` from 23.02 on. The scontrol of 22.05 has no `--json`;
  there `squeue --json -j ID` answers with the same fields, and for an unknown id with all jobs.
- One node: `scontrol show node NAME --json`; in 22.05 `sinfo --json`, which shows all nodes.
- `scontrol requeue` of an interactive job complains on stderr and still exits with 0: a complaint
  is a refusal here, whatever the exit status.
"""

import json
import os
import re
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from slurm_mig.errors import NodeFault, SlurmMigError, one_line

# What slurmctld keeps of a comment is not bounded, but people read it in a line of a terminal.
REASON_LIMIT = 300
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,253}", re.ASCII)
_SIGPIPE = 13
# Base states in which a job holds nothing on any node.
HOLDS_NOTHING = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"}
    | {"OUT_OF_MEMORY", "PENDING", "PREEMPTED", "REVOKED", "SPECIAL_EXIT", "TIMEOUT"}
    | {"REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"}
)
# In this state Slurm has already taken back what the job held, and shows no detail of it.
_LEAVING = frozenset({"COMPLETING"})
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


class SlurmUnavailable(NodeFault):
    """Slurm does not answer in time, cannot be run, or says what we cannot read."""


class JobUnknown(SlurmMigError):
    """Slurm does not know this job (any more)."""


class SlurmRefused(SlurmMigError):
    """Slurm answered and declined: the job or node is not in a state for it."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What Slurm says of a job, seen from one node.

    `gres` is what the job holds on that node, e.g. `mig:3g.20gb(CNT:1),mig:1g.5gb(CNT:2)`; empty
    if it holds none or the node is not in `nodes`. `state` is upper case, several joined by "+".
    Times are seconds since the epoch, 0 if not set. `array_job_id` and `het_job_id` are 0 for a
    job that is no array task and no component. `extra` is always empty in 22.05.
    """

    job_id: int
    user_id: int
    batch: bool
    requeue: bool
    restarts: int
    start_time: int
    state: str
    gres: str
    nodes: tuple[str, ...]
    extra: str
    comment: str
    admin_comment: str
    array_job_id: int
    array_task_id: int | None
    het_job_id: int


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What Slurm says of a node: `gres` as configured now, e.g. `mig:3g.20gb:2,mig:1g.5gb:4`."""

    name: str
    state: str
    gres: str
    gres_used: str
    extra: str
    reason: str


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
        """Put a batch job back in the queue; done already is success."""

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


# --- reading JSON -------------------------------------------------------------------------------


def _number(value: object, missing: int = 0) -> int:
    """Read an integer: plain, or `{"set": bool, "infinite": bool, "number": n}` (23.02 on)."""
    if isinstance(value, Mapping):
        value = value.get("number") if value.get("set") else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return missing
    return int(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _joined(value: object) -> str:
    """Read a state: a string (22.05) or a list of strings."""
    parts = value if isinstance(value, list) else [value]
    return "+".join(part for part in parts if isinstance(part, str)).upper()


def expand_hostlist(text: str) -> list[str]:
    """Return the nodes of a host list: `a[1-2,07],b` -> `a1 a2 a07 b`.

    ValueError if it is malformed or has more than 65536 nodes.
    """
    nodes: list[str] = []
    # Commas in brackets do not separate.
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        names = [""]
        for piece, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", part):
            choices = [piece] if piece else _range(ranges)
            if len(names) * len(choices) > 65536:
                raise ValueError(f"host list too long: {one_line(text, 80)}")
            names = [name + choice for name in names for choice in choices]
        nodes += names
    if re.sub(r"\[[^\[\]]*\]", "", text).count("[") or text.count("[") != text.count("]"):
        raise ValueError(f"malformed host list: {one_line(text, 80)}")
    return nodes


def _range(text: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        if not low.isdigit() or not (high or low).isdigit() or int(high or low) - int(low) > 65535:
            raise ValueError(f"malformed host range: {one_line(part, 80)}")
        found += [f"{number:0{len(low)}d}" for number in range(int(low), int(high or low) + 1)]
    return found


def _allocated(job: Mapping[str, Any]) -> list[str]:
    """Return the allocation's nodes in Slurm's order, in which `gres_detail` is, too."""
    resources = job.get("job_resources")
    nodes: object = None
    if isinstance(resources, Mapping):
        inner = resources.get("nodes")
        nodes = inner.get("allocation") if isinstance(inner, Mapping) else None  # 24.05 on
        nodes = nodes or resources.get("allocated_nodes")  # 22.05 .. 23.11
    if isinstance(nodes, Mapping):  # some releases: {"0": {...}}
        nodes = list(nodes.values())
    if isinstance(nodes, list):
        names = [
            _text(node.get("name") or node.get("nodename"))
            for node in nodes
            if isinstance(node, Mapping)
        ]
        if names and all(names):
            return names
    return expand_hostlist(_text(job.get("nodes")))


def _detail_of(job: Mapping[str, Any], nodes: Sequence[str], node: str) -> str:
    detail = job.get("gres_detail")
    if node not in nodes:
        return ""
    if not detail:
        wishes = (_text(job.get(key)) for key in job if key.startswith("tres_per_"))
        state = set(_joined(job.get("job_state")).split("+"))
        if any("gres" in wish for wish in wishes) and not state & (HOLDS_NOTHING | _LEAVING):
            # Without -d there is no detail; to read that as "no MIG" would run a job bare.
            raise SlurmUnavailable(
                f"job {job.get('job_id')} on {node}: Slurm shows no gres_detail although the job"
                " asked for GRES; check that this release shows it (scontrol show job -d --json)"
            )
        return ""
    if not isinstance(detail, list) or len(detail) != len(nodes):
        raise SlurmUnavailable(
            f"job {job.get('job_id')} on {node}: gres_detail is not one entry for each of"
            f" {len(nodes)} nodes: {one_line(detail, 200)}; report this with the Slurm release"
        )
    return _text(detail[nodes.index(node)])


def job_record(job: Mapping[str, Any], node: str) -> JobRecord:
    """Read one element of the `jobs` of Slurm's JSON; SlurmUnavailable if it makes no sense."""
    try:
        nodes = _allocated(job)
    except ValueError as error:
        raise SlurmUnavailable(f"job {job.get('job_id')}: {error}") from error
    task = job.get("array_task_id")
    return JobRecord(
        job_id=_number(job.get("job_id")),
        user_id=_number(job.get("user_id"), -1),
        batch=bool(_number(job.get("batch_flag"))) or job.get("batch_flag") is True,
        requeue=bool(_number(job.get("requeue"))) or job.get("requeue") is True,
        restarts=_number(job.get("restart_cnt")),
        start_time=_number(job.get("start_time")),
        state=_joined(job.get("job_state")),
        gres=_detail_of(job, nodes, node),
        nodes=tuple(nodes),
        extra=_text(job.get("extra")),
        comment=_text(job.get("comment")),
        admin_comment=_text(job.get("admin_comment")),
        array_job_id=_number(job.get("array_job_id")),
        array_task_id=None if _number(task, -1) < 0 else _number(task),
        het_job_id=_number(job.get("het_job_id")),
    )


def _entries(text: str | bytes, key: str, what: str) -> list[Mapping[str, Any]]:
    try:
        answer = json.loads(text)
        found = answer[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        said = one_line(text[:80].decode(errors="replace") if isinstance(text, bytes) else text, 80)
        raise SlurmUnavailable(
            f"{what}: Slurm's answer is not JSON with {key!r} ({type(error).__name__}): {said!r}"
        ) from error
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def job_from_json(text: str | bytes, job_id: int, node: str) -> JobRecord:
    """Read job `job_id` as seen from `node` out of `scontrol show job -d --json`.

    The answer may hold other jobs: all tasks of an array for its first id. JobUnknown if the job
    is not in it, SlurmUnavailable if it cannot be read.
    """
    for job in _entries(text, "jobs", f"job {job_id}"):
        if _number(job.get("job_id")) == job_id:
            return job_record(job, node)
    raise JobUnknown(f"job {job_id}: Slurm does not know it (any more)")


def node_from_json(text: str | bytes, name: str) -> NodeRecord:
    """Read node `name` out of `scontrol show node --json`; SlurmUnavailable if it is not there."""
    for node in _entries(text, "nodes", f"node {name}"):
        if node.get("name") == name:
            state = [_joined(node.get("state")), _joined(node.get("state_flags"))]
            return NodeRecord(
                name=name,
                state="+".join(part for part in state if part),
                gres=_text(node.get("gres")),
                gres_used=_text(node.get("gres_used")),
                extra=_text(node.get("extra")),
                reason=_text(node.get("reason")),
            )
    raise SlurmUnavailable(f"node {name}: Slurm does not know it; check SLURMD_NODENAME and -N")


# --- running commands ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended; `status` is negative for a signal, None if it had to be killed."""

    status: int | None
    out: bytes
    err: str


def run(argv: list[str], env: Mapping[str, str], seconds: float) -> Said:
    """Run a program without a shell, standard input empty; kill it after `seconds`.

    In place of subprocess, whose import costs more than scontrol itself takes. OSError if the
    program cannot be started.
    """
    deadline = time.monotonic() + seconds
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    try:
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out_write, 1),
            (os.POSIX_SPAWN_DUP2, err_write, 2),
        ]
        try:
            # Python ignores SIGPIPE, and an ignored signal stays so in the program.
            pid = os.posix_spawn(argv[0], argv, env, file_actions=actions, setsigdef=[_SIGPIPE])
        finally:
            os.close(out_write)
            os.close(err_write)
        texts = {out_read: bytearray(), err_read: bytearray()}
        killed = not _drain(texts, deadline)
        if killed:
            os.kill(pid, 9)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(out_read)
        os.close(err_read)
    code = None if killed else os.waitstatus_to_exitcode(status)
    return Said(code, bytes(texts[out_read]), texts[err_read].decode(errors="replace"))


def _drain(texts: dict[int, bytearray], deadline: float) -> bool:
    """Read all pipes to their ends; False if the deadline comes first."""
    poll = select.poll()
    for pipe in texts:
        poll.register(pipe, select.POLLIN)
    still = len(texts)
    while still:
        left = deadline - time.monotonic()
        ready = poll.poll(max(0, int(left * 1000) + 1)) if left > 0 else []
        if not ready:
            return False
        for pipe, _ in ready:
            chunk = os.read(pipe, 1 << 16)
            texts[pipe] += chunk
            if not chunk:
                poll.unregister(pipe)
                still -= 1
    return True


def node_name(name: str) -> str:
    """Return `name` if it can be only a node's name (no host list, no option)."""
    if not _NODE_NAME.fullmatch(name):
        raise SlurmUnavailable(
            f"node {one_line(name, 80)!r}: not a Slurm node name; check SLURMD_NODENAME"
        )
    return name


def reason_text(reason: str) -> str:
    """Return `reason` as Slurm may be given it: one line, no quotes, of bounded length."""
    # scontrol strips quotes of its own accord in some releases; so there are none.
    return one_line(reason, REASON_LIMIT).replace('"', "'").replace("\\", "/")


class ScontrolClient:
    """Speaks to Slurm by its commands.

    `path` is scontrol; squeue, scancel and sinfo lie beside it. `timeout` (seconds) bounds each
    call as a whole, retries included. Of the environment only SLURM_CONF is passed on.
    """

    def __init__(self, path: str = "/usr/bin/scontrol", timeout: float = 10) -> None:
        self.path = path
        self.timeout = timeout
        self._json = True  # until scontrol says that it has no --json
        self._env = {"PATH": "/usr/bin:/bin", "LANG": "C", "LC_ALL": "C"}
        if conf := os.environ.get("SLURM_CONF"):
            self._env["SLURM_CONF"] = conf

    def job(self, job_id: int, node: str) -> JobRecord:
        """Return the job as seen from `node`."""
        what = f"job {int(job_id)}"
        said = self._show(
            what,
            ["scontrol", "show", "job", str(int(job_id)), "-d", "--json"],
            ["squeue", "--json", "-j", str(int(job_id))],
        )
        if said.status != 0 and _UNKNOWN_JOB.search(said.err):
            raise JobUnknown(f"{what}: Slurm does not know it (any more)")
        self._demand(said, what)
        return job_from_json(said.out, int(job_id), node)

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
        words = ["scontrol", "requeue", str(int(job_id))]
        # Pending: another node of the job was first.
        self._change(f"requeue of job {int(job_id)}", words, fine=_IS_PENDING)

    def hold(self, job_id: int, reason: str) -> None:
        """Requeue a batch job in held state; the reason is its AdminComment."""
        job = str(int(job_id))
        self._explain(job, reason)
        what = f"hold of job {job}"
        try:
            self._change(what, ["scontrol", "requeuehold", job])
        except SlurmRefused as error:
            if not says_job_is_pending(str(error)):
                raise
            # Another node of the job was first and requeued it; now it must not start again.
            self._change(what, ["scontrol", "hold", job])

    def cancel(self, job_id: int, reason: str) -> None:
        """Cancel a job; the reason is its AdminComment. Ended already is success."""
        job = str(int(job_id))
        self._explain(job, reason, fine=_IS_OVER)
        self._change(f"cancel of job {job}", ["scancel", job], fine=_IS_OVER)

    def notify(self, job_id: int, text: str) -> None:
        """Show one line to the user of a running salloc or srun (a batch job's stderr)."""
        words = ["scontrol", "notify", str(int(job_id)), reason_text(text)]
        self._change(f"message to job {int(job_id)}", words)

    def node(self, name: str) -> NodeRecord:
        """Return a node's record."""
        name = node_name(name)
        said = self._show(
            f"node {name}", ["scontrol", "show", "node", name, "--json"], ["sinfo", "--json"]
        )
        self._demand(said, f"node {name}")
        return node_from_json(said.out, name)

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

    def _explain(self, job: str, reason: str, fine: re.Pattern[str] | None = None) -> None:
        words = ["scontrol", "update", f"JobId={job}", f"AdminComment={reason_text(reason)}"]
        self._change(f"comment on job {job}", words, fine)

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
                why = one_line(said.err, 200) or f"{words[0]} did not end"
                raise SlurmUnavailable(
                    f"{what}: Slurm does not answer within {self.timeout:g} s: {why};"
                    " check slurmctld and munge"
                )
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    @staticmethod
    def _demand(said: Said, what: str) -> None:
        if said.status != 0:
            raise SlurmUnavailable(f"{what}: {one_line(said.err, 300)} (exit {said.status})")

    def _change(self, what: str, words: list[str], fine: re.Pattern[str] | None = None) -> None:
        said = self._ask(what, words)
        complaint = one_line(said.err, 300)
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
