"""Specs and names that would take unlimited time or memory end with one error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebasin_cli.errors import ContentError, SystemFailure, UsageError
from rebasin_cli.spec import Request, bind, detect, find_spec
from rebasin_cli.spec.binding.binder import Binder
from rebasin_cli.spec.language import MOST_ALTERNATIVES
from rebasin_cli.spec.language.expressions import parse_expression
from rebasin_cli.spec.language.template import check_alternatives, parse_templates
from tests.deadline import deadline
from tests.spec.building import spec_of


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    with deadline(20):
        yield


EXPLOSIONS = {
    "alternatives": f"tensors:\n  '{'{a,b}' * 26}': h\n",
    "alternatives of one family": f"tensors:\n  '{'{a|b}' * 26}': h\n",
    "alternatives that bind": f"tensors:\n  '{''.join(f'{{v{i}:a,b}}' for i in range(26))}': h\n",
    "alternatives of axes": f"axes:\n  'h{'{a,b}' * 26}': x\ntensors:\n  w: h\n",
    "ignored alternatives": f"tensors:\n  w: h\nignored:\n  - '{'{a,b}' * 26}'\n",
    "many lines of alternatives": "tensors:\n" + "".join(f"  'w{i}{'{a,b}' * 9}': h\n" for i in range(200)),
    "tables in tables": "tensors:\n" + "".join(f"{'  ' * (i + 1)}a b:\n" for i in range(26)) + "  " * 27 + "{}\n",
    "wildcards": f"tensors:\n  '{'*a' * 8}b': h\n",
    "words side by side": f"tensors:\n  '{''.join(f'{{w{i}x}}' for i in range(12))}b': h\n",
    "choices that begin alike": f"tensors:\n  '{''.join(f'{{v{i}x:a,aa}}' for i in range(9))}b': h\n",
    "a long expression": f"sizes:\n  n: {'+'.join(['1'] * 240)}\ntensors:\n  w: _:n h\n",
    "a long number": f"tensors:\n  w: _:{'9' * 900} h\n",
}


@pytest.mark.parametrize("case", EXPLOSIONS)
def test_an_explosion_is_refused(case: str) -> None:
    with pytest.raises(ContentError) as caught:
        spec_of(EXPLOSIONS[case])
    assert "test.yaml:" in caught.value.where
    assert len(caught.value.what) < 2000


def test_as_many_alternatives_as_are_allowed() -> None:
    check_alternatives("{a,b}", range(MOST_ALTERNATIVES // 2), "ab")
    with pytest.raises(ValueError, match="stands for"):
        check_alternatives("{a,b}", range(MOST_ALTERNATIVES + 1))


def test_axes_that_stand_for_axes_are_bounded() -> None:
    doubling = "".join(f"  x{i}: x{i + 1} + x{i + 1}\n" for i in range(40))
    spec = spec_of(f"axes:\n{doubling}  x40: h\ntensors:\n  w: x0\n  v: h\n")
    with pytest.raises(ContentError, match="stand for more than"):
        bind(spec, {"w": (4,), "v": (4,)})


def test_lists_of_all_layers_below_are_bounded() -> None:
    spec = spec_of("tensors:\n  l.{i}.w: g.{i} in + g.{<i}\n  in.w: in\n")
    with pytest.raises(ContentError, match="are compared with more than"):
        bind(spec, {"in.w": (1,), **{f"l.{i}.w": (1, i + 1) for i in range(20_000)}})


def _experts(layers: int, experts: int, matrices: str = "123") -> dict[str, tuple[int, ...]]:
    """The shapes of a Mixtral with small layers; of each expert only some matrices."""
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (32, 8),
        "norm.weight": (8,),
        "lm_head.weight": (32, 8),
    }
    for layer in range(layers):
        at = f"layers.{layer}."
        shapes |= {f"{at}self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"}
        shapes |= {f"{at}{name}_layernorm.weight": (8,) for name in ("input", "post_attention")}
        shapes[f"{at}block_sparse_moe.gate.weight"] = (experts, 8)
        for expert in range(experts):
            for matrix in matrices:
                shape = (8, 16) if matrix == "2" else (16, 8)
                shapes[f"{at}block_sparse_moe.experts.{expert}.w{matrix}.weight"] = shape
    return {f"model.{key}": shape for key, shape in shapes.items()}


def test_plain_names_do_not_count_as_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture of experts has two names for each of its 70,000 tensors (Kimi K2), and no list."""
    monkeypatch.setattr("rebasin_cli.spec.binding.resolve.MOST_LEAVES", 1000)
    layout = detect(_experts(5, 100))
    assert layout.spec.name == "mixtral"
    assert layout.dims["expert.4"].size == 100


def test_of_many_tensors_those_that_a_spec_needs_are_missed_by_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {key: shape for key, shape in _experts(30, 120).items() if "layernorm" not in key}
    assert len(shapes) > 10_000
    bound_to: list[str] = []
    run = Binder.run
    monkeypatch.setattr(Binder, "run", lambda self: (bound_to.append(self.spec.name), run(self))[1])
    with pytest.raises(ContentError, match=r"(?s)mixtral: 2 differences.*`layers.{i}.input_layernorm.weight`") as whole:
        detect(shapes)
    assert "mixtral" not in bound_to
    few = {key: shape for key, shape in _experts(3, 4).items() if "layernorm" not in key}
    with pytest.raises(ContentError) as bound:
        detect(few)
    assert "mixtral" in bound_to
    assert _about("mixtral", whole.value) == _about("mixtral", bound.value)


def _about(name: str, error: ContentError) -> str:
    """What an error says of one spec."""
    return error.what.partition(f"  - {name}: ")[2].partition("\n  - ")[0]


@pytest.mark.parametrize("key", ["a" * 400, "1" * 400, "a." * 200, "_" * 400])
def test_every_template_takes_a_long_name(key: str) -> None:
    for text in ("*a*a*b", "{word}{other}b", "{i}{j}{k}b", "{i}_{j}_{k}_{l}_{m}_{n}_b"):
        (template,) = parse_templates(text)
        assert template.match(key) is None
        template.word_for_number(key)


HUGE = 10**4000


@pytest.mark.parametrize("value", [HUGE, -HUGE, 1 << 40])
def test_a_huge_number_of_a_config_is_no_size(value: int) -> None:
    expression = parse_expression("config.n * config.n")
    assert expression.evaluate({"n": value}, lambda name: None) is None
    assert parse_expression("config.n / config.n").evaluate({"n": value}, lambda name: None) is None


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 900, "10**10**10", "9**9**9**9", str(1 << 31)])
def test_a_huge_number_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_expression(text)


def test_a_huge_size_is_refused() -> None:
    with pytest.raises(UsageError, match="a whole number from 1 to"):
        bind(spec_of("tensors:\n  w: h\n"), {"w": (4,)}, Request(overrides={"h": 1 << 31}))


def test_a_spec_in_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "spec.yaml")
    os.mkfifo(tmp_path / "63")
    for name in ("spec.yaml", "63"):
        with pytest.raises(SystemFailure, match="it is not a regular file but a pipe") as caught:
            find_spec(str(tmp_path / name))
        assert "save what comes through a pipe first" in caught.value.remedy


def test_a_device_and_a_large_file_are_no_specs(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match="not a regular file but a device"):
        find_spec("/dev/zero")
    with open(tmp_path / "large.yaml", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ContentError, match="has more than 262 kB"):
        find_spec(str(tmp_path / "large.yaml"))


def test_names_of_many_kinds_are_not_looked_at() -> None:
    words = ("".join(chr(97 + i // 26**k % 26) for k in range(4)) for i in range(100_000))
    with pytest.raises(ContentError, match="kinds of names") as caught:
        detect({f"net.{word}.weight": (1,) for word in words})
    assert "--ignore" in caught.value.remedy


def test_many_unknown_tensors_end_quickly() -> None:
    known = {"fc.0.weight": (4, 4), "fc.0.bias": (4,), "fc.1.weight": (4, 4), "fc.1.bias": (4,)}
    with pytest.raises(ContentError, match="4004 tensors of which it says nothing"):
        detect(known | {f"junk.{i}.w.v": (2, 2) for i in range(4000)})
