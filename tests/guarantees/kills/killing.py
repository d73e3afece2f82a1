"""Hooks and reconcile that die at a named step; see slurm_mig/rehearsal/failpoints.py."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Self

from hooking import Hooks

from slurm_mig.rehearsal import failpoints
from slurm_mig.rehearsal.hookenv import hook_environment
from slurm_mig.rehearsal.hookrun import HookRun, run_hook

#: `slurm-mig reconcile`, started as the hooks start their Python.
_RECONCILE = """
import sys
sys.path += sys.argv[1].split(":")
from slurm_mig.cli.main import main
sys.argv = ["slurm-mig", *sys.argv[2:]]
sys.exit(main())
"""


class Mortal:
    """One node whose hooks and reconcile have failpoints; a context manager.

    `warm`: their Python is forked from a warm one (zygote.py), not started.
    """

    def __init__(self, hooks: Hooks, *, warm: bool = True) -> None:
        self.hooks, self.node, self.sim = hooks, hooks.node, hooks.sim
        self.folder = self.node.folder / "failpoints"
        prolog = self.node.prolog.read_text()
        (self._packages,) = re.findall(r"^PYTHON_PATH=(.*)$", prolog, re.MULTILINE)
        self._launcher = failpoints.install(self.folder, self.node.prolog, self.node.epilog)
        self._zygote = self._warm_up() if warm else None
        self._mender = self.folder / "reconcile"
        words = (self._launcher, "-I", "-S", "-c", _RECONCILE)
        self._mender.write_text(
            f"#!/bin/sh\nexec {shlex.join(map(str, words))} {self._packages} "
            f"reconcile --node n1 --config {shlex.quote(str(self.node.config))}\n"
        )
        self._mender.chmod(0o755)

    def _warm_up(self) -> "subprocess.Popen[bytes]":
        """Start the zygote; the launcher becomes the program that asks it."""
        # A path of a socket has at most 107 bytes.
        door = Path(tempfile.mkdtemp(prefix="slurm-mig-")) / "zygote"
        here = Path(__file__).parent
        subprocess.run(
            [
                "/usr/bin/cc",
                "-O1",
                f'-DSOCKET="{door}"',
                "-o",
                self._launcher,
                here / "hookstart.c",
            ],
            check=True,
        )
        (packages,) = shlex.split(self._packages)
        program = (sys.executable, "-I", "-S", here / "zygote.py", door, packages, self.folder)
        zygote = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
        assert zygote.stdout is not None
        assert zygote.stdout.readline() == b"ready\n"
        self._door = door
        return zygote

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zygote is not None:
            self._zygote.communicate()
            shutil.rmtree(self._door.parent)

    def alive(self, jobs: Collection[int]) -> None:
        """Which jobs Slurm has on the node."""
        (self.hooks.folder / "queue").write_text("".join(f"{job} RUNNING\n" for job in jobs))

    def _command(self, which: str, job: int) -> tuple[Path, dict[str, str]]:
        """What slurmd, or the timer of reconcile, starts, and with which environment."""
        if which == "reconcile":
            return self._mender, {"PATH": "/usr/bin:/bin", "SLURM_MIG": "reconcile"}
        path = self.node.prolog if which == "prolog" else self.node.epilog
        return path, hook_environment(which, node="n1", job_id=job)

    def run_for(self, which: str, job: int, seconds: float, grace: float | None) -> HookRun:
        """Run for so long, then kill the process group, unless it ends by itself before.

        `grace`: seconds between SIGTERM and SIGKILL; None: SIGKILL alone.
        """
        path, env = self._command(which, job)
        if grace is not None:
            return run_hook(path, env, seconds, which=which, node="n1")
        started = monotonic()
        process = subprocess.Popen(
            [path],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        text = output.decode()
        return HookRun(which, "n1", str(path), process.returncode, text, env, started, monotonic())

    def run(
        self, which: str, job: int = 7, *, kill: str | None = None, record: bool = False
    ) -> HookRun:
        """Run a hook of a job, or `reconcile`: to its end, or to the failpoint `kill`."""
        key = which if which == "reconcile" else str(job)
        arm, names = self.folder / f"arm-{key}", self.folder / f"record-{key}"
        if kill is not None:
            arm.write_text(kill)
        if record:
            names.write_text("")
        try:
            path, env = self._command(which, job)
            return run_hook(path, env, 60, which=which, node="n1")
        finally:
            arm.unlink(missing_ok=True)
            if record:
                self.last = names.read_text().splitlines()
                names.unlink()

    def record(self, which: str, job: int = 7) -> list[str]:
        """Run to the end; the failpoints met, in order. Nothing happened outside of them."""
        self.last_run = self.run(which, job, record=True)
        assert [line for line in self.last if line.startswith("outside ")] == []
        return self.last
