"""What reconcile cannot see or touch now is left as it is and said; the rest is done."""

LOOK = "nvmlDeviceGetGpuInstances"


def test_a_job_that_cannot_be_worked_on(site):
    """One job's lock is unusable: that job is skipped with the reason, the others are mended."""
    site.acquire(7, "3g.20gb")
    (other,) = site.acquire(8, "1g.5gb")
    lock = site.node.folder / "state/locks/job-7.lock"
    lock.symlink_to("elsewhere")
    report = site.reconcile(set())
    assert list(report) == ["mended", "skipped"]
    fault = f"lock {lock}: Too many levels of symbolic links"
    assert report["skipped"] == [
        f"job 7: not seen whether it has its instances: {fault}",
        f"job 7: {fault}",
    ]
    assert [line.partition(":")[0] for line in report["mended"]] == ["job 8"]
    assert site.ledger() == [(7, "3g.20gb", "live")]
    assert other.gi not in [gi.id for gi in site.sim.instances()]
    lock.unlink()
    assert list(site.reconcile(set())) == ["mended"]
    assert (site.lives(), site.ledger()) == ([], [])


def test_a_gpu_that_cannot_be_looked_at(make):
    """A driver that does not tell what lives on a GPU: said of each, nothing done, nothing lost."""
    site = make("A100-SXM4-40GB:2")
    (entry,) = site.acquire(7, "3g.20gb")
    before = site.lives()
    site.sim.fail(LOOK, once=False, error="UNKNOWN")
    report = site.reconcile({7})
    assert list(report) == ["skipped"]
    living, *gpus = report["skipped"]
    where = f"job 7: {entry.wish.gpu} 3g.20gb at {entry.wish.placement}: "
    assert living.startswith(where)
    assert LOOK in living
    assert [line.partition(": not looked for what others made: ")[0] for line in gpus] == [
        gpu.uuid for gpu in site.sim.gpus()
    ]
    site.sim.clear_faults()
    assert (site.lives(), site.entries()) == (before, [entry])
    assert site.reconcile({7}) == {}
