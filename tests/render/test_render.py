"""All files together: which there are, where they go; the same input gives the same bytes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rendering import ELASTIC, RELEASES, TWO_GROUPS, described, files

from slurm_mig import __version__
from slurm_mig.render import KINDS, render

REPOSITORY = Path(__file__).parents[2]


def test_names_and_places() -> None:
    """Every file has its kind, its path below the output folder, and the place where it belongs."""
    found = [(file.what, file.name, file.install, file.group) for file in render(described())]
    units = "/etc/systemd/system"
    assert found == [
        ("gres.conf", "slurm/gres.conf", "/etc/slurm/gres.conf", ""),
        ("slurm.conf", "slurm/slurm-mig.conf", "/etc/slurm/slurm-mig.conf", ""),
        ("lua", "slurm/slurm_mig.lua", "/etc/slurm/slurm_mig.lua", ""),
        ("lua", "slurm/job_submit.lua", "/etc/slurm/job_submit.lua", ""),
        ("node", "nodes/a100/config.toml", "/etc/slurm-mig/config.toml", "a100"),
        ("node", "nodes/mixed/config.toml", "/etc/slurm-mig/config.toml", "mixed"),
        *(
            ("systemd", f"systemd/{name}", f"{units}/{name}", "")
            for name in (
                "slurm-mig-boot.service",
                "slurm-mig-reconcile.service",
                "slurm-mig-reconcile.timer",
                "slurmd.service.d/slurm-mig.conf",
            )
        ),
        ("tmpfiles", "tmpfiles.d/slurm-mig.conf", "/etc/tmpfiles.d/slurm-mig.conf", ""),
    ]
    assert list(dict.fromkeys(file.what for file in render(described()))) == list(KINDS)


def test_places_of_the_site() -> None:
    """config_directory and [install] directory decide where files belong."""
    toml = TWO_GROUPS.replace("[layout]", 'config_directory = "/opt/slurm/etc"\n[layout]')
    found = files(described(toml + '[install]\ndirectory = "/srv/mig"\n'))
    assert found["slurm/gres.conf"].install == "/opt/slurm/etc/gres.conf"
    assert found["slurm/job_submit.lua"].install == "/opt/slurm/etc/job_submit.lua"
    assert found["nodes/a100/config.toml"].install == "/srv/mig/config.toml"
    assert "\nProlog=/srv/mig/hooks/slurm-mig-prolog\n" in found["slurm/slurm-mig.conf"].text


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("extra", ["", ELASTIC])
def test_every_file_says_what_made_it(release: str, extra: str) -> None:
    """Two lines of comment: the version, from what, not to be edited, and how it is made again."""
    for file in render(described(TWO_GROUPS + extra, release)):
        sign = "--" if file.name.endswith(".lua") else "#"
        first, second = file.text.splitlines()[:2]
        slurms = f", for Slurm {release}" if file.name.startswith("slurm/") else ""
        assert first == (
            f"{sign} Made by slurm-mig {__version__} from the cluster's description, "
            f"cluster.toml{slurms}."
        )
        assert second == (
            f"{sign} Do not edit it: edit cluster.toml, and make it again: "
            f"slurm-mig render {file.what}"
        )


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("extra", ["", ELASTIC])
def test_every_file_is_tidy(release: str, extra: str) -> None:
    """ASCII, one newline at the end, no blank at a line's end, no two empty lines, no template."""
    for file in render(described(TWO_GROUPS + extra, release)):
        assert file.text.isascii()
        assert file.text.endswith("\n")
        assert not file.text.endswith("\n\n")
        assert "\n\n\n" not in file.text
        for line in file.text.splitlines():
            assert line == line.rstrip()
            if not file.name.endswith(".lua"):
                assert "{{" not in line
                assert "{%" not in line
            if line.startswith("#"):
                assert len(line) <= 110


def test_the_benchs_cluster_is_what_its_row_says() -> None:
    """`make bench` measures 10,000 nodes in 200 groups, some of them with whole GPUs."""
    sys.path.insert(0, str(REPOSITORY))
    from bench import rendering

    description = described(rendering.cluster())
    assert len(description.groups) == rendering.GROUPS == 200
    assert sum(group.size for group in description.groups) == rendering.NODES == 10_000
    assert sum(bool(group.whole) for group in description.groups) == 20
    made = files(description)
    assert sum(name.startswith("nodes/") for name in made) == 200
    assert made["slurm/slurm-mig.conf"].text.count("\nNodeName=") == 200


_DIGEST = """
import hashlib, sys
from pathlib import Path
from slurm_mig import clusterfile
from slurm_mig.render import render
made = render(clusterfile.load(Path(sys.argv[1])))
print(hashlib.sha256(repr(made).encode()).hexdigest())
"""


def test_same_input_same_bytes(tmp_path: Path) -> None:
    """Other processes, folders, hash seeds, time zones and locales make the very same files."""
    toml = TWO_GROUPS + ELASTIC + "[node.lock]\ntimeout = 20\n[node.epilog]\nbudget = 40\n"
    digests = {hashlib.sha256(repr(render(described(toml))).encode()).hexdigest()}
    for number, seed in enumerate(("0", "1", "4711")):
        folder = tmp_path / f"folder{number}"
        folder.mkdir()
        (folder / "cluster.toml").write_text(toml)
        env = {
            "PATH": os.defpath,
            "PYTHONHASHSEED": seed,
            "TZ": ("UTC", "Asia/Tokyo", "America/Lima")[number],
            "LC_ALL": ("C", "C.UTF-8", "POSIX")[number],
        }
        words = [sys.executable, "-c", _DIGEST, folder / "cluster.toml"]
        done = subprocess.run(
            words, cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=60
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_only_render_imports_jinja() -> None:
    """jinja2 has one importer, and the command line does not import that before it is needed."""
    importers = [
        path.relative_to(REPOSITORY).as_posix()
        for path in sorted((REPOSITORY / "slurm_mig").rglob("*.py"))
        if "import jinja2" in (text := path.read_text()) or "from jinja2" in text
    ]
    assert importers == ["slurm_mig/render.py"]
    code = (
        "import sys; from slurm_mig.cli import main; main.build_parser(); "
        "print('jinja2' in sys.modules)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
