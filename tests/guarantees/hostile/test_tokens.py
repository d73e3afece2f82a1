"""Tokens in extra and comment, forged and malformed: sh and Python agree, and no node is drained.

With request = "ask" nobody looks at them. With "token" the job_submit module lets no user write one
(tests/cluster/submit); what stands here is what happens if one comes all the same.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from effort import count
from hooking import Hooks
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from slurm_mig import prolog
from slurm_mig.errors import RequestError
from slurm_mig.log import Log

MakeHooks = Callable[..., Hooks]
#: What sh and Python say of one environment.
AGREED = {("none", "none"), ("asked", "asked"), ("asked", "refused")}
#: What else a token may be taken for.
FORGED = (
    *("slurm-mig/1:none;", "slurm-mig/1:7g.40gb=1;", "slurm-mig/1:none;slurm-mig/1:7g.40gb=1;"),
    *("slurm-mig/1:none", "slurm-mig/1:;", "slurm-mig/1:none,none;", " slurm-mig/1:none;"),
    *("\nslurm-mig/1:none;", "x slurm-mig/1:none;", "slurm-mig/1:none ;", "SLURM-MIG/1:none;"),
    *("slurm-mig/1:NONE;", "slurm-mig/2:none;", "slurm-mig/1:none\n;", "slurm-mig/1:3g.20gb;"),
    *("slurm-mig/1:3g.20gb=0;", "slurm-mig/1:3g.20gb=-1;", "slurm-mig/1:3g.20gb=1e9;"),
    *("slurm-mig/1:3g.20gb=\u0661;", f"slurm-mig/1:3g.20gb={'9' * 5000};", "slurm-mig/1:=;"),
    *("slurm-mig/1:=1;", "slurm-mig/1:,;", "slurm-mig/1:3g.20gb=1=1;", "slurm-mig/1:1c.3g.20gb=1;"),
    *("slurm-mig/1:../../x=1;", "slurm-mig/1:3g.20gb=1,3g.20gb=999;", "slurm-mig/1:none;\udcff"),
    *("slurm-mig/1:\uff4eone;", "slurm-mig/1:3g.20gb=1;$(id)", "slurm-mig/1:none;" * 5000),
)
PIECES = st.sampled_from(
    [
        *("slurm-mig/1:", "slurm-mig/", "1:", "none", ";", ",", "=", "3g.20gb", "1g.5gb+me", "=1"),
        *("7g.40gb=2", "0", "1", "99999", "\u0663", "\uff11", "\n", " ", "\t", "none;", "*", "?"),
        *(
            "slurm-mig/1:none;",
            "slurm-mig/1:3g.20gb=1;",
            "'",
            '"',
            "$(x)",
            "`x`",
            "\\",
            "-",
            "\x7f",
        ),
        *("\udcff", "A", ".", "[", "]"),
    ]
)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=6).map(lambda parts: "slurm-mig/1:" + "".join(parts)),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(FORGED),
)


class Reader:
    """Asks the Prolog's sh, and Python, what an environment says; sh's Python only says so."""

    def __init__(self, hooks: Hooks, folder: Path) -> None:
        python = folder / "python"
        python.write_text("#!/bin/sh\necho asked\n")
        python.chmod(0o755)
        text = hooks.node.prolog.read_text()
        [line] = [line for line in text.splitlines() if line.startswith("PYTHON=")]
        self.script = folder / "prolog"
        self.script.write_text(text.replace(line, f"PYTHON={python}"))
        self.script.chmod(0o755)
        self.settings = hooks.node.settings
        assert self.settings.slurm_request == "token"

    def sh(self, env: dict[str, str]) -> str:
        """What sh takes it for: "none" or "asked"."""
        done = subprocess.run([self.script], env=env, capture_output=True, timeout=20, check=True)
        assert done.stderr == b""
        assert done.stdout in (b"", b"asked\n")
        return done.stdout.decode().strip() or "none"

    def python(self, env: dict[str, str]) -> str:
        """The same: "none", "asked" (of Slurm, or by the token), or "refused"."""
        start = prolog._Start(self.settings, 7, Log("/dev/null", "prolog"), env, "")
        start._record = SimpleNamespace(user_id=0, gres="mig:1g.5gb(CNT:1)")  # what Slurm says
        try:
            return "asked" if start.request()[1] else "none"
        except RequestError as error:
            return "refused" if str(error).isprintable() else "unreadable"


@pytest.fixture
def reader(new_hooks: MakeHooks, tmp_path: Path) -> Reader:
    """Both readers."""
    return Reader(new_hooks(slurm={"request": "token"}), tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(count(120, 3600))
def test_sh_and_python_agree(reader: Reader, figures: Callable[..., None]) -> None:
    """Sh leaves early exactly where Python reads "none", whichever variables there are."""
    tried = 0

    @settings(
        max_examples=count(300, 20_000),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        extra=st.none() | TEXTS,
        comment=st.none() | TEXTS,
        start=st.sampled_from([None, "", "1795445876"]),
    )
    @example(extra=None, comment="slurm-mig/1:none;", start="")
    @example(extra="", comment="slurm-mig/1:none;", start=None)
    @example(extra="", comment="slurm-mig/1:none;", start="1")
    def agree(extra: str | None, comment: str | None, start: str | None) -> None:
        nonlocal tried
        tried += 1
        given_ = {
            "SLURM_JOB_EXTRA": extra,
            "SLURM_JOB_COMMENT": comment,
            "SLURM_JOB_START_TIME": start,
        }
        env = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000"}
        env |= {name: value for name, value in given_.items() if value is not None}
        by_sh, by_python = reader.sh(env), reader.python(env)
        assert (by_sh, by_python) in AGREED

    agree()
    figures("hostile", tokens=tried)


@pytest.mark.parametrize("which", ["extra", "comment"])
def test_with_ask_nobody_looks_at_a_token(
    new_hooks: MakeHooks, which: str, figures: Callable[..., None]
) -> None:
    """The default: the job gets what Slurm says it holds, whatever its own texts say."""
    hooks = new_hooks()
    for text in FORGED[:4]:
        hooks.job(7, "mig:1g.5gb(CNT:1)", uid=os.geteuid(), **{which: text})
        made = hooks.prolog(**{which: text})
        assert (made.rc, made.output) == (0, "")
        assert [profile for profile, _ in hooks.lives()] == ["1g.5gb"]
        assert hooks.epilog(**{which: text}).rc == 0
    hooks.nothing_left()
    figures("hostile", forged_tokens=4)


def test_a_token_that_makes_no_sense_drains_no_node(
    new_hooks: MakeHooks, figures: Callable[..., None]
) -> None:
    """Every one of them: exit 0, at most one line in the log, and nothing stays."""
    hooks = new_hooks(slurm={"request": "token"})
    hooks.job(7, "mig:1g.5gb(CNT:1)", uid=os.geteuid())
    for text in FORGED:
        logged = len(hooks.logged())
        made = hooks.prolog(extra=text)
        assert (made.rc, made.output) == (0, ""), text[:100]
        new = hooks.logged()[logged:]
        assert len(new) <= 1
        assert all(line.isprintable() for line in new)
        assert hooks.epilog(extra=text).rc == 0
        assert hooks.lives() == []
    hooks.nothing_left()
    figures("hostile", forged_tokens=len(FORGED))
