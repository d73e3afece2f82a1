"""The scripts themselves: what they import, how long they are, what an environment does to them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_mig import configfile
from slurm_mig import hooks as installer
from slurm_mig.errors import NodeFault
from slurm_mig.rehearsal.hookenv import hook_environment
from slurm_mig.rehearsal.hookrun import run_hook

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    ROOT / "prolog/slurm-mig-prolog",
    ROOT / "prolog/slurm-mig-task-prolog",
    ROOT / "epilog/slurm-mig-epilog",
]

#: All that the hook path may import from outside the standard library.
PACKAGES = {"slurm_mig", "filelock", "pynvml"}
#: What costs too much, or has no business in a root process that starts with every job.
FORBIDDEN = {
    *("argparse", "asyncio", "click", "concurrent.futures", "difflib", "email", "http"),
    *("importlib.metadata", "jinja2", "multiprocessing", "numpy", "pydantic", "pyslurm"),
    *("requests", "rich", "ssl", "typer", "unittest", "urllib.request", "xml", "yaml"),
}
#: Also too dear, but brought by those two whatever we do: part of their price, and by nobody else.
FILELOCK_BRINGS, PYNVML_BRINGS = {"logging"}, {"subprocess"}

_MODULES = """
import sys
sys.path += sys.argv[1].split(":")
from slurm_mig.{which} import main
status = main(sys.argv[2:])
import json
print(json.dumps([status, sorted(sys.modules)]))
"""


def modules(hooks, which, arguments):
    """The modules that a real run of a hook's Python has imported when it ends, by name."""
    text = (hooks.node.prolog if which == "prolog" else hooks.node.epilog).read_text()
    values = dict(re.findall(r"^([A-Z_]+)='?(.*?)'?$", text, re.MULTILINE))
    made = subprocess.run(
        [
            *(values["PYTHON"], "-I", "-S", "-c", _MODULES.format(which=which)),
            *(values["PYTHON_PATH"], values["CONFIG"], values["RUN"], *arguments),
        ],
        env=hook_environment(which, node="n1", job_id=7),
        input=(hooks.folder / "7.json").read_bytes(),
        capture_output=True,
        check=True,
    )
    status, names = json.loads(made.stdout)
    assert (status, made.stderr) == (0, b"")
    return set(names)


def test_import_budget(hooks):
    """A Prolog that serves and an Epilog that removes import what is listed here, and no more."""
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    served = modules(hooks, "prolog", ["answer"])
    assert hooks.lives() == [("3g.20gb", "4:4")]
    removed = modules(hooks, "epilog", [])
    assert hooks.lives() == []
    for names in (served, removed):
        tops = {name.partition(".")[0] for name in names}
        foreign = {top for top in tops if top not in sys.stdlib_module_names} - {"__main__"}
        assert foreign - {"_virtualenv"} <= PACKAGES | {"cython_runtime"}
        assert names & FORBIDDEN == set()
        assert [name for name in names if name.startswith(("slurm_mig.cli", "slurm_mig.sim"))] == []


def test_only_they_bring_the_heavy_ones():
    """Without filelock and pynvml the hook path imports neither logging nor subprocess."""
    code = (
        "import sys\n"
        f"sys.path += {installer._python_path()!r}.split(':')\n"
        "import types\n"
        "fake = types.ModuleType('fake')\n"
        "fake.FileLock = fake.Timeout = object\n"
        "fake.__getattr__ = lambda name: 0\n"
        "sys.modules['filelock'] = sys.modules['pynvml'] = fake\n"
        "import slurm_mig.prolog, slurm_mig.epilog, json\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    made = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True, text=True
    )
    dear = FORBIDDEN | FILELOCK_BRINGS | PYNVML_BRINGS
    assert set(json.loads(made.stdout)) & dear == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short(script):
    """At most 40 lines that do something, comments and settings aside."""
    lines = script.read_text().splitlines()
    settings = range(
        next(n for n, line in enumerate(lines) if line.startswith("# -- settings")),
        lines.index("# -- end of settings --"),
    )
    doing = [
        line
        for number, line in enumerate(lines)
        if number not in settings and line.strip() and not line.lstrip().startswith("#")
    ]
    assert len(doing) <= 40


def test_shellcheck(hooks):
    """The linter finds nothing, neither in the sources nor in the installed hooks."""
    program = shutil.which("shellcheck")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("shellcheck is not installed")
        pytest.skip("shellcheck is not installed")
    installed = [hooks.node.prolog, hooks.node.task_prolog, hooks.node.epilog]
    made = subprocess.run(
        [program, *SCRIPTS, *installed], capture_output=True, text=True, check=False
    )
    assert (made.stdout, made.returncode) == ("", 0)


def test_settings_are_quoted(hooks, tmp_path):
    """Paths with blanks, quotes and what sh would expand reach the hooks as they are."""
    strange = tmp_path / 'it\'s $(id) `id` "here"'
    strange.mkdir()
    config = strange / "config.toml"
    config.write_text(f"[state]\nrun_directory = '''{strange}/run'''\n")
    config.chmod(0o644)
    paths = installer.install(strange / "hooks", configfile.load(config), config)
    (strange / "run/jobs/7").mkdir(parents=True)
    (strange / "run/jobs/7/env").write_text("export A=b\n")
    run = run_hook(paths[1], {"SLURM_JOB_ID": "7"})
    assert (run.rc, run.output) == (0, "export A=b\n")


def test_installed_again(hooks):
    """Installing again gives the same files, and leaves no draft."""
    folder = hooks.node.prolog.parent
    before = {path.name: path.read_text() for path in folder.iterdir()}
    installer.install(folder, hooks.node.settings, hooks.node.config)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o755"}


def test_cannot_be_installed(hooks, tmp_path):
    """A folder that cannot be written is one sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeFault) as caught:
        installer.install(tmp_path / "file", hooks.node.settings, hooks.node.config)
    assert str(caught.value) == f"hooks in {tmp_path}/file: File exists ({tmp_path}/file)"


def test_hooks_of_an_older_configuration(hooks):
    """Hooks installed for another run directory say so, and what to run."""
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    run_directory = str(hooks.node.run_directory)
    hooks.edit(hooks.node.config, run_directory, f"{run_directory}2")
    run = hooks.prolog()
    assert (run.rc, run.output) == (
        1,
        (
            f"slurm-mig: the hooks were installed for [state] run_directory {run_directory}, the "
            f"configuration says {run_directory}2; run: slurm-mig hooks\n"
        ),
    )
    assert hooks.sim.counts().made == 0


def test_hostile_names_in_the_environment(hooks, tmp_path):
    """Variables that steer sh, the loader or Python have no effect on a hook."""
    evil = tmp_path / "evil"
    evil.mkdir()
    trap = f"open({str(tmp_path / 'caught')!r}, 'w')"
    for name in ("json.py", "sitecustomize.py", "pynvml.py", "filelock.py"):
        (evil / name).write_text(trap)
    (evil / "env.sh").write_text(f": >{tmp_path}/caught\n")
    for name in ("printf", "cat", "scontrol", "python3"):
        (evil / name).write_text(f"#!/bin/sh\n: >{tmp_path}/caught\n")
        (evil / name).chmod(0o755)
    env = {
        "PATH": str(evil),
        "ENV": str(evil / "env.sh"),
        "BASH_ENV": str(evil / "env.sh"),
        "IFS": "0123456789/",
        "PYTHONPATH": str(evil),
        "PYTHONSTARTUP": str(evil / "json.py"),
        "PYTHONHOME": str(evil),
        "PYTHONINSPECT": "1",
        "TMPDIR": "/nonexistent",
    }
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    for which in ("prolog", "epilog"):
        run = hooks.run(which, env=env)
        assert (run.rc, run.output) == (0, "")
    assert not (tmp_path / "caught").exists()
    assert hooks.sim.counts() == (1, 1, 0, 0)
