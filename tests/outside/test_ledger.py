"""The ledger: durable, all or nothing, and never confused about whose file it is."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slurm_mig.errors import NodeFault
from slurm_mig.ledger import INTENT, LIVE, QUARANTINED, REMOVING, Ledger, Wish
from slurm_mig.profiles import Placement

WISH = Wish("GPU-a", "3g.20gb", 9, Placement(4, 4))
OTHER = Wish("GPU-b", "1g.5gb", 19, Placement(0, 1))


def test_life_of_an_entry(tmp_path: Path) -> None:
    """Intent, live, removing, forgotten: each state is there when the file is opened anew."""
    with Ledger(tmp_path) as ledger:
        first, second = ledger.intend(7, 1000, [WISH, OTHER], "boot")
        assert (first.state, first.gi, first.wish, first.uid, first.boot) == (
            *(INTENT, None, WISH, 1000, "boot"),
        )
        ledger.live(first, 2, [0], ["MIG-x"])
    with Ledger(tmp_path) as ledger:
        entries = ledger.entries(7)
        assert [(e.state, e.gi, e.cis, e.uuids) for e in entries] == [
            (LIVE, 2, (0,), ("MIG-x",)),
            (INTENT, None, (), ()),
        ]
        assert [e.state for e in ledger.removing(7)] == [REMOVING, REMOVING]
        ledger.forget(second)
        assert [e.id for e in ledger.entries()] == [first.id]
        ledger.forget(first)
        assert ledger.entries() == []


def test_quarantined_entries_are_not_removed_again(tmp_path: Path) -> None:
    """What is quarantined keeps its reason and stays out of the job's later removals."""
    with Ledger(tmp_path) as ledger:
        entry, other = ledger.intend(7, 0, [WISH, OTHER], "boot")
        ledger.quarantine(entry, "in use by pid 4711")
        assert [e.id for e in ledger.removing(7)] == [other.id]
        kept = ledger.entries(7)[0]
        assert (kept.state, kept.reason) == (QUARANTINED, "in use by pid 4711")


def test_intents_are_all_or_none(tmp_path: Path) -> None:
    """A failure half way through a job's intents leaves none of them."""
    with Ledger(tmp_path) as ledger:
        broken = Wish("GPU-b", None, 19, Placement(0, 1))  # type: ignore[arg-type]
        with pytest.raises(NodeFault, match="NOT NULL"):
            ledger.intend(7, 0, [WISH, broken], "boot")
        assert ledger.entries() == []
        assert len(ledger.intend(7, 0, [WISH], "boot")) == 1


def test_misses_count_in_a_row_until_served(tmp_path: Path) -> None:
    """Misses add up per job over processes, and start over once the job is served."""
    with Ledger(tmp_path) as ledger:
        assert [ledger.missed(7), ledger.missed(8), ledger.missed(7)] == [1, 1, 2]
    with Ledger(tmp_path) as ledger:
        assert ledger.missed(7) == 3
        ledger.served(7)
        assert (ledger.missed(7), ledger.missed(8)) == (1, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, this is no database\n" * 100, "file is not a database"),
        (b"SQLite format 3\0" + b"\xff" * 2000, ""),
    ],
)
def test_not_a_database(tmp_path: Path, content: bytes, message: str) -> None:
    """A file that is not SQLite is one sentence, and is left byte for byte as it was."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(NodeFault) as caught:
        Ledger(tmp_path).entries()
    assert str(caught.value).startswith(f"ledger {path}: ")
    assert message in str(caught.value)
    assert path.read_bytes() == content


def test_somebody_elses_database(tmp_path: Path) -> None:
    """A database with another application's tables is refused and not written to."""
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(NodeFault, match="not a slurm-mig ledger"):
        Ledger(tmp_path)
    assert path.read_bytes() == before


def test_another_releases_ledger(tmp_path: Path) -> None:
    """A ledger of another format names both formats and what to do."""
    Ledger(tmp_path).close()
    database = sqlite3.connect(tmp_path / "ledger.sqlite")
    database.execute("ALTER TABLE instance ADD COLUMN more TEXT")
    database.execute("PRAGMA user_version = 99")
    database.commit()
    database.close()
    with pytest.raises(NodeFault, match=r"written by another release \(format 99, this one reads"):
        Ledger(tmp_path)


def test_directory_that_others_can_write(tmp_path: Path) -> None:
    """A state directory that is not ours alone is refused with owner and mode."""
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    with pytest.raises(NodeFault, match=r"mode 0777; it must belong to uid"):
        Ledger(state)
    assert list(state.iterdir()) == []


def test_directory_that_is_a_file_or_a_link(tmp_path: Path) -> None:
    """A state directory that is a file, or a symbolic link to a folder, is refused."""
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NodeFault, match="File exists"):
        Ledger(file)
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(NodeFault, match="is no directory"):
        Ledger(tmp_path / "link")


def test_ledger_behind_a_symlink(tmp_path: Path) -> None:
    """A ledger that is a symbolic link is refused, and what it points to is not touched."""
    target = tmp_path / "target"
    target.write_text("theirs")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "ledger.sqlite").symlink_to(target)
    with pytest.raises(NodeFault, match="Too many levels of symbolic links"):
        Ledger(state)
    assert target.read_text() == "theirs"


def test_first_use_by_many_at_once(tmp_path: Path) -> None:
    """Processes that open a new ledger at the same moment all find one schema."""
    failures: list[BaseException] = []
    gate = threading.Barrier(8)

    def use(job: int) -> None:
        try:
            gate.wait()
            with Ledger(tmp_path) as ledger:
                ledger.intend(job, 0, [WISH], "boot")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(job,)) for job in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with Ledger(tmp_path) as ledger:
        assert sorted(entry.job for entry in ledger.entries()) == list(range(8))


def test_killed_writer_leaves_whole_transactions(tmp_path: Path) -> None:
    """A process killed while it writes pairs leaves pairs only."""
    writer = (
        "import sys; from pathlib import Path\n"
        "from slurm_mig.ledger import Ledger, Wish\n"
        "from slurm_mig.profiles import Placement\n"
        "ledger = Ledger(Path(sys.argv[1])); wish = Wish('GPU-a', '1g.5gb', 19, Placement(0, 1))\n"
        "for job in range(100000):\n"
        "    ledger.intend(job, 0, [wish, wish], 'boot')\n"
        "    print(job, flush=True)\n"
    )
    for round_number in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", writer, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(3 + round_number):
                acknowledged = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
        with Ledger(tmp_path) as ledger:
            jobs = [entry.job for entry in ledger.entries()]
            assert all(jobs.count(job) % 2 == 0 for job in set(jobs))
            assert jobs.count(acknowledged) >= 2
