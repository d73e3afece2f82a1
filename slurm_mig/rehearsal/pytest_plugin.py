"""pytest fixtures to run hooks and whole jobs without a cluster, for anybody's tests.

They come with the package: where slurm-mig is installed, `slurm_mig_standin` is there. This file
is loaded in every pytest run of such an environment, so it imports nothing until a fixture is
used; `-p no:slurm_mig` turns it off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from slurm_mig.rehearsal.standin import Standin, StandinNode


class StandinFactory(Protocol):
    """What the fixture `slurm_mig_standin` is."""

    def __call__(
        self, nodes: Sequence[StandinNode | str] = ..., *, folder: Path | None = ..., **options: Any
    ) -> Standin:
        """Start a stand-in."""


@pytest.fixture
def slurm_mig_standin(tmp_path: Path) -> Iterator[StandinFactory]:
    r"""A function that starts a scheduler stand-in; all are closed when the test ends.

    Called with nodes (`StandinNode`, or just names) and the options of
    `slurm_mig.rehearsal.standin.Standin`; without nodes there is one, n1. The folder is a new one
    under `tmp_path` unless `folder` names another. For example:

        def test_prolog_says_hello(slurm_mig_standin, tmp_path):
            hook = tmp_path / "prolog"
            hook.write_text("#!/bin/sh\necho hello\n")
            hook.chmod(0o755)
            slurm = slurm_mig_standin(prolog=hook, release="24.11")
            job = slurm.wait(slurm.sbatch("exit 0"))
            assert job.hooks("prolog")[0].output == "hello\n"

    When the test ends, however it ends, no job, hook or daemon of a stand-in is left.
    """
    from slurm_mig.rehearsal.standin import Standin, StandinNode

    started: list[Standin] = []

    def start(
        nodes: Sequence[StandinNode | str] = ("n1",), *, folder: Path | None = None, **options: Any
    ) -> Standin:
        configs = [StandinNode(node) if isinstance(node, str) else node for node in nodes]
        standin = Standin(folder or tmp_path / f"standin{len(started)}", configs, **options)
        started.append(standin)
        return standin

    try:
        yield start
    finally:
        for standin in started:
            standin.close()
