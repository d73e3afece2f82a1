"""The hooks: in slurm.conf, on the disk, root's alone, current."""

import os
from pathlib import Path

import pytest

NAMES = ("slurm-mig-prolog", "slurm-mig-task-prolog", "slurm-mig-epilog")
INSTALL = "slurm-mig hooks --config ~/n1/config.toml ~/n1/hooks"


def test_installed(host):
    """As `slurm-mig hooks` leaves them, and as slurm.conf should name them."""
    assert host.found("hooks.slurm-conf", "hooks.files") == [
        "ok Prolog=~/n1/hooks/slurm-mig-prolog: slurm-mig's",
        "ok TaskProlog=~/n1/hooks/slurm-mig-task-prolog: slurm-mig's",
        "ok Epilog=~/n1/hooks/slurm-mig-epilog: slurm-mig's",
        *(f"ok ~/n1/hooks/{name}: owned by uid 0, mode 0755, current" for name in NAMES),
    ]


def test_not_in_slurm_conf(host):
    """Each that is missing is a failure that says what then happens."""
    host.configured(Prolog="(null)", Epilog=None, TaskProlog="(null)")
    mend = "in slurm.conf, then: scontrol reconfigure"
    assert host.found("hooks.slurm-conf") == [
        (
            "failure Prolog=(none): slurm-mig-prolog is missing: jobs start without their "
            f"instances; mend: Prolog=~/n1/hooks/slurm-mig-prolog {mend}"
        ),
        (
            "failure TaskProlog=(none): slurm-mig-task-prolog is missing: jobs do not see their "
            f"instances; mend: TaskProlog=~/n1/hooks/slurm-mig-task-prolog {mend}"
        ),
        (
            "failure Epilog=(none): slurm-mig-epilog is missing: instances stay after their jobs; "
            f"mend: Epilog=~/n1/hooks/slurm-mig-epilog {mend}"
        ),
    ]


def test_pattern(host):
    """A folder of Prologs, by a pattern, that has ours."""
    host.configured(Prolog=f"{host.hooks}/*-prolog")
    assert host.found("hooks.slurm-conf")[0] == ("ok Prolog=~/n1/hooks/*-prolog: slurm-mig's")


def test_called_by_a_script(host):
    """A site's own Prolog that names ours; the file that it names is the one looked at."""
    other = host.folder / "hooks"
    other.mkdir()
    script = host.folder / "prolog.sh"
    script.write_text(f"#!/bin/sh\n. /etc/site\nexec {other}/slurm-mig-prolog\n")
    host.configured(Prolog=str(script))
    assert host.found("hooks.slurm-conf")[0] == (
        "ok Prolog=~/prolog.sh: it names ~/hooks/slurm-mig-prolog"
    )
    assert host.found("hooks.files")[0] == (
        "failure ~/hooks/slurm-mig-prolog: not there: jobs start without their instances; mend: "
        "slurm-mig hooks --config ~/n1/config.toml ~/hooks"
    )


def test_script_that_does_not_call_ours(host):
    """A site's own Prolog alone."""
    script = host.folder / "prolog.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    host.configured(Prolog=str(script))
    assert host.found("hooks.slurm-conf")[0] == (
        "failure Prolog=~/prolog.sh: it does not call slurm-mig-prolog: jobs start without their "
        "instances; mend: call it from there, or Prolog=~/n1/hooks/slurm-mig-prolog in slurm.conf, "
        "then: scontrol reconfigure"
    )


def test_script_that_is_elsewhere(host):
    """On a controller the site's Prolog may not be there: it cannot be told."""
    host.configured(Prolog="/nowhere/prolog.sh")
    assert host.found("hooks.slurm-conf", role="controller")[0] == (
        "warning Prolog=/nowhere/prolog.sh: could not look: whether it calls slurm-mig-prolog "
        "cannot be told here: if it does not, jobs start without their instances; mend: run doctor "
        "on a node"
    )


def test_missing_without_slurm(host):
    """When Slurm does not say where they are, they are looked for where they always are."""
    (host.slurm / "config").unlink()
    (host.hooks / NAMES[2]).unlink()
    assert host.found("hooks.files") == [
        "ok ~/n1/hooks/slurm-mig-prolog: owned by uid 0, mode 0755, current",
        "ok ~/n1/hooks/slurm-mig-task-prolog: owned by uid 0, mode 0755, current",
        (
            "failure ~/n1/hooks/slurm-mig-epilog: not there: instances stay after their jobs; "
            f"mend: {INSTALL}"
        ),
    ]


@pytest.mark.parametrize(
    ("path", "uid", "mode"),
    [
        ("n1/hooks/slurm-mig-prolog", 4242, 0o755),
        ("n1/hooks/slurm-mig-prolog", 0, 0o775),
        ("n1/hooks", 4242, 0o755),
        ("n1", 0, 0o757),
    ],
)
def test_not_roots_alone(host, path, uid, mode):
    """Who can change the file, or a folder above it, is root."""
    there = host.folder / path
    there.chmod(mode)
    os.chown(there, uid, 0)
    is_ = f"owned by uid {uid}, mode {mode:04o}"
    said = is_ if path.endswith("prolog") else f"~/{path} is {is_}"
    assert host.found("hooks.files")[0] == (
        f"failure ~/n1/hooks/slurm-mig-prolog: {said}: slurmd runs it as root, so root alone may "
        f"be able to change it; mend: chown root:root ~/{path} && chmod go-w ~/{path}"
    )


def test_link_to_a_users_file(host):
    """What counts is what a link leads to."""
    users = host.folder / "home"
    users.mkdir()
    target = users / "prolog"
    target.write_text((host.hooks / NAMES[0]).read_text())
    target.chmod(0o755)
    os.chown(users, 4242, 0)
    (host.hooks / NAMES[0]).unlink()
    (host.hooks / NAMES[0]).symlink_to(target)
    assert host.found("hooks.files")[0].startswith(
        "failure ~/n1/hooks/slurm-mig-prolog: ~/home is owned by uid 4242, mode 0755: "
    )


def test_cannot_be_run(host):
    """The Prolog is root's; the TaskProlog must be everybody's to read and run."""
    (host.hooks / NAMES[0]).chmod(0o644)
    (host.hooks / NAMES[1]).chmod(0o700)
    assert host.found("hooks.files")[:2] == [
        (
            "failure ~/n1/hooks/slurm-mig-prolog: owned by uid 0, mode 0644: it cannot be run; "
            "mend: chmod 0755 ~/n1/hooks/slurm-mig-prolog"
        ),
        (
            "failure ~/n1/hooks/slurm-mig-task-prolog: owned by uid 0, mode 0700: it cannot be "
            "run; mend: chmod 0755 ~/n1/hooks/slurm-mig-task-prolog"
        ),
    ]


def test_closed_folder(host):
    """A folder that users cannot enter keeps the TaskProlog from them."""
    host.hooks.chmod(0o700)
    assert host.found("hooks.files")[1] == (
        "failure ~/n1/hooks/slurm-mig-task-prolog: ~/n1/hooks is owned by uid 0, mode 0700: the "
        "TaskProlog runs as the job's user, who cannot reach it; mend: chmod o+x ~/n1/hooks"
    )


def edit(host, name, old, new):
    """Change a hook."""
    path = host.hooks / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_other_settings(make):
    """A hook with the settings of another day."""
    host = make(settings={"slurm": {"timeout": 0.3}})
    edit(host, NAMES[0], "REQUEST=ask", "REQUEST=token")
    edit(host, NAMES[2], "/run\n", "/elsewhere\n")
    lines = host.found("hooks.files")
    assert lines[0] == (
        "failure ~/n1/hooks/slurm-mig-prolog: REQUEST=token, by the configuration it is ask: it "
        f"does not do what the configuration says; mend: {INSTALL}"
    )
    assert lines[2] == (
        "failure ~/n1/hooks/slurm-mig-epilog: RUN=~/n1/elsewhere, by the configuration it is "
        f"~/n1/run: it does not do what the configuration says; mend: {INSTALL}"
    )


def test_other_configuration(host):
    """A hook that reads another file than doctor."""
    edit(host, NAMES[0], f"CONFIG={host.config}", "CONFIG=/etc/other.toml")
    assert host.found("hooks.files")[0] == (
        "failure ~/n1/hooks/slurm-mig-prolog: reads /etc/other.toml, not ~/n1/config.toml: it does "
        f"not do what the configuration says; mend: {INSTALL}"
    )


def test_other_release(host):
    """A hook of another release of slurm-mig."""
    edit(host, NAMES[0], "umask 077", "umask 027")
    assert host.found("hooks.files")[0] == (
        "failure ~/n1/hooks/slurm-mig-prolog: not what this release of slurm-mig installs: an old "
        f"hook may not work with the new package; mend: {INSTALL}"
    )


def python_of(host):
    """The interpreter in the Prolog, and its folders."""
    lines = (host.hooks / NAMES[0]).read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line.startswith("PYTHON"))
    return values["PYTHON"], values["PYTHON_PATH"]


def test_python_is_gone(host):
    """An interpreter, or a package, that is not there any more."""
    python, folders = python_of(host)
    edit(host, NAMES[0], f"PYTHON={python}\n", "PYTHON=/opt/gone/bin/python\n")
    edit(host, NAMES[2], f"PYTHON_PATH={folders}\n", "PYTHON_PATH=/opt/gone/lib\n")
    lines = host.found("hooks.files")
    assert lines[0] == (
        "failure ~/n1/hooks/slurm-mig-prolog: its Python /opt/gone/bin/python cannot be run: it "
        f"fails for every job; mend: {INSTALL}"
    )
    assert lines[2] == (
        "failure ~/n1/hooks/slurm-mig-epilog: slurm_mig is not in its PYTHON_PATH: it fails for "
        f"every job; mend: {INSTALL}"
    )


def test_other_name_of_the_same_python(host):
    """A virtual environment has its interpreter under several names: that is no other one."""
    python, _ = python_of(host)
    folder = Path(python).parent
    other = next(p for p in folder.glob("python3*") if str(p) != python and p.samefile(python))
    edit(host, NAMES[0], f"PYTHON={python}\n", f"PYTHON={other}\n")
    assert host.found("hooks.files")[0].startswith("ok ~/n1/hooks/slurm-mig-prolog: ")


def test_other_installation(host):
    """Another Python that works is only worth a word."""
    python, _ = python_of(host)
    edit(host, NAMES[0], f"PYTHON={python}\n", "PYTHON=/usr/bin/env\n")
    assert host.found("hooks.files")[0] == (
        "warning ~/n1/hooks/slurm-mig-prolog: it runs another installation than this one: "
        f"/usr/bin/env: what doctor sees is not what jobs get; mend: {INSTALL}"
    )


def test_python_of_a_user(host):
    """An interpreter that a user can replace runs as root."""
    python, _ = python_of(host)
    folder = host.folder / "venv"
    folder.mkdir()
    (folder / "python").symlink_to(python)
    os.chown(folder, 4242, 0)
    edit(host, NAMES[0], f"PYTHON={python}\n", f"PYTHON={folder}/python\n")
    assert host.found("hooks.files")[0] == (
        "failure ~/n1/hooks/slurm-mig-prolog: it runs ~/venv/python, and ~/venv is owned by uid "
        "4242, mode 0755: root runs it, so root alone may be able to change it; mend: install "
        "slurm-mig where only root can write, as /opt/slurm-mig, then: " + INSTALL
    )


@pytest.mark.parametrize("text", ["", "\x00\xff", "# -- settings: --\nPYTHON='\n"])
def test_damaged(host, text):
    """Whatever stands in the file, it is a failure and not the end."""
    (host.hooks / NAMES[0]).write_text(text)
    lines = host.found("hooks.files")
    assert lines[0].startswith("failure ~/n1/hooks/slurm-mig-prolog: ")
    assert lines[-1] == "ok ~/n1/hooks/slurm-mig-epilog: owned by uid 0, mode 0755, current"
