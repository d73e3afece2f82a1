"""What an NVML call can come back with: the errors, and which of them may pass.

Pure: numbers and types. The numbers are nvml.h's own: another package of pynvml's name need not
have the newer constants, and must not keep this from being imported.
"""

from slurm_mig.errors import NodeFault

SUCCESS, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 0, 2, 3, 4, 6
TIMEOUT, IRQ_ISSUE, GPU_IS_LOST, RESET_REQUIRED, OPERATING_SYSTEM = 10, 11, 15, 16, 17
IN_USE, MEMORY, INSUFFICIENT_RESOURCES, NOT_READY, UNKNOWN = 19, 20, 23, 27, 999

#: Errors after which the same call may succeed seconds later. In use: its client may end. Timeout,
#: an interrupt problem, the operating system's refusal, no memory or resources in the driver, not
#: ready: what was busy or short comes free. Unknown: the driver's word for whatever the firmware
#: answered, passing states among it. All others stay: a GPU that is lost or wants a reset needs
#: one, no permission is given to a process that runs, and a driver that is not loaded, of another
#: version, or does not know the call or its argument is the same in a minute.
PASSING = frozenset(
    {
        *(IN_USE, TIMEOUT, IRQ_ISSUE, OPERATING_SYSTEM),
        *(MEMORY, INSUFFICIENT_RESOURCES, NOT_READY, UNKNOWN),
    }
)


class DriverError(NodeFault):
    """An NVML call failed. `code` is NVML's number, `call` its function, `text` NVML's words."""

    def __init__(self, call: str, code: int, what: str, text: str) -> None:
        super().__init__(f"{what}: {call} failed: {text} (NVML error {code})")
        self.code, self.call, self.what, self.text = code, call, what, text

    @property
    def may_pass(self) -> bool:
        """Whether the same call may succeed seconds later."""
        return self.code in PASSING


class InUse(DriverError):
    """A client is in the way of a call that changes something (NVML_ERROR_IN_USE)."""


class NoSpace(DriverError):
    """There is no room for what was to be made (NVML_ERROR_INSUFFICIENT_RESOURCES)."""


class NotThere(DriverError):
    """No such object (NVML_ERROR_NOT_FOUND)."""


#: What an error is besides a DriverError. From a call that only reads, IN_USE and
#: INSUFFICIENT_RESOURCES are faults like any other: nothing says then that there is no room, and
#: what was made before must be undone.
READS: dict[int, type[DriverError]] = {NOT_FOUND: NotThere}
CHANGES: dict[int, type[DriverError]] = {**READS, IN_USE: InUse, INSUFFICIENT_RESOURCES: NoSpace}
