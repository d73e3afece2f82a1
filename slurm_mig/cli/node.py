"""Commands about the node they run on: status, profiles, reconcile, hooks; the hooks by hand."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from slurm_mig import chosen, configfile, drained, epilog, hook, hooks, prolog, slurm, table
from slurm_mig.cli import picture, terminal
from slurm_mig.errors import NodeFault, SlurmMigError
from slurm_mig.instances import Gpu
from slurm_mig.layouts import layout
from slurm_mig.log import Log
from slurm_mig.nvml import Driver
from slurm_mig.profiles import Geometry, GiProfile
from slurm_mig.settings import Settings
from slurm_mig.sight import GpuView

Subparsers = Any  # argparse's type for it is private

DEGRADED = 3

#: What the table of GPUs calls the numbers of a profile, where one may be unknown.
_TABLE_NAMES = {
    "memory_mb": "memory_size_mb",
    "multiprocessors": "multiprocessor_count",
    "copy_engines": "copy_engine_count",
    "decoders": "decoder_count",
    "encoders": "encoder_count",
    "jpegs": "jpeg_count",
    "ofas": "ofa_count",
}


def _quiet(operation: str) -> Log:
    """The log of a command that a person runs; written only where it changes something."""
    return Log("syslog", operation, by=f"uid {os.getuid()}")


def offered(promises: Mapping[str, int]) -> str:
    """Counts as gres.conf and slurm.conf want them: `3g.20gb:2,1g.5gb:4`."""
    return ",".join(f"{profile}:{count}" for profile, count in promises.items())


def _instances(view: GpuView) -> list[dict[str, Any]]:
    rows = []
    for gi, owner in view.instances:
        profile = view.geometry.profile_by_id(gi.profile_id) if view.geometry else None
        rows.append(
            {
                "profile": profile.name if profile else None,
                "profile_id": gi.profile_id,
                "placement": str(gi.placement),
                "gi": gi.id,
                "cis": [ci.id for ci in gi.cis],
                "uuids": [ci.uuid for ci in gi.cis],
                "job": owner.job if owner else None,
                "uid": owner.uid if owner else None,
                "state": owner.state if owner else "foreign",
                "reason": owner.reason if owner else "",
            }
        )
    rows += [
        {
            "profile": entry.wish.profile,
            "profile_id": entry.wish.profile_id,
            "placement": str(entry.wish.placement),
            "gi": entry.gi,
            "cis": list(entry.cis),
            "uuids": list(entry.uuids),
            "job": entry.job,
            "uid": entry.uid,
            "state": picture.absent_state(entry),
            "reason": entry.reason or "in the ledger, not on the GPU",
        }
        for entry in view.pending
    ]
    return rows


def _fault(gpus: Sequence[Gpu], settings: Settings) -> str:
    """Why nothing can be made on this node, as a Prolog would say; "" if it can."""
    try:
        chosen.partitioned(gpus, (), settings.mig_minors)
    except NodeFault as error:
        return str(error)
    return ""


def status(arguments: argparse.Namespace) -> int:
    """Print every GPU with what lives on it, and what the node promises."""
    settings = configfile.load(arguments.config)
    with hook.partitioner(settings, _quiet("status")) as core:
        views = core.survey()
        promises = dict(core.promises())
        lost = core.lost
    fault = "" if lost else _fault([view.gpu for view in views], settings)
    rows = {view.gpu.uuid: _instances(view) for view in views}
    odd = [r for found in rows.values() for r in found if r["state"] not in ("live", "foreign")]
    outcome = DEGRADED if odd or lost or fault else 0
    if arguments.json:
        terminal.print_json(
            {
                "version": 1,
                "gpus": [
                    {
                        "index": view.gpu.index,
                        "uuid": view.gpu.uuid,
                        "model": view.gpu.model,
                        "mig": view.gpu.mig,
                        "whole": view.whole,
                        "memory_slices": view.geometry.memory_slices if view.geometry else None,
                        "instances": rows[view.gpu.uuid],
                    }
                    for view in views
                ],
                "lost_gpus": lost,
                "fault": fault,
                "promises": promises,
            }
        )
        return outcome
    out = terminal.console()
    for view in views:
        mode = {True: "", False: "  MIG mode off", None: "  cannot do MIG"}[view.gpu.mig]
        if view.whole:
            mode = "  stays whole, but is in MIG mode" if view.gpu.mig else "  stays whole"
        out.print(
            Text.assemble(
                (f"GPU {view.gpu.index}", "bold"), f"  {view.gpu.model}  {view.gpu.uuid}{mode}"
            )
        )
        if view.geometry is not None and (not view.whole or rows[view.gpu.uuid]):
            out.print(picture.draw(view.geometry, picture.blocks(view)))
    lines = terminal.table("GPU", "PROFILE", "PLACEMENT", "GI", "JOB", "UID", "STATE", "UUID")
    for view in views:
        for row in rows[view.gpu.uuid]:
            cells = [row["profile"], row["placement"], row["gi"], row["job"], row["uid"]]
            texts = ["-" if cell is None else str(cell) for cell in cells]
            uuids = ",".join(row["uuids"]) or row["reason"]
            lines.add_row(str(view.gpu.index), *texts, row["state"], uuids)
    if lines.row_count:
        out.print(lines)
    for sentence in lost:
        out.print(f"lost: {sentence}; look at dmesg for Xid errors")
    if fault:
        out.print(f"fault: {fault}")
    out.print(f"promises: {offered(promises) or 'none (no [layout] for these GPUs)'}")
    for row in odd:
        out.print(f"{row['state']}: job {row['job']} {row['profile']}: {row['reason']}")
    return outcome


def _numbers(profile: GiProfile, unknown: Sequence[str]) -> dict[str, int | None]:
    """A profile's numbers; None where nobody knows it, which the geometry has as 0."""
    values = {field: getattr(profile, field) for field in _TABLE_NAMES}
    return {
        field: value if value or _TABLE_NAMES[field] not in unknown else None
        for field, value in values.items()
    }


def _print_profiles(
    geometry: Geometry, title: str, arguments: argparse.Namespace, unknown: Sequence[str] = ()
) -> None:
    out = terminal.console()
    out.print(Text(title, "bold"))
    lines = terminal.table(
        *("--gres", "MEMORY", "SM", "MAX", "PLACEMENTS", "MEDIA"), right=("MEMORY", "SM", "MAX")
    )
    for p in geometry.profiles:
        n = _numbers(p, unknown)
        shown = {field: "?" if value is None else str(value) for field, value in n.items()}
        lines.add_row(
            f"mig:{p.name}",
            f"{p.memory_mb / 1024:.2f} GiB" if n["memory_mb"] else "?",
            shown["multiprocessors"],
            str(p.max_count),
            " ".join(map(str, p.placements)),
            "dec {decoders} enc {encoders} jpeg {jpegs} ofa {ofas}".format_map(shown),
        )
    out.print(lines)
    if arguments.layouts:
        for name in ("whole", "halves", "balanced", "small"):
            out.print(f"layout {name}: {offered(layout(geometry, name))}")


def _profiles_json(
    model: str, geometry: Geometry, blank: Sequence[str] = (), **more: object
) -> dict[str, Any]:
    return {
        "model": model,
        **more,
        "memory_slices": geometry.memory_slices,
        "profiles": [
            {
                "name": p.name,
                "index": p.index,
                "id": p.id,
                "slices": p.slices,
                "max_count": p.max_count,
                **_numbers(p, blank),
                "placements": [str(place) for place in p.placements],
            }
            for p in geometry.profiles
        ],
    }


def profiles(arguments: argparse.Namespace) -> int:
    """Print what can be asked for: on this node, or on a model from the table."""
    documents = []
    if arguments.gpu:
        entry = table.find(arguments.gpu)
        doubt = ""
        if entry.inferred or entry.unknown:
            doubt = f"  (inferred: {', '.join(entry.inferred) or 'nothing'}"
            doubt += f"; unknown: {', '.join(entry.unknown)})" if entry.unknown else ")"
        if arguments.json:
            documents.append(
                _profiles_json(
                    *(entry.key, entry.geometry, entry.unknown),
                    inferred=entry.inferred,
                    unknown=entry.unknown,
                )
            )
        else:
            _print_profiles(entry.geometry, f"{entry.key}{doubt}", arguments, entry.unknown)
    else:
        settings = configfile.load(arguments.config)
        seen: set[str] = set()
        with Driver(settings.driver_library) as driver:
            version = driver.version()
            for gpu in driver.gpus():
                if gpu.mig is None or gpu.model in seen:
                    continue
                seen.add(gpu.model)
                geometry = driver.geometry(gpu)
                if arguments.json:
                    documents.append(_profiles_json(gpu.model, geometry, driver=version))
                else:
                    _print_profiles(geometry, f"{gpu.model}  (driver {version})", arguments)
        if not seen:
            raise NodeFault("no GPU of this node can do MIG; try --gpu MODEL")
    if arguments.json:
        terminal.print_json({"version": 1, "models": documents})
    return 0


def reconcile(arguments: argparse.Namespace) -> int:
    """Bring ledger, driver and run directory together; report what was found."""
    settings = configfile.load(arguments.config)
    log = Log(settings.log_to, "reconcile")
    name = arguments.node or os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    node = name.split(".")[0]
    unasked = ""
    alive: frozenset[int] = frozenset()

    def ask() -> frozenset[int] | None:
        nonlocal unasked, alive
        if arguments.offline:
            return None
        try:
            client = slurm.client(
                settings.slurm_client,
                scontrol=settings.slurm_scontrol,
                timeout=settings.slurm_timeout,
                long_lived=False,
            )
            alive = client.jobs_on(node)
        except SlurmMigError as error:
            unasked = str(error)
            return None
        return alive

    with hook.partitioner(settings, log, mend=True) as core:
        report = core.reconcile(ask)
        if unasked:
            report.skipped.append(f"Slurm was not asked which jobs live: {unasked}")

        def in_the_way() -> str:
            """What speaks against letting jobs come here again; "" for nothing."""
            wrong = [*report.skipped, *report.stuck, *report.lost, *report.busy, *core.lost]
            if wrong:
                return wrong[0]
            try:
                return _fault([view.gpu for view in core.survey()], settings)
            except SlurmMigError as error:
                return str(error)

        drain = drained.Resumed()
        if not (arguments.offline or unasked):
            try:
                drain = drained.resume(settings, node, alive, in_the_way)
            except (SlurmMigError, OSError) as error:
                report.skipped.append(f"node {node}: not looked whether to resume it: {error}")
    found = {
        "mended": report.mended,
        "resumed": drain.resumed,
        "drained": drain.drained,
        "lost": report.lost,
        "stuck": report.stuck,
        "foreign": report.foreign,
        "busy": report.busy,
        "skipped": report.skipped,
    }
    bad = bool(report.lost or report.stuck or report.skipped or drain.drained)
    log.note(**{key: len(value) for key, value in found.items()})
    log.write("degraded" if bad else "ok", failed=bad)
    if arguments.json:
        terminal.print_json({"version": 1, **found})
    else:
        for key, sentences in found.items():
            for sentence in sentences:
                print(f"{key}: {sentence}")
        if not any(found.values()):
            print("nothing to mend")
    return DEGRADED if bad else 0


def install_hooks(arguments: argparse.Namespace) -> int:
    """Write the hook scripts with this node's settings in them."""
    config = arguments.config or configfile.DEFAULT
    settings = configfile.load(arguments.config)
    paths = hooks.install(arguments.directory, settings, config.absolute())
    names = {hooks.PROLOG: "Prolog", hooks.TASK_PROLOG: "TaskProlog", hooks.EPILOG: "Epilog"}
    print("# slurm.conf:")
    for path in paths:
        print(f"{names[path.name]}={path.absolute()}")
    return 0


def show_config(arguments: argparse.Namespace) -> int:
    """Print the effective settings."""
    settings = configfile.load(arguments.config)
    values = {name: getattr(settings, name) for name in settings.__slots__}
    values["layout"] = {k: v if isinstance(v, str) else dict(v) for k, v in settings.layout.items()}
    if arguments.json:
        terminal.print_json(values)
    else:
        for name, value in values.items():
            print(f"{name} = {value}")
    return 0


def by_hand(arguments: argparse.Namespace) -> int:
    """Run the Prolog or Epilog for a job as slurmd would: an admin's way to look at one."""
    env = {**os.environ, "SLURM_JOB_ID": arguments.job}
    if arguments.node:
        env["SLURMD_NODENAME"] = arguments.node
    if arguments.command == "epilog":
        return hook.run("epilog", arguments.config, None, env, epilog.work)
    answer = sys.stdin.buffer.read().decode(errors="replace") if arguments.answer else ""
    bound = partial(prolog.work, env=env, answer=answer)
    return hook.run("prolog", arguments.config, None, env, bound)


def add_parsers(subparsers: Subparsers) -> None:
    """Add the commands of this file."""

    def command(name: str, function: Any, help_text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = subparsers.add_parser(
            name, help=help_text, description=help_text[0].upper() + help_text[1:] + "."
        )
        parser.add_argument(
            *("-c", "--config"), type=Path, help=f"configuration file ({configfile.DEFAULT})"
        )
        parser.set_defaults(func=function)
        return parser

    parser = command("status", status, "show each GPU's slices, who owns what, and the promises")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = command("profiles", profiles, "show what can be asked for on this node, or on a model")
    parser.add_argument("--gpu", metavar="MODEL", help="a model from the table, without a node")
    parser.add_argument("--layouts", action="store_true", help="also the named layouts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = command("reconcile", reconcile, "mend what a crash, a kill or a reboot left behind")
    parser.add_argument("--node", help="this node's name in Slurm (its host name)")
    parser.add_argument("--offline", action="store_true", help="do not ask Slurm which jobs live")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = command("hooks", install_hooks, "write Prolog, TaskProlog and Epilog for slurm.conf")
    parser.add_argument("directory", type=Path, help="folder to write them to")
    parser = command("config", show_config, "show the effective settings")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for name in ("prolog", "epilog"):
        parser = command(name, by_hand, f"run the {name} of one job by hand")
        parser.add_argument("job", help="job id")
        parser.add_argument("--node", help="this node's name in Slurm")
        if name == "prolog":
            parser.add_argument(
                "--answer",
                action="store_true",
                help="read scontrol's answer from stdin instead of asking",
            )
