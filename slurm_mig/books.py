"""Opens the ledger, and goes on from one that is lost or damaged.

Core. Two things say which job an instance belongs to: the ledger's row, and, from hand-over until
its removal begins, the file `instances` in the job's folder of the run directory, which root alone
can write. Both name the instance by GPU, GI id, profile, placement, MIG UUIDs and the life of the
driver (boot and load of the module). What follows when they do not agree:

- Hooks refuse: one reason, exit 1, and Slurm drains the node. They put nothing aside.
- `reconcile` puts a ledger that is not what was last written aside as `ledger.damaged-<n>.sqlite`,
  begins a new one, and takes up what the jobs' folders vouch for and the driver shows, as live and
  that job's. Slurm then says, as always, which of these jobs have ended.
- The same goes for a ledger that is whole but contradicts a folder: one of yesterday, say.
- Whatever nobody vouches for counts as made by somebody else: its space is not offered, and it is
  never removed. Only an admin can know that it was ours, and remove it by hand.
- Counts of failed starts and reasons of quarantine are lost with a ledger.
"""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from slurm_mig import ledger_file
from slurm_mig.errors import NodeFault
from slurm_mig.handover import Handover
from slurm_mig.ledger import Entry, Ledger, from_text, same_life, to_text
from slurm_mig.ledger_file import Damaged
from slurm_mig.lock import Busy, Locks
from slurm_mig.sight import Sight


def _where(entry: Entry) -> str:
    return f"job {entry.job}: {entry.wish.gpu} {entry.wish.profile} at {entry.wish.placement}"


def _overlap(one: Entry, other: Entry) -> bool:
    (start, size), (other_start, other_size) = one.wish.placement, other.wish.placement
    return (
        one.wish.gpu == other.wish.gpu
        and same_life(one.boot, other.boot)
        and start < other_start + other_size
        and other_start < start + size
    )


class Books:
    """The ledger of one node, held against what its jobs were handed."""

    def __init__(
        self, state: Path, locks: Locks, handover: Handover, sight: Sight, patience: float
    ) -> None:
        """`patience`: seconds to wait for whoever still writes to a damaged ledger."""
        self._state, self._locks, self._patience = state, locks, patience
        self._handover, self._sight = handover, sight
        #: What `open` put aside, took up, and left for a person, one sentence each.
        self.aside: list[str] = []
        self.taken_up: list[str] = []
        self.doubts: list[str] = []

    def open(self, *, mend: bool) -> Ledger:
        """The ledger; with `mend`, one that is damaged is put aside and rebuilt.

        Raises Damaged without `mend`, NodeFault when it cannot be used or rebuilt.
        """
        if not mend:
            return Ledger(self._state, self._holders)
        ledger = self._whole()
        disputed = self._take_up(ledger)
        if disputed and not self.aside:
            ledger.close()
            with self._locks.host():
                ledger = self._anew(disputed[0])
            self.taken_up.clear()
            disputed = self._take_up(ledger)
        self.doubts += disputed
        return ledger

    def hand_over(self, job: int, entries: list[Entry]) -> None:
        """Write down which instances the job is about to be handed. Raises NodeFault."""
        self._handover.vouch(job, to_text(entries))

    def demand(self, ledger: Ledger, job: int) -> None:
        """Raise Damaged where the ledger has no row of an instance that the job was handed."""
        for entry in self._lost(ledger, job):
            raise Damaged(ledger.path, f"{_where(entry)} was handed over, but is not in it")

    def _handed(self, job: int) -> Iterator[Entry]:
        """What a job's folder vouches for, in this life of the driver."""
        with suppress(ValueError):
            for entry in from_text(self._handover.vouched(job) or "[]"):
                if entry.job == job and same_life(entry.boot, self._sight.life):
                    yield entry

    def _holders(self) -> Iterator[int]:
        for job in self._handover.open_jobs():
            if any(self._handed(job)):
                yield job

    def _lost(self, ledger: Ledger, job: int) -> list[Entry]:
        """What a job was handed, and has still, but is no row. Raises NodeFault."""
        handed = list(self._handed(job))
        rows = ledger.entries(job) if handed else []
        return [
            entry
            for entry in handed
            if not any(row.gi in (None, entry.gi) and _overlap(row, entry) for row in rows)
            and self._sight.find(entry) is not None
        ]

    def _whole(self) -> Ledger:
        """The ledger if it is what was last written, else a new one."""
        with suppress(Damaged):
            return self._checked()
        with self._locks.host():
            try:
                return self._checked()  # somebody else may have put it aside meanwhile
            except Damaged as error:
                return self._anew(error.why)

    def _checked(self) -> Ledger:
        ledger = Ledger(self._state, self._holders)
        try:
            ledger.check()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _anew(self, why: str) -> Ledger:
        path = self._state / ledger_file.NAME
        aside = ledger_file.put_aside(path, self._patience)
        self.aside.append(f"ledger {path}: {why}; put aside as {aside}, a new one was begun")
        return Ledger(self._state)

    def _take_up(self, ledger: Ledger) -> list[str]:
        """Write the rows that the ledger lost; a sentence for each that contradicts another row."""
        disputed = []
        for job in self._handover.open_jobs():
            with ExitStack() as stack:
                try:
                    stack.enter_context(self._locks.job(job, wait=False))
                    lost = self._lost(ledger, job)
                except Busy:
                    continue  # a job whose hook is at work is that hook's; the next run sees to it
                except NodeFault as error:
                    self.doubts.append(f"job {job}: not seen whether it has its instances: {error}")
                    continue
                others = [row for row in ledger.entries() if row.job != job]
                for entry in lost:
                    if rival := next((row for row in others if _overlap(row, entry)), None):
                        disputed.append(
                            f"{_where(entry)} was handed over, but is job {rival.job}'s in it"
                        )
                    else:
                        ledger.take_up([entry])
                        self.taken_up.append(f"{_where(entry)}: taken up, as it was handed over")
        return disputed
