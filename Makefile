# make demo    run the main job on a throwaway Slurm cluster with simulated GPUs
# make test    lint, types, and every test, those against the real Slurm included
# make soak    the tests of the guarantees with all their numbers, hours; SEED=N tries one seed again
# make coverage  whether tests run every branch of partitioner, ledger, locks and packing
# make bench   measure the hooks and the packer; writes build/bench.json
# All set-up is done here, on a fresh Debian 12: a virtual environment in .venv and, where the user
# may install packages, Slurm and the tests' tools from Debian. For the tests also two folders with
# newer releases of Slurm, made once in .cache/debootstrap (a minute).

PYTHON ?= python3
# Two workers: the machines that run this have two cores, and each worker starts its own cluster.
WORKERS ?= 2
# More for pytest: make test TESTS='tests/ground -k layout'
TESTS ?=

BIN := .venv/bin
PACKAGES := slurmctld slurmd slurm-client munge gcc libc6-dev
PROGRAMS := slurmctld slurmd scontrol munged cc
TOOLS := shellcheck debootstrap lua5.1 lua5.4
test lint folders: PACKAGES += $(TOOLS)
test lint folders: PROGRAMS += $(TOOLS)
# The simulated driver is built once, and inside this folder.
export SLURM_MIG_CACHE := $(CURDIR)/.cache

.PHONY: demo test soak lint coverage bench clean packages folders
.DELETE_ON_ERROR:
.NOTPARALLEL: # two apt-get at once would lock each other out

demo: .venv/.package packages
	$(BIN)/slurm-mig demo --directory demo

# --dist loadgroup: tests that share a cluster name a group, and run on one worker.
test: .venv/.dev packages lint folders
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --durations 10 $(TESTS)

# Which tests: those marked so; with how many kills, faults and steps: tests/guarantees/effort.py.
soak: export SOAK := 1
soak: .venv/.dev packages
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m soak --timeout 0 --durations 10 $(TESTS)

lint: .venv/.dev packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@if command -v shellcheck >/dev/null; then \
	    echo shellcheck prolog/* epilog/* .ci/run; shellcheck prolog/* epilog/* .ci/run; \
	elif [ "$$CI" = true ]; then echo "no shellcheck: install it" >&2; exit 1; \
	else echo "no shellcheck: the hooks are not linted"; fi

# Which modules: pyproject.toml. Fails under 100 %. Only tests that run them in their own process:
# a hook that is run as slurmd runs it has no environment that could tell it to measure itself.
coverage: export COVERAGE_FILE := $(CURDIR)/build/coverage/data
coverage: .venv/.dev packages
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/coverage run -m pytest -q -n $(WORKERS) --dist loadgroup \
	    tests/ground tests/core tests/outside tests/guarantees/clock tests/guarantees/disk \
	    tests/guarantees/faults $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: .venv/.package packages
	$(BIN)/python -m bench

# Debian splits ensurepip off; where the user may, install it. A .venv left half made is made anew.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: 3.11 or later is needed; say PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; } || \
	  { echo "$(PYTHON) cannot make a .venv; as root: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv

.venv/.package: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/.dev: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch .venv/.package $@

# Without root or apt the demo runs under the scheduler stand-in and the tests on Slurm are skipped;
# with CI=true a missing part is a failure (tests/conftest.py). While Debian's packages are set up,
# policy-rc.d keeps them from starting their daemons: the cluster here has its own.
packages:
	@missing=; for program in $(PROGRAMS); do \
	    PATH="$$PATH:/usr/sbin:/sbin" command -v $$program >/dev/null || missing="$$missing $$program"; \
	done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing from Debian: $(PACKAGES)"; \
	    policy=/usr/sbin/policy-rc.d; \
	    if [ -e $$policy ]; then policy=; \
	    else trap 'rm -f $$policy' EXIT; trap 'exit 1' HUP INT TERM; \
	        printf '#!/bin/sh\nexit 101\n' >$$policy; chmod 755 $$policy; fi; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null || \
	      echo "could not be installed; going on without:$$missing"; \
	else echo "not here, and only root may install them:$$missing"; fi

# Slurm 24.11 and 26.05 of Debian 13 and testing; the tests that need them are skipped without.
folders: .venv/.dev packages
	@$(BIN)/python -m slurm_mig.rehearsal.slurm_folder trixie forky || \
	  echo "going on without: tests on the releases that are not here will be skipped"

clean:
	rm -rf build demo .pytest_cache .mypy_cache .ruff_cache
