"""Jobs without MIG: sh leaves before Python starts, and depends on nothing that could be broken."""

import pytest

RECORDER = "#!/bin/sh\necho called >>{record}\ncat >/dev/null\nexit 99\n"


@pytest.fixture
def python(hooks, tmp_path):
    """The hooks with a program in Python's place that notes that it was called, and exits 99."""
    record = tmp_path / "record"
    recorder = tmp_path / "python"
    recorder.write_text(RECORDER.format(record=record))
    recorder.chmod(0o755)
    for path in (hooks.node.prolog, hooks.node.epilog):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(
            "".join(f"PYTHON={recorder}\n" if li.startswith("PYTHON=") else li for li in lines)
        )
    return record


def test_job_without_gres(hooks, python):
    """A job without GRES costs one question and no Python."""
    hooks.job(7)
    run = hooks.prolog()
    assert (run.rc, run.output, python.exists()) == (0, "", False)
    assert hooks.asked() == ["scontrol show job -d --json 7"]


def test_job_without_gres_2205(hooks, python):
    """Also on Slurm 22.05, whose scontrol has no JSON; there it costs two."""
    hooks.job_text(7)
    run = hooks.prolog()
    assert (run.rc, run.output, python.exists()) == (0, "", False)
    assert hooks.asked() == ["scontrol show job -d --json 7", "scontrol show job -d 7"]


def test_token_that_says_none(make, tmp_path):
    """In token mode not even a question: the token says that the job wants none."""
    hooks = make(slurm={"request": "token"})
    hooks.edit(hooks.node.prolog, "PYTHON=", "PYTHON=/nonexistent/")
    run = hooks.prolog(extra="slurm-mig/1:none;and the user's own text")
    assert (run.rc, run.output, hooks.asked()) == (0, "", [])


def test_token_that_says_none_2205(make):
    """Before 23.02 there is no extra; the plugin stamps the comment."""
    hooks = make(slurm={"request": "token"})
    hooks.edit(hooks.node.prolog, "PYTHON=", "PYTHON=/nonexistent/")
    run = hooks.prolog(release="22.05", comment="slurm-mig/1:none;")
    assert (run.rc, run.output, hooks.asked()) == (0, "", [])


def test_epilog_of_a_job_without_folder(hooks, python):
    """No folder, no Python, no question."""
    run = hooks.epilog()
    assert (run.rc, run.output, python.exists(), hooks.asked()) == (0, "", False, [])


def test_task_of_a_job_without_folder(hooks):
    """A task of such a job is left as it is."""
    assert hooks.task() == (0, {}, "")


@pytest.mark.parametrize("gres", ["gpu:1(IDX:0)", "gpu:a100:2(IDX:0-1),shard:4(0/4)"])
def test_job_with_other_gres(hooks, python, gres):
    """A job with other GRES only does not start Python."""
    hooks.job(7, gres)
    assert (hooks.prolog().rc, python.exists()) == (0, False)


def test_job_with_mig_starts_python(hooks, python):
    """The control: a job with MIG, a folder that is there, both start it."""
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    assert (hooks.prolog().rc, python.read_text()) == (99, "called\n")
    (hooks.node.run_directory / "jobs/8").mkdir(parents=True)
    assert (hooks.epilog(8).rc, python.read_text()) == (99, "called\ncalled\n")


@pytest.mark.parametrize(
    "answer", ["", "{", '{"jobs": [{"job_id": 7, "na', "JobId", "slurm_load_jobs error"]
)
def test_answer_that_is_not_whole(hooks, python, answer):
    """Only a whole answer about a job says that it wants none; all else is Python's to judge."""
    (hooks.folder / "7.json").write_text(answer)
    assert hooks.prolog().rc == 99


def broken(hooks):
    """Break everything that a served job needs."""
    hooks.node.config.write_text("this is not TOML = = =\n")
    (hooks.sim.library).unlink()
    state = hooks.node.folder / "state"
    state.mkdir()
    (state / "ledger.sqlite").write_text("no database")


@pytest.mark.parametrize("text", [False, True])
def test_broken_node(hooks, text):
    """A job that asks for nothing runs on a node where nothing of slurm-mig works."""
    broken(hooks)
    (hooks.job_text if text else hooks.job)(7)
    for run in (hooks.prolog(), hooks.epilog()):
        assert (run.rc, run.output) == (0, "")
    assert hooks.task() == (0, {}, "")


def test_name_with_mig_on_a_broken_node(hooks):
    """A job that only is called mig starts Python, but needs neither driver nor ledger."""
    hooks.sim.library.unlink()
    state = hooks.node.folder / "state"
    state.mkdir(mode=0o700)
    (state / "ledger.sqlite").write_text("no database")
    hooks.job(7, name="mig:3g.20gb", comment="gres/mig")
    hooks.job_text(8, name="mig:3g.20gb(CNT:1)")
    for job in (7, 8):
        run = hooks.prolog(job)
        assert (run.rc, run.output) == (0, "")
        assert hooks.epilog(job).rc == 0
    assert [line.split(" job=")[0] for line in hooks.logged()] == ["prolog: outcome=no-mig"] * 2
    assert list(state.iterdir()) == [state / "ledger.sqlite"]


def test_slurm_does_not_answer(make):
    """When Slurm cannot be asked, the node is at fault, with the reason last."""
    hooks = make(slurm={"timeout": 0.2})
    (hooks.folder / "down").touch()
    run = hooks.prolog()
    assert run.rc == 1
    assert run.output == (
        "slurm-mig: job 7: Slurm does not answer within 0.2 s: slurm_load_jobs error: Unable to "
        "contact slurm controller (connect failure); check slurmctld and munge\n"
    )
    assert hooks.sim.counts().made == 0


def test_slurm_answers_late(make):
    """A slurmctld that comes back within the time limit costs nothing but that time."""
    hooks = make(slurm={"timeout": 60})
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    # The sh part's two questions fail, and the first of Python's.
    scontrol = hooks.folder / "scontrol"
    hooks.edit(scontrol, "if [ -e down ]; then", 'if [ "$(wc -l <calls)" -le 3 ]; then')
    assert hooks.prolog().rc == 0
    assert len(hooks.asked()) == 4
    assert hooks.lives() == [("3g.20gb", "4:4")]
