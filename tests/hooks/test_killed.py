"""Hooks that slurmd kills: SIGTERM, 10 ms later SIGKILL, at every moment; nothing stays behind."""

import threading

import pytest
from hooking import wait_for

from slurm_mig.ledger import Ledger
from slurm_mig.rehearsal.hookrun import Shutdown

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_CI = "nvmlGpuInstanceCreateComputeInstance"
DESTROY = "nvmlGpuInstanceDestroy"
DESTROY_CI = "nvmlComputeInstanceDestroy"


def kill_when(hooks, which, condition, job=7):
    """Run a hook and let slurmd's kill strike once the condition holds."""
    shutdown = Shutdown()

    def watch():
        try:
            wait_for(condition)
        finally:
            shutdown.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return hooks.run(which, job, shutdown=shutdown)
    finally:
        watcher.join()
        shutdown.close()


def states(hooks):
    """The states in the ledger, () before there is one."""
    if not (hooks.node.folder / "state/ledger.sqlite").exists():
        return ()
    with Ledger(hooks.node.folder / "state") as ledger:
        return tuple(entry.state for entry in ledger.entries())


#: Function that takes long, and what is to be seen when the kill strikes.
MOMENTS = {
    "folder": (CREATE, lambda h: (h.node.run_directory / "jobs/7").exists()),
    "intent": (CREATE, lambda h: states(h) == ("intent", "intent")),
    "create-gi": (CREATE, lambda h: h.sim.busy(0)),
    "gi-made": (CREATE_CI, lambda h: h.sim.counts().left == 1),
    "create-ci": (CREATE_CI, lambda h: h.sim.busy(0)),
    "first-lives": (CREATE_CI, lambda h: states(h) == ("live", "intent")),
    "second-gi": (CREATE_CI, lambda h: h.sim.counts().left == 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_prolog(hooks, moment):
    """A Prolog killed at any moment: no task runs, and the Epilog leaves nothing."""
    function, condition = MOMENTS[moment]
    hooks.job(7, "mig:3g.20gb(CNT:1),mig:1g.5gb(CNT:1)")
    hooks.sim.latency(function, 0.4)
    run = kill_when(hooks, "prolog", lambda: condition(hooks))
    assert run.rc < 0
    assert hooks.task() == (
        1,
        {},
        "slurm-mig: job 7 may not run here: the Prolog on this node did not finish\n",
    )
    hooks.sim.clear_faults()
    run = hooks.epilog()
    assert (run.rc, run.output) == (0, "")
    hooks.nothing_left()


@pytest.mark.parametrize("moment", [DESTROY, DESTROY_CI])
def test_epilog(hooks, moment):
    """An Epilog killed while the driver destroys: the next one, or reconcile, finishes."""
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    assert hooks.prolog().rc == 0
    hooks.sim.latency(moment, 0.4)
    run = kill_when(hooks, "epilog", lambda: hooks.sim.busy(0))
    assert run.rc < 0
    hooks.sim.clear_faults()
    run = hooks.epilog()
    assert (run.rc, run.output) == (0, "")
    hooks.nothing_left()
    assert hooks.sim.counts() == (1, 1, 0, 0)


def test_requeued_after_the_kill(hooks):
    """A job whose Prolog was killed comes back under its id, without an Epilog: it is served."""
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    hooks.sim.latency(CREATE_CI, 0.4)
    kill_when(hooks, "prolog", lambda: hooks.sim.busy(0) and hooks.sim.counts().left == 1)
    hooks.sim.clear_faults()
    run = hooks.prolog()
    assert (run.rc, run.output) == (0, "")
    assert hooks.lives() == [("3g.20gb", "4:4")]
    assert hooks.ledger() == [(7, "3g.20gb", "live")]
    assert hooks.task()[0] == 0


@pytest.mark.parametrize("milliseconds", [1, 30, 60, 90, 120, 150, 200, 300])
def test_timeout(hooks, milliseconds):
    """Whenever the time limit strikes, the job either has its instance or runs no task."""
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    hooks.sim.latency(CREATE, 0.05)
    hooks.sim.latency(CREATE_CI, 0.05)
    run = hooks.prolog(timeout=milliseconds / 1000)
    status, env, _ = hooks.task()
    folder = (hooks.node.run_directory / "jobs/7").exists()
    served = status == 0 and "CUDA_VISIBLE_DEVICES" in env
    # Killed before it made the folder, nothing was intended; Slurm starts no task after rc != 0.
    assert served or status == 1 or (not folder and run.rc < 0)
    if run.rc == 0:
        assert served
    if not folder:
        assert hooks.lives() == []
    hooks.sim.clear_faults()
    assert hooks.epilog().rc == 0
    hooks.nothing_left()


def test_others_are_served_meanwhile(hooks):
    """A killed Prolog holds no lock: another job is served on the same GPU at once."""
    hooks.job(7, "mig:3g.20gb(CNT:1)")
    hooks.job(8, "mig:3g.20gb(CNT:1)")
    hooks.sim.latency(CREATE, 0.4)
    kill_when(hooks, "prolog", lambda: hooks.sim.busy(0))
    hooks.sim.clear_faults()
    assert hooks.prolog(8).rc == 0
    assert (8, "3g.20gb", "live") in hooks.ledger()
    # The place that the killed one intended is not given away: its instance may be there.
    assert ("3g.20gb", "0:4") in hooks.lives()
    for job in (7, 8):
        assert hooks.epilog(job).rc == 0
    hooks.nothing_left()
