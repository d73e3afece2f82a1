"""A ledger cut at every byte, and with every byte's bit flipped: believed whole, or not at all."""

import random
from collections import Counter

import effort
import pytest
from ruining import Ruin

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600 if effort.SOAK else 120)]

#: Of all bytes, one in so many is tried; of those, so many by whole hooks and a reconcile.
STEP = effort.count(23, 1)
WHOLE_RUNS = effort.count(12, 400)


def _try(ruin: Ruin, variants: dict[int, bytes], chance: random.Random) -> Counter[str]:
    """Each variant is read; some are given to hooks and reconcile. The verdicts, counted."""
    verdicts: Counter[str] = Counter()
    doubtful = []
    for at, content in variants.items():
        ruin.path.write_bytes(content)
        verdict = ruin.verdict()
        assert ruin.path.read_bytes() == content, f"written to at variant {at}"
        assert [p.name for p in ruin.state.iterdir() if p.name != "locks"] == ["ledger.sqlite"]
        verdicts["whole" if verdict == "whole" else "damaged"] += 1
        if verdict != "whole":
            doubtful.append(at)
    for at in chance.sample(doubtful, min(WHOLE_RUNS, len(doubtful))):
        ruin.set_back()
        ruin.path.write_bytes(variants[at])
        assert ruin.refused().startswith(f"ledger {ruin.path}: "), at
        report = ruin.rebuilt()
        assert [path.read_bytes() for path in ruin.aside()] == [variants[at]], at
        assert any(str(ruin.aside()[0]) in line for line in report["mended"]), at
    return verdicts


def test_truncated(ruin, figures):
    """Of a ledger cut anywhere nothing is believed; reconcile rebuilds it without loss."""
    seed = effort.seed()
    chance = random.Random(seed)  # noqa: S311
    lengths = [*range(0, len(ruin.whole), STEP), len(ruin.whole) - 1]
    verdicts = _try(ruin, {length: ruin.whole[:length] for length in lengths}, chance)
    assert verdicts.keys() == {"damaged"}, seed
    ruin.serves_and_ends()
    figures("disk", truncations=len(lengths), seeds=[seed])


def test_flipped_bits(ruin, figures):
    """A flipped bit is either in what SQLite does not use, or nothing is believed."""
    seed = effort.seed()
    chance = random.Random(seed)  # noqa: S311
    variants = {}
    for at in range(chance.randrange(STEP), len(ruin.whole), STEP):
        content = bytearray(ruin.whole)
        content[at] ^= 1 << chance.randrange(8)
        variants[at] = bytes(content)
    verdicts = _try(ruin, variants, chance)
    assert verdicts["damaged"] > 0, seed
    ruin.set_back()
    ruin.serves_and_ends()
    figures("disk", flips=len(variants), flips_noticed=verdicts["damaged"], seeds=[seed])


def test_flipped_bits_of_what_is_used(ruin):
    """Every bit of the header's marks and of the rows themselves shows."""
    start = min(ruin.whole.index(text) for text in (b"GPU-", b"MIG-"))
    rows = [at for at in range(start, len(ruin.whole)) if ruin.whole[at - 3 : at] == b"GPU"]
    places = [*range(18, 20), *range(60, 64), *range(68, 72), *rows]
    for at in places:
        for bit in range(8):
            content = bytearray(ruin.whole)
            content[at] ^= 1 << bit
            ruin.path.write_bytes(content)
            assert ruin.verdict() != "whole", (at, bit)
