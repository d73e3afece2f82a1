"""Reads a node's configuration: one TOML file and the folder `config.d` beside it."""

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from slurm_mig import settings
from slurm_mig.errors import ConfigError
from slurm_mig.settings import Settings

DEFAULT = Path("/etc/slurm-mig/config.toml")


def _read(path: Path) -> dict[str, Any]:
    """One parsed file; raises ConfigError, FileNotFoundError."""
    try:
        # Not blocking: a pipe that nobody writes to would hold the hook for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            # The file names the library that root loads, so only root may have written it.
            status = os.fstat(file.fileno())
            if os.geteuid() == 0 and (status.st_uid != 0 or stat.S_IMODE(status.st_mode) & 0o022):
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                raise ConfigError(
                    f"{path}: owned by uid {status.st_uid}, mode {mode}; root reads its "
                    "configuration only from files that root alone can write: "
                    f"chown root {path} && chmod 0644 {path}"
                )
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: is no regular file; move it away")
            return tomllib.load(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def load(path: Path | None = None) -> Settings:
    """The effective settings; without `path`, /etc/slurm-mig/config.toml, which may be missing.

    Raises ConfigError.
    """
    main = path or DEFAULT
    documents = []
    try:
        documents.append((str(main), _read(main)))
    except FileNotFoundError:
        if path is not None:
            raise ConfigError(f"{path}: no such configuration file") from None
    for extra in sorted(main.parent.glob("config.d/*.toml")):
        try:
            documents.append((str(extra), _read(extra)))
        except FileNotFoundError:
            raise ConfigError(f"{extra}: a link to nothing, or just removed") from None
    return settings.parse(documents)
