"""Hooks as slurmd runs them, on a node with simulated GPUs; its scontrol says what it is told.

The scontrol here is for one hook at a time: it answers from files, whatever the tests put there.
Whole jobs run under the scheduler stand-in (test_jobs.py).
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slurm_mig.ledger import Ledger
from slurm_mig.rehearsal.hookenv import hook_environment
from slurm_mig.rehearsal.hookrun import HookRun, Shutdown, run_hook
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.rehearsal.taskrun import apply_task_prolog

_SCONTROL = """#!/bin/sh
cd {folder} || exit 9
printf '%s %s\\n' "${{0##*/}}" "$*" >>calls
if [ -e down ]; then
	echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
	exit 1
fi
case "${{0##*/}} $*" in
"scontrol show job"*) ;;
squeue*) cat queue; exit 0 ;;
*) if [ -e refuse ]; then cat refuse >&2; exit 1; fi; exit 0 ;;
esac
id= json=
for word; do
	case $word in
	*[!0-9]*) ;;
	*) id=$word ;;
	esac
	[ "$word" != --json ] || json=yes
done
if [ -e "$id.txt" ]; then
	[ -z "$json" ] || {{ echo "scontrol: unrecognized option '--json'" >&2; exit 1; }}
	cat "$id.txt"
elif [ -e "$id.json" ]; then
	cat "$id.json"
else
	echo "slurm_load_jobs error: Invalid job id specified" >&2
	exit 1
fi
"""

#: What Slurm 22.05 prints (tests/slurm/samples/22.05/running.txt), shortened to what is read.
_TEXT = """JobId={job} JobName={name}
   UserId=root({uid}) GroupId=root(0) MCS_label=N/A
   Priority=4294901758 Nice=0 Account=(null) QOS=(null)
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag={batch} Reboot=0 ExitCode=0:0
   StartTime=2026-11-23T14:57:56 EndTime=2027-11-23T14:57:56 Deadline=N/A
   ReqNodeList=n1 ExcNodeList=(null)
   NodeList=n1
   BatchHost=n1
   NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   TRES=cpu=1,node=1,billing=1
   Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*
{job_gres}     Nodes=n1 CPU_IDs=1 Mem=0 GRES={gres}
   MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0
   Comment={comment}
   Power=

"""


def wait_for(condition: Callable[[], object], what: str = "the condition") -> None:
    """Return once it holds; fail after half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited 30 s for {what}"
        time.sleep(0.001)


class Hooks:
    """The hooks of one node; `folder` holds what its scontrol answers."""

    def __init__(self, node: RehearsalNode, folder: Path) -> None:
        self.node = node
        self.sim = node.simulation
        self.folder = folder

    @staticmethod
    def write_scontrol(folder: Path) -> Path:
        """Make scontrol, squeue and scancel in `folder`; the path of scontrol."""
        folder.mkdir(mode=0o755)
        for name in ("scontrol", "squeue", "scancel"):
            (folder / name).write_text(_SCONTROL.format(folder=f"'{folder}'"))
            (folder / name).chmod(0o755)
        return folder / "scontrol"

    # -- what Slurm says ----------------------------------------------------------------------

    def job(
        self, job: int, gres: str = "", *, batch: bool = True, uid: int = 0, **more: Any
    ) -> None:
        """Let scontrol know a job, as 24.11 says it."""
        record = {
            "job_id": job,
            "user_id": uid,
            "batch_flag": batch,
            "requeue": batch,
            "restart_cnt": {"set": True, "infinite": False, "number": 0},
            "job_state": ["RUNNING"],
            "nodes": "n1",
            "gres_detail": [gres] if gres else [],
            "name": "train",
            "comment": "",
            "extra": "",
            **more,
        }
        text = json.dumps({"jobs": [record], "errors": []}, indent=1)
        (self.folder / f"{job}.json").write_bytes(text.encode("utf-8", "surrogateescape"))

    def job_text(
        self, job: int, gres: str = "", *, name: str = "train", comment: str = "", batch: int = 1
    ) -> None:
        """Let scontrol know a job, as 22.05 says it; that scontrol has no --json."""
        count = gres.replace("(CNT:", ":").replace(")", "")
        text = _TEXT.format(
            job=job,
            name=name,
            uid=0,
            batch=batch,
            gres=gres,
            comment=comment,
            job_gres=f"   JOB_GRES={count}\n" if gres else "",
        )
        (self.folder / f"{job}.txt").write_text(text)

    def asked(self) -> list[str]:
        """Every command that Slurm was given."""
        try:
            return (self.folder / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []

    # -- hooks --------------------------------------------------------------------------------

    def run(
        self,
        which: Any,
        job: int = 7,
        *,
        timeout: float | None = 60,
        shutdown: Shutdown | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> HookRun:
        """Run the Prolog or the Epilog of a job; `env` over the environment that slurmd makes."""
        path = self.node.prolog if which == "prolog" else self.node.epilog
        made = hook_environment(which, node="n1", job_id=job, **options)
        return run_hook(
            path, {**made, **(env or {})}, timeout, which=which, node="n1", shutdown=shutdown
        )

    def prolog(self, job: int = 7, **options: Any) -> HookRun:
        """Run the Prolog."""
        return self.run("prolog", job, **options)

    def epilog(self, job: int = 7, **options: Any) -> HookRun:
        """Run the Epilog."""
        return self.run("epilog", job, **options)

    def task(self, job: int = 7) -> tuple[int, dict[str, str], str]:
        """Run the task prolog: its status, what it adds to the task's environment, what it says."""
        made = run_hook(self.node.task_prolog, {"SLURM_JOB_ID": str(job)}, which="task_prolog")
        env, said = apply_task_prolog(made.output, {})
        return made.rc, env, said

    # -- what there is ------------------------------------------------------------------------

    def lives(self) -> list[tuple[str, str]]:
        """(profile, placement) of everything that the driver has."""
        return [(gi.profile, str(gi.placement)) for gi in self.sim.instances()]

    def ledger(self) -> list[tuple[int, str, str]]:
        """(job, profile, state) of every row."""
        with Ledger(self.node.folder / "state") as ledger:
            return [(entry.job, entry.wish.profile, entry.state) for entry in ledger.entries()]

    def logged(self) -> list[str]:
        """The hooks' log lines, from the operation's name on."""
        try:
            lines = self.node.log.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.partition("] ")[2] for line in lines]

    def nothing_left(self) -> None:
        """Assert that neither driver, ledger nor run directory knows any job."""
        assert self.lives() == []
        assert self.ledger() == []
        assert list(self.node.run_directory.glob("jobs/*")) == []

    def edit(self, path: Path, before: str, after: str) -> None:
        """Change an installed hook or the configuration."""
        text = path.read_text()
        assert text.count(before) == 1, (before, text)
        path.write_text(text.replace(before, after))


def can_make_nodes(folder: Path) -> bool:
    """Whether device nodes may be made here (root, and a system that lets it)."""
    try:
        os.mknod(folder / "node", 0o20600, os.makedev(120, 9))
    except OSError:
        return False
    (folder / "node").unlink()
    return True


def make_hooks(base: Path, *gpus: str, layout: Any = None, **options: Any) -> Hooks:
    """A node `n1`: `make_hooks(tmp_path, "A100-SXM4-40GB:2", slurm={"request": "token"})`.

    Keywords named like a section are its keys; the others go to Simulation.create.
    """
    sections = {
        name: dict(options.pop(name, {}))
        for name in ("driver", "state", "slurm", "lock", "prolog", "epilog", "isolation")
    }
    if not can_make_nodes(base):
        sections["isolation"].setdefault("devices", "none")
    sections["prolog"].setdefault("wait", 0)
    folder = base / "slurm"
    node = RehearsalNode.create(
        base / "n1",
        "n1",
        gpus or ["A100-SXM4-40GB"],
        scontrol=Hooks.write_scontrol(folder),
        layout_spec=layout,
        settings={name: keys for name, keys in sections.items() if keys},
        **options,
    )
    return Hooks(node, folder)
