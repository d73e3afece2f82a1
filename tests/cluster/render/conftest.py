"""The releases of Slurm that rendered files are proven on."""

import pytest

from slurm_mig.rehearsal import slurm_folder
from slurm_mig.rehearsal.cluster import SlurmInstall

#: Debian's suites by Slurm's release; bookworm is this machine's own.
SUITES = {"22.05": "", "24.11": "trixie", "26.05": "forky"}


@pytest.fixture(params=sorted(SUITES))
def install(request: pytest.FixtureRequest, slurm_install: SlurmInstall) -> SlurmInstall:
    """The Slurm of this machine, and those of folders where they exist."""
    suite = SUITES[request.param]
    if not suite:
        return slurm_install
    found = slurm_folder.find(suite)
    if found is None:
        pytest.skip(f"no Slurm of {suite}: python -m slurm_mig.rehearsal.slurm_folder {suite}")
    return found
