"""Whoever holds a lock may be killed, or stopped: what becomes of those that wait for it."""

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import invariants
import pytest
from hooking import make_hooks, wait_for
from partitioning import Site

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
LOOK = "nvmlDeviceGetGpuInstances"
#: By lock: the call in which its holder is caught, the hook that wants it too and for which job,
#: and what shows that this hook has come so far that nothing but the lock is before it.
LOCKS = {
    "host": (LOOK, "prolog", 8, lambda hooks: (hooks.node.run_directory / "jobs/8").exists()),
    "gpu": (CREATE, "prolog", 8, lambda hooks: (8, "1g.5gb", "intent") in hooks.ledger()),
    "job": (CREATE, "epilog", 7, lambda hooks: hooks.sim.calls()["nvmlInit"] == 2),
}
HOLDER = 'with opened() as core: core.acquire(7, 0, wanted("3g.20gb"))\n'


def locked(hooks, which):
    """The pid that holds a lock, as the kernel tells; None if nobody does."""
    name = {"host": "host", "job": "job-7", "gpu": f"gpu-{hooks.sim.gpus()[0].uuid}"}[which]
    path = hooks.node.folder / f"state/locks/{name}.lock"
    if path.exists():
        for line in Path("/proc/locks").read_text().splitlines():
            if re.search(rf" FLOCK .*:{path.stat().st_ino} ", line):
                return int(line.split()[4])
    return None


@contextmanager
def holding(hooks, which):
    """A Prolog of job 7 that has the lock and stays in a call of the driver for two seconds."""
    function = LOCKS[which][0]
    hooks.sim.latency(function, 2)
    before = hooks.sim.calls().get(function, 0)
    process = Site(hooks.node).program(HOLDER)
    try:
        if function == CREATE:
            wait_for(lambda: hooks.sim.busy(0), "the driver to be at work")
        else:
            wait_for(lambda: hooks.sim.calls().get(LOOK, 0) > before, "the look at the GPU")
        assert locked(hooks, which) == process.pid
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("which", LOCKS)
def test_killed_holder(tmp_path, which):
    """A holder is killed while another hook waits for its lock: that hook gets it, and succeeds."""
    hooks = make_hooks(tmp_path, slurm={"request": "token"})
    _, hook, job, waits = LOCKS[which]
    with holding(hooks, which) as holder, ThreadPoolExecutor() as pool:
        waiter = pool.submit(hooks.run, hook, job, extra="slurm-mig/1:1g.5gb=1;")
        wait_for(lambda: waits(hooks), "the other hook")
        hooks.sim.clear_faults()
        assert not waiter.done()
        holder.kill()
        run = waiter.result()
    assert (run.rc, run.output) == (0, "")
    assert locked(hooks, which) is None
    for each in (7, 8):
        assert hooks.epilog(each).rc == 0
    invariants.settled(hooks.node, {})


@pytest.mark.parametrize("which", LOCKS)
def test_stopped_holder(tmp_path, which):
    """A holder is stopped: others give up in time, with status 1 and its pid; later all goes on."""
    hooks = make_hooks(
        tmp_path, slurm={"request": "token"}, lock={"timeout": 0.2, "gpu_timeout": 0.2}
    )
    _, hook, job, _ = LOCKS[which]
    with holding(hooks, which) as holder:
        holder.send_signal(signal.SIGSTOP)
        hooks.sim.clear_faults()
        run = hooks.run(hook, job, extra="slurm-mig/1:1g.5gb=1;")
        assert run.rc == 1
        assert re.fullmatch(
            rf"slurm-mig: lock \S+/(host|gpu-\S+|job-7)\.lock: still held by pid {holder.pid} "
            r"after 0\.2 s; see what it is doing, the lock frees itself when it ends",
            run.last_line,
        )
        invariants.always(hooks.node)
        assert [*Site(hooks.node).reconcile({7, 8})] == ["busy"]
        holder.send_signal(signal.SIGCONT)
        assert holder.communicate(timeout=60) == ("", "")
        assert holder.returncode == 0
    invariants.settled(hooks.node, {7: invariants.Job(0, ("3g.20gb",))}, at_work={8})
    run = hooks.prolog(8, extra="slurm-mig/1:1g.5gb=1;")
    assert (run.rc, run.output) == (0, "")
    for each in (7, 8):
        assert hooks.epilog(each).rc == 0
    assert Site(hooks.node).reconcile(set()) == {}
    invariants.settled(hooks.node, {})


def test_stopped_for_good(tmp_path):
    """A stopped holder that is killed in the end leaves what reconcile mends."""
    hooks = make_hooks(tmp_path, slurm={"request": "token"})
    with holding(hooks, "gpu") as holder:
        holder.send_signal(signal.SIGSTOP)
        holder.kill()
        assert holder.wait(60) == -signal.SIGKILL
    hooks.sim.clear_faults()
    assert [*Site(hooks.node).reconcile(set())] == ["mended"]
    invariants.settled(hooks.node, {})
