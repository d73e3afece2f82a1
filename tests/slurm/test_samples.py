"""What three Slurm releases really said, read into records: expected == actual.

samples/ was recorded by record.py; job ids, nodes and users are the same in every release.
"""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from slurm_mig.request import asks
from slurm_mig.slurm import (
    JobRecord,
    JobUnknown,
    NodeRecord,
    SlurmUnavailable,
    job_from_answer,
    job_from_json,
    job_from_text,
    node_from_json,
)
from slurm_mig.slurm_records import AmbiguousText, expand_hostlist

SAMPLES = Path(__file__).parent / "samples"
RELEASES = ["22.05", "24.11", "26.05"]
HOSTILE = (
    '"}],"gres_detail":["mig:7g.40gb(CNT:9)"],"x":[{"y":"'
    '\n\tGRES=mig:7g.40gb:9 $(id)`id`; \\"%s é 漢'
)
# A batch job of root that runs and was never requeued; each case says how it differs.
PLAIN = JobRecord(
    job_id=0,
    user_id=0,
    batch=True,
    requeue=True,
    restarts=0,
    start_time=0,
    state="RUNNING",
    gres="",
    nodes=(),
    extra="",
    comment="",
    admin_comment="",
    array_job_id=0,
    array_task_id=None,
    het_job_id=0,
)
BOTH = ("node01", "node02")
THIRD = ("node03", "other")
MIXED = "mig:3g.20gb(CNT:1),mig:1g.5gb(CNT:2)"
ENDING = {"state": "COMPLETED+COMPLETING"}
# (sample, job id, seen from, differences, differences in 22.05 only)
CASES = [
    ("no_gres", 1, "node01", {"requeue": False, "nodes": ("node01",)}, {}),
    ("running", 2, "node01", {"gres": "mig:3g.20gb(CNT:1)", "nodes": ("node01",)}, {}),
    ("running", 2, "node02", {"nodes": ("node01",)}, {}),
    ("mixed", 3, "node01", {"gres": MIXED, "nodes": BOTH}, {}),
    ("mixed", 3, "node02", {"gres": MIXED, "nodes": BOTH}, {}),
    ("two_nodes", 4, "node03", {"gres": "mig:2g.10gb(CNT:2)", "nodes": THIRD}, {}),
    ("two_nodes", 4, "other", {"gres": "mig:1g.5gb+me(CNT:2)", "nodes": THIRD}, {}),
    (
        "hostile",
        5,
        "node01",
        {"gres": "mig:1g.5gb(CNT:1)", "nodes": ("node01",), "comment": HOSTILE, "extra": HOSTILE},
        {"extra": ""},
    ),
    ("array", 6, "node02", {"state": "PENDING", "array_job_id": 6}, {}),
    (
        "array",
        7,
        "node02",
        {
            "gres": "mig:1g.5gb(CNT:1)",
            "nodes": ("node02",),
            "array_job_id": 6,
            "array_task_id": 3,
        },
        {},
    ),
    (
        "array_task",
        7,
        "node02",
        {
            "gres": "mig:1g.5gb(CNT:1)",
            "nodes": ("node02",),
            "array_job_id": 6,
            "array_task_id": 3,
        },
        {},
    ),
    (
        "interactive",
        9,
        "other",
        {"batch": False, "gres": "mig:1g.5gb+me(CNT:1)", "nodes": ("other",)},
        {},
    ),
    ("pending", 10, "node03", {"state": "PENDING", "requeue": False}, {}),
    ("requeued_waiting", 11, "other", {"state": "PENDING", "restarts": 1}, {}),
    (
        "requeued",
        11,
        "other",
        {"gres": "mig:1g.5gb(CNT:1)", "nodes": ("other",), "restarts": 1},
        {},
    ),
    (
        "held",
        12,
        "other",
        {"state": "PENDING", "restarts": 1, "admin_comment": "no such profile here"},
        {},
    ),
    ("done", 13, "other", {"state": "COMPLETED", "nodes": ("other",)}, {}),
    ("in_epilog", 14, "slow", {**ENDING, "nodes": ("slow",)}, {"state": "COMPLETING"}),
    (
        "het_leader",
        15,
        "other",
        {"gres": "mig:1g.5gb(CNT:1)", "nodes": ("other",), "het_job_id": 15},
        {},
    ),
    ("het_component", 16, "node01", {"nodes": ("node01",), "het_job_id": 15}, {}),
]


def case_id(case: tuple) -> str:
    """Name a case by its sample, job and node."""
    return f"{case[0]}-{case[1]}-{case[2]}"


def sample(release: str, name: str) -> bytes:
    """Return a recorded answer."""
    return (SAMPLES / release / name).read_bytes()


def settled(record: JobRecord) -> JobRecord:
    """Return the record without what depends on when it was recorded, and without `asked`.

    The task id of tasks that still wait is a range or one task, as Slurm likes.
    """
    waits = record.array_job_id == record.job_id and record.state == "PENDING"
    task = None if waits else record.array_task_id
    return replace(record, start_time=0, array_task_id=task, asked="")


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_what_was_asked_for(release: str, case: tuple) -> None:
    """A job that holds instances has asked for them; one without GRES for nothing."""
    name, job_id, node, differs, _ = case
    record = job_from_json(sample(release, f"{name}.json"), job_id, node)
    assert asks(record.asked) or not differs.get("gres", "")
    assert bool(record.asked) is (name != "no_gres")


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_job_json_of_each_release(release: str, case: tuple) -> None:
    """The same job gives the same record in every release, in whatever shape it comes."""
    name, job_id, node, differs, differs_in_22_05 = case
    expected = replace(
        PLAIN, job_id=job_id, **(differs | (differs_in_22_05 if release == "22.05" else {}))
    )
    actual = job_from_json(sample(release, f"{name}.json"), job_id, node)
    assert asdict(settled(actual)) == asdict(expected)
    assert actual.start_time > 1_700_000_000 or actual.state == "PENDING"


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local time of the machine where the samples were recorded."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC0")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("case", CASES, ids=case_id)
@pytest.mark.usefixtures("utc")
def test_job_text_of_22_05_says_what_its_json_says(case: tuple) -> None:
    """The text that scontrol 22.05 prints gives the same record, times included.

    Except that a comment with line breaks ends with its first line.
    """
    name, job_id, node, _, _ = case
    records = sample("22.05", f"{name}.txt").decode().split("\n\n")
    # Of several records the job's own, as scontrol prints it when asked for it alone.
    [text] = [one for one in records if one.lstrip("\n").startswith(f"JobId={job_id} ")]
    by_text = job_from_text(text, job_id, node)
    by_json = job_from_json(sample("22.05", f"{name}.json"), job_id, node)
    same = replace(
        by_json,
        comment=by_json.comment.partition("\n")[0],
        array_task_id=by_text.array_task_id,
    )
    assert asdict(by_text) == asdict(same)
    assert job_from_answer(text, job_id, node) == by_text


@pytest.mark.parametrize("release", RELEASES)
def test_a_job_that_slurm_does_not_know(release: str) -> None:
    """An answer without the job is JobUnknown, also if it is full of other jobs (22.05)."""
    with pytest.raises(JobUnknown, match="job 4711: Slurm does not know it"):
        job_from_json(sample(release, "unknown.json"), 4711, "node01")


@pytest.mark.parametrize("release", RELEASES)
def test_node_json_of_each_release(release: str) -> None:
    """State with its flags, GRES counts, what is used, extra and reason of a node."""
    idle = node_from_json(sample(release, "node.json"), "node01")
    drained = node_from_json(sample(release, "node_drained.json"), "node02")
    gres = "mig:3g.20gb:2,mig:1g.5gb:4"
    # PLANNED: the scheduler keeps the node in mind for a job that waits; not of our doing.
    idle, drained = (
        replace(one, state=one.state.replace("+PLANNED", "")) for one in (idle, drained)
    )
    assert idle == NodeRecord(
        name="node01",
        state="MIXED",
        gres=gres,
        gres_used="mig:3g.20gb:2,mig:1g.5gb:3",
        extra="",
        reason="",
    )
    assert drained == NodeRecord(
        name="node02",
        state="MIXED+DRAIN",
        gres=gres,
        gres_used="mig:3g.20gb:1,mig:1g.5gb:4",
        extra='{"mig": [1, "a b"]}',
        reason="a b=c, 'd'",
    )


@pytest.mark.parametrize(
    "answer",
    [b"", b"{", b"[]", b'{"nodes": []}', b"null", b"scontrol: error", b"\xff\xfe", b"[" * 100_000],
    ids=range(8),
)
def test_an_answer_that_is_no_json(answer: bytes) -> None:
    """Anything else is one line that says so, never a traceback."""
    with pytest.raises(SlurmUnavailable, match=r"^job 7: Slurm's answer is not JSON with 'jobs'"):
        job_from_json(answer, 7, "n")


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"job_id": 7, "nodes": "n"}, "has no gres_detail"),
        ({"job_id": 7, "nodes": "n[1-2]", "gres_detail": ["x"]}, "not one entry for each of 2"),
        ({"job_id": 7, "nodes": "n1", "gres_detail": "mig:x"}, "not one entry for each of 1"),
        ({"job_id": 7, "nodes": "n[1-", "gres_detail": []}, "malformed host list"),
    ],
)
def test_json_that_does_not_tell_what_a_node_holds(job: dict, said: str) -> None:
    """Not to know what a job holds is an error: read as nothing, it would run without instance."""
    with pytest.raises(SlurmUnavailable, match=said):
        job_from_json(json_of(job), 7, "n1")


def json_of(job: dict) -> str:
    """Return an answer with one job."""
    return json.dumps({"jobs": [job]})


def test_a_job_that_asked_for_none_of_a_gres() -> None:
    """`--gres=mig:3g.20gb:0` is no detail and no fault: a user's request never drains a node."""
    job = {
        "job_id": 7,
        "job_state": ["RUNNING"],
        "nodes": "n1",
        "tres_per_node": "gres/mig:3g.20gb:0",
        "gres_detail": [],
    }
    assert job_from_json(json_of(job), 7, "n1").gres == ""


LINES = sample("22.05", "running.txt").decode()
FORGED_DETAIL = "\n   JOB_GRES=mig:7g.40gb:1\n     Nodes=node01 CPU_IDs=0 Mem=0 GRES=mig:7g.40gb:1"


@pytest.mark.parametrize("field", ["JobName=sbatch", "Account=(null)", "Command=(null)"])
def test_a_forged_detail_line_is_not_read(field: str) -> None:
    """A user's line break followed by what looks like resources changes nothing."""
    text = LINES.replace(field, field + FORGED_DETAIL, 1)
    assert text != LINES
    assert job_from_text(text, 2, "node01") == job_from_text(LINES, 2, "node01")


@pytest.mark.parametrize("field", ["JobName=sbatch", "Account=(null)", "Command=(null)"])
@pytest.mark.parametrize(
    "line", [line for line in LINES.split("\n")[1:] if re.match(r"   [A-Z]", line)][:20]
)
def test_a_forged_line_of_slurms_own_is_not_believed(field: str, line: str) -> None:
    """A second line of Slurm's own, at any place where a user can write, is never read wrong.

    The answer is either the same as without it or "ask for JSON".
    """
    text = LINES.replace(field, f"{field}\n{line}{FORGED_DETAIL}\n   MinCPUsNode=1", 1)
    actual = job_from_answer(text, 2, "node01")
    assert actual in (None, job_from_text(LINES, 2, "node01"))


@pytest.mark.parametrize("field", ["JobName=sbatch", "Account=(null)", "Command=(null)"])
def test_a_forged_whole_job_is_not_believed(field: str) -> None:
    """A whole second record of the same job, or of another, hides nothing and adds nothing."""
    forged = LINES.replace("mig:3g.20gb(CNT:1)", "mig:7g.40gb(CNT:1)")
    same = LINES.replace(field, f"{field}\n{forged}", 1)
    other = LINES.replace(field, field + "\n" + forged.replace("JobId=2 ", "JobId=9 "), 1)
    assert job_from_answer(same, 2, "node01") is None
    assert job_from_answer(other, 2, "node01") in (None, job_from_text(LINES, 2, "node01"))


@pytest.mark.parametrize("field", ["JobName=sbatch", "Account=(null)", "Command=(null)"])
@pytest.mark.parametrize("head", ["JobId=9 ", "JobId=2 ", "JobId=9 ArrayJobId=2 ArrayTaskId=1 "])
def test_a_forged_record_that_takes_the_place_of_slurms_is_not_believed(
    field: str, head: str
) -> None:
    """A name with a record in it and then another job's head leaves Slurm's lines to that job.

    442 characters did it: another user's id, a larger profile.
    """
    forged = LINES.replace("mig:3g.20gb(CNT:1)", "mig:7g.40gb(CNT:1)").replace("(0)", "(1000)")
    body = forged[forged.index("   UserId") : forged.index("   Features")]
    text = LINES.replace(field, f"{field}\n{body}{head}JobName=x", 1)
    assert job_from_answer(text, 2, "node01") is None


@pytest.mark.parametrize(
    ("name", "job", "address"),
    [("array", 8, "6_4"), ("array", 7, "6_3"), ("array", 6, "6_5"), ("het_leader", 15, "15+0")],
)
def test_text_with_several_records_is_not_read(name: str, job: int, address: str) -> None:
    """Which lines are whose cannot be told for sure; the error says how to ask for one alone."""
    text = sample("22.05", f"{name}.txt").decode()
    with pytest.raises(AmbiguousText) as caught:
        job_from_text(text, job, "node01")
    assert caught.value.address == address
    # A name that says it is ours: which head is Slurm's own cannot be told either.
    with pytest.raises(AmbiguousText) as caught:
        job_from_text(text.replace("sbatch", f"x\nJobId={job} HetJobId=1 HetJobOffset=0 "), job, "")
    assert caught.value.address == ""


def test_json_with_what_is_no_utf8() -> None:
    """Slurm hands a job's name on as it is; bytes that are no UTF-8 in it are not our fault."""
    job = {"job_id": 7, "nodes": "n1", "gres_detail": ["mig:1g.5gb(CNT:1)"], "name": "N"}
    answer = json_of(job).encode().replace(b'"N"', b'"\xff\xc3("')
    assert job_from_json(answer, 7, "n1").gres == "mig:1g.5gb(CNT:1)"


def test_text_without_detail_is_no_answer() -> None:
    """Text of a running job without its resources (no -d) is an error, not "holds nothing"."""
    bare = "\n".join(line for line in LINES.split("\n") if "GRES=" not in line)
    with pytest.raises(SlurmUnavailable, match=r"job 2 on node01: .* was it asked for with -d"):
        job_from_text(bare, 2, "node01")


@pytest.mark.parametrize("cut", range(0, len(LINES), 97))
def test_text_that_was_cut_off_is_never_read_as_no_gres(cut: int) -> None:
    """Half an answer is an error or a wish for JSON."""
    with pytest.raises((AmbiguousText, JobUnknown, SlurmUnavailable)):
        job_from_text(LINES[: min(cut, LINES.index("   MinCPUsNode"))], 2, "node01")


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a[1-3]", ["a1", "a2", "a3"]),
        ("a[08-10,12],login", ["a08", "a09", "a10", "a12", "login"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("a[1-2]-ib,b-3.site", ["a1-ib", "a2-ib", "b-3.site"]),
    ],
)
def test_host_lists(text: str, nodes: list[str]) -> None:
    """Host lists as Slurm writes them, padding and several brackets included."""
    assert expand_hostlist(text) == nodes


@pytest.mark.parametrize("text", ["a[1-", "a]1[", "a[x]", "a[1-99999999]", "a[1,,2]", "a[]"])
def test_malformed_host_lists(text: str) -> None:
    """What is no host list is a ValueError, soon."""
    with pytest.raises(ValueError, match="host"):
        expand_hostlist(text)
