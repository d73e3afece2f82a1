"""gres.conf and slurm.conf's part, read back: they say what the description says, no more."""

import dataclasses
import re
from collections import Counter

import pytest
from rendering import (
    ELASTIC,
    LAYOUTS,
    MODELS,
    RELEASES,
    TWO_GROUPS,
    described,
    gres_of,
    one_model,
    slurm_keys,
    slurm_lines,
    text,
)

from slurm_mig.description import PADDING, Description
from slurm_mig.indices import indices
from slurm_mig.settings import parse
from slurm_mig.slurm_lines import LONGEST_TIMEOUT, timeouts

#: Words that a line of gres.conf may have (gres.conf(5)).
_GRES_WORDS = {"NodeName", "Name", "Type", "Count", "File", "Flags"}


def gres_conf(description: Description) -> dict[str, Counter[tuple[str, str]]]:
    """What gres.conf says: {host list: {(name, type): count}}; files count one each."""
    found: dict[str, Counter[tuple[str, str]]] = {}
    for words in slurm_lines(text(description, "slurm/gres.conf")):
        if "AutoDetect" in words:
            assert words == {"AutoDetect": "off"}
            continue
        assert set(words) <= _GRES_WORDS
        if words["Name"] == "mig":
            explicit = description.site.release >= (23, 2)
            assert words["Flags"] == ("CountOnly,explicit" if explicit else "CountOnly")
            assert "File" not in words
            count = int(words["Count"])
        else:
            assert words["Name"] == "gpu"
            assert {"Count", "Flags"} & set(words) == set()
            listed = words["File"].removeprefix("/dev/nvidia")
            count = len(indices(listed.strip("[]")))
        counts = found.setdefault(words["NodeName"], Counter())
        assert (words["Name"], words.get("Type", "")) not in counts
        counts[words["Name"], words.get("Type", "")] = count
    return found


def expected(description: Description) -> dict[str, Counter[tuple[str, str]]]:
    """The same from the description."""
    found = {}
    for group in description.groups:
        counts: Counter[tuple[str, str]] = Counter()
        for profile, count in group.promises.items():
            counts["mig", profile] = count
        if group.padding:
            counts["mig", PADDING] = group.padding
        for gpus in group.whole:
            counts["gpu", gpus.type] += len(gpus.indices)
        found[group.hosts] = counts
    return found


def node_lines(description: Description) -> dict[str, dict[str, str]]:
    """The NodeName lines of slurm.conf's part, by host list."""
    lines = list(slurm_lines(text(description, "slurm/slurm-mig.conf")))
    nodes = [words for words in lines if "NodeName" in words]
    assert len({words["NodeName"] for words in nodes}) == len(nodes)
    return {words["NodeName"]: words for words in nodes}


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_and_layout_on_every_release(model: str, layout: str, elastic: bool) -> None:
    """gres.conf and the NodeName lines both have exactly the promises, and the padding."""
    for release in RELEASES:
        description = one_model(model, layout, release, elastic)
        assert gres_conf(description) == expected(description)
        nodes = node_lines(description)
        assert set(nodes) == {"n[1-4]"} | ({description.anchor} if elastic else set())
        assert gres_of(nodes["n[1-4]"]["Gres"]) == expected(description)["n[1-4]"]
        assert nodes["n[1-4]"]["CPUs"] == "64"


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("extra", ["", ELASTIC])
def test_mixed_nodes(release: str, extra: str) -> None:
    """Whole GPUs have their device files, by type; both files count them alike."""
    description = described(TWO_GROUPS + extra, release)
    assert gres_conf(description) == expected(description)
    nodes = node_lines(description)
    for group in description.groups:
        assert gres_of(nodes[group.hosts]["Gres"]) == expected(description)[group.hosts]
    assert nodes["gpu[17-18]"].keys() == {"NodeName", "Gres"}
    lines = text(description, "slurm/gres.conf").splitlines()
    assert "NodeName=gpu[17-18] Name=gpu Type=h100 File=/dev/nvidia[3-4,6]" in lines
    assert "NodeName=gpu[17-18] Name=gpu Type=nvl File=/dev/nvidia7" in lines


def test_sum_of_an_elastic_node_is_what_it_could_ever_make() -> None:
    """Promises and padding together leave room for any counts that the planner may set."""
    for model in MODELS:
        (group,) = one_model(model, "balanced", "24.11", True).groups
        assert sum(group.promises.values()) + group.padding >= max(group.maxima.values())


def test_anchor_offers_what_any_node_could() -> None:
    """A job that one node could run, given all promises there, fits the anchor, which is DOWN."""
    description = described(TWO_GROUPS + ELASTIC)
    words = node_lines(description)["mig-anchor"]
    offered = gres_of(words["Gres"])
    for group in description.groups:
        for profile, count in group.maxima.items():
            assert offered["mig", profile] >= count
        for gpus in group.whole:
            assert offered["gpu", gpus.type] >= len(gpus.indices)
    most = {name: max(g.maxima.get(name, 0) for g in description.groups) for _, name in offered}
    assert all(offered["mig", name] == most[name] for kind, name in offered if kind == "mig")
    assert ("mig", PADDING) not in offered
    assert (words["State"], words["CPUs"], words["RealMemory"]) == ("DOWN", "128", "1031000")
    conf = text(description, "slurm/slurm-mig.conf")
    assert "# Every partition with such nodes must also name mig-anchor in its Nodes=." in conf


def test_anchor_conf_of_the_site_is_not_said_twice() -> None:
    """What anchor_conf says itself replaces ours."""
    conf = 'anchor_conf = "CPUs=4 NodeAddr=192.0.2.1 Reason=none"\n'
    words = node_lines(described(TWO_GROUPS + ELASTIC + conf))["mig-anchor"]
    assert (words["NodeAddr"], words["Port"], words["Reason"]) == ("192.0.2.1", "1", "none")


def test_no_anchor_without_elastic_mode() -> None:
    """A static cluster has no node that does not exist."""
    assert "anchor" not in text(described(), "slurm/slurm-mig.conf")


def test_site_lines_are_merged() -> None:
    """GresTypes, PrologFlags, AccountingStorageTRES: the site's values and ours, each once."""
    site = (
        'release = "24.11"\ngres_types = ["nic", "gpu"]\nprolog_flags = ["X11", "alloc"]\n'
        'accounting_tres = ["gres/gpu", "gres/mig"]\n'
        'job_submit_plugins = ["lua", "all_partitions"]\n'
    )
    keys = slurm_keys(
        text(described(TWO_GROUPS.replace('release = "24.11"\n', site)), "slurm/slurm-mig.conf")
    )
    assert keys["GresTypes"] == "nic,gpu,mig"
    assert keys["PrologFlags"] == "Alloc,DeferBatch,X11"
    assert keys["JobSubmitPlugins"] == "all_partitions,lua"
    assert keys["AccountingStorageTRES"] == (
        "gres/gpu,gres/mig,gres/mig:1g.5gb,gres/mig:2g.10gb,gres/mig:3g.20gb,gres/mig:3g.40gb"
    )


def test_gpu_is_a_gres_only_where_some_stay_whole() -> None:
    """No GPU stays whole: GresTypes is mig alone."""
    keys = slurm_keys(text(one_model("A30-24GB", "small", "24.11", False), "slurm/slurm-mig.conf"))
    assert keys["GresTypes"] == "mig"


@pytest.mark.parametrize("release", RELEASES)
def test_names_with_signs_are_tracked_where_sacctmgr_reads_them(release: str) -> None:
    """1g.10gb+me is a TRES of its own from 26.05 on; before it is named in a comment."""
    own = '[layout."H100-SXM5-80GB"]\n"1g.10gb+me" = 1\n"3g.40gb" = 1\n'
    toml = (
        f'[slurm]\nrelease = "{release}"\n{own}[nodes.n]\nhosts = "n1"\ngpus = "H100-SXM5-80GB:1"'
    )
    conf = text(described(toml), "slurm/slurm-mig.conf")
    tres = slurm_keys(conf)["AccountingStorageTRES"].split(",")
    assert ("gres/mig:1g.10gb+me" in tres) == (release == "26.05")
    assert ("only counted as gres/mig: 1g.10gb+me." in conf) == (release != "26.05")
    assert "gres/mig:3g.40gb" in tres


def test_elastic_mode_tracks_what_may_be_promised() -> None:
    """Every profile of the nodes is a TRES, but for padding."""
    conf = text(one_model("A30-24GB", "small", "26.05", True), "slurm/slurm-mig.conf")
    assert slurm_keys(conf)["AccountingStorageTRES"] == (
        "gres/mig,gres/mig:1g.6gb,gres/mig:1g.6gb+me,gres/mig:2g.12gb,gres/mig:2g.12gb+me,"
        "gres/mig:4g.24gb"
    )


def test_without_slurmdbd_nothing_is_tracked() -> None:
    """A slurmctld refuses to start with a TRES of ours when there is no slurmdbd."""
    conf = text(
        described(TWO_GROUPS.replace("[layout]", "accounting = false\n[layout]")),
        "slurm/slurm-mig.conf",
    )
    assert "AccountingStorageTRES" not in slurm_keys(conf)


@pytest.mark.parametrize("release", RELEASES)
def test_keys_of_each_release(release: str) -> None:
    """Timeouts are split from 25.05 on; everything else is the same on all releases."""
    keys = slurm_keys(text(described(release=release), "slurm/slurm-mig.conf"))
    split = release >= "25.05"
    assert set(keys) == {
        *("GresTypes", "JobSubmitPlugins", "Prolog", "TaskProlog", "Epilog", "PrologFlags"),
        *("BatchStartTimeout", "AccountingStorageTRES"),
        *(("PrologTimeout", "EpilogTimeout") if split else ("PrologEpilogTimeout",)),
    }
    assert keys["JobSubmitPlugins"] == "lua"
    assert keys["Prolog"] == "/etc/slurm-mig/hooks/slurm-mig-prolog"
    assert keys["TaskProlog"] == "/etc/slurm-mig/hooks/slurm-mig-task-prolog"
    assert keys["Epilog"] == "/etc/slurm-mig/hooks/slurm-mig-epilog"
    assert keys["BatchStartTimeout"] == keys["PrologTimeout" if split else "PrologEpilogTimeout"]


def test_keys_to_take_out_are_those_that_are_written() -> None:
    """The comment that tells an admin which keys to take out of slurm.conf names just those."""
    for release in RELEASES:
        conf = text(described(release=release), "slurm/slurm-mig.conf")
        start = conf.index("#     GresTypes")
        named = {word for line in conf[start:].split("\n")[:2] for word in line[1:].split()}
        several = {"Prolog", "Epilog"} if release >= "24.11" else set()
        assert named == set(slurm_keys(conf)) - several


def test_timeouts_are_the_sums_in_the_comment() -> None:
    """Each hook's waits, as they stand in the comment, add up to its timeout."""
    conf = text(described(release="25.05"), "slurm/slurm-mig.conf")
    keys = slurm_keys(conf)
    sums: Counter[str] = Counter()
    hook = ""
    for name, seconds in re.findall(r"^# (Prolog|Epilog|      ) +([0-9.]+)  \S", conf, re.M):
        hook = name.strip() or hook
        sums[hook] += float(seconds)
    assert sums == {"Prolog": float(keys["PrologTimeout"]), "Epilog": float(keys["EpilogTimeout"])}


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("slurm", "timeout"),
        ("lock", "timeout"),
        ("lock", "gpu_timeout"),
        ("prolog", "wait"),
        ("epilog", "budget"),
    ],
)
def test_timeouts_follow_every_wait_of_the_hooks(section: str, key: str) -> None:
    """A longer wait in the nodes' settings makes the timeout longer by as much at least."""
    release = described().site.release
    before = timeouts(parse([]), release)
    default = getattr(parse([]), f"{section}_{key}")
    after = timeouts(parse([("", {section: {key: default + 100}})]), release)
    assert after.prolog >= before.prolog + 100
    if section != "slurm" and (section, key) not in (("lock", "timeout"), ("prolog", "wait")):
        assert after.epilog >= before.epilog + 100


def test_timeouts_of_the_nodes_settings_are_written() -> None:
    """[node.*] of the description is what the sums are made from."""
    node = "[node.lock]\ngpu_timeout = 20\n[node.slurm]\ntimeout = 5.5\n"
    keys = slurm_keys(text(described(TWO_GROUPS + node), "slurm/slurm-mig.conf"))
    # 60 + 5 x 5.5 + 20 + (20 + 30) + 30 + 10 + 20 + (20 + 30), rounded up
    assert keys["PrologEpilogTimeout"] == "268"


def test_timeouts_stay_in_16_bits() -> None:
    """Slurm would read 65534 as none and 65535 as infinite; more does not fit."""
    settings = parse([("", {"lock": {"gpu_timeout": 86400}})])
    found = timeouts(settings, described().site.release)
    assert (found.prolog, found.epilog) == (LONGEST_TIMEOUT, LONGEST_TIMEOUT)


def test_a_group_that_promises_nothing_has_only_padding() -> None:
    """Elastic mode without a layout: the planner gives the node its first promise."""
    toml = '[slurm]\nrelease = "24.11"\n[nodes.n]\nhosts = "n1"\ngpus = "A30-24GB:1"\n' + ELASTIC
    description = described(toml)
    assert gres_conf(description) == {"n1": Counter({("mig", PADDING): 4})}
    assert node_lines(description)["n1"]["Gres"] == "mig:none:4"


def test_a_group_without_gres_is_just_a_node() -> None:
    """No promises and no whole GPU: a NodeName line without Gres=, and no line in gres.conf."""
    description = described()
    empty = dataclasses.replace(
        description.groups[0], promises={}, gpus=description.groups[0].mig, padding=0
    )
    description = dataclasses.replace(description, groups=(empty,))
    assert gres_conf(description) == {}
    assert node_lines(description)["gpu[01-16]"].keys() == {"NodeName", "CPUs", "RealMemory"}


def test_long_host_lists_stay_on_their_line() -> None:
    """Slurm reads lines of any length (50,000 characters were tried on 22.05, 24.11 and 26.05)."""
    hosts = ",".join(f"rack{number:05d}" for number in range(1, 6000, 2))
    description = described(TWO_GROUPS.replace("gpu[01-16]", hosts))
    assert hosts in gres_conf(description)
    assert hosts in node_lines(description)
