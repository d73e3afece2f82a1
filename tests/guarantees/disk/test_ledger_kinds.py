"""What may stand in the ledger's place, or beside it: refused by hooks, put aside by reconcile."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import invariants
import pytest
from invariants import Job
from partitioning import refusal
from ruining import Ruin, remove, row

from slurm_mig import ledger_file
from slurm_mig.books import Books
from slurm_mig.handover import Handover
from slurm_mig.ledger import Ledger

#: Format 1, as it was: no seal, and an index.
FORMAT_1 = (
    "DROP TABLE seal",
    "CREATE INDEX instance_job ON instance (job)",
    "PRAGMA user_version = 1",
)


def sql(path: Path, *statements: str) -> None:
    """Change the file as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def seal(path: Path) -> None:
    """Make what stands in the file what slurm-mig wrote."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        ledger_file.seal(database)


def _missing(r: Ruin) -> None:
    r.path.unlink()


def _empty(r: Ruin) -> None:
    r.path.write_bytes(b"")


def _garbage(r: Ruin) -> None:
    r.path.write_bytes(b"no database at all, but long enough to look at\n" * 100)


def _folder(r: Ruin) -> None:
    r.path.unlink()
    r.path.mkdir()
    (r.path / "more").write_text("")


def _fifo(r: Ruin) -> None:
    r.path.unlink()
    os.mkfifo(r.path)


def _symlink(r: Ruin) -> None:
    r.path.rename(r.node.folder / "elsewhere")
    r.path.symlink_to(r.node.folder / "elsewhere")


def _dangling(r: Ruin) -> None:
    r.path.unlink()
    r.path.symlink_to(r.node.folder / "nowhere")


def _hard_link(r: Ruin) -> None:
    os.link(r.path, r.node.folder / "second-name")


def _writable(r: Ruin) -> None:
    r.path.chmod(0o666)


def _other_owner(r: Ruin) -> None:
    os.chown(r.path, 12345, -1)


def _other_database(r: Ruin) -> None:
    r.path.unlink()
    sql(r.path, "CREATE TABLE theirs (x)")


def _without_application(r: Ruin) -> None:
    sql(r.path, "PRAGMA application_id = 17")


def _header_of_99(r: Ruin) -> None:
    sql(r.path, "PRAGMA user_version = 99")


def _header_of_0(r: Ruin) -> None:
    sql(r.path, "PRAGMA user_version = 0")


def _row_by_hand(r: Ruin) -> None:
    sql(r.path, "UPDATE instance SET job = 1 WHERE job = 7")


def _row_removed(r: Ruin) -> None:
    sql(r.path, "DELETE FROM instance WHERE job = 7")


def _no_seal(r: Ruin) -> None:
    sql(r.path, "DELETE FROM seal")


def _table_gone(r: Ruin) -> None:
    sql(r.path, "DROP TABLE miss")


def _wal_mode(r: Ruin) -> None:
    sql(r.path, "PRAGMA journal_mode = WAL")


def _wal_beside(r: Ruin) -> None:
    r.path.with_name("ledger.sqlite-wal").write_bytes(b"\x37\x7f\x06\x82" + bytes(60))


def _shm_beside(r: Ruin) -> None:
    r.path.with_name("ledger.sqlite-shm").write_bytes(bytes(32768))


def _journal_fifo(r: Ruin) -> None:
    os.mkfifo(r.path.with_name("ledger.sqlite-journal"))


def _journal_folder(r: Ruin) -> None:
    r.path.with_name("ledger.sqlite-journal").mkdir()


def _journal_symlink(r: Ruin) -> None:
    (r.node.folder / "elsewhere").write_text("")
    r.path.with_name("ledger.sqlite-journal").symlink_to(r.node.folder / "elsewhere")


def _old_format_cut(r: Ruin) -> None:
    sql(r.path, *FORMAT_1)
    content = r.path.read_bytes()
    r.path.write_bytes(content[: len(content) - 4096])


#: How it is spoilt, and how the reason goes.
KINDS: dict[Callable[[Ruin], None], str] = {
    _missing: "empty or gone, but job 7 holds instances made by it",
    _empty: "empty or gone, but job 7 holds instances made by it",
    _garbage: "file is not a database",
    _folder: "is no regular file: Is a directory",
    _fifo: "is no regular file",
    _symlink: "is no regular file: Too many levels of symbolic links",
    _dangling: "is no regular file: Too many levels of symbolic links",
    _hard_link: "has 2 names (hard links)",
    _writable: "owned by uid 0, mode 0666: others may have written it",
    _other_owner: "owned by uid 12345, mode 0600: others may have written it",
    _other_database: "a database, but not a slurm-mig ledger",
    _without_application: "a database, but not a slurm-mig ledger",
    _header_of_99: "its header says format 99, its content 2",
    _header_of_0: "its header says format 0, its content 2",
    _row_by_hand: "its content is not what slurm-mig wrote (bad seal)",
    _row_removed: "its content is not what slurm-mig wrote (bad seal)",
    _no_seal: "its content is not what slurm-mig wrote (bad seal)",
    _table_gone: "no such table: miss",
    _wal_mode: "its header says that something else than slurm-mig writes it",
    _wal_beside: "ledger.sqlite-wal lies beside it, which slurm-mig never makes",
    _shm_beside: "ledger.sqlite-shm lies beside it, which slurm-mig never makes",
    _journal_fifo: "its journal is no regular file",
    _journal_folder: "its journal is no regular file",
    _journal_symlink: "its journal is no regular file",
    _old_format_cut: "",  # SQLite's own words
}
SLURM_MIG = (sys.executable, "-m", "slurm_mig.cli.main")
HINT = "; nothing was changed. To put it aside and rebuild it run: slurm-mig reconcile"


def _content(path: Path) -> object:
    """What a path is, and holds."""
    if path.is_symlink():
        return path.readlink()
    if path.is_dir():
        return sorted(p.name for p in path.iterdir())
    return path.read_bytes() if path.is_file() else path.is_fifo()


@pytest.mark.parametrize("spoil", KINDS, ids=lambda spoil: spoil.__name__[1:])
def test_kind(ruin, figures, spoil):
    """One reason, nothing touched; reconcile keeps it under another name and loses nothing."""
    if os.geteuid() != 0 and spoil is _other_owner:
        pytest.skip("needs a mount namespace of its own")
    spoil(ruin)
    was = _content(ruin.path) if spoil is not _missing else b""
    said = ruin.refused()
    reason = KINDS[spoil]
    assert said == f"ledger {ruin.path}: {reason}{HINT}" if reason else said.endswith(HINT)
    report = ruin.rebuilt()
    (aside,) = ruin.aside()
    assert aside.name == "ledger.damaged-1.sqlite"
    assert _content(aside) == was
    (lost,) = [line for line in report["mended"] if "put aside" in line]
    assert lost.startswith(f"ledger {ruin.path}: {reason}")
    assert lost.endswith(f"; put aside as {aside}, a new one was begun")
    taken = [line for line in report["mended"] if "taken up" in line]
    assert len(taken) == len(ruin.entries)
    # What the stranger made cannot be told from what we forgot: somebody must look.
    assert len(report["foreign"]) == len(ruin.foreign)
    assert len(report["skipped"]) == 1
    again = ruin.rebuilt()
    assert again.keys() == {"foreign"}
    assert ruin.aside() == [aside]
    ruin.serves_and_ends()
    figures("disk", ledgers_that_are_none=1)


def test_command(ruin):
    """`slurm-mig reconcile` says and logs what it put aside; `status` only refuses."""
    _garbage(ruin)
    words = ("--config", str(ruin.node.config))
    refused = subprocess.run([*SLURM_MIG, "status", *words], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"slurm-mig: ledger {ruin.path}: file is not a database{HINT}\n"
    mended = subprocess.run(
        [*SLURM_MIG, "reconcile", "--offline", *words], capture_output=True, text=True
    )
    aside = ruin.state / "ledger.damaged-1.sqlite"
    lines = mended.stdout.splitlines()
    assert (mended.returncode, mended.stderr) == (3, "")
    assert lines[0] == (
        f"mended: ledger {ruin.path}: file is not a database; put aside as {aside}, a new one was "
        "begun"
    )
    assert re.fullmatch(
        r"mended: job 7: GPU-\S+ 3g.20gb at \d:4: taken up, as it was handed over", lines[1]
    )
    assert [line.partition(":")[0] for line in lines] == ["mended"] * 4 + ["foreign", "skipped"]
    assert f"put aside as {aside}" in ruin.node.log.read_text().splitlines()[-1]


def test_jobs_that_ended_meanwhile(ruin):
    """A job that ended while hooks refused is taken up, and then removed as one that ended."""
    _garbage(ruin)
    report = ruin.rebuilt({8: Job(profiles=("1g.5gb", "1g.5gb"))})
    (removed,) = [line for line in report["mended"] if "removed (job ended)" in line]
    assert removed.startswith("job 7: ")


def test_slurm_does_not_answer(ruin):
    """Without Slurm's word everything is taken up, and nothing is removed."""
    _garbage(ruin)
    report = ruin.site.reconcile(None)
    assert sorted(map(row, ruin.site.entries())) == sorted(map(row, ruin.entries))
    assert ruin.site.sim.instances() == ruin.there
    assert len([line for line in report["mended"] if "taken up" in line]) == 3


def test_half_made_instances_are_left_alone(ruin):
    """What a killed Prolog had made when the ledger was lost is nobody's: it is not removed."""
    ruin.site.sim.fail("nvmlGpuInstanceCreateComputeInstance", error="KILL")
    process = ruin.site.program('with opened() as core: core.acquire(9, 0, wanted("1g.5gb"))\n')
    process.communicate(timeout=60)
    unknown = [i for i in ruin.site.sim.instances() if i not in ruin.there]
    assert len(unknown) == 1
    _garbage(ruin)
    report = ruin.site.reconcile({7, 8, 9})
    assert [i for i in ruin.site.sim.instances() if i not in ruin.there] == unknown
    assert len(report["foreign"]) == 2
    assert "nobody knows whose the foreign instances are" in report["skipped"][0]
    # Its job was told nothing, so it cannot run; and nobody else gets the place.
    invariants.settled(
        ruin.node,
        {7: Job(profiles=("3g.20gb",)), 8: Job(profiles=("1g.5gb", "1g.5gb"))},
        refused=[9],
        foreign=[*ruin.foreign, *unknown],
        promises=False,
    )


def test_newer_release(ruin):
    """A ledger of a format to come is neither used nor put aside, by any verb."""
    sql(ruin.path, "ALTER TABLE instance ADD COLUMN more TEXT", "PRAGMA user_version = 99")
    before = ruin.path.read_bytes()
    said = ruin.refused()
    assert said == (
        f"ledger {ruin.path}: written by another release (format 99, this one reads 2); use that "
        "release, or drain the node and move it away"
    )
    assert refusal(lambda: ruin.site.reconcile({7, 8})) == said
    assert (ruin.path.read_bytes(), ruin.aside()) == (before, [])
    assert ruin.site.sim.instances() == ruin.there


def test_previous_release(ruin):
    """A ledger of format 1 becomes one of format 2 at first use, with every row."""
    sql(ruin.path, "INSERT INTO miss VALUES (5, 3, 1.0)", *FORMAT_1)
    assert ruin.site.entries() == ruin.entries
    with closing(sqlite3.connect(ruin.path)) as database:
        assert ledger_file.header(database) == (ledger_file.APPLICATION_ID, 2)
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    assert tables >= {"instance", "miss", "seal"}
    assert "instance_job" not in tables
    with Ledger(ruin.state) as ledger:
        assert ledger.missed(5) == 4
    assert ruin.site.reconcile({7, 8}).keys() == {"foreign"}
    ruin.serves_and_ends()


def test_ledger_of_yesterday(ruin):
    """A copy that says another job has the instance is believed in nothing, however whole."""
    ruin.site.release(7)
    ruin.site.acquire(9, "3g.20gb")
    newer = ruin.site.entries()
    assert ruin.site.sim.instances() == ruin.there  # the same ids, the same places
    destroyed = ruin.site.sim.counts().destroyed
    ruin.path.write_bytes(ruin.whole)
    said = refusal(lambda: ruin.site.release(9))
    assert re.search(r"job 9: \S+ 3g.20gb at \S+ was handed over, but is not in it", said)
    assert said.endswith(HINT)
    jobs = {9: Job(profiles=("3g.20gb",)), 8: Job(profiles=("1g.5gb", "1g.5gb"))}
    report = ruin.rebuilt(jobs)
    assert ruin.site.sim.instances() == ruin.there
    assert ruin.site.sim.counts().destroyed == destroyed
    assert sorted(map(row, ruin.site.entries())) == sorted(map(row, newer))
    assert "was handed over, but is job 7's in it; put aside as" in report["mended"][0]
    assert ruin.aside()[0].read_bytes() == ruin.whole


def test_ledger_of_before_a_job(ruin):
    """A copy that only lacks a job's rows is kept, and the rows are taken up."""
    ruin.site.acquire(9, "2g.10gb")
    ruin.path.write_bytes(ruin.whole)
    assert "job 9: " in refusal(lambda: ruin.site.release(9))
    assert "job 9: " in refusal(lambda: ruin.site.acquire(9, "1g.5gb"))
    report = ruin.rebuilt(
        {
            7: Job(profiles=("3g.20gb",)),
            8: Job(profiles=("1g.5gb", "1g.5gb")),
            9: Job(profiles=("2g.10gb",)),
        }
    )
    (taken,) = report["mended"]
    assert taken.endswith(": taken up, as it was handed over")
    assert ruin.aside() == []


def test_two_folders_with_one_instance(ruin):
    """Where two jobs were handed the same instance, it is one's, and a person is told."""
    text = (ruin.site.run / "jobs/7/instances").read_text()
    Handover(ruin.site.run).open(9)
    Handover(ruin.site.run).vouch(9, text.replace("[[7,", "[[9,"))
    _garbage(ruin)
    report = ruin.site.reconcile({7, 8, 9})
    assert sorted(map(row, ruin.site.entries())) == sorted(map(row, ruin.entries))
    assert "was handed over, but is job 7's in it" in report["skipped"][0]


#: What may stand in a file `instances` but what we write.
NO_RECORDS = (
    *(
        "",
        "{",
        "[]",
        "7",
        "[7]",
        "[[7]]",
        "[[]]",
        '"x"',
        "null",
        "[" * 5000,
        "[[7, 0, 1, 2]]",
        "\0",
    ),
    '[[7, 0, "G", "1g", "x", 0, 1, 3, [0], [], "b"]]',
    '[[7, 0, "G", "1g", 1, 0, 1, "x", [], [], "b"]]',
)


@pytest.mark.parametrize("text", NO_RECORDS)
def test_folder_that_vouches_for_nothing(ruin, text):
    """Whatever stands in the file but what we write vouches for nothing, and hurts nothing."""
    Handover(ruin.site.run).vouch(7, text)
    _garbage(ruin)
    ruin.site.reconcile({7, 8})
    assert [entry.job for entry in ruin.site.entries()] == [8, 8]
    assert ruin.site.sim.instances() == ruin.there


def test_folder_that_others_can_write(ruin):
    """A file that somebody else could have written vouches for nothing."""
    path = ruin.site.run / "jobs/7/instances"
    text = path.read_text()
    for spoil in (
        lambda: path.chmod(0o666),
        lambda: os.chown(path, 12345, -1) if os.geteuid() == 0 else path.chmod(0o620),
        lambda: os.link(path, ruin.node.folder / "second"),
        lambda: (path.rename(ruin.node.folder / "there"), path.symlink_to("../../../there")),
        lambda: (remove(path), os.mkfifo(path)),
        lambda: (remove(path), path.mkdir()),
    ):
        remove(path)
        Handover(ruin.site.run).vouch(7, text)
        spoil()
        assert Handover(ruin.site.run).vouched(7) == ""
        remove(path)
    Handover(ruin.site.run).vouch(7, text)
    assert Handover(ruin.site.run).vouched(7) == text


def test_record_of_another_life(ruin):
    """What was handed over before the driver was loaded anew vouches for nothing now."""
    ruin.site.sim.reload()
    for profile, start in (("1g.5gb", 0), ("3g.20gb", 4)):
        ruin.site.foreigner(profile, start)
    theirs = ruin.site.sim.instances()
    _garbage(ruin)
    ruin.site.reconcile({7, 8})
    assert ruin.site.entries() == []
    assert ruin.site.sim.instances() == theirs


def test_folder_that_names_another_job_or_gpu(ruin):
    """A folder vouches for its own job only; of a GPU that is gone nobody knows."""
    text = (ruin.site.run / "jobs/7/instances").read_text()
    handover = Handover(ruin.site.run)
    handover.vouch(7, text.replace("[[7,", "[[8,"))
    _garbage(ruin)
    ruin.site.reconcile({7, 8})
    assert [entry.job for entry in ruin.site.entries()] == [8, 8]
    handover.vouch(7, text.replace("GPU-", "GPU-0"))
    report = ruin.site.reconcile({7, 8})
    (doubt,) = report["skipped"]
    assert doubt.startswith("job 7: not seen whether it has its instances: GPU-0")
    assert [entry.job for entry in ruin.site.entries()] == [8, 8]


def test_job_that_could_not_be_taken_up(ruin, monkeypatch):
    """Where an ended job's lock fails just then, its folder stays, and the next run takes it up."""
    _garbage(ruin)
    real = Books._take_up
    monkeypatch.setattr(Books, "_take_up", lambda self, ledger: [])
    jobs = {8: Job(profiles=("1g.5gb", "1g.5gb"))}
    report = ruin.site.reconcile(set(jobs))
    assert any("job 7: " in line and "is not in it" in line for line in report["skipped"])
    assert ruin.site.sim.instances() == ruin.there
    monkeypatch.setattr(Books, "_take_up", real)
    ruin.rebuilt(jobs)
