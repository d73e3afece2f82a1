"""Node groups that cannot be: each a sentence with file, line and key."""

import pytest
from describing import HEAD, NODES, refused

G = "c.toml:6: [nodes.a] hosts: "
P = "c.toml:7: [nodes.a] gpus: "
C = "c.toml:8: [nodes.a] conf: "
L = "c.toml:8: [nodes.a] layout: "
TYPED = (
    '[{ model = "A30", index = "0", mig = false, type = "a" }, '
    '{ model = "A30", index = "1", mig = false }]'
)
ARCH = (
    "slurm.conf has no Arch= for nodes; known: BcastAddr, Boards, CPUs, CoreSpecCount, "
    "CoresPerSocket, CpuBind, CpuSpecList, Feature, Features, MemSpecLimit, NodeAddr, "
    "NodeHostname, Parameters, Port, Procs, RealMemory, Reason, RestrictedCoresPerGPU, Sockets, "
    "SocketsPerBoard, State, SuspendTime, ThreadsPerCore, TmpDisk, Topology, Weight"
)
ONE = '{ model = "H100-SXM5-80GB", index = "0-3" }'
WORDS = "must be KEY=VALUE words with blanks between them, such as CPUs=64 RealMemory=512000"
TABLE = 'a table such as { model = "H100-SXM5-80GB", index = "0-3" }'
COUNTS = 'a table of counts such as { "3g.20gb" = 1, "1g.5gb" = 3 }'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            '"A100-SXM4-40G:8"',
            "no GPU model 'A100-SXM4-40G' in the table; did you mean 'A100-SXM4-40GB'?",
        ),
        (
            '"A100-SXM4-40GB"',
            'must be "MODEL:COUNT", as "A100-SXM4-40GB:8", not \'A100-SXM4-40GB\'',
        ),
        ('""', 'must be "MODEL:COUNT", as "A100-SXM4-40GB:8", not \'\''),
        ('"A30:0"', "0 GPUs: a node has 1 to 64"),
        ('"A30:65"', "65 GPUs: a node has 1 to 64"),
        ('"A30:999999999"', "999999999 GPUs: a node has 1 to 64"),
        ('"A30:-1"', 'must be "MODEL:COUNT", as "A100-SXM4-40GB:8", not \'A30:-1\''),
        ("8", 'must be "MODEL:COUNT" or a list of tables, not 8'),
        ("[]", 'must be "MODEL:COUNT" or a list of tables, not []'),
        ("[3]", f"must be {TABLE}, not 3"),
        ('[{ index = "0" }]', f"model is missing; write {TABLE}"),
        ('[{ model = "A30" }]', f"index is missing; write {TABLE}"),
        ('[{ model = 3, index = "0" }]', "a GPU model must be a string, not 3"),
        ('[{ model = "A30", index = 3 }]', 'index must be a string such as "0-3,5", not 3'),
        ('[{ model = "A30", index = "3-" }]', "'3-' is no GPU index and no range; write 0-3,5"),
        ('[{ model = "A30", index = "-3" }]', "'-3' is no GPU index and no range; write 0-3,5"),
        ('[{ model = "A30", index = "3-0" }]', "'3-0' counts down; write 0-3"),
        ('[{ model = "A30", index = "0-3,2" }]', "index 2 is named twice"),
        ('[{ model = "A30", index = "60-64" }]', "index 64: the last one is 63"),
        (f'[{ONE}, {{ model = "A30", index = "3-4" }}]', "GPU 3 is named twice"),
        (
            TYPED,
            "Slurm wants a type for all whole GPUs of a node, or for none",
        ),
        ('[{ model = "A30", index = "0", mig = 0 }]', "mig must be true or false, not 0"),
        (
            '[{ model = "A30", index = "0", type = "a30" }]',
            "type is for GPUs that stay whole; add mig = false, or leave it out",
        ),
        (
            '[{ model = "A30", idx = "0" }]',
            "unknown key 'idx'; did you mean 'index'?",
        ),
        *(
            (
                f'[{{ model = "A30", index = "0", mig = false, type = "{word}" }}]',
                f"type {word!r} is no GRES type: letters, digits and . _ - +",
            )
            for word in ("a,b", "a:b", "a=b", "a(b", "", "a b", "é")
        ),
        *(
            (
                f'[{{ model = "A30", index = "0", mig = false, type = "{word}" }}]',
                f"type {word!r} would be read as a count by Slurm; call it h100, say",
            )
            for word in ("4", "80g", "80GB", "3M", "1gib")
        ),
    ],
)
def test_bad_gpus(value: str, message: str) -> None:
    """What is wrong with the GPUs of a group, in one sentence with its place."""
    text = HEAD + f'[nodes.a]\nhosts = "a"\ngpus = {value}\n'
    assert refused(text) == P + message


def test_error_in_a_list_over_lines_has_the_line_of_its_element() -> None:
    """In a list of several lines, the line of the bad element is told."""
    text = (
        HEAD
        + f'[nodes.a]\nhosts = "a"\ngpus = [\n  {ONE},\n  {{ model = "A3", index = "9" }},\n]\n'
    )
    assert refused(text).startswith("c.toml:9: [nodes.a] gpus: no GPU model 'A3' in the table; ")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"a[1-2"', "'a[1-2' has a bracket that does not match; write gpu[01-16]"),
        ("3", "must be a Slurm host list, not 3"),
        ('["a"]', "must be a Slurm host list, not ['a']"),
        ('"a1,a1"', "'a1,a1' names a1 more than once"),
    ],
)
def test_bad_hosts(value: str, message: str) -> None:
    """What is wrong with a host list, in one sentence with its place."""
    assert refused(HEAD + f'[nodes.a]\nhosts = {value}\ngpus = "A30:1"\n') == G + message


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ("b,a2", "a2 is in [nodes.a], too (line 6)"),
        ("a[1-9]", "a1, a2 are in [nodes.a], too (line 6)"),
    ],
)
def test_groups_that_overlap(hosts: str, message: str) -> None:
    """A node in two groups is an error that names it and the other group with its line."""
    text = HEAD + NODES + f'[nodes.b]\nhosts = "{hosts}"\ngpus = "A30:1"\n'
    assert refused(text) == f"c.toml:9: [nodes.b] hosts: {message}"


def test_too_many_nodes_in_all() -> None:
    """All groups together are bounded, too."""
    text = HEAD + "".join(
        f'[nodes.g{i}]\nhosts = "n{i}x[1-40000]"\ngpus = "A30:1"\n' for i in range(3)
    )
    assert refused(text) == "c.toml:12: [nodes.g2] hosts: more than 100000 nodes with those above"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3", 'must be a string such as "CPUs=64 RealMemory=512000", not 3'),
        (
            '"CPUs"',
            f"'CPUs' {WORDS}",
        ),
        (
            '"CPUs=1 x"',
            f"'CPUs=1 x' {WORDS}",
        ),
        (
            '"CPUs="',
            f"'CPUs=' {WORDS}",
        ),
        ('"CPUs=1\\nNodeName=x"', "'CPUs=1\\nNodeName=x' must be one line of printable ASCII"),
        ('"CPUs=1\\tPort=2"', "'CPUs=1\\tPort=2' must be one line of printable ASCII"),
        ('"Reason=é"', "'Reason=é' must be one line of printable ASCII"),
        ('"CPUs=1 # x"', "'CPUs=1 # x' has a '#', which begins a comment in slurm.conf"),
        ("'CPUs=1 \\'", "'CPUs=1 \\\\' has a '\\\\', which joins lines in slurm.conf"),
        ('"Reason=it\'s"', '"Reason=it\'s" has a "\'", which is no quote in slurm.conf'),
        ("'Reason=\"a b'", "'Reason=\"a b' has a quote that is not closed"),
        ('"nodename=x"', "nodename= is written by slurm-mig; leave it out"),
        ('"CPUs=1 GRES=gpu:1"', "GRES= is written by slurm-mig; leave it out"),
        ('"GresConf=/x"', "GresConf= is written by slurm-mig; leave it out"),
        ('"topology=a:b"', "Slurm 24.11 has no topology= for nodes; leave it out"),
        ('"Arch=x86_64"', ARCH),
        ('"CPUs=1 cpus=2"', "has cpus= twice"),
        ('"RealMemmory=1"', "slurm.conf has no RealMemmory= for nodes; did you mean 'RealMemory'?"),
    ],
)
def test_bad_conf(value: str, message: str) -> None:
    """What is wrong with the rest of a NodeName line, in one sentence with its place."""
    assert refused(HEAD + NODES + f"conf = {value}\n") == C + message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"balancd"', L + "no layout is called 'balancd'; did you mean 'balanced'?"),
        ("3", L + "must be a layout's name or a table by model, not 3"),
        (
            '{ "A100-SXM4-40GB" = { "3g.20gb" = 2, "1g.5gb" = 1 } }',
            (
                "c.toml:8: [nodes.a] layout.A100-SXM4-40GB: A100-SXM4-40GB: "
                "3g.20gb ×2 + 1g.5gb needs 9 of 8 memory slices"  # noqa: RUF001
            ),
        ),
        (
            '{ "A100-SXM4-40GB" = { "3g.40gb" = 2 } }',
            (
                "c.toml:8: [nodes.a] layout.A100-SXM4-40GB: A100-SXM4-40GB has no profile "
                "'3g.40gb'; did you mean 7g.40gb? there are 1g.5gb, 1g.5gb+me, 1g.10gb, 2g.10gb, "
                "3g.20gb, 4g.20gb, 7g.40gb"
            ),
        ),
        (
            '{ "A100-SXM4-40GB" = { "3g.20gb" = 0 } }',
            "c.toml:8: [nodes.a] layout.A100-SXM4-40GB: 3g.20gb = 0: a count must be 1, 2, 3, …",
        ),
        (
            '{ "A100-SXM4-40GB" = {} }',
            (
                "c.toml:8: [nodes.a] layout.A100-SXM4-40GB: "
                f"must be a layout's name or {COUNTS}, not {{}}"
            ),
        ),
        (
            '{ "A30" = "small" }',
            "c.toml:8: [nodes.a] layout.A30: this group has no A30-24GB in MIG mode",
        ),
        (
            '{ "A30-24G" = "small" }',
            (
                "c.toml:8: [nodes.a] layout.A30-24G: no GPU model 'A30-24G' in the table; "
                "did you mean 'A30-24GB'?"
            ),
        ),
        (
            '{ "NVIDIA A100-SXM4-40GB" = "small", "a100-sxm4-40gb" = "whole" }',
            "c.toml:8: [nodes.a] layout.a100-sxm4-40gb: A100-SXM4-40GB has a layout already",
        ),
    ],
)
def test_bad_layout_of_a_group(value: str, message: str) -> None:
    """An impossible or unused layout of a group says which and why."""
    found = refused(HEAD + NODES + f"layout = {value}\n")
    assert found == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('default = "balancd"', "default: no layout is called 'balancd'; did you mean 'balanced'?"),
        ("default = 3", f"default: must be a layout's name or {COUNTS}, not 3"),
        (
            'default = { "1g.6gb" = 1 }',
            (
                "default: [nodes.a]: A100-SXM4-40GB has no profile '1g.6gb'; did you mean 1g.5gb? "
                "there are 1g.5gb, 1g.5gb+me, 1g.10gb, 2g.10gb, 3g.20gb, 4g.20gb, 7g.40gb"
            ),
        ),
        (
            'default = "small"\n"A30-24GB" = "small"',
            "A30-24GB: no group has A30-24GB in MIG mode",
        ),
        (
            '"A100-SXM4-40GB" = { "4g.20gb" = 1, "3g.20gb" = 1, "1g.5gb" = 1 }',
            (
                "A100-SXM4-40GB: [nodes.a]: A100-SXM4-40GB: 4g.20gb + 3g.20gb + 1g.5gb "
                "needs 9 of 8 memory slices"
            ),
        ),
    ],
)
def test_bad_layout_of_the_cluster(line: str, message: str) -> None:
    """A layout that the cluster cannot use says which, for which group, and why."""
    text = f'[slurm]\nrelease = "24.11"\n[layout]\n{line}\n{NODES}'
    number = 3 + len(line.splitlines())
    assert refused(text) == f"c.toml:{number}: [layout] {message}"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("", "c.toml:1: [nodes]: there must be a table [nodes.NAME] for each group of nodes"),
        (
            "[nodes]\n",
            "c.toml:5: [nodes]: there must be a table [nodes.NAME] for each group of nodes",
        ),
        ("[[nodes]]\nx = 1\n", "c.toml:5: [nodes]: must be a table, not [{'x': 1}]"),
        ("[nodes]\na = 3\n", "c.toml:6: [nodes.a]: must be a table, not 3"),
        ('[nodes.a]\ngpus = "A30:1"\n', "c.toml:5: [nodes.a]: hosts is missing"),
        ('[nodes.a]\nhosts = "a"\n', "c.toml:5: [nodes.a]: gpus is missing"),
        (
            NODES + 'confg = "x"\n',
            "c.toml:8: [nodes.a] confg: unknown key; did you mean 'conf'?",
        ),
        *(
            (
                NODES.replace("[nodes.a]", f"[nodes.{name}]"),
                (
                    f"c.toml:5: [nodes.{name.strip(chr(34))}]: a group's name must be made of "
                    "a-z, 0-9, _ and -, and begin with a-z or 0-9"
                ),
            )
            for name in ("A", "-a", '"a b"', '"a/../b"', '"é"', '""')
        ),
        (
            '[nodes.a]\nhosts = "a"\ngpus = [{ model = "A30", index = "0", mig = false }]\n',
            "c.toml:5: [nodes]: no group has a GPU in MIG mode; there is nothing to render",
        ),
    ],
)
def test_bad_groups(nodes: str, message: str) -> None:
    """A group that is not complete, or none at all."""
    assert refused(HEAD + nodes) == message


def test_static_mode_needs_a_layout() -> None:
    """A model without any layout would offer nothing: an error, but in elastic mode."""
    assert refused('[slurm]\nrelease = "24.11"\n' + NODES) == (
        "c.toml:5: [nodes.a] gpus: there is no layout for A100-SXM4-40GB, so its nodes would offer "
        'nothing; write [layout] default = "balanced"'
    )
