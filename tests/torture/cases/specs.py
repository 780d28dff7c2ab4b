"""Specs of one's own: YAML that grows, patterns that run away, and a wrong type at each place."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.torture.cases import NAMES, Case, of_bytes, of_text
from tests.torture.stock import SPEC

_KEYS = (
    "name",
    "title",
    "model_types",
    "prefixes",
    "parts",
    "sizes",
    "axes",
    "dims",
    "stays",
    "tensors",
    "buffers",
    "ignored",
)
_VALUES = (
    "", "null", "1", "x", "[]", "{}", "[[]]", "[x, [y]]", "{x: {y: {z: w}}}", "{[a]: b}", "{? {a: b} : c}",
    "!!binary aGk=", "&a [*a]", "'{i'", "{x: [y]}", "{'': ''}",
)  # fmt: skip
_PATTERNS = (
    "h.{i} h.{i-1}", "_", "", "(" * 5_000, "(" * 90 + "h" + ")" * 90, "((((h))))", "h " * 5_000, "h + " * 5_000 + "h",
    "_:" + "9" * 5_000, "9" * 5_000,
    "(2 " * 90 + "h" + ")" * 90, "99999999999999999999 h", "0 h", "-1 h", "(0 h)", "_:0", "_:n _:n",
    "h.{i+99999999999}", "h.{i-99999999999} h", "h.{i*2}",
    "h.{prev i} h.{prev i}", "h.{first i} h.{last i}", "h.{<i} h", "h.{*} h.{*}", "h.{" + "i" * 5_000 + "}",
    "h.{i}" * 500, "1 1 1 1 1 1 1 1 1 1 1 1", "_ " * 65,
    "(h h) (h h)", "h + h h + h", "h.{i},h", "h:3", ":", "+", "()", "( )", "h + + h", "\u202eh", "h\x1b[31m",
    "h.\u0660", "\uff48", "h.{\u00ef}",
)  # fmt: skip
_TEMPLATES = (
    "{a,b}" * 26, "{a,b,c,d}" * 12, "{i}" * 30, "{i}{j}{k}{l}{m}.{n}{o}{p}", "*" * 50, "*.*.*.*.*.*.*.*.*.*.*.*.*.x",
    "{*}", "{}", "{,}", "{i", "i}", "{{i}}", "{i,}",
    "{" * 5_000, "{" + ",".join(f"w{at}" for at in range(100_000)) + "}", "{i+1}" * 30, "{i-99999999999999999999}.x",
    "{i+" + "9" * 5_000 + "}.x", "{prev i}", "{x:a,b}{x:c,d}",
    "{x:" + "a," * 5_000 + "b}" * 1, "?", "??", "x?" * 50, "(a+)+$", "((a*)*)*b", "[a-z]*" * 30, ".*" * 200, "{i:.*}",
    "\\", "{i}\\d+", "", " ", ".", "{0..99999999}", "{0-99999999}",
    "{i..9999999999}", "{1..3}", "fc.{i}.weight " * 3, "{word}" * 20 + "{word2}", "{a}" + "{b}" * 12 + "x",
)  # fmt: skip
_SIZES = (
    "9**9**9**9", "2**99999999", "1<<99999999", "9" * 5_000, "9" * 100_000, "(" * 5_000 + "1" + ")" * 5_000,
    "1+" * 50_000 + "1", "1/0", "1/" * 20 + "7", "config.n" + ".n" * 5_000, "-" * 5_000 + "1",
    "config[0]", "config['n']", "config.__class__.__mro__", "__import__('os').system('touch pwned')",
    "open('pwned','w')", "exec('x')", "lambda: 0", "[x for x in config]", "f'{config}'",
    "min(" * 90 + "1" + ")" * 90, "min()", "min(1,2,key=3)", "min(*config)", "max(1,2)", "1e999", "1_0", "0x10",
    "True", "None", "...", "'8'", "n", "n + n", "m", "config", "config.n if config else 2",
    "99999999999 * " * 400 + "9", "1/3", "-4", "0", "config.n*" * 3_000 + "1", "\x00", "\u202e4", "4 # x", "4\n+4",
    "a:=4", "await x", "yield", "*1", "1 if 1 else 1", "config.n.n.n",
)  # fmt: skip
_DIMS = (
    "within h.0", "within h.{i}", "within", "within within", "same as h.{i}", "same as h.{i} if equal", "same as",
    "same as h.{i+1}", "fixed", "fixed because " + "x" * 5_000, "fixed because \x1b[31m",
    "index e in *", "index e in fc.{e}.weight", "index i in {i}{j}{k}", "index in", "index", "fixed without *",
    "fixed without " + "a or " * 3_000 + "b", "fixed without {a,b}{c,d}", "x", "", "within h.{i} index e in {e}.*",
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for group in (_yaml, _types, _patterns, _templates, _sizes, _dims, _names):
        for at, text in enumerate(group()):
            yield of_text(f"spec/{group.__name__.strip('_')}-{at}", "spec", "x.yaml", text)
    for at, data in enumerate(
        (
            b"",
            b"\xff\xfe",
            b"\x00",
            bytes(range(256)),
            b"\x80\x02.",
            SPEC.encode("utf-16"),
            b"\xef\xbb\xbf" + SPEC.encode(),
        )
    ):
        yield of_bytes(f"spec/bytes-{at}", "spec", "x.yaml", data)


def _yaml() -> Iterator[str]:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]\n" for at in range(1, 10))
    yield laughs
    yield laughs + SPEC
    yield "tensors: &t\n  fc.0.weight: h _\n  <<: *t\n"
    yield "x: &x {k: v}\ntensors:\n  <<: *x\n  <<: *x\n"
    nested = "t0: &t0 {fc.0.weight: h _}\n" + "".join(
        f"t{at}: &t{at} {{'a b c d e f g h i': *t{at - 1}}}\n" for at in range(1, 9)
    )
    yield nested + "tensors: *t8\n"
    yield (
        "tensors:\n  'a b c d e f g h i j': &x\n"
        + "".join("  " * at + "  'a b c d e f g h i j':\n" for at in range(2, 12))
        + "  " * 14
        + "w: h\n"
    )
    for tag in (
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/name:os.system",
        "!!python/object/new:os.system [touch pwned]",
        "!!python/module:antigravity",
        "!!map x",
        "!!set {a}",
        "!<x> y",
    ):
        yield f"tensors: {tag}\n"
        yield f"name: {tag}\n{SPEC}"
    yield "[" * 100_000
    yield "{a: " * 100_000
    yield "- " * 50_000
    yield "".join(" " * at + f"k{at}:\n" for at in range(3_000))
    yield "%YAML 9.9\n---\n" + SPEC
    yield SPEC + "---\n" + SPEC
    yield "--- |\n" + SPEC
    yield "tensors:\n" + "".join(f"  w.{at}: h\n" for at in range(100_000))
    yield "tensors:\n" + "".join(f"  '{{i}}.w{at}': h.{{i}}\n" for at in range(5_000)) + "  fc.0.weight: a b\n"
    yield SPEC + SPEC
    yield SPEC.replace("\n", "\r") + "\x85"
    yield "\t" + SPEC
    yield SPEC + "\x1b"
    yield "name: '" + "x" * (4 << 20) + "'\n" + SPEC
    yield "*a\n"
    yield "? a\n? b\n"


def _types() -> Iterator[str]:
    lines = SPEC.splitlines(keepends=True)
    for key in _KEYS:
        kept = (
            "".join(lines)
            if key not in ("sizes", "tensors", "dims")
            else "".join(lines).replace(f"{key}:", f"old_{key}:")
        )
        for value in _VALUES:
            yield f"{key}: {value}\n" + (
                kept
                if key in ("name", "title", "model_types", "prefixes", "stays", "buffers", "ignored")
                else "tensors:\n  fc.{i}.weight: h.{i} _\n" * (key != "tensors")
            )


def _patterns() -> Iterator[str]:
    for pattern in _PATTERNS:
        yield f"tensors:\n  'fc.{{i}}.weight': {_quoted(pattern)}\n  'fc.{{i}}.bias': h.{{i}}\n"
        yield f"axes:\n  z: {_quoted(pattern)}\ntensors:\n  'fc.{{i}}.weight': z _\n  'fc.{{i}}.bias': _\n"


def _templates() -> Iterator[str]:
    for template in _TEMPLATES:
        yield f"tensors:\n  {_quoted(template)}: h\n  'fc.{{i}}.weight': h.{{i}} _\n"
        yield f"tensors:\n  'fc.{{i}}.weight': h.{{i}} _\nignored:\n  - {_quoted(template)}\n"
        yield f"tensors:\n  {_quoted(template)}: h\n  {_quoted(template + '?')}: h\nprefixes: [{_quoted(template)}]\n"


def _sizes() -> Iterator[str]:
    for size in _SIZES:
        tensors = "tensors:\n  'fc.{i}.weight': (h.{i} _:n) _\n  'fc.{i}.bias': (h.{i} _:n)\n"
        yield f"sizes:\n  n: {_quoted(size)}\n{tensors}"


def _dims() -> Iterator[str]:
    for rule in _DIMS:
        tensors = "tensors:\n  'fc.{i}.weight': h.{i} _\n  'fc.{i}.bias': h.{i}\n"
        yield f"dims:\n  'h.{{i}}': {_quoted(rule)}\n{tensors}"
    yield "dims:\n  a: within b\n  b: within a\ntensors:\n  fc.0.weight: (a b) _\n  'fc.{i}.bias?': _\n"
    yield (
        "dims:\n"
        + "".join(f"  a{at}: within a{at + 1}\n" for at in range(60))
        + "tensors:\n  fc.0.weight: ("
        + " ".join(f"a{at}" for at in range(61))
        + ") _\n"
    )
    yield "parts:\n  x: x under fc.\n"
    for part in (
        "mlp under ''",
        "../../x under fc.",
        "/etc/passwd under x.",
        "mlp under " + "x" * 5_000,
        "mlp",
        "mlp under fc. under fc.",
        "spec under \x1b[31m",
    ):
        yield f"parts:\n  x: {_quoted(part)}\n"


def _names() -> Iterator[str]:
    for name in NAMES:
        text = _quoted(name)
        yield f"name: {text}\ntitle: {text}\nstays: {{{text}: {text}}}\n{SPEC}"
        yield f"{text}: x\n{SPEC}"


def _quoted(text: str) -> str:
    """A YAML scalar in double quotes that says just this; JSON's texts are YAML's."""
    return json.dumps(text)
