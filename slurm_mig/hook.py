"""What Prolog and Epilog share: settings, log, and the one place that turns errors into exits.

Import budget: the hook path; no jinja2, rich, argparse, logging, pyslurm (tests/hooks holds the
list). Slurm shows a hook's output only when it fails, so the last line on stderr is the reason.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from slurm_mig import configfile
from slurm_mig.errors import NodeFault, SlurmMigError, one_line
from slurm_mig.log import Log
from slurm_mig.nvml import Driver
from slurm_mig.partitioner import Partitioner
from slurm_mig.settings import Settings

OK, AT_FAULT, USAGE = 0, 1, 2

#: The hook's work: settings, job id and log in; outcome for the log and exit status out.
Work = Callable[[Settings, int, Log], tuple[str, int]]


@contextmanager
def partitioner(settings: Settings, log: Log, *, mend: bool = False) -> Iterator[Partitioner]:
    """The core over this node's driver, both closed after; `mend` as there. Raises NodeFault."""
    with Driver(settings.driver_library) as driver:
        core = Partitioner(settings, driver, log, mend=mend)
        try:
            yield core
        finally:
            core.close()


def say(reason: object) -> None:
    """Print one line where slurmd, or an admin at a terminal, sees it."""
    sys.stderr.write(f"slurm-mig: {one_line(reason)}\n")


def drain(settings: Settings, env: Mapping[str, str], log: Log, reason: str) -> None:
    """Tell Slurm why its node is about to be drained (drained.py), unless a person runs this."""
    if env.get("SLURM_SCRIPT_CONTEXT") not in ("prolog_slurmd", "epilog_slurmd"):
        return
    try:
        from slurm_mig import drained  # never in a hook that does its work

        node, job = env.get("SLURMD_NODENAME", ""), int(env["SLURM_JOB_ID"])
        failure = drained.drain(settings, node, job, reason)
    except Exception as error:  # Slurm drains the node all the same
        failure = f"{type(error).__name__}: {error}"
    if failure:
        log.note(reason=f"the reason was not told to Slurm: {failure}")
        log.write("not-told", failed=True)


def _settings(config: Path | None, run_directory: str | None) -> Settings:
    settings = configfile.load(config)
    if run_directory not in (None, settings.state_run_directory):
        raise NodeFault(
            f"the hooks were installed for [state] run_directory {run_directory}, the "
            f"configuration says {settings.state_run_directory}; run: slurm-mig hooks"
        )
    return settings


def run(
    which: str, config: Path | None, run_directory: str | None, env: Mapping[str, str], work: Work
) -> int:
    """Run one hook for the job of `env`, log one line, and return the exit status.

    `run_directory` is what the hook's sh was installed with; None when called by hand.
    """
    job = env.get("SLURM_JOB_ID", "")
    if not (job.isascii() and job.isdecimal() and len(job) < 11):
        say(f"SLURM_JOB_ID {one_line(job, 80)!r} is not a job id; Slurm sets it for every {which}")
        return USAGE
    target = "syslog"
    fields = {"job": job, "node": env.get("SLURMD_NODENAME", "")}
    log = Log(target, which, **fields)
    settings = None
    try:
        settings = _settings(config, run_directory)
        log = Log(settings.log_to, which, **fields)
        outcome, status = work(settings, int(job), log)
    except SlurmMigError as error:
        reason = str(error)
    except Exception as error:
        reason = one_line(f"internal error, please report it: {type(error).__name__}: {error}")
    else:
        log.write(outcome, failed=status != OK)
        return status
    log.note(reason=reason)
    log.write("node-at-fault", failed=True)
    say(reason)
    if settings is not None:
        drain(settings, env, log, reason)
    return AT_FAULT


def leave(status: int) -> NoReturn:
    """End the process at once.

    The interpreter's own end takes a module apart after the other: 15 of a hook's 90 ms. Nothing is
    lost: ledger, driver and log are closed by now, and the kernel frees the locks.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
