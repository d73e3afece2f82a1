"""Measures `slurm-mig render -o DIR` of a large cluster: the whole command, as an admin runs it."""

import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.hooks import Row
from bench.timing import BenchError, Launcher, Run, Summary

GROUPS, NODES = 200, 10_000
#: Models whose profiles Slurm tells apart (facts of type ids: `slurm_mig/typeid.py`).
_MODELS = ("A100-SXM4-40GB", "A100-SXM4-80GB", "H100-SXM5-80GB", "H200-SXM5-141GB")
_LAYOUTS = ("balanced", "small", "halves", "whole")


def cluster() -> str:
    """A cluster.toml of 200 groups of 50 nodes: four models, every named layout, mixed nodes."""
    lines = ["[slurm]", 'release = "24.11"', "[layout]", 'default = "balanced"']
    each = NODES // GROUPS
    for number in range(GROUPS):
        model = _MODELS[number % len(_MODELS)]
        lines += [
            f"[nodes.rack{number:03d}]",
            f'hosts = "r{number:03d}n[{1:03d}-{each // 2:03d},{each // 2 + 1:03d}-{each:03d}]"',
            'conf = "CPUs=128 RealMemory=1031000 Features=gpu,ib"',
        ]
        if number % 10 == 9:
            whole = f'{{ model = "{model}", index = "4-7", mig = false, type = "whole" }}'
            lines.append(f'gpus = [ {{ model = "{model}", index = "0-3" }}, {whole} ]')
        else:
            lines.append(f'gpus = "{model}:8"')
        layout = _LAYOUTS[number // len(_MODELS) % len(_LAYOUTS)]
        lines.append(f'layout = "{layout}"')
    return "\n".join(lines) + "\n"


def rows(launcher: Launcher, count: int) -> Iterator[Row]:
    """Wall time and the peak of memory, each run into an empty folder."""
    with tempfile.TemporaryDirectory(prefix="slurm-mig-bench-") as name:
        folder = Path(name)
        (folder / "cluster.toml").write_text(cluster())
        program = Path(sys.executable).with_name("slurm-mig")
        command = [program, "render", "-c", folder / "cluster.toml", "-o"]
        script = folder / "render"

        def once(number: int) -> Run:
            output = folder / f"out{number}"
            words = shlex.join(map(str, [*command, output]))
            script.write_text(f"#!/bin/sh\nexec {words}\n")
            script.chmod(0o755)
            run = launcher.run(script, {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
            # A command that did nothing is quick: see that it did its work.
            made = len(list(output.glob("nodes/*/config.toml")))
            nodes = sum("Gres=" in line for line in _lines(output / "slurm/slurm-mig.conf"))
            if (made, nodes) != (GROUPS, GROUPS):
                raise BenchError(f"{made} files and {nodes} NodeName lines, not {GROUPS} of each")
            return run

        once(0)  # the first run fills the caches of files and pages
        runs = [once(number) for number in range(1, count + 1)]
    what = f"render {NODES:,} nodes in {GROUPS} groups"
    seconds = Summary.of([run.ms / 1e3 for run in runs])
    peak = Summary.of([run.peak_kib * 1024 / 1e6 for run in runs])
    cpu = sorted(run.cpu_us / 1e3 for run in runs)[len(runs) // 2]
    yield Row(what, "s", seconds, 2.0, cpu)
    yield Row(f"{what}: peak memory", "MB", peak, 150.0)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("NodeName=")]
