"""Folders of ours that others could put something else in the place of, or have put."""

import os
from pathlib import Path

import pytest

from slurm_mig.errors import NodeFault
from slurm_mig.ledger import Ledger
from slurm_mig.lock import Locks


def test_state_below_a_folder_of_everybody(tmp_path: Path) -> None:
    """Where anybody may rename the folder above, nothing is made and nothing trusted."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    state = tmp_path / "open" / "state"
    with pytest.raises(NodeFault, match="so others can put another in its place"):
        Ledger(state)
    assert os.listdir(tmp_path / "open") == []  # noqa: PTH208 - also what begins with a dot


def test_lock_folder_that_is_a_link(tmp_path: Path) -> None:
    """A lock folder that leads elsewhere is refused, and nothing is made where it leads."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "locks").symlink_to(elsewhere)
    refused = pytest.raises(NodeFault, match=r"lock folder \S+/locks: is no directory; move it")
    with refused, Locks(tmp_path, 0.05, 0.05).host():
        pass
    assert list(elsewhere.iterdir()) == []
