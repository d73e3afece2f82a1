"""Measures the locks: how long the unluckiest waits in a crowd, and after a holder's death."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench import crowd
from bench.hooks import A100, Row
from bench.scene import Scene
from bench.timing import BenchError, Summary
from slurm_mig.rehearsal.node import RehearsalNode

PROCESSES = 16
ROUNDS = 50

#: Takes a lock, says when it had it (ns of the monotonic clock), and keeps it until stdin ends.
_LOCK = """
import sys, time
from pathlib import Path
from slurm_mig.lock import Locks
locks = Locks(Path(sys.argv[1]), 60, 60)
which = {"host": locks.host, "GPU": lambda: locks.gpu("GPU-a"), "job": lambda: locks.job(7)}
print("begins", flush=True)
with which[sys.argv[2]]():
    print(time.monotonic_ns(), flush=True)
    sys.stdin.read()
"""


def _crowd(where: Path, folder: Path, scontrol: str, on: str) -> Iterator[Row]:
    node = RehearsalNode.create(
        where / "contention",
        "node1",
        [f"{A100}:4"],
        scontrol=scontrol,
        layout_spec="balanced",
        settings={"slurm": {"request": "token"}},
    )
    node.simulation.latency(crowd.CREATE, 0.002)
    command = crowd.command(node, folder, PROCESSES, ROUNDS, "promised", "entry")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{PROCESSES} processes at once: {done.stdout}{done.stderr}")
    rounds = crowd.rounds(folder)
    if [one.outcome for one in rounds] != ["served"] * (PROCESSES * ROUNDS):
        raise BenchError(f"{PROCESSES} processes at once: {len(rounds)} rounds, not all served")
    took = [(one.ended - one.began) / 1e6 for one in rounds]
    waits = [1e3 * max(one.waits) for one in rounds]
    what = f"{PROCESSES} x {ROUNDS} rounds on 4 GPUs, state {on}"
    yield Row(f"{what}: a round", "ms", Summary.of(took), None)
    yield Row(f"{what}: longest wait of a round", "ms", Summary.of(waits), None)
    worst = max(waits) / median(took)
    yield Row(f"{what}: longest / median", "x", Summary(worst, worst, worst, 1), 5)


def _start(state: Path, which: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", _LOCK, str(state), which],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    _read(process)
    return process


def _read(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None  # noqa: S101 - tells type checkers
    return process.stdout.readline().strip()


def _after_kill(which: str, state: Path) -> float:
    """Milliseconds from the SIGKILL of a lock's holder until the next one has it."""
    with _start(state, which) as holder:
        try:
            _read(holder)
            with _start(state, which) as waiter:
                try:
                    time.sleep(0.1)  # it polls by now; to wait longer changes nothing
                    killed = time.monotonic_ns()
                    holder.send_signal(signal.SIGKILL)
                    return (int(_read(waiter)) - killed) / 1e6
                finally:
                    waiter.kill()
        finally:
            holder.kill()


def rows(scene: Scene, runs: int) -> Iterator[Row]:
    """The rows. Raises BenchError where a round did not work."""
    # What is waited for is mostly the disk, for each transaction is synced; in memory, the locks.
    memory = Path("/dev/shm")  # noqa: S108
    with ExitStack() as stack:
        for on, base in (("on disk", None), ("in memory", memory)):
            if base is None or base.is_dir():
                folder = tempfile.TemporaryDirectory(prefix="bench-", dir=base)
                where = Path(stack.enter_context(folder))
                yield from _crowd(where, where / "crowd", scene.scheduler.scontrol, on)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for which in ("host", "GPU", "job"):
            state = Path(name) / which
            state.mkdir()
            spans = [_after_kill(which, state) for _ in range(runs)]
            yield Row(
                f"lock of {which}, its holder killed: the next has it", "ms", Summary.of(spans), 100
            )
