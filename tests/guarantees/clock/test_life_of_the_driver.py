"""Reboots and reloads of the driver: what has a lost instance's place, id and UUID is not ours."""

import invariants
import pytest
from invariants import Job
from partitioning import Site

from slurm_mig.devices import Devices
from slurm_mig.errors import TeardownError
from slurm_mig.ledger import same_life
from slurm_mig.nvml import Driver

#: By design of the driver, or not: an instance made anew in its place has the UUID that it had.
UUIDS = pytest.mark.parametrize("uuids", ["stable", "fresh"])
#: How all instances are lost at once.
ENDS = pytest.mark.parametrize("end", ["reboot", "reload"])
REFUSAL = "a reboot or a reload of the driver ended its instances\n"


def _replaced(site: Site, end: str) -> list[object]:
    """Job 7's instance is lost, and a stranger makes the same one: same id, same place."""
    (entry,) = site.acquire(7, "3g.20gb", uid=0)
    (was,) = site.sim.instances()
    getattr(site.sim, end)()
    site.foreigner("3g.20gb", entry.wish.placement.start)
    (now,) = site.sim.instances()
    assert (now.gpu, now.id, now.placement) == (was.gpu, was.id, was.placement)
    same = now.compute[0].uuid == was.compute[0].uuid
    return [now, same]


@UUIDS
@ENDS
def test_epilog_leaves_what_took_the_place(new_site, figures, end, uuids):
    """An Epilog after a reboot or a reload of the driver forgets, and destroys nothing."""
    site = new_site(uuid_mode=uuids)
    foreign, same = _replaced(site, end)
    assert same == (uuids == "stable")
    assert site.release(7) == 1
    assert site.sim.counts().destroyed == 0
    invariants.settled(site.node, {}, foreign=[foreign], promises=False)
    figures("clock", lives_ended=1)


@UUIDS
@ENDS
@pytest.mark.parametrize("alive", [{7}, set(), None])
def test_reconcile_leaves_what_took_the_place(new_site, end, uuids, alive):
    """Reconcile forgets too; a job that Slurm believes to run may not touch the stranger's."""
    site = new_site(uuid_mode=uuids)
    foreign, _ = _replaced(site, end)
    report = site.reconcile(alive)
    assert report["mended"][0].endswith(": ended by a reboot or a reload of the driver; forgotten")
    assert (site.sim.counts().destroyed, site.ledger()) == (0, [])
    assert site.sim.instances() == [foreign]
    if alive == set():
        assert not (site.run / "jobs/7").exists()
    else:
        assert (site.run / "jobs/7/refuse").read_text() == REFUSAL
        assert not (site.run / "jobs/7/env").exists()
    site.release(7)
    invariants.settled(site.node, {}, foreign=[foreign], promises=False)


@UUIDS
@ENDS
def test_next_job_in_the_place(new_site, end, uuids):
    """The place that a reload freed is another job's; the old one's Epilog leaves it alone."""
    site = new_site(uuid_mode=uuids)
    site.acquire(7, "7g.40gb")
    getattr(site.sim, end)()
    site.acquire(8, "7g.40gb")
    assert site.release(7) == 1
    invariants.settled(site.node, {8: Job(profiles=("7g.40gb",))})
    assert site.release(8) == 1
    assert site.sim.instances() == []


@ENDS
def test_same_job_again(new_site, end):
    """A job requeued after a reload under its id gets a new instance; the old row goes."""
    site = new_site()
    site.acquire(7, "7g.40gb")
    getattr(site.sim, end)()
    site.acquire(7, "3g.20gb")
    invariants.settled(site.node, {7: Job(profiles=("3g.20gb",))}, promises=False)
    assert site.reconcile({7}) == {}


@ENDS
def test_quarantine_ends_too(new_site, end):
    """What was quarantined is gone with all else, and its space is free."""
    site = new_site(epilog={"budget": 0})
    (entry,) = site.acquire(7, "7g.40gb")
    site.sim.fail("nvmlGpuInstanceDestroy", once=False)
    with site.core() as core, pytest.raises(TeardownError, match="in use"):
        core.release(7)
    site.sim.clear_faults()
    assert [e.state for e in site.entries()] == ["quarantined"]
    getattr(site.sim, end)()
    site.acquire(8, "7g.40gb")
    site.reconcile({8})
    assert [e.job for e in site.entries()] == [8]
    assert [gi.id for gi in site.sim.instances()] == [entry.gi]


def test_fresh_uuid_within_one_life(new_site):
    """Where UUIDs change, what somebody made anew in a job's place is seen to be theirs."""
    site = new_site(uuid_mode="fresh")
    (entry,) = site.acquire(7, "3g.20gb")
    with Driver(site.node.settings.driver_library) as driver:
        driver.destroy_ci(entry.wish.gpu, entry.gi, 0)
        driver.destroy_gi(entry.wish.gpu, entry.gi)
    assert site.foreigner("3g.20gb", entry.wish.placement.start) == entry.gi
    theirs = site.sim.instances()
    assert site.reconcile({7})["lost"][0].endswith(": gone from the GPU while its job runs")
    assert site.release(7) == 1
    assert site.sim.instances() == theirs


def test_other_minors_after_a_reload(new_site):
    """A GPU that comes back under another device number is known by its UUID."""
    site = new_site("A100-SXM4-40GB:2", minors=[0, 1])
    (entry,) = site.acquire(7, "7g.40gb")
    path = site.sim.directory / "gpus"
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    for words in lines:
        if words[0] == "gpu":
            words[2] = str(1 - int(words[2]))
    site.sim.reload()
    path.write_text("\n".join(map(" ".join, lines)) + "\n")
    # The library reads that once for each process.
    program = site.program(
        "with opened() as core:\n"
        "    core.release(7)\n"
        '    made = core.acquire(8, 1234, wanted("7g.40gb"))\n'
        "    say([gpu.minor for gpu in core._all if gpu.uuid == made[0].wish.gpu])\n"
        "    core.release(8)\n"
    )
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out) == (0, "[1]\n"), err
    assert (entry.wish.gpu, site.sim.instances(), site.ledger()) == (
        *(site.sim.gpus()[0].uuid, [], []),
    )


def test_life(tmp_path, new_site):
    """Boot and load; without sysfs the boot alone, which is then any load of it."""
    site = new_site()
    devices = Devices(site.sim.root)
    first = devices.life()
    boot = site.sim.boot_id()
    assert first.startswith(f"{boot}/")
    site.sim.reload()
    second = devices.life()
    site.sim.reboot()
    third = devices.life()
    (site.sim.root / "sys/module/nvidia").rmdir()
    bare = devices.life()
    assert bare == site.sim.boot_id()
    same = {(a, b) for a in (first, second, third, bare, boot) for b in (first, second, third)}
    assert {pair for pair in same if same_life(*pair)} == {
        *((one, one) for one in (first, second, third)),
        (bare, third),
        (boot, first),
        (boot, second),
    }
