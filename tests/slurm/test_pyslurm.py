"""The pyslurm client against a stand-in of pyslurm 25.11's documented interface.

pyslurm on PyPI builds only against Slurm 25.11, so the real one cannot be had here. The stand-in
has what its documentation says and no more; what the real one gets wrong for our GRES fails in it.
"""

import sys
from types import ModuleType
from typing import Any

import pytest

from slurm_mig.slurm import (
    JobRecord,
    JobUnknown,
    NodeRecord,
    SlurmRefused,
    SlurmUnavailable,
    client,
)
from slurm_mig.slurm_py import PyslurmClient


class RPCError(Exception):
    """As pyslurm.RPCError: an errno and a message."""

    def __init__(self, errno: int = -1, msg: str | None = None) -> None:
        super().__init__(msg)
        self.errno, self.msg = errno, msg


class World:
    """What the stand-in's calls did, which error each raises, and which jobs there are."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.errors: dict[str, str] = {}
        self.jobs: dict[int, tuple[str, str | None]] = {}

    def act(self, name: str, *arguments: Any) -> None:
        """Note a call, or raise its error."""
        if name in self.errors:
            raise RPCError(msg=self.errors[name])
        self.done.append((name, *arguments))


def module(world: World) -> ModuleType:
    """Build the stand-in."""

    class JobSubmitDescription:
        def __init__(self, **values: Any) -> None:
            self.values = values

    class Job:
        def __init__(self, job_id: int) -> None:
            self.id = job_id

        @property
        def state(self) -> str:
            return world.jobs[self.id][0]

        @property
        def allocated_nodes(self) -> str | None:
            return world.jobs[self.id][1]

        @property
        def gres(self) -> dict[str, int]:
            raise AssertionError("empty unless AccountingStorageTRES lists the type")

        def get_resource_layout_per_node(self) -> dict[str, Any]:
            raise ValueError("invalid literal for int() with base 10: 'CNT'")

        def requeue(self, hold: bool = False) -> None:
            world.act("requeue", self.id, hold)

        def hold(self, mode: str | None = None) -> None:
            world.act("hold", self.id, mode)

        def cancel(self) -> None:
            world.act("cancel", self.id)

        def notify(self, msg: str) -> None:
            world.act("notify", self.id, msg)

        def modify(self, changes: JobSubmitDescription) -> None:
            assert isinstance(changes, JobSubmitDescription)
            world.act("modify", self.id, changes.values)

    class Jobs(dict):  # type: ignore[type-arg]
        @staticmethod
        def load(preload_passwd_info: bool = False, frozen: bool = False) -> "Jobs":
            world.act("load")
            return Jobs({job_id: Job(job_id) for job_id in world.jobs})

    class Node:
        def __init__(self, name: str | None = None, **values: Any) -> None:
            self.name, self.values = name, values

        @property
        def configured_gres(self) -> dict[str, int]:
            raise AssertionError("not to be trusted")

        def modify(self, changes: "Node") -> None:
            assert isinstance(changes, Node)
            world.act("node", self.name, changes.values)

    made = ModuleType("pyslurm")
    for one in (JobSubmitDescription, Job, Jobs, Node, RPCError):
        setattr(made, one.__name__, one)
    return made


class Commands:
    """The command line's part: records."""

    def __init__(self) -> None:
        self.state = "RUNNING"
        self.node_state = "IDLE+DRAIN"

    def job(self, job_id: int, node: str) -> JobRecord:
        """Return a record whose state a test sets."""
        return JobRecord(
            job_id, 0, True, True, 0, 1, self.state, "mig:3g.20gb(CNT:1)", (node,), "", "", "", 0,
            None, 0,
        )  # fmt: skip

    def node(self, name: str) -> NodeRecord:
        """Return a record whose state a test sets."""
        return NodeRecord(name, self.node_state, "mig:3g.20gb:2", "", "", "")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """The stand-in's memory; `import pyslurm` finds the stand-in."""
    made = World()
    monkeypatch.setitem(sys.modules, "pyslurm", module(made))
    return made


@pytest.fixture
def commands() -> Commands:
    """The command line's part."""
    return Commands()


@pytest.fixture
def slurm(world: World, commands: Commands) -> PyslurmClient:
    """The client under test."""
    return PyslurmClient(commands)  # type: ignore[arg-type]


def test_chosen_where_it_pays(world: World) -> None:
    """`auto` takes pyslurm in long-lived processes only; "pyslurm" always."""

    def chosen(kind: str, long_lived: bool) -> bool:
        made = client(kind, scontrol="/usr/bin/scontrol", timeout=1, long_lived=long_lived)
        return isinstance(made, PyslurmClient)

    assert [chosen("auto", True), chosen("auto", False), chosen("pyslurm", False)] == [
        True,
        False,
        True,
    ]
    assert chosen("scontrol", True) is False


def test_a_broken_pyslurm_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pyslurm built for another Slurm fails to load: `auto` goes on without it."""

    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "pyslurm":
                raise OSError("libslurm.so.44: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "pyslurm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    made = client("auto", scontrol="/usr/bin/scontrol", timeout=1, long_lived=True)
    assert not isinstance(made, PyslurmClient)
    with pytest.raises(SlurmUnavailable, match=r"OSError: libslurm.so.44: .*; install the one"):
        client("pyslurm", scontrol="/usr/bin/scontrol", timeout=1, long_lived=True)


def test_what_pyslurm_gets_wrong_is_asked_of_scontrol(slurm: PyslurmClient, world: World) -> None:
    """GRES of a job and of a node come from the command line."""
    assert slurm.job(7, "n1").gres == "mig:3g.20gb(CNT:1)"
    assert slurm.node("n1").gres == "mig:3g.20gb:2"
    assert world.done == []


def test_jobs_on_a_node(slurm: PyslurmClient, world: World) -> None:
    """All jobs in one call; those that hold something on this very node."""
    world.jobs = {
        1: ("RUNNING", "n[1-3]"),
        2: ("COMPLETING", "n1"),
        3: ("PENDING", None),
        4: ("RUNNING", "n11"),
        5: ("COMPLETED", "n1"),
        6: ("CONFIGURING", "x,n1"),
    }
    assert slurm.jobs_on("n1") == {1, 2, 6}
    assert world.done == [("load",)]


def test_requeue_and_hold(slurm: PyslurmClient, world: World) -> None:
    """Hold sets the reason first, then requeues into held state."""
    slurm.requeue(7)
    slurm.hold(8, 'no "9g.99gb"\nhere')
    assert world.done == [
        ("requeue", 7, False),
        ("modify", 8, {"admin_comment": "no '9g.99gb'/x0ahere"}),
        ("requeue", 8, True),
    ]


def test_a_job_that_waits_already(slurm: PyslurmClient, world: World, commands: Commands) -> None:
    """Requeued by another node: requeue does nothing, hold holds; also if that happens just now."""
    commands.state = "PENDING"
    slurm.requeue(7)
    slurm.hold(7, "why")
    commands.state = "RUNNING"
    world.errors["requeue"] = "Job is pending execution"
    slurm.requeue(8)
    slurm.hold(8, "why")
    why = {"admin_comment": "why"}
    assert world.done == [
        ("modify", 7, why),
        ("hold", 7, None),
        ("modify", 8, why),
        ("hold", 8, None),
    ]


def test_a_job_that_is_over_is_not_brought_back(
    slurm: PyslurmClient, world: World, commands: Commands
) -> None:
    """As with the command line: requeue and hold of a cancelled job are refused."""
    commands.state = "CANCELLED+COMPLETING"
    for call in (lambda: slurm.requeue(7), lambda: slurm.hold(7, "why")):
        with pytest.raises(SlurmRefused, match=r"job 7: it is over \(CANCELLED\+COMPLETING\)"):
            call()
    assert world.done == []


@pytest.mark.parametrize("call", ["modify", "cancel"])
@pytest.mark.parametrize("said", ["Invalid job id specified", "Job has already finished"])
def test_cancel_of_a_job_that_is_over(
    slurm: PyslurmClient, world: World, call: str, said: str
) -> None:
    """Ended or forgotten already is success."""
    world.errors[call] = said
    slurm.cancel(7, "why")
    assert ("cancel", 7) not in world.done


def test_cancel_and_notify(slurm: PyslurmClient, world: World) -> None:
    """Cancel gives its reason; a message is one line."""
    slurm.notify(7, "a\nb")
    slurm.cancel(7, "why")
    assert world.done == [
        ("notify", 7, "a/x0ab"),
        ("modify", 7, {"admin_comment": "why"}),
        ("cancel", 7),
    ]


def test_drain_and_resume(slurm: PyslurmClient, world: World, commands: Commands) -> None:
    """Resume only what is drained."""
    slurm.drain("n1", "why")
    slurm.resume("n1")
    commands.node_state = "IDLE"
    slurm.resume("n1")
    assert world.done == [
        ("node", "n1", {"state": "DRAIN", "reason": "why"}),
        ("node", "n1", {"state": "RESUME"}),
    ]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Invalid job id specified", JobUnknown),
        ("Unable to contact slurm controller (connect failure)", SlurmUnavailable),
        ("Access/permission denied", SlurmRefused),
    ],
)
def test_errors_are_told_apart(
    slurm: PyslurmClient, world: World, said: str, error: type[Exception]
) -> None:
    """By what Slurm said: unknown, no answer, refused."""
    world.errors["notify"] = said
    with pytest.raises(error, match=r"^message to job 7: Slurm ") as caught:
        slurm.notify(7, "text")
    assert type(caught.value) is error
