"""What the checks let through is held against Slurm's own parser."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from slurm_mig.description import Release
from slurm_mig.description_checks import NODE_KEYS, NODE_KEYS_MISSING

#: Values that are no number.
VALUES = {"cpubind": "none", "state": "UNKNOWN", "nodehostname": "n1", "nodeaddr": "n1"}

pytestmark = pytest.mark.slurm


def scontrol(*words: str, conf: Path | None = None) -> str:
    """What scontrol says, its errors too."""
    if shutil.which("scontrol") is None:
        pytest.skip("no scontrol: apt-get install slurm-client")
    done = subprocess.run(
        ["/usr/bin/env", "scontrol", *words],
        env={"SLURM_CONF": str(conf), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout


@pytest.mark.parametrize("key", sorted({*NODE_KEYS, "RealMemmory", "Arch"}))
def test_keys_of_a_node_line_are_those_that_slurm_knows(key: str, tmp_path: Path) -> None:
    """A key is in our list, and not missing in this release, if and only if Slurm takes it."""
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=c\nSlurmctldHost=localhost\n")
    found = re.search(r"(\d+)\.(\d+)", scontrol("--version", conf=conf))
    assert found is not None
    release = Release(int(found[1]), int(found[2]))
    value = VALUES.get(key.casefold(), "1")
    conf.write_text(f"ClusterName=c\nSlurmctldHost=localhost\nNodeName=n1 {key}={value}\n")
    said = scontrol("show", "hostnames", "n1", conf=conf)
    ours = key in NODE_KEYS and release > NODE_KEYS_MISSING.get(key.casefold(), Release(0, 0))
    assert ("unrecognized key" not in said) == ours
    assert said.endswith("n1\n") == ours
