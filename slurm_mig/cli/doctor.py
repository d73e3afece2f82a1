"""`slurm-mig doctor`: what is wrong on this host, a line each, with the command that mends it."""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from slurm_mig import clusterfile, configfile
from slurm_mig.cli import terminal
from slurm_mig.doctor.finding import ANYWHERE, Finding, Level
from slurm_mig.errors import NodeFault, SlurmMigError

MUST_BE_MENDED = 3
_STYLE = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "bold red"}


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _print(findings: Sequence[Finding], counts: Counter[Level], roles: frozenset[str]) -> None:
    out = terminal.console()
    width = max((len(finding.area) for finding in findings), default=0)
    for finding in findings:
        out.print(
            Text.assemble(
                (f"{finding.level:<7}", _STYLE[finding.level]),
                f"  {finding.area:<{width}}  {finding.text()}",
            )
        )
    if os.geteuid() != 0:
        out.print("not run as root: what only root can see was not looked at")
    verdict = "something must be mended" if counts[Level.FAILURE] else "nothing must be mended"
    out.print(
        f"{' and '.join(sorted(roles))}: {counts[Level.OK]} ok, "
        f"{_counted(counts[Level.WARNING], 'warning')}, "
        f"{_counted(counts[Level.FAILURE], 'failure')}: {verdict}"
    )


def doctor(arguments: argparse.Namespace) -> int:
    """Look at everything; 3 if something must be mended."""
    # Here, since no other command needs jinja2, 43 ms, and the rest of what is looked with.
    from slurm_mig.doctor.context import Context
    from slurm_mig.doctor.examine import examine
    from slurm_mig.doctor.probe import Probe

    here = os.uname().nodename.partition(".")[0]
    context = Context(
        config=arguments.config,
        cluster=arguments.cluster,
        node=arguments.node or os.environ.get("SLURMD_NODENAME") or here,
        probe=Probe(),
        roles=frozenset(arguments.role or ()),
    )
    try:
        findings = examine(context)
    except SlurmMigError:
        raise
    except Exception as error:
        # No check: those are caught one by one.
        said = f"{type(error).__name__}: {error}"
        raise NodeFault(f"doctor cannot look at this host; please report it: {said}") from error
    finally:
        context.close()
    counts = Counter(finding.level for finding in findings)
    if arguments.json:
        terminal.print_json(
            {
                "version": 1,
                "node": context.node,
                "roles": sorted(context.roles),
                "root": os.geteuid() == 0,
                "findings": [
                    {
                        "area": finding.area,
                        "check": finding.check,
                        "level": str(finding.level),
                        "object": finding.object,
                        "found": finding.found,
                        "why": finding.why,
                        "mend": finding.mend,
                    }
                    for finding in findings
                ],
                "counts": {str(level): counts[level] for level in Level},
            }
        )
    else:
        _print(findings, counts, context.roles)
    return MUST_BE_MENDED if counts[Level.FAILURE] else 0


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what is wrong on this node or controller, and how to mend it",
        description="Look at driver, devices, state, hooks, Slurm and rendered files; change "
        "nothing. Exit 3 if something must be mended.",
    )
    parser.add_argument(
        *("-c", "--config"), type=Path, help=f"configuration file ({configfile.DEFAULT})"
    )
    parser.add_argument(
        "--cluster", type=Path, help=f"the cluster's description ({clusterfile.DEFAULT})"
    )
    parser.add_argument("--node", help="this node's name in Slurm (its host name)")
    parser.add_argument(
        "--role",
        action="append",
        choices=sorted(ANYWHERE),
        help="what this host is, where it cannot be told; may be given twice",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=doctor)
