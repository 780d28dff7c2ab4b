"""The `parts` section: a checkpoint of several networks, each under a prefix and with a spec of its own."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.spec import PermutationSpec, Request, bind, detect, load_spec
from tests.spec.building import owners, refusal, shown, sizes

INNER = """
sizes:
  n: [config.n, 2]
  head.{i}: n
axes:
  out.{i}: (head.{i} v.{i})
dims:
  v.{i}: within head.{i}
  embed: fixed without plain.weight because it is the output
stays:
  outputs: are named
tensors:
  in.weight: embed _
  "{i}.weight": out.{i} embed
  "{i}.bias": out.{i} + _:n
  plain.weight?: _ embed
ignored:
  - "*.seen"
"""
OUTER = """
parts:
  one: inner under one.
  two?: inner under some.other.
tensors:
  bridge.weight: width _
ignored:
  - ema.*
"""
ONE = {"one.in.weight": (5, 3), "one.0.weight": (6, 5), "one.0.bias": (8,), "one.0.seen": ()}
TWO = {"some.other.in.weight": (7, 3), "some.other.0.weight": (4, 7), "some.other.0.bias": (6,)}
REST = {"bridge.weight": (4, 4), "ema.one": (3,)}


def outer(folder: Path, text: str = OUTER, inner: str = INNER) -> PermutationSpec:
    """`outer.yaml` in a folder with `inner.yaml`."""
    (folder / "inner.yaml").write_text(dedent(inner), encoding="utf-8")
    (folder / "outer.yaml").write_text(dedent(text), encoding="utf-8")
    return load_spec(folder / "outer.yaml")


def test_every_part_has_dims_of_its_own(tmp_path: Path) -> None:
    layout = bind(outer(tmp_path), {**ONE, **TWO, **REST})
    assert sizes(layout) == {
        "width": 4,
        "one/embed": 5, "one/head.0": 2, "one/v.0": 3,
        "two/embed": 7, "two/head.0": 2, "two/v.0": 2,
    }  # fmt: skip
    assert owners(layout) == {"one/v.0": "one/head.0", "two/v.0": "two/head.0"}
    assert shown(layout, "one.0.bias") == ["0: one/head.0 2*3, one/v.0<0 3*1", "6: _ 2*1"]
    assert layout.sizes == {"one/n": 2, "two/n": 2}
    assert {key for key, tensor in layout.tensors.items() if tensor.section == "ignored"} == {"one.0.seen", "ema.one"}
    assert layout.spec.stays == (("one: outputs", "are named"), ("two: outputs", "are named"))


def test_an_optional_part_may_be_absent_as_a_whole(tmp_path: Path) -> None:
    spec = outer(tmp_path)
    assert "two/embed" not in bind(spec, {**ONE, **REST}).dims
    with pytest.raises(ContentError, match="no tensor fits `one"):
        bind(spec, {**TWO, **REST})
    with pytest.raises(ContentError, match=r"no tensor fits `some\.other\.{i}\.bias"):
        bind(spec, {**ONE, **REST, **{k: s for k, s in TWO.items() if not k.endswith("bias")}})


def test_a_condition_of_a_part_is_about_the_part(tmp_path: Path) -> None:
    layout = bind(outer(tmp_path), {**ONE, **TWO, **REST, "some.other.plain.weight": (2, 7)})
    assert layout.dims["one/embed"].fixed == "it is the output"
    assert layout.dims["two/embed"].fixed is None


def test_a_part_has_its_own_config_and_sizes(tmp_path: Path) -> None:
    shapes = {**ONE, **TWO, **REST, "one.0.bias": (9,)}
    layout = bind(outer(tmp_path), shapes, Request({"n": 5, "one": {"n": 3}}))
    assert layout.sizes == {"one/n": 3, "two/n": 2}
    layout = bind(outer(tmp_path), shapes, Request(overrides={"one/n": 3}))
    assert layout.sizes == {"one/n": 3, "two/n": 2}


def test_a_part_comes_before_what_it_is_a_part_of(tmp_path: Path) -> None:
    whole = outer(tmp_path, OUTER.replace("  bridge.weight:", "  bridge.weight?:"))
    part = load_spec(tmp_path / "inner.yaml")
    assert detect(ONE, specs=[whole, part]).spec.name == "inner"
    assert detect({**ONE, **TWO}, specs=[whole, part]).spec.name == "outer"


def test_the_hash_sees_the_parts(tmp_path: Path) -> None:
    spec = outer(tmp_path)
    assert spec.sha256 != outer(tmp_path, OUTER.replace("two?:", "two:")).sha256
    assert spec.sha256 != outer(tmp_path, inner=INNER.replace("[config.n, 2]", "[config.n, 4]")).sha256
    assert spec.sha256 == outer(tmp_path).sha256


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("one: inner", "should read `name: SPEC under PREFIX.`"),
        ("one/two: inner under a.", "should read `name: SPEC under PREFIX.`"),
        ("one: iner under a.", "there is no architecture `iner` for the part `one`"),
        ("one: outer under a.", "the part `one` is itself made of parts"),
        ("one: lamas under a.", "did you mean `llama`?"),
        ("one: inner under a.\n  two: inner under a.", "stands on lines 3 and 4"),
    ],
)
def test_what_is_wrong_with_parts_is_refused(parts: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ContentError) as caught:
        outer(tmp_path, f"\nparts:\n  {parts}\n")
    assert said in str(caught.value)


ROTATED = """
sizes:
  width: 4
dims:
  v: within h
rotations:
  - s
  - v
  - rope in halves within h
  - plain without other.weight
norms:
  "{at:one,two}.":
    norm.weight: q.weight v.weight
tensors:
  "{at:one,two}.":
    norm.weight: s
    q.weight: (h rope:width) s
    k.weight: (h /rope:width) _
    v.weight: (h v) s
    o.weight: _ (h v)
  plain.weight: plain _
  other.weight?: _
"""


def test_a_part_has_its_rotations_norms_and_rotary_pairs(tmp_path: Path) -> None:
    own = {"norm.weight": (6,), "q.weight": (8, 6), "k.weight": (8, 5), "v.weight": (10, 6), "o.weight": (7, 10)}
    shapes = {f"some.one.{key}": shape for key, shape in own.items()}
    shapes |= {key.replace("one", "two"): shape for key, shape in shapes.items()}
    spec = outer(tmp_path, "parts:\n  part: inner under some.\n", ROTATED)
    layout = bind(spec, {**shapes, "some.plain.weight": (9, 3)}, Request(rotations=True))
    kinds = {dim: layout.dims[dim].rotated for dim in layout.rotated()}
    assert kinds == {
        "part/s": "orthogonal", "part/v": "invertible", "part/rope": "halves", "part/plain": "invertible",
    }  # fmt: skip
    assert layout.dims["part/rope"].owner == "part/h"
    assert layout.norms == {
        f"some.{at}.{key}.weight": f"some.{at}.norm.weight" for at in ("one", "two") for key in ("norm", "q", "v")
    }
    with_other = {**shapes, "some.plain.weight": (9, 3), "some.other.weight": (2,)}
    assert "part/plain" not in bind(spec, with_other, Request(rotations=True)).rotated()


def test_a_shipped_spec_may_be_a_part_of_ones_own() -> None:
    said = refusal("parts:\n  net: mlp under net.\n", {"net.0.weight": (3, 2), "other.0.weight": (3, 2)})
    assert "no line speaks of other.0.weight" in said
