"""TOML with line numbers: the paths are tomllib's, the lines those of the file."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_mig.errors import ConfigError
from slurm_mig.tomlfile import line_of, lines, parse

SAMPLE = '''\
# a comment with [brackets] = and "quotes
top.dotted."a b" = 1   # [not.a.table]

[nodes.a100]
hosts = "gpu[01-16] # no comment"
gpus = [ { model = "A", index = "0-3" },
         # ] neither } here
         { model = "B", "in dex" = [1,
           [2, 3]], mig = false }
       ]
[ nodes . "b.c" ]
text = """
[not] = 'a table' """

last = \'\'\'
 ""\'\'\'
[[things]]
when = 1979-05-27 07:32:00
[things.sub]
x = inf
[[things]]
quotes = """a"""""
\tempty = {}
none = [] # ]
[things.sub]
x = -1_000.5e3
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("top", "dotted", "a b"), 2),
        (("nodes",), 4),
        (("nodes", "a100"), 4),
        (("nodes", "a100", "hosts"), 5),
        (("nodes", "a100", "gpus"), 6),
        (("nodes", "a100", "gpus", 0, "index"), 6),
        (("nodes", "a100", "gpus", 1), 8),
        (("nodes", "a100", "gpus", 1, "in dex", 0), 8),
        (("nodes", "a100", "gpus", 1, "in dex", 1), 9),
        (("nodes", "a100", "gpus", 1, "in dex", 1, 1), 9),
        (("nodes", "a100", "gpus", 1, "mig"), 9),
        (("nodes", "b.c"), 11),
        (("nodes", "b.c", "text"), 12),
        (("nodes", "b.c", "last"), 15),
        (("things",), 17),
        (("things", 0, "when"), 18),
        (("things", 0, "sub", "x"), 20),
        (("things", 1), 21),
        (("things", 1, "quotes"), 22),
        (("things", 1, "empty"), 23),
        (("things", 1, "none"), 24),
        (("things", 1, "sub", "x"), 26),
        # What is not there stands where the nearest thing around it does.
        (("nodes", "a100", "gpus", 1, "type"), 8),
        (("nodes", "a100", "gpus", 7), 6),
        (("nodes", "other"), 4),
        (("absent",), None),
    ],
)
def test_line_of_a_path(path: tuple[str | int, ...], line: int | None) -> None:
    """Each key, table and element has the line on which it begins."""
    assert line_of(SAMPLE, path) == line
    assert line_of(SAMPLE.replace("\n", "\r\n"), path) == line


def test_header_goes_before_what_named_the_table_first() -> None:
    """A table that is implied by a longer header and follows later has the line of its own."""
    assert lines("[a.b]\nx = 1\n[a]\ny = 2\n")[("a",)] == 3


def paths(value: object, at: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """All paths of a parsed document."""
    found = {at} if at else set()
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        found |= paths(inner, (*at, key))
    return found


def test_paths_of_the_sample_are_those_of_tomllib() -> None:
    """Nothing is missed and nothing made up."""
    assert set(lines(SAMPLE)) == paths(tomllib.loads(SAMPLE))


KEYS = st.sampled_from(["a", "b", "c-1", '"d e"', "'f.g'", '"h\\"]"', '""', '"\\u00e9"'])
DOTTED = st.lists(KEYS, min_size=1, max_size=2).map(" . ".join)
BREAKS = st.sampled_from(["", " ", "\n", " # ] } ' \"\n", "\n\n  "])
SCALARS = st.sampled_from(
    [
        *("1", "-0x1f", "+1.5e-3", "inf", "true", "1979-05-27T07:32:00Z", "07:32:00.5"),
        *(
            '""',
            '"]#}"',
            '"a\\"b\\\\"',
            "''",
            "'\\'",
            "'#]'",
            '"""\n]\n"""',
            '"""a\\""""',
            "''''''",
        ),
        *('"""a"""""', "'''\n'a''b'''''", '"""""""', '"""\\\n  x"""', '"""""a"""'),
    ]
)


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """An array, over lines or not, with comments between."""
    items = draw(st.lists(inner, max_size=3))
    text = "".join(f"{draw(BREAKS)}{item}{draw(BREAKS)}," for item in items)
    if items and draw(st.booleans()):
        text = text[:-1]
    return f"[{text}{draw(BREAKS)}]"


def tables(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """An inline table."""
    pairs = st.lists(st.tuples(KEYS, inner), max_size=3)
    return pairs.map(lambda items: "{ " + ", ".join(f"{k} ={v}" for k, v in items) + " }")


VALUES = st.recursive(SCALARS, lambda inner: st.one_of(arrays(inner), tables(inner)), max_leaves=5)
STATEMENTS = st.one_of(
    st.builds(lambda k, v, end: f"{k} = {v}{end}\n", DOTTED, VALUES, st.sampled_from(["", " # x"])),
    DOTTED.map(lambda k: f"[ {k} ]\n"),
    DOTTED.map(lambda k: f"[[{k}]] # ]]\n"),
    st.sampled_from(["\n", "# [c]\n", "  \t\n"]),
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A valid document: statements that tomllib takes after those before."""
    text = ""
    for statement in draw(st.lists(STATEMENTS, max_size=10)):
        try:
            tomllib.loads(text + statement)
        except tomllib.TOMLDecodeError:
            continue
        text += statement
    return text


@settings(max_examples=400, deadline=None)
@given(text=documents())
def test_paths_are_those_of_tomllib(text: str) -> None:
    """For any document the paths are exactly those that tomllib reads."""
    assert set(lines(text)) == paths(tomllib.loads(text))


@settings(max_examples=150, deadline=None)
@given(text=documents())
def test_lines_lie_where_tomllib_finds_the_key(text: str) -> None:
    """A path begins after every whole-line prefix without it, and in the first that has it.

    Not so for a table that a later header names again: there the header's line is given.
    """
    rows = text.splitlines(keepends=True)
    known = {}
    for end in range(len(rows) + 1):
        try:
            known[end] = paths(tomllib.loads("".join(rows[:end])))
        except tomllib.TOMLDecodeError:
            continue
    document = lines(text)
    for path, line in document.items():
        without = max((end for end, there in known.items() if path not in there), default=0)
        within = min(end for end, there in known.items() if path in there)
        assert without < line
        assert line <= within or rows[line - 1].lstrip().startswith("[")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[driver\n",
            "c.toml:1: not valid TOML: Expected ']' at the end of a table declaration (column 8)",
        ),
        ("a = 1\n\na = 2\n", "c.toml:3: not valid TOML: Cannot overwrite a value (column 6)"),
        ("x = 1\n[a]\n[a]\n", "c.toml:3: not valid TOML: Cannot declare ('a',) twice (column 3)"),
        ("a = [1,\n2\n", "c.toml:2: not valid TOML: Unclosed array (at the end of the file)"),
        ("a = \n", "c.toml:1: not valid TOML: Invalid value (column 5)"),
        ("\ufeffa = 1", "c.toml:1: not valid TOML: Invalid statement (column 1)"),
        (f"a = {'[' * 5000}", "c.toml: not valid TOML: nested too deeply"),
        (f"a = 0x{'f' * 9999}", "c.toml: not valid TOML: an integer has more than 64 bits"),
        (f"a = [{{b = {2**63}}}]", "c.toml: not valid TOML: an integer has more than 64 bits"),
    ],
)
def test_no_toml(text: str, message: str) -> None:
    """What tomllib refuses, and what it takes though TOML forbids it, is one sentence."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    assert str(caught.value) == message


def test_number_that_is_too_long_to_be_read() -> None:
    """A number of 5000 digits is an error of the file."""
    with pytest.raises(ConfigError, match=r"^c\.toml: not valid TOML: .*5000 digits"):
        parse(f"a = {'9' * 5000}", "c.toml")


def test_largest_integers() -> None:
    """TOML's integers have 64 bits."""
    assert parse(f"a = {2**63 - 1}\nb = {-(2**63)}", "c") == {"a": 2**63 - 1, "b": -(2**63)}


@pytest.mark.parametrize("depth", [50, 150, 200, 250, 300, 400, 480, 490])
def test_deep_nesting_has_a_line(depth: int) -> None:
    """However deep tomllib reads, what lies before the depths has its line."""
    text = f"\na = {'[' * depth}{']' * depth}"
    try:
        parse(text, "c")
    except ConfigError as error:
        assert str(error) == "c: not valid TOML: nested too deeply"  # noqa: PT017
    else:
        assert line_of(text, ("a",)) == 2
