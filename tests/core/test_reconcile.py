"""Reconcile, from every state that a crash, a kill or a reboot can leave."""

import signal

import pytest
from partitioning import CREATE, CREATE_CI, DESTROY, wait_for, wanted

from slurm_mig.handover import Handover
from slurm_mig.ledger import Ledger

UNFINISHED = "the Prolog on this node did not finish\n"


def where(entry):
    """How reports name an entry."""
    return f"job {entry.job}: {entry.wish.gpu} {entry.wish.profile} at {entry.wish.placement}"


def killed(site, function, code, *, after=False):
    """Run a program that the simulated driver kills at its next call of `function`."""
    site.sim.fail(function, error="KILL", after=after)
    process = site.program(f"with opened() as core: {code}\n")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_nothing_to_do(site):
    """A node in order gives an empty report, and nothing changes."""
    site.acquire(7, "3g.20gb")
    before = site.entries()
    assert site.reconcile({7}) == {}
    assert site.reconcile(None) == {}
    assert site.entries() == before
    assert len(site.lives()) == 1


PROLOG = 'core.acquire(7, 0, wanted("3g.20gb", "1g.5gb"))'
#: Where a Prolog may die: before or after it made a GI, before or after its CI, at the second one.
DEATHS = [
    (CREATE, False, 0),
    (CREATE, True, 1),
    (CREATE_CI, False, 1),
    (CREATE_CI, True, 1),
]


@pytest.mark.parametrize(("function", "after", "left"), DEATHS)
@pytest.mark.parametrize("alive", [True, False])
def test_prolog_that_died(site, function, after, left, alive):
    """What it made is removed; while its job lives, its tasks are refused."""
    killed(site, function, PROLOG, after=after)
    assert len(site.lives()) == left
    entries = site.entries()
    assert [entry.state for entry in entries] == ["intent", "intent"]
    assert site.reconcile(None) == {}
    assert site.entries() == entries
    why = "intent" if alive else "job ended"
    assert site.reconcile({7} if alive else {8}) == {
        "mended": [f"{where(entry)}: removed ({why})" for entry in entries]
    }
    assert (site.lives(), site.ledger()) == ([], [])
    if alive:
        assert (site.run / "jobs/7/refuse").read_text() == UNFINISHED
        assert not (site.run / "jobs/7/env").exists()
    else:
        assert not (site.run / "jobs/7").exists()


def test_prolog_that_died_at_the_second_instance(site):
    """The first, which lives, stays as long as the job does; the job may not run with half."""
    site.sim.fail(CREATE, nth=2, error="KILL")
    process = site.program(f"with opened() as core: {PROLOG}\n")
    process.communicate(timeout=60)
    first, second = site.entries()
    assert (first.state, second.state) == ("live", "intent")
    assert site.reconcile({7}) == {"mended": [f"{where(second)}: removed (intent)"]}
    assert site.entries() == [first]
    assert (site.run / "jobs/7/refuse").read_text() == UNFINISHED
    assert site.release(7) == 1
    assert (site.lives(), site.ledger()) == ([], [])


@pytest.mark.parametrize(("function", "after", "left"), DEATHS)
def test_epilog_after_a_prolog_that_died(site, function, after, left):
    """The Epilog alone, without any reconcile, leaves nothing."""
    killed(site, function, PROLOG, after=after)
    assert len(site.lives()) == left
    assert site.release(7) == 2
    assert (site.lives(), site.ledger()) == ([], [])


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("alive", [{7}, set()])
def test_epilog_that_died(site, after, alive):
    """An instance half removed is removed, whether or not Slurm still lists its job."""
    (entry,) = site.acquire(7, "3g.20gb")
    killed(site, DESTROY, "core.release(7)", after=after)
    assert [e.state for e in site.entries()] == ["removing"]
    assert site.reconcile(None) == {}
    why = "removing" if alive else "job ended"
    assert site.reconcile(alive) == {"mended": [f"{where(entry)}: removed ({why})"]}
    assert (site.lives(), site.ledger()) == ([], [])


def test_job_that_ended_without_epilog(site):
    """The instance of a job that Slurm does not have here any more is removed."""
    (entry,) = site.acquire(7, "3g.20gb")
    site.acquire(8, "1g.5gb")
    assert site.reconcile({8}) == {"mended": [f"{where(entry)}: removed (job ended)"]}
    assert site.ledger() == [(8, "1g.5gb", "live")]
    assert not (site.run / "jobs/7").exists()
    assert (site.run / "jobs/8/env").exists()


def test_instance_lost_while_its_job_runs(site):
    """An instance that somebody removed under its job is reported and kept on the books."""
    (entry,) = site.acquire(7, "3g.20gb")
    with site.core() as core:
        core._driver.destroy_ci(entry.wish.gpu, entry.gi, 0)
        core._driver.destroy_gi(entry.wish.gpu, entry.gi)
    lost = {"lost": [f"{where(entry)}: gone from the GPU while its job runs"]}
    assert site.reconcile({7}) == lost
    assert site.reconcile(None) == lost
    assert site.reconcile(set()) == {"mended": [f"{where(entry)}: removed (job ended)"]}
    assert site.ledger() == []


def test_reboot(site):
    """No instance outlives a reboot: rows are forgotten, what is there now is somebody else's."""
    (entry,) = site.acquire(7, "3g.20gb")
    site.sim.reboot()
    site.foreigner("3g.20gb", 4)
    assert [gi.id for gi in site.sim.instances()] == [entry.gi]
    report = site.reconcile(None)
    assert report["mended"] == [
        f"{where(entry)}: ended by a reboot or a reload of the driver; forgotten"
    ]
    assert len(report["foreign"]) == 1
    assert site.ledger() == []
    assert site.sim.counts().destroyed == 0


def test_release_after_a_reboot(site):
    """An Epilog after a reboot forgets, and does not touch what has the same id now."""
    site.acquire(7, "3g.20gb")
    site.sim.reboot()
    site.foreigner("3g.20gb", 4)
    assert site.release(7) == 1
    assert site.ledger() == []
    assert site.lives() == [(0, "3g.20gb", "4:4", 1)]


def test_space_after_a_reboot(site):
    """Rows of before a reboot occupy nothing."""
    site.acquire(7, "7g.40gb")
    site.sim.reboot()
    site.acquire(8, "7g.40gb")
    assert [profile for _, profile, *_ in site.lives()] == ["7g.40gb"]


def test_folder_without_rows(site):
    """What was handed over to a job that has ended is removed; not while Slurm cannot be asked."""
    handover = Handover(site.run)
    handover.open(7)
    handover.refuse(7, "no room")
    handover.open(8)
    assert site.reconcile(None) == {}
    assert handover.open_jobs() == [7, 8]
    assert site.reconcile({8}) == {
        "mended": ["job 7: removed what was handed over; it has ended"],
    }
    assert handover.open_jobs() == [8]


def test_job_at_work_is_left_alone(site):
    """A job whose Prolog is at work is left to it, whatever Slurm says."""
    site.sim.latency(CREATE, 600)
    process = site.program(f"with opened() as core: {PROLOG}\n")
    try:
        wait_for(lambda: site.sim.busy(0), "the driver to be at work")
        entries = site.entries()
        assert site.reconcile(set()) == {
            "busy": ["job 7: its Prolog or Epilog is at work; left to it"]
        }
        assert site.entries() == entries
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("again", [False, True])
def test_job_that_starts_while_slurm_is_asked(site, again):
    """Slurm's answer says nothing of a job that starts after it, nor of one that comes back."""
    if again:
        site.acquire(7, "1g.5gb")

    def ask():
        with site.core() as core:
            core.acquire(7, 0, wanted("3g.20gb"))
        return frozenset()

    with site.core() as core:
        report = core.reconcile(ask)
    assert (report.mended, report.stuck, report.lost) == ([], [], [])
    assert site.ledger() == [(7, "3g.20gb", "live")]
    assert [profile for _, profile, *_ in site.lives()] == ["3g.20gb"]
    assert (site.run / "jobs/7/env").exists()


def test_refusal_that_comes_while_slurm_is_asked(site):
    """A job turned away after the answer keeps the file that stops its tasks."""
    handover = Handover(site.run)
    handover.open(7)

    def ask():
        handover.open(7)
        handover.refuse(7, "no room")
        return frozenset()

    with site.core() as core:
        core.reconcile(ask)
    assert (site.run / "jobs/7/refuse").read_text() == "no room\n"


def test_quarantined_of_a_job_that_still_runs(site):
    """A quarantined leftover of a job's earlier run goes; the one that it uses now stays."""
    (old,) = site.acquire(7, "3g.20gb")
    with site.sim.client(old.uuids[0]):
        site.acquire(7, "1g.5gb")
    assert site.reconcile({7}) == {"mended": [f"{where(old)}: removed (quarantined)"]}
    assert site.ledger() == [(7, "1g.5gb", "live")]


def test_gpu_that_is_gone(site):
    """A row on a GPU that the driver does not show is kept, and said, job by job."""
    (entry,) = site.acquire(7, "3g.20gb")
    with Ledger(site.node.folder / "state") as ledger:
        ledger._write("UPDATE instance SET gpu = 'GPU-gone'")
    Handover(site.run).disown(7)  # else its folder would say that it is the other one
    site.acquire(8, "1g.5gb")
    report = site.reconcile({8})
    gone = "GPU-gone: the driver shows this GPU no more; look at dmesg for Xid errors"
    assert report["stuck"] == [
        f"GPU-gone 3g.20gb at 4:4 of job 7: {gone}, then run: slurm-mig reconcile"
    ]
    assert site.ledger() == [(7, "3g.20gb", "quarantined"), (8, "1g.5gb", "live")]
    what = f"{entry.wish.gpu} GI {entry.gi} at 4:4"
    assert report["foreign"] == [
        f"{what}: not made by slurm-mig; left alone, its space is not offered"
    ]


def test_what_is_there_after_a_reboot_is_not_ours(site):
    """Also before any reconcile, what has the id and the place of a lost instance is foreign."""
    (entry,) = site.acquire(7, "3g.20gb")
    site.sim.reboot()
    site.foreigner("3g.20gb", 4)
    with site.core() as core:
        (view,) = core.survey()
    assert [(gi.id, owner) for gi, owner in view.instances] == [(entry.gi, None)]
    assert view.pending == (entry,)


def test_lock_file_of_a_killed_hook(site):
    """All that is left of a Prolog killed before it made its folder is removed."""
    left = site.node.folder / "state/locks/job-7.lock"
    site.release(7)  # makes the folder of the locks
    left.touch()
    assert site.reconcile({8}) == {}
    assert not left.exists()
