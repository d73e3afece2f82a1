# make demo    run the main job on a throwaway Slurm cluster with simulated GPUs
# make test    lint, types, and every test, those against the real Slurm included
# make bench   measure the hooks and the packer; writes build/bench.json
# All set-up is done here, on a fresh Debian 12: a virtual environment in .venv and, where the user
# may install packages, Slurm and shellcheck from Debian.

PYTHON ?= python3
BIN := .venv/bin
PACKAGES := slurmctld slurmd slurm-client munge shellcheck gcc libc6-dev
# Two workers: the machines that run this have two cores, and each worker starts its own cluster.
WORKERS ?= 2

.PHONY: demo test lint bench clean packages
.DELETE_ON_ERROR:

demo: .venv/.ready packages
	$(BIN)/slurm-mig demo --directory demo

test: .venv/.ready packages lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

lint: .venv/.ready packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	if command -v shellcheck >/dev/null; then shellcheck prolog/slurm-mig-* epilog/slurm-mig-*; \
	else test -z "$$CI"; fi

bench: .venv/.ready packages
	$(BIN)/python -m bench

# Debian splits ensurepip off; where the user may, install it.
.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv || { test "$$(id -u)" = 0 && apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends python3-venv && $(PYTHON) -m venv .venv; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# Without root or apt the demo runs under the scheduler stand-in and the tests on Slurm are skipped;
# with CI set, a missing part is a failure (tests/conftest.py).
packages:
	@if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && \
	    command -v munged >/dev/null && command -v shellcheck >/dev/null && \
	    command -v cc >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing from Debian: $(PACKAGES)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; \
	else echo "not installed, and only root may: some of $(PACKAGES)"; fi

clean:
	rm -rf build demo .pytest_cache .mypy_cache .ruff_cache
