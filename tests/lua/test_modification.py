"""What becomes of a change: the token follows the request, and no user moves it."""

import pytest
from luajob import Interpreter, described, group, running

from slurm_mig.table import entries

REFUSED = 2072
TABLE = {entry.key: entry for entry in entries()}
GROUPS = (
    group("a", "a[1-2]", 2, {"3g.20gb": 2, "1g.5gb": 4}, TABLE["A100-SXM4-40GB"]),
    group("b", "b1", 1, {"1g.10gb": 7}, TABLE["H100-SXM5-80GB"]),
)
PARTITIONS = {
    "gpu": {"nodes": "a[1-2]", "flag_default": 1},
    "big": {"nodes": "b1"},
    "cpu": {"nodes": "c[1-9]"},
}
STAMPED = "slurm-mig/1:1g.5gb=1;mine"
RECORD = {"gres": "gres/mig:1g.5gb:1,gres/gpu:1", "extra": STAMPED, "partition": "gpu"}
PLAIN = {"gres": None, "extra": "slurm-mig/1:none;mine", "partition": "gpu"}


@pytest.fixture(scope="module")
def cluster(version):
    """The module of the cluster above, for Slurm 24.11."""
    with running(version, described(*GROUPS)) as interpreter:
        yield interpreter


@pytest.mark.parametrize(
    ("change", "extra"),
    [
        ("", "slurm-mig/1:1g.5gb=1;"),
        ("other", "slurm-mig/1:1g.5gb=1;other"),
        ("slurm-mig/1:7g.40gb=1;other", "slurm-mig/1:1g.5gb=1;other"),
        ("slurm-mig/1:none;", "slurm-mig/1:1g.5gb=1;"),
        ("slurm-mig/1:none;slurm-mig/1:1g.5gb=1;x", "slurm-mig/1:1g.5gb=1;x"),
    ],
)
def test_the_text_alone(cluster: Interpreter, change, extra) -> None:
    """Whatever is written, the token of the job's own request stands before it again."""
    answer = cluster.modify(PARTITIONS, RECORD, extra=change)
    assert (answer.code, answer.job["extra"], answer.said) == (0, extra, ())


def test_a_job_without_mig(cluster: Interpreter) -> None:
    """A job that asks for none cannot be made to look as if it did."""
    answer = cluster.modify(PARTITIONS, PLAIN, extra="slurm-mig/1:3g.20gb=1;x")
    assert (answer.code, answer.job["extra"]) == (0, "slurm-mig/1:none;x")


@pytest.mark.parametrize(
    ("gres", "becomes", "extra"),
    [
        ("gres/mig:3g.20gb", "gres/mig:3g.20gb:1", "slurm-mig/1:3g.20gb=1;mine"),
        ("gres/mig:20gb:2", "gres/mig:3g.20gb:2", "slurm-mig/1:3g.20gb=2;mine"),
        # `scontrol update Gres=` arrives so.
        ("gres/", "gres/", "slurm-mig/1:none;mine"),
        ("", "", "slurm-mig/1:none;mine"),
        ("gres/gpu:1", "gres/gpu:1", "slurm-mig/1:none;mine"),
    ],
)
def test_another_request(cluster: Interpreter, gres, becomes, extra) -> None:
    """A new GRES is checked and written as at submission; the user's own text stays."""
    answer = cluster.modify(PARTITIONS, RECORD, gres=gres)
    assert (answer.code, answer.gres, answer.job["extra"]) == (0, becomes, extra)


def test_request_and_text(cluster: Interpreter) -> None:
    """With both in one update, the new token stands before the new text."""
    answer = cluster.modify(PARTITIONS, RECORD, gres="gres/mig:3g.20gb:1", extra=STAMPED)
    assert answer.job["extra"] == "slurm-mig/1:3g.20gb=1;mine"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"gres": "gres/mig:7g.40gb"},
            (
                "mig:7g.40gb is not offered by any node of partition gpu; "
                "A100-SXM4-40GB nodes offer 1g.5gb, 3g.20gb"
            ),
        ),
        (
            {"gres": "gres/mig:3g.20gb", "partition": "big"},
            (
                "mig:3g.20gb is not offered by any node of partition big; "
                "H100-SXM5-80GB nodes offer 1g.10gb"
            ),
        ),
        (
            {"partition": "big"},
            (
                "mig:1g.5gb:1 is not offered by any node of partition big; "
                "H100-SXM5-80GB nodes offer 1g.10gb; did you mean 1g.10gb?"
            ),
        ),
        ({"partition": "cpu"}, "mig:1g.5gb:1: no node of partition cpu offers MIG instances"),
        (
            {"tres_per_task": "gres/mig:1g.5gb:1"},
            (
                "mig:1g.5gb:1: mig is counted by node, not by job, socket or task; "
                "ask for it with --gres=mig:PROFILE:COUNT"
            ),
        ),
    ],
)
def test_refused(cluster: Interpreter, change, sentence) -> None:
    """A change that the job could not run with is refused with a sentence; nothing is changed."""
    answer = cluster.modify(PARTITIONS, RECORD, **change)
    assert (answer.code, answer.said, answer.logged) == (REFUSED, (sentence,), ())
    assert "extra" not in answer.job


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (RECORD, {"name": "other"}),
        (RECORD, {"partition": "cpu,gpu"}),
        (PLAIN, {"partition": "cpu"}),
        # From before the plugin: no token, and none is put there by a change of something else.
        ({"gres": "gres/mig:1", "partition": "gpu"}, {"name": "other"}),
        ({"gres": "gres/mig:1", "partition": "gpu"}, {"partition": "cpu"}),
        ({"gres": "gres/mig:1g.5gb:1", "partition": "gpu", "extra": "mine"}, {"time_limit": 5}),
    ],
)
def test_left_alone(cluster: Interpreter, record, change) -> None:
    """What does not concern the request or its field passes untouched."""
    answer = cluster.modify(PARTITIONS, record, **change)
    assert (answer.code, answer.said, "extra" in answer.job, answer.gres) == (0, (), False, None)


@pytest.mark.parametrize(
    ("gres", "extra"),
    [("gres/mig:3g.20gb:1", "slurm-mig/1:3g.20gb=1;x"), ("gres/mig:1", "x"), (None, None)],
)
def test_the_text_of_an_old_job(cluster: Interpreter, gres, extra) -> None:
    """A job from before the plugin gets the token of its request; none if there is no true one."""
    answer = cluster.modify(PARTITIONS, {"gres": gres}, extra="slurm-mig/1:none;x")
    assert answer.job["extra"] == (extra or "slurm-mig/1:none;x")


def test_repeated(cluster: Interpreter) -> None:
    """Slurm hands one and the same change over for each task of an array: it ends up the same."""
    first = cluster.modify(PARTITIONS, RECORD, gres="gres/mig:20gb", extra="x")
    again = cluster.modify(PARTITIONS, RECORD, gres=first.gres, extra=first.job["extra"], name="x")
    assert (again.gres, again.job["extra"]) == (first.gres, first.job["extra"])
    assert first.job["extra"] == "slurm-mig/1:3g.20gb=1;x"


def test_comment(start) -> None:
    """Where the comment is stamped, it is the comment that is guarded, and extra is the user's."""
    lua = start(described(*GROUPS, release=(22, 5), token="comment"))  # noqa: S106
    record = {"gres": "gres:mig:1g.5gb:1", "comment": STAMPED}
    answer = lua.modify(PARTITIONS, record, comment="", extra="slurm-mig/1:none;")
    assert answer.job["comment"] == "slurm-mig/1:1g.5gb=1;"
    assert answer.job["extra"] == "slurm-mig/1:none;"


def test_without_a_field(start) -> None:
    """Where no field is stamped a change is checked, and no text is touched."""
    lua = start(described(*GROUPS, release=(22, 5), token=""))
    record = {"gres": "gres:mig:1g.5gb:1", "comment": "mine", "partition": "gpu"}
    good = lua.modify(PARTITIONS, record, gres="gres:mig:3g", comment="other")
    bad = lua.modify(PARTITIONS, record, partition="cpu")
    assert (good.code, good.gres, good.job["comment"]) == (0, "gres:mig:3g.20gb:1", "other")
    assert bad.code == REFUSED


@pytest.mark.parametrize(
    ("release", "said", "logged"), [((23, 2), ["{}"], []), ((22, 5), [], ["slurm-mig: {}"])]
)
def test_who_is_told(start, release, said, logged) -> None:
    """Before 23.02 slurmctld discards what is said to a user about a change: it is logged."""
    lua = start(described(*GROUPS, release=release, token="comment"))  # noqa: S106
    note = lua.modify(PARTITIONS, RECORD, gres="gres:mig:20gb")
    refused = lua.modify(PARTITIONS, RECORD, partition="cpu")
    for answer, text in (
        (note, "mig:20gb: you get 3g.20gb"),
        (refused, "mig:1g.5gb:1: no node of partition cpu offers MIG instances"),
    ):
        assert list(answer.said) == [line.format(text) for line in said]
        assert list(answer.logged) == [line.format(text) for line in logged]
