"""The cluster as its admin describes it: node groups, GPUs, layouts, what the site's Slurm is.

Pure: the types that everything rendered is made from. `description_parse.py` reads them from the
cluster's TOML and refuses what cannot be; whoever holds a `Description` may trust its values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from slurm_mig.errors import ConfigError, one_line
from slurm_mig.profiles import TableEntry
from slurm_mig.settings import LayoutSpec, Settings

#: The type of `mig` that fills a node's sum up in elastic mode; nobody may ask for it.
PADDING = "none"


#: Slurm's releases since the oldest that slurm-mig supports (SchedMD's release notes).
RELEASES = ("22.05", "23.02", "23.11", "24.05", "24.11", "25.05", "25.11", "26.05")


class Release(NamedTuple):
    """A Slurm release, year and month: 24.11 is (24, 11)."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: object) -> "Release":
        """Read `24.11`; one that is newer than all of RELEASES is taken. Raises ConfigError."""
        found = re.fullmatch(r"(\d\d)\.(\d\d)", text, re.ASCII) if isinstance(text, str) else None
        if found is None:
            patched = isinstance(text, str) and re.fullmatch(r"\d\d\.\d\d\.\d+\S*", text, re.ASCII)
            said = f"{text[:5]!r}" if isinstance(text, str) and patched else 'such as "24.11"'
            raise ConfigError(f"must be a Slurm release {said}, not {one_line(repr(text), 80)}")
        release = cls(int(found[1]), int(found[2]))
        if text not in RELEASES and (
            str(release) < RELEASES[-1] or release.month not in range(1, 13)
        ):
            raise ConfigError(
                f"there is no Slurm {text} that slurm-mig knows: {', '.join(RELEASES)} or newer"
            )
        return release

    def __str__(self) -> str:
        return f"{self.year}.{self.month:02d}"


class GpuSet(NamedTuple):
    """GPUs of one model on each node of a group.

    `indices` are device minors: index 3 is /dev/nvidia3. `mig`: partitioned by us; else the GPUs
    stay whole and are offered as `gpu`, with `type` as their GRES type if it is not empty.
    """

    entry: TableEntry
    indices: tuple[int, ...]
    mig: bool
    type: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that are alike. `hosts` is a Slurm hostlist as the admin wrote it, of `size` nodes.

    `layout` maps the key of each MIG model here to its layout; `promises` are what one node tells
    Slurm, {profile: count}, all keepable at once. `maxima` is {profile: count} of what one node
    could make if it made nothing else. `padding` is the count of PADDING in elastic mode, else 0.
    `conf` is the rest of the NodeName line (`CPUs=64 RealMemory=512000`).
    """

    name: str
    hosts: str
    size: int
    gpus: tuple[GpuSet, ...]
    layout: Mapping[str, LayoutSpec]
    promises: Mapping[str, int]
    maxima: Mapping[str, int]
    padding: int
    conf: str

    @property
    def layout_by_name(self) -> dict[str, LayoutSpec]:
        """`layout` as a node's config.toml has it: by each name that NVML may give the model."""
        return {
            name: self.layout[gpus.entry.key]
            for gpus in self.mig
            if gpus.entry.key in self.layout
            for name in gpus.entry.nvml_names
        }

    @property
    def mig(self) -> tuple[GpuSet, ...]:
        """The GPUs that are partitioned."""
        return tuple(gpus for gpus in self.gpus if gpus.mig)

    @property
    def whole(self) -> tuple[GpuSet, ...]:
        """The GPUs that stay whole."""
        return tuple(gpus for gpus in self.gpus if not gpus.mig)


@dataclass(frozen=True, slots=True)
class Site:
    """What the site's Slurm is and has besides us; single-valued lines of slurm.conf are merged."""

    release: Release
    config_directory: str  # where slurm.conf lives
    gres_types: tuple[str, ...]  # of the site, without mig
    prolog_flags: tuple[str, ...]
    accounting_tres: tuple[str, ...]
    accounting: bool = True  # there is a slurmdbd; without one slurmctld takes no TRES
    job_submit_plugins: tuple[str, ...] = ()  # of the site, without lua


@dataclass(frozen=True, slots=True)
class Description:
    """A whole cluster.

    `token` is the job field that the job_submit module stamps: "extra", "comment" or "" (none).
    `node` are sections of every node's config.toml as the admin wrote them, `settings` the same
    parsed, with the defaults filled in. `anchor` is the name of elastic mode's DOWN node, "" when
    static, `anchor_conf` the rest of its NodeName line. `program` is slurm-mig on the nodes.
    """

    site: Site
    groups: tuple[Group, ...]
    token: str
    elastic: bool
    anchor: str
    anchor_conf: str
    directory: str  # of config.toml and hooks/ on the nodes
    program: str
    node: Mapping[str, Mapping[str, Any]]
    settings: Settings
