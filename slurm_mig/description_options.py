"""The keys of cluster.toml: each once, with what it takes, its default and its prose.

The reference file `templates/cluster.toml` is this table printed (`reference()`); a test holds the
two together. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slurm_mig import description_checks as checks
from slurm_mig.description import Release


@dataclass(frozen=True, slots=True)
class Option:
    """One key of a section. `check` returns the value to use or raises ConfigError.

    `example` is what the reference shows where there is no default.
    """

    section: str
    key: str
    check: Callable[[object], Any]
    default: Any
    prose: str
    example: str = ""


OPTIONS = (
    Option(
        "slurm",
        "release",
        Release.parse,
        None,
        "The cluster's Slurm release, year and month. Must be said, here or by\n"
        "`slurm-mig render --slurm-version`.",
        '"24.11"',
    ),
    Option(
        "slurm",
        "config_directory",
        checks.path,
        "/etc/slurm",
        "Where slurm.conf is.",
    ),
    Option(
        "slurm",
        "gres_types",
        checks.gres_types,
        (),
        'GresTypes that the site has besides mig, such as ["nic"]. gpu is added where GPUs stay\n'
        "whole.",
    ),
    Option(
        "slurm",
        "prolog_flags",
        checks.prolog_flags,
        (),
        'PrologFlags that the site wants besides ours, such as ["X11"]. Not Serial, not RunInJob.',
    ),
    Option(
        "slurm",
        "job_submit_plugins",
        checks.plugins,
        (),
        'JobSubmitPlugins of the site besides lua, such as ["all_partitions"]. They run before it.',
    ),
    Option(
        "slurm",
        "accounting_tres",
        checks.tres,
        (),
        'AccountingStorageTRES of the site besides ours, such as ["gres/gpu"].',
    ),
    Option(
        "slurm",
        "accounting",
        checks.yes,
        True,
        "Whether there is a slurmdbd. false: no AccountingStorageTRES is written, with which\n"
        "slurmctld would not start.",
    ),
    Option(
        "install",
        "directory",
        checks.path,
        "/etc/slurm-mig",
        "Where config.toml and the folder hooks are on the nodes.",
    ),
    Option(
        "install",
        "program",
        checks.path,
        "/opt/slurm-mig/bin/slurm-mig",
        "The command on the nodes.",
    ),
    Option(
        "job_submit",
        "token",
        checks.one_of("auto", "extra", "comment", "none"),
        "auto",
        "Which field of a job the job_submit module stamps with what the job was granted. auto:\n"
        "extra from Slurm 23.02, none before; comment is for sites on 22.05 whose users need no\n"
        "comment of their own; none: nothing is stamped, and each Prolog asks slurmctld.",
    ),
    Option(
        "elastic",
        "enabled",
        checks.yes,
        False,
        "Whether counts follow demand. false: each node offers what its layout says, always.",
    ),
    Option(
        "elastic",
        "anchor",
        checks.node_name,
        "mig-anchor",
        "A node that does not exist: DOWN for ever, it offers every profile, so that Slurm keeps\n"
        "a job in the queue whose profile no node offers just now.",
    ),
    Option(
        "elastic",
        "anchor_conf",
        checks.conf,
        None,
        "The rest of its NodeName line. Default: the largest CPUs, RealMemory and TmpDisk and\n"
        "all features of the node groups' conf.",
        '"CPUs=128 RealMemory=1000000"',
    ),
)

#: The sections whose keys are not in the table.
FREE_SECTIONS = ("layout", "node", "nodes")
SECTIONS = (*dict.fromkeys(option.section for option in OPTIONS), *FREE_SECTIONS)

_HEAD = """\
# slurm-mig, the whole cluster: every key at its default. `slurm-mig render` makes from it what
# Slurm and the nodes need."""

_FREE = """\
# What each MIG GPU of a model promises to Slurm: the name of a layout (balanced, small, halves,
# whole) or counts by profile. Models are named as `slurm-mig profiles` prints them; `default` is
# for all others. Every model needs one, unless [elastic] is enabled.
[layout]
#default = "balanced"
#"A100-SXM4-40GB" = { "3g.20gb" = 1, "1g.5gb" = 3 }

# Any section of the nodes' own configuration (templates/config.toml), but for layout and gpus,
# which are made from this file.
#[node.state]
#directory = "/var/lib/slurm-mig"

# Nodes that are alike. The table's name is yours: a-z, 0-9, _ and -.
#[nodes.a100]
# A Slurm host list.
#hosts = "gpu[01-16]"
# MODEL:COUNT, all of them in MIG mode, or a list as below.
#gpus = "A100-SXM4-40GB:8"
# The rest of the NodeName line.
#conf = "CPUs=128 RealMemory=1031000"

#[nodes.mixed]
#hosts = "gpu[17-18]"
# A layout for this group only, or a table by model.
#layout = "halves"
# index 3 is /dev/nvidia3. Without `mig`: in MIG mode. GPUs that stay whole are asked for as
# --gres=gpu, or --gres=gpu:h100 if they have a type.
#gpus = [
#    { model = "H100-SXM5-80GB", index = "0-3" },
#    { model = "H100-SXM5-80GB", index = "4-7", mig = false, type = "h100" },
#]
"""


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if value == () else f'"{value}"'


def reference() -> str:
    """The reference file: every key, commented out, at its default, with its prose."""
    lines = [_HEAD]
    section = None
    for option in OPTIONS:
        if option.section != section:
            section = option.section
            lines += ["", f"[{section}]"]
        lines += [f"# {line}" for line in option.prose.splitlines()]
        lines.append(f"#{option.key} = {option.example or _toml(option.default)}")
    return "\n".join([*lines, "", _FREE])
