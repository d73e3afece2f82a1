"""Several processes on one simulation: who waits for whom, and what a killed one leaves."""

import os
import random
import re
from pathlib import Path

from slurm_mig.simulator.handle import Simulation

from .helpers import put, wait_for

CHURN = """
place = nvml.c_nvmlGpuInstancePlacement_t
print("go", flush=True)
while True:
    for profile, start, size, compute in ((9, 4, 4, 2), (14, 2, 2, 1), (19, 0, 1, 0)):
        try:
            gi = put(profile, start, size)
        except nvml.NVMLError_InsufficientResources:
            for id in range(15):
                try:
                    gi = nvml.nvmlDeviceGetGpuInstanceById(gpu, id)
                except nvml.NVMLError_NotFound:
                    continue
                try:
                    ci = nvml.nvmlGpuInstanceGetComputeInstanceById(gi, 0)
                    nvml.nvmlComputeInstanceDestroy(ci)
                except nvml.NVMLError_NotFound:
                    pass
                nvml.nvmlGpuInstanceDestroy(gi)
            continue
        nvml.nvmlGpuInstanceCreateComputeInstance(gi, compute)
"""


def check_whole(simulation: Simulation) -> None:
    """The state is one that a driver can be in, and the counters agree with it."""
    taken = 0
    for gi in simulation.instances():
        assert not taken & gi.placement.mask
        taken |= gi.placement.mask
        assert {9: (2, 4), 14: (4, 2), 19: (7, 0)}[gi.profile_id] == (gi.id, gi.placement.start)
        assert len(gi.compute) <= 1
    assert simulation.counts().left == len(simulation.instances())
    compute = sum(len(gi.compute) for gi in simulation.instances())
    assert simulation.counts(compute=True).left == compute


def check_tree(simulation: Simulation) -> None:
    """The driver's files are those of the instances that exist."""
    mig = simulation.root / "proc/driver/nvidia/capabilities/gpu0/mig"
    expected = set()
    for gi in simulation.instances():
        expected.add(f"gi{gi.id}/access")
        expected |= {f"gi{gi.id}/ci{ci.id}/access" for ci in gi.compute}
    assert {str(path.relative_to(mig)) for path in mig.rglob("access")} == expected


def wait_for_creates(simulation: Simulation, more: int) -> None:
    """Return when so many more creates have begun."""
    name = "nvmlDeviceCreateGpuInstanceWithPlacement"
    goal = simulation.calls().get(name, 0) + more
    wait_for(lambda: simulation.calls().get(name, 0) >= goal)


def test_killed_at_any_instruction(make, program, load):
    """Processes that create and destroy are killed again and again: the state stays whole."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    for _ in range(20):
        process = program(simulation, CHURN)
        assert process.stdout.readline() == "go\n"
        wait_for_creates(simulation, random.randint(1, 40))  # noqa: S311
        process.kill()
        process.wait()
        check_whole(simulation)
        # The next call that changes something is not locked out, and repairs the files.
        nvml.nvmlGpuInstanceDestroy(put(nvml, gpu, 19, 1, 1))
        check_tree(simulation)


def test_two_processes_see_one_state(make, load, run):
    """What one process makes another sees at once, under the same ids and UUIDs."""
    simulation = make()
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    made = run(
        simulation,
        "gi = put(9, 4, 4)\n"
        "ci = nvml.nvmlGpuInstanceCreateComputeInstance(gi, 2)\n"
        "print(nvml.nvmlDeviceGetUUID(nvml.nvmlComputeInstanceGetInfo_v2(ci).device))",
    )
    mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    assert nvml.nvmlDeviceGetUUID(mig) == made
    run(
        simulation,
        "gi = nvml.nvmlDeviceGetGpuInstanceById(gpu, 2)\n"
        "ci = nvml.nvmlGpuInstanceGetComputeInstanceById(gi, 0)\n"
        "nvml.nvmlComputeInstanceDestroy(ci)\n"
        "nvml.nvmlGpuInstanceDestroy(gi)",
    )
    assert simulation.counts() == (1, 1, 0, 0)


def waiters(simulation: Simulation) -> int:
    """How many lock requests on the state are blocked now."""
    inode = (simulation.directory / "state").stat().st_ino
    locks = Path("/proc/locks").read_text().splitlines()
    return sum(1 for line in locks if "->" in line and re.search(rf":{inode} ", line))


def test_a_slow_create_holds_only_changes_of_its_gpu(make, load, program):
    """While a create is under way, reads and other GPUs go on; a change of its GPU waits."""
    simulation = make("A100-SXM4-40GB:2")
    simulation.latency("nvmlDeviceCreateGpuInstance", 3600)
    nvml = load(simulation)
    first, second = (nvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1))
    slow = program(simulation, "nvml.nvmlDeviceCreateGpuInstance(gpu, 9)")
    wait_for(lambda: simulation.busy(0))
    assert nvml.nvmlDeviceGetGpuInstanceRemainingCapacity(first, 9) == 2
    put(nvml, second, 9, 0, 4)
    behind = program(simulation, "put(9, 0, 4); print('done')")
    wait_for(lambda: waiters(simulation) == 1)
    assert simulation.busy(0)
    assert [gi.gpu for gi in simulation.instances()] == [1]
    # Its death frees the GPU, with nothing done.
    slow.kill()
    assert behind.communicate()[0] == "done\n"
    assert [(gi.gpu, gi.id) for gi in simulation.instances()] == [(0, 1), (1, 1)]


def test_a_refused_call_takes_no_time(make, load):
    """What cannot succeed is refused before the latency is spent."""
    simulation = make(mig_enabled=False)
    simulation.latency("nvmlDeviceCreateGpuInstance", 3600)
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    try:
        nvml.nvmlDeviceCreateGpuInstance(gpu, 9)
    except nvml.NVMLError_NotSupported:
        refused = True
    assert refused


def test_two_simulations_in_one_process(make, load):
    """One process can load two simulations; they share nothing."""
    first, second = make(), make("A30-24GB")
    nvml = load(first)
    put(nvml, nvml.nvmlDeviceGetHandleByIndex(0), 9, 0, 4)
    nvml = load(second)
    assert nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0)) == "NVIDIA A30"
    assert (first.counts().made, second.counts().made) == (1, 0)


def test_graphics_processes_are_listed_apart(make, load):
    """A graphics process is in the list of graphics processes, a compute one in the other."""
    simulation = make(mig_enabled=False)
    nvml = load(simulation)
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    simulation.attach(nvml.nvmlDeviceGetUUID(gpu), os.getpid(), 5 << 20, graphics=True)
    (process,) = nvml.nvmlDeviceGetGraphicsRunningProcesses(gpu)
    assert (process.pid, process.usedGpuMemory) == (os.getpid(), 5 << 20)
    assert nvml.nvmlDeviceGetComputeRunningProcesses(gpu) == []
