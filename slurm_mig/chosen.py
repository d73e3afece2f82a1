"""Which GPUs of a node are partitioned: what `[gpus] mig` says against what the driver shows.

Core, but without state: the partitioner, node-setup and doctor must not differ about it.
"""

from collections.abc import Sequence

from slurm_mig.errors import NodeFault
from slurm_mig.indices import compress
from slurm_mig.instances import Gpu


def named(gpu: Gpu, minors: Sequence[int] | None) -> bool:
    """Whether the settings let this GPU be partitioned (`minors` None: all of them)."""
    return minors is None or gpu.minor in minors


def partitioned(
    gpus: Sequence[Gpu], lost: Sequence[str], minors: Sequence[int] | None
) -> list[Gpu]:
    """The GPUs to make instances on.

    `lost` are those that fell off the bus, a sentence each. Raises NodeFault where promises cannot
    be kept: a GPU is lost or named but missing, or has no MIG mode, or has it off. Only with "all"
    are GPUs out of MIG mode passed over: sites left GPUs whole so before there was a list.
    """
    if minors is None:
        return _all(gpus, lost)
    shown = {gpu.minor: gpu for gpu in gpus}
    missing = [minor for minor in minors if minor not in shown]
    if missing and lost:
        raise NodeFault(_lost(lost))
    if missing:
        there = f"it shows {_devices(list(shown))}" if shown else "it shows no GPU at all"
        raise NodeFault(
            f"[gpus] mig names {_devices(missing)}, which the driver does not show: {there}; "
            "correct the list, or look at dmesg for Xid errors"
        )
    found = [shown[minor] for minor in minors]
    if incapable := [gpu for gpu in found if gpu.mig is None]:
        raise NodeFault(f"[gpus] mig names {names(incapable)}, which cannot do MIG; take it out")
    if off := [gpu for gpu in found if not gpu.mig]:
        raise NodeFault(
            f"[gpus] mig names {names(off)}, but MIG mode is off there; run: slurm-mig node-setup"
        )
    return found


def _all(gpus: Sequence[Gpu], lost: Sequence[str]) -> list[Gpu]:
    if lost:
        raise NodeFault(_lost(lost))
    found = [gpu for gpu in gpus if gpu.mig]
    if found:
        return found
    capable = [gpu for gpu in gpus if gpu.mig is not None]
    if capable:
        raise NodeFault(
            f"MIG mode is off on {', '.join(f'GPU {g.index} ({g.model})' for g in capable)}; "
            "turn it on: nvidia-smi -mig 1 (Ampere: then reset the GPU)"
        )
    raise no_mig(gpus)


def no_mig(gpus: Sequence[Gpu]) -> NodeFault:
    """What is wrong with a node none of whose GPUs can do MIG."""
    there = ", ".join(sorted({gpu.model for gpu in gpus})) or "no GPU at all"
    return NodeFault(f"no GPU of this node can do MIG: the driver shows {there}")


def _lost(lost: Sequence[str]) -> str:
    return f"{'; '.join(lost)}; look at dmesg for Xid errors"


def _devices(minors: Sequence[int]) -> str:
    text = compress(minors)
    return f"/dev/nvidia{text}" if text.isdecimal() else f"/dev/nvidia[{text}]"


def names(gpus: Sequence[Gpu]) -> str:
    """`/dev/nvidia1 (A100-SXM4-40GB), /dev/nvidia3 (A30)`."""
    return ", ".join(f"/dev/nvidia{gpu.minor} ({gpu.model})" for gpu in gpus)
