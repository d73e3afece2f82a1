"""Job names that imitate Slurm's own record of a job, on real Slurms: nothing of them is believed.

22.05 has no JSON for one job, so its text is read, in which a user's line breaks stand as they are.
"""

import json
from collections.abc import Iterator

import pytest
from spinecluster import USER, USER_ID, Spine, gres, looked_over, running

from slurm_mig.rehearsal.cluster import SlurmInstall
from slurm_mig.rehearsal.slurm_folder import DEFAULT_FOLDER

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("forged")]

OTHER_ID = 4321
#: Lines that `scontrol show job -d` of 22.05 prints, of a job of somebody else's with a larger
#: instance. slurmctld takes a name of at most 1023 bytes.
LINES = f"""
   UserId=root({OTHER_ID}) GroupId=root(0) MCS_label=N/A
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   StartTime=2026-11-23T14:57:56 EndTime=Unknown Deadline=N/A
   NodeList=node1
   TRES=cpu=1,node=1,billing=1
   Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*
   JOB_GRES=mig:3g.20gb:1
     Nodes=node1 CPU_IDs=1 Mem=0 GRES=mig:3g.20gb(CNT:1)
   MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0
"""
JSON = '"}],"gres_detail":["mig:3g.20gb(CNT:1)"],"user_id":4321,"job_id":1,"x":[{"y":"'
#: What stands in the name, by what it tries.
NAMES = {
    "detail": LINES[LINES.index("\n   JOB_GRES") :],
    "record": f"x{LINES}",
    "record and head": f"x{LINES}\nJobId=9 JobName=y",
    "record and task": f"x{LINES}\nJobId=9 ArrayJobId=9 ArrayTaskId=1 JobName=y",
    "head alone": "x\nJobId=9 JobName=y",
    "no detail": "x\n   MinCPUsNode=1\nJobId=9 JobName=",
    "json": JSON,
    "mig": "mig\r\n\x1b[2J$(id)`id`{{ 7*7 }}",
}


@pytest.fixture(scope="session", params=["here", "trixie", "forky"])
def shared(request: pytest.FixtureRequest, slurm_install: SlurmInstall) -> Iterator[Spine]:
    """A cluster on this machine's own Slurm, and on others where a folder has them."""
    install = slurm_install
    if request.param != "here":
        folder = DEFAULT_FOLDER / request.param
        if not folder.is_dir():
            pytest.skip(f"no {folder}: python -m slurm_mig.rehearsal.slurm_folder {request.param}")
        install = SlurmInstall.find(folder)
    yield from running(install)


@pytest.fixture
def spine(shared: Spine) -> Iterator[Spine]:
    """That cluster, looked over after the test."""
    yield from looked_over(shared)


def served(spine: Spine, name: str, *options: str) -> list[tuple[str, str, str]]:
    """Run a batch job of this name; (profiles, uid of the devices, outcome) as its hooks saw it."""
    for file in (spine.cluster.folder / "work").glob("*.out"):
        file.unlink()
    before = len(spine.log_lines("node1"))
    spine.cluster.sbatch(
        str(spine.look),
        *("-w", "node1", gres({"1g.5gb": 1}), f"--job-name={name}", f"--comment={name}", *options),
        user=USER,
    )
    spine.cluster.wait_until(lambda: not spine.cluster.run("squeue", "-h").stdout, "its end")
    spine.cluster.wait_nodes_idle()
    files = sorted((spine.cluster.folder / "work").glob("*.out"))
    seen = [
        json.loads(line) for f in files for line in f.read_text().splitlines() if line[:1] == "{"
    ]
    new = [line for line in spine.log_lines("node1")[before:] if " prolog: " in line]
    assert all(line.isprintable() for line in new), new
    said = [dict(word.partition("=")[::2] for word in line.split() if "=" in word) for line in new]
    return [
        (one["profiles"], line["uid"], line["outcome"])
        for one, line in zip(seen, said, strict=True)
    ]


@pytest.mark.parametrize("tried", NAMES)
def test_a_name_that_imitates_slurms_record(spine: Spine, tried: str) -> None:
    """The job gets what it asked for, as its own user, and the node's log has one plain line."""
    assert served(spine, NAMES[tried]) == [("1g.5gb", str(USER_ID), "served")]


@pytest.mark.parametrize("tried", ["record", "record and head", "record and task"])
def test_such_a_name_of_an_array(spine: Spine, tried: str) -> None:
    """Each task of an array gets what it asked for; of the last one scontrol shows all others."""
    assert served(spine, NAMES[tried], "--array=0-2") == [("1g.5gb", str(USER_ID), "served")] * 3


def test_a_miss_of_a_job_with_a_name_that_is_no_utf8(spine: Spine) -> None:
    """It is requeued as any other job, and starts when there is room; the node is not drained."""
    taken = spine.occupy("node1")
    script = spine.folder / "job/odd"
    script.write_text(f"#!/bin/sh\n{spine.look}\n")
    # The name goes through sh: what is no UTF-8 in an argument would be refused before.
    submit = (
        f"exec {spine.cluster.install.program('sbatch')} --parsable -w node1 --gres=mig:1g.5gb:1 "
        f"--output={spine.cluster.folder}/work/%j.out "
        f"--job-name=\"$(printf '\\377\\303(')\" {script}"
    )
    job = int(spine.cluster.run("/bin/sh", "-c", submit, user=USER).stdout)
    spine.wait_back(job)
    drained = "DRAIN" in spine.cluster.node_states("node1")
    for gpu, gi in enumerate(taken):
        spine.remove_foreign("node1", gpu, gi)
    spine.cluster.wait_job(job)
    assert not drained
    assert [seen["profiles"] for seen in spine.seen(job)] == ["1g.5gb"]
