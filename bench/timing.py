"""Starts hooks through `launch.c` and sums up what they cost."""

import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("launch.c")
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


class BenchError(Exception):
    """A hook that should have worked did not, or the bench cannot be set up."""


class Run(NamedTuple):
    """One run of a hook.

    `status` is its wait status, `peak_kib` the peak of its largest process, `cpu_us` the processor
    time of all its processes; `start` and `end` are in ns.
    """

    status: int
    peak_kib: int
    cpu_us: int
    start: int
    end: int
    output: str

    @property
    def ms(self) -> float:
        """Wall time in milliseconds."""
        return (self.end - self.start) / 1e6


@dataclass(frozen=True, slots=True)
class Summary:
    """Several runs in one: a number of ms, seconds or MB."""

    median: float
    min: float
    p90: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """The summary of at least one value."""
        ordered = sorted(values)
        # Nearest rank: the smallest value that nine in ten runs do not exceed.
        p90 = ordered[-(-9 * len(ordered) // 10) - 1]
        return cls(statistics.median(ordered), ordered[0], p90, len(ordered))


class Launcher:
    """The compiled launcher."""

    def __init__(self, folder: Path) -> None:
        """Build it in `folder`. Raises BenchError without a compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise BenchError("no C compiler (cc): the bench builds its launcher; install gcc")
        folder.mkdir(parents=True, exist_ok=True)
        self._program = folder.absolute() / "launch"
        subprocess.run([compiler, *FLAGS, "-o", self._program, SOURCE], check=True)

    def run(self, hook: Path | str, env: Mapping[str, str]) -> Run:
        """Run one hook with exactly `env`. Raises BenchError if it fails."""
        return self.together([(hook, env)])[0]

    def together(self, hooks: Sequence[tuple[Path | str, Mapping[str, str]]]) -> list[Run]:
        """Run several at once: all are let go by the same pipe's end. Raises BenchError."""
        with ExitStack() as stack:
            started = [
                stack.enter_context(
                    subprocess.Popen(
                        [self._program, str(hook)],
                        env=dict(env),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
                for hook, env in hooks
            ]
            for process in started:
                assert process.stdin is not None  # noqa: S101 - tells type checkers
                process.stdin.close()
                process.stdin = None
            runs = []
            for process, (hook, _) in zip(started, hooks, strict=True):
                said, _ = process.communicate(timeout=300)
                line, _, output = said.partition("\n")
                if process.returncode:
                    raise BenchError(f"{hook}: the launcher ended with {process.returncode}")
                runs.append(Run(*map(int, line.split()), output))
        for run, (hook, _) in zip(runs, hooks, strict=True):
            if run.status:
                raise BenchError(f"{hook}: wait status {run.status}: {run.output.strip()}")
        return runs
