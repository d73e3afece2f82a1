"""What Slurm makes of type names: `typeid` says the same numbers, and why they matter."""

import re

import pytest

from slurm_mig import table
from slurm_mig.rehearsal.cluster import Cluster, Node, SlurmInstall
from slurm_mig.typeid import collisions, type_id

pytestmark = pytest.mark.slurm


def test_ids_are_slurms(install: SlurmInstall) -> None:
    """For every profile name of the table, slurmctld says the number that we compute."""
    names = sorted(
        {profile.name for entry in table.entries() for profile in entry.geometry.profiles}
    )
    nodes = [Node(f"n{at}", {name: 1}) for at, name in enumerate(names)]
    debug = "DebugFlags=NO_CONF_HASH,Gres"
    with Cluster.temporary(nodes, install=install, extra_conf=debug) as cluster:
        said = re.findall(r" type\[0\]:(\S+)\((\d+)\)", cluster.log("slurmctld"))
    assert {name: int(number) for name, number in said} == {name: type_id(name) for name in names}
    assert len(names) >= 75


def test_types_with_one_number_are_one_to_slurm(install: SlurmInstall) -> None:
    """A job of one type is let onto a node that has only the other: why these are refused."""
    asked, other, plain = "3g.47gb", "2g.48gb", "1g.24gb"
    nodes = [Node("right", {asked: 1}), Node("wrong", {other: 1}), Node("plain", {plain: 1})]
    with Cluster.temporary(nodes, install=install) as cluster:
        codes = {
            node.name: cluster.srun(
                "-w", node.name, f"--gres=mig:{asked}:1", "true", check=False
            ).returncode
            for node in nodes
        }
    assert collisions([asked, other, plain]) == [(asked, other)]
    assert codes == {"right": 0, "wrong": 0, "plain": 1}
