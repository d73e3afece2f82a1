"""Turns MIG mode on where the settings say so (`slurm-mig node-setup`); instances stay as they are.

Ampere keeps the mode in its InfoROM, changes it by a GPU reset, and only while nobody uses the GPU;
on bare metal the driver resets the GPU itself, in a virtual machine it cannot. Hopper and later
change it at once and forget it at a reboot (MIG User Guide, Enable MIG Mode; `families.py`). So
this may run at every boot, and on a node that is as it should be it changes nothing.

A mode is turned on only, never off: what a GPU that is to stay whole is used for, its admin knows.
GPUs in MIG mode are not touched, so jobs on their instances do not mind.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slurm_mig import chosen, families, gpu_users
from slurm_mig.driver_errors import DriverError
from slurm_mig.errors import NodeFault
from slurm_mig.instances import Gpu
from slurm_mig.ledger import prepare_directory
from slurm_mig.lock import Locks
from slurm_mig.nvml import (
    ACTIVE,
    IN_USE,
    NO_PERMISSION,
    RESET_REQUIRED,
    Driver,
    error_text,
)
from slurm_mig.settings import Settings

OK, CHANGED, WOULD_CHANGE = "ok", "changed", "would change"
ADMIN = "needs an admin"
FAILED = "failed"

_AGAIN = "slurm-mig node-setup"
_A_RESET = "a GPU reset or a reboot (in a virtual machine: restart that)"
_DAEMON = "nvidia-persistenced"


class NotRoot(NodeFault):
    """Somebody else than root wants to change a MIG mode."""

    def __init__(self) -> None:
        super().__init__(f"only root may change MIG mode; run as root: {_AGAIN}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One GPU: what it is in (`state`), what was found and done (`text`), what to run (`command`).

    `index` is NVML's, which nvidia-smi takes; what the driver does not show has none.
    """

    minor: int | None
    index: int | None
    uuid: str
    model: str
    state: str
    text: str
    command: str = ""

    def __str__(self) -> str:
        device = "" if self.minor is None else f"/dev/nvidia{self.minor}"
        name = device if self.index is None else f"GPU {self.index} ({device}, {self.model})"
        run = f"; run: {self.command}" if self.command else ""
        return f"{name}{': ' if name else ''}{self.state}: {self.text}{run}"


def setup(settings: Settings, driver: Driver, *, dry_run: bool) -> list[Finding]:
    """Bring every GPU's MIG mode to what the settings say, as far as may be without an admin.

    With `dry_run` nothing is changed, no lock taken. Raises NodeFault where the node cannot be set
    up at all: it has no GPU with MIG, or we are not root.
    """
    gpus = driver.gpus()
    lost = driver.lost
    minors = settings.mig_minors
    if minors is None and not lost and all(gpu.mig is None for gpu in gpus):
        raise chosen.no_mig(gpus)
    node = _Node(settings, driver, dry_run)
    findings = [node.gpu(gpu) for gpu in gpus]
    shown = {gpu.minor for gpu in gpus}
    missing = [minor for minor in minors or () if minor not in shown]
    for minor in missing:
        text = "the driver does not show it; correct [gpus] mig, or look at dmesg for Xid errors"
        findings.append(Finding(minor, None, "", "", FAILED, text))
    if missing or minors is None:
        for sentence in lost:
            text = f"{sentence}; look at dmesg for Xid errors"
            findings.append(Finding(None, None, "", "", FAILED, text))
    return findings


class _Node:
    """One run on one node."""

    def __init__(self, settings: Settings, driver: Driver, dry_run: bool) -> None:
        self._settings, self._driver, self._dry_run = settings, driver, dry_run
        self._root = Path(settings.driver_root)
        self._version = driver.version()

    def gpu(self, gpu: Gpu) -> Finding:
        """What there is to say about a GPU, after what there is to do."""
        if not chosen.named(gpu, self._settings.mig_minors):
            return self._whole(gpu)
        if gpu.mig is None and self._settings.mig_minors is None:
            return _say(gpu, OK, "stays whole: it cannot do MIG")
        if gpu.mig is None:
            return _say(gpu, FAILED, "[gpus] mig names it, but it cannot do MIG; take it out")
        if gpu.mig and gpu.mig_pending:
            return _say(gpu, OK, "MIG mode is on")
        try:
            with self._locked(gpu):
                return self._turn_on(gpu.uuid)
        except NotRoot:
            raise
        except NodeFault as error:
            if isinstance(error, DriverError) and error.code == NO_PERMISSION:
                raise NotRoot from None
            return _say(gpu, FAILED, str(error))  # the other GPUs may do all the same

    @contextmanager
    def _locked(self, gpu: Gpu) -> Iterator[None]:
        """Hold the host's lock and the GPU's: no Prolog decides or makes anything meanwhile.

        For one GPU at a time, since a change takes seconds and Prologs wait for the host's lock.
        """
        if self._dry_run:
            yield
            return
        state = Path(self._settings.state_directory)
        try:
            prepare_directory(state)
        except NodeFault:
            if os.geteuid():
                raise NotRoot from None
            raise
        locks = Locks(state, self._settings.lock_timeout, self._settings.lock_gpu_timeout)
        with locks.host(), locks.gpu(gpu.uuid):
            yield

    def _read(self, uuid: str) -> Gpu:
        for gpu in self._driver.gpus():
            if gpu.uuid == uuid:
                return gpu
        raise NodeFault(f"{uuid}: the driver shows this GPU no more; look at dmesg for Xid errors")

    def _whole(self, gpu: Gpu) -> Finding:
        off = f"nvidia-smi -i {gpu.index} -mig 0"
        if gpu.mig and gpu.mig_pending:
            return _say(gpu, ADMIN, "it is to stay whole, but is in MIG mode", off)
        if gpu.mig:
            text = f"it is to stay whole, and leaves MIG mode after {_A_RESET}"
            return _say(gpu, ADMIN, text, self._reset(gpu))
        if gpu.mig_pending:
            text = f"it is to stay whole, but enters MIG mode after {_A_RESET}"
            return _say(gpu, ADMIN, text, off)
        return _say(gpu, OK, "stays whole")

    def _reset(self, gpu: Gpu) -> str:
        return self._undisturbed(gpu, f"nvidia-smi --gpu-reset -i {gpu.index}")

    def _undisturbed(self, gpu: Gpu, command: str) -> str:
        if not gpu_users.persistenced(self._root, gpu.minor):
            return command
        return f"systemctl stop {_DAEMON} && {command} && systemctl start {_DAEMON}"

    def _turn_on(self, uuid: str) -> Finding:
        gpu = self._read(uuid)  # others may have changed it before we had the lock
        if gpu.mig and gpu.mig_pending:
            return _say(gpu, OK, "MIG mode is on")
        family = families.family(gpu.name, self._driver.architecture(gpu))
        if family and family.driver and not families.at_least(self._version, family.driver):
            text = (
                f"driver {self._version} is too old for MIG on {family.name}; install "
                f"{family.driver} or later (CUDA {family.cuda})"
            )
            return _say(gpu, FAILED, text)
        users = gpu_users.users(self._driver, self._root, gpu)
        if users and not gpu.mig:
            who = ", ".join(map(str, users))
            text = f"MIG mode is off and the GPU in use by {who}; nothing changed; stop that"
            return _say(gpu, ADMIN, text, _AGAIN)
        reset = family is not None and family.needs_reset
        if self._dry_run:
            how = "set MIG mode, which takes a GPU reset, by the driver or by an admin"
            text = f"would {how if reset else 'turn MIG mode on'}"
            return _say(gpu, WOULD_CHANGE, text)
        status = self._driver.set_mig(gpu, True)
        after = self._read(uuid)
        if gpu.mig and after.mig_pending:
            return _say(after, CHANGED, "MIG mode was to go off with a GPU reset; it stays on now")
        if after.mig:
            lasts = family is None or family.persistent
            text = "MIG mode turned on" + ("" if lasts else "; a reboot turns it off again")
            return _say(after, CHANGED, text)
        if status == IN_USE:
            return self._in_use(after, reset)
        if status == RESET_REQUIRED:
            when = "already" if gpu.mig_pending else "now"
            text = f"MIG mode is {when} set, and on after {_A_RESET}"
            return _say(after, ADMIN, text, self._reset(after))
        if status == ACTIVE:
            text = "the driver said that MIG mode is on, but it is off still; look at dmesg"
            return _say(after, FAILED, text)
        text = f"MIG mode is set, but off: {error_text(status)} (NVML error {status})"
        return _say(after, FAILED, text)

    def _in_use(self, gpu: Gpu, reset: bool) -> Finding:
        """What to say when the driver finds the GPU in use, and we knew of nobody."""
        if not gpu_users.persistenced(self._root, gpu.minor):
            text = (
                "MIG mode is set, but off while a process that the driver does not name uses the "
                f"GPU; see who by fuser -v /dev/nvidia{gpu.minor}, and stop that"
            )
            return _say(gpu, ADMIN, text, _AGAIN)
        text = f"MIG mode is set, but off while {_DAEMON} uses the GPU"
        command = self._reset(gpu) if reset else self._undisturbed(gpu, _AGAIN)
        return _say(gpu, ADMIN, text, command)


def outcome(findings: Iterable[Finding]) -> int:
    """The exit status: 0 all as it should be, 3 an admin is needed, 1 something failed."""
    states = {finding.state for finding in findings}
    if FAILED in states:
        return 1
    return 3 if states & {ADMIN, WOULD_CHANGE} else 0


def _say(gpu: Gpu, state: str, text: str, command: str = "") -> Finding:
    return Finding(gpu.minor, gpu.index, gpu.uuid, gpu.model, state, text, command)
