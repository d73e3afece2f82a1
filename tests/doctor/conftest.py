"""A node to look at: simulated GPUs, commands that say what a test wants, a /proc of its own."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from patient import Patient


@pytest.fixture
def tmp_path():
    """A folder that every user can look into, as on a node; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="doctor-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a host: `make("A100-SXM4-40GB:2", layout="small")`."""
    if os.geteuid() != 0:
        pytest.skip("doctor wants root's files to be root's: needs root")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    patients = []

    def make_one(*gpus, **options):
        patient = Patient(tmp_path, gpus or ("A100-SXM4-40GB",), **options)
        patients.append(patient)
        return patient

    yield make_one
    for patient in patients:
        patient.close()


@pytest.fixture
def host(make):
    """One A100-SXM4-40GB with the balanced layout, hooks installed, Slurm set as documented."""
    return make()


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """One build of the driver for all test processes, inside the repository."""
    cache = Path(__file__).parents[2] / ".cache"
    if "SLURM_MIG_CACHE" not in os.environ:
        monkeypatch.setenv("SLURM_MIG_CACHE", str(cache))
