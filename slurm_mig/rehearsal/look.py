"""What a job sees: run inside one, prints its devices as NVML knows them, one JSON line.

Usage: look.py LIBRARY [READY_FILE GO_FILE]. With the files it says that it is ready by making the
first, and ends when the second appears, so that others can look at the node while it runs.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path

import pynvml


def devices(library: str, uuids: list[str]) -> list[dict[str, object]]:
    """The MIG devices of these UUIDs; raises pynvml.NVMLError for one that is not there."""
    pynvml.nvmlLib = ctypes.CDLL(library)
    pynvml.nvmlInit()
    found = []
    for uuid in uuids:
        device = pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())
        attributes = pynvml.nvmlDeviceGetAttributes(device)
        parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device)
        found.append(
            {
                "uuid": uuid,
                "mig": bool(pynvml.nvmlDeviceIsMigDeviceHandle(device)),
                "gpu": pynvml.nvmlDeviceGetIndex(parent),
                "gi": pynvml.nvmlDeviceGetGpuInstanceId(device),
                "slices": attributes.gpuInstanceSliceCount,
                "memory_mb": attributes.memorySizeMB,
            }
        )
    pynvml.nvmlShutdown()
    return found


def main() -> int:
    """Print one line; see the module."""
    library, *files = sys.argv[1:]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    seen = {
        "job": os.environ.get("SLURM_JOB_ID"),
        "task": os.environ.get("SLURM_ARRAY_TASK_ID"),
        "node": os.environ.get("SLURMD_NODENAME"),
        "visible": visible,
        "profiles": os.environ.get("SLURM_MIG_PROFILES", ""),
        "devices": devices(library, [uuid for uuid in visible.split(",") if uuid]),
    }
    sys.stdout.write(json.dumps(seen) + "\n")
    sys.stdout.flush()
    if files:
        ready, go = map(Path, files)
        ready.touch()
        while not go.exists():
            time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
