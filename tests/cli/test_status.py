"""slurm-mig status: the picture, the table, the JSON, and what makes it degraded."""

import json
import os
import pty
import subprocess
import sys

import pytest


def lines(text):
    """Lines without trailing blanks."""
    return [line.rstrip() for line in text.splitlines()]


def test_empty_node(admin):
    """A node without jobs shows free slices and its promises."""
    said = admin("status")
    gpu = admin.sim.gpus()[0].uuid
    assert (said.status, said.err) == (0, "")
    assert lines(said.out) == [
        f"GPU 0  A100-SXM4-40GB  {gpu}",
        "   0       1       2       3       4       5       6       7",
        "  ┌───────┬───────┬───────┬───────┬───────┬───────┬───────┬───────┐",
        "  │·······│·······│·······│·······│·······│·······│·······│·······│",
        "  │·······│·······│·······│·······│·······│·······│·······│·······│",
        "  └───────┴───────┴───────┴───────┴───────┴───────┴───────┴───────┘",
        "promises: 3g.20gb:1,2g.10gb:1,1g.5gb:2",
    ]


def test_picture_and_table(make):
    """Owned, foreign and free slices, each where it is, and whose it is."""
    admin = make(layout=None)
    admin.foreigner()
    (first,) = admin.acquire(7, "3g.20gb", uid=1000)
    (second,) = admin.acquire(8, "2g.10gb", uid=1001)
    said = admin("status")
    placed = {gi.profile: gi for gi in admin.sim.instances()}
    gpu = admin.sim.gpus()[0].uuid
    foreign = placed["1g.5gb"].compute[0].uuid
    assert said.status == 0
    assert lines(said.out) == [
        f"GPU 0  A100-SXM4-40GB  {gpu}",
        "   0       1       2       3       4       5       6       7",
        "  ┌───────┬───────┬───────────────┬───────────────────────────────┐",
        "  │ 1g.5gb│·······│    2g.10gb    │            3g.20gb            │",
        "  │not ou…│·······│     job 8     │             job 7             │",
        "  └───────┴───────┴───────────────┴───────────────────────────────┘",
        "GPU  PROFILE  PLACEMENT  GI  JOB  UID   STATE    UUID",
        f"0    1g.5gb   0:1        {placed['1g.5gb'].id}   -    -     foreign  {foreign}",
        f"0    2g.10gb  2:2        {placed['2g.10gb'].id}   8    1001  live     {second}",
        f"0    3g.20gb  4:4        {placed['3g.20gb'].id}   7    1000  live     {first}",
        "promises: none (no [layout] for these GPUs)",
    ]


def test_json(make):
    """The JSON has the same content, in a form that stays."""
    admin = make("A100-SXM4-40GB:2")
    (uuid,) = admin.acquire(7, "3g.20gb", uid=1000)
    said = admin("status", "--json")
    assert (said.status, said.err) == (0, "")
    first, second = admin.sim.gpus()
    assert json.loads(said.out) == {
        "version": 1,
        "gpus": [
            {
                "index": 0,
                "uuid": first.uuid,
                "model": "A100-SXM4-40GB",
                "mig": True,
                "whole": False,
                "memory_slices": 8,
                "instances": [
                    {
                        "profile": "3g.20gb",
                        "profile_id": 9,
                        "placement": "4:4",
                        "gi": 2,
                        "cis": [0],
                        "uuids": [uuid],
                        "job": 7,
                        "uid": 1000,
                        "state": "live",
                        "reason": "",
                    }
                ],
            },
            {
                "index": 1,
                "uuid": second.uuid,
                "model": "A100-SXM4-40GB",
                "mig": True,
                "whole": False,
                "memory_slices": 8,
                "instances": [],
            },
        ],
        "lost_gpus": [],
        "fault": "",
        "promises": {"3g.20gb": 2, "2g.10gb": 2, "1g.5gb": 4},
    }


def test_gpus_that_stay_whole(make):
    """A GPU that [gpus] mig leaves out is said to stay whole; no slices, no promises of it."""
    admin = make("A100-SXM4-40GB:3", settings={"gpus": {"mig": "1"}})
    lists = [gpu.uuid for gpu in admin.sim.gpus()]
    said = admin("status")
    assert (said.status, said.err) == (0, "")
    found = lines(said.out)
    assert [found[0], found[1], *found[-2:]] == [
        f"GPU 0  A100-SXM4-40GB  {lists[0]}  stays whole, but is in MIG mode",
        f"GPU 1  A100-SXM4-40GB  {lists[1]}",
        f"GPU 2  A100-SXM4-40GB  {lists[2]}  stays whole, but is in MIG mode",
        "promises: 3g.20gb:1,2g.10gb:1,1g.5gb:2",
    ]
    assert len(found) == 9  # three GPUs, five lines of slices, the promises
    document = json.loads(admin("status", "--json").out)
    assert [gpu["whole"] for gpu in document["gpus"]] == [True, False, True]
    assert document["promises"] == {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}


def test_gpu_that_stays_whole_with_mig_mode_off(make):
    """A GPU that stays whole may have MIG mode off; one to partition that is not there may not."""
    admin = make(mig_enabled=False, settings={"gpus": {"mig": "5"}})
    said = admin("status")
    assert said.status == 3
    assert lines(said.out) == [
        f"GPU 0  A100-SXM4-40GB  {admin.sim.gpus()[0].uuid}  stays whole",
        (
            "fault: [gpus] mig names /dev/nvidia5, which the driver does not show: it shows "
            "/dev/nvidia0; correct the list, or look at dmesg for Xid errors"
        ),
        "promises: none (no [layout] for these GPUs)",
    ]


def test_lost_gpu(make):
    """A GPU that fell off the bus is a line of its own; the others are shown."""
    admin = make("A100-SXM4-40GB:2")
    admin.sim.fail("nvmlDeviceGetHandleByIndex_v2", nth=2, error="GPU_IS_LOST")
    said = admin("status")
    assert (said.status, said.err) == (3, "")
    assert lines(said.out)[0].startswith("GPU 0  ")
    assert lines(said.out)[-2:] == [
        (
            "lost: GPU 1: nvmlDeviceGetHandleByIndex failed: GPU is lost (NVML error 15); "
            "look at dmesg for Xid errors"
        ),
        "promises: 3g.20gb:1,2g.10gb:1,1g.5gb:2",
    ]


def test_degraded(admin):
    """A quarantined instance is drawn, explained below, and makes the exit status 3."""
    (uuid,) = admin.acquire(7, "3g.20gb")
    with admin.sim.client(uuid):
        assert admin("epilog", "7").status == 0
        said = admin("status")
        gpu = admin.sim.gpus()[0].uuid
        assert said.status == 3
        assert "job 7 quarantined" in said.out
        reason = f"quarantined: job 7 3g.20gb: {gpu} 3g.20gb at 4:4 of job 7: in use by pid "
        assert lines(said.out)[-1].startswith(reason)
        said = admin("status", "--json")
        assert said.status == 3
        (row,) = json.loads(said.out)["gpus"][0]["instances"]
        assert (row["state"], row["job"]) == ("quarantined", 7)
        assert row["reason"] in lines(admin("status").out)[-1]


def test_on_the_books_only(admin):
    """A row whose instance is not on the GPU is drawn where it should be."""
    admin.acquire(7, "3g.20gb")
    admin.sim.reboot()
    said = admin("status")
    assert said.status == 3
    assert lines(said.out)[-1] == "lost: job 7 3g.20gb: in the ledger, not on the GPU"


@pytest.mark.parametrize(("options", "mode"), [({"mig_enabled": False}, "MIG mode off")])
def test_gpu_out_of_mig_mode(make, options, mode):
    """A GPU that cannot serve is listed with the reason, without a picture."""
    admin = make(layout=None, **options)
    said = admin("status")
    gpu = admin.sim.gpus()[0].uuid
    assert said.status == 3
    assert lines(said.out) == [
        f"GPU 0  A100-SXM4-40GB  {gpu}  {mode}",
        (
            "fault: MIG mode is off on GPU 0 (A100-SXM4-40GB); turn it on: nvidia-smi -mig 1 "
            "(Ampere: then reset the GPU)"
        ),
        "promises: none (no [layout] for these GPUs)",
    ]


@pytest.mark.parametrize(
    ("model", "top"),
    [
        ("A30-24GB", "   0               1               2               3"),
        (
            "RTX-PRO-6000-BLACKWELL-96GB",
            "   0               3               6               9",
        ),
    ],
)
def test_other_geometries(make, model, top):
    """A column is what the smallest profile takes, whatever the driver numbers it."""
    admin = make(model)
    said = lines(admin("status").out)
    assert said[1] == top
    assert said[2] == "  ┌───────────────┬───────────────┬───────────────┬───────────────┐"


def test_colour(admin, program):
    """Colour at a terminal only: never into a pipe, whatever the environment forces."""
    admin.acquire(7, "3g.20gb")
    said = program(
        *("status", "--config", admin.node.config),
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"},
    )
    assert said.returncode == 0
    assert "\x1b" not in said.stdout


@pytest.mark.parametrize(("no_color", "coloured"), [(False, True), (True, False)])
def test_at_a_terminal(admin, no_color, coloured):
    """At a terminal there is colour, unless NO_COLOR asks for none."""
    admin.acquire(7, "3g.20gb")
    leader, follower = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    env |= {"TERM": "xterm-256color", "COLUMNS": "120"}
    if no_color:
        env["NO_COLOR"] = "1"
    process = subprocess.Popen(
        [sys.executable, "-m", "slurm_mig.cli.main", "status", "--config", str(admin.node.config)],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env=env,
    )
    os.close(follower)
    said = b""
    try:
        while chunk := os.read(leader, 65536):
            said += chunk
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert process.wait() == 0
    assert ("3g.20gb" in said.decode(), b"\x1b[32m" in said) == (True, coloured)
