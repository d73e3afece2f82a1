"""Driver calls that fail, one after another, under hooks that run in this process.

The hooks' Python entry is what runs (`hook.run` with the work of Prolog and Epilog, `main` of the
command line), on a clock that is wound on by whoever sleeps: a run that waits out a budget of
seconds takes milliseconds. The node stays the same from case to case: what one leaves behind is
the failure of the next.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import invariants
import pytest
from hooking import Hooks
from invariants import Job

from slurm_mig import epilog, hook, partitioner, prolog, teardown
from slurm_mig.cli import main as command_line
from slurm_mig.cli import node as node_commands
from slurm_mig.driver_errors import PASSING
from slurm_mig.ledger import Ledger
from slurm_mig.rehearsal.hookenv import hook_environment
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.request import Wanted, token
from slurm_mig.simulator.handle import ANY
from slurm_mig.simulator.records import ERRORS, GpuInstance

#: What the issue names.
NAMED = (
    *("IN_USE", "INSUFFICIENT_RESOURCES", "GPU_IS_LOST"),
    *("UNKNOWN", "NO_PERMISSION", "TIMEOUT"),
)
#: Others that a driver may have reason to answer.
OTHERS = (
    *("MEMORY", "OPERATING_SYSTEM", "RESET_REQUIRED"),
    *("UNINITIALIZED", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH"),
)
#: Answers by which a driver says that something is not there; here they are lies. Nothing may leak
#: for them, but what is said and done about the job is as if they were true.
LIES = ("NOT_FOUND", "INVALID_ARGUMENT", "NOT_SUPPORTED")

JOB = 7
USER = 4321 if os.geteuid() == 0 else os.getuid()


class Clock:
    """Stands for the module `time` where it is waited: sleeping costs nothing but is counted."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []
        #: Called with the time before every nap.
        self.before_nap: Callable[[float], None] = lambda _now: None

    def monotonic(self) -> float:
        """The time, in seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Wind the clock on."""
        assert seconds > 0
        self.before_nap(self.now)
        self.naps.append(seconds)
        self.now += seconds

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it in place."""
        for module in (partitioner, teardown):
            monkeypatch.setattr(module, "time", self)


class Outcome(NamedTuple):
    """How a run ended: exit status, and what it wrote to stderr, without the last line's end."""

    status: int
    said: str


class Fault(NamedTuple):
    """The `nth` call of `function` fails, or that and all that follow.

    With `after` one that changes something is carried out all the same.
    """

    function: str
    nth: int
    once: bool
    error: str
    after: bool = False

    def text_in(self, said: str) -> bool:
        """Whether what was said has the driver's own words."""
        return f"(NVML error {ERRORS[self.error]})" in said or (
            self.error == "IN_USE" and "in use by " in said
        )

    @property
    def lies(self) -> bool:
        """Whether the driver denies what is there."""
        return self.error in LIES

    @property
    def passes(self) -> bool:
        """Whether a removal goes on after it."""
        return self.once and ERRORS[self.error] in PASSING


class Bench:
    """One node whose hooks run in this process; `jobs` are those that run on it."""

    def __init__(self, hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hooks, self.node, self.sim = hooks, hooks.node, hooks.sim
        self.clock = Clock()
        self.clock.use(monkeypatch)
        self.jobs: dict[int, Job] = {}
        self.foreign: list[GpuInstance] = []
        self.hit = False
        self._patch = monkeypatch
        asked = SimpleNamespace(client=lambda *_, **__: self)
        monkeypatch.setattr(node_commands, "slurm", asked)

    def _calls(self, function: str) -> int:
        if function == ANY:
            return self.sim.calls_of_any()
        return self.sim.calls().get(function, 0)

    @contextmanager
    def armed(self, fault: Fault) -> Iterator[None]:
        """Let the driver fail so while the block runs; `hit` then says whether it did."""
        before = self._calls(fault.function)
        self.sim.fail(
            *(fault.function, fault.nth),
            once=fault.once,
            error=fault.error,
            after=fault.after,
        )
        try:
            yield
        finally:
            self.hit = self._calls(fault.function) - before >= fault.nth
            self.sim.clear_faults()

    def jobs_on(self, _node: str) -> frozenset[int]:
        """What Slurm tells reconcile."""
        return frozenset(self.jobs)

    def _run(self, which: Any, job: int, **options: Any) -> Outcome:
        env = hook_environment(which, job_id=job, uid=USER, gid=USER, user="someone", **options)
        # As if a person ran it: telling Slurm of a drain takes a process, and is tested elsewhere.
        del env["SLURM_SCRIPT_CONTEXT"]
        if which == "prolog":
            work: Any = partial(prolog.work, env=env, answer="")
        else:
            work = epilog.work
        said = io.StringIO()
        with redirect_stderr(said):
            status = hook.run(which, self.node.config, None, env, work)
        return Outcome(status, said.getvalue().strip())

    def prolog(self, job: int, *words: str) -> Outcome:
        """Run the Prolog of a job that wants these profiles, as `3g.20gb` or `1g.5gb:2`."""
        parts = [word.partition(":") for word in words]
        wanted = tuple(Wanted(profile, int(number or 1)) for profile, _, number in parts)
        self.hooks.job(job, ",".join(f"mig:{p}:{n}" for p, n in wanted), uid=USER)
        return self._run("prolog", job, extra=token(wanted))

    def epilog(self, job: int) -> Outcome:
        """Run the Epilog."""
        return self._run("epilog", job)

    def reconcile(self) -> tuple[int, dict[str, list[str]], str]:
        """Run `slurm-mig reconcile`: its status, what it reports, stderr."""
        out, err = io.StringIO(), io.StringIO()
        config = str(self.node.config)
        self._patch.setattr(sys, "argv", ["slurm-mig", "reconcile", "-c", config, "--json"])
        with redirect_stdout(out), redirect_stderr(err):
            status = command_line.main()
        report = json.loads(out.getvalue() or "{}")
        report.pop("version", None)
        return status, report, err.getvalue().strip()

    def start(self, job: int, *words: str) -> None:
        """Start a job that goes on running."""
        outcome = self.prolog(job, *words)
        assert outcome == (0, ""), outcome
        self.jobs[job] = self.served(*words)

    @staticmethod
    def served(*words: str) -> Job:
        """What a job with these instances has."""
        parts = [word.partition(":") for word in words]
        names = [name for name, _, number in parts for _ in range(int(number or 1))]
        return Job(USER, tuple(names))

    def settled(self, **more: Any) -> None:
        """Assert that there is nothing but what the running jobs have."""
        jobs: Mapping[int, Job] = {**self.jobs, **more.pop("served", {})}
        invariants.settled(self.node, jobs, foreign=self.foreign, **more)

    def mended(self) -> None:
        """Assert that, now that the driver works again, one reconcile mends everything."""
        status, report, said = self.reconcile()
        report.pop("mended", None)
        assert len(report.pop("foreign")) == len(self.foreign)
        left = {key: lines for key, lines in report.items() if lines}
        assert (status, left, said) == (0, {}, ""), (status, left, said)
        self.settled()


def sweep(
    bench: Bench,
    act: Callable[[Fault], None],
    *,
    errors: tuple[str, ...],
    step: int = 1,
    functions: Sequence[str] = (ANY,),
    modes: tuple[bool, ...] = (True, False),
    after: bool = False,
) -> tuple[int, int]:
    """Let the n-th call fail, n by n, until a run does not come to its n-th call.

    `act` brings about what is to be tried, runs it under `armed`, judges, and clears up. With
    `step` only every so many-th n is tried, each kind of fault beginning elsewhere, so that
    together they miss none. `modes`: once, from then on. Returns how many faults were met, and the
    largest n.
    """
    kinds = [(f, error, once) for f in functions for once in modes for error in errors]
    met = longest = 0
    for place, (function, error, once) in enumerate(kinds):
        nth = 1 + place * step // len(kinds)
        while True:
            fault = Fault(function, nth, once, error, after)
            try:
                act(fault)
            except AssertionError as wrong:
                raise AssertionError(f"{fault}: {wrong}") from wrong
            if not bench.hit:
                break
            met += 1
            longest = max(longest, nth)
            nth += step
    return met, longest


def rewrite(node: RehearsalNode, job: int, what: str) -> None:
    """Make a job's rows what a hook that died would have left, in SQL."""
    with Ledger(node.folder / "state") as ledger:
        ledger._write(f"UPDATE instance SET {what} WHERE job = ?", job)  # noqa: S608 -- ours
