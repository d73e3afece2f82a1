"""The log: one line per operation, whatever is in it, and never a reason to fail."""

import os
import re
import subprocess
import sys
import syslog
import threading
from pathlib import Path

import pytest

from slurm_mig.log import Log

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[\d+\] "


def test_one_line(tmp_path: Path) -> None:
    """An operation is one line: outcome first, fields in their order, the total last."""
    path = tmp_path / "log"
    log = Log(str(path), "prolog", job=7, node="n1")
    log.note(wanted="3g.20gb x2", empty="")
    log.write("served")
    pattern = (
        r'prolog: outcome=served job=7 node=n1 wanted="3g\.20gb x2" empty="" total_s=\d\.\d{3}\n'
    )
    assert re.fullmatch(STAMP + pattern, path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600


def test_phases_add_up(tmp_path: Path) -> None:
    """A phase that runs twice has one time, also when it fails."""
    path = tmp_path / "log"
    log = Log(str(path), "prolog")
    with log.phase("create"):
        pass
    with pytest.raises(ZeroDivisionError), log.phase("create"):
        raise ZeroDivisionError
    log.write("undone", failed=True)
    assert path.read_text().count("create_s=0.000") == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", '"a\\\\x0ab"'),
        ('say "x"', '"say \\"x\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("\x1b[31m", '"\\\\x1b[31m"'),
        ("\u202egpj.exe", '"\\\\x202egpj.exe"'),
        ("\udcff", '"\\\\xdcff"'),
        ("x=y", '"x=y"'),
        ("é漢", "é漢"),
        (1.23456, "1.235"),
        ("x" * 1000, '"' + "x" * 399 + '…"'),
    ],
)
def test_any_text_stays_on_its_line(tmp_path: Path, value: object, shown: str) -> None:
    """Line breaks, quotes, escapes and what is not text are escaped; the length is bounded."""
    path = tmp_path / "log"
    log = Log(str(path), "prolog")
    log.note(comment=value)
    log.write("served")
    line, end = path.read_text().split("\n")
    assert end == ""
    assert f" comment={shown} total_s=" in line


@pytest.mark.parametrize("where", ["missing/log", ".", "link"])
def test_log_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    """A log that cannot be written, or is somebody's link, is no error, and nothing is followed."""
    (tmp_path / "link").symlink_to(tmp_path / "target")
    Log(str(tmp_path / where), "prolog").write("served")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(("failed", "priority"), [(False, syslog.LOG_INFO), (True, syslog.LOG_ERR)])
def test_syslog(monkeypatch: pytest.MonkeyPatch, failed: bool, priority: int) -> None:
    """To syslog: as a daemon, and as an error when the operation failed."""
    said: list[tuple[object, ...]] = []
    monkeypatch.setattr(syslog, "openlog", lambda *words: said.append(words))
    monkeypatch.setattr(syslog, "syslog", lambda *words: said.append(words))
    Log("syslog", "epilog", job=7).write("removed", failed=failed)
    opened, (level, line) = said
    assert opened == ("slurm-mig", syslog.LOG_PID, syslog.LOG_DAEMON)
    assert level == priority
    assert re.fullmatch(r"epilog: outcome=removed job=7 total_s=0\.\d{3}", str(line))


def test_many_writers(tmp_path: Path) -> None:
    """Lines of processes that write at once are whole."""
    path = tmp_path / "log"
    code = (
        "import sys; from slurm_mig.log import Log\n"
        "for n in range(50):\n"
        "    log = Log(sys.argv[1], 'prolog', job=n); log.note(text='x' * 300)\n"
        "    log.write('served')\n"
    )

    def write() -> None:
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_text().splitlines()
    assert len(lines) == 150
    assert all(re.fullmatch(STAMP + r"prolog: .*text=x{300} total_s=\S+", line) for line in lines)
    assert os.stat(path).st_nlink == 1  # noqa: PTH116
