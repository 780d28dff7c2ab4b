"""Patterns: text to tree and back, and where a text stops making sense."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rebasin_cli.spec.language import Pick, Ref
from rebasin_cli.spec.language.pattern import (
    Anonymous,
    Axis,
    DimName,
    Pattern,
    Product,
    parse_dim_name,
    parse_pattern,
)

_WORDS = st.from_regex(r"[A-Za-z]\w{0,4}", fullmatch=True).filter(str.isascii)
_LETTERS = st.sampled_from("ibcsl")
_REFS = st.one_of(
    st.builds(Ref, _LETTERS, st.integers(-3, 3)),
    st.builds(Ref, _LETTERS, pick=st.sampled_from([Pick.PREV, Pick.NEXT, Pick.FIRST, Pick.LAST, Pick.BELOW])),
    st.just(Ref("*", pick=Pick.ALL)),
)
_NAMES = st.builds(lambda word, parts: DimName((word, *parts)), _WORDS, st.lists(st.one_of(_WORDS, _REFS), max_size=3))
_STILL = st.builds(Anonymous, st.one_of(st.none(), st.integers(1, 99), _WORDS))
_AXES = st.recursive(
    st.builds(lambda part: Axis((part,)), st.one_of(_NAMES, _STILL)),
    lambda axes: st.builds(
        lambda parts: Axis(tuple(parts)),
        st.lists(
            st.one_of(_NAMES, _STILL, st.builds(lambda f: Product(tuple(f)), st.lists(axes, min_size=1, max_size=3))),
            min_size=1,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
PATTERNS = st.builds(lambda axes: Pattern(tuple(axes)), st.lists(_AXES, max_size=4))


@given(PATTERNS)
def test_what_is_written_is_what_is_read(pattern: Pattern) -> None:
    assert parse_pattern(str(pattern)) == pattern


@given(PATTERNS, st.sampled_from(["", " ", "  ", "\t", "\n"]))
def test_white_space_around_brackets_and_plus_does_not_count(pattern: Pattern, white: str) -> None:
    text = str(pattern).replace("(", f"({white}").replace(")", f"{white})").replace(" + ", f"{white}+{white}")
    assert parse_pattern(f"{white}{text}{white}") == pattern


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a+b c", "a + b c"),
        ("(a b)+(a c)", "(a b) + (a c)"),
        ("( a  b )", "(a b)"),
        ("_:3", "3"),
        ("  a b ", "a b"),
        ("(a b) (c d)", "(a b)(c d)"),
        ("h.{ i }", "h.{i}"),
        ("h.{i + 1}", "h.{i+1}"),
        ("", "   "),
    ],
)
def test_two_ways_to_write_one_pattern(one: str, other: str) -> None:
    assert parse_pattern(one) == parse_pattern(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a b", "(a b)"),
        ("a + b", "a b"),
        ("(a b c)", "(a (b c))"),
        ("(a b)", "(b a)"),
        ("a + b", "b + a"),
        ("_", "1"),
        ("_:n", "n"),
        ("(a + b c)", "a + (b c)"),
        ("h.{i}", "h.{i+1}"),
        ("h.{prev i}", "h.{i-1}"),
    ],
)
def test_two_patterns_that_differ(one: str, other: str) -> None:
    assert parse_pattern(one) != parse_pattern(other)


def test_plus_binds_tighter_than_the_space_between_axes() -> None:
    assert [str(axis) for axis in parse_pattern("(h a) + (h a) + (h v) embed").axes] == [
        "(h a) + (h a) + (h v)", "embed",
    ]  # fmt: skip


def test_the_names_in_a_pattern() -> None:
    pattern = parse_pattern("(head.{i} (_:rot + qk.{i} + _:rot)) embed 4")
    assert [str(name) for name in pattern.dim_names()] == ["head.{i}", "qk.{i}", "embed"]
    assert list(pattern.size_names()) == ["rot", "rot"]
    assert [sorted(name.variables) for name in pattern.dim_names()] == [["i"], ["i"], []]


def test_an_empty_pattern_has_no_axes() -> None:
    assert parse_pattern("").axes == ()


@pytest.mark.parametrize(
    ("text", "problem", "character"),
    [
        ("a b)", "unexpected `)`", 4),
        ("(a b", "the `(` at character 1 is not closed", 1),
        ("a (b (c d)", "the `(` at character 3 is not closed", 3),
        ("()", "an empty `()`", 2),
        ("a ( ) b", "an empty `()`", 5),
        ("+ a", "a part is missing before `+`", 1),
        ("a + + b", "a part is missing before `+`", 5),
        ("(a +) b", "a part is missing before `)`", 5),
        ("a +", "a part is missing", 4),
        ("a * b", "cannot read `* b`", 3),
        ("a, b", "cannot read `, b`", 2),
        ("4h", "cannot read `4h`", 1),
        ("_a", "cannot read `_a`", 1),
        ("_:", "cannot read `:`", 2),
        ("_:3x", "cannot read `:3x`", 2),
        ("a 0", "a side of size 0", 3),
        ("_:0", "a side of size 0", 1),
        ("a b.{i", "`b.`: a dim's name is words", 3),
        ("b.{}", "`{}` is none of {i}", 1),
        ("x b{i}", "`b{i}`: a dim's name is words", 3),
        ("b.{i}{j}", "is none of", 1),
        ("b..c", "`b..c`: a dim's name is words", 1),
        ("b.{i*2} c", "`{i*2}` is none of", 1),
        ("{i}", "cannot read `{i}`", 1),
    ],
)
def test_every_error_shows_the_text_and_the_character(text: str, problem: str, character: int) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        parse_pattern(text)
    assert f"`{text}`" in str(caught.value)
    assert f"at character {character}" in str(caught.value)


@given(st.text("ab_.{}i+:() 12|/", max_size=12))
@example("a:a")
def test_any_text_is_a_pattern_or_an_error_that_shows_it(text: str) -> None:
    try:
        pattern = parse_pattern(text)
    except ValueError as error:
        assert f"`{text}`" in str(error)  # noqa: PT017 both outcomes are right
        assert "at character" in str(error)  # noqa: PT017
    else:
        assert parse_pattern(pattern.with_bars) == pattern


@pytest.mark.parametrize("text", ["", "(a)", "a b", "_", "3", "a +", "_:n"])
def test_a_dims_name_on_its_own(text: str) -> None:
    with pytest.raises(ValueError, match="is not a dim's name"):
        parse_dim_name(text)


def test_the_parts_of_a_dims_name() -> None:
    assert parse_dim_name(" g.{b}.{<l} ").parts == ("g", Ref("b"), Ref("l", pick=Pick.BELOW))
