"""Talks to the job_submit module in a plain Lua interpreter, by tests/lua/driver.lua."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm_mig.description import Description, GpuSet, Group, Release, Site
from slurm_mig.offers import literal
from slurm_mig.profiles import TableEntry
from slurm_mig.render import render
from slurm_mig.settings import parse

DRIVER = Path(__file__).with_name("driver.lua")
#: Slurm embeds 5.1 on Debian; the module is written for all from there to 5.4.
VERSIONS = ("lua5.1", "lua5.4")
UNSET = 65534
Fields = Mapping[str, str | int | None]


@dataclass(frozen=True)
class Answer:
    """What became of one call: Slurm's code, what the user and the log were told, the job now."""

    code: int
    said: tuple[str, ...]
    logged: tuple[str, ...]
    job: dict[str, str | int]

    @property
    def gres(self) -> str | None:
        """The request as Slurm gets it."""
        value = self.job.get("tres_per_node")
        return None if value is None else str(value)


def group(
    name: str, hosts: str, size: int, promises: Mapping[str, int], *entries: TableEntry, **more: Any
) -> Group:
    """A node group of one or more models, all partitioned."""
    gpus = tuple(GpuSet(entry, (index,), mig=True) for index, entry in enumerate(entries))
    values = {"layout": {}, "maxima": {}, "padding": 0, "conf": "", **more}
    return Group(name=name, hosts=hosts, size=size, gpus=gpus, promises=promises, **values)


def described(
    *groups: Group,
    release: tuple[int, int] = (24, 11),
    token: str = "extra",  # noqa: S107 - a field's name
    elastic: bool = False,
) -> Description:
    """A cluster of these groups."""
    return Description(
        site=Site(Release(*release), "/etc/slurm", ("gpu",), (), (), accounting=False),
        groups=groups,
        token=token,
        elastic=elastic,
        anchor="mig-anchor" if elastic else "",
        anchor_conf="CPUs=1" if elastic else "",
        directory="/etc/slurm-mig",
        program="/opt/slurm-mig/bin/slurm-mig",
        node={},
        settings=parse([]),
    )


def lua_files(description: Description) -> dict[str, str]:
    """The rendered Lua files by their base names."""
    return {Path(file.name).name: file.text for file in render(description) if file.what == "lua"}


class Interpreter:
    """One running interpreter with the module of one description."""

    def __init__(self, version: str, folder: Path, description: Description) -> None:
        program = shutil.which(version)
        assert program is not None, f"apt-get install {version}"
        for name, text in lua_files(description).items():
            (folder / name).write_text(text)
        self.release = description.site.release.year * 100 + description.site.release.month
        self._process = subprocess.Popen(
            [program, DRIVER, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def call(self, **call: Any) -> Answer:
        """One call of the driver."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        line = literal({"release": self.release, **call}).replace("\n", " ")
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
        said = process.stdout.readline()
        assert said.startswith(b"{"), said + process.stdout.read()
        found = json.loads(said)
        return Answer(
            found.pop("code"),
            tuple(map(_text, found.pop("said"))),
            tuple(map(_text, found.pop("logged"))),
            {name: _text(value) for name, value in found.items()},
        )

    def submit(self, partitions: Mapping[str, Fields], **job: Any) -> Answer:
        """A submission: `gres`, or any field of Slurm's job_desc; the rest as sbatch has it."""
        fields = _fields({"requeue": UNSET, "argc": 0, "script": "#!/bin/sh\n", **job})
        return self.call(what="submit", job=fields, partitions=partitions)

    def modify(self, partitions: Mapping[str, Fields], record: Fields, **job: Any) -> Answer:
        """A change of the job that `record` describes."""
        fields = _fields({"requeue": UNSET, "argc": 0, **job})
        return self.call(
            what="modify", job=fields, rec=_fields(dict(record)), partitions=partitions
        )

    def close(self) -> None:
        """End it."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=20)


def _fields(job: dict[str, Any]) -> dict[str, Any]:
    """As Slurm keeps them: gres is tres_per_node, what is not there is no field."""
    if "gres" in job:
        job["tres_per_node"] = job.pop("gres")
    return {name: value for name, value in job.items() if value is not None}


def _text(value: Any) -> Any:
    if isinstance(value, str):
        return bytes.fromhex(value).decode("utf-8", "surrogateescape")
    return value


@contextmanager
def running(version: str, description: Description) -> Iterator[Interpreter]:
    """An interpreter with the module, while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="lua-") as folder:
        interpreter = Interpreter(version, Path(folder), description)
        try:
            yield interpreter
        finally:
            interpreter.close()
