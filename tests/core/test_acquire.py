"""Acquire: where instances are made, what is written down, what is refused."""

import itertools
import os
import stat

import pytest
from partitioning import CREATE, can_make_nodes, wanted

from slurm_mig.errors import ConfigError, NoRoom, RequestError, SlurmMigError

ORDERS = sorted(set(itertools.permutations(["3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb"])))


def test_one_instance(site):
    """One GI with one CI is made, written down as it lives, and handed over."""
    (entry,) = site.acquire(7, "3g.20gb", uid=1234)
    (gi,) = site.sim.instances()
    assert (gi.profile, gi.placement, gi.id) == ("3g.20gb", entry.wish.placement, entry.gi)
    assert [(ci.id, ci.uuid) for ci in gi.compute] == [(*entry.cis, *entry.uuids)]
    assert (entry.job, entry.uid, entry.state) == (7, 1234, "live")
    load = (site.sim.root / "sys/module/nvidia").stat().st_ino
    assert entry.boot == f"{site.sim.boot_id()}/{load}"
    assert site.entries() == [entry]
    assert (site.run / "jobs/7/env").read_text() == (
        f"export CUDA_VISIBLE_DEVICES={entry.uuids[0]}\n"
        f"export SLURM_MIG_DEVICES={entry.uuids[0]}\n"
        "export SLURM_MIG_PROFILES=3g.20gb\n"
    )


def test_several_over_several_gpus(make):
    """A job's instances may lie on several GPUs; the order of the request is kept."""
    site = make("A100-SXM4-40GB:2")
    entries = site.acquire(7, "4g.20gb:2", "3g.20gb:2")
    assert [entry.wish.profile for entry in entries] == ["4g.20gb"] * 2 + ["3g.20gb"] * 2
    assert site.lives() == [
        (0, "4g.20gb", "0:4", 1),
        (0, "3g.20gb", "4:4", 1),
        (1, "4g.20gb", "0:4", 1),
        (1, "3g.20gb", "4:4", 1),
    ]
    uuids = [entry.uuids[0] for entry in entries]
    assert len(set(uuids)) == 4
    assert f"CUDA_VISIBLE_DEVICES={','.join(uuids)}\n" in (site.run / "jobs/7/env").read_text()


def test_placement_is_always_explicit(make):
    """The driver is never left to choose a placement."""
    site = make("A100-SXM4-40GB:2")
    site.acquire(7, "1g.5gb:3")
    site.acquire(8, "2g.10gb:2", "3g.20gb")
    calls = site.sim.calls()
    assert calls[CREATE] == 6
    assert "nvmlDeviceCreateGpuInstance" not in calls


@pytest.mark.parametrize("order", ORDERS, ids=",".join)
def test_promises_are_kept_in_any_order(make, order):
    """Whatever is promised can be had, in whatever order the jobs come."""
    site = make(layout="balanced")
    assert site.node.promises == {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}
    with site.core() as core:
        for job, profile in enumerate(order, start=1):
            core.acquire(job, 0, wanted(profile))
    assert sorted(gi.profile for gi in site.sim.instances()) == sorted(order)


def test_promised_space_is_not_given_away(make):
    """A request beyond the promises does not get what is promised to others."""
    site = make(layout="balanced")
    with pytest.raises(
        NoRoom, match=r"^no room for 4g\.20gb: what is free is promised to 3g\.20gb"
    ):
        site.acquire(7, "4g.20gb")
    assert site.lives() == []
    assert site.ledger() == []


def test_no_room(site):
    """What does not fit says what was asked and what would fit, and leaves nothing."""
    site.acquire(7, "4g.20gb")
    with pytest.raises(NoRoom, match=r"^no room for 4g\.20gb; free now: .*3g\.20gb"):
        site.acquire(8, "4g.20gb")
    assert site.ledger() == [(7, "4g.20gb", "live")]
    assert not (site.run / "jobs/8/env").exists()


def test_all_or_none(site):
    """Of two instances of which one does not fit, none is made."""
    with pytest.raises(NoRoom):
        site.acquire(7, "3g.20gb", "4g.20gb:2")
    assert site.sim.counts().made == 0
    assert site.ledger() == []


def test_unknown_profile(site):
    """A profile of another GPU is refused with the nearest one and all that there are."""
    with pytest.raises(RequestError) as caught:
        site.acquire(7, "3g.40gb")
    assert str(caught.value) == (
        "no GPU of this node has a profile '3g.40gb'; did you mean 7g.40gb? there are 1g.5gb, "
        "2g.10gb, 3g.20gb, 4g.20gb, 7g.40gb, 1g.5gb+me, 1g.10gb"
    )
    assert site.sim.counts().made == 0


def test_layout_that_cannot_be_kept(make):
    """Promises that a GPU cannot keep are an error of the configuration; nothing is made."""
    site = make()
    text = site.node.config.read_text() + '\n[layout]\ndefault = { "7g.40gb" = 2 }\n'
    site.node.config.write_text(text)
    with pytest.raises(ConfigError, match=r"A100-SXM4-40GB: 7g\.40gb"):
        site.acquire(7, "1g.5gb")
    assert site.sim.counts().made == 0


def test_requests_of_different_gpus(make):
    """On a node of two models a request goes to the GPU that has the profile."""
    site = make("A30-24GB", "H100-SXM5-80GB")
    site.acquire(7, "1g.6gb", "3g.40gb")
    assert [(gpu, profile) for gpu, profile, *_ in site.lives()] == [(0, "1g.6gb"), (1, "3g.40gb")]


def test_profiles_with_attributes(site):
    """A `+me` profile is made as such, and only one of them."""
    site.acquire(7, "1g.5gb+me")
    assert [profile for _, profile, *_ in site.lives()] == ["1g.5gb+me"]
    with pytest.raises(NoRoom):
        site.acquire(8, "1g.5gb+me")


def test_devices_belong_to_the_user(make, tmp_path):
    """The capability nodes of an instance are its user's alone, and nobody's after."""
    if not can_make_nodes(tmp_path):
        pytest.skip("no device nodes can be made here")
    site = make()
    before = set((site.sim.root / "dev/nvidia-caps").iterdir())
    site.acquire(7, "3g.20gb", uid=4321)
    folder = site.sim.root / "proc/driver/nvidia/capabilities/gpu0/mig"
    accesses = sorted(folder.glob("gi*/**/access"))
    assert len(accesses) == 2
    for access in accesses:
        lines = dict(line.split(": ") for line in access.read_text().splitlines())
        assert lines["DeviceFileModify"] == "0"
        node = site.sim.root / f"dev/nvidia-caps/nvidia-cap{lines['DeviceFileMinor']}"
        status = node.stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (4321, 0o400)
    site.release(7)
    left = set((site.sim.root / "dev/nvidia-caps").iterdir()) - before
    assert [stat.S_IMODE(node.stat().st_mode) & 0o077 for node in left] == [0] * len(left)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_cannot_use_it(make, public):
    """The job's user can use the instance, another user cannot."""
    if not can_make_nodes(public):
        pytest.skip("no device nodes can be made here")
    site = make(base=public)
    (entry,) = site.acquire(7, "3g.20gb", uid=65534)
    with site.sim.client(entry.uuids[0], user=65534) as process:
        assert [client.pid for client in site.sim.clients()] == [process.pid]
    with (
        pytest.raises(SlurmMigError, match="NO_PERMISSION"),
        site.sim.client(entry.uuids[0], user=65533),
    ):
        pass
