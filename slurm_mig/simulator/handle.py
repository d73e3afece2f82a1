"""The Python handle of a simulated driver: make one, steer it, look at it.

All state is the C library's; this module only asks it (`driver/control.c`).
"""

import ctypes
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from slurm_mig.errors import RequestError, SlurmMigError
from slurm_mig.profiles import Placement
from slurm_mig.simulator import build
from slurm_mig.simulator.describe import (
    CUDA_VERSION,
    DRIVER_VERSION,
    description,
    parse,
)
from slurm_mig.simulator.models import find_model
from slurm_mig.simulator.records import (
    ERRORS,
    Client,
    ComputeInstance,
    Counts,
    GpuInstance,
    GpuStatus,
)

_NAMES = {number: name for name, number in ERRORS.items()}
_WHOLE_GPU = 255
#: In the place of a function's name: all of them, counted together.
ANY = "any"
_MAX_GPUS = 16
_MINORS = 32  # as many as mig-minors lists


class Simulation:
    """One simulated driver, in its folder.

    `library` is the path to load (or its folder to put in LD_LIBRARY_PATH), `root` stands for `/`
    in the driver's own paths.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.library = directory / "lib" / build.SONAME
        self.root = directory / "root"
        try:
            facts = json.loads((directory / "simulation.json").read_text("utf-8"))
            self._driver = ctypes.CDLL(str(self.library))
        except (OSError, ValueError) as error:
            raise SlurmMigError(
                f"{directory} is no simulation ({error}); make one with 'slurm-mig sim create'"
            ) from None
        self.models = [find_model(gpu["key"]) for gpu in facts["gpus"]]
        self.schemes: list[str | None] = [gpu["gi_ids"] for gpu in facts["gpus"]]
        self._driver.slurmMigSimFunctionName.restype = ctypes.c_char_p
        self._driver.slurmMigSimCalls.restype = ctypes.c_longlong
        self._driver.slurmMigSimGetLatency.restype = ctypes.c_longlong
        self._driver.slurmMigSimGetFault.restype = ctypes.c_uint
        self._driver.slurmMigSimShow.restype = ctypes.c_longlong
        self._driver.slurmMigSimShow.argtypes = [ctypes.c_char_p, ctypes.c_ulong]

    # ---- make ----

    @classmethod
    def create(
        cls,
        directory: Path | str,
        gpus: Sequence[str],
        *,
        gi_ids: str | None = None,
        mig_enabled: bool = True,
        uuid_mode: Literal["stable", "fresh"] = "stable",
        privileged_uid: int | None = None,
        seed: uuid.UUID | None = None,
        minors: Sequence[int] | None = None,
        driver_version: str = DRIVER_VERSION,
        cuda_version: int = CUDA_VERSION,
        self_reset: bool = False,
    ) -> Self:
        """Make a simulation in `directory`, which must be absent or empty.

        Each of `gpus` is `MODEL[:COUNT[:GI-IDS]]`, as `A100-SXM4-40GB:2:swapped8`; `gi_ids` is the
        scheme of those that name none, where it fits. Who may create and destroy is
        `privileged_uid`, by default the caller. `seed` fixes all UUIDs. `minors` are the N of
        /dev/nvidiaN, one for each GPU, by default its index. `cuda_version` 12090 is CUDA 12.9.
        `self_reset`: to change the MIG mode of an idle Ampere GPU the driver resets it itself, as
        on bare metal; without, as in a virtual machine, it stays pending until `reset_gpu`.
        Raises RequestError for an unknown GPU or scheme, SlurmMigError if it cannot be made.
        """
        directory = Path(directory).absolute()
        wanted = [gpu for text in gpus for gpu in parse(text, gi_ids, mig_enabled)]
        if not 1 <= len(wanted) <= _MAX_GPUS:
            raise RequestError(f"{len(wanted)} GPUs asked for; a simulation has 1 to {_MAX_GPUS}")
        if minors is not None:
            if len(set(minors)) != len(wanted) or not all(0 <= minor < _MINORS for minor in minors):
                raise RequestError(f"{len(wanted)} GPUs need as many device minors, not {minors}")
            wanted = [replace(g, minor=minor) for g, minor in zip(wanted, minors, strict=True)]
        if len(driver_version.split()) != 1:
            raise RequestError(f"{driver_version!r} is no driver version; write {DRIVER_VERSION}")
        library = build.library()
        try:
            if directory.exists() and any(directory.iterdir()):
                raise SlurmMigError(
                    f"{directory} is not empty; remove it, or name a folder that is not there yet"
                )
            for part in ("", "lib", "root"):
                (directory / part).mkdir(mode=0o755, parents=True, exist_ok=True)
                (directory / part).chmod(0o755)
            # A copy: two hard links to one file would be one library to the dynamic loader.
            shutil.copyfile(library, directory / "lib" / build.SONAME)
            # What programs look for that were linked by its unversioned name, as Slurm's plugin.
            (directory / "lib/libnvidia-ml.so").symlink_to(build.SONAME)
            text = description(
                wanted,
                seed=seed or uuid.uuid4(),
                privileged_uid=os.geteuid() if privileged_uid is None else privileged_uid,
                fresh_uuids=uuid_mode == "fresh",
                self_reset=self_reset,
                versions=(driver_version, cuda_version),
            )
            (directory / "gpus").write_text(text, "utf-8")
            facts = {"gpus": [{"key": gpu.model.key, "gi_ids": gpu.scheme} for gpu in wanted]}
            (directory / "simulation.json").write_text(json.dumps(facts) + "\n", "utf-8")
            for name in ("gpus", "simulation.json", f"lib/{build.SONAME}"):
                (directory / name).chmod(0o644)
        except OSError as error:
            raise SlurmMigError(
                f"cannot make a simulation in {directory}: {error.strerror}"
            ) from None
        made = cls(directory)
        made._check("make the state", made._driver.slurmMigSimFormat())
        return made

    @classmethod
    def open(cls, directory: Path | str) -> Self:
        """The simulation that is in `directory`; raises SlurmMigError if there is none."""
        return cls(Path(directory).absolute())

    # ---- steer ----

    def fail(
        self,
        function: str,
        nth: int = 1,
        *,
        once: bool = True,
        error: str = "IN_USE",
        after: bool = False,
    ) -> None:
        """Make the `nth` call of `function` from now on fail, or it and all that follow.

        With `ANY` for the function it is the `nth` call of whichever.
        `error` is a name in `ERRORS`; `KILL` kills the calling process instead. With `after` a
        call that changes something is carried out first. One fault per function: a new one
        replaces the old. Raises RequestError for unknown names.
        """
        code = ERRORS.get(error.removeprefix("NVML_ERROR_"))
        if code is None:
            raise RequestError(f"no NVML error {error!r}; {_nearest(error, ERRORS)}")
        if nth < 1:
            raise RequestError(f"call number {nth} cannot fail; the next call is number 1")
        name = (ANY if function == ANY else self.function(function)).encode()
        self._check(
            f"arm a fault in {function}",
            self._driver.slurmMigSimFail(name, nth, int(not once), int(after), code),
        )

    def latency(self, function: str, seconds: float) -> None:
        """Make every call of `function` take that long; one that changes a GPU holds it."""
        name = self.function(function).encode()
        micro = ctypes.c_ulonglong(round(seconds * 1e6))
        self._check(f"set the latency of {function}", self._driver.slurmMigSimLatency(name, micro))

    def clear_faults(self) -> None:
        """Disarm all faults and drop all latencies."""
        self._check("clear faults", self._driver.slurmMigSimClear())

    def reboot(self) -> None:
        """Reboot the node as the driver sees it.

        Instances and clients are gone, the boot id changes; MIG mode: Ampere takes the pending
        one, Hopper and later switch it off.
        """
        self._check("reboot", self._driver.slurmMigSimReboot())

    def reload(self) -> None:
        """Unload and load the driver's kernel module: as `reboot`, but the boot id stays."""
        self._check("reload the driver", self._driver.slurmMigSimReload())

    def reset_gpu(self, gpu: int) -> None:
        """Reset one GPU, which activates a pending MIG mode; SlurmMigError while in use."""
        self._check(f"reset GPU {gpu}", self._driver.slurmMigSimResetGpu(gpu))

    def attach(
        self, device_uuid: str, pid: int, used_bytes: int = 1 << 20, *, graphics: bool = False
    ) -> None:
        """Register process `pid` as a client of a MIG device or GPU; it holds it until it ends.

        `graphics`: NVML lists it among the graphics processes, not the compute ones.
        Raises SlurmMigError, as when the caller may not open the capability files.
        """
        error = self._driver.slurmMigSimAttach(
            *(device_uuid.encode(), ctypes.c_uint(pid)),
            *(ctypes.c_ulonglong(used_bytes), ctypes.c_int(graphics)),
        )
        self._check(f"use {device_uuid} as process {pid}", error)

    def detach(self, pid: int) -> None:
        """Forget that `pid` is a client of anything."""
        self._check(f"detach {pid}", self._driver.slurmMigSimDetach(ctypes.c_uint(pid)))

    @contextmanager
    def client(
        self, device_uuid: str, *, user: int | None = None, used_bytes: int = 1 << 20
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """A process of its own that holds a MIG device, or a whole GPU, while the context lasts.

        Gives the Popen (`.pid`, `.kill()`). `user` runs it under that uid (root only).
        Raises SlurmMigError when it may not.
        """
        source = Path(__file__).with_name("client.py").read_text("utf-8")
        python = getattr(sys, "_base_executable", sys.executable)
        arguments = [str(self.library), device_uuid, str(used_bytes)]
        if user is not None:
            arguments.append(str(user))
        process = subprocess.Popen(
            [python, "-I", "-S", "-c", source, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
        )
        with process:
            try:
                answer = process.stdout.readline().strip().decode() if process.stdout else ""
                if answer != "ready":
                    code = int(answer) if answer.isdecimal() else ERRORS["UNKNOWN"]
                    self._check(f"use {device_uuid}", code)
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    # ---- look ----

    def gpus(self) -> list[GpuStatus]:
        """The GPUs, by index."""
        return [
            GpuStatus(int(row[1]), row[2], model.key, row[3] == "1", row[4] == "1")
            for row, model in zip(self._rows("gpu"), self.models, strict=True)
        ]

    def instances(self) -> list[GpuInstance]:
        """The GPU instances that exist, by GPU and GI id, with their compute instances."""
        rows = self._rows("gi", "ci")
        found = []
        for gi in (row for row in rows if row[0] == "gi"):
            gpu, gi_id, profile_id, start, size = map(int, gi[1:])
            compute = tuple(
                ComputeInstance(int(ci[3]), int(ci[4]), Placement(int(ci[5]), int(ci[6])), ci[7])
                for ci in rows
                if ci[0] == "ci" and ci[1:3] == gi[1:3]
            )
            name = next(p.name for p in self.models[gpu].profiles if p.id == profile_id)
            place = Placement(start, size)
            found.append(GpuInstance(gpu, gi_id, profile_id, name, place, compute))
        return found

    def clients(self) -> list[Client]:
        """The processes that hold something."""
        found = []
        for row in self._rows("client"):
            gpu, gi, ci, pid, used = map(int, row[1:])
            whole = gi == _WHOLE_GPU
            found.append(Client(gpu, None if whole else gi, None if whole else ci, pid, used))
        return found

    def counts(self, *, compute: bool = False) -> Counts:
        """How many GPU instances (or compute instances) there were and are."""
        first = 8 if compute else 5
        made, destroyed, lost = (
            sum(int(row[column]) for row in self._rows("gpu")) for column in range(first, first + 3)
        )
        return Counts(made, destroyed, lost, left=made - destroyed - lost)

    def calls(self) -> dict[str, int]:
        """How often each function was called, by any process, for those that were."""
        counted = {name: int(self._driver.slurmMigSimCalls(name.encode())) for name in self._all()}
        return {name: count for name, count in counted.items() if count}

    def calls_of_any(self) -> int:
        """How many calls there were, of all functions together, by any process."""
        return int(self._driver.slurmMigSimCalls(ANY.encode()))

    def faults(self) -> dict[str, str]:
        """What is armed, in words, by function: faults and latencies."""
        found = {}
        for name in [*self._all(), ANY]:
            words = []
            fault = int(self._driver.slurmMigSimGetFault(name.encode()))
            if fault:
                words.append(_NAMES.get(fault & 0xFFFF, str(fault & 0xFFFF)))
                words.append("from then on" if fault & 0x40000000 else "once")
            latency = int(self._driver.slurmMigSimGetLatency(name.encode()))
            if latency:
                words.append(f"{latency / 1000:g} ms")
            if words:
                found[name] = ", ".join(words)
        return found

    def busy(self, gpu: int) -> bool:
        """Whether a call that changes the GPU is now under way, its latency included."""
        return int(self._driver.slurmMigSimBusy(gpu)) == 1

    def boot_id(self) -> str:
        """The boot id that `root/proc/sys/kernel/random/boot_id` shows."""
        return (self.root / "proc/sys/kernel/random/boot_id").read_text("ascii").strip()

    def function(self, name: str) -> str:
        """The name by which a function is counted: of pynvml or a C symbol of any version.

        Raises RequestError, which names the nearest.
        """
        known = self._all()
        plain = re.sub(r"(_v[0-9]+|WithFlags)$", "", name)
        for candidate in (name, plain, plain.removesuffix("V"), f"nvml{plain}"):
            if candidate in known:
                return candidate
        raise RequestError(f"no function {name!r} to steer; {_nearest(name, known)}")

    def show(self) -> str:
        """What there is, for a person: GPUs, instances, who uses them, what is armed."""
        lines = []
        instances, clients = self.instances(), self.clients()
        for gpu, model, scheme in zip(self.gpus(), self.models, self.schemes, strict=True):
            mode = "on" if gpu.mig_current else "off"
            if gpu.mig_current != gpu.mig_pending:
                mode += ", {} pending".format("on" if gpu.mig_pending else "off")
            ids = f", GI ids {scheme}" if scheme else ""
            lines.append(f"GPU {gpu.gpu}: {gpu.key} ({gpu.uuid}), MIG {mode}{ids}")
            lines += [f"  {line}" for line in model.trust()]
            for gi in instances:
                if gi.gpu != gpu.gpu:
                    continue
                lines.append(f"  GI {gi.id}: {gi.profile} at {gi.placement}")
                lines += [
                    f"    CI {ci.id}: profile {ci.profile_id} at {ci.placement}, {ci.uuid}"
                    for ci in gi.compute
                ]
            for client in clients:
                if client.gpu == gpu.gpu:
                    where = "" if client.gi is None else f" GI {client.gi} CI {client.ci}"
                    lines.append(f"  process {client.pid} uses{where or ' the GPU'}")
        lines += [f"{function}: {what}" for function, what in self.faults().items()]
        made, destroyed, lost, left = self.counts()
        lines.append(f"instances: {made} made, {destroyed} destroyed, {lost} lost, {left} left")
        return "\n".join(lines) + "\n"

    # ---- inside ----

    def _all(self) -> list[str]:
        names = []
        index = 0
        while name := self._driver.slurmMigSimFunctionName(index):
            names.append(name.decode())
            index += 1
        return names

    def _rows(self, *kinds: str) -> list[list[str]]:
        size = 1 << 16
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._driver.slurmMigSimShow(buffer, size)
            if length < 0:
                raise SlurmMigError(f"the state of the simulation {self.directory} is not readable")
            if length < size:
                break
            size = 2 * length
        rows = [line.split() for line in buffer.value.decode().splitlines()]
        return [row for row in rows if row[0] in kinds]

    def _check(self, what: str, code: int) -> None:
        if code:
            name = _NAMES.get(code, str(code))
            raise SlurmMigError(f"simulation {self.directory}: cannot {what}: {name}")


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0)
    return f"the nearest is {near[0]}"
