"""What a description means in Slurm's own words: Gres= values, merged lists, timeouts.

Pure. `render.py` puts these into its templates; facts about Slurm stand here, beside the values
that follow from them.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from slurm_mig.description import PADDING, Description, GpuSet, Group, Release
from slurm_mig.indices import compress
from slurm_mig.profiles import ProfileName
from slurm_mig.settings import Settings

#: gres.conf knows Flags=explicit from here on; before, `--exclusive` takes every instance.
EXPLICIT_FLAG = Release(23, 2)
#: scontrol can print JSON, so a record needs one question; before, up to three.
JSON_RECORDS = Release(23, 2)
#: Prolog and Epilog may stand several times: 22.05 takes the last, 24.11 and 26.05 run all (seen).
SEVERAL_HOOKS = Release(24, 11)
#: PrologTimeout and EpilogTimeout, each of its own; before, PrologEpilogTimeout.
SPLIT_TIMEOUTS = Release(25, 5)
#: sacctmgr reads a TRES name to its end; before 25.11.6 it stopped at the first + or -.
SIGNS_IN_TRES = Release(26, 5)

#: Slurm keeps timeouts in 16 bits, and the two largest values mean "none" and "infinite".
LONGEST_TIMEOUT = 65533
#: Start of the interpreter, the question that the Prolog's sh asks by itself (twice MessageTimeout
#: at its default of 10 s, and again as text), and the driver's own work on a few instances.
OVERHEAD = 60.0
#: A reconcile asks slurmctld for its jobs once; the whole cluster may ask once a second.
_QUESTIONS_PER_MINUTE = 60
_SHORTEST_INTERVAL = 5


class Wait(NamedTuple):
    """One thing that a hook may wait for: seconds, and what it is, in words."""

    seconds: float
    what: str


class Timeouts(NamedTuple):
    """What a hook takes at worst, item by item, and the sums as Slurm takes them."""

    prolog_waits: tuple[Wait, ...]
    epilog_waits: tuple[Wait, ...]
    prolog: int
    epilog: int


def _sum(waits: Iterable[Wait]) -> int:
    return min(math.ceil(sum(wait.seconds for wait in waits)), LONGEST_TIMEOUT)


def timeouts(settings: Settings, release: Release) -> Timeouts:
    """How long the hooks may take with these settings; every wait counted once.

    Prolog: prolog.py (request, then acquire, then at worst turn_away) and Partitioner.acquire.
    Questions to Slurm: one for the request; then a hold looks at the job, explains, requeues, and
    holds. Epilog: Partitioner.release, whose last attempt may begin when its budget ends.
    """
    gpu, budget = settings.lock_gpu_timeout, settings.epilog_budget
    questions = 5 if release >= JSON_RECORDS else 9
    prolog = (
        Wait(OVERHEAD, "start, the driver's work"),
        Wait(questions * settings.slurm_timeout, f"{questions} questions, [slurm] timeout"),
        Wait(gpu, "an earlier run of the job, [lock] gpu_timeout"),
        Wait(gpu + budget, "what that left, [lock] gpu_timeout + [epilog] budget"),
        Wait(settings.lock_timeout, "the host's lock, [lock] timeout"),
        Wait(settings.prolog_wait, "space just given back, [prolog] wait"),
        Wait(gpu, "the GPU, [lock] gpu_timeout"),
        Wait(gpu + budget, "undoing, [lock] gpu_timeout + [epilog] budget"),
    )
    epilog = (
        Wait(OVERHEAD, "start, the driver's work"),
        Wait(gpu, "a Prolog of the job, [lock] gpu_timeout"),
        Wait(budget, "removing, [epilog] budget"),
        Wait(gpu, "the GPU for the last attempt, [lock] gpu_timeout"),
    )
    return Timeouts(prolog, epilog, _sum(prolog), _sum(epilog))


def _by_size(name: str) -> tuple[int, int, str]:
    parts = ProfileName.parse(name)
    return parts.slices, parts.memory_gb, parts.attribute


def in_order(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Counts by profile, the smallest profile first; without those that are 0."""
    return [(name, counts[name]) for name in sorted(counts, key=_by_size) if counts[name]]


def mig_types(group: Group) -> list[tuple[str, int]]:
    """The types of `mig` that a node of the group has, with counts; padding last."""
    padding = [(PADDING, group.padding)] if group.padding else []
    return in_order(group.promises) + padding


def whole_types(group: Group) -> list[tuple[str, int]]:
    """The types of `gpu` of a node of the group ("" for none), with counts."""
    counts: dict[str, int] = {}
    for gpus in group.whole:
        counts[gpus.type] = counts.get(gpus.type, 0) + len(gpus.indices)
    return sorted((kind, count) for kind, count in counts.items() if count)


def gres(mig: Iterable[tuple[str, int]], whole: Iterable[tuple[str, int]]) -> str:
    """A Gres= value. Every type has its count: `mig:1g.5gb` alone is refused as a bad count."""
    items = [f"gpu:{kind}:{count}" if kind else f"gpu:{count}" for kind, count in whole]
    items += [f"mig:{kind}:{count}" for kind, count in mig]
    return ",".join(items)


def node_gres(group: Group) -> str:
    """The Gres= value of the group's nodes; "" when they offer nothing."""
    return gres(mig_types(group), whole_types(group))


def anchor_gres(description: Description) -> str:
    """The Gres= value of the anchor: of each type the most that any node could ever have.

    A job that one node could run when the planner gives it everything thus stays pending instead of
    being refused, whatever it asks for beside instances.
    """
    most: dict[str, int] = {}
    whole: dict[str, int] = {}
    for group in description.groups:
        for name, count in group.maxima.items():
            most[name] = max(count, most.get(name, 0))
        for kind, count in whole_types(group):
            whole[kind] = max(count, whole.get(kind, 0))
    return gres(in_order(most), sorted(whole.items()))


def anchor_line(description: Description) -> str:
    """The rest of the anchor's NodeName line. What anchor_conf says itself is not said again.

    The address is one where nothing answers, at once: the anchor's name need not resolve.
    """
    ours = {
        "NodeAddr": "127.0.0.1",
        "Port": "1",
        "Gres": anchor_gres(description),
        "State": "DOWN",
        "Reason": "slurm-mig-anchor",
    }
    said = {word.partition("=")[0].lower() for word in description.anchor_conf.split()}
    words = [f"{key}={value}" for key, value in ours.items() if key.lower() not in said]
    return " ".join([*([description.anchor_conf] if description.anchor_conf else []), *words])


def device_files(gpus: GpuSet) -> str:
    """The device files of some GPUs as gres.conf writes them: /dev/nvidia[4-7]."""
    if len(gpus.indices) == 1:
        return f"/dev/nvidia{gpus.indices[0]}"
    return f"/dev/nvidia[{compress(gpus.indices)}]"


def merged(*lists: Iterable[str]) -> list[str]:
    """All words in the order given, each once; Slurm does not mind upper and lower case here."""
    words: dict[str, str] = {}
    for words_of_one in lists:
        for word in words_of_one:
            words.setdefault(word.lower(), word)
    return list(words.values())


def gres_types(description: Description) -> list[str]:
    """GresTypes: the site's, `gpu` where GPUs stay whole, and ours."""
    whole = any(group.whole for group in description.groups)
    return merged(description.site.gres_types, ["gpu"] if whole else [], ["mig"])


def prolog_flags(description: Description) -> list[str]:
    """PrologFlags: ours and the site's.

    DeferBatch implies Alloc only from 26.05 on, so both are said.
    """
    return merged(["Alloc", "DeferBatch"], description.site.prolog_flags)


def accounting(description: Description) -> tuple[list[str], list[str]]:
    """AccountingStorageTRES, and the profiles that are left out of it since their names have signs.

    In elastic mode every profile that a node could make may be promised one day. Without a slurmdbd
    nothing: slurmctld then says "slurmdbd is required to run with TRES gres/mig" and does not start
    (seen on 22.05, 24.11 and 26.05).
    """
    if not description.site.accounting:
        return [], []
    offered: dict[str, int] = {}
    for group in description.groups:
        offered.update(group.maxima if description.elastic else group.promises)
    names = [name for name, _ in in_order(offered)]
    left_out = []
    if description.site.release < SIGNS_IN_TRES:
        left_out = [name for name in names if "+" in name or "-" in name]
    typed = [f"gres/mig:{name}" for name in names if name not in left_out]
    return merged(description.site.accounting_tres, ["gres/mig"], typed), left_out


def reconcile_minutes(description: Description) -> int:
    """Minutes between two reconciles of a node: 5, or more where the nodes are many."""
    nodes = sum(group.size for group in description.groups)
    return max(_SHORTEST_INTERVAL, math.ceil(nodes / _QUESTIONS_PER_MINUTE))
