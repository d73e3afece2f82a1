"""Dynamic NVIDIA MIG under Slurm."""

__version__ = "0.1.0"
