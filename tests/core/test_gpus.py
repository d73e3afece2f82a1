"""Nodes whose GPUs are not as they should be: one sentence each, and the healthy ones serve."""

import pytest
from partitioning import refusal

from slurm_mig.errors import NodeFault


def test_mig_mode_off(make):
    """With MIG mode off everywhere the error names the GPUs and the way out."""
    site = make("A100-SXM4-40GB:2", mig_enabled=False)
    assert refusal(lambda: site.acquire(7, "3g.20gb")) == (
        "MIG mode is off on GPU 0 (A100-SXM4-40GB), GPU 1 (A100-SXM4-40GB); turn it on: "
        "nvidia-smi -mig 1 (Ampere: then reset the GPU)"
    )
    assert site.ledger() == []


def test_no_gpu_with_mig(make):
    """On a node whose GPUs cannot do MIG the error names what there is."""
    site = make("T4-16GB")
    said = "no GPU of this node can do MIG: the driver shows Tesla T4"
    assert refusal(lambda: site.acquire(7, "3g.20gb")) == said
    assert site.release(7) == 0


def test_gpus_without_mig_beside_others(make):
    """A GPU without MIG, or out of MIG mode, is passed over."""
    site = make("T4-16GB", "A100-SXM4-40GB:2")
    with site.core() as core:
        off = core._all[1]
        core._all[1] = type(off)(off.uuid, off.index, off.minor, off.name, False, False)
        entries = core.acquire(7, 0, [("3g.20gb", 1)])
    assert [entry.wish.gpu for entry in entries] == [site.sim.gpus()[2].uuid]


def test_instances_of_a_gpu_out_of_mig_mode(make):
    """A row on a GPU that left MIG mode is forgotten: nothing can live there."""
    site = make("A100-SXM4-40GB:2")
    site.acquire(7, "7g.40gb")
    with site.core() as core:
        gone = core._all[0]
        core._all[0] = type(gone)(gone.uuid, gone.index, gone.minor, gone.name, False, False)
        assert core.release(7) == 1
    assert site.ledger() == []


@pytest.mark.parametrize(
    "function", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetMigMode", "nvmlDeviceGetName"]
)
def test_broken_driver(site, function):
    """A driver that answers nothing sensible is one sentence that names the call."""
    site.sim.fail(function, once=False, error="UNKNOWN")
    said = refusal(lambda: site.acquire(7, "3g.20gb"))
    assert f": {function}" in said
    assert said.endswith(" failed: Unknown Error (NVML error 999)")
    site.sim.clear_faults()
    assert (site.lives(), site.ledger()) == ([], [])


def test_gpu_lost_while_its_job_runs(site):
    """A release on a GPU that fell off the bus keeps the row, with the driver's words."""
    site.acquire(7, "3g.20gb")
    with site.core() as core:
        site.sim.fail("nvmlDeviceGetGpuInstances", once=False, error="GPU_IS_LOST")
        with pytest.raises(Exception, match="GPU is lost") as caught:
            core.release(7)
    assert "\n" not in str(caught.value)
    assert site.ledger() == [(7, "3g.20gb", "quarantined")]
    site.sim.clear_faults()
    assert list(site.reconcile(set())) == ["mended"]
    assert (site.lives(), site.ledger()) == ([], [])


def test_lost_gpu_does_not_hide_the_others(make):
    """With one GPU off the bus nothing is made, but what lives on the others is removed."""
    site = make("A100-SXM4-40GB:2")
    site.acquire(7, "7g.40gb")
    for _ in range(2):
        site.sim.fail("nvmlDeviceGetHandleByIndex_v2", nth=2, error="GPU_IS_LOST")
        said = refusal(lambda: site.acquire(8, "3g.20gb"))
        assert said == (
            "GPU 1: nvmlDeviceGetHandleByIndex failed: GPU is lost (NVML error 15); "
            "look at dmesg for Xid errors"
        )
    site.sim.fail("nvmlDeviceGetHandleByIndex_v2", nth=2, error="GPU_IS_LOST")
    assert site.release(7) == 1
    assert (site.lives(), site.ledger()) == ([], [])


def test_core_that_cannot_open(site):
    """A ledger that is unusable is said before the driver is asked to change anything."""
    (site.node.folder / "state").mkdir(mode=0o777)
    (site.node.folder / "state").chmod(0o777)
    with pytest.raises(NodeFault, match="state directory"):
        site.acquire(7, "3g.20gb")
    assert site.sim.counts().made == 0
    assert not site.run.exists()
