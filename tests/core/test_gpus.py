"""Nodes whose GPUs are not as they should be: one sentence each, and the healthy ones serve."""

import pytest
from partitioning import refusal

from slurm_mig.errors import NodeFault, NoRoom


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


def test_only_the_named_gpus_are_partitioned(make):
    """The list is of device minors, not of NVML's indices; the other GPUs get nothing."""
    site = make("A100-SXM4-40GB:3", minors=(2, 0, 1), gpus={"mig": "0-1"}, layout="halves")
    uuids = [gpu.uuid for gpu in site.sim.gpus()]
    with site.core() as core:
        assert core.promises() == {"3g.20gb": 4}
        assert [view.whole for view in core.survey()] == [True, False, False]
        entries = core.acquire(7, 0, [("3g.20gb", 4)])
    assert sorted(entry.wish.gpu for entry in entries) == sorted(2 * uuids[1:])
    with pytest.raises(NoRoom):
        site.acquire(8, "1g.5gb")


@pytest.mark.parametrize(
    ("gpus", "mig", "options", "said"),
    [
        (
            ("A100-SXM4-40GB:2",),
            "0-3,5",
            {},
            (
                "[gpus] mig names /dev/nvidia[2-3,5], which the driver does not show: it shows "
                "/dev/nvidia[0-1]; correct the list, or look at dmesg for Xid errors"
            ),
        ),
        (
            ("A100-SXM4-40GB",),
            "3",
            {},
            (
                "[gpus] mig names /dev/nvidia3, which the driver does not show: it shows "
                "/dev/nvidia0; correct the list, or look at dmesg for Xid errors"
            ),
        ),
        (
            ("A100-SXM4-40GB:2", "T4-16GB"),
            "1-2",
            {},
            "[gpus] mig names /dev/nvidia2 (Tesla T4), which cannot do MIG; take it out",
        ),
        (
            ("A100-SXM4-40GB", "A30-24GB"),
            "0-1",
            {"mig_enabled": False},
            (
                "[gpus] mig names /dev/nvidia0 (A100-SXM4-40GB), /dev/nvidia1 (A30), but MIG mode "
                "is off there; run: slurm-mig node-setup"
            ),
        ),
    ],
)
def test_named_gpu_that_cannot_be_partitioned(make, gpus, mig, options, said):
    """A GPU that the list names must be there and in MIG mode, or nothing is made at all."""
    site = make(*gpus, gpus={"mig": mig}, **options)
    assert refusal(lambda: site.acquire(7, "1g.5gb")) == said
    assert (site.sim.counts().made, site.ledger()) == (0, [])


def test_named_gpu_that_is_lost(make):
    """A named GPU that fell off the bus is said in the driver's words."""
    site = make("A100-SXM4-40GB:2", gpus={"mig": "0-1"})
    site.sim.fail("nvmlDeviceGetHandleByIndex_v2", nth=2, error="GPU_IS_LOST")
    assert refusal(lambda: site.acquire(8, "3g.20gb")) == (
        "GPU 1: nvmlDeviceGetHandleByIndex failed: GPU is lost (NVML error 15); "
        "look at dmesg for Xid errors"
    )


def test_lost_gpu_that_stays_whole(make):
    """A lost GPU that the list leaves out does not keep the others from serving."""
    site = make("A100-SXM4-40GB:2", gpus={"mig": "0"})
    site.sim.fail("nvmlDeviceGetHandleByIndex_v2", nth=2, error="GPU_IS_LOST")
    assert len(site.acquire(8, "3g.20gb")) == 1


def test_list_that_changes_while_a_job_runs(make):
    """What lives on a GPU that is left out later takes no promise, and goes with its job."""
    site = make("A100-SXM4-40GB:2", layout="halves", gpus={"mig": "0"})
    (old,) = site.acquire(7, "3g.20gb")
    text = site.node.config.read_text()
    site.node.config.write_text(text.replace('"mig" = "0"', '"mig" = "1"'))
    with pytest.raises(NoRoom) as caught:
        site.acquire(8, "4g.20gb")
    said = "no room for 4g.20gb: what is free is promised to 3g.20gb \u00d72"
    assert str(caught.value) == said
    (new,) = site.acquire(9, "3g.20gb")
    assert new.wish.gpu != old.wish.gpu
    assert site.release(7) == 1
    assert [gpu for gpu, *_ in site.lives()] == [1]


def test_strangers_on_a_whole_gpu_are_not_reported(make):
    """What others make on a GPU that stays whole is theirs: no word, no touch."""
    site = make("A100-SXM4-40GB:2", gpus={"mig": "1"})
    site.foreigner("1g.5gb", 0, gpu=0)
    assert site.reconcile(set()) == {}
    site.foreigner("1g.5gb", 0, gpu=1)
    assert list(site.reconcile(set())) == ["foreign"]
    assert len(site.lives()) == 2
