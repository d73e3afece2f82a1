"""Simulations, and the real nvidia-ml-py on top of them."""

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pynvml
import pytest

from slurm_mig.simulator.handle import Simulation

# One build of the driver for all test processes, inside the repository.
os.environ.setdefault("SLURM_MIG_CACHE", str(Path(__file__).parents[2] / ".cache"))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Simulation]:
    """Makes simulations, each in a folder of its own: `make("A100-SXM4-40GB:2", gi_ids=…)`."""
    made = []

    def make_one(*gpus: str, **options: object) -> Simulation:
        made.append(tmp_path / f"sim{len(made)}")
        return Simulation.create(made[-1], gpus or ["A100-SXM4-40GB"], **options)

    return make_one


@pytest.fixture
def load() -> Iterator[Callable[[Simulation], ModuleType]]:
    """Binds pynvml to a simulation's library and initialises it."""
    bound = []

    def bind(simulation: Simulation) -> ModuleType:
        if bound:
            pynvml.nvmlShutdown()
        pynvml.nvmlLib = ctypes.CDLL(str(simulation.library))
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml.nvmlInit()
        bound.append(simulation)
        return pynvml

    yield bind
    if bound:
        pynvml.nvmlShutdown()
        pynvml.nvmlLib = None
        pynvml._nvmlGetFunctionPointer_cache.clear()


_PREAMBLE = """
import ctypes, sys, os
import pynvml as nvml
nvml.nvmlLib = ctypes.CDLL(sys.argv[1])
nvml.nvmlInit()
gpu = nvml.nvmlDeviceGetHandleByIndex(0)
def put(profile, start, size, gpu=gpu):
    place = nvml.c_nvmlGpuInstancePlacement_t(start, size)
    return nvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, profile, ctypes.byref(place))
"""


@pytest.fixture
def program() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts Python code in another process, with `nvml`, `gpu` and `put` ready in it."""
    started: list[subprocess.Popen[str]] = []

    def start(simulation: Simulation, code: str, **options: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", _PREAMBLE + code, str(simulation.library)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={},
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run(program: Callable[..., "subprocess.Popen[str]"]) -> Callable[..., str]:
    """Runs such code to its end and gives what it printed; fails if it failed."""

    def run_one(simulation: Simulation, code: str, **options: object) -> str:
        process = program(simulation, code, **options)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out.strip()

    return run_one


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can reach, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def make_in() -> Callable[[Path], Simulation]:
    """Makes a simulation of one A100 in a given folder."""
    return lambda folder: Simulation.create(folder, ["A100-SXM4-40GB"])
