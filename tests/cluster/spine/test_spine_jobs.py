"""Jobs of every kind get their instances on a real Slurm, use them, and leave nothing."""

import json
import random
from collections.abc import Mapping

import pytest
from spinecluster import MEMORY_MB, PROMISES, USER, USER_ID, Spine, gres

from slurm_mig.errors import SlurmMigError

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("spine")]


def memory(seen: Mapping) -> list[int]:
    """The sizes in MiB of the MIG devices that a task found by the UUIDs in its variable."""
    uuids = seen["visible"].split(",")
    assert [device["uuid"] for device in seen["devices"] if device["mig"]] == uuids
    return [device["memory_mb"] for device in seen["devices"]]


def test_srun_as_an_unprivileged_user(spine: Spine) -> None:
    """A user's srun finds its one instance in its environment and, by UUID, through NVML."""
    with spine.cluster.popen("srun", gres({"3g.20gb": 1}), spine.look, user=USER) as process:
        [seen] = spine.ended(process)
    assert memory(seen) == [MEMORY_MB["3g.20gb"]]
    assert seen["profiles"] == "3g.20gb"
    assert seen["devices"][0]["slices"] == 3


def test_device_nodes_belong_to_the_user_while_the_job_runs(spine: Spine) -> None:
    """The nodes of a job's GI and CI are its user's alone, 0400, as long as the job runs."""
    before = spine.owned("node1", USER_ID)
    process = spine.srun("it", "-w", "node1", gres({"2g.10gb": 1}), user=USER)
    spine.wait_ready("it")
    during = spine.device_nodes("node1")
    spine.let_go("it")
    spine.ended(process)
    spine.cluster.wait_nodes_idle()
    assert (before, spine.owned("node1", USER_ID), spine.device_nodes("node1")) == ([], [], {})
    assert len(during) == 2
    assert set(during.values()) == {(USER_ID, 0o400)}


def test_another_user_cannot_use_the_instance(spine: Spine) -> None:
    """A job's user can open its instance from outside the job too; another user cannot."""
    process = spine.srun("it", "-w", "node1", gres({"1g.5gb": 1}), user=USER)
    spine.wait_ready("it")
    [entry] = spine.entries("node1")
    simulation = spine.nodes["node1"].simulation
    with simulation.client(entry.uuids[0], user=USER_ID) as mine:
        held = [client.pid for client in simulation.clients()]
    with (
        pytest.raises(SlurmMigError, match="NO_PERMISSION"),
        simulation.client(entry.uuids[0], user=USER_ID - 1),
    ):
        pass
    spine.let_go("it")
    spine.ended(process)
    assert held == [mine.pid]


def test_batch_job_with_instances_of_two_profiles(spine: Spine) -> None:
    """A batch job that asks for a 3g.20gb and two 1g.5gb gets just these three."""
    wanted = {"3g.20gb": 1, "1g.5gb": 2}
    job = spine.cluster.sbatch(str(spine.look), gres(wanted), user=USER)
    spine.cluster.wait_job(job)
    [seen] = spine.seen(job)
    assert sorted(memory(seen)) == sorted(MEMORY_MB[p] for p, n in wanted.items() for _ in range(n))
    assert sorted(seen["profiles"].split(",")) == ["1g.5gb", "1g.5gb", "3g.20gb"]


def test_array_of_seven(spine: Spine) -> None:
    """Seven array tasks run at once, each with an instance of its own."""
    output = f"--output={spine.folder}/slurm/work/array-%a.out"
    spine.cluster.sbatch(f"{spine.look} all", gres({"1g.5gb": 1}), "--array=0-6", output, user=USER)
    spine.wait_ready("all", 7)
    spine.let_go("all")
    spine.end_of_jobs()
    files = [spine.folder / f"slurm/work/array-{index}.out" for index in range(7)]
    seen = [json.loads(file.read_text()) for file in files]
    assert [one["task"] for one in seen] == [str(index) for index in range(7)]
    assert [memory(one) for one in seen] == [[MEMORY_MB["1g.5gb"]]] * 7
    assert len({(one["node"], one["visible"]) for one in seen}) == 7


def test_job_on_two_nodes(spine: Spine) -> None:
    """On each of its nodes the tasks of a job see that node's instances, and no others."""
    process = spine.srun("both", "-N2", gres({"2g.10gb": 1, "1g.5gb": 1}), user=USER)
    spine.wait_ready("both", 2)
    owned = {
        name: {uuid for entry in spine.entries(name) for uuid in entry.uuids}
        for name in spine.nodes
    }
    spine.let_go("both")
    seen = {one["node"]: one for one in spine.ended(process)}
    assert set(seen) == {"node1", "node2"}
    for name, one in seen.items():
        assert set(one["visible"].split(",")) == owned[name]
        assert sorted(memory(one)) == [MEMORY_MB["1g.5gb"], MEMORY_MB["2g.10gb"]]


def test_jobs_at_once_fill_every_promise(spine: Spine) -> None:
    """As many jobs as a node promises instances, started together, all run, all disjoint."""
    wanted = [profile for profile, count in PROMISES.items() for _ in range(count)]
    jobs = [
        spine.cluster.sbatch(f"{spine.look} all", "-w", "node1", gres({profile: 1}), user=USER)
        for profile in wanted
    ]
    spine.wait_ready("all", len(jobs))
    lives = spine.instances("node1")
    spine.let_go("all")
    for job in jobs:
        spine.cluster.wait_job(job)
    seen = [one for job in jobs for one in spine.seen(job)]
    assert [memory(one) for one in seen] == [[MEMORY_MB[profile]] for profile in wanted]
    assert sorted(gi.profile for gi in lives) == sorted(wanted)
    assert {one["visible"] for one in seen} == {ci.uuid for gi in lives for ci in gi.compute}


def test_many_short_jobs_never_miss(spine: Spine) -> None:
    """As long as nobody else makes instances, Slurm sends no job that has no room; none leaks."""
    made = sum(node.simulation.counts().made for node in spine.nodes.values())
    before = [len(spine.log_lines(name)) for name in spine.nodes]
    profiles = [profile for profile, count in PROMISES.items() for _ in range(count)] * 4
    for profile in random.sample(profiles, len(profiles)):
        spine.cluster.sbatch("exit 0", gres({profile: 1}), user=USER)
    spine.end_of_jobs()
    lines = [
        line
        for name, number in zip(spine.nodes, before, strict=True)
        for line in spine.log_lines(name)[number:]
        if " prolog: " in line
    ]
    assert len(lines) == len(profiles)
    assert all(" prolog: outcome=served " in line for line in lines)
    assert sum(node.simulation.counts().made for node in spine.nodes.values()) == made + len(lines)


def test_job_without_mig_touches_nothing(spine: Spine) -> None:
    """A job that asks for no instance never reaches Python: no ledger, log, folder or NVML call."""
    node = spine.nodes["node1"]

    def state() -> list[object]:
        files = sorted(
            path for part in ("state", "run") for path in (node.folder / part).rglob("*")
        )
        times = [(path, path.stat().st_mtime_ns) for path in files]
        return [times, spine.log_lines("node1"), node.simulation.calls()]

    spine.cluster.srun("-w", "node1", gres({"1g.5gb": 1}), "true")
    spine.cluster.wait_nodes_idle()
    before = state()
    said = spine.cluster.srun("-w", "node1", "printenv", user=USER)
    spine.cluster.wait_nodes_idle()
    assert state() == before
    assert len(spine.log_lines("node1")) >= 2  # of the job before: there is something to change
    assert "CUDA_VISIBLE_DEVICES" not in said.stdout
    assert "SLURM_MIG_DEVICES" not in said.stdout


def test_every_step_of_a_batch_job_sees_the_same(spine: Spine) -> None:
    """The script, a step, and an overlapping step beside another see the job's two instances."""
    script = "\n".join(
        [
            f"{spine.look}",
            f"srun {spine.look}",
            f"srun --overlap {spine.look} &",
            f"srun --overlap {spine.look} &",
            "wait",
        ]
    )
    job = spine.cluster.sbatch(script, gres({"1g.5gb": 2}), "-n1", user=USER)
    spine.cluster.wait_job(job)
    seen = spine.seen(job)
    assert len(seen) == 4
    assert memory(seen[0]) == [MEMORY_MB["1g.5gb"]] * 2
    assert seen[1:] == [seen[0]] * 3


def test_salloc_then_srun(spine: Spine) -> None:
    """A step started inside salloc has the instance of the allocation."""
    words = ["salloc", "--quiet", gres({"3g.20gb": 1}), "srun", spine.look]
    with spine.cluster.popen(*words, user=USER) as process:
        [seen] = spine.ended(process)
    assert memory(seen) == [MEMORY_MB["3g.20gb"]]


def test_failed_cancelled_and_timed_out_jobs_leave_nothing(spine: Spine) -> None:
    """However a job ends, its instance was there until then and is gone after its Epilog."""
    options = ("-w", "node1", gres({"1g.5gb": 1}))
    commands = {"FAILED": f"{spine.look} fail; exit 3"}
    commands |= {state: f"{spine.look} {state}" for state in ("CANCELLED", "TIMEOUT")}
    jobs = {
        state: spine.cluster.sbatch(command, *options, user=USER)
        for state, command in commands.items()
    }
    for name in ("fail", "CANCELLED", "TIMEOUT"):
        spine.wait_ready(name)
    lived = len(spine.instances("node1"))
    # Slurm looks for jobs past their end every 30 s, so the end is put where it is past at once;
    # not at "now", which is past, and refused, when the second changes on the way to slurmctld.
    change = [f"JobId={jobs['TIMEOUT']}", "EndTime=now+2"]
    spine.cluster.run("scontrol", "update", *change)
    spine.let_go("fail")
    spine.cluster.run("scancel", str(jobs["CANCELLED"]))
    for state, job in jobs.items():
        spine.cluster.wait_job(job, state)
    spine.cluster.wait_nodes_idle()
    assert lived == 3
    assert spine.instances("node1") == []
    assert spine.entries("node1") == []
