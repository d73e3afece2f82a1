"""Configuration file, Python packages, the container toolkit, programs that hold instances."""

import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from slurm_mig import chosen, table
from slurm_mig.doctor.context import Context
from slurm_mig.doctor.finding import (
    ANYWHERE,
    CONFIG,
    DRIVER,
    ON_NODE,
    Check,
    Finding,
    failure,
    ok,
    warning,
)
from slurm_mig.doctor.owners import mode, weakest
from slurm_mig.errors import ConfigError, NodeFault
from slurm_mig.layouts import layout
from slurm_mig.profiles import model_name

#: NVIDIA's MIG guide wants "NVIDIA Container Toolkit (nvidia-docker2): v2.5.0 or later". That is
#: the number of nvidia-docker2, which needs nvidia-container-runtime 3.4.0, which needs the toolkit
#: 1.3.0 (changelogs of these packages); the toolkit's own programs tell the last one.
LEAST_TOOLKIT = (1, 3, 0)
_TOOLKIT = ("nvidia-ctk", "nvidia-container-cli")
_VERSION = re.compile(r"version:?\s+v?(\d+)\.(\d+)\.(\d+)")

#: What holds instances or makes and destroys them itself, by name as the kernel keeps it.
_HOLDERS = {
    "nv-hostengine": ("DCGM", "systemctl disable --now nvidia-dcgm"),
    "dcgm-exporter": ("DCGM's exporter", "systemctl disable --now dcgm-exporter"),
    "nvidia-device-p": ("NVIDIA's Kubernetes device plugin", "keep this node out of Kubernetes"),
    "gpu-kubelet-plu": ("NVIDIA's Kubernetes DRA driver", "keep this node out of Kubernetes"),
    "gpu-feature-dis": ("GPU feature discovery", "keep this node out of Kubernetes"),
    "nvidia-mig-mana": ("NVIDIA's MIG manager", "systemctl disable --now nvidia-mig-manager"),
}


def _file(context: Context) -> Iterator[Finding]:
    main = context.config_path
    if not main.exists() and context.config is None:
        yield ok(str(main), "not there: every setting has its default")
    loose = False
    for path in (main, *sorted(main.parent.glob("config.d/*.toml"))):
        if not path.exists():
            continue
        found = weakest(path)
        if found is None:
            yield ok(str(path), mode(path.stat()))
            continue
        loose = True
        what, status = found
        yield failure(
            str(path),
            f"{what} is {mode(status)}" if what != path else mode(status),
            "it names the library that root loads, so root alone may be able to change it",
            f"chown root:root {what} && chmod go-w {what}",
        )
    try:
        _ = context.settings
    except ConfigError as error:
        if not loose:
            yield failure(
                "configuration",
                str(error),
                "no hook runs with it: every MIG job drains the node",
                f"correct it, then: slurm-mig config --config {main}",
            )


def _layout(context: Context) -> Iterator[Finding]:
    layouts = context.settings.layout
    here = sorted({gpu.model for gpu in context.gpus})
    known = {model_name(name) for entry in table.entries() for name in entry.nvml_names}
    for key in layouts:
        if key == "default" or model_name(key) in here:
            continue
        others = "" if model_name(key) in known else " and no GPU that slurm-mig knows"
        yield warning(
            f"[layout] {key!r}",
            f"no GPU of this node has that name{others}",
            f"the layout is used for nothing; there are {', '.join(here) or 'no GPUs'}",
            f"correct the name in {context.config_path}",
        )
    wrong = list(_unkept(context))
    yield from wrong
    unset = [model for model in here if context.settings.layout_of(model) is None]
    if unset:
        yield warning(
            "[layout]",
            f"none for {', '.join(unset)}",
            "they promise nothing to Slurm, so their space is not kept for anybody",
            f'add `default = "balanced"` to [layout] in {context.config_path}',
        )
    elif here and not wrong:
        yield ok("[layout]", f"covers {', '.join(here)}")


def _unkept(context: Context) -> Iterator[Finding]:
    """Layouts that a GPU of this node cannot keep."""
    settings = context.settings
    for gpu in {gpu.model: gpu for gpu in context.gpus if gpu.mig}.values():
        spec = settings.layout_of(gpu.name)
        if spec is None or not chosen.named(gpu, settings.mig_minors):
            continue
        try:
            geometry = context.driver.geometry(gpu)
        except NodeFault:
            continue  # only root is told; the check of counts says so
        try:
            layout(geometry, spec)
        except ConfigError as error:
            yield failure(
                f"[layout] for {gpu.model}",
                str(error),
                "every MIG job drains the node",
                f"correct it in {context.config_path}; slurm-mig profiles --layouts shows some",
            )


def wrong_pynvml(path: Sequence[str]) -> Iterator[Finding]:
    """Which module `pynvml` the folders of `path` give, and whether it is NVIDIA's."""
    ours: metadata.Distribution | None = None
    old = ""
    for distribution in metadata.distributions(path=list(path)):
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name == "nvidia-ml-py" and ours is None:
            ours = distribution
        elif name == "pynvml":
            old = distribution.version
    spec = PathFinder.find_spec("pynvml", list(path))
    pip = f"{sys.executable} -m pip"
    if spec is None or spec.origin is None or ours is None:
        yield failure(
            "nvidia-ml-py",
            f"not installed for {sys.executable}",
            "nothing can talk to the driver",
            f"{pip} install nvidia-ml-py",
        )
        return
    origin = Path(spec.origin)
    wanted = Path(str(ours.locate_file("pynvml.py")))
    if origin.resolve() != wanted.resolve():
        yield failure(
            "pynvml",
            f"{origin} is in the way of nvidia-ml-py's {wanted}",
            "it does not have the calls that make instances",
            f"{pip} uninstall pynvml" if old else f"remove {origin}",
        )
    elif old:
        yield warning(
            "pynvml",
            f"the package pynvml {old} is installed beside nvidia-ml-py",
            "it is deprecated, and versions below 12 overwrite NVIDIA's module",
            f"{pip} uninstall pynvml && {pip} install --force-reinstall nvidia-ml-py",
        )
    else:
        yield ok("pynvml", f"nvidia-ml-py {ours.version}, {origin}")


def _pynvml(_: Context) -> Iterator[Finding]:
    yield from wrong_pynvml(sys.path)


def _toolkit(context: Context) -> Iterator[Finding]:
    least = ".".join(map(str, LEAST_TOOLKIT))
    programs = [found for name in _TOOLKIT if (found := context.probe.find(name))]
    if not programs:
        yield ok("NVIDIA Container Toolkit", "not installed")
    for program in programs:
        try:
            said = _VERSION.search(context.probe.say(program, "--version"))
        except NodeFault as error:
            yield warning("NVIDIA Container Toolkit", f"could not look: {error}", "")
            continue
        if said is None:
            yield warning(str(program), "could not look: no version in what --version prints", "")
            continue
        version = ".".join(said.groups())
        if tuple(map(int, said.groups())) >= LEAST_TOOLKIT:
            yield ok(str(program), f"version {version}, at least {least}")
        else:
            yield failure(
                str(program),
                f"version {version}, older than {least} (which came with nvidia-docker2 2.5.0)",
                "containers do not see MIG instances",
                "update the package nvidia-container-toolkit",
            )


def _holders(context: Context) -> Iterator[Finding]:
    found = False
    for process in context.probe.processes():
        if process.name not in _HOLDERS:
            continue
        found = True
        what, mend = _HOLDERS[process.name]
        state = "runs"
        try:
            if context.probe.holds_instances(process.pid):
                state = "has instances open now"
        except PermissionError:
            state = "runs (what it holds, only root can see)"
        except OSError:
            continue  # it has just ended
        yield warning(
            f"{what} (pid {process.pid}, {process.name})",
            state,
            "an instance that it holds cannot be removed after its job, and is quarantined",
            mend,
        )
    if not found:
        yield ok("DCGM, device plugins", "none runs")


CONFIGURATION = (
    Check("config.file", "configuration file", ANYWHERE, (), _file),
    Check("config.layout", "layouts", ON_NODE, (CONFIG, DRIVER), _layout),
)
CHECKS = (
    Check("host.pynvml", "Python package pynvml", ON_NODE, (), _pynvml),
    Check("host.toolkit", "NVIDIA Container Toolkit", ON_NODE, (), _toolkit),
    Check("host.holders", "programs that hold instances", ON_NODE, (), _holders),
)
