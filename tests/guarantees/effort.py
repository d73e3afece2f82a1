"""How hard the tests of the guarantees try: little in `make test`, much with SOAK=1 (`make soak`).

A test whose numbers come from here is marked `soak`. It runs in `make test` too, with its small
numbers; `make soak` runs all that are so marked with the large ones.
"""

import os
import random

#: Whether this run tries everything.
SOAK = os.environ.get("SOAK") == "1"


def count(usual: int, soak: int) -> int:
    """So many rounds, examples or kills."""
    return soak if SOAK else usual


def seed() -> int:
    """Where a random test begins: SEED of the environment, else another number each time.

    Say it in every message of such a test; `SEED=… pytest …` then tries the same again.
    """
    given = os.environ.get("SEED")
    return int(given) if given else random.SystemRandom().randrange(1 << 32)
