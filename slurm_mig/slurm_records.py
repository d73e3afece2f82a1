"""What Slurm says of jobs and nodes, read into records. Pure: no processes, no files.

Slurm 22.05, 24.11 and 26.05 write different JSON: numbers are plain or
`{"set": bool, "infinite": bool, "number": n}`, states a string or a list, and the nodes of an
allocation lie in different places. tests/slurm/samples holds real answers of each. The scontrol of
22.05 has no JSON at all; its text is read where it cannot be misunderstood.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slurm_mig.errors import NodeFault, SlurmMigError, one_line

# Base states in which a job holds nothing on any node.
HOLDS_NOTHING = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"}
    | {"OUT_OF_MEMORY", "PENDING", "PREEMPTED", "REVOKED", "SPECIAL_EXIT", "TIMEOUT"}
    | {"REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"}
)


# Base states of a job that has ended and will not start again by itself.
_OVER = HOLDS_NOTHING - {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}


class SlurmUnavailable(NodeFault):
    """Slurm does not answer in time, cannot be run, or says what we cannot read."""


class JobUnknown(SlurmMigError):
    """Slurm does not know this job (any more)."""


class SlurmRefused(SlurmMigError):
    """Slurm answered and declined: the job or node is not in a state for it."""


class AmbiguousText(SlurmMigError):
    """A user's text in scontrol's text could be taken for what scontrol says itself.

    `address`: how to ask scontrol for this job alone, where it spoke of several; else "".
    """

    def __init__(self, text: str, address: str = "") -> None:
        super().__init__(text)
        self.address = address


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What Slurm says of a job, seen from one node.

    `gres` is what the job holds on that node, e.g. `mig:3g.20gb(CNT:1),mig:1g.5gb(CNT:2)`; empty
    if it holds none or the node is not in `nodes`. `asked` is what it asked for on each node, as
    its user wrote it: `gres/mig:3g.20gb:1`. `state` is upper case, several joined by "+".
    Times are seconds since the epoch, 0 if not set. `array_job_id` and `het_job_id` are 0 for a
    job that is no array task and no component. `extra` is always empty in 22.05.
    From text, `comment` and `admin_comment` end with their first line.
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
    asked: str = ""

    @property
    def address(self) -> str:
        """How to name this job, and no other, to Slurm's commands.

        The last task of an array has the array's own number as its job id, and to scontrol and
        scancel that number means all tasks (seen on 22.05.8, 24.11.5 and 26.05.5).
        """
        if self.array_job_id and self.array_task_id is not None:
            return f"{self.array_job_id}_{self.array_task_id}"
        return str(self.job_id)

    @property
    def over(self) -> bool:
        """Whether the job has ended for good; while it leaves, 22.05 says only COMPLETING."""
        return not _OVER.isdisjoint(self.state.split("+"))

    @property
    def starts_or_runs(self) -> bool:
        """Whether the job is neither over, nor waiting, nor on its way out."""
        return (HOLDS_NOTHING | {"COMPLETING"}).isdisjoint(self.state.split("+"))


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What Slurm says of a node: `gres` as configured now, e.g. `mig:3g.20gb:2,mig:1g.5gb:4`."""

    name: str
    state: str
    gres: str
    gres_used: str
    extra: str
    reason: str


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
    if "gres_detail" not in job:
        # To read that as "no MIG" would run a job without its instance.
        raise SlurmUnavailable(
            f"job {job.get('job_id')}: Slurm's JSON has no gres_detail; report this release"
        )
    detail = job["gres_detail"]
    # Empty for a job without GRES, also one that asked for mig:3g.20gb:0, and once Slurm has taken
    # back what a job held.
    if node not in nodes or not detail:
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
        asked=_text(job.get("tres_per_node")),
    )


def _entries(text: str | bytes, key: str, what: str) -> list[Mapping[str, Any]]:
    # Slurm hands on what users wrote as it is, and what is no UTF-8 in a job's name is no fault.
    said = text.decode(errors="replace") if isinstance(text, bytes) else text
    try:
        answer = json.loads(said)
        found = answer[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SlurmUnavailable(
            f"{what}: Slurm's answer is not JSON with {key!r} ({type(error).__name__}): "
            f"{one_line(said, 80)!r}"
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


# Lines of `scontrol show job -d` (22.05) that are there once for each job, in this order. A user's
# text with line breaks (job name, comment, paths) that imitates one of them makes a second.
_ANCHORS = ("UserId", "JobState", "Requeue", "StartTime", "NodeList", "TRES", "Socks/Node")
_AFTER_DETAIL = "MinCPUsNode"
_HEAD = re.compile(
    r"JobId=(\d+) (?:ArrayJobId=(\d+) ArrayTaskId=(\S+) |HetJobId=(\d+) HetJobOffset=(\S+) )?"
)


def job_from_text(text: str | bytes, job_id: int, node: str) -> JobRecord:
    """Read job `job_id` out of the text of `scontrol show job -d` of Slurm 22.05.

    AmbiguousText if what a user wrote could be mistaken for Slurm's own lines: then ask for the
    job alone, or for JSON. JobUnknown and SlurmUnavailable as in `job_from_json`.
    """
    said = text.decode(errors="replace") if isinstance(text, bytes) else text
    lines = said.split("\n")
    heads = [at for at, line in enumerate(lines) if line.startswith("JobId=")]
    ours = [at for at in heads if lines[at].startswith(f"JobId={job_id} ")]
    if not ours:
        raise JobUnknown(f"job {job_id}: Slurm does not know it (any more)")
    if len(heads) > 1:
        # All tasks of an array for its first id, all components of a job for its leader's. But a
        # job name can hold a whole record and then the head of another job, so that Slurm's own
        # lines seem to be of that one. A name stands after its head, so this line is Slurm's own.
        address = _alone(lines[ours[0]]) if len(ours) == 1 else ""
        raise AmbiguousText(f"job {job_id}: scontrol's text has several records", address)
    block = lines[ours[0] :]
    found = {name: _lines_of(block, name) for name in (*_ANCHORS, _AFTER_DETAIL)}
    places = [at[0] for at in found.values() if at]
    once = all(len(at) == 1 for at in found.values())
    if not once or places != sorted(places):
        raise AmbiguousText(f"job {job_id}: its text could be misread; ask for JSON")
    value = {name: block[at[0]].strip() for name, at in found.items()}
    details = block[places[-2] + 1 : places[-1]]
    try:
        return _record_of_text(job_id, node, block, value, details)
    except (AttributeError, KeyError, ValueError, IndexError) as error:
        raise AmbiguousText(f"job {job_id}: {type(error).__name__} in scontrol's text") from error


def _alone(line: str) -> str:
    """How to name a task or component to scontrol so that it shows no other; "" if unknown."""
    head = _HEAD.match(line)
    if head and head[2] and head[3].isdecimal():
        return f"{head[2]}_{head[3]}"
    return f"{head[4]}+{head[5]}" if head and head[4] and head[5].isdecimal() else ""


def job_from_answer(text: str | bytes, job_id: int, node: str) -> JobRecord | None:
    """Read job `job_id` out of what scontrol said to a hook: JSON, or the text of Slurm 22.05.

    None if it cannot be told (a user's text imitates scontrol's): ask a client then.
    """
    said = text.decode(errors="replace") if isinstance(text, bytes) else text
    if not said.startswith("JobId="):
        return job_from_json(said, job_id, node)
    try:
        return job_from_text(said, job_id, node)
    except AmbiguousText:
        return None


def _record_of_text(
    job_id: int, node: str, block: list[str], value: Mapping[str, str], details: list[str]
) -> JobRecord:
    head = _HEAD.match(block[0])
    user = re.search(r"\((\d+)\) GroupId=", value["UserId"])
    flags = dict(word.split("=", 1) for word in value["Requeue"].split())
    state = value["JobState"].split()[0].partition("=")[2].upper()
    nodes = _plain(value["NodeList"].partition("=")[2])
    gres, known = "", False
    for line in details:
        found = re.fullmatch(r"     Nodes=(\S+) CPU_IDs=\S* Mem=\d* GRES=(\S*)", line)
        if found and node in expand_hostlist(found[1]):
            gres, known = _plain(found[2]), True
    names = expand_hostlist(nodes)
    tail = block[len(block) - 1 - block[::-1].index(f"   {value[_AFTER_DETAIL]}") :]
    if node in names and not known and state == "RUNNING":
        # To read that as "no MIG" would run a job without its instance.
        raise SlurmUnavailable(
            f"job {job_id} on {node}: scontrol's text has no detail of its resources; was it asked"
            " for with -d?"
        )
    task = head[3] if head else None
    if head is None or user is None:
        raise ValueError("no user or no head")
    return JobRecord(
        job_id=job_id,
        user_id=int(user[1]),
        batch=flags["BatchFlag"] != "0",
        requeue=flags["Requeue"] == "1",
        restarts=int(flags["Restarts"]),
        start_time=_local_time(value["StartTime"].split()[0].partition("=")[2]),
        state=state,
        gres=gres,
        nodes=tuple(names),
        extra="",
        comment=_field(tail, "Comment"),
        admin_comment=_field(tail, "AdminComment"),
        array_job_id=int(head[2] or 0),
        # A range for tasks that wait.
        array_task_id=int(task) if task is not None and task.isdigit() else None,
        het_job_id=int(head[4] or 0),
        # A user may imitate this line, which turns away that user's own job and no other.
        asked=_field(tail, "TresPerNode"),
    )


def _lines_of(block: list[str], name: str) -> list[int]:
    return [at for at, line in enumerate(block) if line.startswith(f"   {name}=")]


def _field(lines: list[str], name: str) -> str:
    at = _lines_of(lines, name)
    return lines[at[0]].partition("=")[2].rstrip() if at else ""


def _plain(text: str) -> str:
    return "" if text == "(null)" else text


def _local_time(text: str) -> int:
    """Read `2026-11-23T14:49:20`, which scontrol writes in local time; 0 for `Unknown`."""
    parts = re.fullmatch(r"(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)", text)
    if parts is None:
        return 0
    year, month, day, hour, minute, second = (int(part) for part in parts.groups())
    return int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))


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
