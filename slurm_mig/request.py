"""What a job asks of one node: from Slurm's GRES string or from the job_submit plugin's token.

Pure. Slurm's record of the allocation (`gres_detail`, e.g. `mig:3g.20gb(CNT:1),gpu:1`) cannot be
forged by the user; the token (in the job's `extra`) can be trusted only where the plugin guards it.
"""

import re
from typing import NamedTuple

from slurm_mig.errors import RequestError
from slurm_mig.profiles import ProfileName

#: The GRES name: `--gres=mig:3g.20gb`.
GRES = "mig"

#: `slurm-mig/1:none;` or `slurm-mig/1:3g.20gb=1,1g.5gb=2;`, then the user's own text if any. The
#: hooks' sh matches the first of these literally, so the two must change together.
TOKEN = re.compile(r"slurm-mig/1:([0-9a-z.+=,-]+);", re.ASCII)

#: A count is at most so long: 16 GPUs hold 112 instances, and a million names would be a list.
_DIGITS = 3

#: One GRES item of ours, and what ends in a count of nothing.
_ANY = re.compile(rf"{GRES}(?:[:=](.*))?", re.DOTALL)
_ZERO = re.compile(r"(?:.*[:=])?0+", re.DOTALL)

_COUNTED = re.compile(r"(?P<name>.*?)\(CNT:(?P<count>[0-9]+)\)", re.ASCII | re.DOTALL)


class Wanted(NamedTuple):
    """So many instances of one profile, on this node."""

    profile: str
    number: int


def _wanted(profile: str, count: str, whole: str) -> Wanted:
    if not count.isascii() or not count.isdecimal() or not count.strip("0"):
        raise RequestError(f"{whole!r} asks for {count!r} instances; ask for 1 or more")
    if len(count) > _DIGITS:
        raise RequestError(f"{whole!r} asks for more instances than any node has")
    name = ProfileName.parse(profile)
    if name.compute is not None:
        raise RequestError(
            f"{whole!r} asks for a part of a GPU instance; this node serves whole ones: "
            f"ask for {GRES}:{name.gpu_instance}"
        )
    return Wanted(str(name), int(count))


def _merge(wanted: list[Wanted]) -> tuple[Wanted, ...]:
    counts: dict[str, int] = {}
    for profile, count in wanted:
        counts[profile] = counts.get(profile, 0) + count
    return tuple(Wanted(profile, count) for profile, count in counts.items())


def _item(item: str) -> Wanted | None:
    """One GRES of a list; None if it is not ours."""
    text = item.removeprefix("gres:").removeprefix("gres/")
    # A record may name devices by index as well, `gpu:1(IDX:0)`; a count-only GRES has only CNT.
    text = re.sub(r"\((?!CNT:)[^)]*\)", "", text)
    found = _COUNTED.fullmatch(text)
    name, _, rest = (found["name"] if found else text).partition(":")
    if name != GRES:
        return None
    if found:
        profile, count = rest, found["count"]
    elif ":" in rest:
        profile, _, count = rest.rpartition(":")
    elif rest.isdecimal():
        profile, count = "", rest
    else:
        profile, count = rest, "1"
    if not profile:
        raise RequestError(
            f"{item!r} names no profile; ask for one by name, such as --gres={GRES}:3g.20gb"
        )
    return _wanted(profile, count, item)


def parse_gres(text: str) -> tuple[Wanted, ...]:
    """The MIG part of a GRES string, of a request or of an allocation; () if there is none.

    Raises RequestError for a MIG item that makes no sense.
    """
    # A list of device indices has commas of its own: `gpu:2(IDX:0,3),mig:…`.
    items = re.split(r",(?![^(]*\))", text)
    return _merge([wanted for item in items if item and (wanted := _item(item)) is not None])


def asks(text: str) -> bool:
    """Whether a GRES request names any MIG instance, whatever is made of it; never raises."""
    for item in text.split(","):
        found = _ANY.fullmatch(item.strip().removeprefix("gres:").removeprefix("gres/"))
        if found is not None and not _ZERO.fullmatch(found[1] or ""):
            return True
    return False


def parse_token(extra: str) -> tuple[Wanted, ...] | None:
    """What the token that begins `extra` says; None if there is none. Raises RequestError."""
    found = TOKEN.match(extra)
    if found is None:
        return None
    if found[1] == "none":
        return ()
    wanted = []
    for item in found[1].split(","):
        profile, _, count = item.partition("=")
        wanted.append(_wanted(profile, count, item))
    return _merge(wanted)


def token(wanted: tuple[Wanted, ...]) -> str:
    """The canonical token for a request."""
    text = ",".join(f"{profile}={count}" for profile, count in sorted(wanted)) or "none"
    return f"slurm-mig/1:{text};"


def describe(wanted: tuple[Wanted, ...]) -> str:
    """As a person writes it: `3g.20gb, 1g.5gb x2`."""
    return ", ".join(f"{p} x{n}" if n > 1 else p for p, n in wanted) or "no instance"
