"""A hook at fault drains its node with its own words, and reconcile resumes what a hook drained."""

import json
import os
import sys
import time

import pytest
from hooking import Hooks, can_make_nodes, wait_for

from slurm_mig import drained
from slurm_mig.cli import main
from slurm_mig.rehearsal.node import RehearsalNode
from slurm_mig.rehearsal.standin import StandinNode

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_CI = "nvmlGpuInstanceCreateComputeInstance"
ENV = {"PATH": "/usr/bin:/bin"}
RESUMED = "resumed: node n1: drained for "


class Site:
    """A node under the scheduler stand-in, and what its admin does."""

    def __init__(self, slurm, node, run):
        self.slurm, self.node, self.sim = slurm, node, node.simulation
        self.hooks = Hooks(node, slurm.folder)
        self._run = run

    @property
    def note(self):
        """Where the hooks note what they drained the node for."""
        return self.node.folder / "state" / drained.NAME

    def fault(self, error="UNKNOWN"):
        """A job whose Prolog fails at the driver; what Slurm then says of the node."""
        self.sim.fail(CREATE, error=error)
        job = self.slurm.sbatch("true", gres="mig:1g.5gb:1", env=ENV)
        there = self.slurm.node("n1")
        wait_for(lambda: there.drained and not there.running | there.completing, "the drain")
        self.slurm.cancel(job)
        return there.reason

    def reconcile(self, *words):
        """Exit status, and the lines that it prints."""
        return self._run("reconcile", "--config", self.node.config, "--node", "n1", *words)

    def admin(self, **changes):
        """`scontrol update NodeName=n1 …`."""
        self.slurm.update_node("n1", changes)


@pytest.fixture
def make(tmp_path, slurm_mig_standin, monkeypatch, capsys):
    """Makes the node, with these sections of its configuration."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["slurm-mig", *map(str, words)])
        capsys.readouterr()
        status = main.main()
        said = capsys.readouterr()
        assert said.err == ""
        return status, said.out.splitlines()

    def make_one(release="24.11", **settings):
        node = RehearsalNode.create(
            tmp_path / "n1",
            "n1",
            ["A100-SXM4-40GB"],
            scontrol=tmp_path / "slurm/bin/scontrol",
            settings={
                "epilog": {"budget": 0.1},
                "isolation": {"devices": "owner" if can_make_nodes(tmp_path) else "none"},
                **settings,
            },
        )
        hooks = {"prolog": node.prolog, "epilog": node.epilog, "task_prolog": node.task_prolog}
        slurm = slurm_mig_standin(
            [StandinNode("n1", node.promises, **hooks)], folder=tmp_path / "slurm", release=release
        )
        return Site(slurm, node, run)

    return make_one


@pytest.fixture
def site(make):
    """One node with the defaults."""
    return make()


@pytest.mark.parametrize("release", ["22.05", "24.11", "26.05"])
def test_drained_and_resumed(make, release):
    """The node's reason is the Prolog's own sentence; reconcile resumes it, and says so once."""
    site = make(release)
    reason = site.fault()
    status, lines = site.reconcile()
    assert reason.startswith("slurm-mig: GPU-")
    assert f"{CREATE} failed: Unknown Error (NVML error 999)" in reason
    assert (status, lines) == (0, [f"{RESUMED}{reason!r}; resumed"])
    assert not site.slurm.node("n1").drained
    assert site.reconcile() == (0, ["nothing to mend"])


def test_nothing_is_asked_without_a_note(site):
    """As long as no hook has drained the node, reconcile asks Slurm only which jobs live."""
    site.slurm.commands.clear()
    assert site.reconcile() == (0, ["nothing to mend"])
    assert [words[0] for words in site.slurm.commands] == ["squeue"]


def test_drain_of_an_admin_is_left_alone(site):
    """A node that is drained already keeps its reason when a hook fails, and is not resumed."""
    site.sim.fail(CREATE_CI, error="UNKNOWN")
    site.sim.latency(CREATE, 0.3)
    site.slurm.sbatch("true", gres="mig:1g.5gb:1", env=ENV)
    wait_for(lambda: site.sim.busy(0), "the Prolog to be at the driver")
    site.admin(state="DRAIN", reason="fan broken")
    there = site.slurm.node("n1")
    wait_for(lambda: not there.running | there.completing, "the job to be gone")
    assert site.reconcile() == (0, ["nothing to mend"])
    assert (there.drained, there.reason) == (True, "fan broken")


def test_drain_that_an_admin_took_over_is_left_alone(site):
    """Once an admin gave it another reason, the drain is the admin's, and stays so."""
    reason = site.fault()
    site.admin(state="DRAIN", reason=f"{reason} (asked the vendor)")
    assert site.reconcile() == (0, ["nothing to mend"])
    site.admin(reason=reason)
    assert site.reconcile() == (0, ["nothing to mend"])
    assert site.slurm.node("n1").drained


def test_resumed_once_an_hour(site):
    """A fault that comes back at once is one that reconcile cannot see: the second is left."""
    site.fault()
    site.reconcile()
    reason = site.fault()
    status, lines = site.reconcile()
    assert (status, len(lines)) == (3, 1)
    assert lines[0].startswith(f"drained: node n1: drained for {reason!r}; not resumed: it was, ")
    assert lines[0].endswith("then run: scontrol update NodeName=n1 State=RESUME")
    note = json.loads(site.note.read_text())
    site.note.write_text(json.dumps({**note, "resumed": time.time() - 3601}))
    assert site.reconcile() == (0, [f"{RESUMED}{reason!r}; resumed"])


def test_not_while_something_is_wrong(site):
    """What is not mended keeps the node drained, and is the reason given."""
    reason = site.fault()
    site.sim.fail("nvmlDeviceGetMigMode", error="GPU_IS_LOST", once=False)
    status, lines = site.reconcile()
    site.sim.clear_faults()
    assert status == 3
    (line,) = (line for line in lines if line.startswith("drained: "))
    assert line.startswith(f"drained: node n1: drained for {reason!r}; not resumed: ")
    assert "GPU is lost" in line
    assert site.slurm.node("n1").drained
    assert site.reconcile()[0] == 0
    assert not site.slurm.node("n1").drained


def test_not_a_node_that_is_down(site):
    """To Slurm RESUME would take that back, too."""
    reason = site.fault()
    site.slurm.node("n1").down = True
    why = "not resumed: Slurm says that it is down"
    assert site.reconcile() == (3, [f"drained: node n1: drained for {reason!r}; {why}"])
    assert site.slurm.node("n1").down


def test_not_by_setting(make):
    """[reconcile] resume = false leaves it to the admin, with the words for it."""
    site = make(reconcile={"resume": False})
    reason = site.fault()
    status, [line] = site.reconcile()
    assert status == 3
    assert line == (
        f"drained: node n1: drained for {reason!r}; not resumed ([reconcile] resume is false); "
        "then run: scontrol update NodeName=n1 State=RESUME"
    )
    site.admin(state="RESUME")
    note = json.loads(site.note.read_text())
    site.note.write_text(json.dumps({**note, "at": 0}))
    assert site.reconcile() == (0, ["nothing to mend"])


def test_not_before_slurm_has_heard(site):
    """Between the hook's drain and slurmd's report of its failure it is not resumed."""
    job = site.slurm.sbatch("sleep 60", gres="mig:1g.5gb:1", env=ENV)
    site.slurm.wait_running(job)
    assert drained.drain(site.node.settings, "n1", job, "driver gone") == ""
    why = f"not resumed: job {job} is still on its way out"
    line = f"drained: node n1: drained for 'slurm-mig: driver gone'; {why}"
    assert site.reconcile() == (3, [line])
    site.slurm.cancel(job)
    site.slurm.wait(job)
    assert site.reconcile()[0] == 0


def test_slurm_away_when_the_hook_fails(make):
    """Then Slurm drains the node in its own words, and reconcile knows that it was for ours."""
    site = make(slurm={"timeout": 0.2})
    site.sim.fail(CREATE_CI, error="UNKNOWN")
    site.sim.latency(CREATE, 0.3)
    job = site.slurm.sbatch("true", gres="mig:1g.5gb:1", env=ENV)
    wait_for(lambda: site.sim.busy(0), "the Prolog to be at the driver")
    site.slurm.reachable = False
    there = site.slurm.node("n1")
    wait_for(lambda: there.drained and not there.running | there.completing, "the drain")
    site.slurm.reachable = True
    site.slurm.cancel(job)
    reason = there.reason
    assert site.reconcile() == (0, [f"{RESUMED}'Prolog error'; resumed"])
    assert reason == "Prolog error"
    assert [line for line in site.hooks.logged() if "outcome=not-told" in line]


def test_quarantine_that_drains(make):
    """With [epilog] drain the reason names the instance; once it can go, the node is resumed."""
    site = make(epilog={"budget": 0.1, "drain": True})
    job = site.slurm.sbatch("while [ ! -e go ]; do sleep 0.02; done", gres="mig:1g.5gb:1", env=ENV)
    wait_for(lambda: site.hooks.ledger() == [(job, "1g.5gb", "live")], "the instance")
    (gi,) = site.sim.instances()
    there = site.slurm.node("n1")
    with site.sim.client(gi.compute[0].uuid) as client:
        site.slurm.cancel(job)
        wait_for(lambda: there.drained and not there.running | there.completing, "the drain")
        reason = there.reason
        status, lines = site.reconcile()
    assert reason.startswith("slurm-mig: quarantined: GPU-")
    assert f"in use by pid {client.pid}" in reason
    assert (status, lines[0].partition(":")[0], there.drained) == (3, "drained", True)
    assert site.reconcile()[0] == 0
    assert (there.drained, site.hooks.ledger()) == (False, [])


def test_by_hand_drains_nothing(site):
    """A person who runs a hook's work by hand reads of the fault, and the node stays in service."""
    job = site.slurm.sbatch("sleep 60", gres="mig:1g.5gb:1", env=ENV)
    site.slurm.wait_running(job)
    site.sim.fail(CREATE, error="UNKNOWN")
    made = site.hooks.prolog(job, env={"SLURM_SCRIPT_CONTEXT": ""})
    assert made.rc == 1
    assert f"{CREATE} failed: " in made.output
    assert not site.slurm.node("n1").drained
    assert not site.note.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"reason": 1}', b'{"x": 1}', b"\xff" * 99])
def test_note_that_is_none(site, content):
    """What stands where the note should, and is none, is no note."""
    site.reconcile()
    site.note.write_bytes(content)
    site.admin(state="DRAIN", reason="slurm-mig: it")
    assert site.reconcile() == (0, ["nothing to mend"])
    assert site.slurm.node("n1").drained


@pytest.mark.parametrize("what", ["link", "fifo", "writable", "hard link", "folder"])
def test_note_of_somebody_else(site, tmp_path, what):
    """A note that others may have written is no note; nothing waits for it, nothing follows it."""
    site.fault()
    text = site.note.read_text()
    other = tmp_path / "other"
    other.write_text(text)
    other.chmod(0o600)
    site.note.unlink()
    if what == "link":
        site.note.symlink_to(other)
    elif what == "fifo":
        os.mkfifo(site.note, 0o600)
    elif what == "hard link":
        site.note.hardlink_to(other)
    elif what == "folder":
        site.note.mkdir()
    else:
        site.note.write_text(text)
        site.note.chmod(0o666)
    assert site.reconcile() == (0, ["nothing to mend"])
    assert site.slurm.node("n1").drained
    assert other.read_text() == text
