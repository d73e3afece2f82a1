"""Writes slurm.conf, gres.conf and cgroup.conf of a throwaway cluster. Text only, no processes.

Of a rendered cluster, somebody else has written what concerns `mig`: a fragment that slurm.conf
includes, and gres.conf. Then this writes the site's own slurm.conf around it, without the keys that
the fragment sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Node:
    """A simulated node: what it offers and which hooks its slurmd runs.

    `gres` maps a type of `mig` to a count: `{"3g.20gb": 2, "1g.5gb": 4}`; a node without any has
    no `mig` at all. Hooks are absolute paths; `conf` is added to this node's slurm.conf only.
    """

    name: str
    gres: Mapping[str, int] = field(default_factory=dict)
    prolog: Path | str | None = None
    epilog: Path | str | None = None
    task_prolog: Path | str | None = None
    cpus: int = 64
    conf: str = ""

    @property
    def gres_string(self) -> str:
        """The node's GRES as slurm.conf wants it: `mig:3g.20gb:2,mig:1g.5gb:4`."""
        return ",".join(f"mig:{kind}:{count}" for kind, count in self.gres.items())


#: Where in the cluster's folder its cgroups are mounted, and of which controllers it has some.
CGROUPS = "cgroup"
CONTROLLERS = ("devices", "freezer")

#: The rendered fragment that slurm.conf includes; its other files lie beside it.
FRAGMENT = "slurm-mig.conf"


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback TCP ports: the controller's and one for each node."""

    controller: int
    nodes: tuple[int, ...]


def slurm_conf(
    folder: Path,
    nodes: Sequence[Node],
    ports: Ports,
    *,
    hostname: str,
    hostname_is_loopback: bool,
    release: tuple[int, int],
    prolog_flags: str,
    requeue_delay: int,
    extra_conf: str,
    node: Node | None = None,
    constrain_devices: bool = False,
    fragment: str | None = None,
) -> str:
    """Return the text of slurm.conf: the shared one, or that of `node` with its own hooks.

    `hostname_is_loopback`: the host's name resolves to 127.0.0.1, so that Slurm can be told to
    listen there only. `fragment` is the text of a rendered FRAGMENT, which is included from
    `folder`/etc and brings the nodes, hooks, PrologFlags and timeouts; else they are written here.
    What it or `extra_conf` sets is not said twice.
    """
    timeout = "PrologEpilogTimeout" if release < (25, 5) else "PrologTimeout"
    lines = [
        "ClusterName=rehearsal",
        f"SlurmctldHost={hostname}(127.0.0.1)",
        f"SlurmctldPort={ports.controller}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        # The life of a credential is also how long Slurm waits before it starts a requeued job
        # again (default 120 s).
        f"AuthInfo=socket={folder}/munge/socket,cred_expire={requeue_delay}",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool/%n",
        f"SlurmctldPidFile={folder}/run/slurmctld.pid",
        f"SlurmdPidFile={folder}/run/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdLogFile={folder}/log/slurmd-%n.log",
        "SlurmctldDebug=verbose",
        "SlurmdDebug=verbose",
        f"ProctrackType=proctrack/{'cgroup' if constrain_devices else 'linuxproc'}",
        "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none",
        "JobCompType=jobcomp/none",
        "MpiDefault=none",
        "MailProg=/bin/true",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1",
        # A simulated node has more CPUs than this machine: believe the file.
        "SlurmdParameters=config_overrides",
        # Each node's file differs in its hooks.
        "DebugFlags=NO_CONF_HASH",
        "ReturnToService=2",
        "MessageTimeout=10",
        "SlurmctldTimeout=10",
        "SlurmdTimeout=20",
        "InactiveLimit=0",
        "KillWait=2",
        "UnkillableStepTimeout=50",  # Slurm wants five times MessageTimeout
        "WaitTime=0",
        "MinJobAge=300",
        "CompleteWait=0",
        "TCPTimeout=5",
        "LaunchParameters=use_interactive_step",
    ]
    if constrain_devices:
        lines.append("TaskPlugin=task/cgroup")
    if fragment is None:
        lines += ["GresTypes=mig", f"PrologFlags={prolog_flags}", f"{timeout}=60"]
        lines += ["EpilogTimeout=60"] if release >= (25, 5) else []
    if hostname_is_loopback:
        # Slurm can be told to bind to the address of the host's name and to no other; else it binds
        # to all addresses, and everything still connects through 127.0.0.1.
        lines.append("CommunicationParameters=NoInAddrAny,NoCtldInAddrAny")
    if node is not None:
        hooks = {"Prolog": node.prolog, "Epilog": node.epilog, "TaskProlog": node.task_prolog}
        lines += [f"{key}={path}" for key, path in hooks.items() if path is not None]
        lines += [node.conf] if node.conf else []
    set_elsewhere = keys(extra_conf) | keys(fragment or "")
    lines = [line for line in lines if not keys(line) & set_elsewhere]
    lines += [extra_conf] if extra_conf else []
    if fragment is not None:
        lines.append(f"Include {folder}/etc/{FRAGMENT}")
        nodes = ()
    for one, port in zip(nodes, ports.nodes if nodes else (), strict=True):
        gres = f" Gres={one.gres_string}" if one.gres else ""
        lines.append(
            f"NodeName={one.name} {place(hostname, port)} CPUs={one.cpus} State=UNKNOWN{gres}"
        )
    lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
    return "\n".join(lines) + "\n"


def place(hostname: str, port: int) -> str:
    """What a NodeName line says of where the node's slurmd listens."""
    return f"NodeHostname={hostname} NodeAddr=127.0.0.1 Port={port}"


def keys(text: str) -> set[str]:
    """The keys that lines of slurm.conf set, in lower case; only a line's first one counts."""
    return {line.partition("=")[0].strip().lower() for line in text.splitlines() if "=" in line}


def gres_conf(nodes: Sequence[Node]) -> str:
    """Return the text of gres.conf: counts only, no device files."""
    return "".join(
        f"NodeName={node.name} Name=mig Type={kind} Count={count} Flags=CountOnly\n"
        for node in nodes
        for kind, count in node.gres.items()
    )


def cgroup_conf(release: tuple[int, int], constrain_below: Path | None) -> str:
    """Return the text of cgroup.conf: no cgroups, which a container or CI may not have.

    With `constrain_below`, the folder of a cluster that has some: devices are constrained.
    """
    old = release < (23, 2)
    if constrain_below is None:
        return "CgroupAutomount=no\n" if old else "CgroupPlugin=disabled\n"
    lines = ["CgroupPlugin=cgroup/v1", f"CgroupMountpoint={constrain_below}/{CGROUPS}"]
    lines += ["CgroupAutomount=no"] if old else []
    return "\n".join([*lines, "ConstrainDevices=yes"]) + "\n"
