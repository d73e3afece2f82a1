"""Folders with other releases: whole or not there, and made anew when something else goes in."""

from collections.abc import Callable
from pathlib import Path

import pytest

from slurm_mig.rehearsal import slurm_folder
from slurm_mig.rehearsal.slurm_install import PROGRAMS

#: Stands in for debootstrap: notes its arguments, makes the programs' files, ends as told.
TOOL = """#!/bin/sh
echo "$@" >>{log}
shift $(($# - 3))
mkdir -p "$1/usr/sbin"
for program in {programs}; do
    printf '#!/bin/sh\\necho slurm-wlm 24.11.5\\n' >"$1/usr/sbin/$program"
    [ {status} = 0 ] || exit {status}
done
"""


@pytest.fixture
def debootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Put a stand-in on the PATH that ends with a status; returns the log of its calls."""
    monkeypatch.setattr(slurm_folder, "mirror", lambda: "http://mirror/debian")
    monkeypatch.setattr(slurm_folder.os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    def put(status: int) -> Path:
        log, tool = tmp_path / "calls", tmp_path / "bin/debootstrap"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(TOOL.format(log=log, programs=" ".join(PROGRAMS), status=status))
        tool.chmod(0o755)
        return log

    return put


def test_made_once(debootstrap, tmp_path: Path) -> None:
    """A folder that is there is taken as it is."""
    log = debootstrap(0)
    made = [slurm_folder.make("trixie", tmp_path / "into") for _ in range(2)]
    assert [install.root for install in made] == [tmp_path / "into/trixie"] * 2
    assert slurm_folder.find("trixie", tmp_path / "into") == made[0]
    assert len(log.read_text().splitlines()) == 1


def test_half_made_is_not_there(debootstrap, tmp_path: Path) -> None:
    """What a failed run leaves has another name; the next run begins again."""
    debootstrap(3)
    with pytest.raises(slurm_folder.FolderError, match=r"debootstrap ended with 3; see .*log"):
        slurm_folder.make("trixie", tmp_path)
    assert slurm_folder.find("trixie", tmp_path) is None
    assert not (tmp_path / "trixie").exists()
    debootstrap(0)
    assert slurm_folder.make("trixie", tmp_path).root == tmp_path / "trixie"


def test_made_anew_for_another_recipe(
    debootstrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without something that it should have by now is replaced, not taken."""
    log = debootstrap(0)
    slurm_folder.make("forky", tmp_path)
    (tmp_path / "forky/old").touch()
    monkeypatch.setitem(slurm_folder.MORE, "forky", (("main", "contrib"), ("more-of-slurm",)))
    before = slurm_folder.find("forky", tmp_path)
    slurm_folder.make("forky", tmp_path)
    assert before is None
    assert not (tmp_path / "forky/old").exists()
    assert [" --components=main,contrib " in line for line in log.read_text().splitlines()] == [
        False,
        True,
    ]
    assert "more-of-slurm" in log.read_text()


def test_a_failure_keeps_what_was_there(
    debootstrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder goes only when the new one is whole."""
    debootstrap(0)
    slurm_folder.make("forky", tmp_path)
    monkeypatch.setitem(slurm_folder.MORE, "forky", (("main",), ("more-of-slurm",)))
    debootstrap(1)
    with pytest.raises(slurm_folder.FolderError):
        slurm_folder.make("forky", tmp_path)
    assert (tmp_path / "forky/usr/sbin/slurmctld").exists()


def test_the_command_says_each_in_one_line(
    debootstrap, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a folder; what could not be made is on stderr, and the status is 1."""
    debootstrap(7)
    status = slurm_folder.main(["--into", str(tmp_path), "trixie", "forky"])
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert [line.partition(";")[0] for line in err.splitlines()] == [
        f"{suite}: no folder with another Slurm: debootstrap ended with 7"
        for suite in ("trixie", "forky")
    ]
