"""The failpoints themselves: all are there, each where it says, and none is in the product."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hooking import make_hooks
from killing import Mortal

import slurm_mig
from slurm_mig.rehearsal import failpoints

#: In the order in which a Prolog comes by them; what lies between two is in the full list.
LANDMARKS = [
    "hook/handover.open_jobs/after",
    "hook/nvmlInit/before",
    "acquire/locks.job/after",
    "acquire/handover.open/after",
    "acquire/locks.host/before",
    "acquire/ledger.intend/before",
    "acquire/ledger.intend/after",
    "acquire/locks.host.free/after",
    "acquire/locks.gpu/after",
    "acquire/handover.begin/after",
    "acquire/driver.create_gi/before",
    "acquire/nvmlDeviceCreateGpuInstanceWithPlacement/after",
    "acquire/nvmlGpuInstanceCreateComputeInstance/before",
    "acquire/driver.create_ci/after",
    "acquire/devices.grant/before",
    "acquire/os.chown/before",
    "acquire/ledger.live/after",
    "acquire/ledger.served/after",
    "acquire/handover.give/before",
    "acquire/handover.give/after",
    "acquire/locks.job.free/after",
    "hook/nvmlShutdown/after",
    "hook/log.write/after",
]


@pytest.mark.parametrize("which", ["prolog", "epilog", "reconcile"])
def test_all_changes_are_surrounded(tmp_path, which):
    """Whatever a hook or reconcile changes lies between two failpoints; a warm start has the same.

    Python reports each change to files and each program that it starts (PEP 578); none came from
    outside a failpoint. Forking a warm Python leaves out nothing but its start: the names are the
    same.
    """
    names = {}
    for warm in (False, True):
        folder = tmp_path / f"warm-{warm}"
        folder.mkdir()
        hooks = make_hooks(folder)
        hooks.job(7, "mig:3g.20gb(CNT:1),mig:1g.5gb(CNT:1)")
        with Mortal(hooks, warm=warm) as m:
            m.alive([])
            if which != "prolog":
                assert m.run("prolog").rc == 0
            names[warm] = m.record(which)  # asserts that nothing was outside
            assert m.last_run.rc == 0
    assert names[True] == names[False]
    assert len(names[True]) == len(set(names[True]))
    if which == "prolog":
        assert [name for name in names[True] if name in LANDMARKS] == LANDMARKS


OUTSIDE = """
import sys, os, pathlib
open("{folder}/a", "w").close()
pathlib.Path("{folder}/b").write_bytes(b"")
os.mkdir("{folder}/c")
os.truncate("{folder}/a", 1)
"""


def test_a_change_without_a_failpoint_is_seen(tmp_path):
    """What is changed outside all failpoints is told, so the list cannot be short unnoticed."""
    record = tmp_path / "record-7"
    record.touch()
    launcher = failpoints.install(tmp_path)
    subprocess.run(
        [launcher, "-c", OUTSIDE.format(folder=tmp_path), ":".join(sys.path)],
        env={"SLURM_JOB_ID": "7"},
        check=True,
    )
    lines = record.read_text().splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("outside ")] == [
        ["outside", "open"],
        ["outside", "open"],
        ["outside", "os.truncate"],
    ]
    assert [line for line in lines if not line.startswith("outside ")] == [
        "hook/os.mkdir/before",
        "hook/os.mkdir/after",
    ]


def test_named_point_kills_the_group(new_hooks):
    """At the failpoint that is named, and no later, the whole process group dies by SIGKILL."""
    hooks = new_hooks()
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    with Mortal(hooks) as m:
        run = m.run("prolog", kill="acquire/nvmlGpuInstanceCreateComputeInstance/before")
        assert run.rc == -9
        (instance,) = m.sim.instances()
        assert instance.compute == ()
        assert hooks.ledger() == [(7, "3g.20gb", "intent")]
        run = m.run("prolog", kill="acquire/nvmlGpuInstanceCreateComputeInstance/after")
        assert run.rc == -9
        (instance,) = m.sim.instances()
        assert len(instance.compute) == 1
        assert m.run("epilog", kill="no/such/point").rc == 0
        hooks.nothing_left()


def test_product_knows_of_no_failpoint():
    """No module of the product names failpoints: they cost nothing where they are not asked for."""
    package = Path(slurm_mig.__file__).parent
    named = [
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.suffix in (".py", ".j2", ".toml") and b"failpoint" in path.read_bytes().lower()
    ]
    assert named == [os.path.join("rehearsal", "failpoints.py")]  # noqa: PTH118
