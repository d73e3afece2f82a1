"""Reads the file that describes the cluster, `cluster.toml`, for people and the controller."""

from pathlib import Path

from slurm_mig import description_parse, share, table
from slurm_mig.description import Description, Release
from slurm_mig.errors import ConfigError

DEFAULT = Path("/etc/slurm-mig/cluster.toml")
#: A file of 10,000 nodes in 200 groups has 40 kB.
_LARGEST = 16 * 1024 * 1024


def loads(text: str, where: str = "cluster.toml", release: Release | None = None) -> Description:
    """The cluster that a text describes, with the GPUs of the shipped table. ConfigError."""
    return description_parse.parse(text, where, entries=table.entries(), release=release)


def load(path: Path | None = None, release: Release | None = None) -> Description:
    """The cluster that a file describes; without `path`, /etc/slurm-mig/cluster.toml.

    `release` goes before the file's own. Raises ConfigError, always one line.
    """
    path = path or DEFAULT
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ConfigError(f"{path}: has more than {_LARGEST >> 20} MiB; it is no cluster.toml")
        text = data.decode()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; write it ({share.path('templates/cluster.toml')} has "
            "every key) or name another with --config"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not valid TOML: not UTF-8") from None
    return loads(text, str(path), release)
