"""What becomes of requests at submission: the exact GRES, field and sentence for each."""

import pytest
from luajob import UNSET, Interpreter, described, group, running

from slurm_mig.table import entries

REFUSED = 2072
TABLE = {entry.key: entry for entry in entries()}
A100, H100 = TABLE["A100-SXM4-40GB"], TABLE["H100-SXM5-80GB"]
A30, A100_80 = TABLE["A30-24GB"], TABLE["A100-SXM4-80GB"]
GROUPS = (
    group("a100", "gpu[01-16]", 16, {"3g.20gb": 2, "2g.10gb": 2, "1g.5gb": 4}, A100),
    group("h100", "big[1-4]", 4, {"7g.80gb": 1, "1g.10gb": 7, "1g.10gb+me": 1}, H100),
    group("a30", "small[1-2]", 2, {"4g.24gb": 1}, A30),
    group("a80", "old1", 1, {"3g.40gb": 2}, A100_80),
)
PARTITIONS = {
    "gpu": {"nodes": "gpu[01-16]", "flag_default": 1},
    "big": {"nodes": "big[1-3],cpu[001-100]"},
    "all": {"nodes": "big[1-4],cpu[001-100],gpu[01-16],old1,small[1-2]"},
    "small": {"nodes": "small[1-2]"},
    "threes": {"nodes": "old1,small[1-2]"},
    "cpu": {"nodes": "cpu[001-100]"},
    "empty": {},
}
A100_OFFERS = "A100-SXM4-40GB nodes offer 1g.5gb, 2g.10gb, 3g.20gb"
H100_OFFERS = "H100-SXM5-80GB nodes offer 1g.10gb, 1g.10gb+me, 7g.80gb"

ACCEPTED = [
    # partition, asked, becomes, token, told
    (None, "mig:3g.20gb:1", "mig:3g.20gb:1", "3g.20gb=1", []),
    (None, "mig:3g.20gb", "mig:3g.20gb:1", "3g.20gb=1", []),
    ("gpu", "mig:3g.20gb:02", "mig:3g.20gb:2", "3g.20gb=2", []),
    ("gpu", "mig:3g.20gb=2", "mig:3g.20gb:2", "3g.20gb=2", []),
    ("gpu", "MIG:3G.20gb", "mig:3g.20gb:1", "3g.20gb=1", []),
    ("gpu", "mig:1g.5gb,mig:1g.5gb:2", "mig:1g.5gb:3", "1g.5gb=3", []),
    ("gpu", "mig:3g.20gb,mig:1g.5gb", "mig:3g.20gb:1,mig:1g.5gb:1", "1g.5gb=1,3g.20gb=1", []),
    ("gpu", "mig:1g.5gb,mig:2g.10gb,mig:1g.5gb", "mig:1g.5gb:2,mig:2g.10gb:1",
     "1g.5gb=2,2g.10gb=1", []),
    ("gpu", "gpu:2", "gpu:2", "none", []),
    ("gpu", "migslice:2,gpu:mig:1", "migslice:2,gpu:mig:1", "none", []),
    ("gpu", "shard:1,mig:1g.5gb,gpu:a:1", "shard:1,mig:1g.5gb:1,gpu:a:1", "1g.5gb=1", []),
    ("cpu", None, None, "none", []),
    ("big", "mig:1g.10gb+me", "mig:1g.10gb+me:1", "1g.10gb+me=1", []),
    ("big", "mig:1g.10gb+me,mig:1g.10gb", "mig:1g.10gb+me:1,mig:1g.10gb:1",
     "1g.10gb=1,1g.10gb+me=1", []),
    ("gpu,big", "mig:7g.80gb", "mig:7g.80gb:1", "7g.80gb=1", []),
    ("gpu,gpu,gpu", "mig:3g.20gb:2", "mig:3g.20gb:2", "3g.20gb=2", []),
    # Unknown, or not shown to this user: Slurm's to refuse. Checked against the cluster.
    ("nowhere", "mig:7g.80gb", "mig:7g.80gb:1", "7g.80gb=1", []),
    ("gpu,nowhere", "mig:20gb", "mig:3g.20gb:1", "3g.20gb=1", []),
    # Portable.
    ("gpu", "mig:20gb", "mig:3g.20gb:1", "3g.20gb=1", ["mig:20gb: you get 3g.20gb"]),
    ("gpu", "mig:20gb:2", "mig:3g.20gb:2", "3g.20gb=2", ["mig:20gb:2: you get 3g.20gb x2"]),
    ("gpu", "mig:3g", "mig:3g.20gb:1", "3g.20gb=1", ["mig:3g: you get 3g.20gb"]),
    ("gpu", "mig:1gb", "mig:1g.5gb:1", "1g.5gb=1", ["mig:1gb: you get 1g.5gb"]),
    # One step: 6 GB is 1g.10gb, which nobody offers; 2g.10gb is the next.
    ("gpu", "mig:6gb", "mig:2g.10gb:1", "2g.10gb=1", ["mig:6gb: you get 2g.10gb"]),
    # Not the one with +me, which there is only one of.
    ("big", "mig:1g:2", "mig:1g.10gb:2", "1g.10gb=2", ["mig:1g:2: you get 1g.10gb x2"]),
    # Of several models the one that gives less: 20 GB of 20 and 24, 5 of 5 and 10.
    ("all", "mig:20gb", "mig:3g.20gb:1", "3g.20gb=1", ["mig:20gb: you get 3g.20gb"]),
    ("all", "mig:21gb", "mig:4g.24gb:1", "4g.24gb=1", ["mig:21gb: you get 4g.24gb"]),
    ("all", "mig:1g", "mig:1g.5gb:1", "1g.5gb=1", ["mig:1g: you get 1g.5gb"]),
    # For slices it is the slices that count first: 3 of 40 GB before 4 of 24 GB.
    ("threes", "mig:3g", "mig:3g.40gb:1", "3g.40gb=1", ["mig:3g: you get 3g.40gb"]),
    ("threes", "mig:20gb", "mig:4g.24gb:1", "4g.24gb=1", ["mig:20gb: you get 4g.24gb"]),
    # Where the nearest model has not as many, another does.
    ("all", "mig:5gb:5", "mig:1g.10gb:5", "1g.10gb=5", ["mig:5gb:5: you get 1g.10gb x5"]),
    # All of a job comes from one kind of node: beside 7g.80gb that is an H100.
    ("all", "mig:7g.80gb,mig:5gb", "mig:7g.80gb:1,mig:1g.10gb:1", "1g.10gb=1,7g.80gb=1",
     ["mig:5gb: you get 1g.10gb"]),
    ("gpu", "mig:5gb,mig:1g.5gb,mig:5gb", "mig:1g.5gb:3", "1g.5gb=3",
     ["mig:5gb: you get 1g.5gb"]),
]  # fmt: skip


def prefixed(gres: str | None, prefix: str) -> str | None:
    """As sbatch sends a list: each item with the release's prefix."""
    return None if gres is None else ",".join(prefix + item for item in gres.split(","))


@pytest.fixture(scope="module")
def cluster(version):
    """The module of the cluster above, for Slurm 24.11."""
    with running(version, described(*GROUPS)) as interpreter:
        yield interpreter


@pytest.mark.parametrize(("partition", "asked", "becomes", "token", "told"), ACCEPTED)
def test_accepted(cluster: Interpreter, partition, asked, becomes, token, told) -> None:
    """A request that can be served: what Slurm gets, what is stamped, and what the user is told."""
    answer = cluster.submit(
        PARTITIONS, gres=prefixed(asked, "gres/"), partition=partition, extra="my text"
    )
    assert (answer.code, list(answer.said), answer.logged) == (0, told, ())
    assert answer.gres == prefixed(becomes, "gres/")
    assert answer.job["extra"] == f"slurm-mig/1:{token};my text"
    assert answer.job["requeue"] == (UNSET if token == "none" else 1)  # noqa: S105


REFUSALS = [
    # partition, asked, sentence
    ("gpu", "mig:3g.40gb", ("mig:3g.40gb is not offered by any node of partition gpu; "
     f"{A100_OFFERS}; did you mean 3g.20gb?")),
    ("gpu", "mig:4g.20gb", ("mig:4g.20gb is not offered by any node of partition gpu; "
     f"{A100_OFFERS}; did you mean 3g.20gb?")),
    ("gpu", "mig:3g20gb", ("mig:3g20gb is not offered by any node of partition gpu; "
     f"{A100_OFFERS}; did you mean 3g.20gb?")),
    ("gpu", "mig:a100", f"mig:a100 is not offered by any node of partition gpu; {A100_OFFERS}"),
    ("gpu,big", "mig:7g.40gb", ("mig:7g.40gb is not offered by any node of partitions gpu, big; "
     f"{H100_OFFERS}; {A100_OFFERS}; did you mean 7g.80gb?")),
    ("all", "mig:9g.99gb", ("mig:9g.99gb is not offered by any node of partition all; "
     f"{A100_OFFERS}; {H100_OFFERS}; A30-24GB nodes offer 4g.24gb; and 1 more model")),
    ("nowhere", "mig:2g.20gb", ("mig:2g.20gb is not offered by any node of this cluster; "
     f"{A100_OFFERS}; {H100_OFFERS}; A30-24GB nodes offer 4g.24gb; and 1 more model; "
     "did you mean 2g.10gb?")),
    ("cpu", "mig:3g.20gb", "mig:3g.20gb: no node of partition cpu offers MIG instances"),
    ("empty", "mig:20gb", "mig:20gb: no node of partition empty offers MIG instances"),
    ("gpu", "mig", f"mig names no profile; ask for one by name; {A100_OFFERS}"),
    ("gpu", "mig:2", f"mig:2 names no profile; ask for one by name; {A100_OFFERS}"),
    ("gpu", "mig:", f"mig: names no profile; ask for one by name; {A100_OFFERS}"),
    ("cpu", "mig:2", ("mig:2 names no profile; ask for one by name; "
     "no node of partition cpu offers MIG instances")),
    ("gpu", "mig:none:1", ("mig:none:1 is no profile, it only fills the node's count up; "
     f"{A100_OFFERS}")),
    ("gpu", "mig:1c.3g.20gb", ("mig:1c.3g.20gb asks for a part of a GPU instance; only whole ones "
     "are served: ask for mig:3g.20gb")),
    ("gpu", "mig:3g.20gb:0", "mig:3g.20gb:0: a count is a whole number, 1 or more"),
    ("gpu", "mig:3g.20gb:", "mig:3g.20gb:: a count is a whole number, 1 or more"),
    ("gpu", "mig:3g.20gb:-1", "mig:3g.20gb:-1: a count is a whole number, 1 or more"),
    ("gpu", "mig:3g.20gb:1K", "mig:3g.20gb:1K: a count is a whole number, 1 or more"),
    ("gpu", "mig:3g.20gb:1:1",
     "mig:3g.20gb:1:1 is not understood; write mig:PROFILE or mig:PROFILE:COUNT"),
    ("gpu", "mig(CNT:1)", "mig(CNT:1) is not understood; write mig:PROFILE or mig:PROFILE:COUNT"),
    ("gpu", "mig:3g.20gb:1000", f"mig:3g.20gb:1000 is more than any node has; {A100_OFFERS}"),
    ("gpu", "mig:3g.20gb:3", "mig:3g.20gb:3: no node of partition gpu has more than 2 of 3g.20gb"),
    ("gpu", "mig:3g.20gb,mig:3g.20gb:2",
     "mig:3g.20gb: no node of partition gpu has more than 2 of 3g.20gb"),
    ("all", "mig:3g.20gb,gpu:1,mig:7g.80gb",
     ("mig:3g.20gb,mig:7g.80gb: no node of partition all has all of these at once; "
     f"{A100_OFFERS}; {H100_OFFERS}; A30-24GB nodes offer 4g.24gb; and 1 more model")),
    ("gpu", "mig:30gb",
     f"mig:30gb: no node of partition gpu offers that much in one plain instance; {A100_OFFERS}"),
    ("gpu", "mig:20gb:3", "mig:20gb:3: no node of partition gpu has more than 2 of 3g.20gb"),
    ("gpu", "mig:20gb:2,mig:3g:1",
     f"mig:20gb:2,mig:3g:1: no node of partition gpu has all of these at once; {A100_OFFERS}"),
    # 3g.40gb, 4g.40gb, 7g.80gb are the three that have 30 GB: 7g.80gb is two steps up.
    ("big", "mig:30gb", ("mig:30gb: the smallest that partition big offers is 7g.80gb, more than "
     "one step bigger than asked; if it is to be that, ask for mig:7g.80gb")),
    ("small", "mig:1g", ("mig:1g: the smallest that partition small offers is 4g.24gb, more than "
     "one step bigger than asked; if it is to be that, ask for mig:4g.24gb")),
    ("gpu", "mig:0gb", f"mig:0gb is not offered by any node of partition gpu; {A100_OFFERS}"),
    ("gpu", ",".join(["mig:1g.5gb"] * 33), "mig:1g.5gb,...: too many requests for one job"),
]  # fmt: skip


@pytest.mark.parametrize(("partition", "asked", "sentence"), REFUSALS)
def test_refused(cluster: Interpreter, partition, asked, sentence) -> None:
    """A request that cannot be served is refused with one sentence, and nothing is changed."""
    gres = prefixed(asked, "gres/")
    answer = cluster.submit(PARTITIONS, gres=gres, partition=partition, extra="my text")
    assert (list(answer.said), answer.logged) == ([sentence], ())
    assert answer.code == REFUSED
    assert (answer.gres, answer.job["extra"]) == (gres, "my text")


@pytest.mark.parametrize("field", ["tres_per_job", "tres_per_socket", "tres_per_task"])
def test_not_counted_by_node(cluster: Interpreter, field) -> None:
    """MIG by job, socket or task is refused, with what to write; other GRES there are not ours."""
    answer = cluster.submit(PARTITIONS, **{field: "cpu:1,gres/mig:3g.20gb:1"})
    other = cluster.submit(PARTITIONS, **{field: "gres/gpu:a:1"})
    assert answer.said == (
        (
            "mig:3g.20gb:1: mig is counted by node, not by job, socket or task; "
            "ask for it with --gres=mig:PROFILE:COUNT"
        ),
    )
    assert (answer.code, other.code, other.said) == (REFUSED, 0, ())


@pytest.mark.parametrize(
    ("extra", "kept"),
    [
        (None, ""),
        ("slurm-mig/1:7g.40gb=1;", ""),
        ("slurm-mig/1:none;slurm-mig/1:7g.40gb=8;mine", "mine"),
        ("slurm-mig/1:what,ever;mine", "mine"),
        # What the nodes would not take for a token is the user's own business.
        (" slurm-mig/1:none;", " slurm-mig/1:none;"),
        ("slurm-mig/1:NONE;", "slurm-mig/1:NONE;"),
        ("slurm-mig/2:none;", "slurm-mig/2:none;"),
        ("slurm-mig/1:none", "slurm-mig/1:none"),
        ("50% \x07\n\xff$(id)`id`", "50% \x07\n\xff$(id)`id`"),
    ],
)
def test_forged_tokens(cluster: Interpreter, extra, kept) -> None:
    """Tokens that a user writes are dropped, however many; the text behind them stays."""
    none = cluster.submit(PARTITIONS, extra=extra)
    one = cluster.submit(PARTITIONS, extra=extra, gres="gres/mig:1g.5gb:1")
    assert none.job["extra"] == f"slurm-mig/1:none;{kept}"
    assert one.job["extra"] == f"slurm-mig/1:1g.5gb=1;{kept}"


@pytest.mark.parametrize(("asked", "becomes"), [(UNSET, 1), (0, 0), (1, 1)])
def test_requeue(cluster: Interpreter, asked, becomes) -> None:
    """A MIG job may be requeued, unless its user has said --no-requeue; others are left alone."""
    mig = cluster.submit(PARTITIONS, gres="gres/mig:1g.5gb:1", requeue=asked)
    other = cluster.submit(PARTITIONS, gres="gres/gpu:1", requeue=asked)
    assert (mig.job["requeue"], other.job["requeue"]) == (becomes, asked)


def test_user_text_in_sentences(cluster: Interpreter) -> None:
    """A user's text is cut to 64 bytes, what is not printable is escaped, nothing is a format."""
    gres = "gres/mig:%s%n\x1b[31m\xe4" + "x" * 100
    [sentence] = cluster.submit(PARTITIONS, gres=gres).said
    begin = "mig:%s%n\\x1b[31m\\xc3\\xa4" + "x" * 49 + "... is not offered by any node"
    assert sentence.startswith(begin)


OLD = [
    # Slurm 22.05: gres: as prefix; a count always; srun cannot be given another request.
    ({}, "gres:mig:20gb", 0, "gres:mig:3g.20gb:1", "mig:20gb: you get 3g.20gb"),
    ({}, "gres:mig:3g.20gb,gres:gpu:1", 0, "gres:mig:3g.20gb:1,gres:gpu:1", None),
    ({"script": None, "argc": 0}, "gres:mig:20gb", 0, "gres:mig:3g.20gb:1",
     "mig:20gb: you get 3g.20gb"),
    ({"script": None, "argc": 1}, "gres:mig:3g.20gb:1", 0, "gres:mig:3g.20gb:1", None),
    ({"script": None, "argc": 1}, "gres:mig:20gb", REFUSED, "gres:mig:20gb",
     "mig:20gb: srun of this Slurm release needs profile and count; ask for mig:3g.20gb:1"),
    ({"script": None, "argc": 1}, "gres:mig:3g.20gb", REFUSED, "gres:mig:3g.20gb",
     "mig:3g.20gb: srun of this Slurm release needs profile and count; ask for mig:3g.20gb:1"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "asked", "code", "becomes", "told"), OLD)
def test_before_23_11(start, how, asked, code, becomes, told) -> None:
    """On 22.05 the prefix is another, and srun must say what it gets, as its own step asks too."""
    lua = start(described(*GROUPS, release=(22, 5), token="comment"))  # noqa: S106
    answer = lua.submit(PARTITIONS, gres=asked, comment="mine", **how)
    assert (answer.code, answer.gres, list(answer.said)) == (code, becomes, [told] if told else [])
    if code == 0:
        assert answer.job["comment"] == "slurm-mig/1:3g.20gb=1;mine"


def test_without_a_field(start) -> None:
    """Where no field is stamped, requests are checked all the same and no text is touched."""
    lua = start(described(*GROUPS, release=(22, 5), token=""))
    answer = lua.submit(PARTITIONS, gres="gres:mig:3g.20gb", comment="slurm-mig/1:none;")
    refused = lua.submit(PARTITIONS, gres="gres:mig:3g.40gb")
    assert (answer.gres, answer.job["comment"]) == ("gres:mig:3g.20gb:1", "slurm-mig/1:none;")
    assert (answer.code, refused.code, "extra" in answer.job) == (0, REFUSED, False)


def test_elastic(start) -> None:
    """With elastic mode a job may ask for what a node could make, promised now or not."""
    one = group(
        "e", "gpu[01-16]", 16, {"3g.20gb": 2}, A100, maxima={"3g.20gb": 2, "7g.40gb": 1}, padding=7
    )
    lua = start(described(one, elastic=True))
    assert lua.submit(PARTITIONS, gres="gres/mig:7g").gres == "gres/mig:7g.40gb:1"


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ("mig:7g.40gb,mig:3g.20gb:2", True),
        # One GPU for each: no memory slice is left.
        ("mig:7g.40gb,mig:3g.20gb:2,mig:1g.5gb", False),
        ("mig:7g.40gb,mig:20gb:3", False),
        # 3 + 4 x 1 of 7 compute slices on one, 7 on the other; one more is too many.
        ("mig:7g.40gb,mig:3g.20gb,mig:1g.5gb:4", True),
        ("mig:7g.40gb,mig:1g.5gb:8", False),
    ],
)
def test_elastic_mixtures(start, asked, fits) -> None:
    """What a node could make of each type it cannot make at once: slices must be enough for all."""
    maxima = {"1g.5gb": 14, "3g.20gb": 4, "7g.40gb": 2}
    one = group("e", "gpu[01-16]", 16, {}, A100, A100, maxima=maxima)
    answer = start(described(one, elastic=True)).submit(PARTITIONS, gres=prefixed(asked, "gres/"))
    assert (answer.code == 0) is fits
    assert fits or "no node of partition gpu has all of these at once" in answer.said[0]


def test_a_node_with_two_models(start) -> None:
    """A node with two models offers the profiles of both; a portable request gets the nearer."""
    two = group("two", "gpu[01-16]", 16, {"1g.5gb": 7, "1g.10gb": 7, "7g.80gb": 1}, A100, H100)
    lua = start(described(two))
    both = lua.submit(PARTITIONS, gres="gres/mig:8gb,gres/mig:1g.5gb")
    [sentence] = lua.submit(PARTITIONS, gres="gres/mig:2g.10gb").said
    assert both.gres == "gres/mig:1g.10gb:1,gres/mig:1g.5gb:1"
    assert sentence == (
        "mig:2g.10gb is not offered by any node of partition gpu; A100-SXM4-40GB nodes offer "
        "1g.5gb, 1g.10gb; H100-SXM5-80GB nodes offer 1g.10gb, 7g.80gb; did you mean 1g.10gb?"
    )


def test_sets_no_global(cluster: Interpreter) -> None:
    """The module leaves nothing behind in the names that all of a site's Lua shares."""
    cluster.submit(PARTITIONS, gres="gres/mig:20gb")
    cluster.submit(PARTITIONS, gres="gres/mig:99gb")
    assert cluster.call(what="globals").said == ()


@pytest.mark.parametrize(
    ("partition", "nodes", "is_there"),
    [
        ("n[01-10]", "n09", True),
        ("n[01-10]", "n9", False),
        ("n[8-12]", "n[09-10]", True),
        ("n[8-9]", "n[09,10]", False),
        ("n[098-101]", "n100", True),
        ("n[098-101]", "n99", False),
        ("a,r[1-2]n[01-02],z", "r2n02", True),
        ("r[1-2]n[01-02]", "r2n2", False),
        ("gpu1", "gpu10", False),
        ("gpu[1-3,5,7-9]", "gpu[4,6,8]", True),
        ("gpu[1-3,5,7-9]", "gpu[4,6]", False),
        ("", "gpu1", False),
    ],
)
def test_nodes_of_a_partition(start, partition, nodes, is_there) -> None:
    """A partition offers what a group does if they share a node, as Slurm writes names."""
    lua = start(described(group("a", nodes, 1, {"1g.5gb": 7}, A100)))
    answer = lua.submit({"p": {"nodes": partition}}, gres="gres/mig:1g.5gb:1", partition="p")
    assert (answer.code == 0) is is_there
