"""How long choosing a placement takes on a node of eight GPUs, in the worst states to be found.

Target: at most 1 ms in any occupancy. For each shape of GPU every reachable occupancy is walked
and one kept for each different set of options that is left; eight of those make a node, and a sum
of what each can hold at most makes its promises, so that every choice is a tight one. The slowest
of many such nodes is then made slower still, one GPU at a time. Five kinds of call:

- plain: profiles without attributes, as all named layouts have;
- any: `+me` and its like too;
- refused: these too, and one instance more than the promises leave: the answer is a NoRoom, and
  its sentence (which promise forbids it) is part of the time;
- lost: as any, but on one GPU is something else than what was there when the promises were made
  (a stranger's instance, a quarantine): some promises cannot be kept whatever one does;
- worn: the same on about half of the GPUs.

`--save FILE` writes the rows with the nodes found, as JSON.

Warm is the best of several runs in this process: what the choice itself costs. Cold is the first
call of a fresh process, tables included, median of `COLD` processes, imports not counted.
"""

import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import patch

from slurm_mig.cover import _Counts, packings
from slurm_mig.errors import NoRoom
from slurm_mig.node import Node
from slurm_mig.occupancy import tables
from slurm_mig.packing import GpuSpace, Taken, choose
from slurm_mig.profiles import Geometry, Placement, TableEntry, from_table

GPUS = 8
TARGET_MS = 1.0
SAMPLES = 3000
CLIMB = 500
COLD = 9
#: One GPU of each shape that differs in what can be packed beside what.
MODELS = ("A100-SXM4-40GB", "H100-SXM5-80GB", "A30-24GB", "RTX-PRO-6000-BLACKWELL-96GB")

KINDS = ("plain", "any", "refused", "lost", "worn")

Taking = tuple[Taken, ...]
Case = dict[str, Any]


def entries() -> dict[str, TableEntry]:
    """The table of GPUs."""
    text = files("slurm_mig").joinpath("data/mig_profiles.json").read_text("utf-8")
    return {found.key: found for found in map(from_table, json.loads(text)["gpus"])}


def reachable(geometry: Geometry) -> tuple[int, list[Taking]]:
    """How many occupancies there are, and one for each different set of options left."""
    table = tables(geometry)
    seen: set[tuple[int, ...]] = {()}
    kept: dict[int, Taking] = {}
    todo: list[tuple[tuple[int, ...], int]] = [((), table.empty)]
    for occupancy, state in todo:
        kept.setdefault(
            state & table.all,
            tuple(Taken(table.options[i][0].id, table.options[i][1]) for i in occupancy),
        )
        for i in table.open(state):
            more = tuple(sorted((*occupancy, i)))
            if more not in seen:
                seen.add(more)
                todo.append((more, table.put(state, i)))
    return len(seen), list(kept.values())


class Search:
    """The search for slow nodes of one model."""

    def __init__(self, geometry: Geometry, kind: str) -> None:
        self.geometry, self.kind = geometry, kind
        self.random = random.Random(kind + geometry.model)  # noqa: S311 - the same nodes each time
        table = tables(geometry)
        names = [n for n in table.bits if kind != "plain" or n.endswith("gb")]
        self.counts = _Counts(names)
        self.occupancies, takings = reachable(geometry)
        memo: dict[int, list[int]] = {}
        self.parts = [
            (taking, [self.counts.unpack(found) for found in largest])
            for taking in takings
            if (largest := packings(table, table.state(taking), self.counts, memo)) != [0]
        ]

    def part(self) -> tuple[Taking, dict[str, int]]:
        """One GPU: what is on it, and what it alone could promise."""
        taking, largest = self.random.choice(self.parts)
        return taking, self.random.choice(largest)

    def case(self, parts: list[tuple[Taking, dict[str, int]]]) -> Case:
        """One node of these GPUs and one call."""
        promises: dict[str, int] = {}
        for _, holds in parts:
            for name, n in holds.items():
                promises[name] = promises.get(name, 0) + n
        promises = {name: n for name, n in promises.items() if n}
        want = self.random.choice(sorted(promises))
        if self.kind != "refused":
            promises[want] -= 1
        if self.kind == "lost":
            parts = list(parts)
            parts[self.random.randrange(GPUS)] = self.part()
        elif self.kind == "worn":
            parts = [self.random.choice((part, self.part())) for part in parts]
        return {"parts": parts, "want": want, "promises": promises}

    def worst(self) -> tuple[Case, list[float]]:
        """The slowest case found, and the times of all cases of the first round, in ms."""
        times = []
        worst: tuple[float, Case] = (-1.0, {})
        for _ in range(SAMPLES):
            case = self.case([self.part() for _ in range(GPUS)])
            times.append(spent := timed(self.geometry, case, 3))
            if spent > worst[0]:
                worst = (spent, case)
        for _ in range(CLIMB):
            parts = list(worst[1]["parts"])
            parts[self.random.randrange(GPUS)] = self.part()
            case = self.case(parts)
            if timed(self.geometry, case, 2) > worst[0]:
                worst = max(worst, (timed(self.geometry, case, 5), case), key=lambda w: w[0])
        return worst[1], times


def call(geometry: Geometry, case: Case) -> None:
    """Make the call."""
    spaces = [GpuSpace(f"GPU-{k}", geometry, part[0]) for k, part in enumerate(case["parts"])]
    with contextlib.suppress(NoRoom):
        choose(spaces, [case["want"]], case["promises"])


def timed(geometry: Geometry, case: Case, runs: int) -> float:
    """The best of several runs, in ms: what the call costs when nothing else runs."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        call(geometry, case)
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def cold(key: str, case: Case) -> float:
    """The first call in a fresh process, in ms, median of several processes."""
    wire = json.dumps({"key": key, **case})
    times = []
    for _ in range(COLD):
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), "--cold"],
            input=wire,
            capture_output=True,
            text=True,
            check=True,
        )
        times.append(float(done.stdout))
    return statistics.median(times)


def first_call(wire: str) -> float:
    """In the fresh process: the time of the first call, in ms."""
    case = json.loads(wire)
    geometry = entries()[case["key"]].geometry
    case["parts"] = [
        (tuple(Taken(number, Placement(*place)) for number, place in taking), holds)
        for taking, holds in case["parts"]
    ]
    start = time.perf_counter()
    call(geometry, case)
    return (time.perf_counter() - start) * 1e3


def run() -> dict[str, Any]:
    """Search, measure, and return the rows of the table."""
    table = entries()
    searched = 0

    def counting(self: Node, *args: Any) -> Any:
        nonlocal searched
        searched += 1
        return exact(self, *args)

    rows = []
    exact = Node.deal
    for key in MODELS:
        geometry = table[key].geometry
        for kind in KINDS:
            search = Search(geometry, kind)
            case, times = search.worst()
            searched = 0
            with patch.object(Node, "deal", counting):
                call(geometry, case)
            rows.append(
                {
                    "model": key,
                    "kind": kind,
                    "occupancies": search.occupancies,
                    "nodes": SAMPLES + CLIMB,
                    "median_ms": statistics.median(times),
                    "worst_ms": timed(geometry, case, 9),
                    "cold_ms": cold(key, case),
                    "exact_searches": searched,
                    "want": case["want"],
                    "promises": case["promises"],
                    "taken": [
                        [[one.profile_id, *one.placement] for one in part[0]]
                        for part in case["parts"]
                    ],
                }
            )
    return {"name": "packing", "gpus": GPUS, "target_ms": TARGET_MS, "rows": rows}


def main() -> None:
    """Print the table."""
    if "--cold" in sys.argv:
        print(first_call(sys.stdin.read()))
        return
    print(f"choosing a placement on a node of {GPUS} GPUs, target {TARGET_MS} ms")
    head = ("model", "call", "occupancies", "median", "worst", "cold worst", "searches")
    line = "{:28} {:8} {:>11} {:>9} {:>9} {:>10} {:>8}"
    print(line.format(*head))
    found = run()
    if "--save" in sys.argv:
        Path(sys.argv[sys.argv.index("--save") + 1]).write_text(json.dumps(found, indent=1))
    for row in found["rows"]:
        print(
            line.format(
                row["model"],
                row["kind"],
                row["occupancies"],
                *(f"{row[k]:.3f} ms" for k in ("median_ms", "worst_ms", "cold_ms")),
                row["exact_searches"],
            )
        )


if __name__ == "__main__":
    main()
