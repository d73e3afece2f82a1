"""The host that the tests of doctor look at, and what they do to it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slurm_mig import hook
from slurm_mig.doctor.context import Context
from slurm_mig.doctor.examine import CHECKS, examine
from slurm_mig.doctor.probe import Probe
from slurm_mig.log import Log
from slurm_mig.nvml import Driver
from slurm_mig.profiles import Placement
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.request import Wanted

#: As scontrol of 24.11.5 prints it, cut to what doctor reads; `{...}` are the test's.
CONFIG = """Configuration data as of 2026-11-23T17:21:35
AccountingStorageTRES   = cpu,mem,energy,node,billing,fs/disk,vmem,pages
AcctGatherEnergyType    = (null)
BatchStartTimeout       = 2000 sec
Epilog[0]               = {hooks}/slurm-mig-epilog
EpilogMsgTime           = 2000 usec
GresTypes               = gpu,mig
JobSubmitPlugins        = lua
MessageTimeout          = 10 sec
Prolog[0]               = {hooks}/slurm-mig-prolog
PrologEpilogTimeout     = 2000
PrologFlags             = Alloc,DeferBatch
SchedulerParameters     = bf_continue,disable_job_shrink
SlurmctldHost[0]        = controller(10.0.0.1)
SlurmdSpoolDir          = {folder}/spool/%n
SLURM_CONF              = {folder}/etc/slurm.conf
SLURM_VERSION           = 24.11.5
TaskProlog              = {hooks}/slurm-mig-task-prolog
"""
_SCONTROL = """#!/bin/sh
cd '{folder}' || exit 9
case "$*" in
--version) name=version ;;
*config*) name=config ;;
*node*) name=node ;;
esac
[ -e "$name" ] || {{
	echo "slurm_load error: Unable to contact slurm controller (connect failure)" >&2
	exit 1
}}
exec cat "$name"
"""
_MOUNTS = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"


class SteadyProbe(Probe):
    """The host's clock is in order; each test that is about the clock says otherwise."""

    clock: float | None = None
    ntp = True

    def now(self) -> float:
        return super().now() if self.clock is None else self.clock

    def synchronised(self) -> bool:
        return self.ntp


class Patient:
    """One host in a folder. `node` is its rehearsed node, `sim` the driver, `probe` the rest."""

    def __init__(
        self,
        folder: Path,
        gpus: Sequence[str],
        *,
        layout: Any = "balanced",
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        **simulation: Any,
    ) -> None:
        self.folder = folder
        self.slurm = folder / "slurm"
        self.bin = folder / "bin"
        self.proc = folder / "proc"
        for part in (self.slurm, self.bin, self.proc / "self", folder / "etc"):
            part.mkdir(parents=True)
        self.scontrol = self.slurm / "scontrol"
        self.program(self.scontrol, _SCONTROL.format(folder=self.slurm))
        (self.proc / "self/mountinfo").write_text(_MOUNTS)
        self.node = RehearsalNode.create(
            folder / "n1",
            "n1",
            gpus,
            scontrol=self.scontrol,
            layout_spec=layout,
            settings={"slurm": {"timeout": 0.3}, **(settings or {})},
            **simulation,
        )
        self.sim = self.node.simulation
        self.probe = SteadyProbe((self.bin,), self.proc, seconds=0.5)
        self.cluster: Path | None = None
        self.config: Path | None = self.node.config
        self.hooks = self.node.folder / "hooks"
        self.says("slurm 24.11.5\n", name="version")
        self.configured()
        self.offers(self.node.promises)
        (folder / "etc/gres.conf").write_text("AutoDetect=off\n")
        self._contexts: list[Context] = []

    @staticmethod
    def program(path: Path, text: str) -> None:
        """Write a program."""
        path.write_text(text)
        path.chmod(0o755)

    def says(self, text: str, name: str = "config") -> None:
        """What scontrol prints: `version`, `config` or `node`."""
        (self.slurm / name).write_text(text)

    def configured(self, **changes: str | None) -> None:
        """Slurm's configuration as documented, but for these lines; None takes one out."""
        lines = []
        for line in CONFIG.format(hooks=self.hooks, folder=self.folder).splitlines():
            key, equals, _ = line.partition("=")
            name = key.strip().removesuffix("[0]")
            if equals and name in changes:
                value = changes[name]
                line = "" if value is None else f"{key}= {value}"
            lines.append(line)
        self.says("\n".join(lines) + "\n")

    def offers(self, counts: Mapping[str, int], **more: Any) -> None:
        """What Slurm counts on the node."""
        gres = ",".join(f"mig:{kind}:{count}" for kind, count in counts.items())
        record = {"name": "n1", "state": ["IDLE"], "gres": gres, **more}
        self.says(json.dumps({"nodes": [record]}), "node")

    def process(self, pid: int, name: str, *opens: Path) -> None:
        """A process in our /proc."""
        folder = self.proc / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        for number, path in enumerate(opens):
            (folder / "fd" / str(number)).symlink_to(path)

    def mounted(self, point: Path, kind: str) -> None:
        """A file system on a folder."""
        with (self.proc / "self/mountinfo").open("a") as file:
            file.write(f"99 22 0:99 / {point} rw - {kind} server:/x rw\n")

    def context(self, *roles: str) -> Context:
        """What the checks are given."""
        made = Context(self.config, self.cluster, "n1", self.probe, frozenset(roles))
        made.root = self.folder
        self._contexts.append(made)
        return made

    def found(self, *names: str, role: str = "node") -> list[str]:
        """What these checks find: level and line, paths below the host's folder as `~`."""
        chosen = [check for check in CHECKS if check.name in names]
        assert len(chosen) == len(names)
        context = self.context(role)
        try:
            findings = examine(context, chosen)
        finally:
            context.close()
        return [
            f"{finding.level} {finding.text()}".replace(str(self.folder), "~")
            for finding in findings
        ]

    def acquire(self, job: int, profile: str, uid: int = 4242) -> str:
        """Serve a job as its Prolog would; the UUID of its instance."""
        with hook.partitioner(self.node.settings, Log(str(self.node.log), "test")) as core:
            (entry,) = core.acquire(job, uid, [Wanted(profile, 1)])
        return entry.uuids[0]

    def foreigner(self) -> None:
        """An instance that somebody else made: 1g.5gb at 0:1 of GPU 0."""
        with Driver(str(self.sim.library)) as driver:
            gpu = driver.gpus()[0]
            profile = next(p for p in driver.geometry(gpu).profiles if p.name == "1g.5gb")
            driver.create_ci(gpu.uuid, driver.create_gi(gpu.uuid, profile, Placement(0, 1)), 1)

    def close(self) -> None:
        """Let go of the driver."""
        for context in self._contexts:
            context.close()
