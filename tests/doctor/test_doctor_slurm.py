"""Slurm: release, PrologFlags, timeouts, types, AutoDetect, the node's counts."""

import json

import pytest

from slurm_mig import slurm_config

MEND = "in slurm.conf, then: scontrol reconfigure"


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("slurm-wlm 22.05.8", "ok Slurm 22.05.8: slurm-mig is tested with this release"),
        ("slurm 24.11.5", "ok Slurm 24.11.5: slurm-mig is tested with this release"),
        (
            "slurm 23.11.4",
            (
                "ok Slurm 23.11.4: between releases that slurm-mig is tested with "
                "(22.05, 24.11, 26.05)"
            ),
        ),
        (
            "slurm 25.05.0",
            (
                "failure Slurm 25.05.0: it gives the same GRES to several jobs (fixed in 25.05.1): "
                "two jobs get one instance's count; mend: update Slurm"
            ),
        ),
        (
            "slurm 25.05.1",
            (
                "ok Slurm 25.05.1: between releases that slurm-mig is tested with "
                "(22.05, 24.11, 26.05)"
            ),
        ),
        (
            "slurm 21.08.8",
            (
                "failure Slurm 21.08.8: older than 22.05: what a job holds cannot be read from it; "
                "mend: update Slurm"
            ),
        ),
        (
            "slurm 26.11.0",
            (
                "warning Slurm 26.11.0: newer than what slurm-mig is tested with: "
                "tested: 22.05, 24.11, 26.05"
            ),
        ),
    ],
)
def test_release(host, version, line):
    """The release is known, known to be bad, or new."""
    host.says(f"{version}\n", "version")
    assert host.found("slurm.release") == [line]


def test_slurm_is_down(host):
    """No answer from slurmctld: a failure, and one line says what was not looked at for it."""
    (host.slurm / "config").unlink()
    assert host.found("slurm.release", "slurm.gres-types", "slurm.prolog-flags") == [
        (
            "failure Slurm: configuration of Slurm: Slurm does not answer within 0.3 s: "
            "slurm_load error: Unable to contact slurm controller (connect failure); check "
            "slurmctld and munge: a Prolog that cannot ask slurmctld drains the node; mend: "
            "scontrol ping; systemctl status slurmctld munge"
        ),
        "warning PrologFlags, GresTypes: could not look: Slurm does not answer",
    ]


def test_scontrol_hangs(host):
    """A scontrol that never ends is given up."""
    host.program(host.scontrol, "#!/bin/sh\nexec sleep 600\n")
    (line,) = host.found("slurm.release")
    assert line.startswith(
        "failure Slurm: release of Slurm: Slurm does not answer within 0.3 s: scontrol did not end;"
    )


@pytest.mark.parametrize("text", ["", "what?\n", "\x00\xff\n"])
def test_scontrol_talks_nonsense(host, text):
    """A version that is none is said, not read as one."""
    host.says(text, "version")
    (line,) = host.found("slurm.release")
    assert line.startswith("failure Slurm: ~/slurm/scontrol --version: no release in ")


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        ("Alloc,DeferBatch", ["ok PrologFlags=Alloc,DeferBatch: as it should be"]),
        ("Contain,DeferBatch", ["ok PrologFlags=Contain,DeferBatch: as it should be"]),
        (
            "X11",
            [
                (
                    "warning PrologFlags=X11: DeferBatch is missing: a batch script may begin on "
                    "one node while another has no room and sends it back; mend: add DeferBatch to "
                    f"PrologFlags {MEND}"
                )
            ],
        ),
        (
            "DeferBatch",
            [
                (
                    "failure PrologFlags=DeferBatch: Alloc is missing: the Prolog then runs late "
                    "or never, and jobs wait for no instance; mend: PrologFlags=Alloc,DeferBatch "
                    f"{MEND}"
                )
            ],
        ),
        (
            "Alloc,DeferBatch,Serial,RunInJob",
            [
                (
                    "failure PrologFlags=Alloc,DeferBatch,Serial,RunInJob: Serial: a Prolog that "
                    "waits for space then keeps the Epilog that frees it from running; mend: take "
                    f"Serial out of PrologFlags {MEND}"
                ),
                (
                    "failure PrologFlags=Alloc,DeferBatch,Serial,RunInJob: RunInJob: a Prolog "
                    "inside the job's device cgroup cannot partition a GPU; mend: take RunInJob "
                    f"out of PrologFlags {MEND}"
                ),
            ],
        ),
    ],
)
def test_prolog_flags(host, flags, lines):
    """Alloc or what means it, and neither Serial nor RunInJob."""
    host.configured(PrologFlags=flags)
    assert host.found("slurm.prolog-flags") == lines


def test_no_prolog_flags(host):
    """Without any the Prolog runs at the first step only."""
    host.configured(PrologFlags="(null)")
    lines = host.found("slurm.prolog-flags")
    assert [line.partition(":")[0] for line in lines] == [
        "failure PrologFlags=(none)",
        "warning PrologFlags=(none)",
    ]


def test_defer_batch_means_alloc_from_26_05_on(host):
    """Slurm 26.05 takes DeferBatch for Alloc too."""
    host.says("slurm 26.05.5\n", "version")
    host.configured(PrologFlags="DeferBatch")
    assert host.found("slurm.prolog-flags") == ["ok PrologFlags=DeferBatch: as it should be"]


def test_timeouts(host):
    """Enough for the worst case of the node's settings."""
    assert host.found("slurm.timeouts") == [
        "ok PrologEpilogTimeout for the Prolog: 2000 s, enough for 1362 s at worst",
        "ok PrologEpilogTimeout for the Epilog: 2000 s, enough for 690 s at worst",
    ]


@pytest.mark.parametrize("value", ["65534", "(null)", None, "4294967295", "UNLIMITED"])
def test_endless_timeouts(host, value):
    """No limit is enough, however Slurm writes that."""
    host.configured(PrologEpilogTimeout=value)
    assert host.found("slurm.timeouts") == [
        "ok PrologEpilogTimeout for the Prolog: without limit",
        "ok PrologEpilogTimeout for the Epilog: without limit",
    ]


def test_short_timeouts(host):
    """What an ordinary hook may take is a must; what it takes at worst, advice."""
    why = "a hook that is killed leaves its instance half made or removed, and drains the node"
    host.configured(PrologEpilogTimeout="80 sec", BatchStartTimeout="10 sec")
    assert host.found("slurm.timeouts") == [
        (
            "warning PrologEpilogTimeout for the Prolog: 80 s; with its settings the Prolog takes "
            f"up to 1362 s at worst: {why}; mend: PrologEpilogTimeout=1362 {MEND}"
        ),
        (
            "failure PrologEpilogTimeout for the Epilog: 80 s; with its settings the Epilog takes "
            f"up to 90 s as a rule: {why}; mend: PrologEpilogTimeout=690 {MEND}"
        ),
        (
            "warning BatchStartTimeout: 10 s; a Prolog takes up to 70.3 s as a rule: a batch job "
            "whose Prolog is still at work may be taken for lost; mend: BatchStartTimeout=1362 "
            f"{MEND}"
        ),
    ]


def test_split_timeouts(host):
    """From 25.05 on Prolog and Epilog have their own."""
    host.says("slurm 26.05.5\n", "version")
    text = (host.slurm / "config").read_text()
    split = "PrologTimeout = 1400\nEpilogTimeout = 500"
    host.says(text.replace("PrologEpilogTimeout     = 2000", split))
    first, second = host.found("slurm.timeouts")
    assert first == "ok PrologTimeout for the Prolog: 1400 s, enough for 1362 s at worst"
    assert second.startswith("warning EpilogTimeout for the Epilog: 500 s; ")


def test_gres_types(host):
    """Slurm must know mig."""
    assert host.found("slurm.gres-types") == ["ok GresTypes: gpu,mig"]
    host.configured(GresTypes="gpu")
    assert host.found("slurm.gres-types") == [
        (
            "failure GresTypes: gpu: mig is missing: --gres=mig is refused; mend: add mig to "
            "GresTypes in slurm.conf, then restart slurmctld and every slurmd"
        )
    ]


def test_scheduler(make):
    """extra_constraints would read our token as a filter; disable_job_shrink is advised."""
    host = make(settings={"slurm": {"timeout": 0.3, "request": "token"}})
    assert host.found("slurm.scheduler") == ["ok SchedulerParameters: as it should be"]
    host.configured(SchedulerParameters="extra_constraints,bf_window=3")
    assert host.found("slurm.scheduler") == [
        (
            "failure SchedulerParameters: extra_constraints: Slurm then reads our token in the "
            "job's extra field as a filter for nodes; mend: take extra_constraints out, or set "
            '[job_submit] token in cluster.toml to "none"'
        ),
        (
            "warning SchedulerParameters: disable_job_shrink is missing: a job that gives a node "
            "back while it runs frees its count before its instance; mend: add disable_job_shrink "
            f"to SchedulerParameters {MEND}"
        ),
    ]


def test_extra_constraints_without_a_token(host):
    """Where nothing is stamped into extra, the site may filter by it."""
    host.configured(SchedulerParameters="extra_constraints,disable_job_shrink")
    assert host.found("slurm.scheduler") == ["ok SchedulerParameters: as it should be"]


def test_energy(host):
    """Energy from the GPU keeps the driver open."""
    host.configured(AcctGatherEnergyType="acct_gather_energy/gpu")
    assert host.found("slurm.scheduler")[1] == (
        "warning AcctGatherEnergyType: acct_gather_energy/gpu: slurmd then keeps the driver open, "
        "which gets in the way of switching MIG mode; mend: use another one, without gpu, in "
        "slurm.conf, then restart every slurmd"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "ok ~/etc/gres.conf: no AutoDetect"),
        ("AutoDetect=off\n", "ok ~/etc/gres.conf: AutoDetect=off"),
        ("AutoDetect=nvml\nNodeName=n[1-9] AutoDetect=off\n", "ok ~/etc/gres.conf: AutoDetect=off"),
        ("NodeName=n[2-9] AutoDetect=nvml\n", "ok ~/etc/gres.conf: no AutoDetect"),
        ("# AutoDetect=nvml\n", "ok ~/etc/gres.conf: no AutoDetect"),
    ],
)
def test_no_autodetect(host, text, line):
    """What counts for this node is not nvml."""
    (host.folder / "etc/gres.conf").write_text(text)
    assert host.found("slurm.autodetect") == [line]


@pytest.mark.parametrize(
    "text",
    [
        "AutoDetect=nvml\n",
        "autodetect=NVML\n",
        "NodeName=n[1-3] \\\n AutoDetect=nvml\n",
        "AutoDetect=off\nNodeName=n1 AutoDetect=nvml Name=gpu\n",
        "Include more.conf\n",
    ],
)
def test_autodetect(host, text):
    """AutoDetect=nvml for this node, however it is written, is a failure."""
    (host.folder / "etc/gres.conf").write_text(text)
    (host.folder / "etc/more.conf").write_text("AutoDetect=nvml\n")
    assert host.found("slurm.autodetect") == [
        (
            "failure ~/etc/gres.conf: AutoDetect=nvml: slurmd looks for instances when it starts, "
            "and a GPU in MIG mode without any is an error to it; mend: NodeName=n1 AutoDetect=off "
            "in gres.conf, then restart slurmd"
        )
    ]


def test_autodetect_on_a_controller(host):
    """A controller looks at all nodes."""
    (host.folder / "etc/gres.conf").write_text("NodeName=n[2-9] AutoDetect=nvml\n")
    (line,) = host.found("slurm.autodetect", role="controller")
    assert line.startswith("failure ~/etc/gres.conf: AutoDetect=nvml, at least for some nodes: ")


def test_whole_gpus(make):
    """A GPU that is partitioned must not be in gres.conf as a whole one; others may."""
    host = make("A100-SXM4-40GB:4", settings={"gpus": {"mig": "0,2-3"}, "slurm": {"timeout": 0.3}})
    conf = host.folder / "etc/gres.conf"
    conf.write_text(
        "NodeName=n1 Name=gpu Type=a100 File=/dev/nvidia1\nNodeName=n2 Name=gpu File=/dev/nvidia0\n"
    )
    assert host.found("slurm.whole-gpus") == []
    conf.write_text("Name=gpu File=/dev/nvidia[1-2]\n")
    assert host.found("slurm.whole-gpus") == [
        (
            "failure ~/etc/gres.conf: offers /dev/nvidia2 as a whole GPU (Name=gpu File=), and it "
            "is partitioned: jobs with an instance may not open it, and jobs of gpu get one "
            "without memory; mend: take it out of File= there, or out of [gpus] mig in "
            "~/n1/config.toml"
        )
    ]


def test_gres_conf_that_was_sent(host):
    """Without a slurm.conf here, the gres.conf that slurmd keeps counts."""
    (host.folder / "etc/gres.conf").unlink()
    assert host.found("slurm.autodetect") == [
        "warning gres.conf: could not look: not found on this host"
    ]
    cache = host.folder / "spool/n1/conf-cache"
    cache.mkdir(parents=True)
    (cache / "gres.conf").write_text("AutoDetect=off\n")
    assert host.found("slurm.autodetect") == ["ok ~/spool/n1/conf-cache/gres.conf: AutoDetect=off"]


def test_promises(host):
    """Slurm's counts are the node's promises."""
    assert host.found("slurm.promises") == [
        "ok node n1: Slurm counts what the node promises: mig:1g.5gb:2,mig:2g.10gb:1,mig:3g.20gb:1"
    ]


def test_other_promises(host):
    """Slurm counts something else; its sockets and whole GPUs are not our matter."""
    record = {"name": "n1", "state": ["IDLE"], "gres": "gpu:a100:4(S:0),mig:3g.20gb:2(S:0-1)"}
    host.says(json.dumps({"nodes": [record]}), "node")
    assert host.found("slurm.promises") == [
        (
            "failure node n1: Slurm counts mig:3g.20gb:2, the node promises "
            "mig:1g.5gb:2,mig:2g.10gb:1,mig:3g.20gb:1: jobs are sent here that find no room, or "
            "room stays empty; mend: slurm-mig render on the controller, install its files, "
            "restart slurmctld and slurmd; or correct [layout] here"
        )
    ]


def test_promises_of_the_planner(host):
    """With padding the planner moves counts; they need not be the layout's."""
    host.offers({"3g.20gb": 2, "none": 2})
    assert host.found("slurm.promises") == [
        "ok node n1: mig:3g.20gb:2 and 2 of padding: moved by the planner"
    ]


def test_promises_leave_whole_gpus_out(make):
    """Only the GPUs that are partitioned promise."""
    host = make("A100-SXM4-40GB:2", settings={"gpus": {"mig": "1"}, "slurm": {"timeout": 0.3}})
    host.offers({"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2})
    (line,) = host.found("slurm.promises")
    assert line.startswith("ok node n1: ")


def test_drained(host):
    """A drained node is said, with the way back."""
    host.offers(host.node.promises, state=["IDLE", "DRAIN"], reason="Prolog error")
    assert host.found("slurm.promises")[1] == (
        "warning node n1: IDLE+DRAIN: Prolog error: no job starts here; mend: when mended: "
        "slurm-mig reconcile --node n1 && scontrol update NodeName=n1 State=RESUME"
    )


def test_unknown_node(host):
    """A node that Slurm does not know could not be looked at."""
    host.says('{"nodes": []}', "node")
    assert host.found("slurm.promises") == [
        (
            "warning counts: could not look: node n1: Slurm does not know it; check "
            "SLURMD_NODENAME and -N"
        )
    ]


def test_reading_show_config():
    """Lists, indexed keys, (null), and lines that are no pairs."""
    config = slurm_config.parse(
        "Configuration data as of 2026\nProlog[0] = /a\nProlog[1] = /b*\nEpilog = (null)\n"
        "PrologFlags = Alloc, X11\n\nSlurmctld(primary) at h is UP\nA/B = 3 = 4\n"
    )
    assert config.values("prolog") == ["/a", "/b*"]
    assert (config.first("Epilog"), config.values("Epilog")) == ("", [])
    assert config.words("PrologFlags") == ["Alloc", "X11"]
    assert config.first("a/b") == "3 = 4"


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("slurm-wlm 22.05.8", (22, 5, 8)),
        ("slurm 25.11.0-0rc1", (25, 11, 0)),
        ("slurm 26.05", (26, 5, 0)),
        ("nothing", None),
    ],
)
def test_reading_a_release(text, release):
    """The first thing that looks like a release."""
    assert slurm_config.release(text) == release
