"""Jobs and nodes as Slurm prints them: JSON in each release's shape, and plain text.

22.05 (squeue and sinfo; its scontrol has no --json) writes bare numbers and one word for a state;
since 23.02 a number that may be unset is an object with set, infinite and number, and a state is a
list of words. Only the keys that describe what the stand-in knows are there. Compared with what
real releases print (tests/slurm/samples).
"""

import json
from collections.abc import Iterable
from typing import Any

from slurm_mig.rehearsal.hookenv import Release, hostlist, user_name
from slurm_mig.rehearsal.jobs import Gres, Job, Node, format_gres

OBJECTS: Release = (23, 2)
"""First release that writes numbers that may be unset as objects."""

_META_22 = {
    "plugin": {"type": "openapi/v0.0.38", "name": "Slurm OpenAPI v0.0.38"},
    "Slurm": {"version": {"major": 22, "micro": 8, "minor": 5}, "release": "22.05.8"},
}


def job_document(jobs: Iterable[Job], release: Release, partition: str, *, detail: bool) -> str:
    """Answer of `scontrol show job --json` (with -d: `detail`) or of 22.05's `squeue --json`."""
    records = [_job(job, release, partition, detail) for job in jobs]
    return _document({"jobs": records}, release)


def node_document(nodes: Iterable[Node], release: Release, partition: str) -> str:
    """Answer of `scontrol show node --json` or of 22.05's `sinfo --json`."""
    return _document({"nodes": [_node(node, release, partition) for node in nodes]}, release)


def gres_detail(job: Job) -> list[str]:
    """What a job holds on each of its nodes, in their order: "mig:3g.20gb(CNT:1)".

    The types are the node's, also where the job asked for none. Once the job is COMPLETING its
    counts are given back, and there is nothing to list.
    """

    def text(counts: Gres) -> str:
        return ",".join(
            f"{name}:{kind}(CNT:{count})" if kind else f"{name}(CNT:{count})"
            for (name, kind), count in counts.items()
        )

    return [text(job.allotted[name]) for name in job.nodes if job.allotted.get(name)]


def job_text(job: Job, partition: str, *, detail: bool) -> str:
    """Answer of `scontrol show job`, the lines that people and scripts read."""
    owner = f"{user_name(job.identity.uid)}({job.identity.uid})"
    lines = [
        f"JobId={job.id} JobName={job.name}",
        f"UserId={owner} GroupId={job.identity.gid} MCS_label=N/A",
        f"Priority={0 if job.held else 1} Nice=0 Account={job.account or '(null)'}",
        f"JobState={job.state} Reason={job.reason} Dependency=(null)",
        f"Requeue={int(job.may_requeue)} Restarts={job.restart_count} BatchFlag={int(job.batch)}",
        f"ExitCode={job.exit_status >> 8}:{job.exit_status & 0x7F}",
        f"Partition={partition} NodeList={hostlist(job.nodes) or '(null)'}",
    ]
    if detail:
        lines += [
            f"  Nodes={name} GRES={text}"
            for name, text in zip(job.nodes, gres_detail(job), strict=False)
        ]
    if job.comment:
        lines.append(f"Comment={job.comment}")
    if job.gres_text:
        lines.append(f"TresPerNode=gres/{job.gres_text}")
    return "\n   ".join(lines) + "\n\n"


def node_text(node: Node, partition: str) -> str:
    """Answer of `scontrol show node`."""
    lines = [
        f"NodeName={node.name} Arch=x86_64",
        f"Gres={format_gres(node.gres) or '(null)'}",
        f"State={node.state}",
        f"Partitions={partition}",
    ]
    lines += [f"Comment={node.comment}"] if node.comment else []
    lines += [f"Extra={node.extra}"] if node.extra else []
    lines += [f"Reason={node.reason}"] if node.reason else []
    return "\n   ".join(lines) + "\n\n"


def _document(body: dict[str, Any], release: Release) -> str:
    if release < OBJECTS:
        return json.dumps({"meta": _META_22, "errors": [], **body}, indent=1) + "\n"
    major, minor = release
    text = f"{major}.{minor:02d}.0"
    version = {"major": str(major), "micro": "0", "minor": f"{minor:02d}"}
    meta = {"slurm": {"version": version, "release": text, "cluster": "standin"}}
    return json.dumps({**body, "meta": meta, "errors": [], "warnings": []}, indent=1) + "\n"


def _number(value: int | None, release: Release) -> Any:
    if release < OBJECTS:
        return value
    return {"set": value is not None, "infinite": False, "number": value or 0}


def _code(status: int, release: Release) -> Any:
    """An exit code: the wait status itself in 22.05, an object since."""
    if release < OBJECTS:
        return status
    code, number = status >> 8, status & 0x7F
    return {
        "status": ["SIGNALED" if number else "ERROR" if code else "SUCCESS"],
        "return_code": _number(code, release),
        "signal": {"id": _number(number or None, release), "name": ""},
    }


def _job(job: Job, release: Release, partition: str, detail: bool) -> dict[str, Any]:
    state: Any = job.state
    if release >= OBJECTS:
        state = [job.base_state] + (["COMPLETING"] if job.state == "COMPLETING" else [])
    prefix = "gres/" if release >= (23, 11) else "gres:"
    text = job.gres_text.removeprefix("gres:").removeprefix("gres/")
    wanted = ",".join(prefix + item for item in text.split(",")) if text else ""
    batch_host = job.nodes[0] if job.nodes else ""
    record: dict[str, Any] = {
        "account": job.account or "",
        "admin_comment": job.admin_comment,
        "array_job_id": _number(job.array_job_id, release),
        "array_task_id": _number(job.array_task_id, release),
        "batch_flag": job.batch,
        "batch_host": batch_host,
        "comment": job.comment or "",
        "command": str(job.argv[0]) if job.argv else "",
        "current_working_directory": str(job.workdir),
        "derived_exit_code": _code(0 if job.batch else job.exit_status, release),
        "end_time": _number(job.end_time, release),
        "exit_code": _code(job.exit_status, release),
        "features": job.constraints or "",
        "gres_detail": gres_detail(job) if detail else [],
        "group_id": job.identity.gid,
        "group_name": "",
        "het_job_id": _number(0, release),
        "job_id": job.id,
        "job_resources": _resources(job, release),
        "job_state": state,
        "name": job.name,
        "node_count": _number(len(job.nodes) or job.nodes_wanted, release),
        "nodes": hostlist(job.nodes),
        "partition": partition,
        "priority": _number(0 if job.held else 1, release),
        "requeue": job.may_requeue,
        "restart_cnt": job.restart_count,
        "start_time": _number(job.start_time, release),
        "state_description": "",
        "state_reason": job.reason,
        "submit_time": _number(int(job.submit_time), release),
        "tasks": _number(job.ntasks, release),
        "tres_per_node": wanted,
        "user_id": job.identity.uid,
        "user_name": user_name(job.identity.uid),
    }
    if release >= OBJECTS:
        record["extra"] = job.extra or ""
        record["hold"] = job.held
    if release >= (25, 11):
        number = _number(job.id, release)
        record["step_id"] = {"sluid": job.sluid, "job_id": number, "step_id": "entire"}
    return record


def _resources(job: Job, release: Release) -> dict[str, Any] | None:
    """Which nodes are allocated or were, in their order."""
    names = job.nodes
    if not names:
        return None
    if release < OBJECTS:
        nodes: list[dict[str, Any]] = [{"nodename": name} for name in names]
        return {
            "nodes": hostlist(names),
            "allocated_cpus": len(names),
            "allocated_hosts": len(names),
            "allocated_nodes": nodes,
        }
    if release < (24, 5):
        nodes = [{"nodename": name} for name in names]
        return {"nodes": hostlist(names), "allocated_nodes": nodes}
    nodes = [{"index": index, "name": name} for index, name in enumerate(names)]
    return {"nodes": {"count": len(names), "list": hostlist(names), "allocation": nodes}}


def _node(node: Node, release: Release, partition: str) -> dict[str, Any]:
    used: Gres = {key: node.gres_used.get(key, 0) for key in node.gres}
    record: dict[str, Any] = {
        "address": node.name,
        "comment": node.comment,
        "cpus": node.config.cpus,
        "gres": format_gres(node.gres),
        "gres_drained": "N/A",
        "gres_used": format_gres(used),
        "hostname": node.name,
        "name": node.name,
        "partitions": [partition],
        "reason": node.reason,
    }
    if release < OBJECTS:
        base, *flags = node.states
        return record | {"state": base.lower(), "state_flags": flags}
    return record | {"state": node.states, "extra": node.extra}
