"""Rules that hold only without certain keys: a dim reaches the outputs only where nothing else reads it."""

from __future__ import annotations

import pytest

from rebasin_cli.errors import ContentError
from tests.spec.building import bound, owners, sizes, spec_of, still

ENCODER = """
dims:
  embed: fixed without {head,neck}.weight or mask.* because the features are then the outputs
tensors:
  embed.weight: _ embed
  h.{i}.weight: embed mlp.{i}
  "{head,neck}.weight?": _ embed
  mask.{i}.weight?: _ embed
"""
FEATURES = {"embed.weight": (5, 4), "h.0.weight": (4, 3)}


def test_it_is_fixed_where_none_of_the_keys_is_there() -> None:
    assert still(bound(ENCODER, FEATURES)) == {"embed": "the features are then the outputs"}


@pytest.mark.parametrize("key", ["head.weight", "neck.weight", "mask.0.weight"])
def test_it_moves_where_one_of_them_is(key: str) -> None:
    assert still(bound(ENCODER, {**FEATURES, key: (2, 4)})) == {}
    under_wrapper = {f"module.{k}": shape for k, shape in {**FEATURES, key: (2, 4)}.items()}
    assert still(bound(ENCODER, under_wrapper)) == {}


def test_the_hash_sees_the_keys() -> None:
    fixed = ENCODER.replace(" without {head,neck}.weight or mask.*", "")
    other = ENCODER.replace(" or mask.*", "")
    assert len({spec_of(text).sha256 for text in (ENCODER, fixed, other)}) == 3


def test_a_key_that_no_line_has_is_refused() -> None:
    with pytest.raises(
        ContentError, match=r"a rule without `haed.weight`, and no line has that key[\s\S]*`head.weight`"
    ):
        spec_of(ENCODER.replace("{head,neck}.weight or", "haed.weight or"))


def test_a_dim_may_be_another_only_without_a_key() -> None:
    spec = "dims:\n  t: same as s without p.weight\ntensors:\n  e: _ t\n  h: _ s\n  p.weight?: s t\n"
    assert sizes(bound(spec, {"e": (5, 4), "h": (6, 4)})) == {"s": 4}
    assert sizes(bound(spec, {"e": (5, 4), "h": (6, 3), "p.weight": (3, 4)})) == {"t": 4, "s": 3}
    assert spec_of(spec).sha256 != spec_of(spec.replace(" without p.weight", "")).sha256


def test_a_dim_may_be_within_another_only_without_a_key() -> None:
    text = """
    sizes:
      head: 2
    dims:
      q: within head without norm.weight
    tensors:
      a.weight: (head q) _
      norm.weight?: q
    """
    assert owners(bound(text, {"a.weight": (6, 3)})) == {"q": "head"}
    assert owners(bound(text, {"a.weight": (6, 3), "norm.weight": (3,)})) == {}
