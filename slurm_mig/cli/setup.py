"""`slurm-mig node-setup`: MIG mode as the node's settings say, one line for each GPU."""

import argparse
import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import Any

from slurm_mig import configfile, node_setup
from slurm_mig.cli import terminal
from slurm_mig.errors import SlurmMigError
from slurm_mig.log import Log
from slurm_mig.nvml import Driver

Subparsers = Any  # argparse's type for it is private


def setup(arguments: argparse.Namespace) -> int:
    """Turn MIG mode on where it should be; print what was done and what must be done by hand."""
    settings = configfile.load(arguments.config)
    target = settings.log_to
    log = Log(target, "node-setup", by=f"uid {os.getuid()}")
    try:
        with Driver(settings.driver_library) as driver:
            findings = node_setup.setup(settings, driver, dry_run=arguments.dry_run)
    except SlurmMigError as error:
        if not arguments.dry_run:
            log.note(reason=str(error))
            log.write("failed", failed=True)
        raise
    status = node_setup.outcome(findings)
    counts = Counter(finding.state.replace(" ", "_") for finding in findings)
    if not arguments.dry_run:
        log.note(**counts)
        log.write({0: "ok", 1: "failed"}.get(status, "degraded"), failed=status != 0)
    if arguments.json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        terminal.print_json({"version": 1, "dry_run": arguments.dry_run, "gpus": rows})
    else:
        for finding in findings:
            print(finding)
    return status


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    text = "turn MIG mode on where the node's settings say so"
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "node-setup",
        help=text,
        description=f"{text[0].upper()}{text[1:]}; instances stay as they are.",
    )
    parser.add_argument(
        *("-c", "--config"), type=Path, help=f"configuration file ({configfile.DEFAULT})"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, change nothing"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=setup)
