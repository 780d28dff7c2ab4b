"""Sizes as small exact expressions."""

from __future__ import annotations

from typing import Any

import pytest

from rebasin_cli.spec.language.expressions import parse_expression

CONFIG = {
    "hidden": 64, "heads": 4, "pct": 0.25, "tenth": 0.1, "none": None, "word": "8", "yes": True, "whole": 32.0,
    "depths": [2, 4, 6], "text": {"hidden": 96}, "nan": float("nan"), "zero": 0,
}  # fmt: skip
KNOWN = {"head_dim": 16, "i": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("config.hidden / config.heads", 16),
        ("config.hidden/config.heads*3", 48),
        ("(config.hidden + 2) * 2", 132),
        ("config.hidden - head_dim", 48),
        ("config.text.hidden", 96),
        ("config.depths[1]", 4),
        ("config.depths[i]", 6),
        ("config.depths[i - 1]", 4),
        ("config.pct * head_dim", 4),
        ("config.tenth * 30", 3),
        ("config.whole", 32),
        ("config.zero", 0),
        ("config.hidden / 3", None),
        ("config.hidden / 3 * 3", 64),
        ("config.hidden / 0", None),
        ("config.hidden - 65", None),
        ("config.absent", None),
        ("config.absent.deeper", None),
        ("config.none", None),
        ("config.word", None),
        ("config.yes", None),
        ("config.nan", None),
        ("config.depths", None),
        ("config.depths[3]", None),
        ("config.hidden[0]", None),
        ("config", None),
        ("min(config.hidden / 8, 16)", 8),
        ("min(config.hidden / 2, 16, head_dim - 1)", 15),
        ("min(config.absent, 16)", None),
        ("other", None),
        ("other * 2", None),
    ],
)
def test_values(text: str, value: int | None) -> None:
    assert parse_expression(text).evaluate(CONFIG, KNOWN.get) == value


def test_without_a_config_only_the_rest_has_a_value() -> None:
    assert parse_expression("config.hidden").evaluate(None, KNOWN.get) is None
    assert parse_expression("head_dim * 2").evaluate(None, KNOWN.get) == 32


def test_what_an_expression_uses() -> None:
    expression = parse_expression("config.depths[i] * heads")
    assert expression.uses_config
    assert expression.names == {"i", "heads"}
    assert not parse_expression("configs").uses_config


def test_spacing_does_not_show_in_the_canonical_text() -> None:
    assert str(parse_expression("config.a/ config.b")) == str(parse_expression(" config.a / config.b"))
    assert str(parse_expression("(a+b)*c")) != str(parse_expression("a+b*c"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "a b",
        "1.5",
        "'a'",
        "True",
        "f(1)",
        "min()",
        "min(a, key=b)",
        "min(*a)",
        "a.min(1)",
        "max(1, 2)",
        "a ** 2",
        "a // 2",
        "a % 2",
        "-a",
        "a if b else c",
        "[1]",
        "a[1:2]",
        "lambda: 1",
        "__import__('os')",
        "a.b",
        "a[0]",
        "(a + b).c",
        "kv.0",
        "\x00",
    ],
)
def test_other_syntax_is_refused_and_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|only `config`") as caught:
        parse_expression(text)
    assert f"`{text}`" in str(caught.value)


def test_nothing_is_evaluated_as_code(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("print(1)", "config.__class__"):
        try:
            found: Any = parse_expression(text).evaluate(CONFIG, KNOWN.get)
        except ValueError:
            found = None
        assert found is None
    assert capsys.readouterr().out == ""
