"""The cluster's description: what it renders is installed here, and this host is what it says."""

import re
from collections.abc import Iterator
from pathlib import Path

from slurm_mig import hostlist, render, table
from slurm_mig.description import Description, Group, Release
from slurm_mig.doctor.context import Context
from slurm_mig.doctor.finding import (
    ANYWHERE,
    CLUSTER,
    CONFIG,
    CONTROLLER,
    DRIVER,
    NODE,
    ON_CONTROLLER,
    ON_NODE,
    SLURM,
    Check,
    Finding,
    failure,
    ok,
    warning,
)
from slurm_mig.profiles import find_entry
from slurm_mig.rendered import MARK, RenderedFile, compare

#: Which rendered files belong on which host; both have Slurm's, but where slurmd is sent them.
_ON = {
    CONTROLLER: frozenset({"gres.conf", "slurm.conf", "lua"}),
    NODE: frozenset({"node", "systemd", "tmpfiles"}),
}
_SHARED = frozenset({"gres.conf", "slurm.conf"})
#: A folder of root's, since root installs from it.
_OUT = "/root/slurm-mig-files"


def group_of(description: Description, node: str) -> Group | None:
    """The group that a node is in."""
    for group in description.groups:
        if node in hostlist.expand(group.hosts):
            return group
    return None


def _description(context: Context) -> Iterator[Finding]:
    path = context.cluster_path
    why = context.missing(CLUSTER)
    if why:
        where, _, said = why.partition(": ") if why.startswith(str(path)) else (str(path), "", why)
        yield failure(where, said, "nothing can be rendered", f"correct {path}")
    elif context.description is None:
        yield ok(str(path), "not there: rendered files are not compared")
    else:
        nodes = sum(group.size for group in context.description.groups)
        yield ok(str(path), f"{len(context.description.groups)} groups, {nodes} nodes")


def _release(context: Context) -> Iterator[Finding]:
    if context.description is None:
        return
    said, is_ = context.description.site.release, Release(*context.slurm.version[:2])
    if said != is_:
        yield warning(
            f"[slurm] release in {context.cluster_path}",
            f"{said}, but Slurm here is {is_}",
            "files for another release may not be read, or not do what they should",
            f'set it to "{is_}", render again, install',
        )


def _wanted(context: Context, description: Description) -> Iterator[RenderedFile]:
    kinds = {kind for role in context.roles for kind in _ON.get(role, frozenset())}
    group = group_of(description, context.node)
    if NODE in context.roles:
        # Without a slurm.conf here, slurmd is sent the files.
        kinds |= _SHARED if _slurm_conf(context, description).exists() else frozenset()
    for file in render.render(description):
        if file.what in kinds and (not file.group or (group and file.group == group.name)):
            yield file


def _files(context: Context) -> Iterator[Finding]:
    description = context.description
    if description is None:
        return
    seen = []
    for file in _wanted(context, description):
        path = context.root / file.install.lstrip("/")
        made = f"slurm-mig render -c {context.cluster_path} -o {_OUT}"
        difference = compare(file, context.root)
        if difference is None:
            seen.append(str(path))
            yield from _enabled(path, file)
            continue
        text = "" if difference.missing else path.read_text(errors="replace")
        if file.name.endswith("job_submit.lua") and "slurm_mig" in text and MARK not in text:
            # A site's own, which calls the module.
            missing = [call for call in ("job_submit", "job_modify") if f".{call}(" not in text]
            if not missing:
                seen.append(str(path))
                continue
            yield failure(
                str(path),
                f"it does not call slurm_mig.{' and slurm_mig.'.join(missing)}",
                "requests are not checked, and users can forge the token",
                f"call it as in: {made} && cat {_OUT}/{file.name}",
            )
        elif text and MARK not in text:
            yield failure(
                str(path),
                "not made by slurm-mig",
                _why(file.what),
                f"compare: {made} && diff {path} {_OUT}/{file.name}",
            )
        else:
            yield failure(
                str(path),
                "not there" if difference.missing else "not what cluster.toml gives now",
                _why(file.what),
                f"{made} && install -D -m 0644 {_OUT}/{file.name} {path}"
                + (" && systemctl daemon-reload" if file.what == "systemd" else ""),
            )
    yield from _included(context, description)
    if seen:
        yield ok("rendered files", f"current: {', '.join(seen)}")


def _enabled(path: Path, file: RenderedFile) -> Iterator[Finding]:
    """Whether a unit that a target should start is known to it."""
    wanted = re.search(r"^WantedBy=(\S+)$", file.text, re.MULTILINE)
    if file.what != "systemd" or wanted is None:
        return
    if not (path.parent / f"{wanted[1]}.wants" / path.name).is_symlink():
        yield warning(
            str(path), "not enabled", _why(file.what), f"systemctl enable --now {path.name}"
        )


def _why(what: str) -> str:
    return {
        "lua": "requests are not checked at submission",
        "node": "the node does not do what Slurm was told",
        "systemd": "what a reboot or a crash leaves is not mended",
        "tmpfiles": "the run directory is missing after a reboot",
    }.get(what, "Slurm's counts are not the nodes' promises")


def _slurm_conf(context: Context, description: Description) -> Path:
    return context.root / description.site.config_directory.lstrip("/") / "slurm.conf"


def _included(context: Context, description: Description) -> Iterator[Finding]:
    """Whether slurm.conf includes our fragment, where there is a slurm.conf."""
    path = _slurm_conf(context, description)
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    if not re.search(r"^\s*include\s+\S*slurm-mig\.conf", text, re.IGNORECASE | re.MULTILINE):
        yield failure(
            str(path),
            "does not include slurm-mig.conf",
            "Slurm has none of what was rendered",
            f"echo 'Include slurm-mig.conf' >> {path}; then restart slurmctld and every slurmd",
        )


def _has_lua(context: Context) -> bool:
    words = context.slurm.config.words("JobSubmitPlugins")
    return any(word.rpartition("/")[2] == "lua" for word in words)


def _plugin(context: Context) -> Iterator[Finding]:
    words = context.slurm.config.words("JobSubmitPlugins")
    said = ",".join(words) or "(none)"
    if _has_lua(context):
        yield ok("JobSubmitPlugins", said)
    elif context.description is not None:
        yield failure(
            "JobSubmitPlugins",
            f"{said}: lua is missing",
            "requests are not checked at submission, and mig:20gb is not understood",
            "JobSubmitPlugins=lua in slurm.conf, then restart slurmctld",
        )
    else:
        yield warning(
            "JobSubmitPlugins",
            f"{said}: lua is missing",
            "a request that makes no sense is found only by the Prolog of a node",
            "describe the cluster in cluster.toml and install what slurm-mig render makes",
        )


def _token(context: Context) -> Iterator[Finding]:
    """Nodes that trust a token need a module that stamps it: else anybody can write one."""
    if context.settings.slurm_request != "token":
        return
    description = context.description
    stamped = description.token if description is not None else "?"
    if not _has_lua(context) or not stamped:
        yield failure(
            "[slurm] request",
            'is "token", but nothing stamps the token',
            "users can write it themselves and get what Slurm has not counted",
            f'set it to "ask" in {context.config_path}, then: slurm-mig hooks',
        )
    else:
        yield ok("[slurm] request", '"token", and the job_submit plugin is there')


def _host(context: Context) -> Iterator[Finding]:
    description = context.description
    if description is None:
        return
    group = group_of(description, context.node)
    what = f"node {context.node}"
    if group is None:
        yield warning(
            what,
            f"in no group of {context.cluster_path}",
            "nothing is rendered for it",
            "add it to hosts of a group there, or name the node: --node",
        )
        return
    entries = table.entries()
    shown = {gpu.minor: gpu for gpu in context.gpus}
    wrong = []
    for gpus in group.gpus:
        for index in gpus.indices:
            gpu = shown.pop(index, None)
            entry = find_entry(entries, gpu.name) if gpu else None
            if entry is None or entry.key != gpus.entry.key:
                found = gpu.model if gpu else "nothing"
                wrong.append(f"/dev/nvidia{index} is {found}, not {gpus.entry.key}")
    wrong += [f"/dev/nvidia{minor} ({gpu.model}) is not described" for minor, gpu in shown.items()]
    if wrong:
        yield failure(
            what,
            "; ".join(wrong),
            f"group {group.name} promises other GPUs to Slurm",
            f"correct [nodes.{group.name}] gpus in {context.cluster_path}",
        )
    else:
        yield ok(what, f"has the GPUs of group {group.name}")


CHECKS = (
    Check("cluster.description", "cluster.toml", ANYWHERE, (), _description),
    Check("cluster.release", "release", ANYWHERE, (SLURM, CLUSTER), _release),
    Check("cluster.files", "rendered files", ANYWHERE, (CLUSTER,), _files),
    Check("cluster.plugin", "job_submit plugin", ON_CONTROLLER, (SLURM, CLUSTER), _plugin),
    Check("cluster.token", "token", ON_NODE, (CONFIG, SLURM, CLUSTER), _token),
    Check("cluster.host", "GPUs as described", ON_NODE, (DRIVER, CLUSTER), _host),
)
