"""Strict YAML: every scalar as it is written, with its line, and nothing overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_cli.errors import ContentError, SystemFailure
from rebasin_cli.spec.language.yaml_nodes import Items, Scalar, Table, parse_yaml, read_yaml


@pytest.mark.parametrize("word", ["no", "yes", "on", "1_0", "10", "0x1F", "1e3", "null", "~", "2026-01-01", "1:30"])
def test_words_that_yaml_would_coerce_stay_words(word: str) -> None:
    assert parse_yaml(f"key: {word}\n{word}: value", "f.yaml").entries == (
        (Scalar("key", 1), Scalar(word, 1)),
        (Scalar(word, 2), Scalar("value", 2)),
    )


def test_every_value_has_its_line() -> None:
    table = parse_yaml("a: 1\n\n# a comment\nb:\n  c: x\n  d:\n    - one\n    - two\n", "f.yaml")
    (_, a), (b_key, b) = table
    assert isinstance(a, Scalar)
    assert (a.line, b_key.line) == (1, 4)
    assert isinstance(b, Table)
    (c_key, _), (_, d) = b
    assert (b.line, c_key.line) == (5, 5)
    assert isinstance(d, Items)
    assert d.items == (Scalar("one", 7), Scalar("two", 8))


def test_an_empty_value_is_an_empty_word() -> None:
    assert parse_yaml("logit_scale:", "f.yaml").entries == ((Scalar("logit_scale", 1), Scalar("", 1)),)


@pytest.mark.parametrize(
    ("text", "parts", "line"),
    [
        ("a: 1\nb: 2\na: 3", ["`a` is given twice, on lines 1 and 3", "keep one"], 3),
        ("t:\n  x: 1\n  x: 1", ["`x` is given twice, on lines 2 and 3"], 3),
        ("t:\n  'x': 1\n  x: 1", ["`x` is given twice"], 3),
        ("t:\n  {i}.weight: h", ["not valid YAML", "quote keys that start with '{'"], 2),
        ("t:\n  *.weight: h", ["not valid YAML", "'*'"], 2),
        ("t:\n  ? [a, b]\n  : h", ["a key must be a single word", "quotes"], 2),
        ("t: &a x\nu: *a", ["anchors and aliases"], 1),
        ("t: &a\n  - *a", ["anchors and aliases"], 1),
        ("t: a: b", ["not valid YAML"], 1),
        ("t: 'open\n\n", ["not valid YAML"], 3),
        ("a: 1\n---\nb: 2", ["not valid YAML"], 2),
        ("", ["a permutation spec is a mapping"], 1),
        ("- a\n- b", ["a permutation spec is a mapping"], 1),
    ],
)
def test_other_yaml_than_a_mapping_is_refused_with_its_line(text: str, parts: list[str], line: int) -> None:
    with pytest.raises(ContentError) as caught:
        parse_yaml(text, "f.yaml")
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.where == f"f.yaml:{line}"


def test_control_characters_and_endless_nesting_are_refused() -> None:
    with pytest.raises(ContentError, match="not valid YAML"):
        parse_yaml("a: \x00", "f.yaml")
    with pytest.raises(ContentError, match="nested too deep"):
        parse_yaml("a: " + "[" * 5000 + "]" * 5000, "f.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match=r"cannot read .*absent\.yaml: there is no such file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(SystemFailure, match="it is a folder"):
        read_yaml(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ContentError, match="byte 6 is not UTF-8"):
        read_yaml(binary)
