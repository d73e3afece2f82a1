"""The cluster's description: rendered files installed and current, this host as described."""

from pathlib import Path

import pytest

from slurm_mig import clusterfile, render

DESCRIPTION = """
[slurm]
release = "24.11"
config_directory = "/etc/slurm"

[install]
directory = "/etc/slurm-mig"
program = "/opt/slurm-mig/bin/slurm-mig"

[layout]
default = "balanced"

[nodes.a100]
hosts = "n[1-4]"
gpus = "A100-SXM4-40GB:1"
conf = "CPUs=64"
"""
WITHOUT_COUNTS = "Slurm's counts are not the nodes' promises"


TIMER = "etc/systemd/system/slurm-mig-reconcile.timer"


@pytest.fixture
def described(host):
    """The host of `host`, with a description and all that it gives installed."""
    host.cluster = host.folder / "cluster.toml"
    host.cluster.write_text(DESCRIPTION)
    for file in render.render(clusterfile.load(host.cluster)):
        path = host.folder / file.install.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
    timer = host.folder / TIMER
    timers = timer.parent / "timers.target.wants"
    timers.mkdir()
    (timers / timer.name).symlink_to(timer)
    (host.folder / "etc/slurm/slurm.conf").write_text(
        "ClusterName=x\n  include  slurm-mig.conf # ours\n"
    )
    return host


def test_nothing_described(host):
    """Without a description there is nothing to compare, and that is said."""
    host.cluster = None
    (line,) = host.found(
        "cluster.description", "cluster.release", "cluster.files", "cluster.host", role="node"
    )
    assert line == "ok /etc/slurm-mig/cluster.toml: not there: rendered files are not compared"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[slurm\n", "failure ~/cluster.toml:1: not valid TOML"),
        ("[slurn]\n", "failure ~/cluster.toml:1: "),
        ("", "failure ~/cluster.toml"),
    ],
)
def test_broken_description(described, text, said):
    """What is wrong in it, and one line for all that needs it."""
    described.cluster.write_text(text)
    first, second = described.found("cluster.description", "cluster.files", "cluster.host")
    assert first.startswith(said)
    assert first.endswith(": nothing can be rendered; mend: correct ~/cluster.toml")
    assert second == (
        "warning rendered files, GPUs as described: could not look: the cluster's description "
        "cannot be read"
    )


def test_missing_description(described):
    """One that was named and is not there."""
    described.cluster.unlink()
    (line,) = described.found("cluster.description")
    assert line.startswith("failure ~/cluster.toml: no such file; ")


def test_all_installed_on_a_controller(described):
    """The files of a controller are those that Slurm reads."""
    assert described.found("cluster.description", "cluster.files", role="controller") == [
        "ok ~/cluster.toml: 1 groups, 4 nodes",
        (
            "ok rendered files: current: ~/etc/slurm/gres.conf, ~/etc/slurm/slurm-mig.conf, "
            "~/etc/slurm/slurm_mig.lua, ~/etc/slurm/job_submit.lua"
        ),
    ]


def test_all_installed_on_a_node(described):
    """A node has its own, and Slurm's where it has a slurm.conf."""
    (line,) = described.found("cluster.files")
    assert line.startswith(
        "ok rendered files: current: ~/etc/slurm/gres.conf, ~/etc/slurm/slurm-mig.conf, "
        "~/etc/slurm-mig/config.toml"
    )
    (described.folder / "etc/slurm/slurm.conf").unlink()
    (described.folder / "etc/slurm/gres.conf").unlink()
    (line,) = described.found("cluster.files")
    assert line.startswith("ok rendered files: current: ~/etc/slurm-mig/config.toml")


def made(name, install):
    """The command that installs a rendered file."""
    return (
        "mend: slurm-mig render -c ~/cluster.toml -o /root/slurm-mig-files && install -D -m 0644 "
        f"/root/slurm-mig-files/{name} {install}"
    )


def test_stale(described):
    """A file of yesterday's description, and one that is missing."""
    described.cluster.write_text(DESCRIPTION.replace('"balanced"', '"small"'))
    (described.folder / "etc/slurm/slurm_mig.lua").unlink()
    lines = described.found("cluster.files", role="controller")
    assert lines[0] == (
        "failure ~/etc/slurm/gres.conf: not what cluster.toml gives now: "
        f"{WITHOUT_COUNTS}; {made('slurm/gres.conf', '~/etc/slurm/gres.conf')}"
    )
    assert (
        "failure ~/etc/slurm/slurm_mig.lua: not there: requests are not checked at submission; "
        + made("slurm/slurm_mig.lua", "~/etc/slurm/slurm_mig.lua")
    ) in lines
    assert lines[-1] == "ok rendered files: current: ~/etc/slurm/job_submit.lua"


def test_timer_is_not_enabled(described):
    """A timer that no target starts does nothing."""
    (described.folder / f"etc/systemd/system/timers.target.wants/{Path(TIMER).name}").unlink()
    assert described.found("cluster.files")[0] == (
        f"warning ~/{TIMER}: not enabled: what a reboot or a crash leaves is not mended; mend: "
        "systemctl enable --now slurm-mig-reconcile.timer"
    )


def test_unit_is_missing(described):
    """A unit that is not there is installed, and systemd told."""
    (described.folder / TIMER).unlink()
    assert described.found("cluster.files")[0] == (
        f"failure ~/{TIMER}: not there: what a reboot or a crash leaves is not mended; "
        + made("systemd/slurm-mig-reconcile.timer", f"~/{TIMER}")
        + " && systemctl daemon-reload"
    )


def test_gres_conf_of_the_site(described):
    """A file that we did not make is not overwritten by our advice."""
    (described.folder / "etc/slurm/gres.conf").write_text("Name=gpu File=/dev/nvidia0\n")
    assert described.found("cluster.files", role="controller")[0] == (
        f"failure ~/etc/slurm/gres.conf: not made by slurm-mig: {WITHOUT_COUNTS}; mend: compare: "
        "slurm-mig render -c ~/cluster.toml -o /root/slurm-mig-files && diff ~/etc/slurm/gres.conf "
        "/root/slurm-mig-files/slurm/gres.conf"
    )


def test_fragment_is_not_included(described):
    """A fragment that slurm.conf does not include does nothing."""
    (described.folder / "etc/slurm/slurm.conf").write_text("# Include slurm-mig.conf\n")
    assert described.found("cluster.files", role="controller")[0] == (
        "failure ~/etc/slurm/slurm.conf: does not include slurm-mig.conf: Slurm has none of what "
        "was rendered; mend: echo 'Include slurm-mig.conf' >> ~/etc/slurm/slurm.conf; then restart "
        "slurmctld and every slurmd"
    )


def test_job_submit_of_the_site(described):
    """A site's own job_submit.lua must make both calls."""
    path = described.folder / "etc/slurm/job_submit.lua"
    text = 'local slurm_mig = require "slurm_mig"\nslurm_mig.job_submit(a, b, c)\n'
    path.write_text(text)
    assert described.found("cluster.files", role="controller")[0] == (
        "failure ~/etc/slurm/job_submit.lua: it does not call slurm_mig.job_modify: requests are "
        "not checked, and users can forge the token; mend: call it as in: slurm-mig render -c "
        "~/cluster.toml -o /root/slurm-mig-files && cat /root/slurm-mig-files/slurm/job_submit.lua"
    )
    path.write_text(text + "slurm_mig.job_modify(a, b, c, d)\n")
    (line,) = described.found("cluster.files", role="controller")
    assert line.endswith(", ~/etc/slurm/job_submit.lua")


def test_file_that_is_a_folder(described):
    """What cannot be read is said, and does not stop the rest."""
    path = described.folder / "etc/slurm/gres.conf"
    path.unlink()
    path.mkdir()
    (line,) = described.found("cluster.files", role="controller")
    assert line.startswith("warning rendered files: could not look: ~/etc/slurm/gres.conf: ")


def test_release(described):
    """Rendered for another release than the one that runs."""
    assert described.found("cluster.release") == []
    described.says("slurm 26.05.5\n", "version")
    assert described.found("cluster.release") == [
        (
            "warning [slurm] release in ~/cluster.toml: 24.11, but Slurm here is 26.05: files for "
            'another release may not be read, or not do what they should; mend: set it to "26.05", '
            "render again, install"
        )
    ]


def test_plugin(described):
    """What the description counts on must be switched on."""
    assert described.found("cluster.plugin", role="controller") == ["ok JobSubmitPlugins: lua"]
    described.configured(JobSubmitPlugins="require_timelimit,job_submit/lua")
    assert described.found("cluster.plugin", role="controller")[0].startswith("ok ")
    described.configured(JobSubmitPlugins="require_timelimit")
    assert described.found("cluster.plugin", role="controller") == [
        (
            "failure JobSubmitPlugins: require_timelimit: lua is missing: requests are not checked "
            "at submission, and mig:20gb is not understood; mend: JobSubmitPlugins=lua in "
            "slurm.conf, then restart slurmctld"
        )
    ]
    described.cluster = None
    assert described.found("cluster.plugin", role="controller") == [
        (
            "warning JobSubmitPlugins: require_timelimit: lua is missing: a request that makes no "
            "sense is found only by the Prolog of a node; mend: describe the cluster in "
            "cluster.toml and install what slurm-mig render makes"
        )
    ]


def test_token(make):
    """A node that trusts a token needs a plugin that stamps it."""
    host = make(settings={"slurm": {"timeout": 0.3, "request": "token"}})
    assert host.found("cluster.token") == [
        'ok [slurm] request: "token", and the job_submit plugin is there'
    ]
    failure = (
        'failure [slurm] request: is "token", but nothing stamps the token: users can write it '
        'themselves and get what Slurm has not counted; mend: set it to "ask" in '
        "~/n1/config.toml, then: slurm-mig hooks"
    )
    host.cluster = host.folder / "cluster.toml"
    host.cluster.write_text(DESCRIPTION + '[job_submit]\ntoken = "none"\n')
    assert host.found("cluster.token") == [failure]
    host.cluster = None
    host.configured(JobSubmitPlugins="(null)")
    assert host.found("cluster.token") == [failure]


def test_gpus_as_described(described):
    """The GPUs of the group, each at its index."""
    assert described.found("cluster.host") == ["ok node n1: has the GPUs of group a100"]


def test_other_gpus_than_described(make):
    """Another model, one too few, one too many."""
    host = make("A30-24GB", "A100-SXM4-40GB", layout=None)
    host.cluster = host.folder / "cluster.toml"
    host.cluster.write_text(
        DESCRIPTION.replace(
            '"A100-SXM4-40GB:1"',
            '[ { model = "A100-SXM4-40GB", index = "0" }, { model = "A30-24GB", index = "2" } ]',
        )
    )
    assert host.found("cluster.host") == [
        (
            "failure node n1: /dev/nvidia0 is A30, not A100-SXM4-40GB; /dev/nvidia2 is nothing, "
            "not A30-24GB; /dev/nvidia1 (A100-SXM4-40GB) is not described: group a100 promises "
            "other GPUs to Slurm; mend: correct [nodes.a100] gpus in ~/cluster.toml"
        )
    ]


def test_node_that_is_not_described(described):
    """A node of no group."""
    described.cluster.write_text(DESCRIPTION.replace("n[1-4]", "n[2-4]"))
    assert described.found("cluster.host") == [
        (
            "warning node n1: in no group of ~/cluster.toml: nothing is rendered for it; mend: add "
            "it to hosts of a group there, or name the node: --node"
        )
    ]


def test_timeouts_of_a_controller(described):
    """A controller has no node's configuration: the description says what hooks may take."""
    described.config = described.folder / "none/config.toml"
    node = f'[node.slurm]\nscontrol = "{described.scontrol}"\n[node.epilog]\nbudget = 500\n'
    described.cluster.write_text(DESCRIPTION + node)
    assert described.found("slurm.timeouts", role="controller")[1] == (
        "ok PrologEpilogTimeout for the Epilog: 2000 s, enough for 1160 s at worst"
    )
