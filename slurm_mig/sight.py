"""What the driver shows, and which of it is whose: the ledger's rows held against the GPUs.

Core, but decides nothing. NVML is the truth about what exists, the ledger about who owns what. A GI
that no row matches was made by somebody else.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from slurm_mig import chosen
from slurm_mig.errors import NodeFault
from slurm_mig.instances import Gi, Gpu
from slurm_mig.ledger import QUARANTINED, Entry, same_life
from slurm_mig.nvml import Driver
from slurm_mig.profiles import Geometry


@dataclass(frozen=True, slots=True)
class GpuView:
    """One GPU as it is now: what lives on it, and whose it is (None: somebody else's)."""

    gpu: Gpu
    geometry: Geometry | None  # None: not in MIG mode
    instances: tuple[tuple[Gi, Entry | None], ...]
    pending: tuple[Entry, ...]  # in the ledger, not (or no longer) on the GPU
    whole: bool = False  # [gpus] mig leaves it out: never partitioned


class Sight:
    """A node's GPUs as they were when the process began, and what lives on them now.

    `life` is that of the driver (`Devices.life`), `minors` what `[gpus] mig` names (None: all),
    `begun` whether the driver was ever asked for a row, by job and id (`Handover.begun`).
    """

    def __init__(
        self,
        driver: Driver,
        life: str,
        minors: tuple[int, ...] | None,
        begun: Callable[[int, int], bool],
    ) -> None:
        self._driver, self._minors, self._begun = driver, minors, begun
        self.life = life
        self.gpus = driver.gpus()
        self.lost = tuple(driver.lost)  # GPUs that fell off the bus, a sentence each

    def gpu(self, uuid: str) -> Gpu:
        """One GPU. Raises NodeFault when the driver shows it no more."""
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        why = f" ({'; '.join(self.lost)})" if self.lost else ""
        raise NodeFault(
            f"{uuid}: the driver shows this GPU no more{why}; look at dmesg for Xid errors"
        )

    def named(self, gpu: Gpu) -> bool:
        """Whether the settings let this GPU be partitioned."""
        return chosen.named(gpu, self._minors)

    def gis(self, gpu: Gpu, *, with_cis: bool = True) -> list[Gi]:
        """What lives on a GPU; out of MIG mode, nothing can."""
        return self._driver.instances(gpu, with_cis=with_cis) if gpu.mig else []

    def view(self, gpu: Gpu, entries: Iterable[Entry]) -> GpuView:
        """One GPU with what lives on it, held against these rows."""
        mine = [entry for entry in entries if entry.wish.gpu == gpu.uuid]
        gis = self.gis(gpu)
        pairs = tuple((gi, next((e for e in mine if self.owns(e, gi)), None)) for gi in gis)
        shown = {entry.id for _, entry in pairs if entry is not None}
        missing = tuple(entry for entry in mine if entry.id not in shown)
        geometry = self._driver.geometry(gpu) if gpu.mig else None
        return GpuView(gpu, geometry, pairs, missing, whole=not self.named(gpu))

    def now(self, entry: Entry) -> bool:
        """Whether the entry is of this life of the driver: no instance outlives it."""
        return same_life(entry.boot, self.life)

    def owns(self, entry: Entry, gi: Gi) -> bool:
        """Whether this GI is the one of the entry.

        An intent has no id yet: its placement was free when it was written, so once the driver was
        asked for it, a GI of that very profile and placement is what the intent made. Before, it is
        somebody else's, made after a Prolog was killed on the way there. Other UUIDs mean that
        somebody made it anew; the same ones mean nothing, since some drivers derive them from the
        place.
        """
        uuids = {ci.uuid for ci in gi.cis}
        return (
            self.now(entry)
            and entry.gi in (None, gi.id)
            and entry.wish.profile_id == gi.profile_id
            and entry.wish.placement == gi.placement
            and (not entry.uuids or not uuids or not uuids.isdisjoint(entry.uuids))
            and self.begun(entry)
        )

    def begun(self, entry: Entry) -> bool:
        """Whether the driver was ever asked for what the entry wants.

        Also where the job's folder, and the note in it, went before what is quarantined: nothing
        is that was not begun (teardown.py).
        """
        return (
            entry.gi is not None or entry.state == QUARANTINED or self._begun(entry.job, entry.id)
        )

    def find(self, entry: Entry) -> Gi | None:
        """The entry's GI. Raises NodeFault where the driver cannot say that there is none."""
        if not self.now(entry):
            return None  # what is there now is not ours
        gpu = self.gpu(entry.wish.gpu)
        # GIs are looked for by profile, so one of a profile that the driver left out this time
        # would look gone. Out of MIG mode (not: without one) nothing lives.
        if gpu.mig is None or (
            gpu.mig and self._driver.geometry(gpu).profile_by_id(entry.wish.profile_id) is None
        ):
            raise NodeFault(
                f"{gpu.uuid}: the driver does not report MIG profile {entry.wish.profile_id} now, "
                "so it cannot be seen what is there; look at dmesg for Xid errors"
            )
        return next((gi for gi in self.gis(gpu) if self.owns(entry, gi)), None)
