"""A table of everything that can be wrong with a spec by itself: text, what must be said, and the line."""

from __future__ import annotations

from textwrap import dedent

import pytest

from rebasin_cli.errors import ContentError
from tests.spec.building import spec_of

MALFORMED: dict[str, tuple[str, list[str], int]] = {
    "unknown section": ("name: x\ntensor:\n  a: h\n", ["unknown key `tensor`", "did you mean `tensors`?"], 2),
    "unknown section like none": ("frobnicate: 1\ntensors:\n  a: h\n", ["`frobnicate`", "are name, title"], 1),
    "no tensors": ("name: x\n", ["a spec needs a `tensors` section"], 1),
    "empty tensors": ("name: x\ntensors:\n", ["a spec needs a `tensors` section"], 1),
    "tensors as a list": ("tensors:\n  - a\n", ["expected `key: value` lines here"], 2),
    "ignored as a table": ("tensors:\n  a: h\nignored:\n  b: c\n", ["expected a list here, one item a line"], 4),
    "pattern as a list": ("tensors:\n  a: [h, o]\n", ["expected a single line of text here"], 2),
    "name as a list": ("name: [x]\ntensors:\n  a: h\n", ["expected a single line of text here"], 1),
    "bad pattern": ("tensors:\n  a: h o\n  b: (h o\n", ["`(h o`: the `(` at character 1 is not closed"], 3),
    "bad dim in a pattern": ("tensors:\n  a: h.{i*2}\n", ["`{i*2}` is none of", "at character 1"], 2),
    "bad template": ("tensors:\n  'h.{i.w': h\n", ["`h.{i.w`: a lone `{` at character 3", "grammar"], 2),
    "bad template in ignored": ("tensors:\n  a: h\nignored:\n  - '{prev i}'\n", ["cannot stand in a key"], 4),
    "pattern nested too deep": (f"tensors:\n  a: {'(' * 990}\n", ["is nested too deep to read"], 2),
    "variable not in the key": (
        "tensors:\n  h.{i}.w: a.{i} a.{j}\n",
        ["dim `a.{j}` uses `{j}`, which the key `h.{i}.w` does not have"],
        2,
    ),
    "variable misspelt": (
        "tensors:\n  '{side:a,b}.w': x.{side}\n  '{part}.v': x.{parts}\n",
        ["uses `{parts}`", "did you mean `part`?"],
        3,
    ),
    "previous of no variable": ("tensors:\n  h.w: a.{prev i}\n  a.{i}.w: a.{i}\n", ["uses `{i}`, which the key"], 2),
    "template twice": (
        "tensors:\n  h.{i}.w: a.{i}\n  h.{i}.w?: b.{i}\n",
        ["the template `h.{i}.w?` stands on lines 2 and 3", "keep one"],
        3,
    ),
    "template twice across sections": (
        "tensors:\n  h.w: a\nbuffers:\n  h.w?: a\n",
        ["stands on lines 2 and 4"],
        4,
    ),
    "template twice by alternation": ("tensors:\n  '{a,b}.w': h\n  b.w: h\n", ["`b.w` stands on lines 2 and 3"], 3),
    "alternation with a word twice": ("tensors:\n  '{a,a}.w': h\n", ["`a.w` stands on line 2 twice"], 2),
    "undeclared size": (
        "sizes:\n  head_dim: 4\ntensors:\n  a: (h _:hed_dim)\n  b: (h _:head_dim)\n",
        ["`_:hed_dim` names a size that `sizes` does not have", "did you mean `head_dim`?"],
        4,
    ),
    "undeclared size without sizes": ("tensors:\n  a: (h _:n)\n", ["`_:n` names a size", "add `n:` to `sizes`"], 2),
    "size used nowhere": ("sizes:\n  head_dim: 4\ntensors:\n  a: h\n", ["size `head_dim` is used nowhere"], 2),
    "size of a misspelt dim": (
        "sizes:\n  head: 4\ntensors:\n  b.{i}: (head.{i} v.{i})\n",
        ["size `head` is used nowhere", "did you mean `head.{i}`?"],
        2,
    ),
    "requirement of no form": ("require:\n  - h < 3\ntensors:\n  a: h\n", ["`h < 3` should read `DIM = DIM` or"], 2),
    "requirement of no number": ("require:\n  - h > x\ntensors:\n  a: h\n", ["`h > x` should read `DIM = DIM` or"], 2),
    "requirement of no dim": ("require:\n  - head > 1\ntensors:\n  a: heads\n", ["dim `head`, which", "`heads`?"], 2),
    "requirement of an unbound dim": (
        "require:\n  - a.{i} = b.{j}\ntensors:\n  x.{i}: a.{i}\n  y.{j}: b.{j}\n",
        ["dim `b.{j}` in `require` has {i} as the dim before it"],
        2,
    ),
    "bad expression": ("sizes:\n  n: config.a ** 2\ntensors:\n  a: _:n\n", ["`config.a ** 2`: a size has only"], 2),
    "bad expression in a list": (
        "sizes:\n  n:\n    - config.a\n    - f(1)\ntensors:\n  a: _:n\n",
        ["`f(1)`: a size has no function but min(a, b)"],
        4,
    ),
    "expression with an unknown name": (
        "sizes:\n  n: confg.a\ntensors:\n  a: _:n\n",
        ["only `config` has a `.`"],
        2,
    ),
    "expression with a misspelt size": (
        "sizes:\n  heads: config.h\n  n: config.a / head\ntensors:\n  a: _:n _:heads\n",
        ["`config.a / head` uses `head`, which is no size, dim or variable here", "did you mean `heads`?"],
        3,
    ),
    "rule without a word": ("dims:\n  h:\ntensors:\n  a: h\n", ["dim `h`: `` is none of `within OWNER`"], 2),
    "rule with an unknown word": (
        "dims:\n  h: withn g\ntensors:\n  a: (g h)\n",
        ["dim `h`: `withn g` is none of", "did you mean `within`?"],
        2,
    ),
    "rule of a dim that stands nowhere": (
        "dims:\n  heads.{i}: fixed\ntensors:\n  b.{i}: head.{i}\n",
        ["dim `heads.{i}` stands in no pattern", "did you mean `head.{i}`?"],
        2,
    ),
    "rule of a dim with another number of parts": (
        "dims:\n  q: within kv.{i}\ntensors:\n  b.{i}: (kv.{i} q.{i})\n",
        ["dim `q` stands in no pattern"],
        2,
    ),
    "owner that stands nowhere": (
        "dims:\n  q.{i}: within kv.{i}\ntensors:\n  b.{i}: (k.{i} q.{i})\n",
        ["dim `kv.{i}` stands in no pattern", "did you mean `k.{i}`?"],
        2,
    ),
    "owner with a variable of its own": (
        "dims:\n  q.{i}: within kv.{j}\ntensors:\n  b.{i}: (kv.{i} q.{i})\n",
        ["dim `q.{i}`: `kv.{j}` uses `{j}`, which `q.{i}` does not have"],
        2,
    ),
    "owner of several": (
        "dims:\n  q.{i}: within kv.{*}\ntensors:\n  b.{i}: (kv.{i} q.{i})\n",
        ["`kv.{*}` stands for several dims"],
        2,
    ),
    "same as with a variable of its own": (
        "dims:\n  b.{i}: same as a.{j}\ntensors:\n  x.{i}: a.{i} b.{i}\n",
        ["`a.{j}` uses `{j}`"],
        2,
    ),
    "rule for a choice": (
        "dims:\n  q.{prev i}: fixed\ntensors:\n  b.{i}: q.{i}\n",
        ["a rule's name has {i}, {first i} or {last i} only"],
        2,
    ),
    "bad dim name in a rule": ("dims:\n  (a b): fixed\ntensors:\n  a: h\n", ["`(a b)` is not a dim's name"], 2),
    "signs of a dim that stands nowhere": (
        "signs:\n  - heads.{i}\ntensors:\n  b.{i}: head.{i}\n",
        ["dim `heads.{i}` stands in no pattern", "did you mean `head.{i}`?"],
        2,
    ),
    "signs twice": ("signs:\n  - h\n  - h\ntensors:\n  a: h\n", ["dim `h` has signs twice", "keep one"], 3),
    "signs of an owner": (
        "dims:\n  v: within kv\nsigns:\n  - kv\ntensors:\n  a: (kv v)\n",
        ["dim `kv` has signs, and dims are within it", "what is inside its units"],
        4,
    ),
    "signs of keys": (
        "dims:\n  e: index i in x.{i}\nsigns:\n  - e\ntensors:\n  x.{i}: h\n  r: e\n",
        ["dim `e` has signs, and it acts on keys"],
        4,
    ),
    "signs of a fixed dim": (
        "dims:\n  h: fixed\nsigns:\n  - h\ntensors:\n  a: h\n",
        ["dim `h` has signs, and is fixed"],
        4,
    ),
    "signs that act nowhere": (
        "signs:\n  - h\ntensors:\n  a: '|h| _'\nbuffers:\n  b: h\n",
        ["dim `h` has signs, which act nowhere"],
        2,
    ),
    "signs of a choice": ("signs:\n  - h.{prev i}\ntensors:\n  a.{i}: h.{i}\n", ["a name in `signs` has {i}"], 2),
    "signs without a key that no line has": (
        "signs:\n  - h without c\ntensors:\n  a: h\n",
        ["has a rule without `c`, and no line has that key"],
        2,
    ),
    "bars around a dim without signs": (
        "tensors:\n  a: '|h| _'\n",
        ["`|h|` says where sign and scale of dim `h` do not act, and it has none", "list it in `signs` or `scales`"],
        2,
    ),
    "bars around a name of axes": (
        "axes:\n  in: a + b\nsigns:\n  - a\ntensors:\n  x: '|in|'\n  y: a b\n",
        ["`|in|`: a name of `axes` cannot stand in bars"],
        6,
    ),
    "a slash before a dim without scales": (
        "tensors:\n  a: /h _\n",
        ["`/h` says where the scale of dim `h` divides, and it has none", "list it in `scales`"],
        2,
    ),
    "scales before another function": (
        "scales:\n  - h before tanh\ntensors:\n  a: h _\n",
        ["dim `h` before `tanh`: scales are kept by ReLU alone"],
        2,
    ),
    "scales of a dim with others within it": (
        "dims:\n  v: within g\nscales:\n  - g\ntensors:\n  a: (g v)\n",
        ["dim `g` has scales, and dims are within it"],
        4,
    ),
    "rotations that keep something else": (
        "rotations:\n  - h keeping twos\ntensors:\n  a: h _\n",
        ["dim `h` keeping `twos`: rotations keep ones, or nothing"],
        2,
    ),
    "pairs that no rotary embedding has": (
        "rotations:\n  - h in thirds\ntensors:\n  a: h:n _\n",
        ["dim `h` in `thirds`: a rotary embedding turns pairs in halves or in neighbours"],
        2,
    ),
    "a side with a name and a size that rotations do not list": (
        "sizes:\n  n: 4\ntensors:\n  a: h:n _\n",
        ["`h` has a size, as what a rotary embedding turns has", "list it there: `h in halves within OWNER`"],
        4,
    ),
    "pairs of a dim that has no size": (
        "rotations:\n  - h in halves\ntensors:\n  a: h _\n",
        ["dim `h` in pairs stands nowhere with a size", "write `h:SIZE`"],
        2,
    ),
    "a dim with a size here and without one there": (
        "sizes:\n  n: 4\nrotations:\n  - h in halves\ntensors:\n  a: h:n _\n  b: h _\n",
        ["dim `h` stands with a size here, and without one elsewhere"],
        6,
    ),
    "what a rotary embedding turns, within nothing": (
        "sizes:\n  n: 4\nrotations:\n  - h in halves within g\ntensors:\n  a: h:n _\n",
        ["dim `h` is within `g`, which stands in no pattern"],
        4,
    ),
    "rotations of a dim with others within it": (
        "dims:\n  v: within g\nrotations:\n  - g\ntensors:\n  a: (g v)\n",
        ["dim `g` has rotations, and dims are within it"],
        4,
    ),
    "a norm that no line has": (
        "norms:\n  nrom.weight: a\ntensors:\n  norm.weight: h\n  a: _ h\n",
        ["`norms` names `nrom.weight`, and no line has that key", "norm.weight"],
        2,
    ),
    "a reader that does not tell its norm": (
        "norms:\n  norm.{i}.weight: a\ntensors:\n  norm.{i}.weight: h.{i}\n  a: _ h.{*}\n",
        ["`a` does not tell `{i}` of `norm.{i}.weight`"],
        2,
    ),
    "several norms on a line": (
        "norms:\n  norm.{a,b}: x\ntensors:\n  norm.{a,b}: h\n  x: _ h\n",
        ["`norm.{a,b}` names several norms", "give each of them a line"],
        2,
    ),
    "bars around nothing": ("tensors:\n  a: '|| h'\n", ["cannot read `|| h`"], 2),
    "bars without quotes": ("signs:\n  - h\ntensors:\n  a: |h|\n", ["not valid YAML", "start with '|'"], 4),
    "index without keys": (
        "dims:\n  e: index i\ntensors:\n  x.{i}: h\n  r: e\n",
        ["`index i` should read `index e in"],
        2,
    ),
    "index on a variable that the keys lack": (
        "dims:\n  e: index j in x.{i}\ntensors:\n  x.{i}: h\n  r: e\n",
        ["`index j in x.{i}` should read"],
        2,
    ),
    "index with a variable that the keys lack": (
        "dims:\n  e.{l}: index i in x.{i}\ntensors:\n  x.{i}: h\n  r.{l}: e.{l}\n",
        ["dim `e.{l}` uses `{l}`, which the keys `x.{i}` do not have"],
        2,
    ),
    "dim that nothing defines": (
        "tensors:\n  f.{c}.w: conv.{c} cnv.{prev c}\n",
        ["dim `cnv.{prev c}` is used, but no line names it plainly", "did you mean `conv.{c}`?"],
        2,
    ),
    "dim that nothing defines, nor nearly": (
        "tensors:\n  f.{c}.w: conv.{c} conv.{prev c}\n  g.w: _ stream.{*}\n",
        ["dim `stream.{*}` is used", "name it plainly where it is made"],
        3,
    ),
    "alias": ("tensors:\n  a: &x h\n  b: *x\n", ["anchors and aliases"], 2),
    "duplicate key": ("tensors:\n  a: h\n  a: h\n", ["`a` is given twice, on lines 2 and 3"], 3),
    "unquoted brace": ("tensors:\n  {i}.w: h\n", ["not valid YAML", "quote keys that start with '{'"], 2),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_spec_is_refused_with_file_line_and_remedy(case: str) -> None:
    text, parts, line = MALFORMED[case]
    with pytest.raises(ContentError) as caught:
        spec_of(dedent(text))
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert caught.value.where == f"test.yaml:{line}"
    assert caught.value.exit_code == 3
