"""README and docs: their commands exist, their links lead somewhere; no file names this machine."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_mig.cli.main import build_parser

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("**/*.md"))]
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
#: Written so that this file does not contain what it looks for.
FORBIDDEN = re.compile(
    "|".join(["/wo" + "rk/(main|shared)", r"/root/\.\w", "py" + r"pi\.", "pythonhost" + "ed"])
)


def commands(document: Path, program: str) -> Iterator[str]:
    """The commands of `program` in code spans and in blocks marked sh."""
    text = document.read_text()
    for _, language, body in FENCED.findall(text):
        if language == "sh":
            for line in body.replace("\\\n", " ").splitlines():
                if (words := line.strip().removeprefix("$ ").removeprefix("# ")).startswith(
                    f"{program} "
                ):
                    yield words
    # A blank is said for a newline in a span that the line break splits.
    for span in SPAN.findall(FENCED.sub("", text)):
        for part in span.replace("\n", " ").split("&&"):
            if part.strip().startswith(f"{program} "):
                yield part.strip()


def everywhere(program: str) -> list[tuple[str, str]]:
    """All such commands, with the name of the document."""
    return [(path.name, line) for path in DOCUMENTS for line in commands(path, program)]


@pytest.mark.parametrize(("document", "line"), everywhere("slurm-mig"))
def test_commands_are_accepted(document: str, line: str) -> None:
    """A command in a document parses; one that only names a subcommand names one that exists."""
    words = shlex.split(line, comments=True)[1:]
    parser = build_parser()
    try:
        if len(words) == 1 and not words[0].startswith("-"):
            words = [*words, "--help"]
        parser.parse_args(words)
    except SystemExit as end:
        assert end.code == 0, f"{document}: {line}"  # noqa: PT017 -- --help ends so


def test_documents_show_commands() -> None:
    """The test above has something to look at."""
    assert {"README.md", "admin.md", "developer.md", "user.md"} <= {
        name for name, _ in everywhere("slurm-mig")
    }


def test_make_targets_exist() -> None:
    """Every `make X` in a document is a target of the Makefile."""
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {line.split()[1] for _, line in everywhere("make")}
    assert named >= {"demo", "test", "bench"}
    assert named - targets == set()


def test_ci_runs_the_readmes_test_command() -> None:
    """.ci/run ends in the very command that the README names for the tests."""
    assert ("README.md", "make test") in everywhere("make")
    assert (REPOSITORY / ".ci/run").read_text().splitlines()[-1] == "exec make test"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """A relative link names a file of the repository; a #part names a heading of it."""
    text = FENCED.sub("", document.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, part = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), f"{document.name}: {target}"
        if part:
            titles = re.findall(r"^#+ +(.*)$", path.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert part in slugs, f"{document.name}: {target}"


def tracked() -> list[Path]:
    """The files that git tracks."""
    argv = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [REPOSITORY / name for name in done.stdout.split("\0") if name]


def test_no_file_names_this_machine() -> None:
    """No tracked file holds a path of the machine it was written on, or a package registry."""
    found = []
    for path in tracked():
        if not path.is_file():  # removed, and not yet committed
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if FORBIDDEN.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:100]}")
    assert found == []
