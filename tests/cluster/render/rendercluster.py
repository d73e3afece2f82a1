"""Clusters from a cluster.toml: rendered as an admin renders it, started by a real Slurm.

The tests add to each node group's `conf` where its slurmd listens, and no more; gres.conf, the
fragment and the job_submit module are used as they come out.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from slurm_mig import clusterfile, hooks
from slurm_mig.description import Description
from slurm_mig.rehearsal.cluster import Cluster, Node, SlurmInstall
from slurm_mig.render import render

#: Describes the nodes: called with {node: where it listens}, for `conf`. Keys before the first
#: table are of [slurm].
Describe = Callable[[Mapping[str, str]], str]

_HEAD = """
install.directory = "{folder}"
[slurm]
release = "{release[0]}.{release[1]:02}"
config_directory = "{folder}/slurm/etc"
accounting = false
"""
_GRES = re.compile(r"(?P<name>[a-z]+)(?::(?P<type>[^:(,]+))?:(?P<count>\d+)(?:\([^)]*\))?")
#: What a daemon says that has no past, no PMIx, or peers that are not up yet.
_HARMLESS = re.compile(
    r"state (save )?file|mpi/pmix|MPI: Cannot create context|Zero Bytes were transmitted"
    r"|Unexpected missing socket error|_forward_thread|Connection refused"
    r"|gettimeofday\(\): \d+ microseconds"  # of a machine with much to do
    r"|msg_type=SRUN_JOB_COMPLETE|cgroup/(cpuset|memory)/tasks|namespace .(cpuset|memory)"
)


def slurm_files(description: Description) -> dict[str, str]:
    """The rendered files that go beside slurm.conf, by name."""
    places = [(PurePath(file.name), file.text) for file in render(description)]
    return {path.name: text for path, text in places if path.parent.name == "slurm"}


def counts(gres: str) -> dict[tuple[str, str], int]:
    """{(name, type): count} of a Gres string; the sockets that Slurm adds are left out."""
    return {
        (found["name"], found["type"] or ""): int(found["count"]) for found in _GRES.finditer(gres)
    }


def complaints(log: str) -> list[str]:
    """The errors of a daemon's log, but for those of any new cluster."""
    lines = [line for line in log.splitlines() if "error:" in line or "fatal:" in line]
    return [line for line in lines if not _HARMLESS.search(line)]


class Rendered:
    """A running cluster, and the description that it was rendered from."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.description: Description

    def promises(self) -> dict[str, dict[tuple[str, str], int]]:
        """What each node must offer, by the description; groups here have one node each."""
        found = {}
        for group in self.description.groups:
            wanted = {("mig", name): count for name, count in group.promises.items() if count}
            if group.padding:
                wanted["mig", "none"] = group.padding
            for gpus in group.whole:
                place = ("gpu", gpus.type)
                wanted[place] = wanted.get(place, 0) + len(gpus.indices)
            found[group.hosts] = wanted
        return found

    def offered(self) -> dict[str, dict[tuple[str, str], int]]:
        """What slurmctld shows of each node that has a slurmd."""
        said = self.cluster.run("sinfo", "-h", "-N", "-o", "%N|%G", "--noheader").stdout
        rows = [line.strip().split("|") for line in said.splitlines()]
        names = {node.name for node in self.cluster.nodes}
        return {name: counts(gres) for name, gres in rows if name in names}

    def registered(self, name: str) -> dict[tuple[str, str], int]:
        """What the slurmd of a node found in its files, by its log."""
        lines = re.findall(
            r"Gres Name=(\S+)(?: Type=(\S+))? Count=(\d+)", self.cluster.log(f"slurmd-{name}")
        )
        found: dict[tuple[str, str], int] = {}
        for gres, kind, count in lines:
            kind = kind.replace("(null)", "")
            found[gres, kind] = found.get((gres, kind), 0) + int(count)
        return found

    def allocate(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Allocate to one job on each node, all at once; no process is started in them."""
        clients = [
            self.cluster.popen("salloc", "--no-shell", "-w", name, *options)
            for name, options in wanted.items()
        ]
        for client in clients:
            _, said = client.communicate(timeout=60)
            assert client.returncode == 0, said

    def running(self) -> dict[str, dict[tuple[str, str], int]]:
        """What each running job has, by its one node."""
        return {
            job["nodes"]: counts(",".join(job["gres_detail"]).replace("(CNT:", ":"))
            for job in self.cluster.jobs()
            if "RUNNING" in job["job_state"]
        }


def no_hooks(folder: Path) -> None:
    """Put hooks in their place that do nothing: what is tested is Slurm, not they."""
    (folder / "hooks").mkdir()
    for name in (hooks.PROLOG, hooks.TASK_PROLOG, hooks.EPILOG):
        path = folder / "hooks" / name
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)


@contextmanager
def running(
    install: SlurmInstall,
    nodes: Sequence[str],
    describe: Describe,
    *,
    prepare: Callable[[Path], Any] = no_hooks,
    **options: Any,
) -> Iterator[Rendered]:
    """A cluster of these nodes, rendered from what `describe` says of them.

    `prepare` puts the hooks into FOLDER/hooks; options are the Cluster's.
    """
    folder = Path(tempfile.mkdtemp(prefix="render-"))
    folder.chmod(0o755)
    try:
        prepare(folder)

        def rendered(places: Mapping[str, str]) -> dict[str, str]:
            text = _HEAD.format(release=install.release, folder=folder) + describe(places)
            one.description = clusterfile.loads(text)
            return slurm_files(one.description)

        mounts = [folder, *options.pop("also_mount", ())] if install.inside else []
        cluster = Cluster(
            folder / "slurm",
            [Node(name) for name in nodes],
            install=install,
            rendered=rendered,
            also_mount=mounts,
            **options,
        )
        one = Rendered(cluster, folder)
        with cluster:
            yield one
    finally:
        shutil.rmtree(folder)
