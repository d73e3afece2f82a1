"""What somebody else makes where a killed Prolog meant to is theirs, not the Prolog's."""

import effort
import invariants
import pytest
from invariants import Job
from killing import Mortal
from partitioning import Site

from slurm_mig.nvml import Driver

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0 if effort.SOAK else 300)]

WANTED = ("2g.10gb", "1g.5gb")


def destroy(site, instances):
    """Their maker removes them."""
    with Driver(site.node.settings.driver_library) as driver:
        (gpu,) = driver.gpus()
        for one in instances:
            for ci in one.compute:
                driver.destroy_ci(gpu.uuid, one.id, ci.id)
            driver.destroy_gi(gpu.uuid, one.id)


@pytest.mark.parametrize("ending", ["epilog", "reconcile", "again"])
def test_made_where_a_killed_prolog_meant_to(new_hooks, figures, ending):
    """A Prolog killed at any step before it asks the driver: what is made there then is untouched.

    Of two instances, too, whose second was not asked for when the Prolog died at the first. What is
    left is the step from the note that the driver is asked next to the driver's own act.
    """
    hooks = new_hooks()
    hooks.job(7, "mig:2g.10gb(CNT:1),mig:1g.5gb(CNT:1)")
    site = Site(hooks.node)
    with Mortal(hooks) as m:
        assert (m.run("prolog").rc, m.run("epilog").rc) == (0, 0)  # makes the ledger
        names = m.record("prolog")
        assert m.run("epilog").rc == 0
        first = names.index("acquire/handover.begin/before")
        second = names.index("acquire/handover.begin/before#2")
        points = names[names.index("acquire/ledger.intend/after") : second + 1]
        assert first < second
        step = effort.count(11, 1)
        for point in points[second % step :: step]:
            assert m.run("prolog", kill=point).rc == -9
            ours = m.sim.instances()
            free = invariants.rows(m.node)
            assert len(free) == 2
            if names.index(point) > first:
                del free[0]  # the driver may have been asked
            for row in free:
                site.foreigner(row.profile, row.start)
            foreign = [one for one in m.sim.instances() if one not in ours]
            m.alive([])
            try:
                if ending == "again":
                    assert m.run("prolog").rc == 0
                    invariants.settled(m.node, {7: Job(0, WANTED)}, foreign=foreign)
                run = m.run("reconcile" if ending == "reconcile" else "epilog")
                assert run.rc == 0, run.output
                invariants.settled(m.node, {}, foreign=foreign)
                assert len(m.sim.instances()) == len(foreign)
            except AssertionError as error:
                error.add_note(f"killed at {point}")
                raise
            destroy(site, foreign)
            figures("failpoints", foreign=len(foreign))
