"""A program for a mount namespace of its own: hooks on a small disk that is full, or read-only.

`small_disk.py FOLDER full|read-only`; FOLDER holds nothing yet. Prints how many runs there were of
each outcome. Started by test_small_disk.py by `unshare -m`, so the mounts end with it.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import invariants
from hooking import Hooks, make_hooks
from invariants import Job
from partitioning import Site

PAGE = 4096
SIZE = 40 * PAGE


def mount(where: Path, options: str) -> None:
    """Mount, or remount, a tmpfs."""
    where.mkdir(mode=0o755, exist_ok=True)
    words = ("/usr/bin/mount", "-t", "tmpfs", "-o", f"mode=0755,{options}", "tmpfs", where)
    subprocess.run(words, check=True)


class Disk:
    """A small tmpfs at `path`."""

    def __init__(self, path: Path) -> None:
        self.path, self.filler = path, path / "filler"
        mount(path, f"size={SIZE}")

    def leave(self, pages: int) -> None:
        """Fill it up, but for so many pages."""
        self.filler.unlink(missing_ok=True)
        free = os.statvfs(self.path).f_bavail - pages
        self.filler.write_bytes(bytes(PAGE * max(free, 0)))

    def freeze(self) -> None:
        """Make it read-only."""
        mount(self.path, f"remount,ro,size={SIZE}")

    def free(self) -> None:
        """Make room, and let it be written."""
        mount(self.path, f"remount,rw,size={SIZE}")
        self.filler.unlink(missing_ok=True)


def judge(hooks: Hooks, site: Site, which: str, disk: Disk) -> str:
    """Run a hook of job 9 on the disk as it is, mend the disk, reconcile; the outcome."""
    run = hooks.run(which, 9)
    status, env, _ = hooks.task(9)
    seven = {7: Job(profiles=("1g.5gb",))}
    disk.free()
    invariants.always(hooks.node)
    if run.rc == 0 and which == "prolog":
        invariants.settled(hooks.node, {**seven, 9: Job(profiles=("3g.20gb",))}, promises=False)
    elif run.rc == 0 and not run.output:
        invariants.settled(hooks.node, seven, promises=False)
    else:
        assert len(run.output.splitlines()) == 1, run.output
        assert run.output.startswith("slurm-mig: "), run.output
        assert "internal error" not in run.output, run.output
        assert which == "epilog" or status or "CUDA_VISIBLE_DEVICES" not in env
    report = site.reconcile({7})
    assert report.keys() <= {"mended"}, report
    invariants.settled(hooks.node, seven, promises=False)
    return f"{which} {run.rc}"


def main(folder: Path, what: str) -> None:
    """Try every amount of room, or read-only, on the state and on the run directory."""
    hooks = make_hooks(folder, "A100-SXM4-40GB", epilog={"budget": 0.2})
    site = Site(hooks.node)
    disks = [Disk(hooks.node.folder / name) for name in ("state", "run")]
    site.acquire(7, "1g.5gb")
    hooks.job(9, "mig:3g.20gb(CNT:1)")
    outcomes: Counter[str] = Counter()
    for disk in disks:
        for pages in range(13) if what == "full" else (None,):
            for which in ("prolog", "epilog"):
                if which == "epilog":
                    site.acquire(9, "3g.20gb")
                if pages is None:
                    disk.freeze()
                else:
                    disk.leave(pages)
                outcomes[f"{disk.path.name} {judge(hooks, site, which, disk)}"] += 1
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
