"""Whatever the file says, the answer is a description or one sentence."""

from describing import FULL, HEAD, read
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_mig.errors import ConfigError

BASE = FULL.splitlines()
JUNK = st.sampled_from(
    [
        *"[]{}=\"',.#\n\\ 0-9:x",
        "é",
        "\x00",
        "[nodes.",
        "= 1",
        "-1",
        "[1-99999]",
        "A30",
        "true",
        '""',
    ]
)


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_any_change_of_a_file_is_a_description_or_a_sentence(data: st.DataObject) -> None:
    """Mutated text, key by key and byte by byte, never ends in anything but ConfigError."""
    rows = list(BASE)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(rows) - 1))
        row = rows[at]
        kind = data.draw(st.sampled_from(["cut", "swap", "insert", "drop", "value"]))
        column = data.draw(st.integers(0, len(row)))
        if kind == "cut":
            rows[at] = row[:column] + row[column + data.draw(st.integers(0, 6)) :]
        elif kind == "insert":
            rows[at] = row[:column] + data.draw(JUNK) + row[column:]
        elif kind == "drop":
            rows[at] = ""
        elif kind == "swap":
            other = data.draw(st.integers(0, len(rows) - 1))
            rows[at], rows[other] = rows[other], row
        elif "=" in row:
            values = ["1", "-1", "1.5", "true", '"x"', "[]", "{}", "[[1]]", "nan", "1979-05-27"]
            value = data.draw(st.sampled_from([*values, "[{}]", '""', '["a", 1]', "9" * 30]))
            rows[at] = f"{row.partition('=')[0]}= {value}"
    text = "\n".join(rows)
    try:
        found = read(text)
    except ConfigError as error:
        message = str(error)
    else:
        assert all(group.size > 0 for group in found.groups)
        return
    assert message.startswith("c.toml:")
    assert "\n" not in message


@settings(max_examples=300, deadline=None)
@given(
    value=st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=5), st.booleans(), st.floats()),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["model", "index", "mig", "type", "default", "x"]), inner
            )
        ),
        max_leaves=4,
    ),
    key=st.sampled_from(["hosts", "gpus", "layout", "conf"]),
)
def test_any_value_of_a_group_is_a_description_or_a_sentence(value: object, key: str) -> None:
    """A value of any type for any key of a group never ends in anything but ConfigError."""
    pairs = {"hosts": '"a"', "gpus": '"A30:1"', key: as_toml(value)}
    text = HEAD + "[nodes.a]\n" + "".join(f"{k} = {v}\n" for k, v in pairs.items())
    try:
        found = read(text)
    except ConfigError as error:
        message = str(error)
    else:
        assert found.groups[0].size == 1
        return
    assert message.startswith("c.toml:")


def as_toml(value: object) -> str:
    """A value as TOML; null is an empty table."""
    if value is None:
        return "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return (
            '"' + "".join(f"\\U{ord(c):08x}" for c in value if not "\ud800" <= c <= "\udfff") + '"'
        )
    if isinstance(value, list):
        return f"[{', '.join(as_toml(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}" = {as_toml(v)}' for k, v in value.items()) + "}"
    return repr(value)
