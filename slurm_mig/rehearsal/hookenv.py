"""The environment that slurmd gives a Prolog and an Epilog, release by release.

slurmd builds it from nothing (src/plugins/prep/script/prep_script_slurmd.c, _build_env): the
user's SPANK_* variables, then the fixed list below. Nothing is inherited and there is no PATH. The
lists were compared with what running 22.05.8, 24.11.5 and 26.05.5 hand out. A count-only GRES such
as `mig` adds nothing in any release; neither does the job's name or array index.
"""

import os
import pwd
import re
import time
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Literal

Release = tuple[int, int]

OLDEST: Release = (22, 5)
"""Oldest Slurm release whose behaviour is known here."""

_YEAR = 365 * 24 * 3600
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def parse_release(text: str) -> Release:
    """Return (24, 11) for "24.11" or "24.11.5"; ValueError for what is no release since 22.05."""
    found = re.fullmatch(r"(\d\d)\.(\d\d)(?:\.\d+)?", text)
    if found is None or (release := (int(found[1]), int(found[2]))) < OLDEST:
        raise ValueError(f"{text!r}: not a Slurm release since 22.05; say for example 24.11")
    return release


def hostlist(names: Iterable[str]) -> str:
    """Compress node names as Slurm prints them: n1, n2, n4 become "n[1-2,4]"."""
    parts: list[str] = []

    def stem(name: str) -> tuple[str, int]:
        found = re.fullmatch(r"(.*?)(\d+)", name)
        return (found[1], len(found[2])) if found else (name, 0)

    for (prefix, width), group in groupby(names, key=stem):
        members = list(group)
        if len(members) == 1 or not width:
            parts.extend(members)
            continue
        numbers = [int(name[len(prefix) :]) for name in members]
        runs: list[list[int]] = []
        for number in numbers:
            if runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        spans = (
            f"{run[0]:0{width}d}" + (f"-{run[-1]:0{width}d}" if len(run) > 1 else "")
            for run in runs
        )
        parts.append(f"{prefix}[{','.join(spans)}]")
    return ",".join(parts)


def user_name(uid: int) -> str:
    """The login name of `uid`; the number itself where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def make_sluid(job_id: int, restart_count: int) -> str:
    """An id of one incarnation of a job, of the shape that 25.11 and later use: opaque, unique."""
    number = (job_id << 20 | restart_count) & (1 << 64) - 1
    return "s" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(60, -5, -5))


def hook_environment(
    which: Literal["prolog", "epilog"],
    *,
    release: str = "24.11",
    node: str = "n1",
    nodes: Iterable[str] = (),
    job_id: int = 1,
    uid: int | None = None,
    gid: int | None = None,
    user: str | None = None,
    conf: str = "/etc/slurm/slurm.conf",
    cluster: str = "standin",
    work_dir: str = "/",
    partition: str = "main",
    cpus_per_node: int = 1,
    ntasks: int | None = None,
    restart_count: int = 0,
    sluid: str | None = None,
    start_time: int | None = None,
    end_time: int | None = None,
    comment: str | None = None,
    extra: str | None = None,
    account: str | None = None,
    constraints: str | None = None,
    licenses: str | None = None,
    reservation: str | None = None,
    qos: str | None = None,
    stdin: str | None = None,
    stdout: str | None = None,
    stderr: str | None = None,
    exit_status: int = 0,
    derived_status: int = 0,
    spank_env: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the exact environment of a Prolog or Epilog under a Slurm `release`.

    Every argument has a default, so a test of one hook names only what it is about. Absent values
    (comment, extra, `ntasks` that nobody asked for, and so on) leave their variable out, as in
    Slurm. `exit_status` and `derived_status` are wait statuses (256 * code + signal) and matter to
    the Epilog only; after a requeue the Epilog's `restart_count` is one above the Prolog's, and
    its `sluid` the same. Times are seconds since the epoch. If any name in `spank_env`
    does not start with SPANK_, slurmd drops all of them, and so does this.
    """
    version = parse_release(release)
    names = list(nodes) or [node]
    uid = os.getuid() if uid is None else uid
    gid = os.getgid() if gid is None else gid
    start = int(time.time()) if start_time is None else start_time
    many = f"(x{len(names)})" if len(names) > 1 else ""

    env: dict[str, str | None] = {}
    if spank_env and all(name.startswith("SPANK_") for name in spank_env):
        env.update(spank_env)
    env |= {
        "SLURMD_NODENAME": node,
        "SLURM_CONF": conf,
        "SLURM_CLUSTER_NAME": cluster,
        "SLURM_JOB_ID": str(job_id),
        "SLURM_JOB_UID": str(uid),
        "SLURM_JOB_GID": str(gid),
        "SLURM_JOB_WORK_DIR": work_dir,
        "SLURM_JOBID": str(job_id),
        "SLURM_UID": str(uid),
        "SLURM_NODELIST": hostlist(names),
        "SLURM_SCRIPT_CONTEXT": f"{which}_slurmd",
        "SLURM_JOB_USER": user_name(uid) if user is None else user,
        "SLURM_JOB_ACCOUNT": account,
        "SLURM_JOB_COMMENT": comment,
        "SLURM_JOB_CONSTRAINTS": constraints,
        "SLURM_JOB_CPUS_PER_NODE": f"{cpus_per_node}{many}",
        "SLURM_JOB_NTASKS": None if ntasks is None else str(ntasks),
        "SLURM_JOB_NUM_NODES": str(len(names)),
        "SLURM_JOB_PARTITION": partition,
        "SLURM_JOB_RESERVATION": reservation,
        "SLURM_JOB_RESTART_COUNT": str(restart_count),
        "SLURM_JOB_STDIN": stdin,
        "SLURM_JOB_STDOUT": stdout,
        "SLURM_JOB_STDERR": stderr,
    }
    if which == "epilog":
        env |= {
            "SLURM_JOB_DERIVED_EC": str(derived_status),
            "SLURM_JOB_EXIT_CODE": str(exit_status),
            "SLURM_JOB_EXIT_CODE2": f"{exit_status >> 8}:{exit_status & 0x7F}",
        }
    if version >= (23, 2):
        env |= {
            "SLURM_JOB_NODELIST": hostlist(names),
            "SLURM_JOB_CORE_SPEC_COUNT": "0",
            "SLURM_JOB_CORE_SPEC_TYPE": "cores",
            "SLURM_JOB_START_TIME": str(start),
            # Without a time limit the end of a job that runs is a year away.
            "SLURM_JOB_END_TIME": str(start + _YEAR if end_time is None else end_time),
            "SLURM_JOB_EXTRA": extra,
            "SLURM_JOB_LICENSES": licenses,
            "SLURM_JOB_OVERSUBSCRIBE": "OK" if version < (26, 5) else "NO",
        }
    if version >= (25, 11):
        env["SLURM_JOB_SLUID"] = make_sluid(job_id, restart_count) if sluid is None else sluid
    if version >= (26, 5):
        env |= {"SLURM_JOB_QOS": qos, "SLURM_JOB_EXCLUSIVE": "NO"}
    return {name: value for name, value in env.items() if value is not None}
