"""Driver and GPUs: library, versions, MIG mode against the settings, who blocks its change."""

import pytest

WHY = "no instance can be made on it"


def test_all_well(make):
    """The library's path and version, each model against its family, each GPU's mode."""
    host = make("A100-SXM4-40GB", "H100-SXM5-80GB")
    assert host.found("driver.library", "driver.version", "driver.lost", "driver.mode") == [
        (
            "ok driver library ~/n1/sim/lib/libnvidia-ml.so.1: ~/n1/sim/lib/libnvidia-ml.so.1 "
            "loads; driver 580.95.05"
        ),
        "ok driver 580.95.05 for A100-SXM4-40GB: at least 450.80.02",
        "ok driver 580.95.05 for H100 80GB HBM3: at least 525.85.12",
        "ok GPU 0 (/dev/nvidia0, A100-SXM4-40GB): MIG mode on",
        "ok GPU 1 (/dev/nvidia1, H100 80GB HBM3): MIG mode on",
    ]


@pytest.mark.parametrize("content", [None, "#!/bin/sh\n"])
def test_no_library(make, tmp_path, content):
    """A library that is not there, or is none: what needs it is named in one line."""
    library = tmp_path / "libnone.so.1"
    if content:
        library.write_text(content)
    host = make(settings={"driver": {"library": str(library)}})
    first, second = host.found("driver.library", "driver.version", "driver.mode")
    assert first.startswith("failure driver library ~/libnone.so.1: ~/libnone.so.1: ")
    assert first.endswith(
        ": no instance can be made or removed, and every MIG job drains the node; mend: install "
        "NVIDIA's driver, or set [driver] library in ~/n1/config.toml"
    )
    assert second == "warning driver version, MIG mode: could not look: the driver does not answer"


def test_driver_does_not_start(host):
    """NVML that cannot be initialised is a failure too."""
    host.sim.fail("nvmlInit_v2", error="DRIVER_NOT_LOADED", once=False)
    (line,) = host.found("driver.library")
    assert "nvmlInit failed: Driver Not Loaded (NVML error 9)" in line
    assert line.startswith("failure ")


@pytest.mark.parametrize(
    ("model", "version", "lines"),
    [
        (
            "H100-SXM5-80GB",
            "515.105.01",
            [
                (
                    "failure driver 515.105.01 for H100 80GB HBM3: older than 525.53: MIG on H100 "
                    "needs it (CUDA 12); mend: install a newer driver, drain and reboot the node"
                )
            ],
        ),
        (
            "H100-SXM5-80GB",
            "525.60.13",
            [
                (
                    "warning driver 525.60.13 for H100 80GB HBM3: older than 525.85.12: NVIDIA's "
                    "guide now asks for it on H100; mend: install a newer driver, drain and reboot "
                    "the node"
                )
            ],
        ),
        (
            "H100-SXM5-80GB",
            "525.85.12",
            ["ok driver 525.85.12 for H100 80GB HBM3: at least 525.85.12"],
        ),
        (
            "B200-180GB",
            "570.86.15",
            [
                (
                    "failure driver 570.86.15 for B200: older than 570.133.20: MIG on B200 needs "
                    "it (CUDA 12); mend: install a newer driver, drain and reboot the node"
                )
            ],
        ),
        (
            "GH200-96GB",
            "560.35.03",
            [
                (
                    "ok driver 560.35.03 for GH200 120GB: no least version is known: the guide has "
                    "it among the supported GPUs (H100 on GH200), but not in its table of least "
                    "drivers"
                )
            ],
        ),
    ],
)
def test_driver_version(make, model, version, lines):
    """Each family's least driver, and the advised one."""
    assert make(model, driver_version=version).found("driver.version") == lines


def test_mode_off(make):
    """Off everywhere: each GPU is a failure; on Hopper it is so after every boot."""
    host = make("A100-SXM4-40GB", "H100-SXM5-80GB", mig_enabled=False)
    assert host.found("driver.mode") == [
        (
            f"failure GPU 0 (/dev/nvidia0, A100-SXM4-40GB): MIG mode off: {WHY}; mend: slurm-mig "
            "node-setup"
        ),
        (
            f"failure GPU 1 (/dev/nvidia1, H100 80GB HBM3): MIG mode off: {WHY}; it is lost at "
            "every reboot on this GPU; mend: slurm-mig node-setup"
        ),
    ]


def test_mode_off_on_some(make):
    """With "all" a GPU out of MIG mode is passed over: likely not meant."""
    host = make("A100-SXM4-40GB:2")
    off(host, 1)
    assert host.found("driver.mode") == [
        "ok GPU 0 (/dev/nvidia0, A100-SXM4-40GB): MIG mode on",
        (
            "warning GPU 1 (/dev/nvidia1, A100-SXM4-40GB): MIG mode off, while other GPUs have it "
            "on: "
            'with [gpus] mig = "all" it is passed over and promises nothing; mend: slurm-mig '
            "node-setup; or name the others in [gpus] mig, if it is to stay whole"
        ),
    ]


def off(host, gpu, *, reset=True):
    """Switch a GPU's MIG mode off, and reset it so that it is."""
    switch(host, gpu, False, reset=reset)


def switch(host, gpu, on, *, reset):
    """Set a GPU's MIG mode; on Ampere it is pending until the reset."""
    from slurm_mig.nvml import Driver

    with Driver(str(host.sim.library)) as driver:
        driver.set_mig(driver.gpus()[gpu], on)
    if reset:
        host.sim.reset_gpu(gpu)


def test_mode_pending(make):
    """On only after a reset, or off after the next one."""
    host = make("A100-SXM4-40GB", mig_enabled=False)
    with host.sim.client(host.sim.gpus()[0].uuid) as process:
        switch(host, 0, True, reset=False)
        assert host.sim.gpus()[0].mig_pending
        first, second = host.found("driver.mode")
        assert first == (
            "failure GPU 0 (/dev/nvidia0, A100-SXM4-40GB): MIG mode is on only after a GPU reset: "
            f"{WHY} until then; mend: stop what uses it, then: nvidia-smi --gpu-reset -i 0"
        )
        assert second.startswith(
            f"warning GPU 0 (/dev/nvidia0, A100-SXM4-40GB): in use by pid {process.pid} ("
        )
        assert second.endswith(
            ": MIG mode cannot be switched while it is; mend: stop it: systemctl status "
            f"{process.pid} says what it belongs to"
        )


def test_users_are_of_no_interest_where_nothing_changes(host):
    """A process on a GPU that is as it should be is not mentioned."""
    host.acquire(7, "3g.20gb", uid=0)
    with host.sim.client(host.sim.instances()[0].compute[0].uuid):
        assert host.found("driver.mode") == ["ok GPU 0 (/dev/nvidia0, A100-SXM4-40GB): MIG mode on"]


def test_listed_gpus(make):
    """Named GPUs must be there, capable and on; the others should be whole."""
    host = make(
        *("A100-SXM4-40GB:2",),
        settings={"gpus": {"mig": "1,5"}, "slurm": {"timeout": 0.3}},
    )
    assert host.found("driver.mode") == [
        (
            "failure /dev/nvidia5: [gpus] mig names it, but the driver does not show it: its "
            "promises cannot be kept, so every MIG job drains the node; mend: correct [gpus] mig "
            "in ~/n1/config.toml, or look at dmesg for Xid errors"
        ),
        (
            "warning GPU 0 (/dev/nvidia0, A100-SXM4-40GB): MIG mode on, but [gpus] mig leaves it "
            "whole: a job that is given it as --gres=gpu finds no device to compute on; mend: "
            "nvidia-smi -i 0 -mig 0"
        ),
        "ok GPU 1 (/dev/nvidia1, A100-SXM4-40GB): MIG mode on",
    ]
    off(host, 0)
    assert host.found("driver.mode")[1] == "ok GPU 0 (/dev/nvidia0, A100-SXM4-40GB): stays whole"


def test_lost_gpu(make):
    """A GPU that fell off the bus is a failure; the others are looked at."""
    host = make("A100-SXM4-40GB:2")
    host.sim.fail("nvmlDeviceGetHandleByIndex_v2", nth=2, error="GPU_IS_LOST")
    assert host.found("driver.lost", "driver.mode") == [
        (
            "failure GPU 1: nvmlDeviceGetHandleByIndex failed: GPU is lost (NVML error 15): its "
            "promises cannot be kept, so every MIG job drains the node; mend: look at dmesg for "
            "Xid errors; drain and reboot the node"
        ),
        "ok GPU 0 (/dev/nvidia0, A100-SXM4-40GB): MIG mode on",
    ]


def test_layout_names(make):
    """A layout for a model that is not here, a name that nobody knows, a GPU without a layout."""
    host = make(layout=None, settings={"layout": {"A30": "small", "A100-SXM-40": "small"}})
    assert host.found("config.layout") == [
        (
            "warning [layout] 'A30': no GPU of this node has that name: the layout is used for "
            "nothing; there are A100-SXM4-40GB; mend: correct the name in ~/n1/config.toml"
        ),
        (
            "warning [layout] 'A100-SXM-40': no GPU of this node has that name and no GPU that "
            "slurm-mig knows: the layout is used for nothing; there are A100-SXM4-40GB; mend: "
            "correct the name in ~/n1/config.toml"
        ),
        (
            "warning [layout]: none for A100-SXM4-40GB: they promise nothing to Slurm, so their "
            'space is not kept for anybody; mend: add `default = "balanced"` to [layout] in '
            "~/n1/config.toml"
        ),
    ]


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ('{ "4g.20gb" = 2 }', "A100-SXM4-40GB: 4g.20gb \u00d72 needs 8 of 7 compute slices: "),
        ('"balance"', "no layout is called 'balance'; did you mean "),
        ('{ "3g.40gb" = 1 }', "A100-SXM4-40GB has no profile '3g.40gb'; did you mean "),
    ],
)
def test_layout_that_cannot_be_kept(make, layout, said):
    """A layout that the GPU does not have, or cannot keep."""
    host = make(layout=None)
    with host.config.open("a") as file:
        file.write(f"[layout]\ndefault = {layout}\n")
    (line,) = host.found("config.layout")
    assert line.startswith(f"failure [layout] for A100-SXM4-40GB: {said}")
    assert line.endswith(
        ": every MIG job drains the node; mend: correct it in ~/n1/config.toml; slurm-mig profiles "
        "--layouts shows some"
    )


def test_layout(host):
    """Each model has its layout."""
    assert host.found("config.layout") == ["ok [layout]: covers A100-SXM4-40GB"]
