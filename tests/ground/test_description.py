"""The cluster's description: what is read, and what is computed from it."""

import re
import tomllib

import pytest
from bruteforce import entries, plain, shapes
from describing import FULL, HEAD, NODES, read, refused

from slurm_mig import settings, share
from slurm_mig.description import Release
from slurm_mig.description_checks import conf
from slurm_mig.description_nodes import Models
from slurm_mig.description_options import OPTIONS, reference
from slurm_mig.layouts import NAMED, layout


def test_everything_is_read() -> None:
    """Every key of the file reaches the description, as values of the right types."""
    found = read(FULL)
    assert found.site == (
        type(found.site)(
            Release(25, 5),
            "/opt/slurm/etc",
            ("gpu", "nic"),
            ("X11", "ForceRequeueOnFail"),
            ("gres/gpu", "gres/gpu:h100", "license/matlab"),
        )
    )
    assert (found.token, found.elastic, found.anchor, found.anchor_conf) == (
        *("comment", False, "", ""),
    )
    assert (found.directory, found.program) == ("/srv/slurm-mig", "/srv/bin/slurm-mig")
    assert {name: dict(table) for name, table in found.node.items()} == {
        "state": {"directory": "/var/lib/mig"},
        "slurm": {"request": "token", "timeout": 5},
    }
    assert (found.settings.state_directory, found.settings.slurm_timeout) == ("/var/lib/mig", 5.0)
    a100, mixed, cards = found.groups
    assert (a100.name, a100.hosts, a100.size, a100.conf, a100.padding) == (
        *("a100", "gpu[01-16]", 16, "CPUs=128 RealMemory=1031000", 0),
    )
    assert [(g.entry.key, g.indices, g.mig, g.type) for g in a100.gpus] == [
        ("A100-SXM4-40GB", (0, 1, 2, 3, 4, 5, 6, 7), True, "")
    ]
    assert a100.layout == {"A100-SXM4-40GB": {"3g.20gb": 1, "1g.5gb": 3}}
    assert a100.layout_by_name == {"NVIDIA A100-SXM4-40GB": {"3g.20gb": 1, "1g.5gb": 3}}
    assert a100.promises == {"3g.20gb": 8, "1g.5gb": 24}
    assert a100.maxima == {
        "1g.5gb": 56,
        "1g.5gb+me": 8,
        "1g.10gb": 32,
        "2g.10gb": 24,
        "3g.20gb": 16,
        "4g.20gb": 8,
        "7g.40gb": 8,
    }
    assert [(g.entry.key, g.indices, g.mig, g.type) for g in mixed.gpus] == [
        ("H100-SXM5-80GB", (0, 1, 2), True, ""),
        ("A30-24GB", (3,), True, ""),
        ("H100-SXM5-80GB", (4, 5, 6), False, "h100"),
        ("H100-SXM5-80GB", (9,), False, "h100"),
    ]
    assert (mixed.mig, mixed.whole) == (mixed.gpus[:2], mixed.gpus[2:])
    assert mixed.layout == {"H100-SXM5-80GB": "halves", "A30-24GB": "halves"}
    assert mixed.layout_by_name == {"NVIDIA H100 80GB HBM3": "halves", "NVIDIA A30": "halves"}
    assert mixed.promises == {"3g.40gb": 6, "2g.12gb": 2}
    assert (mixed.size, cards.size) == (3, 4)
    assert cards.layout == {
        "A30-24GB": "small",
        "A100-SXM4-40GB": {"3g.20gb": 1, "1g.5gb": 3},
    }
    assert cards.promises == {"1g.6gb": 8, "3g.20gb": 1, "1g.5gb": 3}


def test_defaults() -> None:
    """Without the optional keys, the defaults that the reference names."""
    found = read(HEAD + NODES)
    assert found.site == type(found.site)(Release(24, 11), "/etc/slurm", (), (), ())
    assert (found.token, found.elastic, found.directory) == ("extra", False, "/etc/slurm-mig")
    assert found.program == "/opt/slurm-mig/bin/slurm-mig"
    assert (found.node, found.settings) == ({}, settings.parse([]))
    assert found.groups[0].conf == ""
    assert found.site.accounting
    assert not read(
        HEAD.replace("[layout]", "accounting = false\n[layout]") + NODES
    ).site.accounting


def test_node_finds_its_layout_by_the_name_that_nvml_gives() -> None:
    """For every model, what a node's own settings make of the rendered layout is the layout."""
    for entry in entries():
        group = read(HEAD + NODES.replace("A100-SXM4-40GB", entry.key)).groups[0]
        node = settings.parse([("n", {"layout": group.layout_by_name})])
        assert [node.layout_of(name) for name in entry.nvml_names] == ["balanced"] * len(
            entry.nvml_names
        )


@pytest.mark.parametrize(
    ("token", "release", "field"),
    [
        ("auto", "22.05", ""),
        ("auto", "23.02", "extra"),
        ("auto", "26.05", "extra"),
        ("extra", "23.02", "extra"),
        ("comment", "22.05", "comment"),
        ("none", "24.11", ""),
    ],
)
def test_token(token: str, release: str, field: str) -> None:
    """Auto stamps into extra where jobs have one, and nowhere before."""
    text = f'[job_submit]\ntoken = "{token}"\n' + HEAD.replace("24.11", release) + NODES
    assert read(text).token == field


@pytest.mark.parametrize("text", ["22.05", "23.02", "23.11", "24.05", "24.11", "25.05", "25.11"])
def test_releases(text: str) -> None:
    """Every release since 22.05 is known and prints as it is written."""
    assert str(Release.parse(text)) == text


def test_newer_release_is_taken() -> None:
    """A release of the future is not refused."""
    assert Release.parse("31.02") == (31, 2)


def test_release_of_the_command_line_goes_first() -> None:
    """A release that is asked for replaces the file's, and the file need not have one."""
    assert read(HEAD + NODES, Release(22, 5)).token == ""
    without = HEAD.replace('release = "24.11"\n', "")
    assert read(without + NODES, Release(26, 5)).site.release == (26, 5)
    assert refused(without + NODES) == (
        'c.toml:1: [slurm]: release is missing; write release = "24.11", say'
    )


class TestElastic:
    """Elastic mode: the padding, the anchor, and groups that promise nothing at first."""

    HEAD = '[slurm]\nrelease = "24.11"\n[elastic]\nenabled = true\n'

    def test_no_layout_is_needed(self) -> None:
        """A model without a layout promises nothing, and the padding is all it can hold."""
        group = read(self.HEAD + NODES).groups[0]
        assert (dict(group.promises), group.padding, group.layout) == ({}, 56, {})

    def test_padding_keeps_the_sum_constant(self) -> None:
        """Promises and padding together are the most instances that the node can hold."""
        text = self.HEAD + '[layout]\ndefault = "halves"\n' + NODES
        group = read(text).groups[0]
        assert (sum(group.promises.values()), group.padding) == (16, 40)

    def test_padding_and_maxima_by_brute_force(self) -> None:
        """On every GPU: how many of each profile fit, and no mix of them is more instances."""
        models = Models(entries())
        for key in shapes():
            mig = plain(key)
            counts = [mig.counts(vector) for vector in mig.packable[()]]
            names = [profile.name for profile in mig.geometry.profiles]
            found = models.maxima(models.find(key))
            assert found == {name: max(c.get(name, 0) for c in counts) for name in names}
            assert max(found.values()) == max(sum(c.values()) for c in counts)

    def test_anchor(self) -> None:
        """The anchor has the largest sizes and all features of the groups, or what is written."""
        text = (
            self.HEAD
            + NODES
            + 'conf = "CPUs=64 RealMemory=500 Feature=a,b"\n'
            + NODES.replace("nodes.a", "nodes.b").replace('"a[', '"b[')
            + 'conf = "Sockets=2 CoresPerSocket=48 ThreadsPerCore=2 realmemory=400 Features=b,c"\n'
            + NODES.replace("nodes.a", "nodes.c").replace('"a[', '"c[')
            + 'conf = "Boards=1 SocketsPerBoard=2 CoresPerSocket=8 TmpDisk=9 State=UNKNOWN"\n'
        )
        found = read(text)
        assert (found.elastic, found.anchor) == (True, "mig-anchor")
        assert found.anchor_conf == "CPUs=192 RealMemory=500 TmpDisk=9 Features=a,b,c"
        own = text.replace("true", 'true\nanchor = "x"\nanchor_conf = "CPUs=1"')
        assert (read(own).anchor, read(own).anchor_conf) == ("x", "CPUs=1")

    def test_anchor_is_no_node(self) -> None:
        """The anchor must not be one of the nodes."""
        assert refused(self.HEAD + 'anchor = "a2"\n' + NODES) == (
            "c.toml:5: [elastic] anchor: 'a2' is a node of [nodes.a]; the anchor must not exist"
        )

    def test_all_profiles_of_all_models_must_differ(self) -> None:
        """What could be offered one day must not be one type to Slurm."""
        text = self.HEAD + NODES + NODES.replace(".a]", ".b]").replace('"a[', '"b[')
        text = text[::-1].replace("A100-SXM4-40GB"[::-1], "B200-180GB"[::-1], 1)[::-1]
        assert refused(text) == (
            "c.toml:10: [nodes.b] gpus: 1g.23gb of B200-180GB and 4g.20gb of A100-SXM4-40GB in "
            "[nodes.a] (line 7) are one GRES type to Slurm, which would send jobs to the wrong "
            "GPUs; elastic mode offers all profiles of all models: describe such models as two "
            "clusters, or leave elastic mode and have one of the two in no layout"
        )


def two(first: str, second: str, layouts: str = "") -> str:
    """Two groups of these models."""
    return (
        f'[slurm]\nrelease = "24.11"\n[layout]\n{layouts}\n'
        f'[nodes.x]\nhosts = "x"\ngpus = "{first}:1"\n'
        f'[nodes.y]\nhosts = "y"\ngpus = "{second}:1"\n'
    )


def test_promised_types_that_are_one_to_slurm() -> None:
    """Only what the layouts promise counts: with other layouts the same two models go together."""
    assert refused(
        two("A100-SXM4-40GB", "B200-180GB", '"A100-SXM4-40GB" = "whole"\n"B200-180GB" = "balanced"')
    ) == (
        "c.toml:11: [nodes.y] gpus: 2g.45gb of B200-180GB and 7g.40gb of A100-SXM4-40GB in "
        "[nodes.x] (line 8) are one GRES type to Slurm, which would send jobs to the wrong GPUs; "
        "have one of the two in no layout"
    )
    found = read(two("A100-SXM4-40GB", "B200-180GB", 'default = "balanced"'))
    assert found.groups[1].promises == {"3g.90gb": 1, "2g.45gb": 1, "1g.23gb": 2}


def test_types_of_whole_gpus_that_are_one_to_slurm() -> None:
    """The types of whole GPUs must differ, too."""
    whole = '{ model = "A30-24GB", index = "1", mig = false, type = "TYPE" }'
    text = two("A30-24GB", "A30-24GB", 'default = "small"').replace(
        '"A30-24GB:1"', f'[{{ model = "A30-24GB", index = "0" }}, {whole}]'
    )
    one, other = "abcdXbcd", "Xbcdabcd"
    bad = text.replace("TYPE", one, 1).replace("TYPE", other)
    assert refused(bad) == (
        "c.toml:10: [nodes.y] gpus: type Xbcdabcd and type abcdXbcd of [nodes.x] are one GRES type "
        "to Slurm; name one of them otherwise"
    )
    assert [g.whole[0].type for g in read(text.replace("TYPE", one)).groups] == [one, one]


def test_conf_may_have_quotes() -> None:
    """A quoted value keeps its blanks; others are written with one between words."""
    assert conf('  Reason="a  b"   CPUs=3 ') == 'Reason="a  b" CPUs=3'
    assert conf("") == ""


def test_layout_that_every_group_replaces_is_no_error() -> None:
    """A cluster-wide layout of a model may be overridden by all groups that have it."""
    text = HEAD + '"A100-SXM4-40GB" = "small"\n' + NODES + 'layout = "whole"\n'
    assert read(text).groups[0].promises == {"7g.40gb": 8}


def test_keys_of_conf_by_release() -> None:
    """A key that came later than the oldest Slurm is taken from the release that has it."""
    text = HEAD + NODES + 'conf = "RestrictedCoresPerGPU=1"\n'
    assert read(text).groups[0].conf == "RestrictedCoresPerGPU=1"
    assert refused(text.replace("24.11", "22.05")) == (
        "c.toml:8: [nodes.a] conf: Slurm 22.05 has no RestrictedCoresPerGPU= for nodes; "
        "leave it out"
    )
    assert read(text.replace("RestrictedCoresPerGPU", "Topology"), Release(26, 5)).groups


@pytest.mark.parametrize("name", sorted(NAMED))
def test_promises_are_the_layout_times_the_gpus(name: str) -> None:
    """For every model and named layout: what the node promises is the sum over its GPUs."""
    for entry in entries():
        text = HEAD.replace("balanced", name) + NODES.replace("A100-SXM4-40GB", entry.key)
        expected = {k: 8 * n for k, n in layout(entry.geometry, name).items()}
        assert read(text).groups[0].promises == expected


def test_reference_file_is_the_table_of_options() -> None:
    """templates/cluster.toml is what reference() prints."""
    assert share.path("templates/cluster.toml").read_text() == reference()


def uncommented() -> str:
    """The reference with every key and header in force."""
    return "\n".join(
        line if re.match(r"# \S", line) else line.removeprefix("#")
        for line in reference().splitlines()
    )


def test_reference_taken_literally() -> None:
    """Uncommented, the reference is a valid description with all defaults as they are."""
    found = read(uncommented())
    plainly = read(HEAD + NODES)
    assert found.site == plainly.site
    assert (found.token, found.elastic, found.anchor) == ("extra", False, "")
    assert (found.directory, found.program) == (plainly.directory, plainly.program)
    assert found.settings == plainly.settings
    assert [group.name for group in found.groups] == ["a100", "mixed"]


def test_reference_has_every_key_at_its_default() -> None:
    """What the reference says of each option is the option's default, if it has one."""
    document = tomllib.loads(uncommented())
    for option in OPTIONS:
        value = document[option.section][option.key]
        if option.default is not None:
            assert option.check(value) == option.default
        else:
            assert option.example
