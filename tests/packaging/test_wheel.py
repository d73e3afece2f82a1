"""The wheel: what is in it, and that it works where there is no repository.

No network is used: the wheel is built by the hatchling of this environment, and the new virtual
environment borrows this one's dependencies.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(argv, cwd=REPOSITORY, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A virtual environment with the wheel unpacked into it as pip does, and its command."""
    folder = tmp_path_factory.mktemp("installed")
    # Without pip, which takes seconds to put there; this environment's own installs the wheel.
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv/bin/python"
    argv = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    argv += ["--quiet", "--disable-pip-version-check", wheel]
    subprocess.run(argv, check=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
    # Its dependencies, but not the editable slurm-mig that lies beside them: a path line in a .pth
    # adds a folder without reading the .pth files in it.
    (Path(packages) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield folder / "venv"
    shutil.rmtree(folder)


@pytest.fixture
def command(environment: Path, tmp_path: Path) -> Command:
    """Runs the installed `slurm-mig` in another folder, with the least environment."""

    def run(*words: str | Path) -> "subprocess.CompletedProcess[str]":
        env = {
            "PATH": os.defpath,
            "HOME": str(tmp_path),
            "SLURM_MIG_CACHE": str(environment.parent / "cache"),
            "TMPDIR": str(tmp_path),
            "LANG": "C.UTF-8",
        }
        return subprocess.run(
            [environment / "bin/slurm-mig", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    return run


def test_wheel_holds_everything(wheel: Path) -> None:
    """Hooks, templates, simulator sources, the table and py.typed are in it; no test, no bench."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    shipped = {
        "slurm_mig/share/prolog/slurm-mig-prolog",
        "slurm_mig/share/prolog/slurm-mig-task-prolog",
        "slurm_mig/share/epilog/slurm-mig-epilog",
        "slurm_mig/share/templates/config.toml",
        "slurm_mig/data/mig_profiles.json",
        "slurm_mig/py.typed",
    }
    for path in (REPOSITORY / "templates").rglob("*"):
        if path.is_file():
            shipped.add(f"slurm_mig/share/{path.relative_to(REPOSITORY)}")
    tracked = REPOSITORY / "slurm_mig"
    for path in tracked.rglob("*"):
        if path.suffix in {".py", ".c", ".h", ".def", ".json", ".toml"}:
            shipped.add(f"slurm_mig/{path.relative_to(tracked)}")
    assert shipped - names == set()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"slurm_mig"}
    assert [name for name in names if "__pycache__" in name] == []


def test_runs_its_own_code(environment: Path, tmp_path: Path) -> None:
    """The new environment imports the wheel's package, not the repository's."""
    code = "import slurm_mig; print(slurm_mig.__file__)"
    argv = [environment / "bin/python", "-c", code]
    said = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert Path(said.strip()).is_relative_to(environment)


def test_version(command: Command, wheel: Path) -> None:
    """`--version` is the wheel's."""
    assert command("--version").stdout == f"slurm-mig {wheel.name.split('-')[1]}\n"


def test_profiles_of_a_model(command: Command) -> None:
    """`profiles --gpu` reads the table that was shipped."""
    done = command("profiles", "--gpu", "A100-SXM4-40GB")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3g.20gb" in done.stdout


def test_render_uses_the_shipped_templates(command: Command, tmp_path: Path) -> None:
    """`render` makes every file from the wheel's templates, the same as from the tree's."""
    (tmp_path / "cluster.toml").write_text(
        '[slurm]\nrelease = "24.11"\n[layout]\ndefault = "balanced"\n'
        '[nodes.a]\nhosts = "n[1-4]"\ngpus = "A100-SXM4-40GB:8"\n'
    )
    done = command("render", "-c", "cluster.toml")
    assert (done.returncode, done.stderr) == (0, "")
    argv = [sys.executable, "-m", "slurm_mig.cli.main", "render", "-c", "cluster.toml"]
    tree = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert done.stdout == tree
    assert done.stdout.startswith("==> slurm/gres.conf <==\n# Made by slurm-mig ")


def test_simulator_is_built_from_the_wheel(command: Command, tmp_path: Path) -> None:
    """`sim create` compiles the shipped sources."""
    done = command("sim", "create", "--gpu", "A100-SXM4-40GB:2", tmp_path / "sim")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "sim/lib/libnvidia-ml.so.1").is_file()


def test_hooks_name_the_installed_python(
    command: Command, environment: Path, tmp_path: Path
) -> None:
    """`hooks` writes scripts that run the installed package, and they do."""
    config = tmp_path / "config.toml"
    config.write_text(f'[state]\nrun_directory = "{tmp_path}/run"\n')
    done = command("hooks", "--config", config, tmp_path / "hooks")
    assert (done.returncode, done.stderr) == (0, "")
    scripts = sorted(path.name for path in (tmp_path / "hooks").iterdir())
    assert scripts == ["slurm-mig-epilog", "slurm-mig-prolog", "slurm-mig-task-prolog"]
    for name in ("slurm-mig-epilog", "slurm-mig-prolog"):
        text = (tmp_path / "hooks" / name).read_text()
        assert f"\nPYTHON={environment}/bin/python\n" in text
        assert str(REPOSITORY / "slurm_mig") not in text
    epilog = tmp_path / "hooks/slurm-mig-epilog"
    assert subprocess.run([epilog], env={"SLURM_JOB_ID": "7"}, check=False).returncode == 0


def test_demo_runs_from_the_wheel(command: Command, tmp_path: Path) -> None:
    """The demo under the stand-in says so first, makes its ten instances and leaves nothing."""
    done = command("demo", "--stand-in")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0].startswith("No Slurm here: the same hooks run under the scheduler stand-in")
    assert "instances made: 10, destroyed: 10, left: 0" in lines
    assert list(tmp_path.iterdir()) == []
