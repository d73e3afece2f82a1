"""Removing instances: CI before GI, again while that may help, and quarantine for what stays.

Core. "Not there" is success, and nothing is believed gone before the driver shows that it is.
"""

import time
from collections.abc import Sequence
from contextlib import suppress

from slurm_mig.devices import Devices, describe_processes
from slurm_mig.driver_errors import DriverError, InUse
from slurm_mig.errors import NodeFault, TeardownError
from slurm_mig.ledger import Entry, Ledger
from slurm_mig.lock import Locks
from slurm_mig.nvml import Driver
from slurm_mig.sight import Sight

#: Seconds between two attempts at a removal: doubled each time, up to the bound. A second is what
#: an Epilog wastes at most when the client ends right after an attempt.
_FIRST_RETRY, _LONGEST_RETRY = 0.05, 1.0


class Teardown:
    """Removes instances of the ledger; `budget` in seconds, `isolate`: devices were given away."""

    def __init__(
        self,
        sight: Sight,
        driver: Driver,
        ledger: Ledger,
        locks: Locks,
        devices: Devices,
        *,
        budget: float,
        isolate: bool,
    ) -> None:
        self._sight, self._driver, self._ledger = sight, driver, ledger
        self._locks, self._devices = locks, devices
        self._budget, self._isolate = budget, isolate

    def remove_all(self, entries: Sequence[Entry], deadline: float | None = None) -> None:
        """Remove these by `deadline`, by default within the budget of an Epilog.

        What stays is quarantined, and TeardownError raised for it.
        """
        if deadline is None:
            deadline = time.monotonic() + self._budget
        stuck = []
        for entry in entries:
            try:
                self._remove(entry, deadline)
            except (NodeFault, TeardownError) as error:
                wish = entry.wish
                where = f"{wish.gpu} {wish.profile} at {wish.placement} of job {entry.job}"
                reason = f"{where}: {error}, then run: slurm-mig reconcile"
                self._ledger.quarantine(entry, reason)
                stuck.append(reason)
        if stuck:
            raise TeardownError("; ".join(stuck))

    def _remove(self, entry: Entry, deadline: float) -> None:
        """Remove one instance and forget it once it is gone.

        Tried again, at growing intervals and a last time at the deadline, as long as that may help;
        there is always one attempt. Raises TeardownError, NodeFault.
        """
        if not self._sight.begun(entry):
            self._ledger.forget(entry)
            return
        allotted = round(deadline - time.monotonic(), 1)
        waited = f" after {allotted:g} s" if allotted > 0 else ""
        delay = _FIRST_RETRY
        while True:
            failure = None
            with self._locks.gpu(entry.wish.gpu):
                try:
                    gone = self._remove_once(entry)
                except DriverError as error:
                    gone, failure = False, error
            if gone:
                self._ledger.forget(entry)
                return
            if failure is not None and not failure.may_pass:
                raise TeardownError(f"{failure}; look at dmesg for Xid errors")
            # Not under the lock: others may work on this GPU while we wait.
            left = deadline - time.monotonic()
            if left <= 0:
                raise TeardownError(self._why_there(entry, failure, waited))
            time.sleep(min(delay, left))
            delay = min(delay * 2, _LONGEST_RETRY)

    def _why_there(self, entry: Entry, failure: DriverError | None, waited: str) -> str:
        if isinstance(failure, InUse):
            return f"in use by {self._users(entry)}{waited}; stop them"
        why = failure or "the driver says that it was removed, and still shows it"
        return f"{why}{waited}; look at dmesg for Xid errors"

    def _remove_once(self, entry: Entry) -> bool:
        """One attempt; True when a second look shows that the instance is gone."""
        gi = self._sight.find(entry)
        if gi is None:
            return True
        gpu = self._sight.gpu(entry.wish.gpu)
        if self._isolate:
            # First, so that nothing can open it any more between our attempts.
            self._devices.revoke(gpu.minor, gi.id, tuple(ci.id for ci in gi.cis))
        for ci in gi.cis:
            self._driver.destroy_ci(gpu.uuid, gi.id, ci.id)
        self._driver.destroy_gi(gpu.uuid, gi.id)
        return self._sight.find(entry) is None

    def _users(self, entry: Entry) -> str:
        """Who holds an instance, as far as the driver and /proc tell."""
        pids: set[int] = set()
        with suppress(NodeFault):  # for an error message only: the one to come says more
            gi = self._sight.find(entry)
            if gi is None:
                return "nobody by now"
            minor = self._sight.gpu(entry.wish.gpu).minor
            pids.update(self._driver.clients(entry.wish.gpu, gi.id))
            pids.update(self._devices.holders(minor, gi.id, tuple(ci.id for ci in gi.cis)))
        return ", ".join(describe_processes(sorted(pids))) or "a client that NVML does not name"
