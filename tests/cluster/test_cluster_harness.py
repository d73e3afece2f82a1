"""The throwaway cluster: it starts, runs jobs, and leaves nothing, however it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from slurm_mig.rehearsal import keeper
from slurm_mig.rehearsal.cluster import (
    Cluster,
    ClusterError,
    Node,
    SlurmInstall,
    SlurmMissing,
)
from slurm_mig.rehearsal.cluster_conf import CONTROLLERS

pytestmark = pytest.mark.slurm

OWNER = """
import signal, sys, time
from pathlib import Path
from slurm_mig.rehearsal.cluster import Cluster, Node
# A shell starts what runs in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
cluster = Cluster.temporary([Node("n1")])
cluster.start()
job = cluster.sbatch("setsid sleep 600 & sleep 600")
cluster.wait_job(job, "RUNNING")
cluster.popen("srun", "sleep", "600")
print(len(cluster.processes()), cluster.folder, flush=True)
time.sleep(600)
"""


def leftovers(folder: Path) -> set[int]:
    """Processes of the cluster in `folder`: by its mark, or with the folder on the command line."""
    found = keeper.marked(str(folder))
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in words:
                found.add(int(entry.name))
    return found


def sockets_of(pids: frozenset[int]) -> list[str]:
    """Local addresses (hexadecimal) of the listening TCP sockets of the processes."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(link.readlink())
            except FileNotFoundError:
                continue
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]


@pytest.fixture
def folder(slurm_install: SlurmInstall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short folder: sockets live in it."""
    return tmp_path_factory.mktemp("c", numbered=True)


def test_runs_interactive_and_batch_jobs_with_gres(cluster: Cluster) -> None:
    """Both srun and sbatch work, with typed counts of mig, on the node that was asked for."""
    said = cluster.srun("-w", "node02", "--gres=mig:3g.20gb:1", "printenv", "SLURMD_NODENAME")
    job = cluster.sbatch("printenv SLURM_JOB_ID", "-N2", "--gres=mig:1g.5gb:2")
    record = cluster.wait_job(job)
    assert said.stdout == "node02\n"
    assert cluster.output_file(job).read_text() == f"{job}\n"
    assert record["nodes"] == "node[01-02]"


def test_counts_are_the_schedulers_limit(cluster: Cluster) -> None:
    """A third 3g.20gb on a node that has two stays pending."""
    jobs = [cluster.sbatch("sleep 60", "-w", "node01", "--gres=mig:3g.20gb:1") for _ in range(3)]
    for job in jobs[:2]:
        cluster.wait_job(job, "RUNNING")
    cluster.wait_until(
        lambda: cluster.job(jobs[2])["state_reason"] == "Resources", "the reason of the third job"
    )
    assert cluster.job_states(jobs[2]) == {"PENDING"}


def test_jobs_run_as_another_user(cluster: Cluster) -> None:
    """A command may be submitted by any user of the machine, and the job is theirs."""
    job = cluster.sbatch("id -u", user="nobody")
    cluster.wait_job(job)
    said = cluster.srun("id", "-u", user="nobody")
    assert (said.stdout, cluster.output_file(job).read_text()) == ("65534\n", "65534\n")


def test_each_node_has_its_own_hooks(make_cluster, tmp_path: Path) -> None:
    """Prolog, Epilog and TaskProlog are set node by node."""

    def script(name: str, line: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
        return path

    note = script("note", f"echo $SLURM_SCRIPT_CONTEXT $SLURMD_NODENAME >>{tmp_path}/log")
    tasks = [script(name, f"echo export FROM=task-prolog-of-{name}") for name in ("n1", "n2")]
    cluster = make_cluster(
        Node("n1", prolog=note, task_prolog=tasks[0]),
        Node("n2", prolog=note, epilog=note, task_prolog=tasks[1]),
    )
    said = cluster.srun("-N2", "-l", "printenv", "FROM").stdout
    cluster.wait_nodes_idle()
    ran = sorted((tmp_path / "log").read_text().splitlines())
    assert sorted(said.split()) == ["0:", "1:", "task-prolog-of-n1", "task-prolog-of-n2"]
    assert ran == ["epilog_slurmd n2", "prolog_slurmd n1", "prolog_slurmd n2"]


def test_a_daemon_can_be_killed_and_started_again(make_cluster) -> None:
    """The controller comes back with its jobs; a killed slurmd comes back under its name."""
    cluster = make_cluster(Node("n1"))
    job = cluster.sbatch("sleep 600")
    cluster.wait_job(job, "RUNNING")
    cluster.end_daemon("slurmctld")
    cluster.start_slurmctld()
    cluster.end_daemon("slurmd-n1", signal.SIGKILL)
    cluster.start_slurmd("n1")
    assert cluster.srun("echo", "alive").stdout == "alive\n"
    assert cluster.job_states(job) == {"RUNNING"}


def test_listens_on_loopback_only(cluster: Cluster) -> None:
    """No TCP port of the cluster is open to the network, whatever the host's name is."""
    addresses = sockets_of(cluster.processes())
    assert set(addresses) == {"0100007F"}
    assert len(addresses) >= 3


def test_stop_leaves_no_process_and_no_file(slurm_install: SlurmInstall) -> None:
    """After `with`, daemons, steps, jobs, detached children, clients and the folder are gone."""
    with Cluster.temporary([Node("n1")], install=slurm_install) as cluster:
        job = cluster.sbatch("setsid sleep 600 & sleep 600")
        cluster.wait_job(job, "RUNNING")
        cluster.popen("srun", "sleep", "600")
        cluster.wait_until(lambda: len(cluster.jobs()) == 2, "two jobs")
        running = cluster.processes()
    assert len(running) >= 6
    assert leftovers(cluster.folder) == set()
    assert not cluster.folder.exists()


def test_an_exception_leaves_nothing_either(slurm_install: SlurmInstall) -> None:
    """The same holds if the with-block raises."""
    with pytest.raises(RuntimeError, match="on purpose"):  # noqa: PT012, SIM117
        with Cluster.temporary([Node("n1")], install=slurm_install) as cluster:
            cluster.sbatch("sleep 600")
            raise RuntimeError("on purpose")
    assert leftovers(cluster.folder) == set()
    assert not cluster.folder.exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_owners_death_ends_the_cluster(
    slurm_install: SlurmInstall, signum: signal.Signals
) -> None:
    """However the owner dies, kill -9 included, processes and folder are gone within seconds."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        running, _, place = owner.stdout.readline().strip().partition(" ")
        owner.send_signal(signum)
        owner.wait(timeout=30)
        folder = Path(place)
        watcher = Cluster("/nowhere", [Node("n1")], install=slurm_install)
        watcher.wait_until(
            lambda: leftovers(folder) == set() and not folder.exists(), "the end", timeout=20
        )
    finally:
        owner.kill()
        owner.communicate()
    assert int(running) >= 6
    assert place != ""


def test_the_keepers_death_is_noticed_and_cleaned_up(make_cluster) -> None:
    """Even with its keeper killed, stop finds what is left."""
    cluster = make_cluster(Node("n1"))
    job = cluster.sbatch("setsid sleep 600 & sleep 600")
    cluster.wait_job(job, "RUNNING")
    keepers = [
        pid
        for pid in leftovers(cluster.folder)
        if b"keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(keepers[0], signal.SIGKILL)
    cluster.stop()
    assert len(keepers) == 1
    assert leftovers(cluster.folder) == set()


def cgroups_of(cluster: Cluster) -> list[Path]:
    """The cgroups that a cluster has on this machine."""
    name = keeper.cgroup_name(str(cluster.folder))
    tops = [place / name for place in keeper.cgroup_mounts().values()]
    return [path for top in tops if top.exists() for path in (top, *top.rglob("job_*"))]


@pytest.mark.parametrize("how", ["stopped", "keeper killed"])
def test_cgroups_go_with_the_cluster(make_cluster, how: str) -> None:
    """Of a cluster that constrains devices no cgroup is left, with a job still in it."""
    if not set(CONTROLLERS) <= set(keeper.cgroup_mounts()):
        pytest.skip("no cgroups of version 1 here")
    cluster = make_cluster(Node("n1"), constrain_devices=True)
    job = cluster.sbatch("sleep 600")
    cluster.wait_job(job, "RUNNING")
    cluster.wait_until(lambda: len(cgroups_of(cluster)) == 4, "the job's cgroups")
    if how == "keeper killed":
        os.kill(cluster._keeper.pid, signal.SIGKILL)
    cluster.stop()
    assert cgroups_of(cluster) == []


def test_files_are_inside_the_folder(folder: Path, slurm_install: SlurmInstall) -> None:
    """State, logs, sockets, pids and keys are in the folder and nowhere else."""
    places = ["/run", "/var/run", "/var/log", "/var/spool", "/var/lib", "/etc"]
    watched = [Path(place) for place in places]

    def slurm_files() -> set[Path]:
        return {
            path
            for place in watched
            for pattern in ("*slurm*", "*munge*", "*/*slurm*", "*/*munge*")
            for path in place.glob(pattern)
        }

    before = slurm_files()
    with Cluster(folder, [Node("n1")], install=slurm_install) as cluster:
        cluster.srun("true")
    assert slurm_files() == before
    assert {"etc", "log", "munge", "run", "spool", "state", "work"} == {
        path.name for path in folder.iterdir()
    }


def test_two_clusters_at_once(make_cluster) -> None:
    """Clusters side by side do not meet: ports, names and job ids are each their own."""
    first, second = make_cluster(Node("n1")), make_cluster(Node("n1"))
    ids = [one.sbatch("true") for one in (first, second)]
    records = [one.wait_job(job) for one, job in zip((first, second), ids, strict=True)]
    assert ids == [1, 1]
    assert [record["job_id"] for record in records] == [1, 1]


def test_a_wait_in_vain_shows_the_logs(cluster: Cluster) -> None:
    """The error says what was waited for and shows the ends of the daemons' logs."""
    with pytest.raises(ClusterError) as caught:
        cluster.wait_until(lambda: False, "a thing that never comes", timeout=0.05)
    text = str(caught.value)
    assert "in vain for a thing that never comes" in text
    assert "--- slurmctld\n" in text
    assert "--- slurmd-node02\n" in text


def test_a_job_that_failed_is_not_waited_for(cluster: Cluster) -> None:
    """A job that ended otherwise is an error at once, with its state."""
    job = cluster.sbatch("exit 3")
    with pytest.raises(ClusterError, match=rf"job {job} is FAILED, not COMPLETED"):
        cluster.wait_job(job)


def test_a_wrong_configuration_says_which_daemon_and_why(slurm_install: SlurmInstall) -> None:
    """A cluster that cannot start says what slurmctld said, and leaves nothing."""
    cluster = Cluster.temporary([Node("n1")], install=slurm_install, extra_conf="NoSuchKey=1")
    with pytest.raises(
        ClusterError, match=r"slurmctld ended with 1 while starting(?s:.*)NoSuchKey"
    ):
        cluster.start()
    assert leftovers(cluster.folder) == set()
    assert not cluster.folder.exists()


def test_a_folder_too_long_for_sockets_is_refused(slurm_install: SlurmInstall) -> None:
    """A path that sockets cannot have is refused before anything starts, with the way out."""
    with pytest.raises(ClusterError, match=r"longer than 60 bytes.*Cluster.temporary"):
        Cluster("/tmp/" + "x" * 60, [Node("n1")], install=slurm_install)


def test_a_missing_slurm_names_programs_and_packages(tmp_path: Path) -> None:
    """An install without Slurm says what is not there and which packages bring it."""
    with pytest.raises(SlurmMissing) as caught:
        SlurmInstall.find(tmp_path)
    assert str(caught.value) == (
        f"no Slurm below {tmp_path}: munged, slurmctld, slurmd, scontrol, srun, sbatch, sinfo,"
        " scancel not found; as root: apt-get install slurmctld slurmd slurm-client munge"
    )


def rendered(places: Mapping[str, str]) -> dict[str, str]:
    """Files as our renderer writes them: two nodes and a third that is never there."""
    lines = [
        "GresTypes=mig",
        "PrologFlags=Alloc",
        "PrologEpilogTimeout=77",
        "ReturnToService=1",
        *(f"NodeName={node} Gres=mig:1g.5gb:2 {place} CPUs=2" for node, place in places.items()),
        "NodeName=anchor Gres=mig:1g.5gb:7 NodeAddr=127.0.0.1 CPUs=2 State=DOWN",
        "PartitionName=other Nodes=n1,n2",
    ]
    gres = "NodeName=n[1-2] Name=mig Type=1g.5gb Count=2 Flags=CountOnly\n"
    gres += "NodeName=anchor Name=mig Type=1g.5gb Count=7 Flags=CountOnly\n"
    return {"slurm-mig.conf": "\n".join(lines) + "\n", "gres.conf": gres}


def test_rendered_files_run_as_they_are(make_cluster) -> None:
    """Nodes and settings are the included file's, none said twice; nobody awaits a DOWN node."""
    cluster = make_cluster(Node("n1"), Node("n2"), rendered=rendered)
    job = cluster.sbatch("true", "-N2", "--gres=mig:1g.5gb:2")
    cluster.wait_job(job)
    shown = cluster.run("scontrol", "show", "config").stdout
    own = {line.partition("=")[0] for line in cluster.conf.read_text().splitlines()}
    assert cluster.node("n1")["gres"] == "mig:1g.5gb:2"
    assert cluster.node("anchor")["gres"] == "mig:1g.5gb:7"
    assert "DOWN" in cluster.node_states("anchor")
    assert re.search(r"^PrologEpilogTimeout += 77$", shown, re.MULTILINE)
    assert own & {"ReturnToService", "GresTypes", "PrologFlags", "PrologEpilogTimeout"} == set()


def test_a_folder_is_mounted_over_another(make_cluster, tmp_path: Path) -> None:
    """Hooks and jobs see the folder in its place, this machine does not."""
    (tmp_path / "file").write_text("from the test\n")
    cluster = make_cluster(Node("n1"), replace={"/mnt": tmp_path})
    assert cluster.srun("cat", "/mnt/file").stdout == "from the test\n"
    assert not Path("/mnt/file").exists()


def test_other_releases_run_in_their_folders(other_install: SlurmInstall) -> None:
    """A newer Slurm in a debootstrap folder runs jobs too, and leaves no mount."""
    with Cluster.temporary([Node("n1", {"1g.5gb": 2})], install=other_install) as cluster:
        said = cluster.srun("--gres=mig:1g.5gb:1", "id", "-un", user="nobody").stdout
        job = cluster.sbatch("true", "--gres=mig:1g.5gb:2")
        cluster.wait_job(job)
    mounts = Path("/proc/self/mounts").read_text()
    assert said == "nobody\n"
    assert str(other_install.root) not in mounts
    assert leftovers(cluster.folder) == set()
