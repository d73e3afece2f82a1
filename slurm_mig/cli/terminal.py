"""Printing for people and programs: tables and colour at a terminal, plain or JSON elsewhere."""

import json
import os
import sys

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output: colour only at a terminal, never under NO_COLOR; no guessing of width."""
    terminal = sys.stdout.isatty()
    return Console(
        # Said, not left to be found out: rich would follow FORCE_COLOR into a pipe.
        force_terminal=terminal,
        no_color=not terminal or "NO_COLOR" in os.environ,
        highlight=False,
        emoji=False,
        markup=False,
        soft_wrap=True,
        width=None if terminal else 200,
    )


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An unruled table; the columns named in `right` are numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return made


def print_json(document: object) -> None:
    """One JSON document, with a stable order of keys."""
    print(json.dumps(document, indent=2, ensure_ascii=False))
