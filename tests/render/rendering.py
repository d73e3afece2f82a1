"""Descriptions for the tests here, and a strict reader of what Slurm and systemd would read."""

import dataclasses
import re
from collections.abc import Iterator
from functools import cache

from slurm_mig import description_parse, table
from slurm_mig.description import Description, Release
from slurm_mig.layouts import NAMED
from slurm_mig.render import RenderedFile, render

RELEASES = ("22.05", "23.02", "23.11", "24.11", "25.05", "25.11", "26.05")
_ENTRIES = table.entries()
MODELS = [entry.key for entry in _ENTRIES]
LAYOUTS = list(NAMED)

#: Two groups, one of them with GPUs that stay whole.
TWO_GROUPS = """
[slurm]
release = "24.11"
[layout]
default = "balanced"
[nodes.a100]
hosts = "gpu[01-16]"
gpus = "A100-SXM4-40GB:8"
conf = "CPUs=128 RealMemory=1031000"
[nodes.mixed]
hosts = "gpu[17-18]"
layout = "halves"
gpus = [ { model = "H100-SXM5-80GB", index = "0-2,5" },
         { model = "H100-SXM5-80GB", index = "3-4,6", mig = false, type = "h100" },
         { model = "H100-SXM5-80GB", index = "7", mig = false, type = "nvl" } ]
"""
ELASTIC = "[elastic]\nenabled = true\n"

_WORD = re.compile(r'([A-Za-z]+)=("[^"]*"|\S+)(?: |$)')


@cache
def described(text: str = TWO_GROUPS, release: str | None = None) -> Description:
    """The description of a cluster.toml."""
    asked = Release.parse(release) if release else None
    return description_parse.parse(text, "cluster.toml", entries=_ENTRIES, release=asked)


@cache
def one_model(model: str, layout: str, release: str, elastic: bool) -> Description:
    """Four nodes with eight GPUs of a model."""
    # Read once for all releases: what costs time is to see that the layout can be kept.
    description = described(
        f'[slurm]\nrelease = "24.11"\n[layout]\ndefault = "{layout}"\n'
        f'[nodes.all]\nhosts = "n[1-4]"\ngpus = "{model}:8"\nconf = "CPUs=64"\n'
        + (ELASTIC if elastic else "")
    )
    site = dataclasses.replace(description.site, release=Release.parse(release))
    return dataclasses.replace(description, site=site)


_rendered: dict[int, tuple[Description, dict[str, RenderedFile]]] = {}


def files(description: Description) -> dict[str, RenderedFile]:
    """What is rendered, by name; once for each description, which is kept so that its id is."""
    if id(description) not in _rendered:
        made = {file.name: file for file in render(description)}
        _rendered[id(description)] = (description, made)
    return _rendered[id(description)][1]


def text(description: Description, name: str) -> str:
    """The text of one rendered file."""
    return files(description)[name].text


def slurm_lines(text: str) -> Iterator[dict[str, str]]:
    """The lines of a file in Slurm's syntax, each as its words, without the comments."""
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        words = _WORD.findall(line)
        assert " ".join(f"{key}={value}" for key, value in words) == line, line
        assert len({key for key, _ in words}) == len(words), line
        yield dict(words)


def slurm_keys(text: str) -> dict[str, str]:
    """The lines of slurm.conf that are one key; no key may stand twice."""
    found: dict[str, str] = {}
    for words in slurm_lines(text):
        if "NodeName" not in words:
            ((key, value),) = words.items()
            assert key not in found
            found[key] = value
    return found


def gres_of(words: str) -> dict[tuple[str, str], int]:
    """A Gres= value as {(name, type): count}; every item has a count."""
    found: dict[tuple[str, str], int] = {}
    for item in words.split(","):
        name, *kind, count = item.split(":")
        assert len(kind) < 2
        key = (name, kind[0] if kind else "")
        assert key not in found
        found[key] = int(count)
    return found
