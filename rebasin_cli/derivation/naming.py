"""Names of dims, from the keys of the tensors in which they stand and from the part they play there.

A dim within one layer takes the last word of the module that writes it, with the numbers of its key: `fc1.0`. One
that runs through layers is a stream and has no numbers. Factors of products are heads, groups and what is inside of
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rebasin_cli.derivation.colouring import AxisOf
from rebasin_cli.derivation.expressions import Chain, Expression, Moving, Nest, moves_in
from rebasin_cli.derivation.wiring import Wiring

Name = tuple[str, tuple[int, ...]]
"""A word, and the numbers that come after it: ("fc1", (0,)) is `fc1.0`."""


@dataclass(slots=True)
class _Part:
    """What a dim is seen doing.

    Attributes:
        places: axes it stands on; writes: those of weights that make it; levels: (depth, whether more follows) in
        products.
    """

    places: list[AxisOf] = field(default_factory=list)
    writes: list[AxisOf] = field(default_factory=list)
    levels: list[tuple[int, bool, int]] = field(default_factory=list)


def words_of(key: str) -> list[str]:
    """The words of a key that are no numbers."""
    return [word for word in key.split(".") if not word.isdigit() and "{" not in word]


def numbers_of(key: str) -> tuple[int, ...]:
    """The numbers of a key that stand between dots."""
    return tuple(int(word) for word in key.split(".") if word.isdigit())


def template_of(key: str) -> str:
    """A key with `#` in place of numbers."""
    return ".".join("#" if word.isdigit() else word for word in key.split("."))


def name_dims(wiring: Wiring) -> dict[int, Name]:
    """A name for every dim, by its number."""
    shapes = wiring.shapes
    parts = _parts(wiring.expressions, shapes)
    streams = {dim for dim, part in parts.items() if _runs_through(part)}
    main = _main_stream(parts, streams, shapes)
    wanted: dict[int, tuple[list[str], tuple[int, ...]]] = {}
    for dim, part in parts.items():
        if dim == main:
            wanted[dim] = (["embed"], ())
            continue
        if dim in wiring.indices:
            *before, last = words_of(wiring.indices[dim])
            wanted[dim] = ([*before, last.removesuffix("s") or last], numbers_of(wiring.indices[dim]))
            continue
        key = (part.writes or part.places)[0][0]
        role = _role(part, shapes)
        if dim in wiring.fixed and not role:
            wanted[dim] = (["member"], ())
        elif dim in streams:
            wanted[dim] = (_stream_words(part), _stage(part))
        else:
            module = key.rpartition(".")[0] or key
            words = words_of(module) or ["h"]
            wanted[dim] = ([*words[:-1], role] if role else words, numbers_of(module))
    return _distinct(wanted)


def _parts(expressions: Mapping[AxisOf, Expression], shapes: Mapping[str, Sequence[int]]) -> dict[int, _Part]:
    parts: dict[int, _Part] = {}
    for axis, expression in expressions.items():
        biased = _writing_axis(axis[0], shapes, expressions)
        for dim, level, more, many in _levels(expression):
            part = parts.setdefault(dim, _Part())
            part.places.append(axis)
            part.levels.append((level, more, many))
            if axis[1] == biased and len(shapes[axis[0]]) > 1:
                part.writes.append(axis)
    return parts


def _writing_axis(name: str, shapes: Mapping[str, Sequence[int]], expressions: Mapping[AxisOf, Expression]) -> int:
    """The axis of a weight that its layer makes: the one that the bias has too, or else the first."""
    stem, dot, word = name.rpartition(".")
    bias = f"{stem}{dot}{word.replace('weight', 'bias')}"
    if bias != name and bias in shapes and len(shapes[bias]) == 1:
        same = [at for at in range(len(shapes[name])) if expressions[name, at] == expressions[bias, 0]]
        if len(same) == 1:
            return same[0]
    return 0


def _levels(
    expression: Expression, level: int = 0, more: bool = False, many: int = 1
) -> list[tuple[int, int, bool, int]]:
    """(dim, depth, whether a moving factor follows, moving factors of its product) for every dim of an expression."""
    if isinstance(expression, Moving):
        return [(expression.move, level, more, many)]
    if isinstance(expression, Chain):
        return [found for part in expression.parts for found in _levels(part, level, more, many)]
    if not isinstance(expression, Nest):
        return []
    moving = [bool(moves_in(factor)) for factor in expression.factors]
    found = []
    depth = level
    for at, factor in enumerate(expression.factors):
        found += _levels(factor, depth, any(moving[at + 1 :]) or more, sum(moving))
        depth += moving[at]
    return found


def _runs_through(part: _Part) -> bool:
    """Whether it stands in the same place of several layers."""
    places = {(key, at) for key, at in part.places if numbers_of(key) and words_of(key.rpartition(".")[0])}
    templates = Counter((template_of(key), at) for key, at in places)
    return any(count > 1 for count in templates.values())


def _main_stream(parts: Mapping[int, _Part], streams: set[int], shapes: Mapping[str, Sequence[int]]) -> int | None:
    """The stream that more than a third of all tensors have, if it is one."""
    largest = max(streams, key=lambda dim: len({key for key, _ in parts[dim].places}), default=None)
    if largest is None or 3 * len({key for key, _ in parts[largest].places}) < len(shapes):
        return None
    return largest


def _stream_words(part: _Part) -> list[str]:
    """The words that the keys of all the layers which write it begin with, or those of the first of them."""
    keys = [axis[0] for axis in part.writes or part.places]
    common: list[str] = []
    for words in zip(*(key.split(".")[:-1] for key in keys), strict=False):
        if len(set(words)) > 1 or words[0].isdigit():
            break
        common.append(words[0])
    return common or words_of(keys[0].rpartition(".")[0]) or ["h"]


def _stage(part: _Part) -> tuple[int, ...]:
    """The number that comes first in the first and in most of the keys which write a stream: that of one stage."""
    keys = [axis[0] for axis in part.writes or part.places]
    firsts = Counter(numbers[0] for numbers in map(numbers_of, keys) if numbers)
    number, times = max(firsts.items(), key=lambda found: found[1], default=(0, 0))
    return (number,) if 2 * times > len(keys) and numbers_of(keys[0]) else ()


def _role(part: _Part, shapes: Mapping[str, Sequence[int]]) -> str:
    """`head`, `kv`, `q`, `qk`, `v`, `group` or `ch` for a factor of a product; empty for a dim on its own."""
    follows = any(more for _, more, _ in part.levels)
    inside = any(level for level, _, _ in part.levels)
    convolved = any(len(shapes[key]) > 2 for key, _ in part.places)
    if not follows and not inside:
        return ""
    if convolved:
        return "group" if follows else "ch"
    if follows:
        deep = any(many > 2 for _, _, many in part.levels)
        return ("q" if inside else "kv") if deep else "head"
    return "qk" if all(axis in part.writes or len(shapes[axis[0]]) == 1 for axis in part.places) else "v"


def _distinct(wanted: Mapping[int, tuple[list[str], tuple[int, ...]]]) -> dict[int, Name]:
    """The last word of each, with as many words before it as it takes to tell it from the others."""
    names: dict[int, Name] = {}
    longest = max((len(words) for words, _ in wanted.values()), default=0)
    for length in range(1, longest + 1):
        open_ = [dim for dim in wanted if dim not in names]
        tried = {dim: "_".join(wanted[dim][0][-length:]) for dim in open_}
        paths: dict[str, set[tuple[str, ...]]] = {}
        for dim, word in tried.items():
            paths.setdefault(word, set()).add(tuple(wanted[dim][0]))
        for dim, word in tried.items():
            if len(paths[word]) == 1:
                names[dim] = (word, wanted[dim][1])
    for dim, (words, numbers) in wanted.items():
        names.setdefault(dim, ("_".join(words), numbers))
    return _numbered(names)


def _numbered(names: Mapping[int, Name]) -> dict[int, Name]:
    """Names that are letters, digits and underscores, each of one dim."""
    taken: Counter[Name] = Counter()
    final: dict[int, Name] = {}
    for dim, (word, numbers) in names.items():
        clean = "".join(c if c.isalnum() or c == "_" else "_" for c in word)
        clean = clean if clean[:1].isalpha() else f"h{clean}"
        name = (clean, numbers)
        taken[name] += 1
        while taken[name] > 1:
            name = (f"{clean}_{taken[clean, numbers]}", numbers)
            taken[name] += 1
        final[dim] = name
    return final


def quoted(text: str) -> str:
    """As YAML has it: quoted where it would be read as something else."""
    plain = text[:1].isalnum() or text[:1] in ("(", "_")
    words = text.lower() in ("null", "true", "false", "yes", "no", "on", "off") or text.replace(".", "").isdigit()
    if plain and not words and ": " not in text and " #" not in text and text == text.strip():
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
