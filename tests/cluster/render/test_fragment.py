"""The fragment's settings, as each release's own programs say them back."""

import re
from collections.abc import Iterator, Mapping

import pytest
from rendercluster import Rendered, complaints, running

from slurm_mig.rehearsal.cluster import SlurmInstall

pytestmark = pytest.mark.slurm

SITE = """
gres_types = ["nic"]
prolog_flags = ["NoHold"]
[nodes.a100]
hosts = "n1"
gpus = "A100-SXM4-40GB:2"
layout = "balanced"
conf = "{n1} CPUs=8 State=UNKNOWN"
"""
PROMISES = {("mig", "1g.5gb"): 4, ("mig", "2g.10gb"): 2, ("mig", "3g.20gb"): 2}


@pytest.fixture
def rendered(install: SlurmInstall) -> Iterator[Rendered]:
    """One node; the site has flags and types of its own."""

    def describe(places: Mapping[str, str]) -> str:
        return SITE.format(**places)

    with running(install, ["n1"], describe) as one:
        yield one


def plain(value: str) -> str:
    """A value as one writes it: units left out, lists in order."""
    return ",".join(sorted(value.strip().removesuffix(" sec").split(",")))


def test_slurm_has_every_setting(rendered: Rendered) -> None:
    """Each key of the fragment has the value that `scontrol show config` prints."""
    fragment = (rendered.cluster.conf.parent / "slurm-mig.conf").read_text()
    lines = [line for line in fragment.splitlines() if re.match(r"(?!NodeName)\w+=", line)]
    wanted = {key: plain(value) for key, _, value in (line.partition("=") for line in lines)}
    said = rendered.cluster.run("scontrol", "show", "config").stdout
    # From 23.11 on a site may have several Prologs: Prolog[0].
    shown = dict(re.findall(r"^(\w+)(?:\[0\])? += (.*)$", said, re.MULTILINE))
    assert {key: plain(shown[key]) for key in wanted} == wanted
    assert {"GresTypes", "JobSubmitPlugins", "PrologFlags", "Prolog", "Epilog", "TaskProlog"} < set(
        wanted
    )
    assert {"NoHold", "Alloc", "DeferBatch"} <= set(wanted["PrologFlags"].split(","))
    assert complaints(rendered.cluster.log("slurmctld")) == []


def test_what_a_job_alone_on_its_node_gets(rendered: Rendered) -> None:
    """With --exclusive what it asked for; before 23.02, which has no such flag, all there is."""
    rendered.allocate({"n1": ["--exclusive", "--gres=mig:3g.20gb:1"]})
    new = rendered.cluster.release >= (23, 2)
    assert rendered.running() == {"n1": {("mig", "3g.20gb"): 1} if new else PROMISES}


def test_a_group_of_many_nodes(install: SlurmInstall) -> None:
    """A host list with leading zeros stands in slurm.conf and gres.conf as the admin wrote it."""
    names = ["gpu08", "gpu09", "gpu10", "login"]

    def describe(places: Mapping[str, str]) -> str:
        where = places["gpu08"].rpartition("Port=")[0]
        ports = ",".join(places[name].rpartition("=")[2] for name in names)
        return f"""
[nodes.a100]
hosts = "gpu[08-10],login"
gpus = "A100-SXM4-40GB:1"
layout = "halves"
conf = "{where}Port=[{ports}] CPUs=8 State=UNKNOWN"
"""

    with running(install, names, describe) as one:
        assert one.offered() == {name: {("mig", "3g.20gb"): 2} for name in names}
        assert {name: one.registered(name) for name in names} == one.offered()
        said = one.cluster.srun("-N4", "--gres=mig:3g.20gb:2", "printenv", "SLURMD_NODENAME")
        assert sorted(said.stdout.split()) == names
