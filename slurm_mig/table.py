"""The shipped table of GPUs, `data/mig_profiles.json`: for people without the GPU at hand.

On a node the truth is what NVML reports; no hook reads this.
"""

import json

from slurm_mig import share
from slurm_mig.errors import RequestError
from slurm_mig.profiles import TableEntry, find_entry, from_table
from slurm_mig.settings import nearest


def entries() -> list[TableEntry]:
    """Every GPU of the table."""
    document = json.loads(share.data("mig_profiles.json").read_text())
    return [from_table(entry) for entry in document["gpus"]]


def find(model: str) -> TableEntry:
    """The GPU of that key or NVML name. Raises RequestError, which names the nearest."""
    known = entries()
    entry = find_entry(known, model)
    if entry is None:
        near = nearest(model, [entry.key for entry in known])
        raise RequestError(f"no GPU model {model!r} in the table{near}")
    return entry
