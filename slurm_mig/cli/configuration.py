"""`slurm-mig render`: prints, writes or checks every file that Slurm and the nodes need."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from slurm_mig import clusterfile, rendered
from slurm_mig.cli import terminal
from slurm_mig.description import Description, Group, Release
from slurm_mig.errors import ConfigError
from slurm_mig.rendered import RenderedFile
from slurm_mig.settings import nearest

DIFFERS = 3
#: What a check looks at on every host; on the nodes of a group; on others, which have slurmctld.
_EVERYWHERE = ("gres.conf", "slurm.conf")
_ON_NODES = ("node", "systemd", "tmpfiles")
_ELSEWHERE = ("lua",)


def _group(description: Description, name: str) -> Group | None:
    """The group of a node."""
    from slurm_mig.hostlist import expand

    for group in description.groups:
        if name in expand(group.hosts):
            return group
    return None


def _this_host(description: Description) -> Group | None:
    """The group of this host, by its full name or by its first part."""
    full = os.uname().nodename
    return _group(description, full) or _group(description, full.partition(".")[0])


def _named(description: Description, name: str) -> Group:
    found = _group(description, name)
    if found is None:
        from slurm_mig.hostlist import expand

        names = [host for group in description.groups for host in expand(group.hosts)]
        near = nearest(name, names) if len(names) <= 1000 else ""
        raise ConfigError(f"--node {name!r}: in no node group{near}")
    return found


def _load(arguments: argparse.Namespace) -> tuple[Description, list[RenderedFile]]:
    from slurm_mig.render import KINDS, render  # jinja2, 43 ms, which no other command needs

    for what in arguments.what:
        if what not in KINDS:
            raise ConfigError(f"nothing called {what!r} is rendered{nearest(what, KINDS)}")
    release = None
    if arguments.slurm_version is not None:
        try:
            release = Release.parse(arguments.slurm_version)
        except ConfigError as error:
            raise ConfigError(f"--slurm-version: {error}") from None
    description = clusterfile.load(arguments.config, release)
    return description, render(description)


def _chosen(
    files: Sequence[RenderedFile], kinds: Sequence[str], group: Group | None
) -> list[RenderedFile]:
    """The files of some kinds (all if none are named), of all groups or of one."""
    return [
        file
        for file in files
        if (not kinds or file.what in kinds)
        and (group is None or not file.group or file.group == group.name)
    ]


def _print(files: Sequence[RenderedFile]) -> None:
    for file in files:
        if len(files) > 1:
            sys.stdout.write(f"==> {file.name} <==\n")
        sys.stdout.write(file.text)


def _document(file: RenderedFile) -> dict[str, object]:
    return {
        "what": file.what,
        "name": file.name,
        "install": file.install,
        "group": file.group or None,
    }


def _write(
    files: Sequence[RenderedFile], everything: Sequence[RenderedFile], arguments: argparse.Namespace
) -> int:
    folder: Path = arguments.output
    written = [file for file in files if rendered.write(folder, file)]
    stale = rendered.stale(folder, everything)
    if arguments.json:
        terminal.print_json(
            {
                "version": 1,
                "written": [str(folder / file.name) for file in written],
                "unchanged": [str(folder / file.name) for file in files if file not in written],
                "stale": [str(path) for path in stale],
            }
        )
        return 0
    for file in written:
        print(f"wrote {folder / file.name}")
    for path in stale:
        print(f"{path}: rendered once, and not any more; remove it")
    print(f"{len(written)} written, {len(files) - len(written)} unchanged")
    return 0


def _check(
    description: Description, files: Sequence[RenderedFile], arguments: argparse.Namespace
) -> int:
    group = _named(description, arguments.node) if arguments.node else _this_host(description)
    kinds = arguments.what or [*_EVERYWHERE, *(_ON_NODES if group else _ELSEWHERE)]
    if "node" in kinds and group is None:
        raise ConfigError(
            f"{os.uname().nodename} is in no node group, so which node's file? Say --node NAME"
        )
    wanted = _chosen(files, kinds, group)
    found = [(file, rendered.compare(file, arguments.root or Path("/"))) for file in wanted]
    different = [difference for _, difference in found if difference]
    source = arguments.config or clusterfile.DEFAULT
    if arguments.json:
        documents = []
        for file, difference in found:
            state = "same" if difference is None else "missing" if difference.missing else "differs"
            diff = list(difference.diff) if difference else []
            documents.append({**_document(file), "state": state, "diff": diff})
        terminal.print_json({"version": 1, "same": not different, "files": documents})
        return DIFFERS if different else 0
    for difference in different:
        print("\n".join(difference.diff))
    if different:
        sys.stdout.flush()
        sys.stderr.write(
            f"slurm-mig: {len(different)} of {len(wanted)} files are not as {source} says\n"
        )
        return DIFFERS
    print(f"{len(wanted)} {'file is' if len(wanted) == 1 else 'files are'} as {source} says")
    return 0


def render(arguments: argparse.Namespace) -> int:
    """Print, write (-o) or compare (--check) the files."""
    description, files = _load(arguments)
    if arguments.check:
        return _check(description, files, arguments)
    group = _named(description, arguments.node) if arguments.node else None
    wanted = _chosen(files, arguments.what, group)
    if arguments.output is not None:
        return _write(wanted, files, arguments)
    if arguments.json:
        documents = [{**_document(file), "text": file.text} for file in wanted]
        terminal.print_json(
            {"version": 1, "release": str(description.site.release), "files": documents}
        )
    else:
        _print(wanted)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    if arguments.root is not None and not arguments.check:
        raise ConfigError("--root is where --check looks; add --check")
    return render(arguments)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `render`."""
    text = "make gres.conf, slurm.conf's part and all other files from the cluster's description"
    parser = subparsers.add_parser(
        "render",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Without -o or --check they are printed.",
    )
    parser.add_argument(
        "what",
        nargs="*",
        metavar="WHAT",
        help="gres.conf, slurm.conf, lua, node, systemd or tmpfiles (all of them)",
    )
    parser.add_argument(
        *("-c", "--config"), type=Path, help=f"the cluster's description ({clusterfile.DEFAULT})"
    )
    parser.add_argument(
        "--slurm-version", metavar="RELEASE", help="for this release of Slurm, such as 24.11"
    )
    parser.add_argument("--node", metavar="NAME", help="only the files of this node's group")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        *("-o", "--output"), type=Path, metavar="DIR", help="write what has changed below DIR"
    )
    mode.add_argument(
        "--check",
        action="store_true",
        help="compare with what is installed here; exit 3 with a diff where it differs",
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="where --check looks (/)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=_run)
