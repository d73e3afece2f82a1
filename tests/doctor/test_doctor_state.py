"""State and run directory, ledger, clock, boot id."""

import os
import sqlite3
import time

import pytest

from slurm_mig.ledger import Ledger, glance

ALL = ("state.directory", "state.ledger", "state.run-directory")


def test_nothing_there_yet(host):
    """A node that has served no job has none of them."""
    later = "not there yet: the first hook makes it"
    assert host.found(*ALL) == [
        f"ok state directory ~/n1/state: {later}",
        f"ok ledger ~/n1/state/ledger.sqlite: {later}",
        f"ok run directory ~/n1/run: {later}",
    ]
    assert not (host.folder / "n1/state").exists()


def test_in_use(host):
    """After a job all are there and root's, and looking changes nothing."""
    host.acquire(7, "3g.20gb")
    before = (host.folder / "n1/state/ledger.sqlite").stat().st_mtime_ns
    assert host.found(*ALL) == [
        "ok state directory ~/n1/state: owned by uid 0, mode 0700",
        "ok ledger ~/n1/state/ledger.sqlite: readable, instances of jobs: 1",
        "ok run directory ~/n1/run: owned by uid 0, mode 0755",
    ]
    assert (host.folder / "n1/state/ledger.sqlite").stat().st_mtime_ns == before
    assert {path.name for path in (host.folder / "n1/state").iterdir()} == {
        "ledger.sqlite",
        "locks",
    }


def test_state_of_somebody_else(host):
    """Another owner, or a mode that lets others write."""
    host.acquire(7, "3g.20gb")
    state = host.folder / "n1/state"
    why = "whoever can change it can take other jobs' instances; hooks refuse to use it"
    os.chown(state, 4242, 0)
    mend = "mend: chown root:root ~/n1/state && chmod go-w ~/n1/state"
    assert host.found("state.directory") == [
        f"failure state directory ~/n1/state: owned by uid 4242, mode 0700: {why}; {mend}"
    ]
    os.chown(state, 0, 0)
    state.chmod(0o770)
    assert host.found("state.directory") == [
        f"failure state directory ~/n1/state: owned by uid 0, mode 0770: {why}; {mend}"
    ]


def test_folder_above_is_open(host):
    """Who can rename the folder can replace it."""
    host.acquire(7, "3g.20gb")
    (host.folder / "n1").chmod(0o777)
    (line,) = host.found("state.directory")
    assert line.startswith(
        "failure state directory ~/n1/state: ~/n1 is owned by uid 0, mode 0777: "
    )


def test_state_is_a_file(host):
    """A file where the folder should be."""
    (host.folder / "n1/state").write_text("")
    assert host.found("state.directory") == [
        (
            "failure state directory ~/n1/state: is no directory: no MIG job can start; mend: name "
            "another in [state] directory"
        )
    ]


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.sshfs"])
def test_remote_disk(host, kind):
    """A network's file system is a failure, also where the folder is not there yet."""
    host.mounted(host.folder / "n1", kind)
    assert host.found("state.directory")[1] == (
        f"failure state directory ~/n1/state: on {kind} (~/n1): the ledger needs a local disk: "
        "locks and syncs over a network do not hold; mend: name a folder on a local disk in "
        "[state] directory"
    )


def test_disk_in_memory(host):
    """A tmpfs works until the reboot."""
    host.mounted(host.folder / "n1", "tmpfs")
    assert host.found("state.directory")[1] == (
        "warning state directory ~/n1/state: on tmpfs (~/n1): it is gone after a reboot; so are "
        "the instances, but also the counts of failed starts; mend: name a folder on a local disk "
        "in [state] directory, if there is one"
    )


def test_mount_point_with_a_blank(host):
    """The kernel writes blanks in mount points as octal numbers."""
    folder = host.folder / "a b"
    folder.mkdir()
    with (host.proc / "self/mountinfo").open("a") as file:
        file.write(f"98 22 0:98 / {host.folder}/a\\040b rw - nfs4 server:/x rw\n")
    assert host.probe.mount(folder / "c").type == "nfs4"
    assert host.probe.mount(host.folder).type == "ext4"


@pytest.mark.parametrize(
    ("blocks", "files", "line"),
    [
        (
            200,
            (1000, 500),
            (
                "failure state directory ~/n1/state: no space left on /: no MIG job can start or "
                "be removed; mend: make room: df -h -i /"
            ),
        ),
        (
            1 << 20,
            (1000, 0),
            (
                "failure state directory ~/n1/state: no space left on /: no MIG job can start or "
                "be removed; mend: make room: df -h -i /"
            ),
        ),
        (
            8192,
            (0, 0),  # btrfs counts no inodes
            (
                "warning state directory ~/n1/state: 32 MiB left on /: when it is full, MIG jobs "
                "drain the node; mend: make room: df -h /"
            ),
        ),
    ],
)
def test_full_disk(host, monkeypatch, blocks, files, line):
    """Little space is a warning, none a failure, of inodes too."""
    real = os.statvfs(host.folder)
    numbers = list(real)
    numbers[1], numbers[4] = 4096, blocks  # f_frsize, f_bavail
    numbers[5], numbers[7] = files  # f_files, f_favail
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(numbers))
    assert host.found("state.directory")[1] == line


def test_ledger_that_is_none(host):
    """Garbage, or another program's database, is a failure."""
    host.acquire(7, "3g.20gb")
    path = host.folder / "n1/state/ledger.sqlite"
    why = (
        "every MIG job drains the node; mend: slurm-mig reconcile puts a damaged one aside and "
        "rebuilds it"
    )
    path.write_bytes(b"no database at all, but long enough to look at" * 30)
    assert host.found("state.ledger") == [
        f"failure ledger ~/n1/state/ledger.sqlite: file is not a database: {why}"
    ]
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()
    (line,) = host.found("state.ledger")
    assert line.startswith("failure ledger ~/n1/state/ledger.sqlite: not a slurm-mig ledger of ")
    assert line.endswith(why)


def test_quarantine(host):
    """Quarantined instances want somebody."""
    host.acquire(7, "3g.20gb")
    with Ledger(host.folder / "n1/state") as ledger:
        ledger.quarantine(ledger.entries()[0], "in use")
    assert host.found("state.ledger") == [
        (
            "warning ledger ~/n1/state/ledger.sqlite: instances in quarantine: 1: they would not "
            "go, and their space is offered to nobody; mend: slurm-mig status says why; then: "
            "slurm-mig reconcile"
        )
    ]


def test_clock_was_set_back(host):
    """A clock behind the newest entry is wrong now, or was then."""
    host.acquire(7, "3g.20gb")
    host.probe.clock = time.time() - 3600
    (_, line) = host.found("state.ledger")
    assert line.startswith("failure clock: 3")
    assert line.endswith(
        " s behind the newest entry of the ledger: munge refuses credentials when clocks differ, "
        "and Slurm's times are wrong; mend: set the clock: chronyc makestep, or: timedatectl "
        "set-ntp true"
    )


def test_clock(host):
    """What the kernel says of its clock."""
    assert host.found("state.clock") == ["ok clock: the kernel says that it is synchronised"]
    host.probe.ntp = False
    assert host.found("state.clock") == [
        (
            "warning clock: the kernel says that nothing synchronises it: munge refuses "
            "credentials when clocks differ by minutes; mend: run chronyd, ntpd or "
            "systemd-timesyncd (in a container: look on its host)"
        )
    ]


def test_boot_id(host):
    """The boot id is shown; without it instances of an earlier boot cannot be told."""
    assert host.found("state.boot-id") == [f"ok boot id: {host.sim.boot_id()}"]
    (host.sim.root / "proc/sys/kernel/random/boot_id").unlink()
    assert host.found("state.boot-id") == [
        (
            "failure boot id: ~/n1/sim/root/proc/sys/kernel/random/boot_id: No such file or "
            "directory: every MIG job drains the node; mend: correct [driver] root in "
            "~/n1/config.toml: it is where proc/ and dev/ are"
        )
    ]


def test_run_directory_of_somebody_else(host):
    """Whoever writes there chooses what other users' tasks see."""
    host.acquire(7, "3g.20gb")
    (host.folder / "n1/run/jobs").chmod(0o777)
    assert host.found("state.run-directory") == [
        (
            "failure run directory ~/n1/run: ~/n1/run/jobs is owned by uid 0, mode 0777: whoever "
            "can change it chooses the instances of other users' jobs; mend: chown root:root "
            "~/n1/run/jobs && chmod 0755 ~/n1/run/jobs"
        )
    ]


def test_run_directory_is_closed(host):
    """The task prolog, which is the user's, must get in."""
    host.acquire(7, "3g.20gb")
    (host.folder / "n1/run").chmod(0o700)
    assert host.found("state.run-directory") == [
        (
            "failure run directory ~/n1/run: ~/n1/run is owned by uid 0, mode 0700: the task "
            "prolog runs as the job's user and must read in it; mend: chmod 0755 ~/n1/run"
        )
    ]


def test_glance_makes_nothing(tmp_path):
    """A look at a ledger that is not there leaves nothing behind."""
    assert glance(tmp_path / "state", "boot") is None
    assert list(tmp_path.iterdir()) == []


def test_owners_of_this_boot(host):
    """Owners are those of this boot's live instances; their ids meant something else before."""
    host.acquire(7, "3g.20gb", uid=4242)
    state = host.folder / "n1/state"
    gpu = host.sim.gpus()[0].uuid
    gi = host.sim.instances()[0].id
    assert glance(state, host.sim.boot_id()).owners == {(gpu, gi): 4242}
    assert glance(state, "another").owners == {}
