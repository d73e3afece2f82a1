"""The data of the module, and Lua literals: what Python writes is what every Lua reads."""

import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luajob import described, group

from slurm_mig.description import GpuSet
from slurm_mig.offers import data, literal
from slurm_mig.table import entries

TABLE = {entry.key: entry for entry in entries()}
A100, H100 = TABLE["A100-SXM4-40GB"], TABLE["H100-SXM5-80GB"]

#: Prints a value so that Python can read it back: strings by their bytes.
PRINT = """
local function show(value)
  if type(value) == "string" then
    local bytes = {}
    for i = 1, #value do bytes[i] = value:byte(i) end
    return "bytes([" .. table.concat(bytes, ",") .. "])"
  elseif type(value) == "table" then
    local parts = {}
    for key, of in pairs(value) do
      parts[#parts + 1] = "(" .. show(key) .. "," .. show(of) .. ")"
    end
    return "[" .. table.concat(parts, ",") .. "]"
  elseif type(value) == "number" then
    return string.format("%.0f", value)
  end
  return value == true and "True" or value == false and "False" or "None"
end
local load = loadstring or load
print(show(assert(load("return " .. io.read("*a")))()))
"""


def read_back(version: str, text: str) -> object:
    """The value of a Lua expression: tables as lists of pairs, strings as bytes."""
    program = shutil.which(version)
    assert program is not None
    done = subprocess.run(
        [program, "-e", PRINT], input=text.encode(), capture_output=True, check=False, timeout=20
    )
    assert done.stderr == b""
    return eval(done.stdout, {"bytes": bytes})  # noqa: S307 - what PRINT made


def pairs(value: object) -> object:
    """The same shape of a Python value."""
    if isinstance(value, dict):
        return sorted(((pairs(k), pairs(v)) for k, v in value.items() if v is not None), key=repr)
    if isinstance(value, list):
        return sorted(((i + 1, pairs(v)) for i, v in enumerate(value) if v is not None), key=repr)
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def ordered(value: object) -> object:
    """What was read back, in the same order."""
    if isinstance(value, list):
        return sorted(((ordered(k), ordered(v)) for k, v in value), key=repr)
    return value


KEYS = st.text() | st.integers(-(2**53), 2**53)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=VALUES)
def test_literals_come_back(version: str, value: object) -> None:
    """Any nesting of strings with any bytes, integers, lists and tables is read as it was."""
    assert ordered(read_back(version, literal(value))) == pairs(value)


def test_strings_are_plain_ascii() -> None:
    """Quotes, backslashes, line ends and non-ASCII bytes are three digits, whatever follows."""
    assert literal('a"\\\n0é\x00') == '"a\\034\\092\\0100\\195\\169\\000"'


@pytest.mark.parametrize("value", [1.5, object(), {None: 1}, {1, 2}, 2**53 + 1])
def test_no_literal(value: object) -> None:
    """What Lua has no exact literal for is an error, not something near it."""
    with pytest.raises((TypeError, ValueError)):
        literal(value)


def test_data() -> None:
    """Promises by kind of node; models with all their profiles by size; groups alike are one."""
    whole = group("whole", "w[1-9]", 9, {}, A100)
    mixed = group("mixed", "m1", 1, {"7g.80gb": 1, "1g.10gb+me": 1}, H100)
    kept = GpuSet(A100, (1,), mig=False)
    found = data(
        described(
            group("a", "a[01-16]", 16, {"3g.20gb": 2, "1g.5gb": 4, "2g.10gb": 0}, A100),
            whole,
            group("b", "b1", 1, {"1g.5gb": 4, "3g.20gb": 2}, A100),
            type(mixed)(**{**fields(mixed), "gpus": (*mixed.gpus, kept)}),
        )
    )
    assert found == {
        "release": 2411,
        "field": "extra",
        "models": {
            "A100-SXM4-40GB": [
                *("1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb")
            ],
            "H100-SXM5-80GB": [
                *("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
            ],
        },
        "kinds": [
            {
                "hosts": "a[01-16],b1",
                "models": ["A100-SXM4-40GB"],
                "counts": {"1g.5gb": 4, "3g.20gb": 2},
            },
            {
                "hosts": "m1",
                "models": ["H100-SXM5-80GB"],
                "counts": {"1g.10gb+me": 1, "7g.80gb": 1},
            },
        ],
    }


def fields(one: object) -> dict[str, object]:
    """The fields of a dataclass with slots."""
    return {name: getattr(one, name) for name in type(one).__slots__}


def test_data_of_an_elastic_cluster() -> None:
    """With elastic mode it is what a node could make, and the release is one number."""
    one = group("a", "a1", 1, {"3g.20gb": 2}, A100, maxima={"7g.40gb": 1, "3g.20gb": 2})
    found = data(described(one, elastic=True, release=(25, 5), token=""))
    assert (found["release"], found["field"]) == (2505, "")
    assert found["kinds"] == [
        {
            "hosts": "a1",
            "models": ["A100-SXM4-40GB"],
            "counts": {"3g.20gb": 2, "7g.40gb": 1},
            "room": [8, 7],
            "needs": {"3g.20gb": [4, 3], "7g.40gb": [8, 7]},
        }
    ]


def test_size_of_a_large_cluster() -> None:
    """200 groups of 10,000 nodes in three layouts of a model: three kinds, and a small file."""
    layouts = [{"7g.40gb": 8}, {"3g.20gb": 16}, {"1g.5gb": 56}]
    groups = [group(f"g{i}", f"g{i}n[01-50]", 50, layouts[i % 3], A100) for i in range(200)]
    found = data(described(*groups))
    assert len(found["kinds"]) == 3
    assert len(literal(found)) < 4000
