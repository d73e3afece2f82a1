"""Checks are made each alone; what this host is; the order of what is found."""

import os

from slurm_mig.doctor.examine import CHECKS, examine, roles
from slurm_mig.doctor.finding import ON_NODE, Check, Finding, Level, failure, ok
from slurm_mig.errors import NodeFault


def check(name, look, *needs):
    """A check of the area `host`."""
    return Check(f"host.{name}", name, ON_NODE, needs, look)


def test_each_alone(host):
    """A check that cannot be made, for whatever reason, leaves the others and what it had found."""

    def broken(_):
        yield ok("half", "done")
        raise KeyError("\x1b[31mboom\n")

    def closed(_):
        raise PermissionError(13, "Permission denied", "/secret")

    def fault(_):
        raise NodeFault("it says nothing")

    def gone(_):
        raise FileNotFoundError(2, "No such file or directory", "/gone")

    checks = [
        check("broken", broken),
        check("closed", closed),
        check("fault", fault),
        check("gone", gone),
        check("last", lambda _: [failure("a", "b", "c", "d")]),
    ]
    context = host.context("node")
    assert [f"{f.level} {f.text()}" for f in examine(context, checks)] == [
        "ok half: done",
        (
            "warning broken: could not look: internal error, please report it: KeyError: "
            "'\\x1b[31mboom\\n'"
        ),
        "warning closed: could not look: /secret Permission denied: only root can see it",
        "warning fault: could not look: it says nothing",
        "warning gone: could not look: [Errno 2] No such file or directory: '/gone'",
        "failure a: b: c; mend: d",
    ]


def test_findings_know_their_check(host):
    """Who found it is the check's name, which stays; areas are in order."""
    found = examine(host.context("node"))
    names = {check.name for check in CHECKS}
    assert {finding.check for finding in found} <= names
    areas = list(dict.fromkeys(finding.area for finding in found))
    assert areas == ["config", "driver", "devices", "state", "hooks", "slurm", "cluster", "host"]
    assert all(finding.check.startswith(f"{finding.area}.") for finding in found)


def test_names_are_unique():
    """Two checks of one name could not be told apart in the JSON."""
    names = [check.name for check in CHECKS]
    assert sorted(set(names)) == sorted(names)


def test_healthy_node(host):
    """A node as documented: nothing to mend, nothing to look at, no failure of doctor's own."""
    host.acquire(7, "3g.20gb")
    found = [f for f in examine(host.context("node")) if f.level is not Level.OK]
    assert found == []


def test_one_line():
    """Whatever is found, the finding is one line that no terminal obeys."""
    text = Finding(Level.FAILURE, "a\nb", "\x1b[2J", "why\r", "mend").text()
    assert text == "a\\x0ab: \\x1b[2J: why\\x0d; mend: mend"


def test_driver_makes_a_node(host):
    """A loaded driver makes a node."""
    assert roles(host.context()) == {"node"}


def test_slurmctld_makes_a_controller(host):
    """A slurmctld makes a controller, also on a node."""
    host.process(12, "slurmctld")
    assert roles(host.context()) == {"node", "controller"}


def no_driver(host):
    """Take the driver away."""
    (host.sim.root / "proc/driver/nvidia").rename(host.sim.root / "proc/driver/none")


def test_controller_that_slurm_names(host):
    """A controller whose slurmctld does not run now; the nodes' file on it makes no node of it."""
    no_driver(host)
    host.configured(SlurmctldHost=f"{os.uname().nodename}(10.0.0.1)")
    assert roles(host.context()) == {"controller"}


def test_node_whose_driver_is_gone(host):
    """A configuration makes a node: that its driver is gone must be found."""
    no_driver(host)
    host.process(13, "slurmd")
    assert roles(host.context()) == {"node"}


def test_nothing_tells(host):
    """Where nothing tells, it is looked at as a node."""
    host.config = host.folder / "none.toml"
    (host.slurm / "config").unlink()
    assert roles(host.context()) == {"node"}
