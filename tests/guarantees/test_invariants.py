"""The checker itself: it sees each thing that may not happen, and nothing where all is well."""

import sqlite3
from contextlib import closing

import invariants
import pytest
from invariants import Job
from partitioning import Site

SERVED = {7: Job(0, ("3g.20gb",)), 8: Job(0, ("1g.5gb",))}


def sql(hooks, statement):
    """Change the ledger behind everybody's back."""
    with closing(sqlite3.connect(hooks.node.folder / "state/ledger.sqlite")) as database, database:
        database.execute(statement)


def shared(hooks):
    """Hand one job's instance to another too."""
    env = hooks.node.run_directory / "jobs"
    (env / "8/env").write_text((env / "7/env").read_text())


BROKEN = {
    "has 0 rows in the ledger": lambda h: sql(h, "DELETE FROM instance WHERE job = 7"),
    "slice 4 has 2 rows": lambda h: sql(h, "UPDATE instance SET start = 4, size = 1 WHERE job = 8"),
    "was handed over 2 times": shared,
    "its tasks would not run": lambda h: (h.node.run_directory / "jobs/7/refuse").touch(),
    "stays behind: folder of job 9": lambda h: (h.node.run_directory / "jobs/9").mkdir(),
    "stays behind: job-9.lock": lambda h: (h.node.folder / "state/locks/job-9.lock").touch(),
    "of which the driver has": lambda h: sql(h, "UPDATE instance SET gi = 3 WHERE job = 7"),
    "is not GpuInstance": lambda h: sql(h, "UPDATE instance SET uid = 5 WHERE job = 7"),
}


@pytest.mark.parametrize("said", BROKEN)
def test_what_is_broken_is_seen(new_hooks, said):
    """Each kind of damage is told in its own words; without it the checker is content."""
    hooks = new_hooks()
    for job, wanted in SERVED.items():
        hooks.job(job, f"mig:{wanted.profiles[0]}(CNT:1)")
        assert hooks.prolog(job).rc == 0
    invariants.settled(hooks.node, SERVED)
    BROKEN[said](hooks)
    with pytest.raises(AssertionError, match=said):
        invariants.settled(hooks.node, SERVED)


def test_foreign_and_promises(new_hooks):
    """What somebody else made must stay; promises must fit beside what is there."""
    hooks = new_hooks(layout={"3g.20gb": 2})
    site = Site(hooks.node)
    gi = site.foreigner("1g.5gb", 0)
    foreign = hooks.sim.instances()
    invariants.settled(hooks.node, {}, foreign=foreign)
    assert [one.id for one in foreign] == [gi]
    seen = invariants.look(hooks.node)
    assert len(invariants._cannot_keep(hooks.node, seen)) == 1
    hooks.sim.reboot()
    with pytest.raises(AssertionError, match="what somebody else made is gone"):
        invariants.settled(hooks.node, {}, foreign=foreign)
    assert invariants._cannot_keep(hooks.node, invariants.look(hooks.node)) == []
