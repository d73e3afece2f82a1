"""A node with jobs, whose ledger can be spoilt and set back, and what must hold then."""

import shutil
from pathlib import Path

import invariants
from invariants import Job
from partitioning import Site, refusal

from slurm_mig.ledger import Entry, Ledger
from slurm_mig.ledger_file import Damaged

#: The jobs of the node, and what they hold.
JOBS = {7: Job(profiles=("3g.20gb",)), 8: Job(profiles=("1g.5gb", "1g.5gb"))}


def remove(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Ruin:
    """Jobs 7 and 8 live on a node where a stranger has an instance, too."""

    def __init__(self, site: Site) -> None:
        self.site, self.node = site, site.node
        self.state = self.node.folder / "state"
        self.path = self.state / "ledger.sqlite"
        site.foreigner("1g.5gb", 0)
        self.foreign = site.sim.instances()
        site.acquire(7, "3g.20gb")
        site.acquire(8, "1g.5gb:2")
        self.whole = self.path.read_bytes()
        self.entries = site.entries()
        self.there = site.sim.instances()

    def set_back(self) -> None:
        """The ledger as it was, and nothing beside it but the locks."""
        for path in self.state.iterdir():
            if path.name != "locks":
                remove(path)
        self.path.write_bytes(self.whole)
        self.path.chmod(0o600)

    def verdict(self) -> str:
        """What a hook's reading of the file comes to: `whole`, or the reason; nothing else."""
        try:
            with Ledger(self.state, lambda: [7, 8]) as ledger:
                entries = ledger.entries()
        except Damaged as error:
            return error.why
        assert entries == self.entries
        return "whole"

    def refused(self) -> str:
        """Every verb of a hook refuses with one reason and touches nothing; the reason."""
        before = self.site.sim.calls()
        reasons = {
            refusal(lambda: self.site.release(7)),
            refusal(lambda: self.site.acquire(7, "3g.20gb")),
            refusal(lambda: self.site.acquire(9, "1g.5gb")),
        }
        assert len(reasons) == 1
        assert self.site.sim.instances() == self.there
        changed = {
            name: count - before.get(name, 0)
            for name, count in self.site.sim.calls().items()
            if name.endswith(("Destroy", "WithPlacement", "CreateComputeInstance"))
            and count != before.get(name, 0)
        }
        assert changed == {}
        return reasons.pop()

    def rebuilt(self, jobs: dict[int, Job] | None = None) -> dict[str, list[str]]:
        """One reconcile: the jobs have what they had, others' is untouched; its report."""
        wanted = JOBS if jobs is None else jobs
        report = self.site.reconcile(set(wanted))
        invariants.settled(self.node, wanted, foreign=self.foreign, promises=False)
        if jobs is None:
            assert self.site.sim.instances() == self.there
            assert sorted(map(row, self.site.entries())) == sorted(map(row, self.entries))
        return report

    def aside(self) -> list[Path]:
        """The ledgers that were put aside, without their journals."""
        return sorted(self.state.glob("ledger.damaged-*.sqlite"))

    def serves_and_ends(self) -> None:
        """A job comes and goes, and the two end, as if nothing had been."""
        self.site.acquire(9, "1g.5gb")
        for job in (7, 8, 9):
            self.site.release(job)
        assert self.site.sim.instances() == self.foreign
        assert self.site.ledger() == []


def row(entry: Entry) -> tuple[object, ...]:
    """All of an entry but its number in the file."""
    wish = entry.wish
    return entry.job, entry.uid, wish.gpu, wish.placement, entry.gi, entry.uuids, entry.state
