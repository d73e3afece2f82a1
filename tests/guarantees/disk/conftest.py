"""A node with jobs whose ledger the tests spoil."""

from collections.abc import Callable

import pytest
from partitioning import Site
from ruining import Ruin


@pytest.fixture
def ruin(new_site: Callable[..., Site]) -> Ruin:
    """Jobs 7 and 8 on two GPUs, beside an instance of somebody else's."""
    return Ruin(new_site("A100-SXM4-40GB:2", epilog={"budget": 0.2}))
