"""For any request: nothing raises, no token disagrees, nothing unoffered gets through."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luajob import Answer, described, group, running

from slurm_mig.errors import ConfigError
from slurm_mig.hostlist import expand
from slurm_mig.profiles import ProfileName
from slurm_mig.request import parse_gres, parse_token
from slurm_mig.table import entries

TABLE = {entry.key: entry for entry in entries()}
A100, H100 = TABLE["A100-SXM4-40GB"], TABLE["H100-SXM5-80GB"]
A30, RTX = TABLE["A30-24GB"], TABLE["RTX-PRO-6000-BLACKWELL-96GB"]
GROUPS = (
    group("a", "a[1-4]", 4, {"3g.20gb": 2, "2g.10gb": 2, "1g.5gb": 4}, A100),
    group("s", "s[1-2]", 2, {"1g.5gb": 7, "1g.5gb+me": 1, "4g.20gb": 3}, A100),
    group("h", "h1", 1, {"7g.80gb": 1, "1g.10gb": 7}, H100),
    group("x", "x[1-3]", 3, {"4g.24gb": 1, "3g.20gb": 1, "7g.40gb": 2}, A30, A100),
    group("r", "r1", 1, {"1g.24gb-me": 3, "1g.24gb": 1, "4g.96gb+gfx": 1, "2g.48gb": 2}, RTX),
)
PARTITIONS = {
    "gpu": {"nodes": "a[1-4],s[1-2]", "flag_default": 1},
    "mix": {"nodes": "h1,r1,x[1-3]"},
    "all": {"nodes": "a[1-4],h1,r1,s[1-2],x[1-3]"},
    "cpu": {"nodes": "c[01-99]"},
}
NAMES = sorted({name for one in GROUPS for name in one.promises})
MEMBERS = {
    name: [one for one in GROUPS if set(expand(one.hosts)) & set(expand(part["nodes"]))]
    for name, part in PARTITIONS.items()
}

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
WORDS = st.sampled_from(
    [
        *("mig", "MIG", "mig:", "gres/", "gres:", "gpu", ":", "=", ",", ",mig:", " ", "\t", "\n"),
        *("1", "0", "2", "99", "007", "9999", "1K", "-1", "none", "(", ")", "(CNT:1)", "%s", "1c."),
        *("3g", "20gb", "1g", "5gb", "7g", "24gb", "0gb", "+me", "-me", "3G.20GB", "2g.20gb"),
        *NAMES,
    ]
)
ITEMS = st.builds(
    "{}mig:{}{}".format,
    st.sampled_from(["", "gres/", "gres:"]),
    st.sampled_from(NAMES) | st.integers(1, 100).map("{}gb".format) | st.sampled_from(["1g", "3g"]),
    st.sampled_from(["", ":1", ":2", "=1", ":3"]),
)
GRES = (
    st.none()
    | st.lists(ITEMS, min_size=1, max_size=4).map(",".join)
    | st.lists(WORDS | TEXT, max_size=8).map("".join)
)
EXTRA = st.none() | st.lists(
    st.sampled_from(
        ["slurm-mig/1:", "slurm-mig/1:none;", "slurm-mig/1:7g.40gb=1;", "3g.20gb=1", ";", " ", "="]
    )
    | TEXT,
    max_size=5,
).map("".join)
PARTITION = st.none() | st.lists(
    st.sampled_from([*PARTITIONS, "nowhere", ""]) | TEXT, max_size=3
).map(",".join)


@pytest.fixture(scope="module")
def cluster(version):
    """The module of the cluster above, for Slurm 24.11."""
    with running(version, described(*GROUPS)) as interpreter:
        yield interpreter


def agree(answer: Answer, gres: str | None, extra: str | None) -> None:
    """The token is there, and says what the request says."""
    assert extra is not None
    found = parse_token(extra)
    assert found is not None
    assert dict(found) == dict(parse_gres(gres or "")), answer


def kinds(partition: str | None) -> list:
    """The groups that a job in these partitions may run on; all if Slurm will refuse it."""
    names = [name for name in (partition or "gpu").split(",") if name]
    if not names or any(name not in PARTITIONS for name in names):
        return list(GROUPS)
    return [one for one in GROUPS if any(one in MEMBERS[name] for name in names)]


@settings(max_examples=500, deadline=None)
@given(gres=GRES, extra=EXTRA, partition=PARTITION, field=GRES)
def test_any_submission(cluster, gres, extra, partition, field) -> None:
    """Never an error; what is accepted has a token that agrees with it and is on offer."""
    answer = cluster.submit(
        PARTITIONS, gres=gres, extra=extra, partition=partition, tres_per_task=field
    )
    assert answer.logged == ()
    assert all(one.isascii() and one.isprintable() for one in answer.said)
    if answer.code == 0:
        agree(answer, answer.gres, answer.job.get("extra"))
        wanted = dict(parse_gres(answer.gres or ""))
        assert (
            any(
                all(count <= one.promises.get(name, 0) for name, count in wanted.items())
                for one in kinds(partition)
            )
            or not wanted
        )
        assert parse_gres(field or "") == ()
    else:
        assert (answer.code, len(answer.said)) == (2072, 1)
        assert answer.gres == gres
        assert answer.job.get("extra") == extra


@settings(max_examples=200, deadline=None)
@given(
    first=st.lists(ITEMS, max_size=2).map(",".join),
    changes=st.lists(
        st.fixed_dictionaries({}, optional={"gres": GRES, "extra": EXTRA, "partition": PARTITION}),
        max_size=5,
    ),
)
def test_any_history(cluster, first, changes) -> None:
    """Whatever a job's owner changes, one after the other, its token is that of its request."""
    born = cluster.submit(PARTITIONS, gres=first or None, partition="all")
    if born.code:
        return
    job = {"gres": born.gres, "extra": born.job["extra"], "partition": "all"}
    for change in changes:
        answer = cluster.modify(PARTITIONS, job, **change)
        assert answer.logged == ()
        if answer.code == 0:
            told = {**answer.job, "gres": answer.gres}
            # Slurm itself knows no other partition.
            told.pop("partition", None)
            wanted = change.get("partition")
            if wanted in PARTITIONS:
                told["partition"] = wanted
            job.update({name: told[name] for name in job if told.get(name) is not None})
        agree(answer, job["gres"], job["extra"])


SIZE = st.tuples(st.just("gb"), st.integers(1, 100)) | st.tuples(st.just("g"), st.integers(1, 8))


def acceptable(one, what: str, asked: int, count: int) -> set[tuple[int, int]]:
    """(GB, slices) that a kind of node may give for one portable item."""
    found = set()
    for gpus in one.mig:
        plain = sorted(
            (name.memory_gb, name.slices)
            for name in map(ProfileName.parse, (p.name for p in gpus.entry.geometry.profiles))
            if not name.attribute
        )
        enough = [size for size in plain if (size[0] if what == "gb" else size[1]) >= asked]
        offered = [
            (gb, slices)
            for gb, slices in enough
            if one.promises.get(f"{slices}g.{gb}gb", 0) >= count
        ]
        # Of one model, its smallest on offer, no more than one step above the smallest there is.
        found |= {size for size in offered[:1] if enough.index(size) <= 1}
    return found


@settings(max_examples=200, deadline=None)
@given(size=SIZE, count=st.integers(1, 4), partition=st.sampled_from(sorted(PARTITIONS)))
def test_portable(cluster, size, count, partition) -> None:
    """A portable request becomes the least of what the rule allows, or is refused."""
    what, asked = size
    answer = cluster.submit(PARTITIONS, gres=f"gres/mig:{asked}{what}:{count}", partition=partition)
    allowed = {found for one in kinds(partition) for found in acceptable(one, what, asked, count)}
    if allowed:
        gb, slices = min(allowed, key=lambda found: found if what == "gb" else found[::-1])
        assert answer.gres == f"gres/mig:{slices}g.{gb}gb:{count}"
        assert answer.said == (
            f"mig:{asked}{what}:{count}: you get {slices}g.{gb}gb" + (f" x{count}" * (count > 1)),
        )
    else:
        assert (answer.code, answer.gres) == (2072, f"gres/mig:{asked}{what}:{count}")


NUMBERS = st.integers(0, 120).flatmap(
    lambda low: st.builds(
        lambda width, more: f"{low:0{width}d}" + (f"-{low + more:0{width}d}" if more else ""),
        st.integers(1, 3),
        st.integers(0, 12),
    )
)


def valid(text: str) -> bool:
    """Slurm takes it: no range counts down, no name comes twice."""
    try:
        return bool(expand(text))
    except ConfigError:
        return False


LISTS = st.lists(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["n", "gpu-a", "x1y"]),
        st.just("") | st.lists(NUMBERS, min_size=1, max_size=3).map(lambda r: f"[{','.join(r)}]"),
        st.sampled_from(["", "b", "m[1-3]"]),
    ),
    min_size=1,
    max_size=3,
)
HOSTS = LISTS.map(",".join).filter(valid)


@settings(max_examples=40, deadline=None)
@given(partition=HOSTS, nodes=HOSTS)
def test_hostlists(version, partition, nodes) -> None:
    """A partition has a kind of node if and only if their hostlists have a name in common."""
    common = set(expand(partition)) & set(expand(nodes))
    one = described(group("a", nodes, 1, {"1g.5gb": 7}, A100))
    with running(version, one) as lua:
        answer = lua.submit({"p": {"nodes": partition}}, gres="gres/mig:1g.5gb:1", partition="p")
    assert (answer.code == 0) == bool(common)
