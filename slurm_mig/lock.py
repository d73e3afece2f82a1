"""The node's locks: one for decisions, one per GPU for the driver's work, one per job.

All are flock(2) on files in `<state>/locks` through filelock, so the kernel frees them when their
holder dies, however it dies. Order, against deadlock: job, host, GPU; at most one GPU at a time.

- host: held for the milliseconds between reading the ledger and writing the intent.
- GPU: held while the driver creates or destroys on that GPU, seconds on real hardware.
- job: held by a Prolog, Epilog or reconcile for the whole of its work on one job's instances, so
  that they never interleave. Its file is removed when the job is forgotten.

filelock's default poll of 50 ms made 16 short holders take 774 ms, 5 ms: 210 ms, hence the host
lock's poll. It costs a waiter 4 % of a core, too much where many wait for seconds: for a GPU's lock
and a job's it is 20 ms, 1 %.
"""

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from slurm_mig.errors import NodeFault

POLL_SECONDS = 0.005
LONG_POLL_SECONDS = 0.02


class Busy(NodeFault):
    """Somebody else still holds the lock."""


def _holders(path: Path) -> str:
    """Who holds the flock on `path`, from /proc/locks; for the error message only."""
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return "somebody"
    pids = [
        fields[4]
        for fields in (line.split() for line in lines)
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].endswith(f":{inode}")
    ]
    return "pid " + ", ".join(pids) if pids else "somebody"


class Locks:
    """The locks under one state directory; `timeout` in seconds for the host's, `gpu_timeout`."""

    def __init__(self, state: Path, timeout: float, gpu_timeout: float) -> None:
        self._folder = state / "locks"
        self._timeout, self._gpu_timeout = timeout, gpu_timeout

    @contextmanager
    def _held(self, name: str, timeout: float, poll: float = LONG_POLL_SECONDS) -> Iterator[Path]:
        path = self._folder / f"{name}.lock"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not stat.S_ISDIR(self._folder.lstat().st_mode):
                raise NodeFault(f"lock folder {self._folder}: is no directory; move it away")
            # fallback_to_soft: a soft lock survives its holder, which must never happen here.
            lock = FileLock(path, timeout, mode=0o600, poll_interval=poll, fallback_to_soft=False)
            lock.acquire()
        except Timeout:
            raise Busy(
                f"lock {path}: still held by {_holders(path)} after {timeout:g} s; "
                "see what it is doing, the lock frees itself when it ends"
            ) from None
        except OSError as error:
            raise NodeFault(f"lock {path}: {error.strerror or error}") from error
        try:
            yield path
        finally:
            lock.release()

    @contextmanager
    def host(self) -> Iterator[None]:
        """Hold the host's lock; raises NodeFault on timeout."""
        with self._held("host", self._timeout, POLL_SECONDS):
            yield

    @contextmanager
    def gpu(self, uuid: str) -> Iterator[None]:
        """Hold one GPU's lock; raises NodeFault on timeout."""
        with self._held("gpu-" + re.sub(r"[^0-9A-Za-z-]", "_", uuid), self._gpu_timeout):
            yield

    @contextmanager
    def job(self, job_id: int, *, wait: bool = True) -> Iterator[None]:
        """Hold one job's lock; raises NodeFault on timeout (at once, without `wait`).

        The file goes with the block: filelock checks after locking that the file it locked still
        has a name, so a waiter cannot end up with a lock on a removed file.
        """
        with self._held(f"job-{job_id:d}", self._gpu_timeout if wait else 0.0) as path:
            try:
                yield
            finally:
                # One that stays is empty and in nobody's way; the work under it is done.
                with suppress(OSError):
                    path.unlink()

    def jobs(self) -> list[int]:
        """The jobs whose lock has a file: their hook is at work, or was killed."""
        names = (path.stem.removeprefix("job-") for path in self._folder.glob("job-*.lock"))
        return sorted(int(name) for name in names if name.isdecimal())
