"""Hooks and reconcile on a disk that fails at their n-th call; see fault.c."""

import errno
import re
import shlex
import subprocess
from pathlib import Path

import invariants
from hooking import Hooks
from invariants import Job
from partitioning import Site

from slurm_mig.rehearsal.hookrun import HookRun, run_hook

#: The failures of a disk, and those of a process with too many open files.
ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EROFS", "EMFILE")}

_RECONCILE = """
import sys
sys.path += sys.argv[1].split(":")
from slurm_mig.cli.main import main
sys.argv = ["slurm-mig", *sys.argv[2:]]
sys.exit(main())
"""


def build(folder: Path) -> Path:
    """Compile fault.c into the folder."""
    library = folder / "fault.so"
    source = Path(__file__).with_name("fault.c")
    words = ("cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, source)
    subprocess.run(words, check=True)
    return library


class Bench:
    """One node whose hooks' Python has the failing disk under it; job 7 lives there throughout."""

    def __init__(self, hooks: Hooks, library: Path) -> None:
        self.hooks, self.node, self.site = hooks, hooks.node, Site(hooks.node)
        folder = self.node.folder
        text = self.node.prolog.read_text()
        (python,) = re.findall(r"^PYTHON=(.*)$", text, re.MULTILINE)
        (self._packages,) = re.findall(r"^PYTHON_PATH=(.*)$", text, re.MULTILINE)
        self._fault, self.trace = folder / "fault", folder / "trace"
        root = self.node.simulation.root
        caps = (root / "proc/driver/nvidia/capabilities", root / "dev/nvidia-caps")
        under = ":".join(map(str, (folder / "state", folder / "run", folder / "log", *caps)))
        self._settings = {"LD_PRELOAD": library, "FAULT_UNDER": under, "FAULT_TRACE": self.trace}
        self._python = folder / "python-on-a-failing-disk"
        self._python.write_text(f'#!/bin/sh\nset -a\n. {self._fault}\nexec {python} "$@"\n')
        self._python.chmod(0o755)
        for path in (self.node.prolog, self.node.epilog):
            hooks.edit(path, f"PYTHON={python}\n", f"PYTHON={self._python}\n")
        self._mender = folder / "reconcile"
        words = (self._python, "-I", "-S", "-c", _RECONCILE)
        self._mender.write_text(
            f"#!/bin/sh\nexec {shlex.join(map(str, words))} {self._packages} "
            f"reconcile --node n1 --config {shlex.quote(str(self.node.config))}\n"
        )
        self._mender.chmod(0o755)
        self.site.acquire(7, "1g.5gb")
        self.jobs = {7: Job(profiles=("1g.5gb",))}
        hooks.job(9, "mig:3g.20gb(CNT:1),mig:1g.5gb(CNT:1)")
        self.alive(7)

    def alive(self, *jobs: int) -> None:
        """Which jobs Slurm has on the node."""
        (self.hooks.folder / "queue").write_text("".join(f"{job} RUNNING\n" for job in jobs))

    def run(self, which: str, number: int = 0, at: int = 0, *, on: bool = False) -> HookRun:
        """Run a hook of job 9, or reconcile; the `at`-th call fails (`on`: and all after)."""
        settings = {**self._settings, "FAULT_ERRNO": number, "FAULT_AT": at, "FAULT_ON": int(on)}
        lines = (f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items())
        self._fault.write_text("".join(lines))
        self.trace.unlink(missing_ok=True)
        if which == "reconcile":
            return run_hook(self._mender, {"PATH": "/usr/bin:/bin"}, 60, which=which, node="n1")
        return self.hooks.run(which, 9)

    def traced(self) -> list[str]:
        """The calls that were counted, as `call path` below the node's folder."""
        try:
            lines = self.trace.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.split(" ", 1)[1].replace(f"{self.node.folder}/", "") for line in lines]

    def settled(self, *more: int) -> None:
        """Job 7, and job 9 if named, have what they had; there is nothing else."""
        jobs = dict(self.jobs)
        if 9 in more:
            jobs[9] = Job(profiles=("3g.20gb", "1g.5gb"))
        invariants.settled(self.node, jobs, promises=False)

    def one_reason(self, run: HookRun) -> None:
        """A failed hook says one line, which is ours."""
        assert run.rc == 1, run
        assert len(run.output.splitlines()) == 1, run.output
        assert run.output.startswith("slurm-mig: "), run.output
        assert not re.search("internal error|Traceback", run.output), run.output

    def may_not_run(self) -> None:
        """The tasks of job 9 would be refused, or have nothing to take."""
        status, env, _ = self.hooks.task(9)
        assert status != 0 or "CUDA_VISIBLE_DEVICES" not in env
