"""Descriptions of clusters for tests: their texts, and reading them with the table's GPUs."""

import pytest
from bruteforce import entries

from slurm_mig.description import Description, Release
from slurm_mig.description_parse import parse
from slurm_mig.errors import ConfigError

HEAD = '[slurm]\nrelease = "24.11"\n[layout]\ndefault = "balanced"\n'
NODES = '[nodes.a]\nhosts = "a[1-2]"\ngpus = "A100-SXM4-40GB:8"\n'
FULL = """\
[slurm]
release = "25.05"
config_directory = "/opt/slurm/etc"
gres_types = ["gpu", "mig", "nic"]
prolog_flags = ["x11", "ForceRequeueOnFail"]
accounting_tres = ["gres/gpu", "gres/gpu:h100", "license/matlab"]
[install]
directory = "/srv/slurm-mig"
program = "/srv/bin/slurm-mig"
[job_submit]
token = "comment"
[layout]
default = "balanced"
"NVIDIA A100-SXM4-40GB" = { "3g.20gb" = 1, "1g.5gb" = 3 }
[node.state]
directory = "/var/lib/mig"
[node.slurm]
request = "token"
timeout = 5
[nodes.a100]
hosts = "gpu[01-16]"
gpus = "A100-SXM4-40GB:8"
conf = "CPUs=128   RealMemory=1031000"
[nodes.mixed]
hosts = "gpu[17-18],gpu20"
layout = "halves"
gpus = [ { model = "H100-SXM5-80GB", index = "0-2" },
         { model = "NVIDIA A30", index = "3" },
         { model = "H100-SXM5-80GB", index = "4-6", mig = false, type = "h100" },
         { model = "H100-SXM5-80GB", index = "9", mig = false, type = "h100" } ]
[nodes.cards]
hosts = "r[1-2]n[1-2]"
layout = { "A30-24GB" = "small" }
gpus = [ { model = "A30-24GB", index = "0-1" }, { model = "A100-SXM4-40GB", index = "2" } ]
"""


def read(text: str, release: Release | None = None) -> Description:
    """The description of a text, with the table's GPUs."""
    return parse(text, "c.toml", entries=entries(), release=release)


def refused(text: str, release: Release | None = None) -> str:
    """The sentence with which a text is refused."""
    with pytest.raises(ConfigError) as caught:
        read(text, release)
    return str(caught.value)
