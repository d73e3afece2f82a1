"""Many Prologs and Epilogs at once, in processes of their own, against the driver's own record."""

from partitioning import CREATE, wait_for

# Each job proves that its instances are its own: it makes a file named by each UUID, which must
# not be there, and checks what the driver shows for them.
_WORKER = """
import os, random
from slurm_mig.errors import NoRoom
from slurm_mig.simulator.handle import Simulation
number, rounds, claims = int(sys.stdin.readline()), int(sys.stdin.readline()), sys.stdin.readline()
chance = random.Random(number)
sim = Simulation.open(Path(settings.driver_root).parent)
served = 0
for turn in range(rounds):
    job = number * 1000 + turn
    words = chance.choice(["3g.20gb", "1g.5gb", "2g.10gb", "1g.5gb:2", "4g.20gb 1g.5gb"]).split()
    try:
        with opened() as core:
            entries = core.acquire(job, 0, wanted(*words))
    except NoRoom:
        continue
    served += 1
    there = {ci.uuid: (gi.profile, gi.placement) for gi in sim.instances() for ci in gi.compute}
    for entry in entries:
        (uuid,) = entry.uuids
        os.close(os.open(os.path.join(claims.strip(), uuid), os.O_CREAT | os.O_EXCL))
        assert there[uuid] == (entry.wish.profile, entry.wish.placement), (entry, there)
    for entry in entries:
        os.unlink(os.path.join(claims.strip(), entry.uuids[0]))
    with opened() as core:
        assert core.release(job) == len(entries)
say(served)
"""


def start(site, number, rounds, claims):
    """One worker."""
    process = site.program(_WORKER)
    process.stdin.write(f"{number}\n{rounds}\n{claims}\n")
    process.stdin.flush()
    return process


def test_no_instance_has_two_jobs(make, tmp_path):
    """Six processes acquire and release at once: no instance is ever shared, none is left."""
    site = make("A100-SXM4-40GB:2")
    claims = tmp_path / "claims"
    claims.mkdir()
    workers = [start(site, number, 8, claims) for number in range(1, 7)]
    said = [worker.communicate(timeout=90) for worker in workers]
    assert [err for _, err in said] == [""] * 6
    served = sum(int(out) for out, _ in said)
    assert served >= 6
    counts = site.sim.counts()
    assert (counts.left, counts.lost) == (0, 0)
    assert counts.made == counts.destroyed >= served
    assert site.ledger() == []
    assert list(claims.iterdir()) == []
    assert list((site.run / "jobs").glob("*/env")) == []


def test_seven_at_once_on_one_gpu(site):
    """Seven jobs that start at the same moment share one GPU, one slice each; an eighth waits."""
    code = """
from slurm_mig.errors import NoRoom
job = int(sys.stdin.readline())
with opened() as core:
    try:
        say(core.acquire(job, 0, wanted("1g.5gb"))[0].wish.placement.start)
    except NoRoom:
        say("none")
"""
    processes = [site.program(code) for _ in range(8)]
    for job, process in enumerate(processes, start=1):
        process.stdin.write(f"{job}\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60) for process in processes]
    assert [err for _, err in said] == [""] * 8
    assert sorted(out.strip() for out, _ in said) == [*"0123456", "none"]
    assert [placement for *_, placement, _ in site.lives()] != []
    assert sorted(placement for _, _, placement, _ in site.lives()) == [f"{n}:1" for n in range(7)]


def test_gpus_work_at_the_same_time(make):
    """Jobs on different GPUs do not wait for each other: both drivers' calls are under way."""
    site = make("A100-SXM4-40GB:2", layout="whole")
    site.sim.latency(CREATE, 600)
    code = 'with opened() as core: core.acquire({job}, 0, wanted("7g.40gb"))\n'
    processes = [site.program(code.format(job=job)) for job in (7, 8)]
    try:
        wait_for(lambda: site.sim.busy(0) and site.sim.busy(1), "both GPUs to be at work")
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert len(site.ledger()) == 2
