"""Draws the memory slices of GPUs: what lives where, and whose it is."""

from collections.abc import Iterable
from math import gcd
from typing import NamedTuple

from rich.text import Text

from slurm_mig import ledger as states
from slurm_mig.ledger import Entry
from slurm_mig.profiles import Geometry, Placement
from slurm_mig.sight import GpuView

#: Columns for all slices of a GPU together; with its border a picture fits 80 columns.
_WIDTH = 64

_STYLES = {
    "free": "dim",
    "foreign": "yellow",
    states.LIVE: "green",
    states.INTENT: "cyan",
    states.REMOVING: "magenta",
    states.QUARANTINED: "bold red",
    "lost": "bold red",
}


class Block(NamedTuple):
    """A stretch of slices in the picture: where, two lines of text, and how it is coloured."""

    placement: Placement
    title: str
    note: str
    kind: str


def absent_state(entry: Entry) -> str:
    """What to call an entry that is not on the GPU: one that should live there is lost."""
    return "lost" if entry.state == states.LIVE else entry.state


def blocks(view: GpuView) -> list[Block]:
    """What occupies a GPU, by start; the free slices between."""
    assert view.geometry is not None  # noqa: S101 -- callers draw GPUs in MIG mode only
    found: dict[int, Block] = {}
    for entry in view.pending:
        place, state = entry.wish.placement, absent_state(entry)
        note = f"job {entry.job} {state}"
        found[place.start] = Block(place, entry.wish.profile, note, state)
    for gi, owner in view.instances:
        profile = view.geometry.profile_by_id(gi.profile_id)
        title = profile.name if profile else f"profile {gi.profile_id}"
        if owner is None:
            block = Block(gi.placement, title, "not ours", "foreign")
        else:
            suffix = "" if owner.state == states.LIVE else f" {owner.state}"
            block = Block(gi.placement, title, f"job {owner.job}{suffix}", owner.state)
        found[gi.placement.start] = block
    filled = []
    at, step = 0, unit(view.geometry)
    while at < view.geometry.memory_slices:
        block = found.get(at, Block(Placement(at, step), "", "", "free"))
        filled.append(block)
        at += block.placement.size
    return filled


def unit(geometry: Geometry) -> int:
    """The memory slices that one column of the picture stands for (3 on a GPU of 12 in threes)."""
    numbers = [n for profile in geometry.profiles for place in profile.placements for n in place]
    return gcd(geometry.memory_slices, *numbers)


def draw(geometry: Geometry, content: Iterable[Block]) -> Text:
    """The picture: slice numbers, a box per block with two lines in it."""
    step = unit(geometry)
    columns = geometry.memory_slices // step
    width = _WIDTH // columns
    rows = [Text("   "), Text("  "), Text("  "), Text("  "), Text("  ")]
    for number in range(columns):
        rows[0].append(f"{number * step:<{width}}", "dim")
    for position, block in enumerate(content):
        room = width * (block.placement.size // step) - 1
        style = _STYLES[block.kind]
        rows[1].append(("┌" if position == 0 else "┬") + "─" * room)
        for row, text in ((rows[2], block.title), (rows[3], block.note)):
            row.append("│")
            shown = text if len(text) <= room else text[: room - 1] + "…"
            row.append(shown.center(room, "·" if block.kind == "free" else " "), style)
        rows[4].append(("└" if position == 0 else "┴") + "─" * room)
    for row, end in zip(rows[1:], "┐││┘", strict=True):
        row.append(end)
    for row in rows:
        row.rstrip()
    return Text("\n").join(rows)
