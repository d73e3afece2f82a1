"""Records what a real Slurm says of jobs and nodes: `python tests/slurm/record.py [FOLDER ...]`.

Without a folder: this machine's own Slurm. With folders: those made by
`python -m slurm_mig.rehearsal.slurm_folder trixie forky`. Each release's answers go, unchanged,
into tests/slurm/samples/RELEASE/NAME.json; for 22.05, whose scontrol has no JSON, squeue's JSON
(always of all jobs) and scontrol's text (NAME.txt). Job ids and node names are the same in every
release, so one table of expectations (test_samples.py) holds for all.
"""

import json
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from slurm_mig.rehearsal.cluster import Cluster, Node, SlurmInstall

SAMPLES = Path(__file__).parent / "samples"
NODES = [
    Node("node01", {"3g.20gb": 2, "1g.5gb": 4}, cpus=8),
    Node("node02", {"3g.20gb": 2, "1g.5gb": 4}, cpus=8),
    Node("node03", {"2g.10gb": 3}, cpus=8),
    Node("other", {"1g.5gb+me": 3, "1g.5gb": 6}, cpus=8),
]
# Text that a user may put anywhere: quotes, JSON, a shell's words, line breaks, other alphabets.
HOSTILE = (
    '"}],"gres_detail":["mig:7g.40gb(CNT:9)"],"x":[{"y":"'
    '\n\tGRES=mig:7g.40gb:9 $(id)`id`; \\"%s é 漢'
)


def record(install: SlurmInstall, folder: Path) -> None:
    """Run a cluster of `install` and write its answers into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="record-"))
    base.chmod(0o755)
    epilog = base / "epilog"  # long enough to look at a job in it
    epilog.write_text("#!/bin/sh\nwhile [ -e ${0%/*}/work/wait ]; do sleep 0.1; done\n")
    epilog.chmod(0o755)
    nodes = [*NODES, Node("slow", {"1g.5gb": 1}, cpus=8, epilog=epilog)]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        cluster = stack.enter_context(Cluster(base, nodes, install=install, requeue_delay=5))
        old = cluster.release < (23, 2)

        def job(name: str, job_id: int) -> None:
            if old:
                said = cluster.run("squeue", "--json", "-j", str(job_id))
            else:
                said = cluster.run("scontrol", "show", "job", str(job_id), "-d", "--json")
            (folder / f"{name}.json").write_text(said.stdout)
            if old:  # its scontrol has only this
                said = cluster.run("scontrol", "show", "job", str(job_id), "-d", check=False)
                (folder / f"{name}.txt").write_text(said.stdout)

        def node(name: str, node_name: str) -> None:
            words = (
                ["sinfo", "--json"] if old else ["scontrol", "show", "node", node_name, "--json"]
            )
            (folder / f"{name}.json").write_text(cluster.run(*words).stdout)

        def started(script: str, *options: str) -> int:
            job_id = cluster.sbatch(script, *options)
            cluster.wait_job(job_id, "RUNNING")
            return job_id

        sleep = "sleep 600"
        job("no_gres", started(sleep, "-w", "node01", "--no-requeue"))  # 1
        job("running", started(sleep, "-w", "node01", "--gres=mig:3g.20gb:1"))  # 2
        job(
            "mixed", started(sleep, "-N2", "-w", "node[01-02]", "--gres=mig:3g.20gb:1,mig:1g.5gb:2")
        )
        # An untyped request: each node gives what it has.
        job("two_nodes", started(sleep, "-N2", "-w", "node03,other", "--gres=mig:2"))  # 4
        hostile = started(
            sleep,
            "-w",
            "node01",
            "--gres=mig:1g.5gb:1",
            f"--job-name={HOSTILE}",
            f"--comment={HOSTILE}",
            *([] if old else [f"--extra={HOSTILE}"]),
        )
        job("hostile", hostile)  # 5
        array = cluster.sbatch(sleep, "--array=3-5", "-w", "node02", "--gres=mig:1g.5gb:1")  # 6
        cluster.wait_until(
            lambda: sum("RUNNING" in str(one["job_state"]) for one in cluster.jobs(array)) == 2,
            "two tasks to run",
        )
        job("array", array)
        job("array_task", array + 1)
        cluster.popen("srun", "-w", "other", "--gres=mig:1g.5gb+me:1", "sleep", "600")
        interactive = array + 3
        cluster.wait_until(
            lambda: any(one["job_id"] == interactive for one in cluster.jobs()), "srun to be known"
        )
        cluster.wait_job(interactive, "RUNNING")
        job("interactive", interactive)
        pending = cluster.sbatch(sleep, "-w", "node03", "--gres=mig:2g.10gb:3", "--no-requeue")
        job("pending", pending)
        again = started(sleep, "-w", "other", "--gres=mig:1g.5gb:1")
        cluster.run("scontrol", "requeue", str(again))
        cluster.wait_until(lambda: cluster.job_states(again) == {"PENDING"}, "the requeue")
        job("requeued_waiting", again)
        cluster.wait_job(again, "RUNNING")
        job("requeued", again)
        held = started(sleep, "-w", "other", "--gres=mig:1g.5gb:1")
        cluster.run("scontrol", "update", f"JobId={held}", "AdminComment=no such profile here")
        cluster.run("scontrol", "requeuehold", str(held))
        cluster.wait_until(lambda: cluster.job_states(held) == {"PENDING"}, "the hold")
        job("held", held)
        done = cluster.sbatch("true", "-w", "other", "--gres=mig:1g.5gb:1")
        cluster.wait_job(done)
        cluster.wait_until(
            lambda: "COMPLETING" not in cluster.job_states(done), f"the end of job {done}"
        )
        job("done", done)
        (base / "work/wait").touch()
        ending = cluster.sbatch("true", "-w", "slow", "--gres=mig:1g.5gb:1")
        cluster.wait_until(lambda: "COMPLETING" in cluster.job_states(ending), "the Epilog")
        job("in_epilog", ending)
        (base / "work/wait").unlink()
        het = cluster.sbatch(
            "#!/bin/sh\n#SBATCH -w other --gres=mig:1g.5gb:1\n#SBATCH hetjob\n"
            "#SBATCH -w node01 --gres=mig:3g.20gb:0\nsleep 600\n"
        )
        cluster.wait_job(het, "RUNNING")
        job("het_leader", het)
        job("het_component", het + 1)
        job("unknown", 4711)
        node("node", "node01")
        cluster.run(
            *("scontrol", "update", "NodeName=node02", "State=DRAIN", "Reason=a b=c, 'd'"),
        )
        cluster.run("scontrol", "update", "NodeName=node02", 'Extra={"mig": [1, "a b"]}')
        node("node_drained", "node02")
        notes = {"release": cluster.install.version, "scontrol_has_json": not old}
        (folder / "release.json").write_text(json.dumps(notes) + "\n")


def main() -> None:
    """Record the releases in the folders given, or this machine's own."""
    for root in sys.argv[1:] or ["/"]:
        install = SlurmInstall.find(root)
        year, month = install.release
        record(install, SAMPLES / f"{year}.{month:02}")
        sys.stdout.write(f"{install.version}: recorded\n")


if __name__ == "__main__":
    main()
