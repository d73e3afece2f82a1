"""The hooks: slurm.conf names them, they are root's alone, and as `slurm-mig hooks` writes them."""

import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from slurm_mig import hooks
from slurm_mig.doctor.context import Context
from slurm_mig.doctor.finding import (
    ANYWHERE,
    CONFIG,
    ON_NODE,
    SLURM,
    Check,
    Finding,
    failure,
    ok,
    warning,
)
from slurm_mig.doctor.owners import mode, weakest

#: By Slurm's key: our file.
HOOKS = {"Prolog": hooks.PROLOG, "TaskProlog": hooks.TASK_PROLOG, "Epilog": hooks.EPILOG}
_WITHOUT = {
    "Prolog": "jobs start without their instances",
    "TaskProlog": "jobs do not see their instances",
    "Epilog": "instances stay after their jobs",
}
#: Settings in a hook that say which installation runs, and not what it does.
_INSTALLATION = frozenset({"PYTHON", "PYTHON_PATH"})


def _folder(context: Context) -> Path:
    """Where hooks are by default."""
    return context.config_path.parent / "hooks"


def _candidates(value: str) -> list[Path]:
    """The files that a Prolog= or Epilog= means; Slurm takes patterns there."""
    path = Path(value)
    if not any(c in value for c in "*?["):
        return [path]
    anchor = Path(path.anchor)
    return sorted(anchor.glob(str(path.relative_to(anchor))))


def _called(path: Path, ours: str) -> Path | None:
    """The hook of ours that a site's own script names by its path."""
    text = path.read_text(errors="replace")
    found = re.search(rf"(/[\w./+@-]*/)?{re.escape(ours)}\b", text, re.ASCII)
    if found is None:
        return None
    return Path(found[0]) if found[1] else path.parent / ours


def _installed(context: Context, key: str) -> tuple[Path | None, str]:
    """Our hook as slurm.conf has it, and how: "named", "called", "unseen", "absent".

    "unseen": there is a script that cannot be read here, so what it calls cannot be told.
    """
    how = "absent"
    for value in context.slurm.config.values(key):
        for path in _candidates(value):
            if path.name == HOOKS[key]:
                return path, "named"
            try:
                found = _called(path, HOOKS[key])
            except OSError:
                how = "unseen"
                continue
            if found is not None:
                return found, "called"
    return None, how


def _named(context: Context) -> Iterator[Finding]:
    for key, ours in HOOKS.items():
        values = context.slurm.config.values(key)
        said = f"{key}={', '.join(values) or '(none)'}"
        path, how = _installed(context, key)
        mend = f"{key}={_folder(context) / ours} in slurm.conf, then: scontrol reconfigure"
        if how == "named":
            yield ok(said, "slurm-mig's")
        elif how == "called":
            yield ok(said, f"it names {path}")
        elif how == "unseen":
            yield warning(
                said,
                f"could not look: whether it calls {ours} cannot be told here",
                f"if it does not, {_WITHOUT[key]}",
                "run doctor on a node" if "node" not in context.roles else "",
            )
        elif values:
            yield failure(
                said, f"it does not call {ours}", _WITHOUT[key], f"call it from there, or {mend}"
            )
        else:
            yield failure(said, f"{ours} is missing", _WITHOUT[key], mend)


def _files(context: Context) -> Iterator[Finding]:
    for key, ours in HOOKS.items():
        path = None if context.missing(SLURM) else _installed(context, key)[0]
        path = path or _folder(context) / ours
        install = f"slurm-mig hooks --config {context.config_path} {path.parent}"
        if not path.is_file():
            yield failure(str(path), "not there", _WITHOUT[key], install)
            continue
        try:
            faults = [*_access(key, path), *_content(context, ours, path, install)]
        except PermissionError as error:
            yield warning(
                str(path), f"could not look: {error.filename} is closed", "only root can see it"
            )
            continue
        yield from faults or [ok(str(path), f"{mode(path.stat())}, current")]


def _access(key: str, path: Path) -> Iterator[Finding]:
    """Root alone may change it, and who runs it may: the TaskProlog runs as the job's user."""
    found = weakest(path)
    if found is not None:
        where, status = found
        yield failure(
            str(path),
            mode(status) if where == path else f"{where} is {mode(status)}",
            "slurmd runs it as root, so root alone may be able to change it",
            f"chown root:root {where} && chmod go-w {where}",
        )
    bits = path.stat().st_mode
    everybody = key == "TaskProlog"
    needed = 0o555 if everybody else 0o100
    if bits & needed != needed:
        yield failure(str(path), mode(path.stat()), "it cannot be run", f"chmod 0755 {path}")
    elif everybody:
        for folder in path.resolve().parents:
            if not folder.stat().st_mode & stat.S_IXOTH:
                yield failure(
                    str(path),
                    f"{folder} is {mode(folder.stat())}",
                    "the TaskProlog runs as the job's user, who cannot reach it",
                    f"chmod o+x {folder}",
                )
                break


def _values(text: str) -> tuple[dict[str, str], list[str]]:
    """A hook's settings, and its other lines without the two that enclose them."""
    values: dict[str, str] = {}
    others: list[str] = []
    inside = False
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if line.startswith("# -- "):
            inside = not inside
        elif inside and equals:
            words = shlex.split(value)
            values[key] = words[0] if words else ""
        else:
            others.append(line)
    return values, others


def _content(context: Context, ours: str, path: Path, install: str) -> Iterator[Finding]:
    what = str(path)
    try:
        has, lines = _values(path.read_text(errors="replace"))
    except ValueError as error:
        yield failure(what, f"damaged: {error}", "it fails for every job", install)
        return
    want, wanted_lines = _values(hooks.render(ours, context.settings, context.config_path))
    if lines != wanted_lines:
        yield failure(
            what,
            "not what this release of slurm-mig installs",
            "an old hook may not work with the new package",
            install,
        )
    differ = [key for key in want if has.get(key) != want[key]]
    for key in differ:
        if key in _INSTALLATION:
            continue
        said = f"{key}={has.get(key, '')}, by the configuration it is {want[key]}"
        if key == "CONFIG":
            said = f"reads {has.get(key, 'no configuration')}, not {want[key]}"
        yield failure(what, said, "it does not do what the configuration says", install)
    if "PYTHON" in want:
        other = "PYTHON_PATH" in differ or not _same_python(has.get("PYTHON", ""), want["PYTHON"])
        yield from _python(what, has, other, install)


def _same_python(one: str, other: str) -> bool:
    """Whether two paths are one interpreter: a virtual environment has it as python and python3.

    The folders must be the same too: all environments of a host link to one and the same program.
    """
    a, b = Path(one), Path(other)
    return a == b or (a.parent == b.parent and a.exists() and b.exists() and a.samefile(b))


def _python(what: str, has: dict[str, str], other: bool, install: str) -> Iterator[Finding]:
    """The interpreter in a hook and its folders: there, root's alone, the ones in use now."""
    python = Path(has.get("PYTHON", ""))
    if not os.access(python, os.X_OK):
        if os.geteuid() != 0:  # it may be closed to us alone
            raise PermissionError(13, "Permission denied", str(python))
        yield failure(what, f"its Python {python} cannot be run", "it fails for every job", install)
        return
    folders = [Path(folder) for folder in has.get("PYTHON_PATH", "").split(":") if folder]
    if not any((folder / "slurm_mig").is_dir() for folder in folders):
        yield failure(
            what, "slurm_mig is not in its PYTHON_PATH", "it fails for every job", install
        )
        return
    for one in (python, *folders):
        if one.exists() and (found := weakest(one)):
            where, status = found
            yield failure(
                what,
                f"it runs {one}, and {where} is {mode(status)}",
                "root runs it, so root alone may be able to change it",
                f"install slurm-mig where only root can write, as /opt/slurm-mig, then: {install}",
            )
            return
    if other:
        yield warning(
            what,
            f"it runs another installation than this one: {python}",
            "what doctor sees is not what jobs get",
            install,
        )


CHECKS = (
    Check("hooks.slurm-conf", "hooks in slurm.conf", ANYWHERE, (SLURM,), _named),
    Check("hooks.files", "hook files", ON_NODE, (CONFIG,), _files),
)
