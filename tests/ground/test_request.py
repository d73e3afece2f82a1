"""What a job asks for: Slurm's GRES strings and the plugin's token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_mig.errors import RequestError
from slurm_mig.request import Wanted, asks, describe, parse_gres, parse_token, token


@pytest.mark.parametrize(
    ("text", "whether"),
    [
        ("", False),
        ("gpu:1", False),
        ("gres/mig:3g.20gb:1", True),
        ("gres:mig:3g.20gb", True),
        ("gpu:1,mig", True),
        ("mig:2", True),
        ("gres/mig:3g.20gb=2", True),
        ("mig:3g.20gb:0", False),
        ("mig:0", False),
        ("migration:1", False),
        ("mig:no such thing", True),
    ],
)
def test_asks(text, whether):
    """Whether a request names any instance, however it is written; a count of none is none."""
    assert asks(text) is whether


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ()),
        ("gpu:2(IDX:0,3)", ()),
        ("gpu:mig:3", ()),
        ("mig:3g.20gb(CNT:1)", (Wanted("3g.20gb", 1),)),
        ("gpu:a100:2(IDX:0-1),mig:1g.5gb+me(CNT:1)", (Wanted("1g.5gb+me", 1),)),
        ("mig:3g.20gb(CNT:1),mig:1g.5gb(CNT:2)", (Wanted("3g.20gb", 1), Wanted("1g.5gb", 2))),
        ("mig:1g.5gb:1,mig:1g.5gb:2", (Wanted("1g.5gb", 3),)),
        ("gres:mig:3g.20gb:2", (Wanted("3g.20gb", 2),)),
        ("gres/mig:3g.20gb", (Wanted("3g.20gb", 1),)),
        ("mig:1g.24gb-me:2", (Wanted("1g.24gb-me", 2),)),
        ("mig:1g.24gb+me.all:1", (Wanted("1g.24gb+me.all", 1),)),
        ("shard:4,migration:2", ()),
    ],
)
def test_gres_strings(text: str, wanted: tuple[Wanted, ...]) -> None:
    """Requests and allocations of every form give the same typed counts."""
    assert parse_gres(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mig:2", "'mig:2' names no profile; ask for one by name, such as --gres=mig:3g.20gb"),
        ("mig(CNT:2)", "'mig(CNT:2)' names no profile; "),
        ("mig", "'mig' names no profile; "),
        ("mig:3g.20gb:0", "'mig:3g.20gb:0' asks for '0' instances; ask for 1 or more"),
        ("mig:3g.20gb:-1", "'mig:3g.20gb:-1' asks for '-1' instances; ask for 1 or more"),
        ("mig:3g", "'3g' is no MIG profile name; names look like 3g.20gb"),
        ("mig:none:8", "'none' is no MIG profile name; "),
        ("mig:3g.20gb+mee:1", "'3g.20gb+mee' is no MIG profile name; "),
        ("mig:1c.3g.20gb:3", "'mig:1c.3g.20gb:3' asks for a part of a GPU instance; "),
        ("mig:3c.2g.10gb:1", "'3c.2g.10gb' asks for 3 compute slices of a 2g GPU instance; "),
    ],
)
def test_requests_that_make_no_sense(text: str, message: str) -> None:
    """Each gets a sentence that quotes what was asked and says what to do."""
    with pytest.raises(RequestError) as caught:
        parse_gres(text)
    assert str(caught.value).startswith(message)


@given(st.text(max_size=200))
def test_any_text_is_a_request_or_a_sentence(text: str) -> None:
    """No string makes the parser fail in any other way, and no error spans two lines."""
    for parse in (parse_gres, parse_token):
        try:
            parse(text)
        except RequestError as error:
            said = str(error)
        else:
            continue
        assert said.isprintable()


PROFILES = st.sampled_from(["1g.5gb", "1g.5gb+me", "3g.20gb", "1g.24gb-me", "1g.24gb+me.all"])


@given(st.dictionaries(PROFILES, st.integers(1, 99)))
def test_token_round_trip(counts: dict[str, int]) -> None:
    """A token says what was put in it, whatever the user's own text after it."""
    wanted = tuple(Wanted(profile, count) for profile, count in sorted(counts.items()))
    for own in ("", "own text", "slurm-mig/1:none;"):
        assert parse_token(token(wanted) + own) == wanted


@pytest.mark.parametrize("extra", ["", "mine", " slurm-mig/1:none;", "slurm-mig/2:none;"])
def test_no_token(extra: str) -> None:
    """Anything else at the start of `extra` is no token."""
    assert parse_token(extra) is None


def test_description() -> None:
    """A request as a person writes it."""
    assert describe((Wanted("3g.20gb", 1), Wanted("1g.5gb", 2))) == "3g.20gb, 1g.5gb x2"
    assert describe(()) == "no instance"
