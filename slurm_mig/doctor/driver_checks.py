"""The driver: its library and version, every GPU, MIG mode against the settings."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from slurm_mig import chosen, gpu_users
from slurm_mig.doctor.context import Context
from slurm_mig.doctor.finding import (
    CONFIG,
    DRIVER,
    ON_NODE,
    Check,
    Finding,
    failure,
    ok,
    warning,
)
from slurm_mig.errors import NodeFault
from slurm_mig.families import Family, at_least, family
from slurm_mig.instances import Gpu

_SETUP = "slurm-mig node-setup"


def name(gpu: Gpu) -> str:
    """`GPU 0 (/dev/nvidia0, A100-SXM4-40GB)`: the two numbers differ on some boards."""
    return f"GPU {gpu.index} (/dev/nvidia{gpu.minor}, {gpu.model})"


def _mapped(library: str) -> str:
    """Which file the loaded library is."""
    base = Path(library).name.partition(".so")[0]
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            path = line.partition("/")
            if path[1] and Path(path[2]).name.startswith(f"{base}.so"):
                found = f"/{path[2]}"
                # Others may have loaded another; the one of the settings is named if it is there.
                if "/" not in library or os.path.realpath(library) == found:
                    return found
    return library


def _library(context: Context) -> Iterator[Finding]:
    library = context.settings.driver_library
    what = f"driver library {library}"
    try:
        driver = context.driver
        version = driver.version()
    except NodeFault as error:
        yield failure(
            what,
            str(error).removeprefix(f"{what}: "),
            "no instance can be made or removed, and every MIG job drains the node",
            f"install NVIDIA's driver, or set [driver] library in {context.config_path}",
        )
        return
    yield ok(what, f"{_mapped(library)} loads; driver {version}")


def _family(context: Context, gpu: Gpu) -> Family | None:
    """What the table knows; the architecture is asked only where the model is unknown to it."""
    known = family(gpu.name)
    return known or family(gpu.name, context.driver.architecture(gpu))


def _version(context: Context) -> Iterator[Finding]:
    version = context.driver.version()
    seen: dict[str, list[Gpu]] = {}
    for gpu in context.gpus:
        if gpu.mig is not None and chosen.named(gpu, context.settings.mig_minors):
            seen.setdefault(gpu.model, []).append(gpu)
    for model, gpus in seen.items():
        known = _family(context, gpus[0])
        what = f"driver {version} for {model}"
        update = "install a newer driver, drain and reboot the node"
        if known is None or known.driver is None:
            note = f": {known.note}" if known and known.note else ""
            yield ok(what, f"no least version is known{note}")
        elif not at_least(version, known.driver):
            yield failure(
                what,
                f"older than {known.driver}",
                f"MIG on {known.name} needs it (CUDA {known.cuda})",
                update,
            )
        elif known.advised_driver and not at_least(version, known.advised_driver):
            yield warning(
                what,
                f"older than {known.advised_driver}",
                f"NVIDIA's guide now asks for it on {known.name}",
                update,
            )
        else:
            yield ok(what, f"at least {known.advised_driver or known.driver}")


def _lost(context: Context) -> Iterator[Finding]:
    _ = context.gpus
    for sentence in context.driver.lost:
        what, _, why = sentence.partition(": ")
        yield failure(
            what,
            why,
            "its promises cannot be kept, so every MIG job drains the node",
            "look at dmesg for Xid errors; drain and reboot the node",
        )


def _mode(context: Context) -> Iterator[Finding]:
    minors = context.settings.mig_minors
    gpus = context.gpus
    root = Path(context.settings.driver_root)
    shown = {gpu.minor for gpu in gpus}
    for minor in minors or ():
        if minor not in shown and not context.driver.lost:
            yield failure(
                f"/dev/nvidia{minor}",
                "[gpus] mig names it, but the driver does not show it",
                "its promises cannot be kept, so every MIG job drains the node",
                f"correct [gpus] mig in {context.config_path}, or look at dmesg for Xid errors",
            )
    capable = [gpu for gpu in gpus if gpu.mig is not None]
    if minors is None and not capable:
        there = ", ".join(sorted({gpu.model for gpu in gpus})) or "no GPU at all"
        yield failure(
            "MIG",
            f"no GPU of this node can do it: the driver shows {there}",
            "a node that promises mig to Slurm drains at its first job",
            "take mig out of this node's Gres, in slurm.conf and gres.conf",
        )
        return
    some_on = any(gpu.mig for gpu in capable)
    for gpu in gpus:
        wanted = chosen.named(gpu, minors)
        if gpu.mig is None:
            if wanted and minors is not None:
                yield failure(
                    name(gpu),
                    "cannot do MIG, but [gpus] mig names it",
                    "every MIG job drains the node",
                    f"take {gpu.minor} out of [gpus] mig in {context.config_path}",
                )
            else:
                yield ok(name(gpu), "stays whole: it cannot do MIG")
            continue
        changed = False
        for finding in _mode_of(gpu, wanted, minors is not None, some_on, _family(context, gpu)):
            changed = changed or bool(finding.mend)
            yield finding
        if changed:
            for user in gpu_users.users(context.driver, root, gpu):
                yield warning(
                    name(gpu),
                    f"in use by {user}",
                    "MIG mode cannot be switched while it is",
                    f"stop it: systemctl status {user.pid} says what it belongs to",
                )


def _mode_of(
    gpu: Gpu, wanted: bool, listed: bool, some_on: bool, known: Family | None
) -> Iterator[Finding]:
    what = name(gpu)
    reset = f"stop what uses it, then: nvidia-smi --gpu-reset -i {gpu.index}"
    if wanted and gpu.mig and gpu.mig_pending:
        yield ok(what, "MIG mode on")
    elif wanted and gpu.mig:
        yield warning(
            what,
            "MIG mode on, but switched off from the next reset or reboot on",
            "the node then promises what it cannot make",
            f"nvidia-smi -i {gpu.index} -mig 1",
        )
    elif wanted and gpu.mig_pending:
        yield failure(
            what,
            "MIG mode is on only after a GPU reset",
            "no instance can be made on it until then",
            reset,
        )
    elif wanted and not listed and some_on:
        yield warning(
            what,
            "MIG mode off, while other GPUs have it on",
            'with [gpus] mig = "all" it is passed over and promises nothing',
            f"{_SETUP}; or name the others in [gpus] mig, if it is to stay whole",
        )
    elif wanted:
        lasts = "; it is lost at every reboot on this GPU" if known and not known.persistent else ""
        yield failure(what, "MIG mode off", f"no instance can be made on it{lasts}", _SETUP)
    elif gpu.mig:
        yield warning(
            what,
            "MIG mode on, but [gpus] mig leaves it whole",
            "a job that is given it as --gres=gpu finds no device to compute on",
            f"nvidia-smi -i {gpu.index} -mig 0",
        )
    elif gpu.mig_pending:
        yield warning(
            what,
            "whole now, but MIG mode is on from the next reset or reboot on",
            "[gpus] mig leaves it whole",
            f"nvidia-smi -i {gpu.index} -mig 0",
        )
    else:
        yield ok(what, "stays whole")


CHECKS = (
    Check("driver.library", "driver library", ON_NODE, (CONFIG,), _library),
    Check("driver.version", "driver version", ON_NODE, (CONFIG, DRIVER), _version),
    Check("driver.lost", "lost GPUs", ON_NODE, (CONFIG, DRIVER), _lost),
    Check("driver.mode", "MIG mode", ON_NODE, (CONFIG, DRIVER), _mode),
)
