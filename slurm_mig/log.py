"""One line per operation, key=value, to syslog or a file; user text in it is escaped.

Import budget: the logging package costs 11 ms, syslog(3) nothing.
"""

import os
import stat
import syslog
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from slurm_mig.errors import one_line


def _quote(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else one_line(value, 400)
    plain = text and all(c.isalnum() or c in "-_.:/+@%,#" for c in text)
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Log:
    """Collects the fields and phase times of one operation, and writes them as one line."""

    def __init__(self, target: str, operation: str, **fields: object) -> None:
        self._target, self._operation = target, operation
        self._fields: dict[str, object] = dict(fields)
        self._began = time.monotonic()

    def note(self, **fields: object) -> None:
        """Add fields to the line."""
        self._fields.update(fields)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add `<name>_s`, the seconds that the block took, also when it fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            key = f"{name}_s"
            before = self._fields.get(key, 0.0)
            spent = time.monotonic() - began
            self._fields[key] = spent + (before if isinstance(before, float) else 0.0)

    def write(self, outcome: str, *, failed: bool = False) -> None:
        """Write the line. Never raises: an operation does not fail because its log does."""
        fields = {"outcome": outcome, **self._fields, "total_s": time.monotonic() - self._began}
        text = " ".join(f"{key}={_quote(value)}" for key, value in fields.items())
        line = f"{self._operation}: {text}"
        if self._target == "syslog":
            syslog.openlog("slurm-mig", syslog.LOG_PID, syslog.LOG_DAEMON)
            syslog.syslog(syslog.LOG_ERR if failed else syslog.LOG_INFO, line)
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            # Not blocking: a pipe that nobody reads would hold the hook for ever.
            descriptor = os.open(self._target, flags | os.O_NONBLOCK, 0o600)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                    return  # another file by a second name, or none
                os.write(descriptor, f"{stamp} [{os.getpid()}] {line}\n".encode())
            finally:
                os.close(descriptor)
