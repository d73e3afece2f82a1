"""Installs the hook scripts: copies them with this node's settings written into them.

slurmd gives a hook no PATH and no configuration, and sh cannot read TOML, so the few settings that
the sh part needs stand in the script, between two marker lines.
"""

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

from slurm_mig import share
from slurm_mig.errors import NodeFault
from slurm_mig.settings import Settings

PROLOG = "slurm-mig-prolog"
TASK_PROLOG = "slurm-mig-task-prolog"
EPILOG = "slurm-mig-epilog"

_SOURCES = {
    PROLOG: f"prolog/{PROLOG}",
    TASK_PROLOG: f"prolog/{TASK_PROLOG}",
    EPILOG: f"epilog/{EPILOG}",
}
_BEGIN, _END = "# -- settings:", "# -- end of settings --"
#: What the hook path imports from outside the standard library; each is found where it is now.
_PACKAGES = ("slurm_mig", "filelock", "pynvml")


def _python_path() -> str:
    """The folders that the hooks' Python, which runs without site-packages, must look in."""
    folders: list[str] = []
    for name in _PACKAGES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise NodeFault(f"package {name}: not installed for {sys.executable}; reinstall")
        origin = Path(spec.origin)
        folder = str(origin.parent.parent if origin.name == "__init__.py" else origin.parent)
        if folder not in folders:
            folders.append(folder)
    return ":".join(folders)


def render(name: str, settings: Settings, config: Path) -> str:
    """The text of one hook with these settings; every value is quoted for sh."""
    values = {
        "PYTHON": sys.executable,
        "PYTHON_PATH": _python_path(),
        "CONFIG": str(config),
        "RUN": settings.state_run_directory,
        "REQUEST": settings.slurm_request,
        "SCONTROL": settings.slurm_scontrol,
    }
    lines = []
    inside = False
    for line in share.path(_SOURCES[name]).read_text().splitlines():
        key, equals, _ = line.partition("=")
        if line.startswith(_BEGIN):
            inside = True
            line = f"{_BEGIN} written by `slurm-mig hooks` from {config.name}; edit that --"
        elif line == _END:
            inside = False
        elif inside and equals:
            line = f"{key}={shlex.quote(values[key])}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def install(folder: Path, settings: Settings, config: Path) -> list[Path]:
    """Write the three hooks to `folder`, each in one step; returns their paths."""
    written = []
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in _SOURCES:
            draft = folder / f".{name}.new"
            text = render(name, settings, config)
            # Whatever has the name of the draft goes; through a link nothing is written.
            draft.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(draft, flags, 0o700), "w") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o755)
            os.replace(draft, folder / name)  # noqa: PTH105 -- slurmd may be running the old one
            written.append(folder / name)
    except OSError as error:
        raise NodeFault(f"hooks in {folder}: {error.strerror} ({error.filename})") from None
    return written
