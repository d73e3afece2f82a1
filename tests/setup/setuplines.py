"""What node-setup prints, as the tests of it expect it."""

import os
import pwd

ME = pwd.getpwuid(os.getuid()).pw_name

#: What puts an Ampere GPU in the mode that was set, and the command for the one with this index.
A_RESET = "a GPU reset or a reboot (in a virtual machine: restart that)"
RESET = "nvidia-smi --gpu-reset -i {}"
ON = "ok: MIG mode is on"
TURNED_ON = "changed: MIG mode turned on"
FOR_NOW = "changed: MIG mode turned on; a reboot turns it off again"


def a100(index: int, text: str) -> str:
    """The line of an A100 whose minor is its index."""
    return f"GPU {index} (/dev/nvidia{index}, A100-SXM4-40GB): {text}"


def h100(index: int, text: str) -> str:
    """The line of an H100 whose minor is its index."""
    return f"GPU {index} (/dev/nvidia{index}, H100 80GB HBM3): {text}"
