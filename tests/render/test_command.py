"""`slurm-mig render` as people type it: what it prints, writes, compares and refuses."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from rendering import TWO_GROUPS, described, files

from slurm_mig.render import KINDS

Host = Callable[[str], None]


@pytest.fixture
def installed(render: Run, tmp_path: Path) -> Path:
    """A root folder in which everything is installed as it should be, for a node of `mixed`."""
    root = tmp_path / "root"
    for file in files(described()).values():
        if file.group != "a100":
            path = root / file.install.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)
    return root


def test_one_file_is_printed_alone(render: Run) -> None:
    """One file: its bytes and nothing else, to be piped where it is wanted."""
    wanted = files(described())["slurm/gres.conf"].text
    assert render("gres.conf") == (0, wanted, "")


def test_several_files_are_told_apart(render: Run) -> None:
    """Several files: before each a line with its name, in the order of rendering."""
    found = files(described())
    names = ["slurm/gres.conf", "slurm/slurm_mig.lua", "slurm/job_submit.lua"]
    wanted = "".join(f"==> {name} <==\n{found[name].text}" for name in names)
    assert render("lua", "gres.conf") == (0, wanted, "")


def test_everything_is_printed(render: Run) -> None:
    """Without a word all files of all groups are printed."""
    wanted = "".join(f"==> {name} <==\n{file.text}" for name, file in files(described()).items())
    assert render() == (0, wanted, "")


def test_another_release(render: Run) -> None:
    """--slurm-version goes before the release of the file."""
    ended = render("--slurm-version", "22.05", "gres.conf")
    assert ended == (0, files(described(release="22.05"))["slurm/gres.conf"].text, "")


def test_one_nodes_file(render: Run) -> None:
    """--node takes the file of that node's group."""
    wanted = files(described())["nodes/mixed/config.toml"].text
    assert render("node", "--node", "gpu18") == (0, wanted, "")


def test_files_are_written_once(render: Run, tmp_path: Path) -> None:
    """-o writes all files, says which, and the second time finds nothing to write."""
    out = tmp_path / "made/out"
    found = files(described())
    ended = render("-o", out)
    lines = [f"wrote {out}/{name}" for name in found]
    assert ended == (0, "\n".join([*lines, "11 written, 0 unchanged"]) + "\n", "")
    paths = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert {name: path.read_text() for name, path in paths.items()} == {
        name: file.text for name, file in found.items()
    }
    assert {path.stat().st_mode & 0o7777 for path in paths.values()} == {0o644}
    before = {name: path.stat().st_ino for name, path in paths.items()}
    assert render("-o", out) == (0, "0 written, 11 unchanged\n", "")
    assert {name: path.stat().st_ino for name, path in paths.items()} == before


def test_only_what_changed_is_written(render: Run, cluster: Path, tmp_path: Path) -> None:
    """A changed description writes the files that it changes; a changed file is put right."""
    out = tmp_path / "out"
    render("-o", out)
    cluster.write_text(TWO_GROUPS.replace('"balanced"', '"small"'))
    (out / "tmpfiles.d/slurm-mig.conf").write_text("edited\n")
    ended = render("-o", out)
    names = ("gres.conf", "slurm-mig.conf", "slurm_mig.lua")
    assert ended.out.splitlines() == [
        *(f"wrote {out}/slurm/{name}" for name in names),
        f"wrote {out}/nodes/a100/config.toml",
        f"wrote {out}/tmpfiles.d/slurm-mig.conf",
        "5 written, 6 unchanged",
    ]


def test_a_file_is_replaced_in_one_step(render: Run, tmp_path: Path) -> None:
    """Who has the old file open reads the old one to its end; no draft stays behind."""
    out = tmp_path / "out"
    render("-o", out, "gres.conf")
    path = out / "slurm/gres.conf"
    path.write_text("old\n")
    with path.open() as reader:
        render("-o", out, "gres.conf")
        assert reader.read() == "old\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["gres.conf"]


def test_what_is_not_rendered_any_more_is_said(render: Run, cluster: Path, tmp_path: Path) -> None:
    """A removed group's file is named and left; a stranger's file is not ours to speak of."""
    out = tmp_path / "out"
    render("-o", out)
    (out / "slurm/topology.conf").write_text("SwitchName=s0 Nodes=n[1-2]\n")
    cluster.write_text(TWO_GROUPS[: TWO_GROUPS.index("[nodes.mixed]")])
    old = out / "nodes/mixed/config.toml"
    ended = render("-o", out, "tmpfiles")
    assert ended.out.splitlines() == [
        f"{old}: rendered once, and not any more; remove it",
        "0 written, 1 unchanged",
    ]
    assert old.exists()


def test_a_group_that_moved_into_a_file_of_its_own_is_still_rendered(
    render: Run, tmp_path: Path
) -> None:
    """Only a part is written: the other files that are there are not called left over."""
    out = tmp_path / "out"
    render("-o", out)
    assert render("-o", out, "node", "--node", "gpu17").out == "0 written, 1 unchanged\n"


def test_check_agrees(render: Run, host: Host, cluster: Path, installed: Path) -> None:
    """On a node all its files are compared; the job_submit module, which is slurmctld's, is not."""
    host("gpu17.example.org")
    assert render("--check", "--root", installed) == (0, f"8 files are as {cluster} says\n", "")
    one = render("--check", "--root", installed, "gres.conf")
    assert one == (0, f"1 file is as {cluster} says\n", "")


def test_check_elsewhere_looks_at_slurms_files_only(
    render: Run, host: Host, cluster: Path, installed: Path
) -> None:
    """On the controller the nodes' files need not be there."""
    host("controller")
    for place in ("etc/systemd", "etc/tmpfiles.d", "etc/slurm-mig"):
        os.rename(installed / place, installed / place.replace("/", "-"))  # noqa: PTH104
    ended = render("--check", "--root", installed)
    assert ended == (0, f"4 files are as {cluster} says\n", "")
    ended = render("--check", "--root", installed, "--node", "gpu17")
    assert (ended.status, ended.err) == (3, f"slurm-mig: 6 of 8 files are not as {cluster} says\n")


def test_check_shows_a_diff_that_mends(
    render: Run, host: Host, cluster: Path, installed: Path
) -> None:
    """Exit 3 and a unified diff from what is installed to what is rendered: patch(1) applies it."""
    host("gpu17")
    path = installed / "etc/slurm/gres.conf"
    right = path.read_text()
    path.write_text(right.replace("Count=16", "Count=15").replace("AutoDetect=off\n", ""))
    ended = render("--check", "--root", installed)
    assert ended.status == 3
    assert ended.err == f"slurm-mig: 1 of 8 files are not as {cluster} says\n"
    lines = ended.out.splitlines()
    assert lines[:2] == [f"--- {path}", f"+++ {path} (rendered)"]
    changes = [line for line in lines[2:] if line[0] in "+-"]
    assert changes == [
        "+AutoDetect=off",
        "-NodeName=gpu[01-16] Name=mig Type=1g.5gb Count=15 Flags=CountOnly,explicit",
        "+NodeName=gpu[01-16] Name=mig Type=1g.5gb Count=16 Flags=CountOnly,explicit",
    ]
    assert applied(path.read_text(), lines) == right


def applied(text: str, diff: list[str]) -> str:
    """A unified diff applied; every line that it takes away or keeps must be there."""
    source = text.split("\n")
    made: list[str] = []
    at = 0
    for line in diff[2:]:
        if found := re.fullmatch(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@", line):
            start = int(found[1]) - 1
            made += source[at:start]
            at = start
            continue
        if line[0] != "+":
            assert source[at] == line[1:]
            at += 1
        if line[0] != "-":
            made.append(line[1:])
    return "\n".join([*made, *source[at:]])


def test_check_shows_a_missing_file_whole(render: Run, host: Host, installed: Path) -> None:
    """A file that is not there differs in all its lines."""
    host("controller")
    (installed / "etc/slurm/job_submit.lua").unlink()
    ended = render("--check", "--root", installed, "lua")
    text = files(described())["slurm/job_submit.lua"].text
    lines = ended.out.splitlines()
    assert ended.status == 3
    assert lines[:2] == [
        "--- /dev/null",
        f"+++ {installed}/etc/slurm/job_submit.lua (rendered)",
    ]
    assert lines[3:] == [f"+{line}" for line in text.splitlines()]


def test_check_shows_hostile_files_harmlessly(render: Run, host: Host, installed: Path) -> None:
    """Escapes, carriage returns, bad UTF-8 and odd line breaks of an installed file are escaped."""
    host("controller")
    path = installed / "etc/slurm/gres.conf"
    path.write_bytes(b"\x1b]0;title\x07\x1b[2J\n\xff\xfe\r\na\tb\xe2\x80\xae\xc2\x85c\x0bd\nlast")
    ended = render("--check", "--root", installed, "gres.conf")
    removed = [line for line in ended.out.split("\n")[2:] if line.startswith("-")]
    assert removed == [
        r"-\x1b]0;title\x07\x1b[2J",
        r"-\xdcff\xdcfe\x0d",
        r"-a\x09b\x202e\x85c\x0bd",
        "-last",
        "-(no newline at the end)",
    ]
    assert all(line.isprintable() for line in ended.out.split("\n"))


def test_check_as_json(render: Run, host: Host, installed: Path) -> None:
    """For programs: each file's state, and its diff."""
    host("gpu17")
    (installed / "etc/slurm/gres.conf").write_text("")
    (installed / "etc/tmpfiles.d/slurm-mig.conf").unlink()
    ended = render("--check", "--root", installed, "--json")
    document = json.loads(ended.out)
    assert (ended.status, ended.err) == (3, "")
    assert (document["version"], document["same"]) == (1, False)
    states = {file["name"]: file["state"] for file in document["files"]}
    assert states.pop("slurm/gres.conf") == "differs"
    assert states.pop("tmpfiles.d/slurm-mig.conf") == "missing"
    assert set(states.values()) == {"same"}
    (gres,) = (file for file in document["files"] if file["what"] == "gres.conf")
    assert gres["install"] == "/etc/slurm/gres.conf"
    assert gres["group"] is None
    text = files(described())["slurm/gres.conf"].text
    assert gres["diff"][3:] == [f"+{line}" for line in text.splitlines()]


def test_files_as_json(render: Run, tmp_path: Path) -> None:
    """For programs: what is rendered, or what was written."""
    document = json.loads(render("--json", "node").out)
    assert (document["version"], document["release"]) == (1, "24.11")
    assert document["files"] == [
        {
            "what": "node",
            "name": f"nodes/{group}/config.toml",
            "install": "/etc/slurm-mig/config.toml",
            "group": group,
            "text": files(described())[f"nodes/{group}/config.toml"].text,
        }
        for group in ("a100", "mixed")
    ]
    path = f"{tmp_path}/out/slurm/gres.conf"
    first = json.loads(render("--json", "-o", tmp_path / "out", "gres.conf").out)
    assert first == {"version": 1, "written": [path], "unchanged": [], "stale": []}
    second = json.loads(render("--json", "-o", tmp_path / "out", "gres.conf").out)
    assert second == {"version": 1, "written": [], "unchanged": [path], "stale": []}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gres.con"], "nothing called 'gres.con' is rendered; did you mean 'gres.conf'?"),
        (["Slurm"], "nothing called 'Slurm' is rendered"),
        (["\x1b[2J"], "nothing called '\\x1b[2J' is rendered; known: "),
        (["--node", "gpu19"], "--node 'gpu19': in no node group; did you mean "),
        (["--node", "gpu[01-02]"], "--node 'gpu[01-02]': in no node group"),
        (["--slurm-version", "24"], '--slurm-version: must be a Slurm release such as "24.11"'),
        (["--slurm-version", "24.11.5"], "--slurm-version: must be a Slurm release '24.11'"),
        (["--slurm-version", "20.02"], "--slurm-version: there is no Slurm 20.02 that slurm-mig"),
        (["--root", "/tmp"], "--root is where --check looks; add --check"),
    ],
)
def test_bad_words(render: Run, words: list[str], sentence: str) -> None:
    """What makes no sense is one line that says what there is, and exit 2."""
    ended = render(*words)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"slurm-mig: {sentence}")
    assert ended.err.count("\n") == 1
    assert ended.err.strip().isprintable()


def test_write_and_check_exclude_each_other(render: Run, tmp_path: Path) -> None:
    """One or the other."""
    ended = render("--check", "-o", tmp_path / "out")
    assert ended.status == 2
    assert "not allowed with argument" in ended.err
    assert not (tmp_path / "out").exists()


def test_check_of_a_node_must_know_which(render: Run, host: Host) -> None:
    """On a host of no group, `node` needs --node."""
    host("controller")
    assert render("--check", "node") == (
        2,
        "",
        "slurm-mig: controller is in no node group, so which node's file? Say --node NAME\n",
    )


def test_a_bad_description_is_one_line(run: Run, tmp_path: Path) -> None:
    """Errors of the description come with file and line; nothing is written."""
    path = tmp_path / "cluster.toml"
    path.write_text('[slurm]\nrelease = "24.11"\nrelaese = 1\n')
    ended = run("render", "-c", path, "-o", tmp_path / "out")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"slurm-mig: {path}:3: [slurm] relaese: unknown key")
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_description(run: Run, tmp_path: Path) -> None:
    """A missing cluster.toml is one line too."""
    ended = run("render", "-c", tmp_path / "none.toml")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"slurm-mig: {tmp_path}/none.toml: no such file")


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "huge"])
def test_what_cannot_be_read_is_one_line(
    render: Run, host: Host, installed: Path, kind: str
) -> None:
    """An installed file that is none: exit 1 with its path, and nothing hangs."""
    host("controller")
    path = installed / "etc/slurm/gres.conf"
    path.unlink()
    if kind == "folder":
        path.mkdir()
        why = "is no regular file; move it away"
    elif kind == "pipe":
        os.mkfifo(path)
        why = "is no regular file; move it away"
    elif kind == "loop":
        path.symlink_to(path)
        why = "cannot be read: Too many levels of symbolic links"
    else:
        with path.open("wb") as file:
            file.truncate(8 * 1024 * 1024 + 1)
        why = "has more than 8 MiB, so it is not what it should be"
    ended = render("--check", "--root", installed)
    assert ended == (1, "", f"slurm-mig: {path}: {why}\n")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_cannot_be_written_is_one_line(render: Run, tmp_path: Path, kind: str) -> None:
    """An output folder that cannot be made, or a folder where a file should be: exit 1."""
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("")
        sentence = f"{out}/slurm/gres.conf: cannot be written: Not a directory"
    else:
        (out / "slurm/gres.conf").mkdir(parents=True)
        sentence = f"{out}/slurm/gres.conf: is no regular file; move it away"
    assert render("-o", out, "gres.conf") == (1, "", f"slurm-mig: {sentence}\n")


def test_a_full_disk_leaves_the_old_file(
    render: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure between draft and name leaves the old file and no draft."""
    out = tmp_path / "out"
    render("-o", out, "gres.conf")
    path = out / "slurm/gres.conf"
    path.write_text("old\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slurm_mig.rendered.os.fchmod", full)
    ended = render("-o", out, "gres.conf")
    assert ended == (1, "", f"slurm-mig: {path}: cannot be written: No space left on device\n")
    assert [entry.name for entry in path.parent.iterdir()] == ["gres.conf"]
    assert path.read_text() == "old\n"


def test_reader_that_goes_away(cluster: Path) -> None:
    """`slurm-mig render | head -1` ends without a traceback."""
    import sys

    words = [sys.executable, "-m", "slurm_mig.cli.main", "render", "-c", str(cluster)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"==> slurm/gres.conf <==\n"
        process.stdout.close()
        assert process.stderr.read() == b""


def test_help_names_every_kind(run: Run) -> None:
    """What can be asked for stands in --help."""
    ended = run("render", "--help")
    assert ended.status == 0
    text = " ".join(ended.out.split())
    assert ", ".join(KINDS[:-1]) + " or " + KINDS[-1] in text
