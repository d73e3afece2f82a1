"""The build: once per source, cached, without a writable package; clean under sanitizers."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_mig.errors import SlurmMigError
from slurm_mig.simulator import build
from slurm_mig.simulator.handle import Simulation


def test_built_once(tmp_path, monkeypatch):
    """The library is built on the first demand; later ones take it from the cache."""
    monkeypatch.setenv("SLURM_MIG_CACHE", str(tmp_path))
    first = build.library()
    made = first.stat().st_mtime_ns
    assert first.is_relative_to(tmp_path)
    assert (build.library(), first.stat().st_mtime_ns) == (first, made)
    assert [path.name for path in first.parent.iterdir()] == [build.SONAME]
    monkeypatch.setenv("PATH", "")
    assert build.library() == first


def test_cache_folders(tmp_path, monkeypatch):
    """Without SLURM_MIG_CACHE: XDG_CACHE_HOME, then the user's cache folder."""
    monkeypatch.delenv("SLURM_MIG_CACHE")
    monkeypatch.setattr(build, "compile_driver", lambda output: output.write_bytes(b"built"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert build.library().is_relative_to(tmp_path / "home/.cache/slurm-mig")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert build.library().is_relative_to(tmp_path / "xdg/slurm-mig")


def test_no_cache_folder(tmp_path, monkeypatch):
    """A cache folder that cannot be made is named in the error."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SLURM_MIG_CACHE", str(tmp_path / "file/below"))
    with pytest.raises(SlurmMigError, match="set SLURM_MIG_CACHE"):
        build.library()


def test_no_compiler(tmp_path, monkeypatch):
    """Without a C compiler the error says so and what to install."""
    monkeypatch.setenv("SLURM_MIG_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmMigError, match=r"no C compiler.*install gcc"):
        build.library()


def test_broken_compiler(tmp_path, monkeypatch):
    """A compiler that fails is reported with its first error, and nothing is cached."""
    compiler = tmp_path / "bin/cc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho 'x.c:1: error: no such thing' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_MIG_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SlurmMigError, match="error: no such thing"):
        build.library()
    assert list((tmp_path / "cache").rglob("*.so*")) == []


def test_package_is_not_written(tmp_path, monkeypatch):
    """A package that cannot be written builds all the same; the cache alone changes."""
    package = tmp_path / "driver"
    shutil.copytree(build.SOURCES, package)
    package.chmod(stat.S_IRUSR | stat.S_IXUSR)
    before = sorted(package.iterdir())
    monkeypatch.setattr(build, "SOURCES", package)
    monkeypatch.setenv("SLURM_MIG_CACHE", str(tmp_path / "cache"))
    assert build.library().is_file()
    assert sorted(package.iterdir()) == before
    package.chmod(stat.S_IRWXU)


def test_needs_only_the_c_library(make):
    """The library has NVML's SONAME and needs nothing but the C library."""
    library = make().library
    listed = subprocess.run(
        ["/usr/bin/readelf", "-d", str(library)], capture_output=True, text=True, check=True
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in listed.splitlines() if "NEEDED" in line]
    assert set(needed) <= {"libc.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"}
    assert "Library soname: [libnvidia-ml.so.1]" in listed


def test_exports_what_nvidia_ml_py_calls(make):
    """Every symbol that nvidia-ml-py can look up is there; the rest answers NOT_SUPPORTED."""
    import re

    import pynvml

    source = Path(pynvml.__file__).read_text()
    names = set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', source))
    library = ctypes.CDLL(str(make().library))
    assert [name for name in sorted(names) if not hasattr(library, name)] == []
    assert library.nvmlDeviceGetFanSpeed() == pynvml.NVML_ERROR_NOT_SUPPORTED


EXERCISE = """
import ctypes, sys
import pynvml as nvml
from slurm_mig.simulator.handle import Simulation
sim = Simulation.open(sys.argv[1])
nvml.nvmlLib = ctypes.CDLL(str(sim.library))
nvml.nvmlInit()
def attempt(call, *arguments):
    try:
        return call(*arguments)
    except nvml.NVMLError:
        return None
for index in range(nvml.nvmlDeviceGetCount()):
    gpu = nvml.nvmlDeviceGetHandleByIndex(index)
    profiles = [attempt(nvml.nvmlDeviceGetGpuInstanceProfileInfo, gpu, i) for i in range(19)]
    for info in filter(None, profiles):
        places = (nvml.c_nvmlGpuInstancePlacement_t * 16)()
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetGpuInstancePossiblePlacements(
            gpu, info.id, places, ctypes.byref(count))
        nvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, info.id)
        made = []
        while gi := attempt(nvml.nvmlDeviceCreateGpuInstance, gpu, info.id):
            made.append(gi)
            for ci_profile in range(9):
                attempt(nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo, gi, ci_profile, 0)
                while attempt(nvml.nvmlGpuInstanceCreateComputeInstance, gi, ci_profile):
                    pass
        sim.show()
        for device in [gpu, *(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, i)
                              for i in range(len(made)))]:
            uuid = nvml.nvmlDeviceGetUUID(device)
            nvml.nvmlDeviceGetHandleByUUID(uuid)
            for name in dir(nvml):
                if name.startswith("nvmlDeviceGet"):
                    try:
                        getattr(nvml, name)(device)
                    except (TypeError, nvml.NVMLError, AttributeError, ValueError):
                        pass
        with sim.client(nvml.nvmlDeviceGetUUID(device)) if made else sim.client(uuid):
            nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
        for gi in made:
            attempt(nvml.nvmlGpuInstanceDestroy, gi)
            for ci in range(8):
                found = attempt(nvml.nvmlGpuInstanceGetComputeInstanceById, gi, ci)
                if found:
                    nvml.nvmlComputeInstanceDestroy(found)
            nvml.nvmlGpuInstanceDestroy(gi)
    attempt(nvml.nvmlDeviceSetMigMode, gpu, 0)
for text in ("", "MIG-", "MIG-GPU-/1/2", "GPU-" + "x" * 500, "MIG-GPU-" + "y" * 500 + "/0/0"):
    attempt(nvml.nvmlDeviceGetHandleByUUID, text)
for text in ("", "zz", "0000:07:00.0", "00000000:07:00.0", "07:00.0"):
    attempt(nvml.nvmlDeviceGetHandleByPciBusId, text)
for error in (*range(40), 999):
    nvml.nvmlErrorString(error)
sim.fail("nvmlDeviceGetCount")
attempt(nvml.nvmlDeviceGetCount)
sim.reset_gpu(0)
sim.reboot()
nvml.nvmlShutdown()
print("clean")
"""


def test_clean_under_sanitizers(tmp_path, make):
    """The address and undefined-behaviour sanitizers find nothing in a walk through it all."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    found = subprocess.run(
        [str(compiler), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    runtime = Path(found.stdout.strip()).resolve()
    if not runtime.is_file():
        pytest.skip("this compiler has no address sanitizer")
    simulation = make("A100-SXM4-40GB", "H100-SXM5-80GB", "RTX-PRO-6000-BLACKWELL-96GB")
    checked = tmp_path / "checked.so"
    build.compile_driver(
        checked, ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    )
    checked.replace(simulation.library)
    done = subprocess.run(
        [sys.executable, "-c", EXERCISE, str(simulation.directory)],
        env={
            "PATH": os.environ["PATH"],
            "LD_PRELOAD": str(runtime),
            # Python's own leaks at exit are not ours.
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONMALLOC": "malloc",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "clean\n", "")
    assert Simulation.open(simulation.directory).counts().left == 0
