"""Slurm: its release, the lines of slurm.conf that MIG jobs depend on, this node's counts."""

import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from slurm_mig import chosen, slurm_config
from slurm_mig.description import PADDING, Release
from slurm_mig.doctor.context import Context, Slurm
from slurm_mig.doctor.finding import (
    ANYWHERE,
    CLUSTER,
    CONFIG,
    DRIVER,
    ON_NODE,
    SLURM,
    Check,
    Finding,
    failure,
    ok,
    warning,
)
from slurm_mig.layouts import layout
from slurm_mig.slurm_lines import OVERHEAD, SPLIT_TIMEOUTS, timeouts

#: Releases that slurm-mig is tested with; what lies between them is taken to be alike.
TESTED = ((22, 5), (24, 11), (26, 5))
#: Releases with a bug that makes MIG jobs go wrong, from Slurm's own notes: what it does.
BAD = {(25, 5, 0): "it gives the same GRES to several jobs (fixed in 25.05.1)"}
_RECONFIGURE = "in slurm.conf, then: scontrol reconfigure"


def _answers(context: Context) -> Iterator[Finding]:
    why = context.missing(SLURM)
    if why:
        yield failure(
            "Slurm",
            why,
            "a Prolog that cannot ask slurmctld drains the node",
            "scontrol ping; systemctl status slurmctld munge",
        )
        return
    version = context.slurm.version
    text = f"{version[0]}.{version[1]:02d}.{version[2]}"
    tested = ", ".join(str(Release(*one)) for one in TESTED)
    what = f"Slurm {text}"
    if version in BAD:
        yield failure(what, BAD[version], "two jobs get one instance's count", "update Slurm")
    elif version[:2] < TESTED[0]:
        yield failure(
            what,
            f"older than {Release(*TESTED[0])}",
            "what a job holds cannot be read from it",
            "update Slurm",
        )
    elif version[:2] > TESTED[-1]:
        yield warning(what, "newer than what slurm-mig is tested with", f"tested: {tested}")
    elif version[:2] in TESTED:
        yield ok(what, "slurm-mig is tested with this release")
    else:
        yield ok(what, f"between releases that slurm-mig is tested with ({tested})")


def _flags(context: Context) -> Iterator[Finding]:
    slurm = context.slurm
    words = slurm.config.words("PrologFlags")
    flags = {word.lower() for word in words}
    what = "PrologFlags=" + (",".join(words) or "(none)")
    fine = True
    if not slurm.config.prolog_at_allocation(slurm.version):
        fine = False
        yield failure(
            what,
            "Alloc is missing",
            "the Prolog then runs late or never, and jobs wait for no instance",
            f"PrologFlags=Alloc,DeferBatch {_RECONFIGURE}",
        )
    if "serial" in flags:
        fine = False
        yield failure(
            what,
            "Serial",
            "a Prolog that waits for space then keeps the Epilog that frees it from running",
            f"take Serial out of PrologFlags {_RECONFIGURE}",
        )
    if "runinjob" in flags:
        fine = False
        yield failure(
            what,
            "RunInJob",
            "a Prolog inside the job's device cgroup cannot partition a GPU",
            f"take RunInJob out of PrologFlags {_RECONFIGURE}",
        )
    if "deferbatch" not in flags:
        fine = False
        yield warning(
            what,
            "DeferBatch is missing",
            "a batch script may begin on one node while another has no room and sends it back",
            f"add DeferBatch to PrologFlags {_RECONFIGURE}",
        )
    if fine:
        yield ok(what, "as it should be")


def _timeouts(context: Context) -> Iterator[Finding]:
    slurm = context.slurm
    settings = context.any_settings
    release = Release(*slurm.version[:2])
    worst = timeouts(settings, release)
    least = {
        "Prolog": OVERHEAD + settings.slurm_timeout + settings.prolog_wait,
        "Epilog": OVERHEAD + settings.epilog_budget,
    }
    for hook, most in (("Prolog", worst.prolog), ("Epilog", worst.epilog)):
        key = f"{hook}Timeout" if release >= SPLIT_TIMEOUTS else "PrologEpilogTimeout"
        has = slurm.config.seconds(f"{hook}Timeout", "PrologEpilogTimeout")
        what = f"{key} for the {hook}"
        why = "a hook that is killed leaves its instance half made or removed, and drains the node"
        if has == math.inf:
            yield ok(what, "without limit")
        elif has < least[hook]:
            yield failure(
                what,
                f"{has:g} s; with its settings the {hook} takes up to {least[hook]:g} s as a rule",
                why,
                f"{key}={most} {_RECONFIGURE}",
            )
        elif has < most:
            yield warning(
                what,
                f"{has:g} s; with its settings the {hook} takes up to {most} s at worst",
                why,
                f"{key}={most} {_RECONFIGURE}",
            )
        else:
            yield ok(what, f"{has:g} s, enough for {most} s at worst")
    start = slurm.config.seconds("BatchStartTimeout")
    if start < least["Prolog"]:
        yield warning(
            "BatchStartTimeout",
            f"{start:g} s; a Prolog takes up to {least['Prolog']:g} s as a rule",
            "a batch job whose Prolog is still at work may be taken for lost",
            f"BatchStartTimeout={worst.prolog} {_RECONFIGURE}",
        )


def _types(context: Context) -> Iterator[Finding]:
    words = context.slurm.config.words("GresTypes")
    if "mig" in words:
        yield ok("GresTypes", ",".join(words))
    else:
        yield failure(
            "GresTypes",
            f"{','.join(words) or '(none)'}: mig is missing",
            "--gres=mig is refused",
            "add mig to GresTypes in slurm.conf, then restart slurmctld and every slurmd",
        )


def _stamps_extra(context: Context, slurm: Slurm) -> bool:
    """Whether the token stands in the job's `extra` field."""
    if context.description is not None:
        return context.description.token == "extra"  # noqa: S105 - a field's name
    return context.any_settings.slurm_request == "token" and slurm.version >= (23, 2, 0)


def _scheduler(context: Context) -> Iterator[Finding]:
    slurm = context.slurm
    words = {word.partition("=")[0].lower() for word in slurm.config.words("SchedulerParameters")}
    fine = True
    if "extra_constraints" in words and _stamps_extra(context, slurm):
        fine = False
        yield failure(
            "SchedulerParameters",
            "extra_constraints",
            "Slurm then reads our token in the job's extra field as a filter for nodes",
            'take extra_constraints out, or set [job_submit] token in cluster.toml to "none"',
        )
    if "disable_job_shrink" not in words:
        fine = False
        yield warning(
            "SchedulerParameters",
            "disable_job_shrink is missing",
            "a job that gives a node back while it runs frees its count before its instance",
            f"add disable_job_shrink to SchedulerParameters {_RECONFIGURE}",
        )
    if fine:
        yield ok("SchedulerParameters", "as it should be")
    energy = slurm.config.first("AcctGatherEnergyType")
    if "gpu" in energy:
        yield warning(
            "AcctGatherEnergyType",
            energy,
            "slurmd then keeps the driver open, which gets in the way of switching MIG mode",
            "use another one, without gpu, in slurm.conf, then restart every slurmd",
        )


def gres_conf(context: Context) -> Path | None:
    """The gres.conf that counts on this host; None if there is none to be seen."""
    named = os.environ.get("SLURM_CONF") or context.slurm.config.first("SLURM_CONF")
    spool = context.slurm.config.first("SlurmdSpoolDir").replace("%n", context.node)
    spool = spool.replace("%h", os.uname().nodename)
    folders = [Path(named).parent] if named else []
    # Where slurmd keeps the files that it was sent, in a cluster that hands them out.
    folders += [Path("/run/slurm/conf"), *([Path(spool) / "conf-cache"] if spool else [])]
    return next((f / "gres.conf" for f in folders if (f / "gres.conf").is_file()), None)


def _autodetect(context: Context) -> Iterator[Finding]:
    path = gres_conf(context)
    if path is None:
        yield warning("gres.conf", "could not look: not found on this host", "")
        return
    on_node = "node" in context.roles
    how = slurm_config.autodetect(path, context.node if on_node else "")
    if how == "nvml":
        yield failure(
            f"{path}",
            "AutoDetect=nvml" if on_node else "AutoDetect=nvml, at least for some nodes",
            "slurmd looks for instances when it starts, and a GPU in MIG mode without any is an"
            " error to it",
            f"NodeName={context.node if on_node else '…'} AutoDetect=off in gres.conf, then restart"
            " slurmd",
        )
    else:
        yield ok(f"{path}", f"AutoDetect={how}" if how else "no AutoDetect")


def _whole(context: Context) -> Iterator[Finding]:
    """No GPU is both: with its File= in gres.conf it is denied to every job but those of gpu."""
    path = gres_conf(context)
    if path is None:
        return  # said by the check of AutoDetect
    files = slurm_config.gpu_files(path, context.node)
    minors = context.settings.mig_minors
    for gpu in context.gpus:
        device = f"/dev/nvidia{gpu.minor}"
        if gpu.mig and chosen.named(gpu, minors) and device in files:
            yield failure(
                str(path),
                f"offers {device} as a whole GPU (Name=gpu File=), and it is partitioned",
                "jobs with an instance may not open it, and jobs of gpu get one without memory",
                f"take it out of File= there, or out of [gpus] mig in {context.config_path}",
            )


def _counts(gres: str) -> Counter[str]:
    """The types of mig in a node's Gres, with counts: `mig:3g.20gb:2(S:0),gpu:4`."""
    found: Counter[str] = Counter()
    for item in gres.split(","):
        words = item.partition("(")[0].split(":")
        if words[0] == "mig" and len(words) == 3 and words[2].isdecimal():
            found[words[1]] += int(words[2])
    return found


def _offered(counts: Counter[str]) -> str:
    # Not by size: Slurm may have types that are no profile.
    return ",".join(f"mig:{kind}:{counts[kind]}" for kind in sorted(counts)) or "no mig"


def _promises(context: Context) -> Iterator[Finding]:
    settings = context.settings
    record = context.slurm.client.node(context.node)
    told = _counts(record.gres)
    padding = told.pop(PADDING, 0)
    promised: Counter[str] = Counter()
    for gpu in context.gpus:
        spec = settings.layout_of(gpu.name)
        if gpu.mig and spec is not None and chosen.named(gpu, settings.mig_minors):
            promised.update(layout(context.driver.geometry(gpu), spec))
    what = f"node {context.node}"
    elastic = context.description is not None and context.description.elastic
    if padding or elastic:
        yield ok(what, f"{_offered(told)} and {padding} of padding: moved by the planner")
    elif told == promised:
        yield ok(what, f"Slurm counts what the node promises: {_offered(told)}")
    else:
        yield failure(
            what,
            f"Slurm counts {_offered(told)}, the node promises {_offered(promised)}",
            "jobs are sent here that find no room, or room stays empty",
            "slurm-mig render on the controller, install its files, restart slurmctld and slurmd;"
            " or correct [layout] here",
        )
    if "DRAIN" in record.state or "INVAL" in record.state:
        yield warning(
            what,
            f"{record.state}{f': {record.reason}' if record.reason else ''}",
            "no job starts here",
            f"when mended: slurm-mig reconcile --node {context.node} && scontrol update"
            f" NodeName={context.node} State=RESUME",
        )


CHECKS = (
    Check("slurm.release", "Slurm's release", ANYWHERE, (), _answers),
    Check("slurm.prolog-flags", "PrologFlags", ANYWHERE, (SLURM,), _flags),
    Check("slurm.timeouts", "timeouts", ANYWHERE, (SLURM,), _timeouts),
    Check("slurm.gres-types", "GresTypes", ANYWHERE, (SLURM,), _types),
    Check("slurm.scheduler", "SchedulerParameters", ANYWHERE, (SLURM, CLUSTER), _scheduler),
    Check("slurm.autodetect", "AutoDetect", ANYWHERE, (SLURM,), _autodetect),
    Check("slurm.whole-gpus", "whole GPUs", ON_NODE, (CONFIG, DRIVER, SLURM), _whole),
    Check("slurm.promises", "counts", ON_NODE, (CONFIG, DRIVER, SLURM, CLUSTER), _promises),
)
