"""Errors are one line, whatever they quote."""

from hypothesis import given
from hypothesis import strategies as st

from slurm_mig.errors import NodeFault, one_line


@given(st.text(), st.integers(20, 200))
def test_one_line_of_any_text(text: str, limit: int) -> None:
    """Nothing that is not printable gets through, and the length is bounded."""
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()


def test_hostile_text_in_an_error() -> None:
    """Terminal escapes and newlines of a user's text are shown, not obeyed."""
    error = NodeFault("job \x1b[2Jname\nSTATE=DRAIN\udcff")
    assert str(error) == "job \\x1b[2Jname\\x0aSTATE=DRAIN\\xdcff"
