"""What the checks look at: settings, driver, Slurm, the cluster's description; each read once.

What cannot be read is remembered as the error it gave, and a check that needs it is not run.
"""

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from slurm_mig import clusterfile, configfile, slurm_config
from slurm_mig.description import Description
from slurm_mig.devices import Devices
from slurm_mig.doctor.finding import CLUSTER, CONFIG, DRIVER, SLURM
from slurm_mig.doctor.probe import Probe
from slurm_mig.errors import NodeFault, SlurmMigError
from slurm_mig.instances import Gpu
from slurm_mig.nvml import Driver
from slurm_mig.settings import Settings, parse
from slurm_mig.slurm import ScontrolClient
from slurm_mig.slurm_config import SlurmConfig

#: Doctor waits no longer than this for slurmctld, whatever [slurm] timeout lets a Prolog wait.
SLURM_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Slurm:
    """The Slurm of this host: its commands, release and configuration."""

    client: ScontrolClient
    version: tuple[int, int, int]
    config: SlurmConfig


@dataclass
class Context:
    """One host. `config` and `cluster` are paths, None for the default one, which may be missing.

    `node` is this host's name in Slurm. The cached properties raise SlurmMigError.
    """

    config: Path | None
    cluster: Path | None
    node: str
    probe: Probe
    roles: frozenset[str] = frozenset()
    root: Path = Path("/")  # what rendered files are installed below
    _open: ExitStack = field(default_factory=ExitStack)
    _errors: dict[str, str] = field(default_factory=dict)

    @property
    def config_path(self) -> Path:
        """The node's configuration file."""
        return (self.config or configfile.DEFAULT).absolute()

    @property
    def cluster_path(self) -> Path:
        """The cluster's description."""
        return (self.cluster or clusterfile.DEFAULT).absolute()

    @cached_property
    def settings(self) -> Settings:
        """The node's settings. Raises ConfigError."""
        return configfile.load(self.config)

    @cached_property
    def any_settings(self) -> Settings:
        """The node's settings; on a controller, which has none, those that all nodes are given.

        Never fails: what is wrong with the files is a finding of its own, and Slurm's commands are
        likely where they are by default.
        """
        with suppress(SlurmMigError):
            if self.config_path.exists():
                return self.settings
        with suppress(SlurmMigError):
            if self.description is not None:
                return self.description.settings
        return parse(())

    @cached_property
    def devices(self) -> Devices:
        """The driver's trees."""
        return Devices(Path(self.settings.driver_root))

    @cached_property
    def driver(self) -> Driver:
        """The open driver. Raises NodeFault."""
        return self._open.enter_context(Driver(self.settings.driver_library))

    @cached_property
    def gpus(self) -> list[Gpu]:
        """The GPUs that the driver shows; those it lost are in `driver.lost`."""
        return self.driver.gpus()

    @cached_property
    def slurm(self) -> Slurm:
        """Slurm, asked twice. Raises SlurmUnavailable, NodeFault."""
        settings = self.any_settings
        client = ScontrolClient(settings.slurm_scontrol, min(settings.slurm_timeout, SLURM_SECONDS))
        said = client.version()
        version = slurm_config.release(said)
        if version is None:
            raise NodeFault(f"{settings.slurm_scontrol} --version: no release in {said!r}")
        return Slurm(client, version, slurm_config.parse(client.config()))

    @cached_property
    def description(self) -> Description | None:
        """The cluster's description; None where there is none. Raises ConfigError."""
        if self.cluster is None and not self.cluster_path.exists():
            return None
        return clusterfile.load(self.cluster_path)

    def missing(self, need: str) -> str:
        """Why something that a check needs is not there, "" if it is."""
        if need not in self._errors:
            try:
                if need == CONFIG:
                    _ = self.settings
                elif need == DRIVER:
                    _ = self.gpus
                elif need == SLURM:
                    _ = self.slurm
                elif need == CLUSTER:
                    _ = self.description
                self._errors[need] = ""
            except SlurmMigError as error:
                self._errors[need] = str(error)
        return self._errors[need]

    def close(self) -> None:
        """Let go of the driver."""
        self._open.close()
