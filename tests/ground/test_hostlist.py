"""Host lists: what Slurm takes, what it does not, and nothing that only ClusterShell knows."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurm_mig.errors import ConfigError
from slurm_mig.hostlist import LARGEST, expand, some


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("gpu[01-03,07]", ["gpu01", "gpu02", "gpu03", "gpu07"]),
        ("n[3,1]", ["n3", "n1"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[98-101]", ["n98", "n99", "n100", "n101"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("n[08-102]", [f"n{i:02d}" for i in range(8, 103)]),
        ("n[01-2]", ["n01", "n02"]),
        ("n[1-02]", ["n1", "n2"]),
        ("n[0-1,00,007]", ["n0", "n1", "n00", "n007"]),
        ("a[1-2]b[01-02]", ["a1b01", "a1b02", "a2b01", "a2b02"]),
        ("a[1-2][3-4]", ["a13", "a14", "a23", "a24"]),
        ("a[1-2]9[08-09]", ["a1908", "a1909", "a2908", "a2909"]),
        ("a.b-c_d[1],x", ["a.b-c_d1", "x"]),
        ("10.0.0.[1-2]", ["10.0.0.1", "10.0.0.2"]),
        ("n[123456789012-123456789013]", ["n123456789012", "n123456789013"]),
    ],
)
def test_names_of_a_list(text: str, names: list[str]) -> None:
    """Ranges are padded to the width of their first number, and several of them multiply."""
    assert expand(text) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' has an empty name in it; write gpu[01-16],gpu20"),
        ("n,", "'n,' has an empty name in it; write gpu[01-16],gpu20"),
        (",n", "',n' has an empty name in it; write gpu[01-16],gpu20"),
        ("n,,m", "'n,,m' has an empty name in it; write gpu[01-16],gpu20"),
        ("n[1", "'n[1' has a bracket that does not match; write gpu[01-16]"),
        ("n1]", "'n1]' has a bracket that does not match; write gpu[01-16]"),
        ("n[[1]]", "'n[[1]]' has a bracket that does not match; write gpu[01-16]"),
        ("n[1-2]]", "'n[1-2]]' has a bracket that does not match; write gpu[01-16]"),
        ("n[]", "'' is no range of node numbers; write [1-16] or [01-16,20]"),
        ("n[1-]", "'1-' is no range of node numbers; write [1-16] or [01-16,20]"),
        ("n[-1]", "'-1' is no range of node numbers; write [1-16] or [01-16,20]"),
        ("n[1,,2]", "'' is no range of node numbers; write [1-16] or [01-16,20]"),
        ("n[a-b]", "'a-b' is no range of node numbers; write [1-16] or [01-16,20]"),
        ("n[1 -2]", "'1 -2' is no range of node numbers; write [1-16] or [01-16,20]"),
        ("n[+1-2]", "'+1-2' is no range of node numbers; write [1-16] or [01-16,20]"),
        ("n[1-9/2]", "'1-9/2' is no range of node numbers; write [1-16] or [01-16,20]"),
        ("n[1-2:3]", "'1-2:3' is no range of node numbers; write [1-16] or [01-16,20]"),
        ("n[१-२]", "'१-२' is no range of node numbers; write [1-16] or [01-16,20]"),
        ("n[3-1]", "the range 3-1 counts down; write 1-3"),
        ("n[1-65537]", "the range 1-65537 has 65537 nodes; Slurm takes 65536"),
        (
            "n[1-999999999]",
            "the range 1-999999999 has 999999999 nodes; Slurm takes 65536",
        ),
        ("n[1-50000],m[1-50001]", "'n[1-50000],m[1-50001]' has 100001 nodes; 100000 are the most"),
        (
            "a[1-65536]b[1-65536]c[1-65536]",
            "'a[1-65536]b[1-65536]c[1-65536]' has 281474976710656 nodes; 100000 are the most",
        ),
        (
            "a[1-2]b",
            ("'a[1-2]b' goes on after its last bracket; in Slurm a name with ranges ends with one"),
        ),
        *(
            (
                word,
                (
                    f"{word!r} is no node name: "
                    "letters, digits, '-', '_', '.' and ranges in brackets"
                ),
            )
            for word in (
                "n m",
                "@gpus",
                "n1!n2",
                "n1&n2",
                "n^m",
                "n*",
                "n?",
                "a{1-2}",
                "n(1)",
                "ñ1",
            )
        ),
        ("-n[1-2]", "'-n[1-2]' is no node name: it must begin with a letter or digit"),
        ("[1-3]", "'[1-3]' is no node name: it must begin with a letter or digit"),
        ("n1,DEFAULT", "'DEFAULT' is no node name: Slurm keeps that word for itself"),
        ("all", "'all' is no node name: Slurm keeps that word for itself"),
        ("n[1-3],n2", "'n[1-3],n2' names n2 more than once"),
        ("n[1-9,1-9]", "'n[1-9,1-9]' names n1, n2, n3 and 6 more more than once"),
        ("a1[0],a[10]", "'a1[0],a[10]' names a10 more than once"),
    ],
)
def test_what_is_no_list(text: str, message: str) -> None:
    """What Slurm refuses, what it reads as something else, and what is too long: one sentence."""
    with pytest.raises(ConfigError) as caught:
        expand(text)
    assert str(caught.value) == message


def test_longest_list() -> None:
    """LARGEST names are taken."""
    assert len(expand("n[1-50000],m[1-50000]")) == LARGEST


def test_some_of_many() -> None:
    """A long list is cut to its first names and a count."""
    assert some(["a"]) == "a"
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b", "c", "d"]) == "a, b, c and 1 more"


@st.composite
def ranges(draw: st.DrawFn) -> str:
    """One range: padded or not, to an end of the same or another width."""
    first = draw(st.integers(0, 120))
    last = first + draw(st.integers(0, 12))
    width = draw(st.integers(1, 4))
    text = f"{first:0{width}d}"
    return text if first == last else f"{text}-{last:0{draw(st.integers(1, 4))}d}"


NUMBERS = st.lists(ranges(), min_size=1, max_size=3).map(lambda r: f"[{','.join(r)}]")
PREFIXES = st.sampled_from(["n", "gpu-", "a.b_", "x9", "r0"])
JOINTS = st.sampled_from(["", "-", "n", "7", "_0."])
LISTS = st.lists(
    st.one_of(
        PREFIXES,
        st.builds(lambda p, b: p + b, PREFIXES, NUMBERS),
        st.builds(lambda p, b, j, c: p + b + j + c, PREFIXES, NUMBERS, JOINTS, NUMBERS),
    ),
    min_size=1,
    max_size=3,
).map(",".join)


@pytest.fixture(scope="session")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The least that scontrol needs, for commands that talk to nobody."""
    if shutil.which("scontrol") is None:
        pytest.skip("no scontrol: apt-get install slurm-client")
    path = tmp_path_factory.mktemp("hostlist") / "slurm.conf"
    path.write_text("ClusterName=c\nSlurmctldHost=localhost\n")
    return path


@pytest.mark.slurm
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=LISTS)
def test_names_are_those_that_slurm_says(slurm_conf: Path, text: str) -> None:
    """Every list expands to what `scontrol show hostnames` prints, or names a node twice there."""
    done = subprocess.run(
        ["/usr/bin/env", "scontrol", "show", "hostnames", text],
        env={"SLURM_CONF": str(slurm_conf), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = sorted(done.stdout.split())
    if len(set(theirs)) < len(theirs):
        with pytest.raises(ConfigError, match="more than once"):
            expand(text)
    else:
        assert sorted(expand(text)) == theirs


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="n1209[]-,/ @é", max_size=14))
def test_any_text_is_names_or_a_sentence(text: str) -> None:
    """Whatever is written, the answer is different names or one ConfigError."""
    try:
        names = expand(text)
    except ConfigError:
        return
    assert names
    assert len(set(names)) == len(names)
    assert all(name.isascii() and "[" not in name for name in names)
