"""systemd's units and tmpfiles.d, read strictly: known sections and keys, the right order.

The same files pass `systemd-analyze verify` (252), which a machine that runs tests need not have.
"""

import re
from pathlib import Path

import pytest
from rendering import TWO_GROUPS, described, files, text

from slurm_mig.description import Description
from slurm_mig.handover import Handover
from slurm_mig.ledger import Ledger

#: Every key that our units use, by section (systemd.unit(5), .service(5), .timer(5), .exec(5)).
_KEYS = {
    "Unit": {"Description", "After", "Before", "Wants", "ConditionPathExists"},
    "Service": {
        *("Type", "RemainAfterExit", "ExecStart", "TimeoutStartSec", "SuccessExitStatus"),
        *("UMask", "NoNewPrivileges", "ProtectHome", "ProtectControlGroups"),
        *("LockPersonality", "RestrictRealtime"),
    },
    "Timer": {"OnActiveSec", "OnUnitInactiveSec", "RandomizedDelaySec"},
    "Install": {"WantedBy"},
}
_BOOT = "systemd/slurm-mig-boot.service"
_RECONCILE = "systemd/slurm-mig-reconcile.service"
_TIMER = "systemd/slurm-mig-reconcile.timer"
_DROP_IN = "systemd/slurmd.service.d/slurm-mig.conf"


def unit(description: Description, name: str) -> dict[str, dict[str, list[str]]]:
    """A unit as {section: {key: values}}."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in text(description, name).splitlines():
        if line.startswith("#") or not line:
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
            assert section not in found
            found[section] = {}
            continue
        key, equals, value = line.partition("=")
        assert equals
        assert key in _KEYS[section]
        assert value == value.strip() != ""
        assert "%" not in value
        assert not value.endswith("\\")
        found[section].setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", [_BOOT, _RECONCILE, _TIMER, _DROP_IN])
def test_units_have_known_keys(name: str) -> None:
    """Only sections and keys that systemd has; the name of the file says which sections."""
    sections = {
        ".service": {"Unit", "Service"},
        ".timer": {"Unit", "Timer", "Install"},
        ".conf": {"Unit"},
    }
    assert set(unit(described(), name)) == sections[Path(name).suffix]
    assert files(described())[name].install == "/etc/systemd/system/" + name.split("/", 1)[1]


def test_boot_unit_runs_before_slurmd_and_cannot_keep_it_from_starting() -> None:
    """Slurmd wants it and starts after it, without requiring it; it ends by itself or by time."""
    boot = unit(described(), _BOOT)
    assert "slurmd.service" in boot["Unit"]["Before"][0].split()
    assert "nvidia-persistenced.service" in boot["Unit"]["After"][0].split()
    assert boot["Service"]["Type"] == ["oneshot"]
    assert boot["Service"]["RemainAfterExit"] == ["yes"]
    assert boot["Service"]["TimeoutStartSec"] == ["10min"]
    drop_in = unit(described(), _DROP_IN)
    assert drop_in == {
        "Unit": {"Wants": ["slurm-mig-boot.service"], "After": ["slurm-mig-boot.service"]}
    }


def test_boot_unit_clears_and_sets_up() -> None:
    """First what a reboot ended, whose failure is let pass, then MIG mode, whose failure shows."""
    program, config = "/opt/slurm-mig/bin/slurm-mig", "--config /etc/slurm-mig/config.toml"
    assert unit(described(), _BOOT)["Service"]["ExecStart"] == [
        f"-{program} reconcile {config} --offline",
        f"{program} node-setup {config}",
    ]
    assert unit(described(), _RECONCILE)["Service"]["ExecStart"] == [
        f"{program} reconcile {config}"
    ]


def test_paths_of_the_site() -> None:
    """[install] of the description is where the units look."""
    toml = TWO_GROUPS + '[install]\ndirectory = "/srv/mig"\nprogram = "/usr/local/bin/slurm-mig"\n'
    for name in (_BOOT, _RECONCILE):
        found = unit(described(toml), name)
        assert found["Unit"]["ConditionPathExists"] == ["/srv/mig/config.toml"]
        for command in found["Service"]["ExecStart"]:
            assert command.lstrip("-").startswith("/usr/local/bin/slurm-mig ")
            assert " --config /srv/mig/config.toml" in command


@pytest.mark.parametrize(("nodes", "minutes"), [(2, 5), (300, 5), (301, 6), (10000, 167)])
def test_timer_spares_slurmctld(nodes: int, minutes: int) -> None:
    """Every node asks each 5 minutes, but all together not more than once a second."""
    toml = (
        '[slurm]\nrelease = "24.11"\n[layout]\ndefault = "whole"\n'
        f'[nodes.n]\nhosts = "n[1-{nodes}]"\ngpus = "A30-24GB:1"\n'
    )
    timer = unit(described(toml), _TIMER)["Timer"]
    assert timer["OnUnitInactiveSec"] == timer["OnActiveSec"] == [f"{minutes}min"]
    assert minutes * 60 >= nodes
    assert timer["RandomizedDelaySec"] == [f"{-(-minutes // 2)}min"]


def test_timer_is_the_reconcile_services() -> None:
    """A timer starts the service of its own name."""
    assert _TIMER.removesuffix(".timer") == _RECONCILE.removesuffix(".service")
    assert unit(described(), _TIMER)["Install"] == {"WantedBy": ["timers.target"]}


def tmpfiles(description: Description) -> dict[str, int]:
    """The folders of tmpfiles.d, all of root's: {path: mode}."""
    found = {}
    for line in text(description, "tmpfiles.d/slurm-mig.conf").splitlines():
        if not line.startswith("#"):
            kind, path, mode, user, group, age = line.split()
            assert (kind, user, group, age) == ("d", "root", "root", "-")
            found[path] = int(mode, 8)
    return found


def test_tmpfiles_are_the_settings_folders() -> None:
    """State and run directories are those of the nodes' settings."""
    toml = TWO_GROUPS + '[node.state]\ndirectory = "/srv/state"\nrun_directory = "/run/mig"\n'
    assert tmpfiles(described(toml)) == {
        "/srv/state": 0o700,
        "/run/mig": 0o755,
        "/run/mig/jobs": 0o755,
    }


def test_tmpfiles_modes_are_those_that_slurm_mig_makes(tmp_path: Path) -> None:
    """The ledger and the hand-over, which make the folders where tmpfiles.d did not, agree."""
    state, run = tmp_path / "state", tmp_path / "run"
    Ledger(state).close()
    Handover(run).open(7)
    modes = tmpfiles(described())
    assert state.stat().st_mode & 0o7777 == modes["/var/lib/slurm-mig"]
    assert run.stat().st_mode & 0o7777 == modes["/run/slurm-mig"]
    assert (run / "jobs").stat().st_mode & 0o7777 == modes["/run/slurm-mig/jobs"]
