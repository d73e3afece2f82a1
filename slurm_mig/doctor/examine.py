"""Runs the checks: each alone, so that one that cannot be made hides none of the others."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from slurm_mig.doctor import (
    cluster_checks,
    device_checks,
    driver_checks,
    hook_checks,
    host_checks,
    slurm_checks,
    state_checks,
)
from slurm_mig.doctor.context import Context
from slurm_mig.doctor.finding import (
    CLUSTER,
    CONFIG,
    CONTROLLER,
    DRIVER,
    NODE,
    SLURM,
    Check,
    Finding,
    warning,
)
from slurm_mig.errors import SlurmMigError, one_line

#: All checks, in the order in which they are made and shown.
CHECKS: tuple[Check, ...] = (
    *host_checks.CONFIGURATION,
    *driver_checks.CHECKS,
    *device_checks.CHECKS,
    *state_checks.CHECKS,
    *hook_checks.CHECKS,
    *slurm_checks.CHECKS,
    *cluster_checks.CHECKS,
    *host_checks.CHECKS,
)
_MISSING = {
    CONFIG: "the node's configuration cannot be read",
    DRIVER: "the driver does not answer",
    SLURM: "Slurm does not answer",
    CLUSTER: "the cluster's description cannot be read",
}


def roles(context: Context) -> frozenset[str]:
    """What this host is: a node, a controller, or both. Where nothing tells, a node.

    A slurmd alone makes no node of ours: it may be one without GPUs. Nor does a configuration on a
    controller, where it may have come with the other files.
    """
    running = {process.name for process in context.probe.processes()}
    found = set()
    if "slurmctld" in running or _is_slurmctld_host(context):
        found.add(CONTROLLER)
    driver = not context.missing(CONFIG) and context.devices.present()
    if driver or (context.config_path.exists() and ("slurmd" in running or not found)):
        found.add(NODE)
    return frozenset(found) or frozenset({NODE})


def _is_slurmctld_host(context: Context) -> bool:
    if context.missing(SLURM):
        return False
    names = {os.uname().nodename, os.uname().nodename.partition(".")[0]}
    hosts = context.slurm.config.values("SlurmctldHost")
    return bool(names & {host.partition("(")[0] for host in hosts})


def _made(check: Check, context: Context) -> Iterator[Finding]:
    """What one check finds; it cannot be made: a warning."""
    try:
        yield from check.look(context)
    except PermissionError as error:
        yield warning(
            check.title,
            f"could not look: {error.filename or ''} {error.strerror}".replace("  ", " "),
            "only root can see it",
            "run it as root" if os.geteuid() else "",
        )
    except (SlurmMigError, OSError) as error:
        yield warning(check.title, f"could not look: {one_line(error, 400)}", "")
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(error, 300)}"
        yield warning(check.title, f"could not look: internal error, please report it: {said}", "")


def examine(context: Context, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Everything that is found on this host, by area."""
    if not context.roles:
        context.roles = roles(context)
    found: list[Finding] = []
    unmade: dict[str, list[Check]] = {}
    for check in checks:
        if not check.roles & context.roles:
            continue
        lacking = next((need for need in check.needs if context.missing(need)), None)
        if lacking is not None:
            unmade.setdefault(lacking, []).append(check)
            continue
        found += [replace(f, area=check.area, check=check.name) for f in _made(check, context)]
    for need, skipped in unmade.items():
        titles = ", ".join(check.title for check in skipped)
        line = warning(titles, "could not look", _MISSING[need])
        found.append(replace(line, area=need, check=f"{need}.unseen"))
    areas = list(dict.fromkeys(check.area for check in CHECKS))
    return sorted(found, key=lambda finding: areas.index(finding.area))
