"""The n-th call to the disk fails, once or from then on: one reason, no leak, mended by one run.

Every open, write, sync, rename and the like of a Prolog, an Epilog or a reconcile, on ledger,
journal, locks, hand-over, device access files, device nodes and log. In `make test` some n are
drawn; with SOAK=1 all are tried, each once and from then on.
"""

import random
import re
from collections.abc import Callable
from pathlib import Path

import effort
import invariants
import pytest
from failing import ERRORS, Bench, build
from hooking import Hooks

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600 if effort.SOAK else 120)]

#: So many n of each kind are tried in `make test`.
DRAWN = 2


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The failing disk, built once for each worker."""
    return build(tmp_path_factory.mktemp("fault"))


@pytest.fixture
def bench(new_hooks: Callable[..., Hooks], library: Path) -> Bench:
    """Job 7 lives on the second of two GPUs or the first; job 9 comes and goes."""
    return Bench(new_hooks("A100-SXM4-40GB:2", epilog={"budget": 0.2}), library)


def _prolog(bench: Bench, number: int, at: int, on: bool) -> None:
    run = bench.run("prolog", number, at, on=on)
    invariants.always(bench.node)
    if run.rc == 0:
        bench.settled(9)
        assert run.output == ""
    else:
        bench.one_reason(run)
        bench.may_not_run()
    if run.rc == 0 or at % 2:
        bench.site.release(9)  # Slurm runs the Epilog after either
    else:
        assert bench.site.reconcile({7}).keys() <= {"mended"}


def _epilog(bench: Bench, number: int, at: int, on: bool) -> None:
    bench.site.acquire(9, "3g.20gb", "1g.5gb")
    run = bench.run("epilog", number, at, on=on)
    invariants.always(bench.node)
    if run.rc == 0 and run.output:
        # Its removal failed and could be noted; by setting that does not drain the node.
        assert run.output.startswith("slurm-mig: quarantined: ")
        assert len(run.output.splitlines()) == 1
    elif run.rc == 0:
        bench.settled()
    else:
        bench.one_reason(run)
    assert bench.site.reconcile({7}).keys() <= {"mended"}


def _mend(bench: Bench, number: int, at: int, on: bool) -> None:
    run = bench.run("reconcile", number, at, on=on)
    assert run.rc in (0, 1, 3), run
    assert not re.search("internal error|Traceback", run.output), run.output
    if run.rc == 1:
        assert len(run.output.splitlines()) == 1, run.output
        assert run.output.startswith("slurm-mig: "), run.output
    invariants.always(bench.node)
    bench.site.reconcile({7})


def _reconcile_after_a_kill(bench: Bench, number: int, at: int, on: bool) -> None:
    bench.site.sim.fail("nvmlGpuInstanceCreateComputeInstance", error="KILL")
    assert bench.run("prolog", number).rc != 0
    _mend(bench, number, at, on)


def _reconcile_of_an_ended_job(bench: Bench, number: int, at: int, on: bool) -> None:
    bench.site.acquire(9, "3g.20gb", "1g.5gb")
    _mend(bench, number, at, on)


def _reconcile_of_a_damaged_ledger(bench: Bench, number: int, at: int, on: bool) -> None:
    path = bench.node.folder / "state/ledger.sqlite"
    bench.site.acquire(9, "3g.20gb", "1g.5gb")
    path.write_bytes(b"garbage" * 1000)
    run = bench.run("reconcile", number, at, on=on)
    assert run.rc in (0, 1, 3), run
    assert not re.search("internal error|Traceback", run.output), run.output
    bench.site.reconcile({7})
    kept = [p for p in path.parent.glob("ledger.damaged-*") if p.read_bytes() == b"garbage" * 1000]
    assert len(kept) == 1
    for aside in path.parent.glob("ledger.damaged-*"):
        aside.unlink()


def _first(bench: Bench, number: int, at: int, on: bool) -> None:
    """The very first Prolog of a node, which makes the folders and the ledger."""
    bench.site.release(7)
    bench.jobs = {}
    for name in ("state", "run"):
        folder = bench.node.folder / name
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    run = bench.run("prolog", number, at, on=on)
    invariants.always(bench.node)
    if run.rc == 0:
        bench.settled(9)
    else:
        bench.one_reason(run)
        bench.may_not_run()
    bench.site.reconcile(set())
    invariants.settled(bench.node, {}, promises=False)
    bench.site.acquire(7, "1g.5gb")
    bench.jobs = {7: invariants.Job(profiles=("1g.5gb",))}


CASES = {
    "prolog": _prolog,
    "epilog": _epilog,
    "reconcile-after-a-kill": _reconcile_after_a_kill,
    "reconcile-of-an-ended-job": _reconcile_of_an_ended_job,
    "reconcile-of-a-damaged-ledger": _reconcile_of_a_damaged_ledger,
    "first-prolog": _first,
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("case", CASES)
def test_nth_call(bench, figures, case, error):
    """Whatever call fails: the job is served or may not run, and one reconcile mends the rest."""
    seed = effort.seed()
    chance = random.Random(seed)  # noqa: S311
    act, number = CASES[case], ERRORS[error]
    act(bench, number, 0, False)
    bench.settled()
    calls = bench.traced()
    assert calls
    tries = [(at, on) for at in range(1, len(calls) + 1) for on in (False, True)]
    if not effort.SOAK:
        tries = chance.sample(tries, DRAWN)
    for at, on in tries:
        where = f"{calls[at - 1]}, {error} {'from then on' if on else 'once'}, SEED={seed}"
        try:
            act(bench, number, at, on)
            bench.settled()
        except BaseException as problem:
            problem.add_note(f"{case}: call {at}, {where}")
            raise
    figures("disk", failed_calls=len(tries), seeds=[seed])
