"""slurm-mig doctor as a program: lines, JSON, exit status, a user's eyes, garbage everywhere."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from slurm_mig.cli import main
from slurm_mig.doctor import examine

NOBODY = 65534
#: What says something about the machine that the tests run on, and not about the host made for it.
OUTSIDE = {"state.clock", "host.holders", "host.toolkit", "state.directory"}

# The imports come first: the user may not be able to read them where the repository is.
AS_USER = """
import os, sys
from slurm_mig.cli import main
import email.parser
import slurm_mig.doctor.examine
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
sys.exit(main.main())
"""


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs `slurm-mig doctor` with these words: exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)

    def run_one(host, *words):
        arguments = ["doctor", "--config", host.config, "--node", "n1", *words]
        monkeypatch.setattr(sys, "argv", ["slurm-mig", *map(str, arguments)])
        capsys.readouterr()
        status = main.main()
        said = capsys.readouterr()
        return status, said.out, said.err

    return run_one


def test_nothing_to_mend(host, run):
    """A node as documented: every line begins with its level, and the exit is 0."""
    status, out, err = run(host, "--role", "node")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert all(re.match(r"(ok     |warning)  [a-z]+ +\S", line) for line in lines[:-1])
    assert "ok       slurm    PrologFlags=Alloc,DeferBatch: as it should be" in lines
    assert re.fullmatch(
        r"node: \d+ ok, \d+ warnings?, 0 failures: nothing must be mended", lines[-1]
    )


def test_something_to_mend(host, run):
    """A failure is a line with the command that mends it, and exit 3."""
    host.configured(PrologFlags="Alloc,DeferBatch,Serial")
    status, out, err = run(host, "--role", "node")
    assert (status, err) == (3, "")
    assert (
        "failure  slurm    PrologFlags=Alloc,DeferBatch,Serial: Serial: a Prolog that waits for "
        "space then keeps the Epilog that frees it from running; mend: take Serial out of "
        "PrologFlags in slurm.conf, then: scontrol reconfigure"
    ) in out.splitlines()
    assert out.splitlines()[-1].endswith(", 1 failure: something must be mended")


def test_json(host, run):
    """The JSON has a form that stays, and the same findings."""
    host.configured(GresTypes="gpu")
    status, out, _ = run(host, "--role", "node", "--role", "controller", "--json")
    document = json.loads(out)
    assert status == 3
    assert list(document) == ["version", "node", "roles", "root", "findings", "counts"]
    assert (document["version"], document["node"], document["root"]) == (1, "n1", True)
    assert document["roles"] == ["controller", "node"]
    findings = document["findings"]
    keys = ["area", "check", "level", "object", "found", "why", "mend"]
    assert all(list(finding) == keys for finding in findings)
    assert [finding for finding in findings if finding["level"] == "failure"] == [
        {
            "area": "slurm",
            "check": "slurm.gres-types",
            "level": "failure",
            "object": "GresTypes",
            "found": "gpu: mig is missing",
            "why": "--gres=mig is refused",
            "mend": "add mig to GresTypes in slurm.conf, then restart slurmctld and every slurmd",
        }
    ]
    levels = [finding["level"] for finding in findings]
    assert document["counts"] == {
        level: levels.count(level) for level in ("ok", "warning", "failure")
    }
    assert all(
        finding["level"] == "ok" or finding["check"] in OUTSIDE | {"slurm.gres-types"}
        for finding in findings
    )


def test_garbage_everywhere(host, run):
    """Whatever is broken, each is found, and there is no traceback."""
    host.sim.fail("nvmlInit_v2", error="UNKNOWN", once=False)
    host.program(host.scontrol, "#!/bin/sh\nexec /bin/sleep 600\n")
    host.cluster = host.folder / "cluster.toml"
    host.cluster.write_bytes(b"\xff\x00[[[")
    (host.folder / "n1/state").write_text("no folder")
    (host.hooks / "slurm-mig-prolog").write_bytes(b"\xff\xfe\x00")
    (host.sim.root / "proc/devices").write_bytes(b"\xff\xff")
    status, out, err = run(host, "--role", "node", "--cluster", host.cluster)
    assert (status, err) == (3, "")
    areas = {line.split()[1] for line in out.splitlines() if line.startswith("failure")}
    assert areas == {"driver", "devices", "state", "hooks", "slurm", "cluster"}
    assert "Traceback" not in out
    assert "internal error" not in out


def test_broken_configuration(host, run):
    """With a configuration that cannot be read Slurm is still asked."""
    host.config.write_text("[[[")
    status, out, err = run(host, "--role", "controller")
    assert (status, err) == (3, "")
    assert re.search(r"^failure  config   configuration: \S+: not valid TOML", out, re.MULTILINE)
    assert re.search(r"^(ok|failure) +slurm    Slurm", out, re.MULTILINE)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_without_root(host):
    """A user sees what a user may, and is told what he did not see."""
    host.acquire(7, "3g.20gb")
    words = ["doctor", "--config", host.config, "--node", "n1", "--role", "node"]
    said = subprocess.run(
        [sys.executable, "-c", AS_USER.format(uid=NOBODY), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
    )
    lines = said.stdout.splitlines()
    assert said.stderr == ""
    assert lines[-2] == "not run as root: what only root can see was not looked at"
    unseen = [line for line in lines if "could not look" in line]
    assert any("ledger: could not look: " in line and "only root" in line for line in unseen)
    assert any(line.startswith("warning  slurm    counts: could not look: ") for line in unseen)
    assert any(line.startswith("ok       driver   GPU 0 ") for line in lines)
    assert not any("internal error" in line for line in lines)


def test_doctor_itself_fails(host, run, monkeypatch):
    """What is no check's failure is one line and exit 1."""

    def broken(_):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(examine, "roles", broken)
    assert run(host) == (
        1,
        "",
        (
            "slurm-mig: doctor cannot look at this host; please report it: ZeroDivisionError: "
            "by\\x0azero\n"
        ),
    )


@pytest.mark.parametrize(("no_color", "coloured"), [(False, True), (True, False)])
def test_at_a_terminal(host, no_color, coloured):
    """At a terminal levels have colour, unless NO_COLOR asks for none."""
    leader, follower = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    env |= {"TERM": "xterm-256color", "COLUMNS": "80"}
    if no_color:
        env["NO_COLOR"] = "1"
    words = ["doctor", "--config", str(host.config), "--node", "n1", "--role", "node"]
    process = subprocess.Popen(
        [sys.executable, "-m", "slurm_mig.cli.main", *words],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env=env,
    )
    os.close(follower)
    said = b""
    try:
        while chunk := os.read(leader, 65536):
            said += chunk
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert process.wait() == 0
    assert (b"PrologFlags" in said, b"\x1b[32m" in said) == (True, coloured)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {
                "pynvml.py": "",
                "pynvml-11.5.3.dist-info/METADATA": "Name: pynvml\nVersion: 11.5.3\n",
            },
            "pynvml.py is in the way of nvidia-ml-py's ",
        ),
        ({"pynvml.py": "raise ImportError('not for this machine')\n"}, "pynvml.py is in the way"),
    ],
)
def test_wrong_pynvml(host, tmp_path, files, said):
    """With another module pynvml in the way everything else is looked at, and that is said."""
    wrong = tmp_path / "wrong"
    for name, text in files.items():
        (wrong / name).parent.mkdir(parents=True, exist_ok=True)
        (wrong / name).write_text(text)
    words = ["doctor", "--config", host.config, "--node", "n1", "--role", "node"]
    ended = subprocess.run(
        [sys.executable, "-m", "slurm_mig.cli.main", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(wrong)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    lines = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (3, "")
    (line,) = (line for line in lines if line.startswith("failure  host     pynvml: "))
    assert said in line
    (line,) = (line for line in lines if line.startswith("failure  driver "))
    assert "Python module pynvml: " in line
    assert "ok       slurm    PrologFlags=Alloc,DeferBatch: as it should be" in lines
