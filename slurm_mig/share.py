"""Finds the files that are shipped beside the code: hooks, templates, the table of GPUs."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """`prolog/…`, `epilog/…` or `templates/…`: in the package once installed, else in the tree."""
    installed = _PACKAGE / "share" / name
    return installed if installed.exists() else _PACKAGE.parent / name


def data(name: str) -> Path:
    """A data file of the package."""
    return _PACKAGE / "data" / name
