"""The Epilog's second half: removes what the job had here. Called by epilog/slurm-mig-epilog.

Exits: 0 gone, or quarantined where the settings do not drain for that; 1 the node is at fault, with
the reason last on stderr, which makes Slurm drain it; 2 called wrongly.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from slurm_mig import hook
from slurm_mig.errors import TeardownError
from slurm_mig.log import Log
from slurm_mig.settings import Settings


def work(settings: Settings, job: int, log: Log) -> tuple[str, int]:
    """Remove the job's instances; see hook.Work."""
    with hook.partitioner(settings, log) as core:
        try:
            log.note(removed=core.release(job))
        except TeardownError as error:
            log.note(reason=str(error))
            hook.say(f"quarantined: {error}")
            if not settings.epilog_drain:
                return "quarantined", hook.OK
            hook.drain(settings, os.environ, log, f"quarantined: {error}")
            return "quarantined", hook.AT_FAULT
    return "removed", hook.OK


def main(arguments: Sequence[str]) -> int:
    """Entry of epilog/slurm-mig-epilog: CONFIG RUN_DIRECTORY."""
    config, run_directory = arguments
    return hook.run("epilog", Path(config), run_directory, os.environ, work)
