"""Every GPU model in every layout: a real Slurm offers what the description promises, no more.

All nodes are of one machine, so a few clusters hold them all: models whose types are one to Slurm
(`typeid`) are in different ones.
"""

import re
from collections.abc import Mapping
from functools import cache
from itertools import cycle
from typing import NamedTuple

import pytest
from rendercluster import Rendered, complaints, running

from slurm_mig import table
from slurm_mig.errors import ConfigError
from slurm_mig.layouts import NAMED, layout
from slurm_mig.profiles import TableEntry
from slurm_mig.rehearsal.cluster import SlurmInstall
from slurm_mig.typeid import collisions

pytestmark = pytest.mark.slurm

#: By the job_submit module, or by Slurm where another node of the partition has more.
REFUSED = re.compile(
    r"no node of partition main has more than \d|node configuration is not available"
)


class Plan(NamedTuple):
    """One node: its model, how many GPUs, and the layout as TOML has it."""

    model: str
    gpus: int
    layout: str


def names(entry: TableEntry) -> list[str]:
    """All profiles of a model."""
    return [profile.name for profile in entry.geometry.profiles]


@cache
def compatible() -> tuple[tuple[TableEntry, ...], ...]:
    """The table's GPUs in as few sets as it takes, none with types that Slurm mixes up."""
    sets: list[list[TableEntry]] = []
    for entry in table.entries():
        for one in sets:
            if not collisions(name for other in [*one, entry] for name in names(other)):
                one.append(entry)
                break
        else:
            sets.append([entry])
    return tuple(map(tuple, sets))


def own_layouts(entry: TableEntry) -> list[dict[str, int]]:
    """An admin's layouts that between them have every profile of a model, each as full as can be.

    The rarest are first: those with attributes exclude others.
    """
    left = sorted(names(entry), key=lambda name: (name.endswith("gb"), -len(name)))
    found = []
    while left:
        chosen: dict[str, int] = {}
        for name in left + names(entry):
            while True:
                more = {**chosen, name: chosen.get(name, 0) + 1}
                try:
                    layout(entry.geometry, more)
                except ConfigError:
                    break
                chosen = more
        found.append(chosen)
        left = [name for name in left if name not in chosen]
    return found


def plans(entries: tuple[TableEntry, ...]) -> dict[str, Plan]:
    """A node for each layout of each model, with one to eight GPUs."""
    sizes = cycle((1, 8, 2, 4))
    specs = [
        (entry.key, spec)
        for entry in entries
        for spec in (
            *(f'"{name}"' for name in NAMED),
            *(
                "{ " + ", ".join(f'"{name}" = {count}' for name, count in own.items()) + " }"
                for own in own_layouts(entry)
            ),
        )
    ]
    return {f"n{at}": Plan(key, next(sizes), spec) for at, (key, spec) in enumerate(specs)}


def described(plan: Mapping[str, Plan], places: Mapping[str, str]) -> str:
    """The node groups of a cluster.toml."""
    return "\n".join(
        f'[nodes.{name}]\nhosts = "{name}"\ngpus = "{one.model}:{one.gpus}"\n'
        f'layout = {{ "{one.model}" = {one.layout} }}\n'
        f'conf = "{places[name]} CPUs=2 State=UNKNOWN"\n'
        for name, one in plan.items()
    )


def request(promises: Mapping[tuple[str, str], int]) -> str:
    """All that a node promises, as an option of sbatch."""
    return "--gres=" + ",".join(f"{gres}:{kind}:{n}" for (gres, kind), n in promises.items())


def test_the_plans_leave_nothing_out() -> None:
    """Every model of the table has a node for each layout, and every profile is promised once."""
    every = [one for entries in compatible() for one in plans(entries).values()]
    named = {(one.model, one.layout.strip('"')) for one in every}
    models = {entry.key for entry in table.entries()}
    own = {(e.key, name) for e in table.entries() for counts in own_layouts(e) for name in counts}
    assert {(model, name) for model in models for name in NAMED} <= named
    assert own == {(entry.key, name) for entry in table.entries() for name in names(entry)}
    assert len(models) >= 20


@pytest.fixture(params=range(len(compatible())), ids=lambda at: f"set{at}")
def rendered(request: pytest.FixtureRequest, install: SlurmInstall):
    """A cluster with a node for each layout of each model of a set."""
    plan = plans(compatible()[request.param])
    with running(install, list(plan), lambda places: described(plan, places)) as one:
        yield one


def one_more(promises: Mapping[str, Mapping[tuple[str, str], int]]) -> dict[str, list[str]]:
    """For each type of each node the options of a job that asks for one more than promised."""
    return {
        f"{name} {gres}:{kind}:{count + 1}": ["-w", name, f"--gres={gres}:{kind}:{count + 1}"]
        for name, promised in promises.items()
        for (gres, kind), count in promised.items()
    }


def test_slurm_offers_what_is_promised(rendered: Rendered) -> None:
    """Slurm registers, shows and allocates exactly the counts; its daemons do not complain."""
    cluster, promises = rendered.cluster, rendered.promises()
    assert {name: rendered.registered(name) for name in promises} == promises
    assert rendered.offered() == promises
    asked = {
        what: cluster.popen("srun", "--test-only", *options, "true")
        for what, options in one_more(promises).items()
    }
    answers = {what: client.communicate(timeout=60)[1] for what, client in asked.items()}
    assert {what for what, answer in answers.items() if not REFUSED.search(answer)} == set()
    rendered.allocate({name: [request(wanted)] for name, wanted in promises.items()})
    assert rendered.running() == promises
    assert complaints(cluster.log("slurmctld")) == []
    assert [line for name in promises for line in complaints(cluster.log(f"slurmd-{name}"))] == []
