"""Instances that will not die: held for a while, for ever, by whom, and what becomes of them.

On a clock that is wound on by whoever sleeps (sweeping.Clock): an Epilog that waits out its half a
minute takes milliseconds here.
"""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import invariants
import pytest
from hooking import Hooks
from partitioning import CREATE, CREATE_CI, DESTROY, DESTROY_CI
from sweeping import JOB, LIES, NAMED, OTHERS, Bench, Outcome

from slurm_mig import teardown
from slurm_mig.driver_errors import PASSING
from slurm_mig.errors import NodeFault
from slurm_mig.handover import Handover
from slurm_mig.nvml import Driver
from slurm_mig.profiles import Placement
from slurm_mig.simulator.records import ERRORS

BUDGET = 30


@pytest.fixture
def new_bench(
    new_hooks: Callable[..., Hooks], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Bench]:
    """Makes a node: `new_bench("A100-SXM4-40GB:2", layout="balanced", drain=True)`."""

    def make(*gpus: str, drain: bool = False, **options: Any) -> Bench:
        epilog = {"budget": BUDGET, "drain": drain}
        hooks = new_hooks(*gpus, slurm={"request": "token"}, epilog=epilog, **options)
        return Bench(hooks, monkeypatch)

    return make


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Ends the clients that a test has started, at the latest when it is over."""
    with ExitStack() as stack:
        yield stack


def _who(pid: int) -> str:
    """How an error message names a process of ours."""
    name = Path(f"/proc/{pid}/comm").read_text().removesuffix("\n")
    return f"pid {pid} ({name}, user {pwd.getpwuid(os.getuid()).pw_name})"


def _uuids(bench: Bench, job: int = JOB) -> list[str]:
    """The MIG devices of a job."""
    rows = [row for row in invariants.rows(bench.node) if row.job == job]
    return [uuid for row in rows for uuid in row.uuids]


def _end_at(bench: Bench, client: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Kill a client so many seconds from now."""
    end = bench.clock.now + seconds

    def look(now: float) -> None:
        # Before a nap that would sleep over the end: the client ends during that nap.
        if now < end + 1:
            bench.clock.before_nap = look
        if client.poll() is None and now + 1e-9 >= end:
            client.kill()
            client.wait()

    bench.clock.before_nap = look


# -- held for a while ---------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.01, 0.3, 2, 11.5, BUDGET - 1.01])
def test_held_for_a_while(new_bench: Any, clients: ExitStack, seconds: float) -> None:
    """A client that ends within the budget delays the removal until a second after, no longer."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    client = clients.enter_context(bench.sim.client(_uuids(bench)[0]))
    began = bench.clock.now
    _end_at(bench, client, seconds)
    assert bench.epilog(JOB) == (0, "")
    bench.settled()
    naps = bench.clock.naps
    assert naps[:-1] == sorted(naps[:-1])  # the last may be cut off by the budget's end
    assert max(naps) <= 1
    assert bench.clock.now - began <= seconds + 2
    # No busy waiting: the intervals double, so there are few of them.
    assert len(naps) <= 6 + seconds


@pytest.mark.parametrize("seconds", [BUDGET - 0.5, BUDGET - 0.01])
def test_released_at_the_last_moment(new_bench: Any, clients: ExitStack, seconds: float) -> None:
    """The last attempt is at the end of the budget, not an interval before it."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    client = clients.enter_context(bench.sim.client(_uuids(bench)[0]))
    began = bench.clock.now
    slept = bench.clock.sleep

    def sleep(time: float) -> None:
        slept(time)
        if client.poll() is None and bench.clock.now - began >= seconds:
            client.kill()
            client.wait()

    bench.clock.sleep = sleep
    assert bench.epilog(JOB) == (0, "")
    assert seconds <= bench.clock.now - began < BUDGET + 0.001
    bench.settled()


# -- held for ever ------------------------------------------------------------------------------


@pytest.mark.parametrize("drain", [False, True])
def test_held_for_ever(new_bench: Any, clients: ExitStack, drain: bool) -> None:
    """After the budget it is quarantined and its holder named; the exit says whether to drain."""
    bench = new_bench(drain=drain)
    bench.start(1, "1g.5gb")
    assert bench.prolog(JOB, "3g.20gb", "1g.5gb") == (0, "")
    seen = invariants.look(bench.node)
    (row,) = (row for row in seen.rows if row.profile == "3g.20gb")
    client = clients.enter_context(bench.sim.client(row.uuids[0]))
    began = bench.clock.now
    assert bench.epilog(JOB) == Outcome(
        int(drain),
        f"slurm-mig: quarantined: {row.gpu} 3g.20gb at {row.start}:{row.size} of job {JOB}: in use "
        f"by {_who(client.pid)} after {BUDGET} s; stop them, then run: slurm-mig reconcile",
    )
    assert bench.clock.now - began == pytest.approx(BUDGET)
    assert len(bench.clock.naps) < 6 + BUDGET
    # The job's other instance went, and its folder.
    bench.settled(quarantined=[JOB])
    rows = [row for row in invariants.rows(bench.node) if row.job == JOB]
    assert [(row.profile, row.state) for row in rows] == [("3g.20gb", "quarantined")]
    # Nobody can open it any more, but for root.
    if bench.node.settings.isolation_devices == "owner":
        (stuck,) = (i for i in bench.sim.instances() if i.profile == "3g.20gb")
        nodes = invariants._nodes(bench.node, stuck)
        assert {(s.st_uid, s.st_mode & 0o777) for _, s in nodes} == {(0, 0)}


def test_quarantine_is_offered_to_nobody(new_bench: Any, clients: ExitStack) -> None:
    """Its place is given to nobody, the other promises are kept, and it is mended when released."""
    bench = new_bench("A100-SXM4-40GB", layout="balanced")
    assert bench.node.promises == {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    client = clients.enter_context(bench.sim.client(_uuids(bench)[0]))
    assert bench.epilog(JOB).said.startswith("slurm-mig: quarantined: ")
    (held,) = bench.sim.instances()
    # Slurm, which does not know, sends another one for the promise: a miss, and nothing is made.
    assert bench.prolog(8, "3g.20gb") == (0, "")
    bench.settled(refused=[8], quarantined=[JOB])
    assert bench.hooks.asked()[-1].startswith("scontrol requeue 8")
    assert bench.epilog(8) == (0, "")
    # Every other promise is kept, in any order of asking.
    for job, profile in ((1, "1g.5gb"), (2, "2g.10gb"), (3, "1g.5gb")):
        bench.start(job, profile)
    bench.settled(quarantined=[JOB])
    # Every process so far was another one, and reconcile tries again: it stays as it is.
    for _ in range(3):
        before = len(bench.clock.naps)
        status, report, _ = bench.reconcile()
        assert status == 3
        (stuck,) = report["stuck"]
        assert f"in use by {_who(client.pid)}; stop them" in stuck
        assert len(bench.clock.naps) == before  # it had its budget
        assert held in bench.sim.instances()
        bench.settled(quarantined=[JOB])
    client.kill()
    client.wait()
    bench.mended()
    bench.start(9, "3g.20gb")
    bench.settled()


def test_quarantine_survives_restarts(new_bench: Any, clients: ExitStack) -> None:
    """What the commands and the hooks of later processes see is the same, until a reboot."""
    bench = new_bench()
    assert bench.prolog(JOB, "7g.40gb") == (0, "")
    client = clients.enter_context(bench.sim.client(_uuids(bench)[0]))
    reason = bench.epilog(JOB).said.removeprefix("slurm-mig: quarantined: ")
    shown = subprocess.run(
        [sys.executable, "-m", "slurm_mig.cli.main", "status", "-c", bench.node.config, "--json"],
        capture_output=True,
        text=True,
    )
    (instance,) = json.loads(shown.stdout)["gpus"][0]["instances"]
    assert (shown.returncode, instance["state"], instance["job"]) == (3, "quarantined", JOB)
    assert instance["reason"] == reason
    # Hooks as slurmd runs them: there is no room for the next job, and it is sent away.
    assert bench.hooks.prolog(8, extra="slurm-mig/1:1g.5gb=1;").rc == 0
    bench.settled(refused=[8], quarantined=[JOB])
    assert bench.hooks.epilog(8).rc == 0
    assert bench.hooks.epilog(JOB).rc == 0  # Slurm repeats it after its own restart
    bench.settled(quarantined=[JOB])
    client.kill()
    client.wait()
    bench.sim.reboot()
    status, report, _ = bench.reconcile()
    assert (status, len(report["mended"])) == (0, 1)
    bench.settled()
    bench.start(9, "7g.40gb")


def test_reconcile_has_one_budget(new_bench: Any, clients: ExitStack) -> None:
    """However many instances of ended jobs are held, reconcile ends within one Epilog's budget."""
    bench = new_bench()
    for job in (JOB, JOB + 1, JOB + 2):
        assert bench.prolog(job, "1g.5gb") == (0, "")
        clients.enter_context(bench.sim.client(_uuids(bench, job)[0]))
    assert bench.prolog(JOB + 3, "1g.5gb") == (0, "")
    began = bench.clock.now
    status, report, _ = bench.reconcile()
    assert (status, len(report["stuck"]), len(report["mended"])) == (3, 3, 1)
    assert bench.clock.now - began == pytest.approx(BUDGET)
    bench.settled(quarantined=[JOB, JOB + 1, JOB + 2])
    clients.close()
    bench.mended()


def test_several_held_at_once_have_one_budget(new_bench: Any, clients: ExitStack) -> None:
    """An Epilog of which two instances are held takes one budget, and removes the third."""
    bench = new_bench()
    assert bench.prolog(JOB, "1g.5gb:3") == (0, "")
    for uuid in _uuids(bench)[:2]:
        clients.enter_context(bench.sim.client(uuid))
    began = bench.clock.now
    status, said = bench.epilog(JOB)
    assert (status, said.count("in use by pid ")) == (0, 2)
    assert bench.clock.now - began == pytest.approx(BUDGET)
    assert len(bench.sim.instances()) == 2
    clients.close()
    bench.mended()


# -- states with a name -------------------------------------------------------------------------


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("error", NAMED)
def test_gi_made_ci_failed(new_bench: Any, error: str, once: bool) -> None:
    """GI made, CI failed: the GI, which no walk over MIG devices shows, is removed again."""
    bench = new_bench()
    bench.start(1, "1g.5gb")
    bench.sim.fail(CREATE_CI, once=once, error=error)
    status, said = bench.prolog(JOB, "3g.20gb")
    assert status == 1
    assert f": {CREATE_CI} failed: " in said
    assert f"(NVML error {ERRORS[error]})" in said
    assert bench.sim.counts() == (2, 1, 0, 1)
    bench.settled(at_work=[JOB])
    bench.sim.clear_faults()
    bench.mended()


@pytest.mark.parametrize("error", NAMED)
def test_gi_made_ci_failed_and_gi_stays(new_bench: Any, error: str) -> None:
    """GI made, CI failed, and the GI cannot be removed: quarantined, the first cause is said."""
    bench = new_bench()
    bench.sim.fail(CREATE_CI, error="MEMORY")
    bench.sim.fail(DESTROY, once=False, error=error)
    began = bench.clock.now
    status, said = bench.prolog(JOB, "3g.20gb")
    assert (status, "(NVML error 20)" in said) == (1, True)
    assert bench.clock.now - began == pytest.approx(BUDGET if ERRORS[error] in PASSING else 0)
    bench.settled(quarantined=[JOB], at_work=[JOB])
    (row,) = invariants.rows(bench.node)
    assert (row.state, row.gi) == ("quarantined", None)
    assert 'undo="' in bench.hooks.logged()[-1]
    # Its place is nobody's meanwhile, also when Slurm has run the Epilog.
    assert bench.prolog(8, "7g.40gb") == (0, "")
    bench.settled(refused=[8], quarantined=[JOB], at_work=[JOB])
    assert bench.epilog(JOB) == (0, "")
    status, report, _ = bench.reconcile()
    assert (status, len(report["stuck"]), report["foreign"]) == (3, 1, [])
    bench.settled(quarantined=[JOB])
    bench.sim.clear_faults()
    bench.mended()


def test_ci_gone_gi_busy_for_a_while(new_bench: Any) -> None:
    """CI gone, GI busy for a moment: the next attempt goes on where this one stopped."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    bench.sim.fail(DESTROY, error="IN_USE")
    assert bench.epilog(JOB) == (0, "")
    assert len(bench.clock.naps) == 1
    assert bench.sim.calls()[DESTROY_CI] == 1
    bench.settled()


def test_ci_gone_gi_busy_for_ever(new_bench: Any) -> None:
    """CI gone, GI busy: a GI without CI is quarantined, and mended when it lets go."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    bench.sim.fail(DESTROY, once=False, error="IN_USE")
    status, said = bench.epilog(JOB)
    assert status == 0
    assert f"in use by a client that NVML does not name after {BUDGET} s" in said
    (instance,) = bench.sim.instances()
    assert instance.compute == ()
    bench.settled(quarantined=[JOB])
    assert bench.prolog(8, "7g.40gb") == (0, "")
    assert bench.prolog(9, "3g.20gb") == (0, "")
    (mine,) = (row for row in invariants.rows(bench.node) if row.job == 9)
    assert mine.start != instance.placement.start
    bench.sim.clear_faults()
    bench.mended()


@pytest.mark.parametrize("seconds", [3, 100])
def test_client_between_ci_and_gi(
    new_bench: Any, clients: ExitStack, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A client that comes when the CI is gone and the GI not yet is waited for, and named."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    destroy = Driver.destroy_ci
    came: list[subprocess.Popen[bytes]] = []

    def overtaken(self: Driver, gpu: str, gi: int, ci: int) -> None:
        destroy(self, gpu, gi, ci)
        if not came:
            made = self.create_ci(gpu, gi, 3)
            came.append(clients.enter_context(bench.sim.client(made.uuid)))
            _end_at(bench, came[0], seconds)

    monkeypatch.setattr(Driver, "destroy_ci", overtaken)
    status, said = bench.epilog(JOB)
    assert status == 0
    if seconds < BUDGET:
        assert said == ""
        bench.settled()
        return
    assert f"in use by {_who(came[0].pid)} after {BUDGET} s" in said
    bench.settled(quarantined=[JOB])
    clients.close()
    bench.mended()


# -- who holds it -------------------------------------------------------------------------------


def test_holder_with_a_hostile_name(new_bench: Any, clients: ExitStack) -> None:
    """Line breaks and escapes in a holder's name reach no terminal, log or ledger as they are."""
    code = "open('/proc/self/comm', 'w').write('a\\nroot\\x1b[2J$(id)'); print(flush=True); input()"
    process = clients.enter_context(
        subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=subprocess.PIPE)
    )
    clients.callback(process.kill)
    assert process.stdout is not None
    process.stdout.readline()
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    bench.sim.attach(_uuids(bench)[0], process.pid)
    lines = len(bench.node.log.read_text().splitlines())
    _, said = bench.epilog(JOB)
    assert f"in use by pid {process.pid} (a\\x0aroot\\x1b[2J$(id), user " in said
    assert said.isprintable()
    logged = bench.node.log.read_text()
    assert len(logged.splitlines()) == lines + 1
    assert logged.replace("\n", "").isprintable()
    status, report, _ = bench.reconcile()
    assert status == 3
    assert report["stuck"][0].isprintable()
    process.kill()
    process.wait()
    bench.mended()


def test_many_holders(new_bench: Any, clients: ExitStack) -> None:
    """All who hold an instance are named, by pid."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    started = [clients.enter_context(bench.sim.client(_uuids(bench)[0])) for _ in range(3)]
    names = ", ".join(map(_who, sorted(client.pid for client in started)))
    assert f"in use by {names} after" in bench.epilog(JOB).said


# -- which errors are worth another try ---------------------------------------------------------


@pytest.mark.parametrize("function", [DESTROY, DESTROY_CI])
@pytest.mark.parametrize("error", [*NAMED, *OTHERS, "NOT_SUPPORTED"])
def test_errors_worth_another_try(new_bench: Any, error: str, function: str) -> None:
    """What may pass is tried again until the budget is spent, what cannot is tried once."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    bench.sim.fail(function, once=False, error=error)
    began = bench.clock.now
    status, said = bench.epilog(JOB)
    assert (status, said[:23]) == (0, "slurm-mig: quarantined:")
    passing = error in ("IN_USE", "INSUFFICIENT_RESOURCES", "UNKNOWN", "TIMEOUT", "MEMORY")
    passing = passing or error == "OPERATING_SYSTEM"
    assert bench.clock.now - began == pytest.approx(BUDGET if passing else 0)
    assert (bench.sim.calls()[function] > 30) == passing
    assert bench.sim.calls()[function] == 1 or passing
    if error != "IN_USE":
        assert f": {function} failed: " in said
        assert f"(NVML error {ERRORS[error]})" in said
        assert said.endswith("; look at dmesg for Xid errors, then run: slurm-mig reconcile")
    bench.settled(quarantined=[JOB])
    bench.sim.clear_faults()
    bench.mended()


@pytest.mark.parametrize("function", [DESTROY, DESTROY_CI])
@pytest.mark.parametrize("error", LIES[:2])
@pytest.mark.parametrize("true", [True, False])
def test_not_found_is_success(new_bench: Any, error: str, function: str, true: bool) -> None:
    """An answer "not there" ends a removal well if a look shows it so; else it is tried again."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    bench.sim.fail(function, error=error, after=true)
    assert bench.epilog(JOB) == (0, "")
    assert len(bench.clock.naps) == (0 if true else 1)
    bench.settled()


def test_profile_that_the_driver_leaves_out(new_bench: Any) -> None:
    """Instances are listed by profile: without the profile, none of it looks gone."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    info = "nvmlDeviceGetGpuInstanceProfileInfo"
    bench.sim.fail(info, nth=3, error="NOT_SUPPORTED")  # enumeration index 2: three slices
    status, said = bench.epilog(JOB)
    assert status == 0
    assert (
        "the driver does not report MIG profile 9 now, so it cannot be seen what is there" in said
    )
    bench.settled(quarantined=[JOB])
    assert len(bench.sim.instances()) == 1
    bench.mended()


def test_gone_at_the_last_moment(
    new_bench: Any, clients: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that goes between the last attempt and the message is mended like another."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    (row,) = invariants.rows(bench.node)
    clients.enter_context(bench.sim.client(row.uuids[0]))
    users = teardown.Teardown._users

    def too_late(self: teardown.Teardown, entry: Any) -> str:
        clients.close()
        self._driver.destroy_ci(row.gpu, row.gi, 0)
        self._driver.destroy_gi(row.gpu, row.gi)
        return users(self, entry)

    monkeypatch.setattr(teardown.Teardown, "_users", too_late)
    status, said = bench.epilog(JOB)
    assert status == 0
    assert f"in use by nobody by now after {BUDGET} s" in said
    bench.settled(quarantined=[JOB])
    bench.mended()


def test_without_isolation(new_bench: Any, clients: ExitStack) -> None:
    """Where devices are given to nobody, removal and quarantine are the same."""
    bench = new_bench(isolation={"devices": "none"})
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    clients.enter_context(bench.sim.client(_uuids(bench)[0]))
    assert bench.epilog(JOB).said.startswith("slurm-mig: quarantined: ")
    clients.close()
    bench.mended()


# -- a Prolog in the same places ----------------------------------------------------------------


def _seize(bench: Bench, clients: ExitStack, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A monitor that uses every instance as soon as it has a CI."""
    create = Driver.create_ci
    came: list[Any] = []

    def seized(self: Driver, gpu: str, gi: int, slices: int) -> Any:
        made = create(self, gpu, gi, slices)
        came.append(clients.enter_context(bench.sim.client(made.uuid)))
        return made

    monkeypatch.setattr(Driver, "create_ci", seized)
    return came


@pytest.mark.parametrize("seconds", [3, 100])
def test_undo_of_what_is_held(
    new_bench: Any, clients: ExitStack, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A Prolog's undo waits for a client within the budget; the first cause is what it says."""
    bench = new_bench()
    came = _seize(bench, clients, monkeypatch)
    bench.sim.fail(CREATE, nth=2, error="UNKNOWN")
    began = bench.clock.now

    def later(now: float) -> None:
        if now - began >= seconds and came[0].poll() is None:
            came[0].kill()
            came[0].wait()

    bench.clock.before_nap = later
    status, said = bench.prolog(JOB, "1g.5gb:2")
    assert status == 1
    assert f": {CREATE} failed: Unknown Error (NVML error 999)" in said
    if seconds < BUDGET:
        assert bench.clock.now - began <= seconds + 2
        assert invariants.rows(bench.node) == []
    else:
        assert bench.clock.now - began == pytest.approx(BUDGET)
        (row,) = invariants.rows(bench.node)
        assert row.state == "quarantined"
        assert f"in use by {_who(came[0].pid)}" in bench.hooks.logged()[-1]
    bench.settled(quarantined=[JOB], at_work=[JOB])
    clients.close()
    bench.mended()


def test_leftover_that_is_held(new_bench: Any, clients: ExitStack) -> None:
    """A job that comes back while its old instance is held is served elsewhere, or sent away."""
    bench = new_bench()
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    (old,) = bench.sim.instances()
    clients.enter_context(bench.sim.client(_uuids(bench)[0]))
    began = bench.clock.now
    assert bench.prolog(JOB, "3g.20gb") == (0, "")
    assert bench.clock.now - began == pytest.approx(BUDGET)
    states = [(row.state, row.start) for row in invariants.rows(bench.node)]
    assert sorted(states) == [("live", 4 - old.placement.start), ("quarantined", 4)]
    (folder,) = invariants.folders(bench.node).values()
    assert folder.devices is not None
    assert old.compute[0].uuid not in folder.devices
    # Its Epilog takes only what it has; then there is no room for as much again.
    assert bench.epilog(JOB) == (0, "")
    assert bench.prolog(JOB, "7g.40gb") == (0, "")
    bench.settled(refused=[JOB], quarantined=[JOB])
    assert bench.epilog(JOB) == (0, "")
    clients.close()
    bench.mended()


def test_undo_leaves_what_it_had_not_begun(new_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stranger makes where a job's second instance was to come is not undone with the first.

    The same profile at the very place: only that we never asked for it tells it from ours.
    """
    bench = new_bench()
    create = Driver.create_ci

    def fails(self: Driver, gpu: str, gi: int, slices: int) -> Any:
        (second,) = (row for row in invariants.rows(bench.node) if row.start != 6)
        monkeypatch.setattr(Driver, "create_ci", create)
        profile = self.geometry(self.gpus()[0]).profile("1g.5gb")
        theirs = self.create_gi(gpu, profile, Placement(second.start, 1))
        bench.foreign = [i for i in bench.sim.instances() if i.id == theirs]
        bench.sim.fail(CREATE_CI, error="UNKNOWN")
        return create(self, gpu, gi, slices)

    monkeypatch.setattr(Driver, "create_ci", fails)
    status, _ = bench.prolog(JOB, "1g.5gb:2")
    assert (status, len(bench.foreign)) == (1, 1)
    assert bench.sim.instances() == bench.foreign
    assert invariants.rows(bench.node) == []
    bench.mended()


def test_undo_that_cannot_begin(new_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the undo fails too, the first cause is what is said, and reconcile does the rest."""
    bench = new_bench()

    def full(*_: object) -> None:
        raise NodeFault("run directory: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Handover, "disown", full)
        bench.sim.fail(CREATE_CI, error="UNKNOWN")
        status, said = bench.prolog(JOB, "3g.20gb")
    assert status == 1
    assert f": {CREATE_CI} failed: Unknown Error (NVML error 999)" in said
    assert 'undo="run directory: Input/output error"' in bench.hooks.logged()[-1]
    bench.settled(at_work=[JOB])
    assert len(bench.sim.instances()) == 1
    bench.mended()
