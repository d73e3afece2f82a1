"""A real cluster whose slurmctld runs the rendered job_submit module, and short words for it."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from slurm_mig import clusterfile
from slurm_mig.rehearsal.cluster import Cluster, Node, SlurmInstall
from slurm_mig.render import render

USER = "nobody"
#: Two nodes promise {3g.20gb: 2, 2g.10gb: 2, 1g.5gb: 4} each, one 7g.80gb, one nothing.
DESCRIPTION = """
[slurm]
release = "{release}"
[job_submit]
token = "{field}"
[nodes.a100]
hosts = "a[1-2]"
gpus = "A100-SXM4-40GB:2"
layout = "balanced"
[nodes.h100]
hosts = "h1"
gpus = "H100-SXM5-80GB:1"
layout = "whole"
"""
#: JobRequeue is off: what is requeued is so because the module says so.
CONF = """JobSubmitPlugins=lua
JobRequeue=0
PartitionName=gpu Nodes=a[1-2]
PartitionName=big Nodes=h1
PartitionName=cpu Nodes=c1"""
#: Notes what slurmd tells a Prolog of the job: the field that is stamped.
PROLOG = """#!/bin/sh
printf '%s' "${{SLURM_JOB_EXTRA-$SLURM_JOB_COMMENT}}" >{folder}/work/prolog.$SLURM_JOB_ID
"""
SLURMS_OWN = "Invalid generic resource (gres) specification"
A100_OFFERS = "A100-SXM4-40GB nodes offer 1g.5gb, 2g.10gb, 3g.20gb"


def lua_files(release: tuple[int, int], field: str) -> dict[str, str]:
    """The rendered Lua files by name."""
    text = DESCRIPTION.format(release=f"{release[0]}.{release[1]:02d}", field=field)
    return {
        Path(file.name).name: file.text
        for file in render(clusterfile.loads(text))
        if file.what == "lua"
    }


class Site:
    """The cluster, and what the tests do with it."""

    def __init__(self, install: SlurmInstall, files: dict[str, str] | None = None) -> None:
        """`files` are put beside slurm.conf; those rendered if None."""
        self.release = install.release
        self._seen = 0
        #: The field that is stamped: 22.05 has no extra.
        self.field = "extra" if self.release >= (23, 2) else "comment"
        a100 = {"3g.20gb": 2, "2g.10gb": 2, "1g.5gb": 4}
        nodes = [Node("a1", a100), Node("a2", a100), Node("h1", {"7g.80gb": 1}), Node("c1")]
        self.cluster = Cluster.temporary(nodes, install=install, extra_conf=CONF, requeue_delay=5)
        prolog = self.cluster.folder / "prolog"
        prolog.write_text(PROLOG.format(folder=self.cluster.folder))
        prolog.chmod(0o755)
        self.cluster.nodes = tuple(replace(node, prolog=prolog) for node in nodes)
        self.etc = self.cluster.folder / "etc"
        self.etc.mkdir()
        for name, text in (lua_files(self.release, self.field) if files is None else files).items():
            (self.etc / name).write_text(text)

    def option(self, text: str) -> str:
        """The option of sbatch and the like that sets the field."""
        return f"--{self.field}={text}"

    def refused(self, *argv: str, user: str | None = USER) -> list[str]:
        """The lines that a command that fails prints; without the name of the command."""
        done = self.cluster.run(*argv, user=user, check=False)
        assert (done.returncode != 0, done.stdout) == (True, "")
        return [re.sub(r"^\w+: (error: )?", "", line) for line in done.stderr.splitlines()]

    def sbatch(self, *options: str) -> "subprocess.CompletedProcess[str]":
        """Submit a held batch job as a user, as a script of theirs would: --parsable."""
        argv = ["sbatch", "--parsable", "--hold", "--output=/dev/null", *options]
        return self.cluster.run(*argv, user=USER, input="#!/bin/sh\ntrue\n")

    def held(self, *options: str) -> int:
        """The id of a held job."""
        return int(self.sbatch(*options).stdout)

    def job(self, job: int) -> tuple[str, str]:
        """A job's request, without Slurm's prefixes, and the field that is stamped."""
        record = self.cluster.job(job)
        gres = re.sub(r"gres[:/]", "", str(record["tres_per_node"]))
        return gres, str(record[self.field])

    def update(
        self, job: int | str, *words: str, user: str | None = USER
    ) -> "subprocess.CompletedProcess[str]":
        """`scontrol update JobId=JOB WORDS…`, again while Slurm is busy.

        One in four changes of a partition on 24.11 and 26.05 is so, with any plugin or none.
        """
        argv = ["scontrol", "update", f"JobId={job}", *words]
        tries = []

        def done() -> bool:
            tries.append(self.cluster.run(*argv, user=user, check=False))
            return "Resource temporarily unavailable" not in tries[-1].stderr

        self.cluster.wait_until(done, f"slurmctld to take {words}")
        return tries[-1]

    def set_field(self, job: int | str, text: str, user: str | None = USER) -> None:
        """Change the field that is stamped; Slurm takes it."""
        done = self.update(job, f"{self.field.capitalize()}={text}", user=user)
        assert (done.returncode, done.stderr) == (0, "")

    def allocated(self, record: dict[str, Any]) -> str:
        """The one instance that a running job has got on its one node, as Slurm's record says."""
        if self.release >= (23, 2):
            [detail] = record["gres_detail"]
            return str(detail).removesuffix("(CNT:1)")
        shown = self.cluster.run("scontrol", "show", "job", "-d", str(record["job_id"])).stdout
        found = re.search(r"GRES=(\S+):1\s", shown)
        assert found is not None, shown
        return found[1]

    def seen_by_prolog(self, job: int) -> str:
        """The field as the Prolog of a job that has started got it."""
        return (self.cluster.folder / f"work/prolog.{job}").read_text()

    def complaints(self, *, expected: bool = False) -> list[str]:
        """Errors about the plugin in slurmctld's log; those `expected` are not given again."""
        lines = self.cluster.log("slurmctld").splitlines()
        found = [line for line in lines if "error" in line and ("lua" in line or "mig" in line)]
        new = found[self._seen :]
        self._seen = len(found) if expected else self._seen
        return new
