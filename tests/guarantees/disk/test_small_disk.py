"""A real disk without room, and a read-only one, under the ledger and under the run directory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PATHS = [str(HERE.parents[1] / name) for name in ("core", "hooks", "ground")]


@pytest.fixture(scope="module")
def unshare() -> str:
    """The program that makes a mount namespace, where it may."""
    program = shutil.which("unshare")
    if program is None or subprocess.run([program, "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own")
    return program


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_small_disk(unshare, tmp_path, figures, what):
    """With any room, or none: served or one reason, no leak; with room again one run mends it."""
    env = {**os.environ, "PYTHONPATH": ":".join([*PATHS, str(HERE.parent), str(HERE)])}
    program = [sys.executable, HERE / "small_disk.py", tmp_path / "node", what]
    (tmp_path / "node").mkdir(mode=0o755)
    run = subprocess.run(
        [unshare, "-m", *program], env=env, capture_output=True, text=True, timeout=110
    )
    assert run.returncode == 0, run.stderr
    outcomes = json.loads(run.stdout)
    for folder in ("state", "run"):
        assert outcomes[f"{folder} prolog 1"] > 0
        # With twelve pages there is room for all that a hook writes.
        assert what == "read-only" or outcomes[f"{folder} prolog 0"] > 0
    assert outcomes["state epilog 1"] > 0
    figures("disk", full_or_read_only=sum(outcomes.values()))
