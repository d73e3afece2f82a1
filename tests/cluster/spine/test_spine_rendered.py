"""The whole way: one cluster.toml, its rendered files, a portable request, the token, an instance.

Nothing is written by hand but what an admin writes. The nodes' scontrol is one that fails, so the
hooks know what a job asked for from the token alone.
"""

import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import filelock
import pynvml
import pytest
from spinecluster import MEMORY_MB, USER, portable_python

import slurm_mig
from slurm_mig import clusterfile, configfile, hooks
from slurm_mig.rehearsal import look, slurm_folder
from slurm_mig.rehearsal.cluster import Cluster, Node, SlurmInstall
from slurm_mig.render import render
from slurm_mig.simulator.handle import Simulation

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("spine-others")]

_DESCRIPTION = """
[slurm]
release = "{release[0]}.{release[1]:02}"
config_directory = "{folder}/slurm/etc"
accounting = false
[install]
directory = "{folder}"
[job_submit]
token = "{field}"
[layout]
default = "balanced"
[node.driver]
library = "{library}"
root = "{root}"
[node.state]
directory = "{folder}/state"
run_directory = "{folder}/run"
[node.slurm]
request = "token"
scontrol = "/bin/false"
[node.log]
to = "{folder}/log"
[nodes.mixed]
hosts = "n1"
gpus = [
    {{ model = "A100-SXM4-40GB", index = "0" }},
    {{ model = "A100-SXM4-40GB", index = "1", mig = false }},
]
conf = "{where} CPUs=8 State=UNKNOWN"
"""
_LOOK = """#!/bin/sh
exec {python} -E -s -S {folder}/job/look.py {library}
"""


class Whole(NamedTuple):
    """The running cluster and its one node."""

    cluster: Cluster
    simulation: Simulation
    look: Path
    field: str


def _home(module: Any) -> Path:
    path = Path(module.__file__)
    return path.parent if path.name == "__init__.py" else path


def _start(folder: Path, install: SlurmInstall, patch: pytest.MonkeyPatch) -> Iterator[Whole]:
    folder.chmod(0o755)
    simulation = Simulation.create(folder / "sim", ["A100-SXM4-40GB:2"], privileged_uid=0)
    # The GPU that stays whole; slurmd wants to see the file that gres.conf names.
    whole = folder / "nvidia1"
    os.mknod(whole, stat.S_IFCHR, os.makedev(195, 1))
    python = portable_python(folder / "python")
    (folder / "job").mkdir()
    for source in (look.__file__, pynvml.__file__):
        shutil.copy(source, folder / "job")
    script = folder / "look"
    script.write_text(_LOOK.format(python=python, folder=folder, library=str(simulation.library)))
    script.chmod(0o755)
    mounts = [folder]
    if install.inside:
        patch.setattr(sys, "executable", str(python))
        mounts += [_home(slurm_mig), *{_home(one).parent for one in (filelock, pynvml)}]
    # Slurm 22.05 brings no `extra` to a Prolog.
    field = "extra" if install.release >= (23, 2) else "comment"

    def rendered(places: Mapping[str, str]) -> dict[str, str]:
        text = _DESCRIPTION.format(
            release=install.release,
            folder=folder,
            field=field,
            library=simulation.library,
            root=simulation.root,
            where=places["n1"],
        )
        files = render(clusterfile.loads(text))
        config = folder / "config.toml"
        config.write_text(next(file.text for file in files if file.what == "node"))
        hooks.install(folder / "hooks", configfile.load(config), config)
        names = [(PurePath(file.name), file.text) for file in files]
        return {
            path.name: text.replace("/dev/nvidia1", str(whole))
            for path, text in names
            if path.parent.name == "slurm"
        }

    cluster = Cluster(
        folder / "slurm",
        [Node("n1")],
        install=install,
        rendered=rendered,
        also_mount=mounts if install.inside else (),
        requeue_delay=5,
    )
    with cluster:
        yield Whole(cluster, simulation, script, field)


@pytest.fixture(scope="module", params=["", "trixie", "forky"])
def whole(request: pytest.FixtureRequest, slurm_install: SlurmInstall) -> Iterator[Whole]:
    """The cluster, on this machine's Slurm and on those of folders where they exist."""
    install: SlurmInstall | None = slurm_install
    if request.param:
        install = slurm_folder.find(request.param)
    if install is None:
        pytest.skip(
            f"no {request.param}: python -m slurm_mig.rehearsal.slurm_folder {request.param}"
        )
    folder = Path(tempfile.mkdtemp(prefix="whole-"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            yield from _start(folder, install, patch)
    finally:
        shutil.rmtree(folder)


def _idle(whole: Whole) -> None:
    whole.cluster.wait_nodes_idle()
    assert whole.simulation.instances() == []
    assert "DRAIN" not in whole.cluster.node_states("n1")


def test_portable_request(whole: Whole) -> None:
    """`mig:20gb` is served as 3g.20gb, by the token alone, with the user's own words kept."""
    own = {"comment": "--comment=mine"}.get(whole.field, "--extra=mine")
    job = whole.cluster.sbatch(str(whole.look), "--gres=mig:20gb:1", own, user=USER)
    whole.cluster.wait_job(job)
    record = whole.cluster.job(job)
    seen = json.loads(whole.cluster.output_file(job).read_text())
    assert seen["profiles"] == "3g.20gb"
    assert [device["memory_mb"] for device in seen["devices"]] == [MEMORY_MB["3g.20gb"]]
    assert record[whole.field] == "slurm-mig/1:3g.20gb=1;mine"
    _idle(whole)


def test_two_profiles_and_srun(whole: Whole) -> None:
    """An srun with two profiles by name sees both, on the one GPU that is partitioned."""
    process = whole.cluster.popen(
        "srun", "--gres=mig:3g.20gb:1,mig:1g.5gb:2", whole.look, user=USER
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    seen = json.loads(out)
    assert sorted(seen["profiles"].split(",")) == ["1g.5gb", "1g.5gb", "3g.20gb"]
    assert len(seen["devices"]) == 3
    _idle(whole)


def test_forged_token(whole: Whole) -> None:
    """A token that a user writes gets nothing: the job has no instance, and no MIG device."""
    own = {"comment": "--comment="}.get(whole.field, "--extra=") + "slurm-mig/1:7g.40gb=1;"
    script = 'echo "${CUDA_VISIBLE_DEVICES:-none}"'
    job = whole.cluster.sbatch(script, own, user=USER)
    whole.cluster.wait_job(job)
    assert whole.cluster.output_file(job).read_text().strip() == "none"
    assert whole.cluster.job(job)[whole.field] == "slurm-mig/1:none;"
    _idle(whole)


def test_whole_gpu(whole: Whole) -> None:
    """`--gres=gpu:1` gets the GPU that stays whole; nothing is partitioned for it."""
    job = whole.cluster.sbatch(
        'echo "$CUDA_VISIBLE_DEVICES/$SLURM_JOB_GPUS/$SLURM_MIG_DEVICES"', "--gres=gpu:1", user=USER
    )
    whole.cluster.wait_job(job)
    assert whole.cluster.output_file(job).read_text().strip() == "0/0/"
    _idle(whole)
