"""Bad input, as a table: exit status, the one line that says why, nothing made, nothing lost.

`{…}` in a line stands for what differs from run to run: paths, GPUs. What a user asks never drains
a node (exit 1); what is wrong with the node does, with the reason as the last line.
"""

import os
import re
import subprocess
from dataclasses import dataclass

import pytest

from slurm_mig.rehearsal.hookrun import run_hook

SERVED = "mig:3g.20gb(CNT:1)"


@dataclass
class Row:
    """One kind of bad input: how it is brought about, and what each hook shall do."""

    name: str
    arrange: object
    status: int
    output: str = ""
    gres: str = SERVED
    told: str = ""  # what the job's user reads: the end of its AdminComment
    epilog: int = 0
    env: object = None
    kept: str = ""  # what an Epilog that exits with 0 says of an instance it could not see


def toml(text):
    """Add to the configuration."""
    return lambda hooks: hooks.node.config.write_text(hooks.node.config.read_text() + text)


def others_can_write(hooks):
    """A state directory that everybody can write."""
    state = hooks.node.folder / "state"
    state.mkdir()
    state.chmod(0o777)


def is_a_file(hooks):
    """A state directory that is a file."""
    (hooks.node.folder / "state").write_text("mine")


def no_sqlite(hooks):
    """A ledger that is no database."""
    state = hooks.node.folder / "state"
    state.mkdir(mode=0o700)
    (state / "ledger.sqlite").write_bytes(b"hello, this is no database\n" * 100)


def no_library(hooks):
    """No driver library."""
    hooks.sim.library.unlink()


def no_symbols(hooks):
    """A library that knows nothing of NVML."""
    source = hooks.folder / "empty.c"
    source.write_text("int nothing;\n")
    library = hooks.sim.library
    library.unlink()
    subprocess.run(["/usr/bin/cc", "-shared", "-o", library, source], check=True)


def fails(function, error):
    """A driver that answers one call with an error, always."""
    return lambda hooks: hooks.sim.fail(function, once=False, error=error)


def nothing(_):
    """All is well with the node."""


STATE = "slurm-mig: state directory {dir}/state: "
ROWS = [
    # -- what a user asks for --
    Row(
        *("unknown profile", nothing, 0),
        gres="mig:3g.40gb(CNT:1)",
        told="no GPU of this node has a profile '3g.40gb'; did you mean 7g.40gb? there are 1g.5gb, "
        "2g.10gb, 3g.20gb, 4g.20gb, 7g.40gb, 1g.5gb+me, 1g.10gb",
    ),
    Row(
        *("no profile", nothing, 0),
        gres="mig(CNT:2)",
        told="'mig(CNT:2)' names no profile; ask for one by name, such as --gres=mig:3g.20gb",
    ),
    Row(
        *("no profile name", nothing, 0),
        gres="mig:big(CNT:1)",
        told="'big' is no MIG profile name; names look like 3g.20gb, 1g.5gb+me, 1c.3g.20gb",
    ),
    Row(
        *("hostile profile name", nothing, 0),
        gres="mig:$id`id`\x1b[31m\n../{{ 7*7 }}(CNT:1)",
        told="'$id`id`/x1b[31m/n../{{ 7*7 }}' is no MIG profile name; names look like 3g.20gb, "
        "1g.5gb+me, 1c.3g.20gb",
    ),
    Row(
        *("huge count", nothing, 0),
        gres=f"mig:1g.5gb(CNT:{'9' * 5000})",
        told=f"'mig:1g.5gb(CNT:{'9' * 272}…",
    ),
    Row(
        *("count beyond the node", nothing, 0),
        gres="mig:1g.5gb(CNT:999)",
        told="",
    ),
    # -- what an admin wrote --
    Row(
        *("unknown key", toml("\n[lock]\ntimeuot = 3\n"), 1),
        "slurm-mig: {dir}/config.toml: unknown key 'timeuot' in [lock]; did you mean 'timeout'?\n",
        epilog=1,
    ),
    Row(
        *("unknown section", toml("\n[epilogue]\nbudget = 3\n"), 1),
        "slurm-mig: {dir}/config.toml: unknown section [epilogue]; did you mean 'epilog'?\n",
        epilog=1,
    ),
    Row(
        *("wrong type", toml('\n[lock]\ntimeout = "long"\n'), 1),
        "slurm-mig: {dir}/config.toml: [lock] timeout must be seconds, not 'long'\n",
        epilog=1,
    ),
    Row(
        *("no TOML", lambda hooks: hooks.node.config.write_text("[lock\n"), 1),
        "slurm-mig: {dir}/config.toml: not valid TOML: Expected ']' at the end of a table "
        "declaration (at line 1, column 6)\n",
        epilog=1,
    ),
    Row(
        *("no configuration", lambda hooks: hooks.node.config.unlink(), 1),
        "slurm-mig: {dir}/config.toml: no such configuration file\n",
        epilog=1,
    ),
    Row(
        *("layout without such a profile", toml('\n[layout]\ndefault = { "3g.40gb" = 1 }\n'), 1),
        "slurm-mig: A100-SXM4-40GB has no profile '3g.40gb'; did you mean 7g.40gb? there are "
        "1g.5gb, 2g.10gb, 3g.20gb, 4g.20gb, 7g.40gb, 1g.5gb+me, 1g.10gb\n",
    ),
    # -- what is wrong with the node --
    Row(
        *("state directory of others", others_can_write, 1),
        STATE + "owned by uid {uid}, mode 0777; it must belong to uid {uid} and be writable by "
        "nobody else\n",
        epilog=1,
    ),
    Row(*("state directory is a file", is_a_file, 1), STATE + "File exists\n", epilog=1),
    Row(
        *("ledger is not SQLite", no_sqlite, 1),
        "slurm-mig: ledger {dir}/state/ledger.sqlite: file is not a database; nothing was changed. "
        "To put it aside and rebuild it run: slurm-mig reconcile\n",
        epilog=1,
    ),
    Row(
        *("no driver library", no_library, 1),
        "slurm-mig: driver library {lib}: {lib}: cannot open shared object file: No such file or "
        "directory; install the NVIDIA driver or set [driver] library\n",
        epilog=1,
    ),
    Row(
        *("no NVML in the library", no_symbols, 1),
        "slurm-mig: driver library {lib}: nvmlInit failed: Function Not Found (NVML error 13)\n",
        epilog=1,
    ),
    Row(
        *("driver is not loaded", fails("nvmlInit", "DRIVER_NOT_LOADED"), 1),
        "slurm-mig: driver library {lib}: nvmlInit failed: Driver Not Loaded (NVML error 9)\n",
        epilog=1,
    ),
    Row(
        *("no GPU with MIG", fails("nvmlDeviceGetMigMode", "NOT_SUPPORTED"), 1),
        "slurm-mig: no GPU of this node can do MIG: the driver shows A100-SXM4-40GB\n",
        # Whether the instance is still there cannot be seen, so it stays on the books.
        kept="slurm-mig: quarantined: GPU-… 3g.20gb at 4:4 of job 7: GPU-…: the driver does not "
        "report MIG profile 9 now, so it cannot be seen what is there; look at dmesg for Xid "
        "errors, then run: slurm-mig reconcile\n",
    ),
    # -- who called --
    *(
        Row(
            *(f"job id {value!r}", nothing, 2),
            "slurm-mig: SLURM_JOB_ID is not a job id; this is a Slurm {Which}, slurmd runs it\n",
            epilog=2,
            env={"SLURM_JOB_ID": value},
        )
        for value in ("", "x", "7;id", "../7", "-1", "7 8", "7\n8", "\u0667")
    ),
    Row(
        *("job id beyond all bounds", nothing, 2),
        "slurm-mig: SLURM_JOB_ID '123456789012' is not a job id; Slurm sets it for every {which}\n",
        env={"SLURM_JOB_ID": "123456789012"},
    ),
]


def expected(row, hooks, which):
    """The row's output for this node and hook."""
    values = {
        "{dir}": str(hooks.node.folder),
        "{lib}": str(hooks.sim.library),
        "{uid}": str(os.geteuid()),
        "{Which}": which.capitalize(),
        "{which}": which,
    }
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], row.output)


def contents(hooks):
    """Every file of the node's state, byte for byte."""
    state = hooks.node.folder / "state"
    if state.is_file():
        return {state: state.read_bytes()}
    return {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_prolog(hooks, row):
    """The Prolog: documented exit, one line, nothing made, nothing of what was there lost."""
    hooks.job(7, row.gres)
    row.arrange(hooks)
    before = contents(hooks)
    run = hooks.prolog(env=row.env)
    assert (run.rc, run.output) == (row.status, expected(row, hooks, "prolog"))
    assert hooks.sim.counts().made == 0
    after = contents(hooks)
    assert {path: after.get(path) for path in before} == before
    assert "Traceback" not in "".join(hooks.logged())
    comments = [line for line in hooks.asked() if "AdminComment" in line]
    if row.told:
        said = f"scontrol update JobId=7 AdminComment=slurm-mig: {row.told}"
        assert comments == [said]
        assert hooks.task()[0] == 1
    elif row.status:
        assert comments == []
        assert hooks.task()[1] == {}


@pytest.mark.parametrize("row", [row for row in ROWS if not row.told], ids=lambda row: row.name)
def test_epilog(hooks, row):
    """The Epilog of a job that has an instance: the same, and the instance stays on the books."""
    hooks.job(7, SERVED)
    assert hooks.prolog().rc == 0
    state = hooks.node.folder / "state"
    moved = hooks.node.folder / "before"
    if row.arrange in (others_can_write, is_a_file, no_sqlite):
        state.rename(moved)
    row.arrange(hooks)
    before = contents(hooks)
    run = hooks.epilog(env=row.env)
    said = expected(row, hooks, "epilog") if row.epilog else row.kept
    assert (run.rc, re.sub("GPU-[0-9a-f-]{36}", "GPU-…", run.output)) == (row.epilog, said)
    after = contents(hooks)
    if row.epilog:
        assert {path: after.get(path) for path in before} == before
        assert hooks.sim.counts().left == 1


HOSTILE = (
    "\n\r\x1b[2J\x1b]0;owned\x07$(touch /tmp/x)`id`;&|<>'\"\\{{ 7*7 }}{% raw %}../../../etc/passwd"
    "\u202e\u2066é漢\udcff\udcfe%s%n mig:7g.40gb(CNT:1) GRES=mig:7g.40gb:1 slurm-mig/1:7g.40gb=1;"
)


@pytest.mark.parametrize("mode", ["ask", "token"])
def test_hostile_environment(make, mode):
    """100 KB of hostile text in all that a user can set: served as asked, one log line each."""
    hooks = make(slurm={"request": mode})
    much = HOSTILE * (100_000 // len(HOSTILE) + 1)
    hooks.job(7, SERVED, name=much, comment=much, admin_comment=much, account=HOSTILE)
    options = {
        "comment": HOSTILE * 100,
        "work_dir": HOSTILE * 100,
        "stdout": HOSTILE * 100,
        "account": HOSTILE,
        "spank_env": {f"SPANK_{n}": HOSTILE * 300 for n in range(3)},
        "extra": f"slurm-mig/1:3g.20gb=1;{HOSTILE * 100}" if mode == "token" else HOSTILE,
    }
    run = hooks.prolog(**options)
    assert (run.rc, run.output) == (0, "")
    assert hooks.lives() == [("3g.20gb", "4:4")]
    assert set(hooks.task()[1]) == {
        *("CUDA_VISIBLE_DEVICES", "SLURM_MIG_DEVICES", "SLURM_MIG_PROFILES"),
    }
    run = hooks.epilog(**options)
    assert (run.rc, run.output) == (0, "")
    hooks.nothing_left()
    lines = hooks.node.log.read_text().split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_hostile_node_name(hooks):
    """A node name that is none cannot reach a command; it is escaped where it is quoted."""
    hooks.job(7, SERVED)
    run = hooks.prolog(env={"SLURMD_NODENAME": "x\n--all\x1b[2J"})
    assert (run.rc, run.output) == (0, "")
    assert hooks.lives() == []
    assert "\x1b" not in hooks.node.log.read_text()


def test_run_directory_of_others(hooks):
    """A run directory that others can write is refused before anything is made."""
    hooks.job(7, SERVED)
    jobs = hooks.node.run_directory / "jobs"
    jobs.mkdir(parents=True)
    jobs.chmod(0o777)
    run = hooks.prolog()
    assert run.rc == 1
    assert run.output == (
        f"slurm-mig: run directory {jobs}: must be a folder of uid {os.geteuid()} that nobody else "
        f"can write; it belongs to uid {os.geteuid()}, mode 0777\n"
    )
    assert hooks.sim.counts().made == 0


def test_mig_mode_off(make):
    """MIG mode off is said with the way out, and nothing is made."""
    hooks = make("A100-SXM4-40GB:2", mig_enabled=False)
    hooks.job(7, SERVED)
    run = hooks.prolog()
    assert (run.rc, run.output) == (
        1,
        (
            "slurm-mig: MIG mode is off on GPU 0 (A100-SXM4-40GB), GPU 1 (A100-SXM4-40GB); turn it "
            "on: nvidia-smi -mig 1 (Ampere: then reset the GPU)\n"
        ),
    )
    assert hooks.sim.counts().made == 0
    assert hooks.ledger() == []


def test_task_prolog_with_a_bad_id(hooks):
    """The task prolog leaves a task alone when the job id is none, and prints nothing."""
    for value in ("", "x", "../../etc", "7;id"):
        run = run_hook(hooks.node.task_prolog, {"SLURM_JOB_ID": value})
        assert (run.rc, run.output) == (0, "")
