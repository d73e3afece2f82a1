"""The command line `slurm-mig`: one file per group of commands."""
