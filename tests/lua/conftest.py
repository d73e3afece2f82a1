"""One interpreter for each version and test module: the module keeps no state that tests share."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from luajob import VERSIONS, Interpreter, running

from slurm_mig.description import Description

Start = Callable[[Description], Interpreter]


@pytest.fixture(scope="session", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """The name of an interpreter that is installed."""
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param}; as root: apt-get install {request.param}")
    return str(request.param)


@pytest.fixture
def start(version: str) -> Iterator[Start]:
    """Return a function that starts an interpreter for a description; all end with the test."""
    with ExitStack() as stack:
        yield lambda description: stack.enter_context(running(version, description))
