"""The other commands, and what all have in common: help, errors, exit codes, a reader that goes."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

from slurm_mig import __version__
from slurm_mig.cli.main import build_parser

COMMANDS = [
    *("status", "profiles", "reconcile", "hooks", "config", "prolog", "epilog", "sim", "demo"),
    *("render", "doctor", "node-setup"),
]
SIM = ["create", "show", "fail", "latency", "clear", "reboot", "reset", "client", "models"]


def test_version(run):
    """The version, and nothing else."""
    said = run("--version")
    assert (said.status, said.out, said.err) == (0, f"slurm-mig {__version__}\n", "")


@pytest.mark.parametrize("words", [[], *([c] for c in COMMANDS), *(["sim", v] for v in SIM)])
def test_help(run, words):
    """Every command and verb explains itself, within a terminal's width."""
    said = run(*words, "--help")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("usage: slurm-mig ")
    # The usage, one sentence at least, and -h.
    assert "show this help message and exit" in said.out
    if words:
        assert re.search(r"\n\n[A-Za-z].{10,}", said.out)


def test_all_commands_are_listed(run):
    """The main help names every command, with a sentence."""
    said = run("--help")
    listed = re.findall(r"^    ([\w-]+)(?:\s+\S|$)", said.out, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize(
    ("words", "last"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["stat"], "argument COMMAND: invalid choice: 'stat' (choose from "),
        (["status", "--jsn"], "unrecognized arguments: --jsn"),
        (["epilog"], "the following arguments are required: job"),
        (["epilog", "7", "--answer"], "unrecognized arguments: --answer"),
        (["hooks"], "the following arguments are required: directory"),
    ],
)
def test_wrong_usage(run, words, last):
    """Wrong usage is exit 2, with the reason last."""
    said = run(*words)
    assert (said.status, said.out) == (2, "")
    assert f"error: {last}" in said.err.splitlines()[-1]


def test_no_abbreviated_options():
    """An abbreviated option would mean another one in a later release."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--vers"])


@pytest.mark.parametrize("command", ["status", "profiles", "reconcile", "config"])
@pytest.mark.parametrize(
    ("text", "status", "line"),
    [
        ("[stat]\n", 2, "{file}: unknown section [stat]; did you mean 'state'?"),
        (
            "[slurm]\nclint = 1\n",
            2,
            "{file}: unknown key 'clint' in [slurm]; did you mean 'client'?",
        ),
        ("= 1\n", 2, "{file}: not valid TOML: Invalid statement (at line 1, column 1)"),
    ],
)
def test_wrong_configuration(run, tmp_path, command, text, status, line):
    """A wrong configuration is one line that names the file, and exit 2, whatever the command."""
    file = tmp_path / "config.toml"
    file.write_text(text)
    file.chmod(0o644)
    said = run(command, "--config", file)
    assert (said.status, said.out) == (status, "")
    assert said.err == f"slurm-mig: {line.format(file=file)}\n"


@pytest.mark.parametrize("command", ["status", "profiles", "reconcile"])
def test_no_driver(admin, program, command):
    """Without a driver: one line, exit 1."""
    library = admin.sim.library
    library.unlink()
    # A program of its own: this process has the library loaded.
    said = program(command, "--config", admin.node.config)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == (
        f"slurm-mig: driver library {library}: {library}: cannot open shared object file: No such "
        "file or directory; install the NVIDIA driver or set [driver] library\n"
    )


def test_missing_configuration(run, tmp_path):
    """A configuration file that was named must be there."""
    said = run("config", "-c", tmp_path / "none.toml")
    assert (said.status, said.out) == (2, "")
    assert said.err == f"slurm-mig: {tmp_path}/none.toml: no such configuration file\n"


# -- config ---------------------------------------------------------------------------------------


def test_config(admin):
    """The effective settings: those of the file, and the defaults of all others."""
    said = admin("config")
    assert (said.status, said.err) == (0, "")
    shown = dict(line.split(" = ", 1) for line in said.out.splitlines())
    written = tomllib.loads(admin.node.config.read_text())
    assert shown["driver_library"] == written["driver"]["library"]
    assert (shown["lock_timeout"], shown["prolog_misses"]) == ("30.0", "5")
    document = json.loads(admin("config", "--json").out)
    assert document["layout"] == {"default": "balanced"}
    assert set(document) == set(shown)


def test_config_folder(admin):
    """Files in config.d win over the main file, in the order of their names."""
    folder = admin.node.config.parent / "config.d"
    folder.mkdir()
    for name, misses in (("20-site.toml", 7), ("10-base.toml", 6)):
        (folder / name).write_text(f"[prolog]\nmisses = {misses}\n")
        (folder / name).chmod(0o644)
    assert json.loads(admin("config", "--json").out)["prolog_misses"] == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root refuses what others can write")
def test_config_that_others_can_write(admin):
    """Root does not read a configuration that others can write: it names a library to load."""
    admin.node.config.chmod(0o666)
    said = admin("config")
    assert said.status == 2
    file = admin.node.config
    assert said.err == (
        f"slurm-mig: {file}: owned by uid 0, mode 0666; root reads its configuration only from "
        f"files that root alone can write: chown root {file} && chmod 0644 {file}\n"
    )


# -- hooks ----------------------------------------------------------------------------------------


def test_hooks(admin, tmp_path):
    """The hooks are written, and what to put in slurm.conf is printed."""
    said = admin("hooks", tmp_path / "made")
    made = tmp_path / "made"
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines() == [
        "# slurm.conf:",
        f"Prolog={made}/slurm-mig-prolog",
        f"TaskProlog={made}/slurm-mig-task-prolog",
        f"Epilog={made}/slurm-mig-epilog",
    ]
    for path in made.iterdir():
        assert os.access(path, os.X_OK)
        subprocess.run(["/bin/sh", "-n", path], check=True)
    text = (made / "slurm-mig-prolog").read_text()
    assert f"\nCONFIG={admin.node.config}\n" in text
    assert f"\nPYTHON={sys.executable}\n" in text


def test_hooks_that_cannot_be_written(admin, tmp_path):
    """A folder that cannot be made is one line."""
    (tmp_path / "file").write_text("")
    said = admin("hooks", tmp_path / "file/hooks")
    assert (said.status, said.out) == (1, "")
    assert said.err == (
        f"slurm-mig: hooks in {tmp_path}/file/hooks: Not a directory ({tmp_path}/file/hooks)\n"
    )


# -- reconcile ------------------------------------------------------------------------------------


def test_reconcile_in_order(admin):
    """Nothing to mend, nothing wrong: exit 0."""
    admin.acquire(7, "3g.20gb")
    admin.slurm_says("7 RUNNING\n")
    said = admin("reconcile", "--node", "n1")
    assert (said.status, said.out, said.err) == (0, "nothing to mend\n", "")


LEFT_ALONE = "left alone, its space is not offered"


def test_reconcile_mends(admin):
    """What a job left is removed, one sentence each; the exit is 0."""
    admin.acquire(7, "3g.20gb")
    admin.foreigner()
    admin.slurm_says("7 COMPLETED\n8 RUNNING\n")
    gpu = admin.sim.gpus()[0].uuid
    said = admin("reconcile", "--node", "n1.example.org")
    assert (said.status, said.err) == (0, "")
    (foreign,) = admin.sim.instances()
    assert said.out.splitlines() == [
        f"mended: job 7: {gpu} 3g.20gb at 4:4: removed (job ended)",
        f"foreign: {gpu} GI {foreign.id} at 0:1: not made by slurm-mig; {LEFT_ALONE}",
    ]


def test_reconcile_degraded(admin):
    """What will not go, and a Slurm that does not answer, make it degraded: exit 3."""
    (uuid,) = admin.acquire(7, "3g.20gb")
    with admin.sim.client(uuid):
        admin.slurm_says("")
        said = admin("reconcile", "--node", "n1", "--json")
    assert said.status == 3
    document = json.loads(said.out)
    assert list(document) == [
        *("version", "mended", "resumed", "drained"),
        *("lost", "stuck", "foreign", "busy", "skipped"),
    ]
    assert len(document["stuck"]) == 1
    (admin.folder / "squeue.answer").unlink()
    said = admin("reconcile", "--node", "n1")
    assert said.status == 3
    assert said.out == (
        "skipped: Slurm was not asked which jobs live: jobs on node n1: Slurm does not answer "
        "within 0.1 s: slurm_load_jobs error: Unable to contact slurm controller (connect "
        "failure); check slurmctld and munge\n"
    )
    said = admin("reconcile", "--offline")
    assert (said.status, said.out) == (0, "nothing to mend\n")
    assert admin("status").status == 3


def test_reconcile_after_a_reboot(admin):
    """After a reboot everything is forgotten without asking Slurm."""
    admin.acquire(7, "3g.20gb")
    admin.sim.reboot()
    said = admin("reconcile", "--offline")
    gpu = admin.sim.gpus()[0].uuid
    assert (said.status, said.out) == (
        0,
        (
            f"mended: job 7: {gpu} 3g.20gb at 4:4: ended by a reboot or a reload of the driver; "
            "forgotten\n"
        ),
    )
    assert "reconcile: outcome=ok mended=1 " in admin.node.log.read_text()


# -- the hooks by hand ----------------------------------------------------------------------------

ANSWER = json.dumps(
    {
        "jobs": [
            {
                "job_id": 7,
                "user_id": 0,
                "batch_flag": True,
                "job_state": ["RUNNING"],
                "nodes": "n1",
                "gres_detail": ["mig:3g.20gb(CNT:1)"],
            }
        ]
    }
)


def test_prolog_and_epilog_by_hand(admin, program):
    """An administrator can run both for one job; the Prolog may be given Slurm's answer."""
    words = ("7", "--node", "n1", "--config", admin.node.config)
    said = program("prolog", *words, "--answer", input=ANSWER)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert [gi.profile for gi in admin.sim.instances()] == ["3g.20gb"]
    said = program("epilog", *words)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert admin.sim.instances() == []


@pytest.mark.parametrize("job", ["x", "7;id", "7.0", "123456789012"])
def test_bad_job_id_by_hand(admin, job):
    """What is no job id is wrong usage."""
    said = admin("epilog", job)
    assert (said.status, said.out) == (2, "")
    assert (
        said.err
        == f"slurm-mig: SLURM_JOB_ID {job!r} is not a job id; Slurm sets it for every epilog\n"
    )


# -- a reader that goes away ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["profiles", "--gpu", "A30-24GB"], ["profiles", "--gpu", "A30-24GB", "--json"]]
)
def test_reader_that_is_gone(words):
    """`| head -1` ends the command quietly, however little it had to say."""
    read, write = os.pipe()
    os.close(read)
    try:
        said = subprocess.run(
            [sys.executable, "-m", "slurm_mig.cli.main", *words],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert (said.returncode, said.stderr) == (1, "")


def test_head():
    """The first line comes out, and nothing on stderr."""
    command = f"{sys.executable} -m slurm_mig.cli.main profiles --gpu A30-24GB --layouts | head -1"
    said = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, check=True
    )
    assert (said.stdout.strip(), said.stderr) == ("A30-24GB", "")
