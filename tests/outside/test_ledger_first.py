"""The first opening of a ledger, by two at once."""

from pathlib import Path

import pytest

from slurm_mig import ledger_file
from slurm_mig.ledger import Ledger


def test_somebody_else_makes_it_while_we_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds no schema, and after the wait for the lock finds one, uses that one."""
    with Ledger(tmp_path) as first:
        assert first.missed(7) == 1
    header = ledger_file.header
    looks = iter([(0, 0)])
    monkeypatch.setattr(
        ledger_file, "header", lambda database: next(looks, None) or header(database)
    )
    with Ledger(tmp_path) as second:
        assert next(looks, None) is None
        assert second.missed(7) == 2
