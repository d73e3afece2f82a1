"""A program that holds an instance as a CUDA program would, until its standard input ends.

Run by its source, `python -I -S -c SOURCE LIBRARY UUID BYTES [UID]`, so it imports next to
nothing; as root with a UID it becomes that user first (here, since that user may not be able to
run our Python). It prints one line, `ready` or the NVML error's number, and then waits: whoever
started it holds the other end, so it also ends when that process dies.
"""

import ctypes
import os
import sys


def main(library: str, uuid: str, used: str, user: str | None = None) -> int:
    """Attach, say so, wait; returns the exit status."""
    driver = ctypes.CDLL(library)
    if user is not None:
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
    error = driver.slurmMigSimAttach(
        uuid.encode(), ctypes.c_uint(os.getpid()), ctypes.c_ulonglong(int(used)), ctypes.c_int(0)
    )
    os.write(1, b"ready\n" if error == 0 else b"%d\n" % error)
    if error:
        return 1
    while os.read(0, 4096):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
