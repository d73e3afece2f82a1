"""The tasks of a job and their SLURM_* variables, as far as a job on the stand-in can ask for them.

Compared with what srun and sbatch of 22.05.8 hand to a task. The submitter's own environment is
the base, as with `--export=ALL`.
"""

from collections.abc import Sequence

from slurm_mig.rehearsal.hookenv import hostlist, user_name
from slurm_mig.rehearsal.jobs import Job, Node
from slurm_mig.rehearsal.taskrun import Task


def tasks_of(
    job: Job, nodes: Sequence[Node], *, conf: str, cluster: str, partition: str
) -> list[Task]:
    """Return the tasks of a job on its nodes: a batch script on the first, else `ntasks` in all."""
    tasks: list[Task] = []
    for position, node in enumerate(nodes[:1] if job.batch else nodes):
        here = job.ntasks // len(nodes) + (position < job.ntasks % len(nodes))
        for local in range(1 if job.batch else here):
            env = task_environment(
                job,
                node=node.name,
                position=position,
                local=local,
                number=len(tasks),
                conf=conf,
                cluster=cluster,
                partition=partition,
            )
            task = Task(
                job.argv,
                env,
                node.name,
                job.workdir,
                job.output_path,
                job.identity,
                node.task_prolog,
            )
            tasks.append(task)
    return tasks


def task_environment(
    job: Job,
    *,
    node: str,
    position: int,
    local: int,
    number: int,
    conf: str,
    cluster: str,
    partition: str,
) -> dict[str, str]:
    """Return the environment of one task: its node and node number, local and global number."""
    nodes = hostlist(job.nodes)
    count = str(len(job.nodes))
    env = dict(job.submit_env) | {
        "SLURM_CONF": conf,
        "SLURM_CLUSTER_NAME": cluster,
        "SLURM_CPUS_ON_NODE": "1",
        "SLURM_GTIDS": str(number),
        "SLURM_JOBID": str(job.id),
        "SLURM_JOB_CPUS_PER_NODE": "1" + (f"(x{count})" if len(job.nodes) > 1 else ""),
        "SLURM_JOB_GID": str(job.identity.gid),
        "SLURM_JOB_ID": str(job.id),
        "SLURM_JOB_NAME": job.name,
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_JOB_NUM_NODES": count,
        "SLURM_JOB_PARTITION": partition,
        "SLURM_JOB_UID": str(job.identity.uid),
        "SLURM_JOB_USER": user_name(job.identity.uid),
        "SLURM_LOCALID": str(local),
        "SLURM_NNODES": count,
        "SLURM_NODEID": str(position),
        "SLURM_NODELIST": nodes,
        "SLURM_PROCID": str(number),
        "SLURM_SUBMIT_DIR": str(job.workdir),
        "SLURMD_NODENAME": node,
    }
    if job.batch:
        env["ENVIRONMENT"] = "BATCH"
    else:
        env |= {
            "SLURM_NTASKS": str(job.ntasks),
            "SLURM_NPROCS": str(job.ntasks),
            "SLURM_STEPID": "0",
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NODELIST": nodes,
            "SLURM_STEP_NUM_NODES": count,
            "SLURM_STEP_NUM_TASKS": str(job.ntasks),
        }
    if job.restart_count:
        env["SLURM_RESTART_COUNT"] = str(job.restart_count)
    if job.array_task_id is not None:
        env |= {
            "SLURM_ARRAY_JOB_ID": str(job.array_job_id),
            "SLURM_ARRAY_TASK_ID": str(job.array_task_id),
            "SLURM_ARRAY_TASK_COUNT": str(len(job.array)),
            "SLURM_ARRAY_TASK_MIN": str(min(job.array)),
            "SLURM_ARRAY_TASK_MAX": str(max(job.array)),
            "SLURM_ARRAY_TASK_STEP": str(job.array[1] - job.array[0] if len(job.array) > 1 else 1),
        }
    return env
