"""The Prolog's second half: serves the request, or settles what becomes of a job it cannot serve.

Called by prolog/slurm-mig-prolog. Exits: 0 served, requeued, held or cancelled, and nothing for
Slurm to do; 1 the node is at fault, with the reason last on stderr, which makes Slurm drain it;
2 called wrongly. A request, whatever it says, never leads to 1.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from slurm_mig import hook, slurm
from slurm_mig.errors import NoRoom, RequestError
from slurm_mig.handover import Handover
from slurm_mig.ledger import Ledger
from slurm_mig.log import Log
from slurm_mig.request import Wanted, asks, describe, parse_gres, parse_token
from slurm_mig.settings import Settings
from slurm_mig.slurm import (
    JobRecord,
    JobUnknown,
    SlurmClient,
    SlurmRefused,
    SlurmUnavailable,
)


class _Start:
    """One start of one job on this node."""

    def __init__(
        self, settings: Settings, job: int, log: Log, env: Mapping[str, str], answer: str
    ) -> None:
        self.settings, self.job, self.log, self.env = settings, job, log, env
        self.node = env.get("SLURMD_NODENAME", "")
        self._answer = answer
        self._client: SlurmClient | None = None
        self._record: JobRecord | None = None

    @property
    def client(self) -> SlurmClient:
        if self._client is None:
            self._client = slurm.client(
                self.settings.slurm_client,
                scontrol=self.settings.slurm_scontrol,
                timeout=self.settings.slurm_timeout,
                long_lived=False,
            )
        return self._client

    def record(self) -> JobRecord:
        """Slurm's record of the job, asked for once, and not at all if sh was told already."""
        if self._record is not None:
            return self._record
        with self.log.phase("ask"):
            record = None
            if self._answer:
                record = slurm.job_from_answer(self._answer, self.job, self.node)
            if record is None:
                record = self.client.job(self.job, self.node)
        self._record = record
        return record

    def request(self) -> tuple[int, tuple[Wanted, ...]]:
        """The job's user and what it wants here.

        Raises RequestError, NodeFault, JobUnknown; NoRoom where Slurm does not say what it holds.
        """
        if self.settings.slurm_request == "token":
            stamped = self.env.get("SLURM_JOB_EXTRA", "")
            if not stamped and not self.env.get("SLURM_JOB_START_TIME"):
                # Slurm before 23.02; since then a comment is the user's own, and says nothing.
                stamped = self.env.get("SLURM_JOB_COMMENT", "")
            wanted = parse_token(stamped)
            uid = self.env.get("SLURM_JOB_UID", "")
            # No token: submitted before the plugin was there. Then Slurm is asked.
            if wanted is not None and uid.isascii() and uid.isdecimal() and len(uid) < 11:
                return int(uid), wanted
        record = self.record()
        wanted = parse_gres(record.gres)
        if not wanted and asks(record.asked):
            # Seen on 22.05.8 for a job that was requeued while its node was forced down and up: to
            # read that as "no MIG" would run the job without its instance.
            raise NoRoom(
                f"the job asked for {record.asked}, and Slurm's record of it says of no instance "
                "that it holds here"
            )
        return record.user_id, wanted

    def turn_away(self, reason: str, *, again: bool) -> tuple[str, int]:
        """See to it that a job that cannot start here never runs its tasks, and tell its user.

        `again`: it may start later, so a batch job goes back to the queue; else it is held.
        """
        self.log.note(reason=reason)
        # First of all: from here on the task prolog refuses, whatever becomes of the rest.
        handover = Handover(Path(self.settings.state_run_directory))
        handover.open(self.job)
        handover.refuse(self.job, reason)
        try:
            return self._settle(f"slurm-mig: {reason}", again=again), hook.OK
        except (SlurmRefused, JobUnknown) as error:
            # Cancelled meanwhile, or the like: there is nothing left to requeue or hold.
            self.log.note(slurm=str(error))
        except SlurmUnavailable as error:
            if again:
                raise  # the job must not be lost for want of room, and only a failure requeues it
            self.log.note(slurm=str(error))
        return "refused", hook.OK

    def _settle(self, sentence: str, *, again: bool) -> str:
        """Requeue, hold or cancel the job; returns which."""
        record = self.record()
        # A heterogeneous job goes as a whole, by the id of its first component.
        whole = record.het_job_id or self.job
        with Ledger(Path(self.settings.state_directory)) as ledger:
            misses = ledger.missed(self.job) if again else 0
            requeue = record.batch and record.requeue
            if requeue and again and misses < self.settings.prolog_misses:
                self.client.requeue(whole)
                return f"requeued (miss {misses})"
            ledger.served(self.job)
        if requeue:
            times = f" ({misses} times in a row)" if again else ""
            self.client.hold(whole, sentence + times)
            return "held"
        if not record.batch:
            with suppress(SlurmRefused):
                self.client.notify(whole, sentence)
        self.client.cancel(whole, sentence)
        return "cancelled"


def work(
    settings: Settings, job: int, log: Log, *, env: Mapping[str, str], answer: str
) -> tuple[str, int]:
    """Serve the job or turn it away; see hook.Work."""
    start = _Start(settings, job, log, env, answer)
    try:
        uid, wanted = start.request()
    except NoRoom as error:
        return start.turn_away(str(error), again=True)
    except RequestError as error:
        return start.turn_away(str(error), again=False)
    except JobUnknown as error:
        # It ended between slurmd's start and our question: nothing will run.
        log.note(reason=str(error))
        return "job-gone", hook.OK
    log.note(uid=uid, wanted=describe(wanted))
    # Not before this line: a job that wants nothing must not depend on the driver's health.
    leftovers = job in Handover(Path(settings.state_run_directory)).open_jobs()
    if not wanted and not leftovers:
        return "no-mig", hook.OK
    try:
        with hook.partitioner(settings, log) as core:
            if not wanted:
                core.release(job)
                return "no-mig", hook.OK
            entries = core.acquire(job, uid, wanted)
    except NoRoom as error:
        return start.turn_away(str(error), again=True)
    except RequestError as error:
        return start.turn_away(str(error), again=False)
    log.note(
        instances=",".join(
            f"{entry.wish.gpu}/{entry.wish.profile}@{entry.wish.placement}/gi{entry.gi}"
            for entry in entries
        )
    )
    return "served", hook.OK


def main(arguments: Sequence[str]) -> int:
    """Entry of prolog/slurm-mig-prolog: CONFIG RUN_DIRECTORY ask|answer, an answer on stdin."""
    config, run_directory, source = arguments
    answer = ""
    if source == "answer":
        answer = sys.stdin.buffer.read().decode(errors="replace")
    bound = partial(work, env=os.environ, answer=answer)
    return hook.run("prolog", Path(config), run_directory, os.environ, bound)
