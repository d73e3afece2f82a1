"""slurm-mig node-setup: MIG mode by each architecture's rules, one line for each GPU."""

import json
import os

import pytest
from setuplines import A_RESET, FOR_NOW, ON, RESET, TURNED_ON, a100, h100

from slurm_mig import hook
from slurm_mig.log import Log
from slurm_mig.nvml import Driver
from slurm_mig.request import Wanted


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("H100-SXM5-80GB", "H100 80GB HBM3"),
        ("GH200-96GB", "GH200 120GB"),
        ("B200-180GB", "B200"),
        ("RTX-PRO-6000-BLACKWELL-96GB", "RTX PRO 6000 Blackwell Server Edition"),
    ],
)
def test_hopper_and_later(make, key, model):
    """The mode is on at once; again there is nothing to do; after a reboot it is done anew."""
    admin = make(f"{key}:2")
    names = [f"GPU {index} (/dev/nvidia{index}, {model}): " for index in (0, 1)]
    for _ in range(2):
        said = admin()
        assert (said.status, said.err) == (0, "")
        assert said.lines == [name + FOR_NOW for name in names]
        assert admin.modes() == [(True, True), (True, True)]
        before = admin.sets()
        said = admin()
        assert said.lines == [name + ON for name in names]
        assert (said.status, admin.sets()) == (0, before)
        admin.sim.reboot()
        assert admin.modes() == [(False, False), (False, False)]


@pytest.mark.parametrize("key", ["A100-SXM4-40GB", "A30-24GB"])
@pytest.mark.parametrize("way", ["reset", "reboot"])
def test_ampere_that_the_driver_cannot_reset(make, key, way):
    """The mode is set and the command for the rest said, as often as asked; then it is on."""
    admin = make(key)
    name = f"GPU 0 (/dev/nvidia0, {admin.sim.models[0].nvml_name.removeprefix('NVIDIA ')}): "
    for when in ("now", "already", "already"):
        said = admin()
        assert (said.status, said.err) == (3, "")
        text = f"needs an admin: MIG mode is {when} set, and on after {A_RESET}; run: "
        assert said.lines == [name + text + RESET.format(0)]
        assert admin.modes() == [(False, True)]
    if way == "reset":
        admin.sim.reset_gpu(0)
    else:
        admin.sim.reboot()
    for _ in range(2):
        said = admin()
        assert (said.status, said.lines) == (0, [name + ON])
        admin.sim.reboot()  # Ampere keeps its mode


def test_ampere_that_the_driver_resets_itself(make):
    """On bare metal the driver resets the idle GPU: nothing is left to do, and it lasts."""
    admin = make("A100-SXM4-40GB", self_reset=True)
    said = admin()
    assert (said.status, said.err) == (0, "")
    assert said.lines == [a100(0, TURNED_ON)]
    admin.sim.reboot()
    assert admin().lines == [a100(0, ON)]


def test_mode_that_is_about_to_go_off(make):
    """A mode that a reset would turn off is set to stay; that needs no reset."""
    admin = make("A100-SXM4-40GB", mig_enabled=True)
    with Driver(str(admin.sim.library)) as driver:
        driver.set_mig(driver.gpus()[0], False)
    assert admin.modes() == [(True, False)]
    said = admin()
    text = "changed: MIG mode was to go off with a GPU reset; it stays on now"
    assert said.lines == [a100(0, text)]
    assert (said.status, admin.modes()) == (0, [(True, True)])


class TestDryRun:
    """--dry-run says what would be done, and does nothing at all."""

    def test_nothing_changes(self, make):
        """No call that sets a mode, no lock, no folder, no line in the log."""
        admin = make("A100-SXM4-40GB", "H100-SXM5-80GB")
        before = admin.modes()
        said = admin("--dry-run")
        assert (said.status, said.err) == (3, "")
        how = "which takes a GPU reset, by the driver or by an admin"
        assert said.lines == [
            a100(0, f"would change: would set MIG mode, {how}"),
            h100(1, "would change: would turn MIG mode on"),
        ]
        assert (admin.sets(), admin.modes()) == (0, before)
        assert not (admin.node.folder / "state").exists()
        assert not admin.node.log.exists()

    def test_node_that_is_as_it_should_be(self, make):
        """With nothing to do it says the same as without --dry-run."""
        admin = make("A100-SXM4-40GB", mig_enabled=True)
        dry = admin("--dry-run")
        assert (dry.status, dry.lines) == (0, [a100(0, ON)])
        assert admin() == dry

    def test_gpu_in_use(self, make):
        """Who is in the way is said before anybody is disturbed."""
        admin = make("H100-SXM5-80GB")
        with admin.sim.client(admin.sim.gpus()[0].uuid) as process:
            said = admin("--dry-run")
        assert said.status == 3
        assert f"in use by pid {process.pid} (" in said.lines[0]


class TestWhole:
    """GPUs that the list leaves out are never changed."""

    def test_in_every_mode(self, make):
        """Off is as it should be; on, and about to go on or off, are an admin's to change."""
        admin = make("A100-SXM4-40GB:4", mig="0")
        with Driver(str(admin.sim.library)) as driver:
            for index in (0, 1, 2):
                driver.set_mig(driver.gpus()[index], True)
                if index < 2:
                    admin.sim.reset_gpu(index)
            driver.set_mig(driver.gpus()[1], False)
        modes = [(True, True), (True, False), (False, True), (False, False)]
        assert admin.modes() == modes
        before = admin.sets()
        said = admin()
        assert (said.status, admin.sets(), admin.modes()) == (3, before, modes)
        whole = "needs an admin: it is to stay whole,"
        assert said.lines == [
            a100(0, ON),
            a100(1, f"{whole} and leaves MIG mode after {A_RESET}; run: {RESET.format(1)}"),
            a100(2, f"{whole} but enters MIG mode after {A_RESET}; run: nvidia-smi -i 2 -mig 0"),
            a100(3, "ok: stays whole"),
        ]

    def test_by_minor(self, make):
        """The list names minors; nvidia-smi takes the index, which may be another number."""
        admin = make("H100-SXM5-80GB:2", mig="5", minors=(5, 0), mig_enabled=True)
        said = admin()
        assert said.status == 3
        text = "needs an admin: it is to stay whole, but is in MIG mode; run: nvidia-smi -i 1"
        assert said.lines == [
            f"GPU 0 (/dev/nvidia5, H100 80GB HBM3): {ON}",
            f"GPU 1 (/dev/nvidia0, H100 80GB HBM3): {text} -mig 0",
        ]

    def test_only_the_named_are_turned_on(self, make):
        """What is not in the list stays off."""
        admin = make("H100-SXM5-80GB:3", mig="0,2")
        assert admin().status == 0
        assert admin.modes() == [(True, True), (False, False), (True, True)]

    def test_gpu_that_cannot_do_mig(self, make):
        """Without a list a GPU without MIG just stays whole."""
        admin = make("T4-16GB", "H100-SXM5-80GB")
        said = admin()
        assert said.status == 0
        assert said.lines == [
            "GPU 0 (/dev/nvidia0, Tesla T4): ok: stays whole: it cannot do MIG",
            h100(1, FOR_NOW),
        ]


def test_jobs_on_other_gpus_do_not_mind(make):
    """A GPU is turned on while a job uses an instance of the next one, which stays as it is."""
    admin = make("H100-SXM5-80GB:2", mig="0")
    assert admin().status == 0
    with hook.partitioner(admin.node.settings, Log(str(admin.node.log), "test")) as core:
        (entry,) = core.acquire(7, os.getuid(), [Wanted("3g.40gb", 1)])
    before = admin.sim.instances()
    with admin.sim.client(entry.uuids[0]):
        admin.partition("0-1")
        assert admin().lines == [h100(0, ON), h100(1, FOR_NOW)]
        assert (admin.sim.instances(), len(admin.sim.clients())) == (before, 1)


def test_json(make):
    """The JSON has what the lines have, in a form that stays."""
    admin = make("A100-SXM4-40GB", "H100-SXM5-80GB", mig="0,1,7")
    said = admin("--json")
    first, second = admin.sim.gpus()
    missing = "the driver does not show it; correct [gpus] mig, or look at dmesg for Xid errors"
    assert (said.status, said.err) == (1, "")
    assert json.loads("\n".join(said.lines)) == {
        "version": 1,
        "dry_run": False,
        "gpus": [
            {
                "minor": 0,
                "index": 0,
                "uuid": first.uuid,
                "model": "A100-SXM4-40GB",
                "state": "needs an admin",
                "text": f"MIG mode is now set, and on after {A_RESET}",
                "command": RESET.format(0),
            },
            {
                "minor": 1,
                "index": 1,
                "uuid": second.uuid,
                "model": "H100 80GB HBM3",
                "state": "changed",
                "text": "MIG mode turned on; a reboot turns it off again",
                "command": "",
            },
            {
                "minor": 7,
                "index": None,
                "uuid": "",
                "model": "",
                "state": "failed",
                "text": missing,
                "command": "",
            },
        ],
    }


def test_log(make):
    """Each run is one line of the log, with how many GPUs came out how."""
    admin = make("A100-SXM4-40GB", "H100-SXM5-80GB")
    admin()
    admin()
    first, second = admin.node.log.read_text().splitlines()
    by = f'by="uid {os.getuid()}"'
    assert f"node-setup: outcome=degraded {by} needs_an_admin=1 changed=1 total_s=" in first
    assert f"node-setup: outcome=degraded {by} needs_an_admin=1 ok=1 total_s=" in second
