"""`slurm-mig sim`."""

import argparse
import json
import subprocess
import sys

import pytest

from slurm_mig.cli import sim
from slurm_mig.errors import RequestError, SlurmMigError
from slurm_mig.simulator.handle import Simulation

from .helpers import error_of, put, wait_for

RUN = """
import argparse, sys
from slurm_mig.cli import sim
parser = argparse.ArgumentParser()
sim.add_parser(parser.add_subparsers())
arguments = parser.parse_args(["sim", *sys.argv[1:]])
sys.exit(arguments.func(arguments))
"""


def command(*words):
    """Run `slurm-mig sim …` here; gives the exit status."""
    parser = argparse.ArgumentParser()
    sim.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["sim", *map(str, words)])
    return arguments.func(arguments)


@pytest.fixture
def folder(tmp_path):
    """A simulation of two A100 and a H200, made by the command."""
    made = tmp_path / "made"
    assert command("create", "--gpu", "A100-SXM4-40GB:2", "--gpu", "H200-SXM5-141GB:1", made) == 0
    return made


def test_create(tmp_path, capsys):
    """Create prints what it made, which numbers are inferred, and where the library is."""
    folder = tmp_path / "made"
    command("create", "--gpu", "A100-SXM4-40GB:2", "--gpu", "H200-SXM5-141GB:1", folder)
    out = capsys.readouterr().out
    assert out.count("A100-SXM4-40GB") == 2
    assert "inferred from the GPU family: " in out
    assert f"library: {folder}/lib/libnvidia-ml.so.1" in out
    assert [gpu.key for gpu in Simulation.open(folder).gpus()] == [
        "A100-SXM4-40GB",
        "A100-SXM4-40GB",
        "H200-SXM5-141GB",
    ]


def test_create_options(tmp_path, load):
    """MIG mode, privileged user, GI ids and the way of UUIDs can be chosen."""
    made = tmp_path / "made"
    words = ("--mig-off", "--gi-ids", "swapped8", "--privileged-uid", "4242", "--fresh-uuids")
    assert command("create", "--gpu", "A100-SXM4-40GB", "--gpu", "A30-24GB", *words, made) == 0
    simulation = Simulation.open(made)
    assert simulation.schemes == ["swapped8", "quad4"]
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    assert nvml.nvmlDeviceGetMigMode(gpu) == [0, 0]
    assert error_of(nvml, nvml.nvmlDeviceSetMigMode, gpu, 1) == nvml.NVML_ERROR_NO_PERMISSION
    assert "fresh_uuids 1\n" in (made / "gpus").read_text()


def test_create_over_something(folder):
    """A folder that holds anything is left as it is."""
    before = (folder / "gpus").read_text()
    with pytest.raises(SlurmMigError, match="is not empty"):
        command("create", "--gpu", "A30-24GB", folder)
    assert (folder / "gpus").read_text() == before


def test_create_where_it_cannot(tmp_path):
    """A folder that cannot be made is named, with the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SlurmMigError, match="file/below: Not a directory"):
        command("create", "--gpu", "A30-24GB", tmp_path / "file/below")


def test_unknown_gpu(tmp_path):
    """An unknown GPU is an error that names the nearest."""
    with pytest.raises(RequestError, match="nearest is H200-SXM5-141GB"):
        command("create", "--gpu", "H200-SXM-141GB", tmp_path / "made")


def test_no_simulation(tmp_path):
    """A folder without a simulation is an error that says how to make one."""
    with pytest.raises(SlurmMigError, match=r"is no simulation.*sim create"):
        command("show", "--dir", tmp_path)


def test_show_json(folder, load, capsys):
    """The JSON has GPUs with instances and clients, counts, calls, and what is armed."""
    simulation = Simulation.open(folder)
    nvml = load(simulation)
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(0), 9, 4, 4)
    nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)
    simulation.latency("nvmlGpuInstanceDestroy", 0.25)
    capsys.readouterr()
    with simulation.client(simulation.instances()[0].compute[0].uuid) as process:
        assert command("show", "--dir", folder, "--json") == 0
        shown = json.loads(capsys.readouterr().out)
    first, second, third = shown["gpus"]
    assert first["instances"] == [
        {
            "id": 2,
            "profile": "3g.20gb",
            "profile_id": 9,
            "placement": "4:4",
            "compute": [
                {
                    "id": 0,
                    "profile_id": 2,
                    "placement": "0:3",
                    "uuid": simulation.instances()[0].compute[0].uuid,
                }
            ],
        }
    ]
    assert first["clients"] == [{"pid": process.pid, "gi": 2, "ci": 0}]
    assert second["instances"] == []
    assert "placements" in third["inferred"]
    assert shown["instances"] == {"made": 1, "destroyed": 0, "lost": 0, "left": 1}
    assert shown["calls"]["nvmlDeviceCreateGpuInstanceWithPlacement"] == 1
    assert shown["armed"] == {"nvmlGpuInstanceDestroy": "250 ms"}
    assert shown["library"] == str(simulation.library)


def test_show_text(folder, load, capsys):
    """The text shows each instance below its GPU, and ends with the counts."""
    nvml = load(Simulation.open(folder))
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(1), 9, 4, 4)
    nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)
    capsys.readouterr()
    assert command("show", "--dir", folder) == 0
    lines = capsys.readouterr().out.splitlines()
    where = next(number for number, line in enumerate(lines) if line.startswith("GPU 1:"))
    assert lines[where + 1] == "  GI 2: 3g.20gb at 4:4"
    assert lines[where + 2].startswith("    CI 0: profile 2 at 0:3, MIG-")
    assert lines[-1] == "instances: 1 made, 0 destroyed, 0 lost, 1 left"


def test_fail_latency_and_clear(folder):
    """Faults and latencies are armed for all processes, and cleared."""
    simulation = Simulation.open(folder)
    options = ("--nth", 3, "--always", "--error", "NVML_ERROR_TIMEOUT")
    assert command("fail", "--dir", folder, "nvmlGpuInstanceDestroy", *options) == 0
    assert command("latency", "--dir", folder, "nvmlDeviceCreateGpuInstance", "1500") == 0
    assert simulation.faults() == {
        "nvmlGpuInstanceDestroy": "TIMEOUT, from then on",
        "nvmlDeviceCreateGpuInstance": "1500 ms",
    }
    assert command("clear", "--dir", folder) == 0
    assert simulation.faults() == {}


@pytest.mark.parametrize("words", [("latency", "nvmlInit", "-1"), ("latency", "nvmlInit", "x")])
def test_bad_numbers(folder, words, capsys):
    """A latency that is no number of milliseconds is a usage error."""
    with pytest.raises(SystemExit) as ended:
        command(words[0], "--dir", folder, *words[1:])
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_reboot_and_reset(folder):
    """Reboot and reset do what the handle does."""
    simulation = Simulation.open(folder)
    before = simulation.boot_id()
    assert command("reboot", "--dir", folder) == 0
    assert simulation.boot_id() != before
    assert [gpu.mig_current for gpu in simulation.gpus()] == [True, True, False]
    assert command("reset", "--dir", folder, 0) == 0
    with pytest.raises(SlurmMigError, match="cannot reset GPU 3"):
        command("reset", "--dir", folder, 3)


def test_client(folder, load):
    """The client process holds the device, says so, and lets go when it is ended."""
    simulation = Simulation.open(folder)
    nvml = load(simulation)
    gi = put(nvml, nvml.nvmlDeviceGetHandleByIndex(0), 9, 4, 4)
    ci = nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)
    uuid = simulation.instances()[0].compute[0].uuid
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "client", "--dir", str(folder), uuid],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().startswith(f"process {process.pid} uses {uuid}")
        assert [client.pid for client in simulation.clients()] == [process.pid]
        assert error_of(nvml, nvml.nvmlComputeInstanceDestroy, ci) == nvml.NVML_ERROR_IN_USE
    finally:
        process.terminate()
        process.communicate()
    wait_for(lambda: simulation.clients() == [])
    nvml.nvmlComputeInstanceDestroy(ci)


def test_models(capsys):
    """The list of GPUs names each with its profiles and how far its numbers can be trusted."""
    assert command("models") == 0
    out = capsys.readouterr().out
    assert "A100-SXM4-40GB: 1g.5gb 1g.5gb+me 1g.10gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb\n" in out
    assert "T4-16GB: no MIG\n" in out
    assert "unknown, assumed: " in out
