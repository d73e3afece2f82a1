"""Measure everything that the project promises a number for, print a table, save it as JSON.

Exit status: 0 when every number is as asked, 1 when one is over, 2 when it cannot be measured.
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import contention, hooks, machine, packing, rendering, submission
from bench.hooks import Row
from bench.scene import Scene, scene
from bench.timing import BenchError, Launcher, Summary
from slurm_mig.errors import SlurmMigError

LINE = "{:60} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6}  {}"


def _rows(build: Path, here: Scene, runs: int, parts: set[str]) -> Iterator[Row]:
    launcher = Launcher(build)
    if "hooks" in parts:
        yield from hooks.early(launcher, here, runs)
        yield from hooks.serve(launcher, here, runs)
    if "crowd" in parts:
        yield from hooks.crowd(launcher, here, runs)
    if "render" in parts:
        yield from rendering.rows(launcher, runs)
    if "locks" in parts:
        yield from contention.rows(here, runs)


def _choosing() -> tuple[list[Row], dict[str, Any]]:
    found = packing.run()
    rows = []
    for one in found["rows"]:
        what = f"choosing, 8 x {one['model']}, {one['kind']}"
        median, worst = one["median_ms"], one["worst_ms"]
        # The promise is about the worst node that was found; the median is of all of them.
        rows.append(Row(what, "ms", Summary(median, median, worst, one["nodes"]), None))
        rows.append(
            Row(f"{what}: worst", "ms", Summary(worst, worst, worst, 1), found["target_ms"])
        )
    return rows, found


def _number(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def _print(row: Row) -> None:
    cells = [_number(getattr(row.summary, name), row.unit) for name in ("median", "min", "p90")]
    cells.append("" if row.cpu_ms is None else _number(row.cpu_ms, "ms"))
    if row.asked is None:
        print(LINE.format(row.what, *cells, "", "", ""), flush=True)
        return
    ratio = row.summary.median / row.asked
    verdict = "ok" if ratio <= 1 else "OVER"
    asked = _number(row.asked, row.unit)
    print(LINE.format(row.what, *cells, asked, f"{ratio:.2f}", verdict), flush=True)


def _document(row: Row) -> dict[str, Any]:
    return {
        "what": row.what,
        "unit": row.unit,
        "median": round(row.summary.median, 4),
        "min": round(row.summary.min, 4),
        "p90": round(row.summary.p90, 4),
        "cpu_ms": row.cpu_ms,
        "runs": row.summary.runs,
        "asked": row.asked,
        "ok": row.asked is None or row.summary.median <= row.asked,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="runs of each (default: 20)")
    parser.add_argument("--crowd-runs", type=int, help="runs of the slow ones (default: --runs)")
    parser.add_argument(
        "--only",
        action="append",
        choices=("hooks", "crowd", "choose", "render", "submit", "locks"),
        help="a part of it",
    )
    parser.add_argument("--build", type=Path, default=Path("build"), help="where results go")
    return parser.parse_args()


def main() -> int:
    """Run it."""
    arguments = _arguments()
    # Ended from outside, it still takes its cluster and its folder with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parts = set(arguments.only or ("hooks", "crowd", "choose", "render", "submit", "locks"))
    rows: list[Row] = []
    document: dict[str, Any] = {"version": 1}

    def show(found: Iterator[Row]) -> None:
        for row in found:
            rows.append(row)
            _print(row)

    with scene() as here:
        document["machine"] = facts = machine.describe(here.scheduler.name)
        for key, value in facts.items():
            print(f"{key}: {value}")
        print(f"medians of {arguments.runs} runs; whole processes, started by bench/launch.c")
        print(LINE.format("", "median", "min", "p90", "cpu", "asked", "ratio", ""), flush=True)
        show(_rows(arguments.build, here, arguments.runs, parts - {"crowd"}))
        slow = arguments.crowd_runs or arguments.runs
        show(_rows(arguments.build, here, slow, parts & {"crowd"}))
    if "choose" in parts:
        found, document["packing"] = _choosing()
        show(iter(found))
    if "submit" in parts:
        show(submission.rows())
    document["rows"] = [_document(row) for row in rows]
    arguments.build.mkdir(exist_ok=True)
    (arguments.build / "bench.json").write_text(json.dumps(document, indent=2) + "\n")
    over = sum(not row["ok"] for row in document["rows"])
    print(f"{over} over what was asked" if over else "all as asked")
    return 1 if over else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchError, SlurmMigError) as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
