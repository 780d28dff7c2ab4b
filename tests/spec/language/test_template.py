"""Key templates: what they match, what they bind, and which of them is the more specific."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.spec.language.template import Template, parse_templates, skeleton_of, skeletons_of


def one(text: str) -> Template:
    (template,) = parse_templates(text)
    return template


@pytest.mark.parametrize(
    ("template", "key", "bindings"),
    [
        ("conv1.weight", "conv1.weight", {}),
        ("conv1.weight", "conv1xweight", None),
        ("layer{s}.{b}.conv1.weight", "layer3.12.conv1.weight", {"s": 3, "b": 12}),
        ("layer{s}.{b}.conv1.weight", "layer3.x.conv1.weight", None),
        ("layer{s}.{b}.conv1.weight", "layer3.1.conv1.weight.extra", None),
        ("{i+1}.bias", "4.bias", {"i": 3}),
        ("{i+1}.bias", "0.bias", None),
        ("{i-1}.bias", "4.bias", {"i": 5}),
        ("{i}.{i}.w", "2.2.w", {"i": 2}),
        ("{i}.{i}.w", "2.3.w", None),
        ("{i}.{i+1}.w", "2.3.w", {"i": 2}),
        ("{i}.w", "0.w", {"i": 0}),
        ("{i}.w", "07.w", None),
        ("{first d}.w", "7.w", {"d": 7}),
        ("{last d}.w", "7.w", {"d": 7}),
        ("blocks.{part}.w", "blocks.q-proj_1.w", {"part": "q-proj_1"}),
        ("blocks.{part}.w", "blocks.a.b.w", None),
        ("{side:down,up}.{i}.w", "up.0.w", {"side": "up", "i": 0}),
        ("{side:down,up}.{i}.w", "left.0.w", None),
        ("*.inv_freq", "model.layers.0.inv_freq", {}),
        ("h.{i}.*.experts.{e}.*", "h.1.moe.experts.3.w1.weight", {"i": 1, "e": 3}),
        ("{*}.inv_freq", "a.b.inv_freq", {}),
        ("x?", "x", {}),
    ],
)
def test_matching(template: str, key: str, bindings: dict[str, int | str] | None) -> None:
    assert one(template).match(key) == bindings


def test_alternation_gives_one_template_a_word() -> None:
    templates = parse_templates("h.{i}.{ln,norm}.{weight,bias}?")
    assert [t.text for t in templates] == [
        "h.{i}.ln.weight?", "h.{i}.ln.bias?", "h.{i}.norm.weight?", "h.{i}.norm.bias?",
    ]  # fmt: skip
    assert all(t.optional for t in templates)
    assert len({t.family for t in templates}) == 4


def test_a_bar_makes_one_family_of_several_words() -> None:
    templates = parse_templates("{bn|norm}1.{weight,bias}")
    assert [t.text for t in templates] == ["bn1.weight", "bn1.bias", "norm1.weight", "norm1.bias"]
    assert {t.family for t in templates} == {"{bn|norm}1.weight", "{bn|norm}1.bias"}


def test_fewer_variables_are_more_specific_and_wildcards_least() -> None:
    ordered = ["layer1.0.w", "layer{s}.0.w", "layer{s}.{b}.w", "layer{s}.*", "*.{s}*"]
    ranks = [one(text).rank for text in ordered]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)


def test_first_and_last_are_as_specific_as_a_number() -> None:
    assert one("fc.{first d}.w").rank == one("fc.0.w").rank < one("fc.{d}.w").rank


def test_the_key_under_bindings() -> None:
    assert one("layer{s}.{b+1}.{part}.w").key({"s": 1, "b": 2, "part": "q"}) == "layer1.3.q.w"
    assert one("{side:down,up}.w").key({"side": "up"}) == "up.w"
    assert one("layer{s}.w").key({}) is None
    assert one("*.w").key({}) is None
    assert one("{last s}.w").key({"s": 1}) is None


def test_scope_ends_at_the_last_variable() -> None:
    assert one("h.{i}.attn.w").scope == one("h.{i}.mlp.w").scope == "h.{i}"
    assert one("h.{i}.attn.w").scope != one("g.{i}.attn.w").scope


@given(st.integers(0, 10**6), st.integers(0, 99), st.sampled_from(["weight", "bias"]))
def test_a_template_matches_the_key_that_it_names(s: int, b: int, end: str) -> None:
    template = one(f"layer{{s}}.{{b}}.x2.{end}")
    key = template.key({"s": s, "b": b})
    assert key is not None
    assert template.match(key) == {"s": s, "b": b}
    assert template.skeletons == (skeleton_of(key),)


def test_skeletons() -> None:
    assert one("layer{s}.0.conv1.w").skeletons == ("layer#.#.conv#.w",)
    assert one("h1{i}.w").skeletons == (skeleton_of("h12.w"),)
    assert one("{side:up.0,up.1,mid}.{b}.w").skeletons == ("up.#.#.w", "mid.#.w")
    assert one("h.{name}.w").skeletons == ()
    assert one("h.*").skeletons == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty key template"),
        ("?", "an empty key template"),
        ("h.{i.w", "`h.{i.w`: a lone `{` at character 3"),
        ("h.i}.w", "`h.i}.w`: a lone `}` at character 4"),
        ("h.{}.w", "`h.{}.w`: `{}` is none of {i}"),
        ("h.{i*2}.w", "`{i*2}` is none of"),
        ("h.{prev i}.w", "`{prev i}` cannot stand in a key; use it in a dim's name, at character 3"),
        ("h.{<i}.w", "`{<i}` cannot stand in a key"),
        ("h.{side:}.w", "`{side:}` should read {name:one,two}"),
        ("h.{side:a,}.w", "`{side:a,}` should read"),
        ("h.{2:a,b}.w", "`{2:a,b}` should read"),
        ("h.{side+1}.w", "`side` binds a word"),
    ],
)
def test_bad_templates_are_shown_with_the_character(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_templates(text)
    if "{" in text:
        assert f"`{text}`" in str(caught.value)
        assert "at character" in str(caught.value)


def test_a_choice_of_one_letter_binds_numbers() -> None:
    (template,) = parse_templates("middle.{n:0,2}.weight")
    assert template.match("middle.2.weight") == {"n": 2}
    assert template.match("middle.1.weight") is None
    assert template.key({"n": 0}) == "middle.0.weight"
    with pytest.raises(ValueError, match=r"binds numbers, as in \{n:0,2\}"):
        parse_templates("middle.{n:a,b}.weight")


@given(st.lists(st.text("a1.\n", max_size=5)))
def test_skeletons_of_many_keys(keys: list[str]) -> None:
    assert skeletons_of(keys) == [skeleton_of(key) for key in keys]


@given(
    st.sampled_from(["a.{i}.*", "*.w1", "*2.w", "x7*", "{word}.b3", "4{word}.5{word}6"]),
    st.from_regex(r"[a-z0-9.]{0,6}"),
)
def test_a_wild_template_tells_the_ends_of_its_keys(text: str, free: str) -> None:
    template = one(text)
    key = text.replace("{i}", "12").replace("*", free).replace("{word}", free.replace(".", "") or "q")
    begin, end = template.ends
    assert template.match(key) is None or (skeleton_of(key).startswith(begin) and skeleton_of(key).endswith(end))
