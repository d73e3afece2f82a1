"""Makes a job out of what srun or sbatch was told, or refuses it in Slurm's words."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from slurm_mig.rehearsal.hookenv import Release
from slurm_mig.rehearsal.jobs import Job, JobOptions, Node, StandinError, allot, parse_gres
from slurm_mig.rehearsal.taskrun import Identity


def new_job(
    job_id: int,
    argv: Sequence[str],
    options: JobOptions,
    *,
    script: str | None,
    folder: Path,
    nodes: Mapping[str, Node],
    release: Release,
) -> Job:
    """Return a pending job: interactive, or a batch job if there is a `script` to spool.

    StandinError if the request is malformed or more than the nodes could ever give.
    """
    wanted = parse_gres(options.get("gres"), release)
    nodelist = tuple(options.get("nodelist", ()))
    if unknown := [name for name in nodelist if name not in nodes]:
        raise StandinError(f"Invalid node name specified: {','.join(unknown)}")
    count = len(nodelist) or options.get("nodes", 1)
    candidates = [nodes[name] for name in nodelist or nodes]
    if sum(allot(wanted, node.gres) is not None for node in candidates) < count:
        raise StandinError("Requested node configuration is not available")
    identity = Identity.of(options.get("user"))
    if script is not None:
        argv = [str(_spool(folder / "spool" / f"job{job_id:05d}", script, identity))]
    stdout = options.get("stdout")
    held = options.get("hold", False)
    return Job(
        job_id,
        list(argv),
        script is not None,
        identity,
        dict(options.get("env", os.environ)),
        Path(options.get("workdir", folder / "work")).absolute(),
        Path(stdout) if stdout else folder / "output" / f"slurm-{job_id}.out",
        wanted,
        options.get("gres") or "",
        name=options.get("name", "") or ("sbatch" if script is not None else Path(argv[0]).name),
        nodes_wanted=count,
        nodelist=nodelist,
        ntasks=options.get("ntasks", count),
        ntasks_asked=options.get("ntasks"),
        comment=options.get("comment"),
        extra=options.get("extra"),
        account=options.get("account"),
        constraints=options.get("constraints"),
        reservation=options.get("reservation"),
        qos=options.get("qos"),
        licenses=options.get("licenses"),
        stdout=None if stdout is None else str(stdout),
        spank_env=dict(options.get("spank_env", {})),
        may_requeue=options.get("requeue", True),
        held=held,
        reason="JobHeldUser" if held else "None",
    )


def script_text(script: str | Path | Sequence[str]) -> str:
    """Return the text of a batch script: a file's, the one given, or one that runs a command."""
    if isinstance(script, Path):
        return script.read_text()
    if isinstance(script, str):
        return script if script.startswith("#!") else f"#!/bin/sh\n{script}\n"
    words = " ".join("'" + word.replace("'", "'\\''") + "'" for word in script)
    return f"#!/bin/sh\nexec {words}\n"


def _spool(folder: Path, script: str, identity: Identity) -> Path:
    """Write the script where its owner, and nobody else, can run it."""
    path = folder / "slurm_script"
    folder.mkdir(exist_ok=True)
    path.write_text(script)
    path.chmod(0o700)
    if identity.switch:
        os.chown(path, identity.uid, identity.gid)
    return path
