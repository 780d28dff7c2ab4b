"""The small words in braces."""

from __future__ import annotations

import pytest

from rebasin_cli.spec.language import Pick, Ref, binds_number, parse_ref

FORMS = {
    "i": Ref("i"),
    "i+1": Ref("i", offset=1),
    "i-12": Ref("i", offset=-12),
    "prev c": Ref("c", pick=Pick.PREV),
    "next c": Ref("c", pick=Pick.NEXT),
    "first c": Ref("c", pick=Pick.FIRST),
    "last c": Ref("c", pick=Pick.LAST),
    "<l": Ref("l", pick=Pick.BELOW),
    "*": Ref("*", pick=Pick.ALL),
    "side": Ref("side"),
}


@pytest.mark.parametrize(("body", "ref"), FORMS.items())
def test_every_form_is_read_and_written(body: str, ref: Ref) -> None:
    assert parse_ref(body) == ref
    assert str(ref) == f"{{{body}}}"
    assert parse_ref(f" {body} ") == ref


def test_spaces_around_an_offset_do_not_count() -> None:
    assert parse_ref("i + 1") == parse_ref("i+1")
    assert parse_ref("< l") == parse_ref("<l")


@pytest.mark.parametrize("body", ["", "1", "i+", "+1", "i*2", "prev", "previous c", "<", "<=l", "**", "i,j", "a-b"])
def test_other_forms_are_refused_and_shown(body: str) -> None:
    with pytest.raises(ValueError, match=r"is none of .*\{i\+1\}.*\{prev i\}") as caught:
        parse_ref(body)
    assert f"`{{{body}}}`" in str(caught.value)


def test_nothing_can_be_added_to_a_word() -> None:
    with pytest.raises(ValueError, match=r"`\{side\+1\}`: `side` binds a word"):
        parse_ref("side+1")


def test_one_letter_binds_a_number_and_more_a_word() -> None:
    assert binds_number("i")
    assert not binds_number("side")


def test_the_value_of_a_reference() -> None:
    assert Ref("i", offset=-1).value({"i": 4}) == 3
    assert Ref("side").value({"side": "left"}) == "left"
