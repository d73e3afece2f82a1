"""The journal: every instance that was made or went, by whom, in order."""

import os

import pytest

from slurm_mig.simulator import journal


def test_lives_of_instances(make, load, program):
    """Making and removing are written down with who did it, ids, placement, UUID and a serial."""
    sim = make(uuid_mode="fresh")
    journal.keep(sim)
    nvml = load(sim)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    for _ in range(2):
        gi = nvml.nvmlDeviceCreateGpuInstance(gpu, 9)
        ci = nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)
        (there,) = sim.instances()
        nvml.nvmlComputeInstanceDestroy(ci)
        nvml.nvmlGpuInstanceDestroy(gi)
    lines = journal.read(sim)
    assert [(line.made, line.ci) for line in lines] == [
        *((True, None), (True, 0), (False, 0), (False, None))
    ] * 2
    assert {line.pid for line in lines} == {os.getpid()}
    assert [line.ns for line in lines] == sorted(line.ns for line in lines)
    first, second = {line.serial for line in lines[:4]}, {line.serial for line in lines[4:]}
    assert len(first) == len(second) == 1
    assert first != second
    made = [line for line in lines if line.made]
    assert [line.placement for line in made] == [there.placement, None] * 2
    assert [line.profile_id for line in made] == [9, None] * 2
    assert made[3].uuid == there.compute[0].uuid != made[1].uuid


def test_another_process(make, program):
    """What another process makes is in the same journal, under its own pid."""
    sim = make()
    journal.keep(sim)
    process = program(sim, "put(19, 3, 1)")
    _, err = process.communicate(timeout=60)
    assert err == ""
    (line,) = journal.read(sim)
    assert (line.pid, line.made, str(line.placement)) == (process.pid, True, "3:1")


def test_reset_and_reboot(make, load):
    """What a reset takes is gone at once, what a reboot took with the next change."""
    sim = make()
    journal.keep(sim)
    nvml = load(sim)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    nvml.nvmlDeviceCreateGpuInstance(gpu, 19)
    sim.reset_gpu(0)
    assert [line.made for line in journal.read(sim)] == [True, False]
    nvml.nvmlDeviceCreateGpuInstance(gpu, 9)
    sim.reboot()
    nvml.nvmlDeviceCreateGpuInstance(gpu, 14)
    assert [(line.made, line.profile_id) for line in journal.read(sim)[2:]] == [
        *((True, 9), (False, 9), (True, 14))
    ]


def test_nobody_asked(make, load):
    """Without a journal nothing is written."""
    sim = make()
    nvml = load(sim)
    nvml.nvmlDeviceCreateGpuInstance(nvml.nvmlDeviceGetHandleByIndex(0), 19)
    with pytest.raises(FileNotFoundError):
        journal.read(sim)
