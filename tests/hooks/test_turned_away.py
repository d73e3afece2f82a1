"""Jobs that cannot be served: what becomes of them, what their user reads, and no node drained."""

import pytest

GRES = "mig:7g.40gb(CNT:1)"


@pytest.fixture
def full(make):
    """A node whose only GPU has no room; three misses and a batch job is held."""
    hooks = make(prolog={"misses": 3}, slurm={"timeout": 3})
    hooks.job(1, "mig:4g.20gb(CNT:1)")
    assert hooks.prolog(1).rc == 0
    (hooks.folder / "calls").unlink()
    return hooks


NO_ROOM = "no room for 7g.40gb; free now: "


def acts(hooks):
    """The commands that change something."""
    return [line for line in hooks.asked() if " show " not in line]


def refused(hooks, job=7):
    """What the task prolog says to a task of the job; the task must not run."""
    status, env, said = hooks.task(job)
    assert (status, env) == (1, {})
    return said


def test_miss_of_a_batch_job(full):
    """No room now: the job goes back to the queue, the node is not drained, no task can run."""
    full.job(7, GRES)
    run = full.prolog()
    assert (run.rc, run.output) == (0, "")
    assert acts(full) == ["scontrol requeue 7"]
    assert refused(full).startswith(f"slurm-mig: job 7 may not run here: {NO_ROOM}")
    assert full.epilog().rc == 0
    assert full.task() == (0, {}, "")
    assert full.ledger() == [(1, "4g.20gb", "live")]


def test_slurm_does_not_say_what_the_job_holds(hooks):
    """Asked for MIG, and nothing in the record's detail: back to the queue, never run without."""
    hooks.job(7, "", tres_per_node="gres/mig:1g.5gb:1")
    run = hooks.prolog()
    assert (run.rc, run.output) == (0, "")
    assert acts(hooks) == ["scontrol requeue 7"]
    assert refused(hooks) == (
        "slurm-mig: job 7 may not run here: the job asked for gres/mig:1g.5gb:1, and Slurm's "
        "record of it says of no instance that it holds here\n"
    )
    assert hooks.epilog().rc == 0
    hooks.nothing_left()


def test_request_for_none(hooks):
    """`mig:1g.5gb:0` asks for nothing, and holds nothing: the job runs."""
    hooks.job(7, "", tres_per_node="gres/mig:1g.5gb:0")
    assert (hooks.prolog().rc, acts(hooks)) == (0, [])
    assert hooks.task() == (0, {}, "")


def test_held_after_misses_in_a_row(full):
    """The third miss in a row holds the job with the reason; then it starts to count anew."""
    full.job(7, GRES)
    for _ in range(3):
        assert full.prolog().rc == 0
        assert full.epilog().rc == 0
    assert acts(full)[:2] == ["scontrol requeue 7"] * 2
    comment, hold = acts(full)[2:]
    assert comment.startswith(f"scontrol update JobId=7 AdminComment=slurm-mig: {NO_ROOM}")
    assert comment.endswith(" (3 times in a row)")
    assert hold == "scontrol requeuehold 7"
    full.prolog()
    assert acts(full)[4:] == ["scontrol requeue 7"]


def test_served_job_forgets_its_misses(full):
    """A job that was served after misses starts to count anew."""
    full.job(7, GRES)
    full.prolog(), full.epilog()
    full.prolog(), full.epilog()
    full.epilog(1)
    assert full.prolog().rc == 0
    assert [profile for profile, _ in full.lives()] == ["7g.40gb"]
    full.epilog()
    full.prolog(1)
    full.prolog()
    assert acts(full) == ["scontrol requeue 7"] * 3


def test_miss_of_an_interactive_job(full):
    """An interactive job cannot go back: its user is told, and it is cancelled."""
    full.job(7, GRES, batch=False)
    assert full.prolog().rc == 0
    notify, comment, cancel = acts(full)
    assert notify.startswith(f"scontrol notify 7 slurm-mig: {NO_ROOM}")
    assert comment.startswith(f"scontrol update JobId=7 AdminComment=slurm-mig: {NO_ROOM}")
    assert cancel == "scancel 7"
    assert refused(full).startswith(f"slurm-mig: job 7 may not run here: {NO_ROOM}")


def test_batch_job_that_may_not_requeue(full):
    """A batch job with --no-requeue is cancelled with the reason."""
    full.job(7, GRES, requeue=False)
    assert full.prolog().rc == 0
    comment, cancel = acts(full)
    assert comment.startswith(f"scontrol update JobId=7 AdminComment=slurm-mig: {NO_ROOM}")
    assert cancel == "scancel 7"


@pytest.mark.parametrize(
    ("gres", "reason"),
    [
        ("mig:3g.40gb(CNT:1)", "no GPU of this node has a profile '3g.40gb'; did you mean "),
        ("mig(CNT:2)", "'mig(CNT:2)' names no profile; ask for one by name, such as --gres=mig:"),
        ("mig:3g(CNT:1)", "'3g' is no MIG profile name; names look like 3g.20gb"),
        ("mig:1c.3g.20gb(CNT:1)", "'mig:1c.3g.20gb(CNT:1)' asks for a part of a GPU instance; "),
    ],
)
@pytest.mark.parametrize("batch", [True, False])
def test_request_that_makes_no_sense(full, gres, reason, batch):
    """It is held or cancelled at once, with a sentence that quotes it; the node stays up."""
    full.job(7, gres, batch=batch)
    run = full.prolog()
    assert (run.rc, run.output) == (0, "")
    assert f"AdminComment=slurm-mig: {reason}" in full.asked()[-2]
    assert full.asked()[-1] == ("scontrol requeuehold 7" if batch else "scancel 7")
    assert refused(full).startswith(f"slurm-mig: job 7 may not run here: {reason}")
    assert full.logged()[-1].startswith(
        f"prolog: outcome={'held' if batch else 'cancelled'} job=7 node=n1 "
    )


def test_slurm_refuses_the_requeue(full):
    """A job cancelled at that moment: Slurm has nothing to requeue, and that is no fault."""
    full.job(7, GRES)
    (full.folder / "refuse").write_text("Requested operation is presently disabled for job 7\n")
    run = full.prolog()
    assert (run.rc, run.output) == (0, "")
    assert refused(full).startswith(f"slurm-mig: job 7 may not run here: {NO_ROOM}")
    assert full.logged()[-1].startswith("prolog: outcome=refused ")


def test_job_that_slurm_forgot(hooks):
    """A job that is over before its Prolog could ask: nothing to do."""
    run = hooks.prolog()
    assert (run.rc, run.output) == (0, "")
    assert hooks.lives() == []
    assert hooks.logged()[-1].startswith("prolog: outcome=job-gone job=7 ")


def test_prolog_that_did_not_finish(hooks):
    """A job whose Prolog died half way: its tasks do not run."""
    (hooks.node.run_directory / "jobs/7").mkdir(parents=True)
    assert refused(hooks) == (
        "slurm-mig: job 7 may not run here: the Prolog on this node did not finish\n"
    )


def test_refusal_wins(hooks):
    """A job that was served and then refused does not run."""
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    hooks.prolog()
    (hooks.node.run_directory / "jobs/7/refuse").write_text("reason\n")
    assert refused(hooks) == "slurm-mig: job 7 may not run here: reason\n"
