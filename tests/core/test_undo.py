"""Acquire fails half way: what was made is undone, and the first cause is what is said."""

import pytest
from partitioning import CREATE, CREATE_CI, DESTROY, DESTROY_CI, can_make_nodes, refusal, wanted

from slurm_mig import handover, ledger
from slurm_mig.errors import NodeFault, NoRoom


def nothing_left(site):
    """No instance, no row, and nothing that a task could take for its instance."""
    return (site.lives(), site.ledger(), list(site.run.glob("jobs/*/env"))) == ([], [], [])


@pytest.mark.parametrize("error", ["UNKNOWN", "MEMORY", "INSUFFICIENT_RESOURCES", "IN_USE"])
@pytest.mark.parametrize("after", [False, True])
def test_ci_fails(site, error, after):
    """A GI whose CI could not be made, or was although the driver says no, is removed again."""
    site.sim.fail(CREATE_CI, error=error, after=after)
    said = refusal(lambda: site.acquire(7, "3g.20gb"))
    assert "GI 2: nvmlGpuInstanceCreateComputeInstance failed: " in said
    assert site.sim.counts() == (1, 1, 0, 0)
    assert nothing_left(site)


@pytest.mark.parametrize("error", ["UNKNOWN", "MEMORY", "NO_PERMISSION", "GPU_IS_LOST"])
@pytest.mark.parametrize("after", [False, True])
def test_gi_fails(site, error, after):
    """A GI that the driver refused, or made and then said no, does not stay."""
    site.sim.fail(CREATE, error=error, after=after)
    said = refusal(lambda: site.acquire(7, "3g.20gb"))
    assert f" 3g.20gb at 4:4: {CREATE} failed: " in said
    assert site.sim.counts() == (int(after), int(after), 0, 0)
    assert nothing_left(site)


def test_second_of_two_fails(make):
    """When one of several instances fails, those made before it are removed too."""
    site = make("A100-SXM4-40GB:2")
    site.sim.fail(CREATE_CI, nth=3, error="UNKNOWN")
    with pytest.raises(NodeFault):
        site.acquire(7, "3g.20gb:3")
    assert site.sim.counts() == (3, 3, 0, 0)
    assert nothing_left(site)


def test_read_back_fails(site):
    """An instance that cannot be read back is removed."""
    with site.core() as core:
        core.promises()  # the geometry has been read
        site.sim.fail("nvmlComputeInstanceGetInfo", error="UNKNOWN")
        with pytest.raises(NodeFault, match="nvmlComputeInstanceGetInfo"):
            core.acquire(7, 0, wanted("3g.20gb"))
    assert nothing_left(site)


def test_ci_vanishes(site):
    """An instance whose CI is gone by the time it is read back is not handed over."""
    site.sim.fail("nvmlComputeInstanceGetInfo", nth=2, error="NOT_FOUND")
    said = refusal(lambda: site.acquire(7, "3g.20gb"))
    gpu = site.sim.gpus()[0].uuid
    assert said == f"{gpu} GI 2: the driver does not show the CI that it made"
    assert nothing_left(site)


def test_grant_fails(make, tmp_path):
    """An instance whose device cannot be given to the user is removed."""
    if not can_make_nodes(tmp_path):
        pytest.skip("no device nodes can be made here")
    site = make()
    devices = site.sim.root / "proc/devices"
    devices.write_text(devices.read_text().replace("nvidia-caps", "nvidia-gone"))
    said = refusal(lambda: site.acquire(7, "3g.20gb"))
    assert said == f"{devices}: no nvidia-caps; load the nvidia module (nvidia-modprobe)"
    assert site.sim.counts() == (1, 1, 0, 0)
    assert nothing_left(site)


def test_handover_fails(site):
    """An instance that the task prolog cannot be told of is removed."""
    (site.run / "jobs/7/.env").mkdir(parents=True, mode=0o755)
    said = refusal(lambda: site.acquire(7, "3g.20gb"))
    assert said == f"run directory {site.run}/jobs/7/env: Is a directory"
    assert site.sim.counts() == (1, 1, 0, 0)
    assert nothing_left(site)


def test_commit_fails(site, monkeypatch):
    """An instance that cannot be written down as living is removed."""

    def full(*_):
        raise NodeFault("ledger: database or disk is full")

    monkeypatch.setattr(ledger.Ledger, "live", full)
    assert refusal(lambda: site.acquire(7, "3g.20gb")) == "ledger: database or disk is full"
    assert site.sim.counts() == (1, 1, 0, 0)
    assert nothing_left(site)


def test_interrupted(site, monkeypatch):
    """Also what is no error of ours, such as an interrupt, is undone and passed on."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(handover.Handover, "give", interrupt)
    with pytest.raises(KeyboardInterrupt):
        site.acquire(7, "3g.20gb")
    assert nothing_left(site)


def test_driver_makes_something_else(site, monkeypatch):
    """An instance that is not at the place that was asked for is not handed over."""
    from slurm_mig.nvml import Driver
    from slurm_mig.profiles import Placement

    create = Driver.create_gi
    monkeypatch.setattr(
        Driver,
        "create_gi",
        lambda self, gpu, profile, _: create(self, gpu, profile, Placement(0, 4)),
    )
    said = refusal(lambda: site.acquire(7, "3g.20gb"))
    assert said.endswith(" 3g.20gb at 4:4: the driver made profile 9 at 0:4 instead")
    assert not (site.run / "jobs/7/env").exists()


def test_undo_fails(site):
    """What cannot be undone is quarantined; the cause of the failure is what is said."""
    site.sim.fail(CREATE_CI, error="UNKNOWN")
    site.sim.fail(DESTROY, once=False, error="IN_USE")
    assert CREATE_CI in refusal(lambda: site.acquire(7, "3g.20gb"))
    assert site.ledger() == [(7, "3g.20gb", "quarantined")]
    assert site.lives() == [(0, "3g.20gb", "4:4", 0)]
    site.sim.clear_faults()
    mended = site.reconcile(set())["mended"]
    assert len(mended) == 1
    assert nothing_left(site)


def test_somebody_was_faster_once(site):
    """A place that is taken between the look and the call is given up for another."""
    site.sim.fail(CREATE, error="INSUFFICIENT_RESOURCES")
    site.acquire(7, "3g.20gb")
    assert site.ledger() == [(7, "3g.20gb", "live")]
    assert site.sim.calls()[CREATE] == 2


def test_somebody_is_always_faster(site):
    """After three such races it is a miss, not a fault of the node."""
    site.sim.fail(CREATE, once=False, error="INSUFFICIENT_RESOURCES")
    with pytest.raises(NoRoom) as caught:
        site.acquire(7, "3g.20gb")
    assert str(caught.value) == (
        "3g.20gb: the driver refused the placement 3 times; somebody else makes instances on this "
        "node"
    )
    assert site.sim.calls()[CREATE] == 3
    assert nothing_left(site)


@pytest.mark.parametrize("theirs", ["3g.20gb", "1g.5gb"])
def test_what_the_faster_one_made_stays(site, monkeypatch, theirs):
    """Somebody takes the place at the last moment, even with the same profile: it stays theirs."""
    from slurm_mig.nvml import Driver

    create = Driver.create_gi

    def overtaken(self, gpu, profile, placement):
        monkeypatch.setattr(Driver, "create_gi", create)
        site.foreigner(theirs, placement.start)
        return create(self, gpu, profile, placement)

    monkeypatch.setattr(Driver, "create_gi", overtaken)
    site.acquire(7, "3g.20gb")
    assert site.lives() == [
        (0, "3g.20gb", "0:4", 1),
        (0, theirs, f"4:{4 if theirs[0] == '3' else 1}", 1),
    ]
    assert site.sim.counts().destroyed == 0
    site.release(7)
    assert [profile for _, profile, *_ in site.lives()] == [theirs]


def test_race_undoes_the_rest_of_the_job(make, monkeypatch):
    """When the second of two loses a race, the first is undone, and both are made elsewhere."""
    site = make("A100-SXM4-40GB:2")
    site.sim.fail(CREATE, nth=2, error="INSUFFICIENT_RESOURCES")
    site.acquire(7, "3g.20gb:2")
    assert site.ledger() == [(7, "3g.20gb", "live")] * 2
    assert site.sim.counts() == (3, 1, 0, 2)
    assert site.sim.calls()[DESTROY_CI] == 1
