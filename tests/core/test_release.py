"""Release: what goes, what may not, and what happens to what will not go."""

import os
import pwd
import threading
from pathlib import Path

import pytest
from partitioning import CREATE, DESTROY, DESTROY_CI, wait_for, wanted

from slurm_mig.errors import NoRoom, TeardownError


def test_everything_goes(make):
    """Instances, rows and what was handed over are gone; a second release finds nothing to do."""
    site = make("A100-SXM4-40GB:2")
    site.acquire(7, "3g.20gb", "1g.5gb:2")
    site.acquire(8, "2g.10gb")
    assert site.release(7) == 3
    assert site.ledger() == [(8, "2g.10gb", "live")]
    assert [profile for _, profile, *_ in site.lives()] == ["2g.10gb"]
    assert not (site.run / "jobs/7").exists()
    assert site.release(7) == 0
    assert site.sim.counts().destroyed == 3


def test_job_that_never_was(site):
    """Releasing a job without instances is success."""
    assert site.release(12345) == 0


def test_removed_by_hand(site):
    """What an administrator removed already is not an error."""
    (entry,) = site.acquire(7, "3g.20gb")
    with site.core() as core:
        core._driver.destroy_ci(entry.wish.gpu, entry.gi, 0)
        core._driver.destroy_gi(entry.wish.gpu, entry.gi)
    assert site.release(7) == 1
    assert site.ledger() == []


def test_ci_removed_by_hand(site):
    """A GI whose CI is gone, which no walk over MIG devices shows, is removed."""
    (entry,) = site.acquire(7, "3g.20gb")
    with site.core() as core:
        core._driver.destroy_ci(entry.wish.gpu, entry.gi, 0)
    site.release(7)
    assert (site.lives(), site.ledger()) == ([], [])


def test_in_use(site):
    """An instance in use keeps its place: bounded wait, holder named, quarantined, not offered."""
    (entry,) = site.acquire(7, "3g.20gb")
    with site.sim.client(entry.uuids[0]) as process:
        with pytest.raises(TeardownError) as caught:
            site.release(7)
        name = Path(f"/proc/{process.pid}/comm").read_text().strip()
        user = pwd.getpwuid(os.getuid()).pw_name
        assert str(caught.value) == (
            f"{entry.wish.gpu} 3g.20gb at 4:4 of job 7: in use by pid {process.pid} ({name}, "
            f"user {user}) after 0.2 s; stop them, then run: slurm-mig reconcile"
        )
        assert site.ledger() == [(7, "3g.20gb", "quarantined")]
        assert not (site.run / "jobs/7").exists()
        with pytest.raises(NoRoom):
            site.acquire(8, "7g.40gb")
        site.acquire(9, "3g.20gb")
        assert (0, "3g.20gb", "0:4", 1) in site.lives()
        stuck = site.reconcile({8, 9})
        assert list(stuck) == ["stuck"]
        assert stuck["stuck"][0].startswith(f"{entry.wish.gpu} 3g.20gb at 4:4 of job 7: in use by ")
    assert site.reconcile({8, 9}) == {
        "mended": [f"job 7: {entry.wish.gpu} 3g.20gb at 4:4: removed (job ended)"]
    }
    assert site.lives() == [(0, "3g.20gb", "0:4", 1)]


def test_client_ends_in_time(make):
    """A client that ends within the budget only delays the removal."""
    site = make(epilog={"budget": 60})
    (entry,) = site.acquire(7, "3g.20gb")
    with site.sim.client(entry.uuids[0]) as process:

        def end_it():
            wait_for(lambda: site.sim.calls().get(DESTROY_CI, 0) >= 2, "a second attempt")
            process.kill()

        thread = threading.Thread(target=end_it)
        thread.start()
        assert site.release(7) == 1
        thread.join()
    assert (site.lives(), site.ledger()) == ([], [])


def test_no_lock_while_waiting(make):
    """While one removal waits for a client, other jobs come and go on the same GPU."""
    site = make(epilog={"budget": 60})
    (entry,) = site.acquire(7, "3g.20gb")
    with site.sim.client(entry.uuids[0]) as client:
        release = site.program("with opened() as core: say(core.release(7))\n")
        try:
            wait_for(lambda: site.sim.calls().get(DESTROY_CI, 0) >= 2, "a second attempt")
            site.acquire(8, "2g.10gb")
            assert site.release(8) == 1
            assert release.poll() is None
        finally:
            client.kill()
            out, err = release.communicate(timeout=60)
    assert (out, err) == ("1\n", "")
    assert site.lives() == []


@pytest.mark.parametrize("function", [DESTROY, DESTROY_CI])
def test_driver_refuses(site, function):
    """A driver error at the removal quarantines with the driver's words; later it is mended."""
    (entry,) = site.acquire(7, "3g.20gb")
    site.sim.fail(function, once=False, error="UNKNOWN")
    with pytest.raises(TeardownError, match=f"{function} failed: .* after 0.2 s; look at dmesg"):
        site.release(7)
    (kept,) = site.entries()
    assert (kept.state, kept.id) == ("quarantined", entry.id)
    assert function in kept.reason
    site.sim.clear_faults()
    assert list(site.reconcile(set())) == ["mended"]
    assert (site.lives(), site.ledger()) == ([], [])


@pytest.mark.parametrize("function", [DESTROY, DESTROY_CI])
def test_done_although_refused(site, function):
    """What went although the driver said no is quarantined at most until the next look."""
    site.acquire(7, "3g.20gb")
    site.sim.fail(function, error="IN_USE", after=True)
    assert site.release(7) == 1
    assert (site.lives(), site.ledger()) == ([], [])


def test_one_that_stays_does_not_keep_the_others(site):
    """Of two instances of which one is in use, the other goes."""
    first, second = site.acquire(7, "3g.20gb", "1g.5gb")
    with site.sim.client(first.uuids[0]), pytest.raises(TeardownError):
        site.release(7)
    assert site.ledger() == [(7, "3g.20gb", "quarantined")]
    assert [gi.id for gi in site.sim.instances()] == [first.gi]
    assert second.gi != first.gi


def test_foreign_instances_stay(site):
    """What somebody else made, with a CI or without, is occupied space and is never touched."""
    site.foreigner("3g.20gb", 4)
    site.foreigner("1g.5gb", 0, ci=False)
    theirs = site.lives()
    with pytest.raises(NoRoom):
        site.acquire(7, "7g.40gb")
    site.acquire(8, "2g.10gb")
    site.release(8)
    gpu = site.sim.gpus()[0].uuid
    assert site.reconcile({7}) == {
        "foreign": [
            f"{gpu} GI {gi.id} at {gi.placement}: not made by slurm-mig; left alone, its space is "
            "not offered"
            for gi in sorted(site.sim.instances(), key=lambda gi: gi.placement)
        ]
    }
    assert site.lives() == theirs
    assert site.sim.counts().destroyed == 1


@pytest.mark.parametrize(
    "order", [["3g.20gb", "2g.10gb", "1g.5gb"], ["1g.5gb", "2g.10gb", "3g.20gb"]]
)
def test_promised_space_taken_by_a_stranger(make, order):
    """A stranger's instance costs the one promise that stood there; the others are kept."""
    site = make(layout="balanced")
    site.foreigner("1g.5gb", 0)
    for job, profile in enumerate(order, start=7):
        site.acquire(job, profile)
    with pytest.raises(NoRoom):
        site.acquire(10, "1g.5gb")
    assert len(site.lives()) == 4


def test_space_that_is_just_given_back(make):
    """A Prolog waits for space whose Epilog is at work, and is served when it is free."""
    site = make(prolog={"wait": 60}, epilog={"budget": 60})
    (entry,) = site.acquire(7, "7g.40gb")
    with site.sim.client(entry.uuids[0]) as client:
        release = site.program("with opened() as core: say(core.release(7))\n")
        try:
            wait_for(lambda: site.ledger()[0][2] == "removing", "the removal to begin")
            acquire = site.program('with opened() as core: core.acquire(8, 0, wanted("7g.40gb"))\n')
            wait_for(lambda: (site.run / "jobs/8").exists(), "the other Prolog to begin")
            assert site.sim.calls()[CREATE] == 1
        finally:
            client.kill()
            assert release.communicate(timeout=60) == ("1\n", "")
            assert acquire.communicate(timeout=60) == ("", "")
    assert site.ledger() == [(8, "7g.40gb", "live")]


def test_requeued_job_with_leftovers(site):
    """A job that comes back under its id before its Epilog ran: the old goes, the new is made."""
    (old,) = site.acquire(7, "3g.20gb")
    (new,) = site.acquire(7, "1g.5gb")
    assert old.id != new.id
    assert site.ledger() == [(7, "1g.5gb", "live")]
    assert [profile for _, profile, *_ in site.lives()] == ["1g.5gb"]
    assert new.uuids[0] in (site.run / "jobs/7/env").read_text()


def test_requeued_job_whose_leftover_is_in_use(site):
    """Then the old one is quarantined, and the job gets another."""
    (old,) = site.acquire(7, "3g.20gb")
    with site.sim.client(old.uuids[0]):
        with site.core() as core:
            (new,) = core.acquire(7, 0, wanted("3g.20gb"))
        assert site.ledger() == [(7, "3g.20gb", "quarantined"), (7, "3g.20gb", "live")]
        assert new.uuids != old.uuids
        assert old.uuids[0] not in (site.run / "jobs/7/env").read_text()
    assert site.release(7) == 1
    assert list(site.reconcile(set())) == ["mended"]
    assert (site.lives(), site.ledger()) == ([], [])


@pytest.mark.parametrize("alive", [{7}, set()])
def test_killed_release_leaves_nothing_to_hand_out(site, alive):
    """A release that is killed once its instance is gone leaves no folder that names its UUID."""
    site.acquire(7, "3g.20gb")
    site.sim.fail(DESTROY, error="KILL", after=True)
    process = site.program("with opened() as core: core.release(7)\n")
    process.communicate(timeout=60)
    assert site.lives() == []
    assert not (site.run / "jobs/7/env").exists()
    # The next one at this place has the same UUID.
    site.reconcile(alive)
    (entry,) = site.acquire(8, "3g.20gb")
    assert [path.parent.name for path in site.run.glob("jobs/*/env")] == ["8"]
    assert entry.uuids[0] in (site.run / "jobs/8/env").read_text()
