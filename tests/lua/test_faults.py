"""An error inside the module: no job slips through, and the cluster goes on."""

import pytest
from luajob import described, group

from slurm_mig.table import entries

REFUSED = 2072
TABLE = {entry.key: entry for entry in entries()}
ONE = described(group("a", "a[1-2]", 2, {"1g.5gb": 7}, TABLE["A100-SXM4-40GB"]))
PARTITIONS = {"gpu": {"nodes": "a[1-2]", "flag_default": 1}}
SENTENCE = (
    "the mig part of this request could not be checked, so it is refused; "
    "the reason is in slurmctld's log"
)


def call(lua, broken, rec=None, **job):
    """One call with a field that raises when it is read."""
    fields = {"extra": "slurm-mig/1:1g.5gb=1;mine", "requeue": 65534, **job}
    what = "submit" if rec is None else "modify"
    more = {} if rec is None else {"rec": rec}
    return lua.call(what=what, job=fields, partitions=PARTITIONS, broken=broken, **more)


def test_a_job_that_asks_for_mig(start) -> None:
    """It is refused, with a sentence, and the log says why."""
    answer = call(start(ONE), "partition", tres_per_node="gres/mig:1g.5gb:1")
    assert (answer.code, answer.said) == (REFUSED, (SENTENCE,))
    [logged] = answer.logged
    assert logged.startswith("slurm-mig: ")
    assert logged.endswith("broken on purpose")


@pytest.mark.parametrize(
    ("broken", "code", "extra"),
    [
        # Nothing says that it asks for mig: stamped as one that does not.
        ("script", 0, "slurm-mig/1:none;mine"),
        ("tres_per_job", REFUSED, "slurm-mig/1:1g.5gb=1;mine"),
        ("gres", REFUSED, "slurm-mig/1:1g.5gb=1;mine"),
        ("extra", REFUSED, "slurm-mig/1:1g.5gb=1;mine"),
    ],
)
def test_a_job_that_does_not(start, broken, code, extra) -> None:
    """It goes through, stamped, unless its request or the field itself cannot be read."""
    answer = call(start(ONE), broken, tres_per_node="gres/gpu:1")
    assert (answer.code, answer.job["extra"]) == (code, extra)


def test_a_change(start) -> None:
    """A change of a MIG job's field that cannot be checked is refused."""
    lua = start(ONE)
    record = {"gres": "gres/mig:1g.5gb:1", "tres_per_node": "gres/mig:1g.5gb:1"}
    answer = call(lua, "partition", rec=record)
    assert (answer.code, answer.said) == (REFUSED, (SENTENCE,))


def test_a_partition_list_that_is_none(start) -> None:
    """The same when what Slurm hands over is not what it says."""
    lua = start(ONE)
    job = {"tres_per_node": "gres/mig:1g.5gb:1", "requeue": 65534}
    answer = lua.call(what="submit", job=job, partitions=7)
    other = lua.call(what="submit", job={"requeue": 65534, "extra": "x"}, partitions=7)
    assert (answer.code, len(answer.logged)) == (REFUSED, 1)
    assert (other.code, other.job["extra"], other.logged) == (0, "slurm-mig/1:none;x", ())


def test_goes_on(start) -> None:
    """After an error the next job is served as ever."""
    lua = start(ONE)
    call(lua, "partition", tres_per_node="gres/mig:1g.5gb:1")
    answer = lua.submit(PARTITIONS, gres="gres/mig:1g")
    assert (answer.code, answer.job["extra"]) == (0, "slurm-mig/1:1g.5gb=1;")
