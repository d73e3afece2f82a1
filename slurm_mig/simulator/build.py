"""Builds the simulated driver with the system's C compiler, once per source, and caches it."""

import hashlib
import os
import platform
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from slurm_mig.errors import SlurmMigError

SONAME = "libnvidia-ml.so.1"
SOURCES = Path(__file__).parent / "driver"
FLAGS = (
    "-std=c11",
    "-shared",
    "-fPIC",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fvisibility=hidden",
    f"-Wl,-soname,{SONAME}",
    "-Wl,-z,defs",
    "-Wl,-Bsymbolic",
    "-pthread",
)


def library() -> Path:
    """The built library in the cache; builds it when it is not there.

    Raises SlurmMigError when there is no compiler, it fails, or no cache folder can be written.
    """
    key = _key()
    tried = []
    for folder in _caches():
        built = folder / key / SONAME
        if built.is_file():
            return built
        try:
            built.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=built.parent) as temporary:
                made = Path(temporary) / SONAME
                compile_driver(made)
                # Whoever comes second puts the same file there once more.
                made.replace(built)
        except OSError as error:
            tried.append(f"{folder}: {error.strerror}")
            continue
        return built
    raise SlurmMigError(
        f"no folder to keep the simulated driver in ({'; '.join(tried)}); "
        "set SLURM_MIG_CACHE to one that you may write"
    )


def compile_driver(output: Path, extra: tuple[str, ...] = ()) -> None:
    """Compile all sources into `output`; raises SlurmMigError with the compiler's first line."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SlurmMigError(
            "no C compiler (cc): the simulated driver is built from source; install gcc"
        )
    sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    command = [compiler, *FLAGS, *extra, "-o", str(output), *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise SlurmMigError(f"{compiler} could not build the simulated driver: {first}")


def _key() -> str:
    digest = hashlib.sha256(" ".join((platform.machine(), *FLAGS)).encode())
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in {".c", ".h", ".def"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return "simulated-driver-" + digest.hexdigest()[:16]


def _caches() -> Iterator[Path]:
    """Folders to try, best first."""
    if chosen := os.environ.get("SLURM_MIG_CACHE"):
        yield Path(chosen)
        return
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        yield Path(chosen) / "slurm-mig"
    home = os.environ.get("HOME") or _home()
    if home:
        yield Path(home) / ".cache" / "slurm-mig"
    if os.geteuid() == 0:
        yield Path("/var/cache/slurm-mig")


def _home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:  # a user without an account, as in containers
        return ""
