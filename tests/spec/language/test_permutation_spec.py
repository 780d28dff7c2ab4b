"""A spec as values: what is read from a file, and what its hash sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_cli.spec import load_spec
from tests.spec.building import spec_of

FULL = """
name: tiny
title: A tiny network
model_types: [tiny, small]
prefixes: [net.]
sizes:
  head.{i}: [config.heads, 4]
  n: config.n / 2
dims:
  q.{i}: within head.{i}
  out: fixed because these are the outputs
stays:
  outputs: classes are named
tensors:
  h.{i}.{q,k}.weight: (head.{i} q.{i}) embed
  h.{i}.b.weight: embed _:n
  out.weight?: out embed
buffers:
  h.{i}.mean: embed
ignored:
  - "*.seen"
"""


def test_everything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(FULL, encoding="utf-8")
    spec = load_spec(path)
    assert (spec.name, spec.title, spec.path, spec.shipped) == ("tiny", "A tiny network", path, False)
    assert spec.model_types == ("tiny", "small")
    assert spec.prefixes == ("net.",)
    assert spec.stays == (("outputs", "classes are named"),)
    assert [(line.template.text, str(line.pattern), line.section, line.line) for line in spec.lines] == [
        ("h.{i}.q.weight", "(head.{i} q.{i}) embed", "tensors", 15),
        ("h.{i}.k.weight", "(head.{i} q.{i}) embed", "tensors", 15),
        ("h.{i}.b.weight", "embed _:n", "tensors", 16),
        ("out.weight?", "out embed", "tensors", 17),
        ("h.{i}.mean", "embed", "buffers", 19),
        ("*.seen", "None", "ignored", 21),
    ]
    assert [(str(r.name), str(r.owner), r.fixed) for r in spec.rules] == [
        ("q.{i}", "head.{i}", ""),
        ("out", "None", "these are the outputs"),
    ]
    assert [(str(s.name), [c.text for c in s.choices]) for s in spec.sizes] == [
        ("head.{i}", ["config.heads", "4"]),
        ("n", ["config.n / 2"]),
    ]
    assert spec.at(7) == "tiny.yaml:7"


def test_the_name_is_the_files_where_the_spec_gives_none() -> None:
    assert spec_of("tensors:\n  a: h").name == "test"


def test_a_rule_may_be_within_and_act_on_keys() -> None:
    spec = spec_of("""
        dims:
          g: index g in x.{g}.*
          e: within g index e in x.{g}.{e}
        tensors:
          x.{g}.{e}: h
          r: (g e)
    """)
    outer, inner = spec.rules
    assert outer.owner is None
    assert str(inner.owner) == "g"
    assert [(rule.index[0], rule.index[1].text) for rule in spec.rules if rule.index] == [
        ("g", "x.{g}.*"),
        ("e", "x.{g}.{e}"),
    ]


SAME_MEANING = {
    "a comment": FULL.replace("buffers:", "# moved with the rest\nbuffers:"),
    "order of lines": FULL.replace("  h.{i}.b.weight: embed _:n\n", "").replace(
        "buffers:", "  h.{i}.b.weight: embed _:n\nbuffers:"
    ),
    "order of sections": FULL.replace('ignored:\n  - "*.seen"\n', "").replace(
        "tensors:", 'ignored: ["*.seen"]\ntensors:'
    ),
    "alternation written out": FULL.replace(
        "  h.{i}.{q,k}.weight: (head.{i} q.{i}) embed",
        "  h.{i}.k.weight: (head.{i} q.{i}) embed\n  h.{i}.q.weight: (head.{i} q.{i}) embed",
    ),
    "spaces in a pattern": FULL.replace("(head.{i} q.{i}) embed", "( head.{i}  q.{i} )   embed"),
    "spaces in an expression": FULL.replace("config.n / 2", "config.n/2"),
    "the wording of a reason": FULL.replace("because these are the outputs", "because classes are named"),
    "the title": FULL.replace("A tiny network", "Another one"),
}

OTHER_MEANING = {
    "a dim": FULL.replace("  h.{i}.mean: embed", "  h.{i}.mean: other"),
    "the order of a product": FULL.replace("(head.{i} q.{i})", "(q.{i} head.{i})"),
    "a key": FULL.replace("h.{i}.b.weight", "h.{i}.c.weight"),
    "optional": FULL.replace("out.weight?", "out.weight"),
    "any instead of all": FULL.replace("{q,k}", "{q|k}"),
    "the section": FULL.replace("buffers:\n", ""),
    "an owner": FULL.replace("  q.{i}: within head.{i}\n", ""),
    "fixed": FULL.replace("  out: fixed because these are the outputs\n", ""),
    "a size": FULL.replace("config.n / 2", "config.n / 4"),
    "the order of choices": FULL.replace("[config.heads, 4]", "[4, config.heads]"),
    "what is ignored": FULL.replace("*.seen", "*.met"),
}


@pytest.mark.parametrize("change", SAME_MEANING)
def test_the_hash_does_not_see(change: str) -> None:
    assert SAME_MEANING[change] != FULL
    assert spec_of(SAME_MEANING[change]).sha256 == spec_of(FULL).sha256


@pytest.mark.parametrize("change", OTHER_MEANING)
def test_the_hash_sees(change: str) -> None:
    assert OTHER_MEANING[change] != FULL
    assert spec_of(OTHER_MEANING[change]).sha256 != spec_of(FULL).sha256
