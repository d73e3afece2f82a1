"""Every command, called by a user without any right: a sentence, an exit status, and no change.

The Python that runs the tests may be closed to other users, so they are given a copy of it.
"""

import compileall
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hooking import Hooks, make_hooks
from spinecluster import portable_python

from slurm_mig.devices import describe_processes
from slurm_mig.gpu_users import look_up

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user"),
    pytest.mark.xdist_group("callers"),
]
USER = 65534
PACKAGES = ("slurm_mig", "filelock", "pynvml", "rich", "jinja2", "markupsafe", "pygments")
PACKAGES += ("ClusterShell",)
MORE = ("markdown_it", "mdurl", "typing_extensions", "yaml")
_START = """
import sys
sys.path.insert(0, {!r})
from slurm_mig.cli.main import main
sys.exit(main())
"""
_NAMED = """
open("/proc/self/comm", "wb").write(b"\\x1b[2Jx\\x9b\\xff")
print(1, flush=True)
input()
"""
DENIED = "cannot be written: Permission denied"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that any user can reach, with a Python and the packages."""
    folder = Path(tempfile.mkdtemp(prefix="callers-"))
    folder.chmod(0o755)
    portable_python(folder / "python")
    for name in (*PACKAGES, *MORE):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            assert name in MORE
            continue
        origin = Path(spec.origin)
        if origin.name == "__init__.py":
            shutil.copytree(origin.parent, folder / "packages" / name)
        else:
            (folder / "packages").mkdir(exist_ok=True)
            shutil.copy(origin, folder / "packages")
    for name in ("templates", "prolog", "epilog"):
        if not (folder / "packages/slurm_mig/share" / name).is_dir():
            root = Path(str(find_spec("slurm_mig").origin)).parents[1]  # type: ignore[union-attr]
            shutil.copytree(root / name, folder / "packages/slurm_mig/share" / name)
    # No user can keep what is compiled here, and each call would do it anew.
    compileall.compile_dir(folder / "packages", quiet=1)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hooks(place: Path) -> Hooks:
    """A node with a job that runs, its files as on a real one."""
    made = make_hooks(place, slurm={"timeout": 2}, epilog={"budget": 0.2})
    made.job(7, "mig:3g.20gb(CNT:1)", uid=0)
    assert made.prolog().rc == 0
    (made.node.folder / "state").chmod(0o700)
    made.node.config.chmod(0o644)
    return made


def call(place: Path, *words: str | Path, stdin: bytes = b"", **env: str) -> tuple[int, str, str]:
    """Run `slurm-mig WORDS…` as a user: exit status, output, errors."""
    home = place / "home"
    if not home.exists():
        home.mkdir()
        os.chown(home, USER, USER)
    done = subprocess.run(
        [place / "python/python", "-c", _START.format(str(place / "packages")), *words],
        input=stdin,
        capture_output=True,
        cwd=home,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **env},
        user=USER,
        group=USER,
        extra_groups=[],
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


CLUSTER = """
[slurm]
release = "24.11"
[nodes.a]
hosts = "a[1-2]"
gpus = "A100-SXM4-40GB:2"
layout = "small"
"""
#: Words, exit status, and what stands in the one line on stderr ("" for none).
CALLS: list[tuple[tuple[str, ...], int, str]] = [
    (("status", "-c", "CONFIG"), 1, r"state directory \S+: \S+ .*|ledger .*|.*root.*"),
    (("status", "--json", "-c", "CONFIG"), 1, r".+"),
    (("reconcile", "-c", "CONFIG"), 1, r".+"),
    (("reconcile", "--offline", "-c", "CONFIG"), 1, r".+"),
    (("prolog", "7", "-c", "CONFIG"), 1, r".+"),
    (("prolog", "8", "--answer", "-c", "CONFIG"), 0, ""),
    (("prolog", "../../x", "-c", "CONFIG"), 2, r"SLURM_JOB_ID '../../x' is not a job id.*"),
    (("epilog", "7", "-c", "CONFIG"), 1, r".+"),
    (("epilog", "8", "-c", "CONFIG"), 1, r".+"),
    (("node-setup", "-c", "CONFIG", "--dry-run"), 0, ""),
    (("hooks", "NODE/hooks", "-c", "CONFIG"), 1, r"hooks in \S+: Permission denied.*"),
    (("config", "-c", "CONFIG"), 0, ""),
    (("config", "-c", "CLOSED"), 2, r"\S+: cannot be read: Permission denied"),
    (("profiles", "-c", "CONFIG"), 1, r"GPU-.* failed: Insufficient Permissions .*"),
    (("profiles", "--gpu", "A100-SXM4-40GB"), 0, ""),
    (("render", "-c", "CLUSTER"), 0, ""),
    (
        ("render", "-c", "CLUSTER", "-o", "NODE/out"),
        1,
        r"\S+: cannot be written: Permission denied",
    ),
    (("render", "-c", "CLOSED"), 2, r"\S+: cannot be read: Permission denied"),
    (("render", "-c", "/no/such"), 2, r"/no/such: no such file; .*"),
]


@pytest.mark.parametrize("call_", CALLS, ids=lambda call_: " ".join(call_[0]))
def test_a_user_calls_it(
    place: Path,
    hooks: Hooks,
    tmp_path: Path,
    call_: tuple[tuple[str, ...], int, str],
    figures: Callable[..., None],
) -> None:
    """What it exits with, at most one line on stderr, and that nothing at all was changed."""
    words, status, said = call_
    (place / "cluster.toml").write_text(CLUSTER)
    closed = place / "closed.toml"
    closed.write_text('[secret]\nword = "xyzzy"\n')
    closed.chmod(0o600)
    stand_for = {
        "CONFIG": str(hooks.node.config),
        "CLUSTER": str(place / "cluster.toml"),
        "CLOSED": str(closed),
    }
    argv = [stand_for.get(w, w.replace("NODE", str(hooks.node.folder))) for w in words]
    before = snapshot(hooks.node.folder)
    lives, rows = hooks.lives(), hooks.ledger()
    answer = b'{"jobs": [{"job_id": 8, "user_id": 0, "nodes": "n1", "gres_detail": []}]}'
    found = call(place, *argv, stdin=answer, SLURMD_NODENAME="n1")
    assert "xyzzy" not in found[1] + found[2]
    assert "Traceback" not in found[2]
    assert "internal error" not in found[2]
    assert found[0] == status, found
    assert re.fullmatch(rf"(slurm-mig: ({said})\n)" if said else "", found[2]), found[2]
    assert all(line.isprintable() for line in found[2].splitlines())
    assert snapshot(hooks.node.folder) == before
    assert (hooks.lives(), hooks.ledger()) == (lives, rows)
    assert list((place / "home").iterdir()) == []
    figures("hostile", unprivileged_calls=1)


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Names, modes, owners and contents, but for the simulation's own state."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_relative_to(folder / "sim"):
            continue
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


def test_doctor_for_a_user(place: Path, hooks: Hooks) -> None:
    """It says what it could not look at, exits 0 or 3, and changes nothing."""
    before = snapshot(hooks.node.folder)
    status, out, err = call(
        place, *("doctor", "-c", str(hooks.node.config), "--role", "node", "--node", "n1")
    )
    assert status in (0, 3), (out, err)
    assert err == ""
    assert "not run as root: what only root can see was not looked at" in out
    assert all(line.isprintable() for line in out.splitlines())
    assert snapshot(hooks.node.folder) == before


def test_a_users_own_environment(place: Path, hooks: Hooks) -> None:
    """Locale, terminal and Python's own variables: an exit status and text, never a traceback."""
    odd = [
        {"LC_ALL": "C"},
        {"LC_ALL": "tr_TR.ISO-8859-9"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"TERM": "\x1b[31m", "COLUMNS": "-5", "LINES": "x", "FORCE_COLOR": "1"},
        {"TMPDIR": "/no/such", "HOME": "/no/such", "TZ": ":/etc/shadow"},
        {"SLURMD_NODENAME": "../../x\n\x1b[2J", "SLURM_CONF": "/etc/shadow", "SLURM_JOB_ID": "x"},
    ]
    for env in odd:
        for words in (("profiles", "--gpu", "A100-SXM4-40GB"), ("status",)):
            more = () if words[0] == "profiles" else ("-c", str(hooks.node.config))
            status, out, err = call(place, *words, *more, **env)
            assert status in (0, 1, 3), (env, words, out, err)
            assert "Traceback" not in err, (env, words, err)
            assert "\x1b" not in out + err


def test_a_process_named_by_a_user(place: Path) -> None:
    """A process that names itself with terminal escapes is named without them."""
    with subprocess.Popen(
        [place / "python/python", "-c", _NAMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        said = [str(look_up(process.pid)), *describe_processes([process.pid])]
    assert all(text.isprintable() and "x1b[2Jx" in text for text in said)
