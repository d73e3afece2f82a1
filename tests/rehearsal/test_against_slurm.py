"""The stand-in beside the real thing: recorded answers, and one job on both, live."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rehearsing import wait_for

from slurm_mig.rehearsal.cluster import Cluster, SlurmInstall, SlurmMissing
from slurm_mig.rehearsal.cluster import Node as ClusterNode
from slurm_mig.rehearsal.pytest_plugin import StandinFactory
from slurm_mig.rehearsal.records import job_document, node_document
from slurm_mig.rehearsal.standin import Standin, StandinNode

REPOSITORY = Path(__file__).parents[2]
SAMPLES = REPOSITORY / "tests/slurm/samples"
RELEASES = ["22.05", "24.11", "26.05"]
ENV = {"PATH": "/usr/bin:/bin"}


def shape(value: Any) -> Any:
    """What kind of thing a JSON value is; of a list, what its first element is."""
    if isinstance(value, dict) and set(value) == {"set", "infinite", "number"}:
        return "number object"
    if isinstance(value, dict):
        return "object"
    if isinstance(value, list):
        return ["list of", *{str(shape(one)) for one in value[:1]}]
    return type(value).__name__


def sample(release: str, name: str, key: str, **fields: Any) -> dict[str, Any]:
    """The element of a recorded answer that has these fields."""
    listed = json.loads((SAMPLES / release / f"{name}.json").read_text())[key]
    (found,) = [one for one in listed if all(one[k] == v for k, v in fields.items())]
    return found


# Keys whose kind depends on what the recorded job happened to have.
VARYING = {"array_task_id", "job_resources"}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("name", "job_id", "gres", "nodes"),
    [
        ("running", 2, "mig:3g.20gb:1", ["node01"]),
        ("mixed", 3, "mig:3g.20gb:1,mig:1g.5gb:2", ["node01", "node02"]),
        ("two_nodes", 4, "mig:2", ["node03", "other"]),
        ("no_gres", 1, None, ["node01"]),
    ],
)
def test_job_json_is_like_the_recorded_one(
    slurm_mig_standin: StandinFactory,
    release: str,
    name: str,
    job_id: int,
    gres: str | None,
    nodes: list[str],
) -> None:
    """Every key of the stand-in is in the real answer, and of its kind; the GRES are equal."""
    real = sample(release, name, "jobs", job_id=job_id)
    both = {"3g.20gb": 2, "1g.5gb": 4}
    cluster = [
        StandinNode("node01", both),
        StandinNode("node02", both),
        StandinNode("node03", {"2g.10gb": 3}),
        StandinNode("other", {"1g.5gb+me": 2, "1g.5gb": 6}),
    ]
    slurm = slurm_mig_standin(cluster, release=release)
    number = slurm.sbatch("exec sleep 600", gres=gres, nodelist=nodes, env=ENV)
    job = slurm.wait_running(number)
    text = job_document([job], slurm.version, "main", detail=True)
    (ours,) = json.loads(text)["jobs"]
    assert set(ours) - set(real) == set()
    for key in set(ours) - VARYING:
        assert (key, shape(ours[key])) == (key, shape(real[key]))
    for key in ("gres_detail", "nodes", "tres_per_node", "job_state", "batch_flag", "partition"):
        assert (key, ours[key]) == (key, real[key])
    assert placed(ours) == placed(real) == nodes


def placed(job: dict[str, Any]) -> list[str]:
    """The nodes in a job's `job_resources`, in each release's place for them."""
    resources = job["job_resources"]
    if "allocated_nodes" in resources:
        return [node["nodename"] for node in resources["allocated_nodes"]]
    return [node["name"] for node in resources["nodes"]["allocation"]]


@pytest.mark.parametrize("release", RELEASES)
def test_node_json_is_like_the_recorded_one(
    slurm_mig_standin: StandinFactory, release: str
) -> None:
    """A drained node in use: same keys, same kinds, same state, counts and reason."""
    real = sample(release, "node_drained", "nodes", reason="a b=c, 'd'")
    counts = {"3g.20gb": 2, "1g.5gb": 4}
    slurm = slurm_mig_standin([StandinNode(real["name"], counts)], release=release)
    gres = "mig:3g.20gb:1,mig:1g.5gb:4"
    slurm.wait_running(slurm.submit(["sleep", "600"], gres=gres, env=ENV))
    change = {"state": "drain", "reason": "a b=c, 'd'", "extra": real.get("extra", "")}
    slurm.update_node(real["name"], change)
    node = slurm.node(real["name"])
    (ours,) = json.loads(node_document([node], slurm.version, "main"))["nodes"]
    assert set(ours) - set(real) == set()
    for key in set(ours):
        assert (key, shape(ours[key])) == (key, shape(real[key]))
    states = ("state", "state_flags") if release == "22.05" else ("state", "extra")
    for key in ("gres", "gres_used", "gres_drained", "reason", *states):
        assert (key, ours[key]) == (key, real[key])


# --- live ---------------------------------------------------------------------------------------

# Not compared are ignored signals: slurmd's threads ignore SIGPIPE for moments, and 26.05.5 starts
# its hooks with SIGHUP and SIGINT ignored.
HOOK = """#!/bin/sh
PATH=/usr/bin:/bin
cat /proc/$$/environ > {dump}/$SLURM_SCRIPT_CONTEXT.$SLURM_JOB_ID.$SLURM_JOB_RESTART_COUNT
exec 3> {dump}/facts.$SLURM_SCRIPT_CONTEXT.$SLURM_JOB_ID.$SLURM_JOB_RESTART_COUNT
read -r pid name state parent group session rest < /proc/$$/stat
[ $pid = $group ] && [ $pid != $session ] && echo leads its group, not its session >&3
umask >&3
while read -r key value; do
    case $key in SigBlk:) echo $key $value >&3; esac
done < /proc/$$/status
readlink /proc/$$/fd/0 >&3
[ -p /proc/$$/fd/1 ] && echo stdout is a pipe >&3
[ "$(readlink /proc/$$/fd/1)" = "$(readlink /proc/$$/fd/2)" ] && echo and stderr the same >&3
exec 3>&-
[ $SLURM_JOB_ID != 2 ] || [ $SLURM_SCRIPT_CONTEXT != prolog_slurmd ] ||
    [ $SLURM_JOB_RESTART_COUNT != 0 ] || {requeue} 2
: > {dump}/done.$SLURM_SCRIPT_CONTEXT.$SLURM_JOB_ID.$SLURM_JOB_RESTART_COUNT
"""
TASK_PROLOG = r"""#!/bin/sh
echo 'export QUOTED="a b"  '
echo 'export   SPACED   =a=b'
echo ' export INDENTED=1'
echo 'export NOTHING'
echo 'unset  GONE  '
echo 'export ERR=1' >&2
echo 'export CUDA_VISIBLE_DEVICES=MIG-1'
printf 'export LAST=no newline'
"""
SEEN = "QUOTED SPACED INDENTED NOTHING GONE ERR CUDA_VISIBLE_DEVICES LAST SLURM_SCRIPT_CONTEXT"
COMMAND = f'for n in {SEEN}; do eval echo "$n=\\"\\${{$n-unset}}.\\""; done; exit 3'


def install(name: str) -> SlurmInstall:
    """Slurm of this machine, or of a folder with another release; skips where there is none."""
    if name == "this machine's":
        if os.geteuid() != 0:
            pytest.skip("a throwaway Slurm cluster needs root")
        try:
            return SlurmInstall.find()
        except SlurmMissing as error:
            pytest.skip(str(error))
    folder = REPOSITORY / ".cache/debootstrap" / name
    if os.geteuid() != 0 or not folder.is_dir():
        pytest.skip(f"no root or no {folder}: python -m slurm_mig.rehearsal.slurm_folder {name}")
    return SlurmInstall.find(folder)


def write(path: Path, text: str) -> Path:
    """An executable."""
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder that everybody may read, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="twin-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def dumps(dump: Path) -> dict[str, dict[str, str]]:
    """The environments that hooks have written, by context, job and count."""
    found = {}
    for file in dump.iterdir():
        if file.name.startswith(("prolog_", "epilog_")):
            entries = file.read_text().rstrip("\0").split("\0")
            found[file.name] = dict(entry.split("=", 1) for entry in entries)
    return found


def on_slurm(folder: Path, one: SlurmInstall, options: dict[str, str]) -> tuple[Path, str, int]:
    """Run the two jobs on a real cluster: an interactive one, and a batch job that is requeued."""
    dump = folder / "dump"
    dump.mkdir()
    conf = f"SLURM_CONF={folder}/etc/slurm.conf"
    hook = write(dump / "hook", HOOK.format(dump=dump, requeue=f"{conf} scontrol requeue"))
    task = write(dump / "task", TASK_PROLOG)
    node = ClusterNode("n1", {"3g.20gb": 2}, prolog=hook, epilog=hook, task_prolog=task)
    with Cluster(folder, [node], install=one, requeue_delay=5) as cluster:
        requeue = f"SLURM_CONF={cluster.conf} scontrol requeue"
        write(hook, HOOK.format(dump=dump, requeue=requeue))
        words = [f"--{key}={value}" for key, value in options.items()]
        words += ["--gres=mig:3g.20gb:1", "--export=ALL,GONE=here", "sh", "-c", COMMAND]
        done = cluster.srun("-n1", *words, check=False)
        cluster.sbatch("exit 0", "--gres=mig:3g.20gb:1", *words[: len(options)])
        last = "done.epilog_slurmd.2.1"
        wait_for((dump / last).exists, f"{last} on Slurm")
    return dump, done.stdout, done.returncode


def on_standin(slurm: Standin, dump: Path, options: dict[str, str]) -> tuple[str, int]:
    """Run the same two jobs on the stand-in."""
    hook = write(dump / "hook", HOOK.format(dump=dump, requeue=f"{slurm.scontrol} requeue"))
    node = slurm.node("n1")
    node.prolog = node.epilog = hook
    node.task_prolog = write(dump / "task", TASK_PROLOG)
    common: Any = {"gres": "mig:3g.20gb:1", "env": ENV | {"GONE": "here"}, **options}
    done = slurm.srun(["sh", "-c", COMMAND], ntasks=1, **common)
    slurm.sbatch("exit 0", stdout=dump / "none", **common)
    wait_for((dump / "done.epilog_slurmd.2.1").exists, "the Epilog of job 2")
    return done.output, done.exit


# Names of files, moments and ids differ from one run to the next; sbatch counts a task of its own.
DIFFERING = {
    "SLURM_CONF",
    "SLURM_JOB_WORK_DIR",
    "SLURM_JOB_STDOUT",
    "SLURM_JOB_START_TIME",
    "SLURM_JOB_END_TIME",
    "SLURM_JOB_SLUID",
    "SLURM_JOB_DERIVED_EC",  # 24.11 sends the first Epilog before it has counted the step
}


@pytest.mark.slurm
@pytest.mark.parametrize("which", ["this machine's", "trixie", "forky"])
def test_hooks_and_tasks_see_the_same_on_both(
    slurm_mig_standin: StandinFactory, folder: Path, tmp_path: Path, which: str
) -> None:
    """Prologs, Epilogs and task prologs have the same environment, streams and ids on both."""
    one = install(which)
    options = {"comment": 'a "b"', **({"extra": "x=1"} if one.release >= (23, 2) else {})}
    real, real_output, real_exit = on_slurm(folder, one, options)
    dump = tmp_path / "dump"
    dump.mkdir()
    release = f"{one.release[0]}.{one.release[1]:02d}"
    slurm = slurm_mig_standin(
        [StandinNode("n1", {"3g.20gb": 2})], release=release, cluster="rehearsal", requeue_delay=99
    )
    output, code = on_standin(slurm, dump, options)

    assert (output, code) == (real_output, real_exit)
    ours, theirs = dumps(dump), dumps(real)
    assert set(ours) == set(theirs)
    for name, environment in theirs.items():
        assert (name, set(ours[name])) == (name, set(environment))
        for key in set(environment) - DIFFERING:
            assert (name, key, ours[name][key]) == (name, key, environment[key])
    for file in real.glob("facts.*"):
        assert (dump / file.name).read_text() == file.read_text()
