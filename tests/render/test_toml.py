"""What is written as TOML, tomllib reads back as it was."""

import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rendering import ELASTIC, TWO_GROUPS, described, files, text

from slurm_mig import settings, toml_text

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_VALUE = st.one_of(
    _TEXT,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)


def same(found: object, meant: object) -> bool:
    """Equal and of one type: TOML tells 1, 1.0 and true apart."""
    if isinstance(meant, dict) and isinstance(found, dict):
        return list(found) == list(meant) and all(same(found[key], meant[key]) for key in meant)
    alike = type(found) is type(meant) and found == meant
    return alike and (
        not isinstance(meant, float) or math.copysign(1, found) == math.copysign(1, meant)
    )


@given(st.dictionaries(_TEXT, st.one_of(_VALUE, st.dictionaries(_TEXT, _VALUE))), _TEXT)
def test_any_table_is_read_back(content: dict[str, object], name: str) -> None:
    """Quotes, backslashes, control characters and any Unicode in keys and strings survive."""
    assert same(tomllib.loads(toml_text.table(name, content)), {name: content})


def test_what_cannot_be_seen_is_escaped() -> None:
    """A bidirectional override or an invisible blank in a string stands there as an escape."""
    assert toml_text.string("a\u202eb\u200b\x7f\U000e0001") == r'"a\u202eb\u200b\u007f\U000e0001"'
    assert toml_text.string("é 漢 🙂") == '"é 漢 🙂"'


def test_half_a_character_is_refused() -> None:
    """A lone surrogate is in no TOML file."""
    with pytest.raises(UnicodeEncodeError):
        toml_text.string("\ud800")


def test_what_has_no_place_is_refused() -> None:
    """Only what rendered files hold is written."""
    with pytest.raises(TypeError, match="no place in a rendered TOML file"):
        toml_text.value([1])


_NODE = """
[node.driver]
library = "/opt/driver/libnvidia-ml.so.1"
[node.slurm]
timeout = 12.5
request = "token"
[node.epilog]
drain = true
budget = 45
"""


def test_node_files_mean_what_the_description_says() -> None:
    """The settings of a node are the description's, with its group's layout and GPUs."""
    description = described(TWO_GROUPS + _NODE)
    for group in description.groups:
        written = text(description, f"nodes/{group.name}/config.toml")
        found = settings.parse([("config.toml", tomllib.loads(written))])
        mig = [index for gpus in group.mig for index in gpus.indices]
        for gpus in group.mig:
            # The driver tells a node its GPU's own name, not our table's.
            for name in gpus.entry.nvml_names:
                assert found.layout_of(name) == group.layout[gpus.entry.key]
        assert len(found.layout) == sum(len(gpus.entry.nvml_names) for gpus in group.mig)
        assert found.mig_minors == tuple(sorted(mig))
        for option in settings.OPTIONS:
            if option.section != "gpus":
                assert getattr(found, option.field) == getattr(description.settings, option.field)
    assert found.epilog_drain is True
    assert found.slurm_timeout == 12.5


def test_node_files_say_only_what_was_said() -> None:
    """What the admin did not write stays at the default of the node's own slurm-mig."""
    assert tomllib.loads(text(described(), "nodes/a100/config.toml")) == {
        "gpus": {"mig": "0-7"},
        "layout": {"NVIDIA A100-SXM4-40GB": "balanced"},
    }
    assert tomllib.loads(text(described(), "nodes/mixed/config.toml")) == {
        "gpus": {"mig": "0-2,5"},
        "layout": {"NVIDIA H100 80GB HBM3": "halves"},
    }


def test_own_layouts_are_written_as_counts() -> None:
    """A layout of one's own, with signs in its profiles' names, is read back as it was."""
    own = '{ "1g.10gb+me" = 1, "3g.40gb" = 1 }'
    toml = TWO_GROUPS.replace('layout = "halves"', f'layout = {{ "H100-SXM5-80GB" = {own} }}')
    written = tomllib.loads(text(described(toml), "nodes/mixed/config.toml"))
    assert written["layout"] == {"NVIDIA H100 80GB HBM3": {"1g.10gb+me": 1, "3g.40gb": 1}}


def test_no_layout_no_section() -> None:
    """An elastic group without a layout has none in its file either: it serves what fits."""
    toml = '[slurm]\nrelease = "24.11"\n[nodes.n]\nhosts = "n1"\ngpus = "A30-24GB:1"\n' + ELASTIC
    assert tomllib.loads(text(described(toml), "nodes/n/config.toml")) == {"gpus": {"mig": "0"}}


def test_only_nodes_with_mig_have_a_file() -> None:
    """A group whose GPUs all stay whole needs no slurm-mig configuration."""
    whole = (
        '[nodes.whole]\nhosts = "w[1-2]"\n'
        'gpus = [ { model = "A30-24GB", index = "0-1", mig = false } ]\n'
    )
    names = [name for name in files(described(TWO_GROUPS + whole)) if name.startswith("nodes/")]
    assert names == ["nodes/a100/config.toml", "nodes/mixed/config.toml"]
