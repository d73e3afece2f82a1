"""Measures the hooks, whole processes, as slurmd starts them."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

from bench.scene import Scene
from bench.timing import BenchError, Launcher, Run, Summary
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.request import token

A100 = "A100-SXM4-40GB"
#: What one GI takes to be made; real drivers take 0.5 to several seconds.
CREATE_SECONDS = 2.0
CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"


class Row(NamedTuple):
    """One line of the table; `asked` is None for what is shown and not asked for.

    `cpu_ms` is the median of the processor time: unlike wall time, it grows little when others use
    the machine too.
    """

    what: str
    unit: str
    summary: Summary
    asked: float | None
    cpu_ms: float | None = None


def _ms(what: str, runs: Sequence[Run], asked: float | None) -> Row:
    cpu = median(run.cpu_us / 1e3 for run in runs)
    return Row(what, "ms", Summary.of([run.ms for run in runs]), asked, cpu)


def _mb(what: str, runs: Sequence[Run], asked: float) -> Row:
    return Row(what, "MB", Summary.of([run.peak_kib * 1024 / 1e6 for run in runs]), asked)


def _expect(node: RehearsalNode, count: int) -> None:
    """A hook that did nothing is quick: see that it did its work. Raises BenchError."""
    found = len(node.simulation.instances())
    if found != count:
        log = node.log.read_text() if node.log.exists() else ""
        raise BenchError(f"{found} instances, not {count}; the hooks' log: {log[-2000:]}")


def _repeat(count: int, once: Callable[[], Run]) -> list[Run]:
    once()  # the first run fills the caches of files and pages
    return [once() for _ in range(count)]


def early(launcher: Launcher, scene: Scene, count: int) -> Iterator[Row]:
    """The jobs that want no MIG."""
    plain = scene.scheduler.jobs.plain
    harness = _repeat(count, lambda: launcher.run("/bin/true", {}))
    yield _ms("harness alone: /bin/true", harness, None)

    told = scene.node("early-token", [A100], "halves", "token")
    epilog = scene.env("epilog", plain)
    yield _ms(
        "Epilog, job without instance",
        _repeat(count, lambda: launcher.run(told.epilog, epilog)),
        3,
    )
    stamped = scene.env("prolog", plain, token(()))
    yield _ms(
        "Prolog, token says no MIG",
        _repeat(count, lambda: launcher.run(told.prolog, stamped)),
        3,
    )
    asking = scene.node("early-ask", [A100], "halves", "ask")
    prolog = scene.env("prolog", plain)
    yield _ms(
        f"Prolog, no MIG, asks {scene.scheduler.name}",
        _repeat(count, lambda: launcher.run(asking.prolog, prolog)),
        20,
    )
    for node in (told, asking):
        _expect(node, 0)
        if node.log.exists():
            raise BenchError(f"a job without MIG reached Python: {node.log.read_text()}")


def serve(launcher: Launcher, scene: Scene, count: int) -> Iterator[Row]:
    """One instance made, and removed."""
    job = scene.scheduler.jobs.halves[0]
    stamp = token((("3g.20gb", 1),))
    for request, extra, named in (("ask", None, "asks Slurm"), ("token", stamp, "token")):
        node = scene.node(f"serve-{request}", [A100], "halves", request)
        prologs, epilogs = [], []
        for _ in range(count + 1):
            prologs.append(launcher.run(node.prolog, scene.env("prolog", job, extra)))
            _expect(node, 1)
            epilogs.append(launcher.run(node.epilog, scene.env("epilog", job)))
            _expect(node, 0)
        yield _ms(f"Prolog, serves one instance, {named}", prologs[1:], 120)
        yield _mb(f"Prolog, serves one instance, {named}: peak", prologs[1:], 45)
        yield _ms("Epilog, removes it", epilogs[1:], 110)
        yield _mb("Epilog, removes it: peak", epilogs[1:], 45)


def crowd(launcher: Launcher, scene: Scene, count: int) -> Iterator[Row]:
    """Many Prologs at once on a driver that takes its time."""
    jobs = scene.scheduler.jobs
    for what, ids, gpus, layout, factor, per_gpu in (
        ("16 Prologs at once on 8 GPUs", jobs.halves, 8, "halves", 1.3, 2),
        ("7 Prologs at once on one GPU", jobs.sevenths, 1, "small", 1.1, 7),
    ):
        node = scene.node(f"crowd-{gpus}", [f"{A100}:{gpus}"], layout, "ask")
        spans = []
        for _ in range(count):
            node.simulation.latency(CREATE, CREATE_SECONDS)
            runs = launcher.together([(node.prolog, scene.env("prolog", job)) for job in ids])
            spans.append((max(run.end for run in runs) - min(run.start for run in runs)) / 1e9)
            _expect(node, len(ids))
            node.simulation.clear_faults()
            launcher.together([(node.epilog, scene.env("epilog", job)) for job in ids])
            _expect(node, 0)
        alone = per_gpu * CREATE_SECONDS
        named = f"{what} (the GPUs alone: {alone:g} s)"
        yield Row(named, "s", Summary.of(spans), alone * factor)
