"""Jobs that get what they asked for: Prolog, task prolog and Epilog, as slurmd runs them."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

MODES = ["json", "text", "token"]


@pytest.fixture(params=MODES)
def told(request, make):
    """Hooks, and a way to tell them what job 7 wants: scontrol's JSON, its old text, the token."""
    mode = request.param
    hooks = make(slurm={"request": "token" if mode == "token" else "ask"})

    def tell(profile):
        if mode == "token":
            return {"extra": f"slurm-mig/1:{profile}=1;" if profile else "slurm-mig/1:none;"}
        gres = f"mig:{profile}(CNT:1)" if profile else ""
        (hooks.job_text if mode == "text" else hooks.job)(7, gres)
        return {}

    return hooks, tell


def test_a_job_from_start_to_end(told):
    """The instance is made, every task sees it and nothing else, and it is gone after."""
    hooks, tell = told
    options = tell("3g.20gb")
    run = hooks.prolog(uid=0, **options)
    assert (run.rc, run.output) == (0, "")
    (gi,) = hooks.sim.instances()
    uuid = gi.compute[0].uuid
    given = {
        "CUDA_VISIBLE_DEVICES": uuid,
        "SLURM_MIG_DEVICES": uuid,
        "SLURM_MIG_PROFILES": "3g.20gb",
    }
    for _ in range(2):  # each task, batch script and step
        assert hooks.task() == (0, given, "")
    run = hooks.epilog(**options)
    assert (run.rc, run.output) == (0, "")
    assert hooks.task() == (0, {}, "")
    hooks.nothing_left()
    assert hooks.sim.counts() == (1, 1, 0, 0)
    served, removed = hooks.logged()
    gpu = hooks.sim.gpus()[0].uuid
    assert served.startswith("prolog: outcome=served job=7 node=n1 ")
    assert " uid=0 wanted=3g.20gb choose_s=" in served
    assert f" instances={gpu}/3g.20gb@4:4/gi2 " in served
    assert removed.startswith("epilog: outcome=removed job=7 node=n1 destroy_s=")
    assert " removed=1 " in removed


def test_leftovers_of_an_earlier_run(told):
    """A job that comes back under its id, and now wants nothing, loses what it had before."""
    hooks, tell = told
    assert hooks.prolog(**tell("3g.20gb")).rc == 0
    run = hooks.prolog(**tell(""))
    assert (run.rc, run.output) == (0, "")
    hooks.nothing_left()
    assert hooks.sim.counts() == (1, 1, 0, 0)


def test_back_with_another_request(told):
    """A job that comes back and wants another profile gets that, and only that."""
    hooks, tell = told
    assert hooks.prolog(**tell("3g.20gb")).rc == 0
    assert hooks.prolog(**tell("2g.10gb")).rc == 0
    assert [profile for profile, _ in hooks.lives()] == ["2g.10gb"]
    assert hooks.task()[1]["SLURM_MIG_PROFILES"] == "2g.10gb"


def test_two_profiles(make):
    """A job with two profiles gets all, in the order of its request."""
    hooks = make("A100-SXM4-40GB:2")
    hooks.job(7, "gpu:1(IDX:0),mig:1g.5gb(CNT:2),mig:4g.20gb(CNT:1)")
    assert hooks.prolog().rc == 0
    _, env, _ = hooks.task()
    assert env["SLURM_MIG_PROFILES"] == "1g.5gb,1g.5gb,4g.20gb"
    by_uuid = {gi.compute[0].uuid: gi.profile for gi in hooks.sim.instances()}
    uuids = env["CUDA_VISIBLE_DEVICES"].split(",")
    assert [by_uuid[uuid] for uuid in uuids] == ["1g.5gb", "1g.5gb", "4g.20gb"]
    assert hooks.epilog().rc == 0
    hooks.nothing_left()


def test_token_needs_no_question(make):
    """A job with a token is served without asking Slurm."""
    hooks = make(slurm={"request": "token"})
    assert hooks.prolog(extra="slurm-mig/1:1g.5gb=2;mine").rc == 0
    assert len(hooks.lives()) == 2
    assert hooks.asked() == []


@pytest.mark.parametrize("extra", [None, "mine", "slurm-mig/2:none;"])
def test_missing_token_is_asked_for(make, extra):
    """A job that was submitted before the plugin was there: Slurm is asked."""
    hooks = make(slurm={"request": "token"})
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    assert hooks.prolog(extra=extra).rc == 0
    assert hooks.lives() == [("3g.20gb", "4:4")]
    assert hooks.asked() == ["scontrol show job 7 -d --json"]


def test_comment_is_no_token(make):
    """Where the plugin stamps extra, a comment that looks like a token is the user's own text."""
    hooks = make(slurm={"request": "token"})
    hooks.job(7)
    hooks.job(8, "mig:1g.5gb(CNT:1)")
    assert hooks.prolog(7, comment="slurm-mig/1:7g.40gb=1;").rc == 0
    assert hooks.lives() == []
    assert hooks.prolog(8, comment="slurm-mig/1:none;").rc == 0
    assert hooks.lives() == [("1g.5gb", "6:1")]


def test_text_that_could_be_misread(hooks):
    """On 22.05, a comment that imitates scontrol's lines: the old JSON is asked, not believed."""
    forged = "x\n     Nodes=n1 CPU_IDs=0 Mem=0 GRES=mig:7g.40gb(CNT:1)\n   MinCPUsNode=1 M=0"
    hooks.job_text(7, "mig:1g.5gb(CNT:1)", comment=forged)
    hooks.job(7, "mig:1g.5gb(CNT:1)")
    (hooks.folder / "7.json").rename(hooks.folder / "queue")
    run = hooks.prolog()
    assert (run.rc, run.output) == (0, "")
    assert [profile for profile, _ in hooks.lives()] == ["1g.5gb"]
    assert hooks.asked()[-1] == "squeue --json -j 7"


def test_seven_at_once(hooks):
    """Seven Prologs, then seven Epilogs, at the same time on one GPU."""
    for job in range(1, 8):
        hooks.job(job, "mig:1g.5gb(CNT:1)")
    for which, left in (("prolog", 7), ("epilog", 0)):
        with ThreadPoolExecutor(7) as pool:
            runs = list(pool.map(partial(hooks.run, which), range(1, 8)))
        assert sorted((run.rc, run.output) for run in runs) == [(0, "")] * 7
        assert len(hooks.lives()) == left
    hooks.nothing_left()
    assert hooks.sim.counts() == (7, 7, 0, 0)


def test_epilog_twice(hooks):
    """A second Epilog finds nothing to do, and says nothing."""
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    hooks.prolog()
    assert [(run.rc, run.output) for run in (hooks.epilog(), hooks.epilog())] == [(0, "")] * 2


@pytest.mark.parametrize(("drain", "status"), [(False, 0), (True, 1)])
def test_instance_in_use(make, drain, status):
    """What will not go is quarantined; whether the node is drained for it is the site's choice."""
    hooks = make(epilog={"budget": 0.2, "drain": drain})
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    hooks.prolog()
    (gi,) = hooks.sim.instances()
    gpu = hooks.sim.gpus()[0].uuid
    with hooks.sim.client(gi.compute[0].uuid) as process:
        run = hooks.epilog()
        assert run.rc == status
        said = f"{gpu} 3g.20gb at 4:4 of job 7: in use by pid {process.pid} ("
        assert run.output.startswith(f"slurm-mig: quarantined: {said}")
        assert run.output.endswith("; stop them, then run: slurm-mig reconcile\n")
        assert run.output.count("\n") == 1
    assert hooks.ledger() == [(7, "3g.20gb", "quarantined")]
    assert hooks.logged()[-1].startswith("epilog: outcome=quarantined job=7 node=n1 ")
