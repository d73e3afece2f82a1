"""Doctor on a rendered cluster of each release: silent when it is as documented, and not when not.

One node and its controller, made as docs/configuration.md says: cluster.toml, rendered, installed.
No job runs, so the hooks are installed and never started.
"""

import json
import shlex
import shutil
import sys
import tempfile
from pathlib import Path, PurePath

import pytest

from slurm_mig import clusterfile, configfile, hooks
from slurm_mig.cli import main
from slurm_mig.rehearsal import slurm_folder
from slurm_mig.rehearsal.cluster import Cluster, Node
from slurm_mig.render import render
from slurm_mig.simulator.handle import Simulation

pytestmark = pytest.mark.slurm

DESCRIPTION = """
[slurm]
release = "{release[0]}.{release[1]:02}"
config_directory = "{folder}/slurm/etc"
accounting = false
[install]
directory = "{folder}/install"
[layout]
default = "balanced"
[node.driver]
library = "{library}"
root = "{root}"
[node.state]
directory = "{folder}/state"
run_directory = "{folder}/run"
[node.slurm]
scontrol = "{scontrol}"
timeout = 20
[nodes.a100]
hosts = "n1"
gpus = "A100-SXM4-40GB:2"
conf = "CPUs=4 {place}"
"""
#: What the machine that the tests run on is asked, and not the cluster.
MACHINE = {"state.clock", "host.holders", "host.toolkit", "host.pynvml"}
SCHEDULER = "SchedulerParameters=batch_sched_delay=0,sched_interval=1,disable_job_shrink"


@pytest.fixture(params=["own", "trixie", "forky"])
def install(request, slurm_install):
    """Slurm of this machine, and those of folders where they exist."""
    if request.param == "own":
        return slurm_install
    found = slurm_folder.find(request.param)
    if found is None:
        suite = request.param
        pytest.skip(f"no Slurm of {suite}: python -m slurm_mig.rehearsal.slurm_folder {suite}")
    return found


class Site:
    """The cluster, its description, and doctor on its controller and its node."""

    def __init__(self, folder, install):
        folder.chmod(0o755)
        self.folder = folder
        self.description = folder / "cluster.toml"
        self.config = folder / "install/config.toml"
        simulation = Simulation.create(folder / "sim", ["A100-SXM4-40GB:2"])
        self.scontrol = folder / "scontrol" if install.inside else install.program("scontrol")

        def rendered(places):
            self.description.write_text(
                DESCRIPTION.format(
                    release=install.release,
                    folder=folder,
                    library=simulation.library,
                    root=simulation.root,
                    scontrol=self.scontrol,
                    place=places["n1"],
                )
            )
            files = render(clusterfile.load(self.description))
            (config,) = (file for file in files if file.what == "node")
            assert config.install == str(self.config)
            self.config.parent.mkdir()
            self.config.write_text(config.text)
            settings = configfile.load(self.config)
            hooks.install(self.config.parent / "hooks", settings, self.config)
            slurms = [(PurePath(file.name), file.text) for file in files]
            return {path.name: text for path, text in slurms if path.parent.name == "slurm"}

        self.cluster = Cluster(
            folder / "slurm",
            [Node("n1")],
            install=install,
            rendered=rendered,
            extra_conf=SCHEDULER,
            also_mount=[folder] if install.inside else (),
        )

    def start(self):
        """Start the cluster; where its Slurm is in a folder, doctor gets a scontrol into it."""
        self.cluster.start()
        if self.cluster.install.inside:
            words = shlex.join(self.cluster._argv(["scontrol"], None))
            self.scontrol.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            self.scontrol.chmod(0o755)


@pytest.fixture
def site(install):
    """A cluster that runs, as documented."""
    folder = Path(tempfile.mkdtemp(prefix="doctor-"))
    one = Site(folder, install)
    try:
        one.start()
        yield one
    finally:
        one.cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture
def doctor(site, capsys, monkeypatch):
    """Runs doctor on the site: its exit status, and all that is not ok, by check."""
    monkeypatch.setenv("SLURM_CONF", str(site.cluster.conf))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["slurm-mig", "doctor", "--json", *map(str, words)])
        capsys.readouterr()
        status = main.main()
        findings = json.loads(capsys.readouterr().out)["findings"]
        wrong = {}
        for finding in findings:
            if finding["level"] != "ok" and finding["check"] not in MACHINE:
                wrong.setdefault(finding["check"], []).append((finding["level"], finding["found"]))
        return status, wrong, {finding["check"] for finding in findings}

    return run


def test_doctor(site, doctor):
    """Nothing wrong as documented; PrologFlags, counts and a stale fragment are found."""
    controller = ("--role", "controller", "--cluster", site.description)
    node = ("--role", "node", "--config", site.config, "--node", "n1")

    status, wrong, made = doctor(*controller)
    assert (status, wrong) == (0, {})
    assert {"slurm.prolog-flags", "slurm.timeouts", "cluster.files", "cluster.plugin"} <= made
    status, wrong, made = doctor(*node)
    assert (status, wrong) == (0, {})
    assert {"slurm.promises", "hooks.files", "driver.mode", "slurm.autodetect"} <= made

    def counts_are_wrong():
        # Again and again: the node's registration sets the counts back.
        gres = "Gres=mig:3g.20gb:4,mig:1g.5gb:4"
        site.cluster.run("scontrol", "update", "NodeName=n1", gres)
        status, wrong, _ = doctor(*node)
        return (status, list(wrong)) == (3, ["slurm.promises"])

    site.cluster.wait_until(counts_are_wrong, "other counts to be found")

    fragment = site.folder / "slurm/etc/slurm-mig.conf"
    text = fragment.read_text()
    assert "\nPrologFlags=Alloc,DeferBatch\n" in text
    fragment.write_text(text.replace("Flags=Alloc,DeferBatch", "Flags=Alloc,Serial"))
    site.cluster.run("scontrol", "reconfigure")
    site.cluster.wait_until(
        lambda: "slurm.prolog-flags" in doctor(*controller)[1], "the flags to be read"
    )
    status, wrong, _ = doctor(*controller)
    assert (status, wrong) == (
        3,
        {
            "slurm.prolog-flags": [("failure", "Serial"), ("warning", "DeferBatch is missing")],
            "cluster.files": [("failure", "not what cluster.toml gives now")],
        },
    )
    fragment.write_text(text)
    site.cluster.run("scontrol", "reconfigure")
    site.cluster.wait_until(lambda: doctor(*controller)[:2] == (0, {}), "the flags to be back")


def test_slurmctld_is_down(site, doctor):
    """Without slurmctld the rest is looked at, and what was not is said."""
    site.cluster.end_daemon("slurmctld")
    text = site.config.read_text()
    assert "timeout = 20\n" in text
    site.config.write_text(text.replace("timeout = 20\n", "timeout = 1\n"))
    status, wrong, _ = doctor("--role", "node", "--config", site.config, "--node", "n1")
    assert status == 3
    assert set(wrong) == {"slurm.release", "slurm.unseen"}
    assert "Slurm does not answer within 1 s" in wrong["slurm.release"][0][1]
