"""Prefixes that a share of the keys has, found in sorted keys, against a count of every prefix."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.spec.binding.bind import MOST, WRAPPERS, prefix_candidates
from rebasin_cli.spec.binding.left_over import beginnings
from rebasin_cli.spec.language.loading import parse_spec

_WORDS = st.sampled_from(["module", "model", "net", "a", "b", "a0", "module_"])
_KEYS = st.lists(st.lists(_WORDS, min_size=1, max_size=4).map(".".join), min_size=1, max_size=12, unique=True)
_SPEC = parse_spec("prefixes: [a, model., model.a.]\ntensors:\n  w: h\n")


@given(_KEYS, st.sampled_from([1.0, MOST]))
def test_prefixes_are_those_that_enough_keys_have(keys: list[str], share: float) -> None:
    counts = Counter(prefix for key in keys for prefix in beginnings(key))
    enough = [prefix for prefix, count in counts.items() if count >= share * len(keys)]
    known = {prefix for prefix in ("", *enough) if {f"{word}." for word in prefix.split(".")[:-1]} <= {*WRAPPERS}}
    found = [p.wrapper for p in prefix_candidates(_SPEC, keys, share) if not p.own and not p.inside]
    assert set(found) <= {"", *enough}
    others = [prefix for prefix in sorted(enough, key=lambda p: -counts[p]) if prefix not in known]
    assert [prefix for prefix in found if prefix not in known] == [p for p in others if p in found]


@given(_KEYS, st.sampled_from([1.0, MOST]))
def test_a_prefix_of_the_spec_is_tried_where_a_key_has_it(keys: list[str], share: float) -> None:
    found = prefix_candidates(_SPEC, keys, share)
    for prefix in found:
        if prefix.own and not prefix.inside:
            assert any(key.removeprefix(prefix.wrapper).startswith(prefix.own) for key in keys)
    plain = {prefix.own for prefix in found if not prefix.wrapper and not prefix.inside}
    for own in _SPEC.prefixes:
        stripped = [key.removeprefix(own) for key in keys]
        assert (own in plain) == (stripped != keys and len(set(stripped)) == len(keys))
