"""Small things that the simulator's tests share."""

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

NOBODY = 65534


def put(nvml: ModuleType, gpu: object, profile: int, start: int, size: int) -> object:
    """Create a GPU instance at a placement."""
    place = nvml.c_nvmlGpuInstancePlacement_t(start, size)
    return nvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, profile, ctypes.byref(place))


def error_of(nvml: ModuleType, function: Callable[..., object], *arguments: object) -> int:
    """The NVML error that a call raises; 0 when it raises none."""
    try:
        function(*arguments)
    except nvml.NVMLError as error:
        return error.value
    return 0


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once it is true; the test's time limit ends a wait in vain."""
    while not condition():
        time.sleep(0.002)


def can_make_nodes(folder: Path) -> bool:
    """Whether device nodes may be made here (root, and a system that lets it)."""
    try:
        os.mknod(folder / "node", 0o20600, os.makedev(120, 9))
    except OSError:
        return False
    (folder / "node").unlink()
    return True
