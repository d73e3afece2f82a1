"""Many processes that are Prologs, jobs and Epilogs in turn, and two ways to see them collide.

Run as a program, `python -m bench.crowd CONFIG FOLDER PROCESSES ROUNDS WHAT HOW`, it forks its
processes and lets all go at once; each writes what it did into FOLDER. WHAT is what they ask for:
`promised`, process k always the k-th promise of the node, or `any`, at random, with misses. HOW is
how the hooks run: `entry`, by their Python entries in the process itself, or `hooks`, as slurmd
runs them.

A job that was served reads its instances from the file that the task prolog would, and for as long
as it runs keeps a mark for each, made by O_EXCL: the second owner of an instance cannot make it.
`overlaps` then holds the jobs' times against the driver's own journal.
"""

import json
import os
import random
import re
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from slurm_mig import configfile, epilog, hook, prolog, slurm
from slurm_mig.lock import Locks
from slurm_mig.log import Log
from slurm_mig.rehearsal.hookenv import hook_environment
from slurm_mig.rehearsal.hookrun import run_hook
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.request import Wanted, token
from slurm_mig.simulator import journal
from slurm_mig.simulator.handle import Simulation
from slurm_mig.simulator.journal import Change
from slurm_mig.slurm_records import JobRecord

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
#: What processes that ask for anything ask for.
CHOICE = ("3g.20gb", "1g.5gb", "2g.10gb", "1g.5gb 1g.5gb", "4g.20gb 1g.5gb", "7g.40gb")


class Round(NamedTuple):
    """One job of one process: when its round began and ended, and from when to when it ran.

    Times are ns of the monotonic clock; `twice` is what was marked already.
    `waits` are the seconds for which its hooks waited for each lock.
    """

    process: int
    job: int
    outcome: str
    uuids: list[str]
    twice: list[str]
    began: int
    runs: int
    stops: int
    ended: int
    waits: list[float]


class _Slurm:
    """What a Prolog without room talks to."""

    def job(self, job_id, node):
        return JobRecord(
            *(job_id, 0, True, True, 0, 0, "RUNNING", "", ("n1",), "", "", "", 0, None, 0)
        )

    def requeue(self, job_id):
        """The job of this round is given up: the next one has another id."""


class _Hooks:
    """Prolog and Epilog of one node, run in one of the two ways."""

    def __init__(self, config: Path, how: str) -> None:
        self.settings = configfile.load(config)
        self.folder = config.parent / "hooks"
        self.how = how

    def _run(self, which, job, wanted):
        env = hook_environment(which, job_id=job, uid=0, extra=token(wanted))
        if self.how == "hooks":
            run = run_hook(self.folder / f"slurm-mig-{which}", env, 120, which=which)
            return "done" if (run.rc, run.output) == (0, "") else f"{run.rc} {run.output}"
        log = Log("/dev/null", which)
        if which == "prolog":
            outcome, status = prolog.work(self.settings, job, log, env=env, answer="")
        else:
            outcome, status = epilog.work(self.settings, job, log)
        return outcome if status == hook.OK else f"status {status}"

    def round(self, process, job, wanted, marks, waits):
        began = time.monotonic_ns()
        outcome = self._run("prolog", job, wanted)
        text = Path(self.settings.state_run_directory, f"jobs/{job}/env")
        uuids = twice = ()
        runs = time.monotonic_ns()
        if text.exists():
            (line,) = re.findall(r"^export CUDA_VISIBLE_DEVICES=(.*)$", text.read_text(), re.M)
            uuids = line.split(",")
            runs = time.monotonic_ns()
            twice = [uuid for uuid in uuids if not _mark(marks / uuid)]
            os.sched_yield()
        stops = time.monotonic_ns()
        for uuid in uuids:
            (marks / uuid).unlink(missing_ok=True)
        gone = self._run("epilog", job, wanted)
        if gone not in ("done", "removed"):
            outcome = f"{outcome}, then {gone}"
        ended = time.monotonic_ns()
        return Round(
            *(process, job, outcome, list(uuids), list(twice)),
            *(began, runs, stops, ended, [*waits]),
        )


def _mark(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


@contextmanager
def _noted(waits):
    """Note how long each lock is waited for."""
    held = Locks._held  # noqa: SLF001 - a look inside, so that the product need not measure

    @contextmanager
    def timed(self, *arguments, **options):
        began = time.monotonic()
        with held(self, *arguments, **options) as path:
            waits.append(time.monotonic() - began)
            yield path

    with mock.patch.object(Locks, "_held", timed):
        yield


def _work(number, rounds, what, hooks, folder, promises):
    chance = random.Random(number)  # noqa: S311 - what to ask for
    waits: list[float] = []
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(slurm, "client", return_value=_Slurm()))
        stack.enter_context(_noted(waits))
        file = stack.enter_context((folder / f"{number}.jsonl").open("w"))
        for turn in range(rounds):
            if what == "any":
                words = chance.choice(CHOICE).split()
            else:
                words = [promises[number % len(promises)]]
            wanted = tuple(Wanted(word, words.count(word)) for word in dict.fromkeys(words))
            waits.clear()
            job = 1000 * (number + 1) + turn
            one = hooks.round(number, job, wanted, folder / "marks", waits)
            file.write(json.dumps(one) + "\n")


def main(config: str, where: str, processes: str, rounds: str, what: str, how: str) -> int:
    """Fork them, let them go at once, wait for all; the exit status says whether all ended well."""
    folder = Path(where)
    hooks = _Hooks(Path(config), how)
    promises = (folder / "promises").read_text().split()
    gate, opener = os.pipe()
    pids = []
    for number in range(int(processes)):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(opener)
                os.read(gate, 1)
                _work(number, int(rounds), what, hooks, folder, promises)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        pids.append(pid)
    os.close(opener)
    ends = [os.waitpid(pid, 0)[1] for pid in pids]
    return int(any(ends))


def command(
    node: RehearsalNode, folder: Path, processes: int, rounds: int, what: str, how: str
) -> list[str]:
    """The command that runs them, in the repository's folder.

    `folder` is made, and the driver keeps a journal from now on.
    """
    journal.keep(node.simulation)
    (folder / "marks").mkdir(parents=True)
    promises = [name for name, number in sorted(node.promises.items()) for _ in range(number)]
    (folder / "promises").write_text("\n".join(promises))
    words = (node.config, folder, processes, rounds, what, how)
    return [sys.executable, "-m", "bench.crowd", *map(str, words)]


def rounds(folder: Path) -> list[Round]:
    """What they did."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return [Round(*json.loads(line)) for line in lines]


class _Life(NamedTuple):
    """A compute instance, by the journal."""

    gpu: int
    serial: int
    pid: int
    made: int
    gone: float


def _lives(lines: Sequence[Change]) -> dict[str, list[_Life]]:
    gone = {(x.gpu, x.ci_serial): x.ns for x in lines if not x.made and x.ci is not None}
    found: dict[str, list[_Life]] = {}
    for x in lines:
        if x.made and x.uuid is not None:
            end = gone.get((x.gpu, x.ci_serial), float("inf"))
            found.setdefault(x.uuid, []).append(_Life(x.gpu, x.serial, x.pid, x.ns, end))
    return found


def by_journal(simulation: Simulation, done: Sequence[Round]) -> list[str]:
    """What is wrong by the driver's record of what was made and removed, and by whom.

    Two instances on one memory slice; a job whose instance was not there, or went, while
    it ran; an instance with two jobs; one that the Prolog of another job made.
    """
    lines = journal.read(simulation)
    wrong = []
    taken: dict[tuple[int, int], int] = {}
    for x in lines:
        place = x.placement
        for at in range(place.start, place.start + place.size) if place else ():
            if x.made and (x.gpu, at) in taken:
                wrong.append(f"GPU {x.gpu} slice {at}: {taken[x.gpu, at]} and {x.serial}")
            if x.made:
                taken[x.gpu, at] = x.serial
            else:
                taken.pop((x.gpu, at), None)
    lives = _lives(lines)
    owners: dict[tuple[int, int], int] = {}
    makers: dict[int, int] = {}
    for one in done:
        for uuid in one.uuids:
            during = [life for life in lives.get(uuid, []) if life.made < one.runs < life.gone]
            if len(during) != 1:
                wrong.append(f"job {one.job}: {uuid} was not there when it began: {lives}")
                continue
            (life,) = during
            if life.gone < one.stops:
                wrong.append(f"job {one.job}: {uuid} went while it ran")
            if makers.setdefault(life.pid, one.process) != one.process:
                wrong.append(f"job {one.job}: {uuid} was made by {life.pid}, for somebody else")
            if owners.setdefault((life.gpu, life.serial), one.job) != one.job:
                wrong.append(f"{uuid}: of jobs {owners[life.gpu, life.serial]} and {one.job}")
    return wrong


def by_marks(done: Sequence[Round]) -> list[str]:
    """What is wrong by what the jobs were handed: an instance in two hands at one time."""
    wrong = [f"job {one.job}: {uuid} was marked" for one in done for uuid in one.twice]
    held = sorted((u, one.runs, one.stops, one.job) for one in done for u in one.uuids)
    for a, b in pairwise(held):
        if a[0] == b[0] and b[1] < a[2]:
            wrong.append(f"{a[0]}: jobs {a[3]} and {b[3]} at one time")
    return wrong


def overtaken(done: Sequence[Round]) -> int:
    """The most whole rounds that one process did within one round of another."""
    most = 0
    for one in done:
        inside = [x.process for x in done if one.began < x.began and x.ended < one.ended]
        most = max([most, *map(inside.count, set(inside))])
    return most


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
