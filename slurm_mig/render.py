"""Every file that Slurm and the nodes need, as text, from the cluster's description.

The only importer of jinja2. No file, clock or host is looked at but for the templates, so the same
description gives the same bytes. Nothing is quoted by jinja: what goes into Slurm's files was
checked for them (description_checks.py: a path, for one, is letters, digits and ._-+@ and means the
same to Slurm, systemd and a shell). TOML strings are quoted by toml_text.py.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache

import jinja2

from slurm_mig import __version__, hooks, offers, share, slurm_lines, toml_text
from slurm_mig.description import PADDING, Description, Group
from slurm_mig.indices import compress
from slurm_mig.rendered import MARK, RenderedFile

__all__ = ["KINDS", "RenderedFile", "render"]

#: What one can ask for on the command line, in the order in which it is made.
KINDS = ("gres.conf", "slurm.conf", "lua", "node", "systemd", "tmpfiles")

_UNITS = "/etc/systemd/system"


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(share.path("templates")),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - these are no web pages
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def header(what: str, description: Description | None = None, comment: str = "#") -> str:
    """The first lines of a file: what made it, from what, and how to make it again."""
    whose = f", for Slurm {description.site.release}" if description else ""
    lines = (
        f"{MARK}{__version__} from the cluster's description, cluster.toml{whose}.",
        f"Do not edit it: edit cluster.toml, and make it again: slurm-mig render {what}",
    )
    return "\n".join(f"{comment} {line}" for line in lines)


def _text(template: str, **values: object) -> str:
    return _environment().get_template(template).render(**values)


def _hardware(group: Group) -> str:
    """The GPUs of a node in words: `8 A100-SXM4-40GB`, `4 H100-SXM5-80GB (whole)`."""
    return " and ".join(
        f"{len(gpus.indices)} {gpus.entry.key}{'' if gpus.mig else ' (whole)'}"
        for gpus in group.gpus
    )


def _gres_conf(description: Description) -> list[RenderedFile]:
    text = _text(
        "gres.conf.j2",
        header=header("gres.conf", description),
        release=description.site.release,
        explicit=description.site.release >= slurm_lines.EXPLICIT_FLAG,
        elastic=description.elastic,
        padding=PADDING,
        groups=description.groups,
        mig_types=slurm_lines.mig_types,
        device_files=slurm_lines.device_files,
    )
    install = f"{description.site.config_directory}/gres.conf"
    return [RenderedFile("gres.conf", "slurm/gres.conf", install, text)]


def _slurm_conf(description: Description) -> list[RenderedFile]:
    release = description.site.release
    split = release >= slurm_lines.SPLIT_TIMEOUTS
    tres, left_out = slurm_lines.accounting(description)
    text = _text(
        "slurm-mig.conf.j2",
        header=header("slurm.conf", description),
        elastic=description.elastic,
        anchor=description.anchor,
        anchor_line=slurm_lines.anchor_line(description) if description.elastic else "",
        timeout_keys="PrologTimeout EpilogTimeout" if split else "PrologEpilogTimeout",
        split_timeouts=split,
        several_hooks=release >= slurm_lines.SEVERAL_HOOKS,
        times=slurm_lines.timeouts(description.settings, release),
        gres_types=slurm_lines.gres_types(description),
        prolog_flags=slurm_lines.prolog_flags(description),
        # Ours last: what another plugin changes after it would not be checked.
        job_submit_plugins=[*description.site.job_submit_plugins, "lua"],
        accounting=tres,
        left_out=left_out,
        directory=description.directory,
        hooks=hooks,
        groups=description.groups,
        hardware=_hardware,
        node_gres=slurm_lines.node_gres,
    )
    install = f"{description.site.config_directory}/slurm-mig.conf"
    return [RenderedFile("slurm.conf", "slurm/slurm-mig.conf", install, text)]


def _lua(description: Description) -> list[RenderedFile]:
    """The job_submit module, and the plugin's file for a site that has none."""
    folder = description.site.config_directory
    values = {
        "header": header("lua", description),
        "release": description.site.release,
        "data": offers.literal(offers.data(description)),
    }
    return [
        RenderedFile("lua", f"slurm/{name}", f"{folder}/{name}", _text(f"{name}.j2", **values))
        for name in ("slurm_mig.lua", "job_submit.lua")
    ]


def _node_toml(description: Description, group: Group) -> str:
    """A node's config.toml: the admin's own sections, and what the description says of its GPUs.

    The GPUs are always named, also where all of them are partitioned: a named GPU whose MIG mode is
    off is the node's fault and drains it, where "all" would pass it over and miss its promises.
    """
    sections: dict[str, Mapping[str, object]] = dict(description.node)
    indices = [index for gpus in group.mig for index in gpus.indices]
    sections["gpus"] = {"mig": compress(indices)}
    if group.layout:
        sections["layout"] = group.layout_by_name
    tables = [toml_text.table(name, content) for name, content in sections.items()]
    return "\n".join([header("node") + "\n", *tables])


def _nodes(description: Description) -> list[RenderedFile]:
    return [
        RenderedFile(
            "node",
            f"nodes/{group.name}/config.toml",
            f"{description.directory}/config.toml",
            _node_toml(description, group),
            group.name,
        )
        for group in description.groups
        if group.mig
    ]


def _systemd(description: Description) -> list[RenderedFile]:
    """Units of the nodes: MIG mode and leftovers at boot before slurmd, and a look now and then."""
    minutes = slurm_lines.reconcile_minutes(description)
    values = {
        "header": header("systemd"),
        "program": description.program,
        "config": f"{description.directory}/config.toml",
        "minutes": minutes,
        "spread": math.ceil(minutes / 2),
        "nodes": sum(group.size for group in description.groups),
    }
    names = (
        "slurm-mig-boot.service",
        "slurm-mig-reconcile.service",
        "slurm-mig-reconcile.timer",
        "slurmd.service.d/slurm-mig.conf",
    )
    return [
        RenderedFile(
            "systemd",
            f"systemd/{name}",
            f"{_UNITS}/{name}",
            _text(f"{name.replace('/', '-')}.j2", **values),
        )
        for name in names
    ]


def _tmpfiles(description: Description) -> list[RenderedFile]:
    settings = description.settings
    text = _text(
        "tmpfiles.conf.j2",
        header=header("tmpfiles"),
        state=settings.state_directory,
        run=settings.state_run_directory,
    )
    install = "/etc/tmpfiles.d/slurm-mig.conf"
    return [RenderedFile("tmpfiles", "tmpfiles.d/slurm-mig.conf", install, text)]


#: Maker of each kind of file, in the order of KINDS.
_MAKERS: tuple[Callable[[Description], list[RenderedFile]], ...] = (
    _gres_conf,
    _slurm_conf,
    _lua,
    _nodes,
    _systemd,
    _tmpfiles,
)


def render(description: Description) -> list[RenderedFile]:
    """Every file of the cluster, always in the same order."""
    return [file for make in _MAKERS for file in make(description)]
