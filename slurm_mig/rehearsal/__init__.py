"""Schedulers to rehearse on without a cluster: a real Slurm on loopback, and a stand-in."""
