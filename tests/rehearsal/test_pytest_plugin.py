"""The plugin that other people's tests load."""

import os
import subprocess
import sys
from pathlib import Path

TEST = """
import subprocess

def test_hello(slurm_mig_standin, tmp_path):
    hook = tmp_path / "prolog"
    hook.write_text("#!/bin/sh\\necho hello\\n")
    hook.chmod(0o755)
    slurm = slurm_mig_standin(prolog=hook)
    job = slurm.wait(slurm.sbatch("exit 0"))
    assert job.hooks("prolog")[0].output == "hello\\n"
    slurm.submit(["sleep", "600"])
    (tmp_path.parent / "conf").write_text(str(slurm.conf))
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder of its own, with nothing of this project's settings."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [*words, "--rootdir", str(folder), *options, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)


def test_fixture_is_there_for_other_peoples_tests(tmp_path: Path) -> None:
    """An installed slurm-mig is enough: no conftest, no import; nothing is left running."""
    (tmp_path / "test_it.py").write_text(TEST)
    done = run(tmp_path, f"--basetemp={tmp_path}/base")
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    conf = next((tmp_path / "base").rglob("conf")).read_text()
    from slurm_mig.rehearsal.processes import marked

    assert marked({"SLURM_CONF": conf}) == []


def test_fixture_can_be_turned_off(tmp_path: Path) -> None:
    """With `-p no:slurm_mig` pytest runs as if slurm-mig were not installed."""
    (tmp_path / "test_it.py").write_text(TEST)
    done = run(tmp_path, "-p", "no:slurm_mig")
    assert "fixture 'slurm_mig_standin' not found" in done.stdout


def test_loading_the_plugin_loads_nothing_of_the_stand_in() -> None:
    """The plugin is in every pytest run of its environment, so it costs next to nothing."""
    code = (
        "import sys, pytest; before = set(sys.modules); import slurm_mig.rehearsal.pytest_plugin; "
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ["slurm_mig", "slurm_mig.rehearsal", "slurm_mig.rehearsal.pytest_plugin"]
    assert done.stdout == f"{loaded}\n"
