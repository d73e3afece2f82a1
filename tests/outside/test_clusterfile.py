"""Reading cluster.toml: what can be wrong with a file is one sentence with its name."""

import subprocess
import sys
from pathlib import Path

import pytest

from slurm_mig import clusterfile, share
from slurm_mig.description import Release
from slurm_mig.errors import ConfigError

TEXT = """\
[slurm]
release = "24.11"
[layout]
default = "balanced"
[nodes.a100]
hosts = "gpu[01-16]"
gpus = "A100-SXM4-40GB:8"
"""


def refused(path: Path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(ConfigError) as caught:
        clusterfile.load(path)
    return str(caught.value)


def test_file_is_read_with_the_shipped_table(tmp_path: Path) -> None:
    """A file is described as its text is, and the release asked for goes before its own."""
    path = tmp_path / "cluster.toml"
    path.write_text(TEXT)
    assert clusterfile.load(path) == clusterfile.loads(TEXT)
    assert clusterfile.load(path).groups[0].promises == {"3g.20gb": 8, "2g.10gb": 8, "1g.5gb": 16}
    assert clusterfile.load(path, Release(22, 5)).site.release == (22, 5)


def test_error_names_file_line_and_key(tmp_path: Path) -> None:
    """An error in the file says where it is."""
    path = tmp_path / "cluster.toml"
    path.write_text(TEXT.replace("[01-16]", "[16-01]"))
    assert refused(path) == (
        f"{path}:6: [nodes.a100] hosts: the range 16-01 counts down; write 01-16"
    )


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there: where the reference is, and how to name another."""
    path = tmp_path / "none.toml"
    assert refused(path) == (
        f"{path}: no such file; write it ({share.path('templates/cluster.toml')} has every key) "
        "or name another with --config"
    )


def test_default_file_is_the_one_under_etc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a path, /etc/slurm-mig/cluster.toml is read."""
    assert Path("/etc/slurm-mig/cluster.toml") == clusterfile.DEFAULT
    path = tmp_path / "cluster.toml"
    path.write_text(TEXT)
    monkeypatch.setattr(clusterfile, "DEFAULT", path)
    assert clusterfile.load().groups[0].name == "a100"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[slurm\n", ":1: not valid TOML: Expected ']' at the end of a table declaration"),
        (b"a = 1\n# \xff\n", ":2: not valid TOML: not UTF-8"),
        (b"\xef\xbb\xbfa = 1\n", ":1: not valid TOML: Invalid statement (column 1)"),
        (b"a = '\x00'\n", ":1: not valid TOML: Found invalid character '\\x00' (column 6)"),
        (b"", ":1: [slurm]: release is missing"),
        (b"#" * (16 * 1024 * 1024 + 1), ": has more than 16 MiB; it is no cluster.toml"),
    ],
    ids=["toml", "utf-8", "bom", "nul", "empty", "large"],
)
def test_bad_content(tmp_path: Path, content: bytes, message: str) -> None:
    """Content that cannot be read as TOML is told by line."""
    path = tmp_path / "cluster.toml"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path}{message}")


def test_directory(tmp_path: Path) -> None:
    """A directory is no file."""
    assert refused(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without permission; root may read all, so the refusal is the system call's."""
    path = tmp_path / "cluster.toml"
    path.write_text(TEXT)

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert refused(path) == f"{path}: cannot be read: Permission denied"


def test_long_name(tmp_path: Path) -> None:
    """A name that no file can have is one sentence, too."""
    path = tmp_path / ("x" * 300)
    assert refused(path).endswith(": cannot be read: File name too long")


def test_line_breaks_of_other_systems(tmp_path: Path) -> None:
    """A file with CRLF is read, and its lines are counted as an editor counts them."""
    path = tmp_path / "cluster.toml"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert clusterfile.load(path) == clusterfile.loads(TEXT)
    path.write_bytes(TEXT.replace("\n", "\r\n").replace(":8", ":0").encode())
    assert refused(path) == f"{path}:7: [nodes.a100] gpus: 0 GPUs: a node has 1 to 64"


def test_no_clustershell_for_hooks() -> None:
    """Nothing that a hook imports reads host lists."""
    code = (
        "import sys, slurm_mig.prolog, slurm_mig.epilog, slurm_mig.configfile;"
        "print([m for m in sys.modules if m.startswith('ClusterShell') or 'description' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
