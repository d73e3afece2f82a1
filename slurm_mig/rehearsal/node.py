"""One rehearsed node: simulated GPUs, a configuration, and the hooks installed for them.

What an admin does on a real node, in one folder: write the TOML, run `slurm-mig hooks`, take the
counts for gres.conf from the layout. Only the driver underneath is simulated; the node's programs
find it by their configuration, as on a site with a containerised driver.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm_mig import configfile, hooks, table
from slurm_mig.layouts import layout
from slurm_mig.settings import LayoutSpec, Settings
from slurm_mig.simulator.handle import Simulation


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f'"{k}" = {_toml(v)}' for k, v in value.items()) + " }"
    return json.dumps(value)  # TOML's strings, numbers, booleans are written alike


@dataclass(frozen=True, slots=True)
class RehearsalNode:
    """A node in a folder; `promises` are the counts that gres.conf must state."""

    name: str
    folder: Path
    simulation: Simulation
    config: Path
    promises: dict[str, int]

    @property
    def settings(self) -> Settings:
        """The effective settings."""
        return configfile.load(self.config)

    @property
    def prolog(self) -> Path:
        """The installed Prolog."""
        return self.folder / "hooks" / hooks.PROLOG

    @property
    def task_prolog(self) -> Path:
        """The installed TaskProlog."""
        return self.folder / "hooks" / hooks.TASK_PROLOG

    @property
    def epilog(self) -> Path:
        """The installed Epilog."""
        return self.folder / "hooks" / hooks.EPILOG

    @property
    def run_directory(self) -> Path:
        """What the task prolog reads."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        """Where the hooks write their lines."""
        return self.folder / "log"

    @classmethod
    def create(
        cls,
        folder: Path,
        name: str,
        gpus: Sequence[str],
        *,
        scontrol: Path | str,
        layout_spec: LayoutSpec | None = "balanced",
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        **simulation: Any,
    ) -> "RehearsalNode":
        """Make the node in `folder`, which is made too.

        `gpus` as for `sim create` (`A100-SXM4-40GB:2`); `settings` are sections of the TOML that
        replace the node's own keys; further keywords go to Simulation.create.
        """
        folder.mkdir(mode=0o755, parents=True)
        # Only root may hand devices to users, or be the one whom a real driver lets make instances.
        devices = "owner" if os.geteuid() == 0 else "none"
        simulation.setdefault("privileged_uid", os.geteuid())
        simulated = Simulation.create(folder / "sim", gpus, **simulation)
        sections: dict[str, dict[str, Any]] = {
            "driver": {"library": str(simulated.library), "root": str(simulated.root)},
            "state": {"directory": str(folder / "state"), "run_directory": str(folder / "run")},
            "slurm": {"scontrol": str(scontrol), "client": "scontrol", "timeout": 10},
            "isolation": {"devices": devices},
            "log": {"to": str(folder / "log")},
        }
        if layout_spec is not None:
            sections["layout"] = {"default": layout_spec}
        for section, keys in (settings or {}).items():
            sections.setdefault(section, {}).update(keys)
        config = folder / "config.toml"
        lines = []
        for section, keys in sections.items():
            lines += [f"[{section}]", *(f'"{k}" = {_toml(v)}' for k, v in keys.items()), ""]
        config.write_text("\n".join(lines))
        config.chmod(0o644)
        effective = configfile.load(config)
        hooks.install(folder / "hooks", effective, config)
        promises: Counter[str] = Counter()
        for spec in gpus:
            model, _, number = spec.partition(":")
            entry = table.find(model)
            wanted = effective.layout_of(entry.nvml_names[0])
            for _ in range(int(number or 1)):
                promises.update(layout(entry.geometry, wanted) if wanted else {})
        return cls(name, folder, simulated, config, dict(promises))
