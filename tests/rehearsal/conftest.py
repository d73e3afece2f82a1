"""What the tests of the stand-in share: hooks written on the spot, and a look for leftovers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rehearsing import HookWriter, children


@pytest.fixture(autouse=True)
def no_children_left() -> Iterator[None]:
    """Fail a test that leaves a child process or an open descriptor behind."""
    before = children()
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not used
    yield
    assert children() - before == set()
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208


@pytest.fixture
def hook(tmp_path: Path) -> HookWriter:
    """Write an executable sh hook: name and body in, path out."""

    def write(name: str, body: str, shebang: str = "#!/bin/sh") -> Path:
        path = tmp_path / name
        path.write_text(f"{shebang}\nPATH=/usr/bin:/bin\nD={tmp_path}\n{body}\n")
        path.chmod(0o755)
        return path

    return write
