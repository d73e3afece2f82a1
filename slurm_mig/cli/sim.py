"""`slurm-mig sim`: make, look at and steer a simulated driver."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from slurm_mig.simulator.handle import Simulation
from slurm_mig.simulator.models import all_models
from slurm_mig.simulator.records import ERRORS


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `sim` and its verbs; each sets `func`, from the namespace to the exit status."""
    parser = subparsers.add_parser(
        "sim",
        help="make and steer a simulated driver",
        description="A simulated NVIDIA driver: libnvidia-ml.so.1 and the files of the real one. "
        "It has GPUs of any model with MIG, and needs none.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_create(verbs)
    show = _verb(verbs, "show", _show, "show GPUs, instances, clients and what is armed")
    show.add_argument("--json", action="store_true", help="as JSON")
    _add_fail(verbs)
    latency = _verb(verbs, "latency", _latency, "make a function take time")
    latency.add_argument("function", metavar="FUNCTION", help="as nvmlDeviceCreateGpuInstance")
    latency.add_argument("milliseconds", type=_milliseconds, metavar="MS")
    _verb(verbs, "clear", _clear, "disarm all faults and latencies")
    _verb(verbs, "reboot", _reboot, "reboot the node: instances and clients are gone")
    reset = _verb(verbs, "reset", _reset, "reset one GPU: activates a pending MIG mode")
    reset.add_argument("gpu", type=int, metavar="INDEX")
    client = _verb(
        verbs, "client", _client, "use a MIG device (or GPU) as a CUDA program would, until ended"
    )
    client.add_argument("uuid", metavar="UUID", help="MIG-… or GPU-…")
    text = "list the GPUs that can be simulated"
    models = verbs.add_parser("models", help=text, description=text)
    models.set_defaults(func=_models)


def _verb(verbs: Any, name: str, func: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--dir",
        dest="directory",
        type=Path,
        default=Path(os.environ.get("SLURM_MIG_SIM", ".")),
        metavar="DIR",
        help="the simulation's folder (default: $SLURM_MIG_SIM, else the current folder)",
    )
    parser.set_defaults(func=func)
    return parser


def _add_create(verbs: Any) -> None:
    text = "make a simulation in a folder"
    create = verbs.add_parser("create", help=text, description=text)
    create.set_defaults(func=_create)
    create.add_argument("directory", type=Path, metavar="DIR", help="absent or empty")
    create.add_argument(
        "--gpu",
        action="append",
        required=True,
        metavar="MODEL[:COUNT[:GI-IDS]]",
        help="as A100-SXM4-40GB:2; may be given more than once ('slurm-mig sim models' lists them)",
    )
    create.add_argument(
        "--gi-ids",
        metavar="SCHEME",
        help="identity8 or swapped8: how the GPUs number their instances (both occur)",
    )
    create.add_argument("--mig-off", action="store_true", help="begin with MIG mode off")
    create.add_argument(
        "--fresh-uuids",
        action="store_true",
        help="an instance made again has another UUID (default: the same)",
    )
    create.add_argument(
        "--privileged-uid",
        type=int,
        default=None,
        metavar="UID",
        help="who may create and destroy (default: you)",
    )


def _add_fail(verbs: Any) -> None:
    fail = _verb(verbs, "fail", _fail, "make a call of a function fail")
    fail.add_argument(
        "function", metavar="FUNCTION", help="as nvmlGpuInstanceDestroy; any: all, counted together"
    )
    fail.add_argument("--nth", type=int, default=1, metavar="N", help="the N-th call from now on")
    fail.add_argument("--always", action="store_true", help="and all calls after it")
    fail.add_argument(
        "--error",
        default="IN_USE",
        metavar="ERROR",
        help=f"one of {', '.join(ERRORS)} (KILL kills the caller); default IN_USE",
    )
    fail.add_argument("--after", action="store_true", help="do what is asked, then fail")


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 3_600_000:
        raise ValueError(text)
    return value


def _create(arguments: argparse.Namespace) -> int:
    made = Simulation.create(
        arguments.directory,
        arguments.gpu,
        gi_ids=arguments.gi_ids,
        mig_enabled=not arguments.mig_off,
        uuid_mode="fresh" if arguments.fresh_uuids else "stable",
        privileged_uid=arguments.privileged_uid,
    )
    sys.stdout.write(made.show())
    print(f"library: {made.library}")
    print(f"root:    {made.root}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    found = Simulation.open(arguments.directory)
    if arguments.json:
        print(json.dumps(_as_json(found), indent=2))
    else:
        sys.stdout.write(found.show())
    return 0


def _as_json(found: Simulation) -> dict[str, Any]:
    """The stable schema of `show --json`."""
    gpus = []
    for gpu, model, scheme in zip(found.gpus(), found.models, found.schemes, strict=True):
        gpus.append(
            {
                **gpu._asdict(),
                "gi_ids": scheme,
                "inferred": list(model.inferred),
                "assumed": list(model.assumed),
                "instances": [
                    {
                        "id": gi.id,
                        "profile": gi.profile,
                        "profile_id": gi.profile_id,
                        "placement": str(gi.placement),
                        "compute": [
                            {
                                "id": ci.id,
                                "profile_id": ci.profile_id,
                                "placement": str(ci.placement),
                                "uuid": ci.uuid,
                            }
                            for ci in gi.compute
                        ],
                    }
                    for gi in found.instances()
                    if gi.gpu == gpu.gpu
                ],
                "clients": [
                    {"pid": client.pid, "gi": client.gi, "ci": client.ci}
                    for client in found.clients()
                    if client.gpu == gpu.gpu
                ],
            }
        )
    return {
        "directory": str(found.directory),
        "library": str(found.library),
        "root": str(found.root),
        "boot_id": found.boot_id(),
        "gpus": gpus,
        "instances": found.counts()._asdict(),
        "compute_instances": found.counts(compute=True)._asdict(),
        "calls": found.calls(),
        "armed": found.faults(),
    }


def _fail(arguments: argparse.Namespace) -> int:
    Simulation.open(arguments.directory).fail(
        arguments.function,
        arguments.nth,
        once=not arguments.always,
        error=arguments.error,
        after=arguments.after,
    )
    return 0


def _latency(arguments: argparse.Namespace) -> int:
    found = Simulation.open(arguments.directory)
    found.latency(arguments.function, arguments.milliseconds / 1000)
    return 0


def _clear(arguments: argparse.Namespace) -> int:
    Simulation.open(arguments.directory).clear_faults()
    return 0


def _reboot(arguments: argparse.Namespace) -> int:
    Simulation.open(arguments.directory).reboot()
    return 0


def _reset(arguments: argparse.Namespace) -> int:
    Simulation.open(arguments.directory).reset_gpu(arguments.gpu)
    return 0


def _client(arguments: argparse.Namespace) -> int:
    found = Simulation.open(arguments.directory)
    # Ended by a signal, the kernel and the next look at the state do the rest.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    found.attach(arguments.uuid, os.getpid())
    print(f"process {os.getpid()} uses {arguments.uuid}; end it to let go", flush=True)
    while True:
        signal.pause()


def _models(arguments: argparse.Namespace) -> int:
    del arguments
    for model in all_models():
        profiles = " ".join(profile.name for profile in model.profiles) or "no MIG"
        print(f"{model.key}: {profiles}")
        for line in model.trust():
            print(f"  {line}")
    return 0
