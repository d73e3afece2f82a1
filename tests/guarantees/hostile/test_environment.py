"""Hooks in an environment of an attacker's: nothing is run, loaded or written but what must be.

slurmd builds a hook's environment from nothing, so most of this cannot come from a user; it is the
second line. What can: the values of SLURM_JOB_* and SPANK_* variables, at most 1024 bytes each.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from canary import Canary
from effort import count, seed
from hooking import Hooks

from slurm_mig.rehearsal.hookenv import hook_environment
from slurm_mig.rehearsal.hookrun import run_hook

MakeHooks = Callable[..., Hooks]
ROOT = os.geteuid() == 0
#: Users write into these, by srun's options or by names that they chose.
USERS = (
    *("SLURM_JOB_ACCOUNT", "SLURM_JOB_COMMENT", "SLURM_JOB_CONSTRAINTS", "SLURM_JOB_EXTRA"),
    *("SLURM_JOB_LICENSES", "SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_JOB_QOS"),
    *("SLURM_JOB_RESERVATION", "SLURM_JOB_STDERR", "SLURM_JOB_STDIN", "SLURM_JOB_STDOUT"),
    *("SLURM_JOB_USER", "SLURM_JOB_WORK_DIR", "SLURM_WCKEY", "SLURM_JOB_GPUS", "SPANK_OPTION"),
    *("SLURM_JOB_OVERSUBSCRIBE", "SLURM_CLUSTER_NAME", "SLURM_ARRAY_TASK_ID"),
)


def values(mark: Path) -> dict[str, str]:
    """Texts that some program somewhere might take for something else than text."""
    return {
        "command": f"$(: >{mark}/dollar)",
        "backticks": f"`: >{mark}/backticks`",
        "semicolon": f"; : >{mark}/semicolon #",
        "quotes": f"'\";: >{mark}/quotes;'\"",
        "and": f"x && : >{mark}/and",
        "redirect": f">{mark}/redirect",
        "template": "{{ ''.__class__.__mro__ }}{% include '/etc/shadow' %}{{ 7*7 }}",
        "format": "%s%n%x {0} {job} ${id} $id",
        "upwards": f"../../../../../../../..{mark}/upwards",
        "path": f"{mark}/path",
        "lines": f"x\n: >{mark}/lines\nexport LD_PRELOAD=/x\nprint y\r\n",
        "escapes": "\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\x08\u202e\u2028",
        "no UTF-8": "\udcff\udcfe\udcc3(\udced\udca0\udc80",
        "option": "--json -rf --",
        "glob": f"* {mark}/* [!0-9] ?",
        "nearly NUL": "\x01\\0\\x00%00\x7f",
        "mig": "mig mig:7g.40gb(CNT:9) GRES=mig:7g.40gb:9 JobId=7",
        "long": "A" * 131_000,
        "empty": "",
    }


def rounds(hooks: Hooks, canary: Canary, env: dict[str, str], expected: str = "served") -> None:
    """One job from Prolog to Epilog in this environment; it must go as any other job."""
    hooks.job(7, "mig:3g.20gb(CNT:1)", uid=os.geteuid())
    logged = len(hooks.logged())
    base = hook_environment("prolog", node="n1", job_id=7)
    keep = {name: base[name] for name in ("SLURM_JOB_ID", "SLURM_JOB_UID", "SLURMD_NODENAME")}
    cwd = canary.plants
    made = run_hook(hooks.node.prolog, {**base, **env, **keep}, 60, cwd=cwd)
    task = run_hook(hooks.node.task_prolog, {**env, "SLURM_JOB_ID": "7"}, 60, cwd=cwd)
    gone = run_hook(hooks.node.epilog, {**base, **env, **keep}, 60, cwd=cwd)
    assert (made.rc, task.rc, gone.rc) == (0, 0, 0), (made.output, task.output, gone.output)
    # What slurmstepd obeys; what a shell says of its variables is no such line.
    obeyed = ("export ", "print ", "unset ")
    lines = [line for line in task.output.splitlines() if line.startswith(obeyed)]
    assert [line.partition("=")[0] for line in lines] == [
        *("export CUDA_VISIBLE_DEVICES", "export SLURM_MIG_DEVICES", "export SLURM_MIG_PROFILES")
    ]
    new = hooks.logged()[logged:]
    said = [(line.partition(":")[0], line.split()[1]) for line in new]
    assert said == [("prolog", f"outcome={expected}"), ("epilog", "outcome=removed")]
    assert all(line.isprintable() for line in new)
    hooks.nothing_left()
    canary.alive()


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    """What an attacker has planted."""
    return Canary(tmp_path / "canary")


@pytest.mark.parametrize("request_", ["ask", "token"])
def test_variables_that_programs_obey(
    new_hooks: MakeHooks, canary: Canary, request_: str, figures: Callable[..., None]
) -> None:
    """LD_*, PYTHON*, PATH, IFS, ENV, HOME, TMPDIR, TZ, LC_*…, in a folder of modules like ours.

    The sh itself is loaded before its first line; nothing that it starts loads anything.
    """
    hooks = new_hooks(slurm={"request": request_})
    env = canary.environment()
    os.mkfifo(canary.plants / "pipe")
    canary.settled()
    rounds(hooks, canary, env)
    # Prolog, task prolog, Epilog; scontrol is a script here too, and not among them.
    assert canary.who_loaded() == ["sh"] * 3
    figures("hostile", variables=len(env))


def test_the_same_where_sh_is_bash(new_hooks: MakeHooks, canary: Canary, tmp_path: Path) -> None:
    """On many systems /bin/sh is bash, which obeys SHELLOPTS, BASH_ENV and PS4."""
    hooks = new_hooks()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").symlink_to("/bin/bash")
    for hook in (hooks.node.prolog, hooks.node.task_prolog, hooks.node.epilog):
        hooks.edit(hook, "#!/bin/sh\n", f"#!{tmp_path}/bin/sh\n")
    os.mkfifo(canary.plants / "pipe")
    env = canary.environment()
    if not ROOT:
        del env["PS4"]  # bash ignores it for root alone
    canary.settled()
    # The task prolog runs as the user, in the user's own environment: PS4 there is theirs.
    env["PS4"] = "+ "
    rounds(hooks, canary, env)


@pytest.mark.parametrize("request_", ["ask", "token"])
def test_what_users_write(
    new_hooks: MakeHooks, canary: Canary, request_: str, figures: Callable[..., None]
) -> None:
    """Every variable that has a user's text, all with the same: it stays text, unlogged."""
    hooks = new_hooks(slurm={"request": request_})
    for kind, text in values(canary.marks).items():
        # Longer ones together would be more than a process may be started with.
        few = USERS[: 12 if kind == "long" else None]
        try:
            rounds(hooks, canary, dict.fromkeys(few, text))
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from error
        figures("hostile", texts=len(few))


@pytest.mark.soak
@pytest.mark.timeout(count(120, 3600))
def test_any_of_it_together(
    new_hooks: MakeHooks, canary: Canary, figures: Callable[..., None]
) -> None:
    """Variables of both kinds with values of both kinds, at random."""
    begin = seed()
    hooks = new_hooks()
    os.mkfifo(canary.plants / "pipe")
    known = canary.environment()
    canary.settled()
    chance = random.Random(begin)  # noqa: S311 -- what to try
    texts = [text for kind, text in values(canary.marks).items() if kind != "long"]
    tries = count(5, 200)
    for _ in range(tries):
        env = {name: chance.choice([*texts, *known.values()]) for name in (*USERS, *known)}
        # Of the loader's and the C library's own, only what leaves the sh itself alive.
        for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "GLIBC_TUNABLES", "TZ", "MALLOC_TRACE"):
            env[name] = known[name]
        try:
            rounds(hooks, canary, env)
        except AssertionError as error:
            raise AssertionError(f"SEED={begin}: {env}") from error
    figures("hostile", environments=tries, seeds=[begin])


#: What is no job id; slurmd sets it, but it becomes part of a path.
GARBAGE = (
    *("", "../../x", "7/../../x", "/etc", ".", "..", "7 8", " 7", "-1", "+7", "0x7", "1e3", "7.0"),
    *("$(: >x)", "`id`", "7;id", "7\n8", "\n", "*", "[0-9]", "{{7}}", "\u0663", "\u00b2", "\uff17"),
    *("\udcff", "7\x1b[2J", "A" * 100_000),
)
#: These have only digits.
HUGE = ("9" * 11, "9" * 300, "9" * 5000, "9" * 100_000)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_job_ids_that_are_none(
    new_hooks: MakeHooks, canary: Canary, locale: str, figures: Callable[..., None]
) -> None:
    """Exit 2 and one line of the Prolog; no path is made of them, Slurm is asked nothing new."""
    hooks = new_hooks()
    jobs = hooks.node.run_directory / "jobs"
    jobs.mkdir(parents=True)
    for garbage in GARBAGE:
        env = {"SLURM_JOB_ID": garbage, "LANG": locale}
        for hook in (hooks.node.prolog, hooks.node.epilog):
            run = run_hook(hook, env, 60, cwd=canary.plants)
            assert run.rc == 2, (garbage[:50], run.output)
            assert run.output.count("\n") == 1
            assert run.output.rstrip("\n").isprintable()
        task = run_hook(hooks.node.task_prolog, env, 60, cwd=canary.plants)
        assert (task.rc, task.output) == (0, "")
    assert hooks.asked() == []
    for huge in HUGE:
        env = {"SLURM_JOB_ID": huge}
        run = run_hook(hooks.node.prolog, env, 60)
        assert (run.rc, run.output.count("\n")) == (2, 1), run.output[:300]
        assert len(run.output) < 200
        # No such folder: nothing to remove.
        assert run_hook(hooks.node.epilog, env, 60).rc == 0
    assert list(jobs.iterdir()) == []
    assert hooks.logged() == []
    canary.alive()
    figures("hostile", job_ids=len(GARBAGE) + len(HUGE))


def test_as_much_as_a_process_may_be_given(new_hooks: MakeHooks, canary: Canary) -> None:
    """1.5 MB of variables, near the 2 MB that Linux allows: the job is served all the same."""
    hooks = new_hooks()
    rounds(hooks, canary, {f"SPANK_{number}": "x" * 131_000 for number in range(12)})
