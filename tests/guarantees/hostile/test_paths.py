"""Things planted at every path that hooks and commands open: nothing is followed, nobody hangs.

Who could plant them is root alone where the folders are as `slurm-mig render tmpfiles` makes them
(test_a_folder_that_a_user_can_swap: they are refused elsewhere). These tests try all the same.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from canary import Canary
from effort import count, seed
from hooking import Hooks

MakeHooks = Callable[..., Hooks]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="plants files of other users")
USER = 65534
COMMAND = (sys.executable, "-m", "slurm_mig.cli.main")
#: What is planted, below the node's folder.
PATHS = (
    *("state", "state/ledger.sqlite", "state/ledger.sqlite-journal", "state/ledger.sqlite-wal"),
    *("state/ledger.sqlite-shm", "state/locks", "state/locks/host.lock", "state/locks/job-7.lock"),
    *("state/locks/gpu-GPU.lock", "state/ledger.damaged-1.sqlite", "run", "run/jobs", "run/jobs/7"),
    *("run/jobs/7/env", "run/jobs/7/.env", "run/jobs/7/refuse", "run/jobs/7/.refuse"),
    *(
        "run/jobs/7/instances",
        "run/jobs/7/.instances",
        "run/jobs/8",
        "run/jobs/../../x",
        "state/drained",
        "state/.drained",
    ),
    *("log", "config.toml", "config.d", "config.d/x.toml"),
)
KINDS = ("link", "link to folder", "dangling", "loop", "hard link", "pipe", "socket")
KINDS += ("folder", "full folder", "user's", "everybody's", "device", "empty")
VERBS = ("prolog", "epilog", "reconcile", "status", "doctor", "hooks")


def remove(path: Path) -> None:
    """Whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def plant(kind: str, path: Path, canary: Canary) -> bool:
    """Put something at `path`, and there only; False where that cannot be."""
    was_folder = path.is_dir()
    parent = path.parent
    parent.mkdir(parents=True, exist_ok=True)
    if kind in ("user's", "everybody's") and path.exists():
        os.chown(path, USER if kind == "user's" else 0, -1)
        path.chmod(0o644 if kind == "user's" else 0o666 | (0o111 if was_folder else 0))
        return True
    remove(path)
    if kind == "link":
        path.symlink_to(canary.tree / "file")
    elif kind == "link to folder":
        path.symlink_to(canary.tree)
    elif kind == "dangling":
        path.symlink_to(canary.tree / "new")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "hard link":
        path.hardlink_to(canary.tree / "file")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            here = Path.cwd()
            os.chdir(parent)  # the whole path may be too long for a socket
            try:
                made.bind(path.name)
            finally:
                os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "full folder":
        shutil.copytree(canary.tree, path)
        (path / "way-out").symlink_to(canary.tree)
    elif kind == "device":
        os.mknod(path, 0o20600, os.makedev(1, 5))  # /dev/zero
    else:
        path.touch(mode=0o666 if kind == "everybody's" else 0o600)
        os.chown(path, USER if kind == "user's" else 0, -1)
    return True


class Node:
    """A node that is made as new between tries."""

    def __init__(self, hooks: Hooks, canary: Canary, tmp: Path) -> None:
        self.hooks, self.canary, self.tmp = hooks, canary, tmp
        self.folder = hooks.node.folder
        self.config = hooks.node.config.read_bytes()
        hooks.job(7, "mig:3g.20gb(CNT:1)", uid=USER)

    def fresh(self) -> None:
        """Neither instances nor files."""
        self.hooks.sim.reboot()
        for name in ("state", "run", "log", "config.d", "config.toml", "x"):
            remove(self.folder / name)
        self.hooks.node.config.write_bytes(self.config)
        self.hooks.node.config.chmod(0o644)

    def command(self, *words: str) -> tuple[int, str]:
        """Run `slurm-mig WORDS… --config …`; its status and output."""
        done = subprocess.run(
            [*COMMAND, *words, "--config", self.hooks.node.config],
            capture_output=True,
            timeout=60,
            check=False,
            env={"PATH": "/usr/bin:/bin"},
        )
        return done.returncode, (done.stdout + done.stderr).decode()

    def run(self, verb: str) -> tuple[int, str]:
        """Run a hook or a command."""
        if verb in ("prolog", "epilog"):
            made = self.hooks.run(verb, timeout=20)
            assert not made.timed_out, f"{verb} hangs"
            return made.rc, made.output
        more = {"reconcile": ("--offline",), "doctor": (), "hooks": (str(self.tmp / "hooks"),)}
        return self.command(verb, *more.get(verb, ()))


def one_try(node: Node, verb: str, name: str, kind: str) -> None:
    """Plant, run, look."""
    node.fresh()
    if verb != "prolog":
        assert node.run("prolog")[0] == 0
    path = node.folder / name
    if name == "state/locks/gpu-GPU.lock":
        path = path.with_name(f"gpu-{node.hooks.sim.gpus()[0].uuid}.lock")
    plant(kind, path, node.canary)
    node.canary.settled()
    status, output = node.run(verb)
    node.canary.alive()
    assert status in (0, 1, 2, 3), output
    assert "Traceback" not in output
    assert "internal error" not in output
    assert verb not in ("prolog", "epilog") or output.count("\n") <= 1, output
    remove(path)


@pytest.fixture
def node(new_hooks: MakeHooks, tmp_path: Path) -> Node:
    """A node and a canary; waits are short."""
    hooks = new_hooks(
        lock={"timeout": 0.2, "gpu_timeout": 0.2}, epilog={"budget": 0.2}, slurm={"timeout": 5}
    )
    return Node(hooks, Canary(tmp_path / "canary"), tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(count(120, 3600))
@pytest.mark.parametrize("part", range(2))
def test_what_is_planted_is_not_followed(
    node: Node, part: int, figures: Callable[..., None]
) -> None:
    """No content, owner, mode or name of what it leads to changes; no hook hangs or tells twice."""
    every = [(verb, name, kind) for verb in VERBS for name in PATHS for kind in KINDS]
    begin = seed()
    chance = random.Random(begin)  # noqa: S311 -- which to try
    chance.shuffle(every)
    # Commands start slowly; in `make test` most tries are of hooks.
    hooks = [one for one in every if one[0] in VERBS[:2]]
    others = [one for one in every if one[0] not in VERBS[:2]]
    some = hooks[: count(24, len(hooks) // 2)] + others[: count(4, len(others) // 2)]
    if part and len(some) > 30:
        some = hooks[len(hooks) // 2 :] + others[len(others) // 2 :]
    for verb, name, kind in some:
        try:
            one_try(node, verb, name, kind)
        except Exception as error:
            raise AssertionError(f"SEED={begin} {verb} {name} {kind}: {error}") from error
    figures("hostile", plants=len(some), seeds=[begin])


_SWAP = """
import os, sys, time
parent, name, target = sys.argv[1:]
os.setgid(65534); os.setgroups([]); os.setuid(65534)
os.chdir(parent)
print("begun", flush=True)
swaps = 0
while not os.path.exists("stop"):
    try:
        os.rename(name, "away")
        os.symlink(target, name)
        os.unlink(name)
        os.rename("away", name)
        swaps += 1
    except OSError:
        pass
print(swaps, flush=True)
"""


@contextmanager
def swapping(parent: Path, name: str, target: Path) -> Iterator[list[int]]:
    """A user's process that swaps `parent/name` for a link and back, until the block ends."""
    swaps: list[int] = []
    process = subprocess.Popen(
        ["/usr/bin/python3", "-I", "-S", "-c", _SWAP, parent, name, target],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            yield swaps
        finally:
            (parent / "stop").touch()
            swaps.append(int(process.stdout.readline()))


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.soak
@pytest.mark.timeout(count(120, 3600))
@pytest.mark.parametrize(("which", "key"), [("state", "directory"), ("run", "run_directory")])
@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_that_a_user_can_swap(
    new_hooks: MakeHooks,
    tmp_path: Path,
    shared: Path,
    which: str,
    key: str,
    mode: int,
    figures: Callable[..., None],
) -> None:
    """Where others can write the folder above, hooks refuse it; in a sticky one they cannot swap.

    A user's process swaps the directory for a link to a canary all the while.
    """
    parent = shared / "parent"
    parent.mkdir()
    parent.chmod(mode)
    hooks = new_hooks(state={key: str(parent / which)})
    (parent / which).mkdir(mode=0o755)
    canary = Canary(tmp_path / "canary")
    hooks.job(7, "mig:3g.20gb(CNT:1)", uid=USER)
    rounds = count(5, 100)
    told = []
    with swapping(parent, which, canary.tree) as swaps:
        for _ in range(rounds):
            told += [hooks.run(verb, timeout=20) for verb in ("prolog", "epilog")]
    canary.alive()
    assert all("internal error" not in run.output for run in told)
    if mode & 0o1000:
        assert swaps == [0]
        assert {run.rc for run in told} == {0}, told[0].output
        hooks.nothing_left()
    else:
        assert swaps[0] > 0
        assert {run.rc for run in told if run.which == "prolog"} == {1}
        assert all("others can put another in its place" in r.output for r in told if r.rc)
        assert hooks.lives() == []
    figures("hostile", swaps=swaps[0], swapped_rounds=rounds)


def test_hook_scripts_are_not_written_through_links(node: Node, tmp_path: Path) -> None:
    """`slurm-mig hooks` replaces what has a hook's name or its draft's, and writes through none."""
    folder = tmp_path / "hooks"
    for kind in ("link", "dangling", "hard link", "pipe"):
        for name in ("slurm-mig-prolog", ".slurm-mig-prolog.new"):
            node.fresh()
            plant(kind, folder / name, node.canary)
            node.canary.settled()
            status, output = node.run("hooks")
            assert status == 0, output
            written = folder / "slurm-mig-prolog"
            assert not written.is_symlink()
            assert written.stat().st_nlink == 1
            assert (written.stat().st_mode & 0o7777, written.stat().st_uid) == (0o755, 0)
            node.canary.alive()
            shutil.rmtree(folder)


@pytest.mark.parametrize("place", ["", "slurm", "nodes/a"])
def test_rendered_files_are_not_written_through_a_users_link(tmp_path: Path, place: str) -> None:
    """Into a folder in which a user has put a link, nothing is rendered behind it."""
    canary = Canary(tmp_path / "canary")
    out = tmp_path / "out"
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    (out / place).symlink_to(canary.tree)
    os.chown(out / place, USER, USER, follow_symlinks=False)
    text = '[slurm]\nrelease = "24.11"\n[nodes.a]\nhosts = "a1"\ngpus = "A100-SXM4-40GB:1"\n'
    (tmp_path / "cluster.toml").write_text(text + 'layout = "small"\n')
    done = subprocess.run(
        [*COMMAND, "render", "-c", tmp_path / "cluster.toml", "-o", out],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"slurm-mig: {out / place}: a link that uid {USER} made; move it away\n"
    canary.alive()


def test_a_pipe_as_log_or_configuration_holds_nobody(node: Node) -> None:
    """The hook goes on without its line, or says that the configuration is no file."""
    node.fresh()
    plant("pipe", node.folder / "log", node.canary)
    assert node.run("prolog") == (0, "")
    assert node.run("epilog") == (0, "")
    assert node.run("prolog") == (0, "")
    plant("pipe", node.folder / "run/jobs/7", node.canary)
    assert node.run("epilog") == (0, "")
    node.hooks.nothing_left()
    plant("pipe", node.hooks.node.config, node.canary)
    status, output = node.run("prolog")
    assert (status, output) == (
        1,
        f"slurm-mig: {node.hooks.node.config}: is no regular file; move it away\n",
    )
