"""Sizes that shapes do not tell, as expressions of a config: a derived spec for networks of other sizes.

The numbers of a small network are looked up in its config, where sizes differ. What is found is a guess; whoever asks
tries every one of them on a second network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

from rebasin_cli.derivation.expressions import Still, inside, parts_of
from rebasin_cli.derivation.shrinking import HEADS, HIDDEN, role_of
from rebasin_cli.derivation.writing import Draft
from rebasin_cli.spec.language.expressions import parse_expression

_MOST_CHOICES, _MOST_DRAFTS = 6, 400
_CONSTANT = 2  # gates and pairs: a number of the code rather than of a config
_NUMBERED = ("left", "token", "layers", "layer kinds", "chosen", "vocabulary", "positions", "image", "classes")

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Configs:
    """The config of the network that was derived on, of the one that confirms, and of the real one.

    Attributes:
        whole: the real one with the defaults of its class.
    """

    small: Config
    other: Config
    real: Config
    whole: Config


def fitted(draft: Draft, configs: Configs) -> Iterator[Draft]:
    """The draft with its numbers as sizes from the config, in every way that is possible; the likeliest first."""
    numbers = sorted({size for size in draft.sizes.values() if isinstance(size, int)})
    stills = sorted({part.size for e in draft.wiring.expressions.values() for part in _inner_stills(e)})
    ways = [[*_choices(n, configs), str(n)] for n in numbers]
    ways += [_still_ways(n, configs) for n in stills]
    for chosen in islice(product(*ways), _MOST_DRAFTS):
        of_dim = dict(zip(numbers, chosen, strict=False))
        constants, named = _named(draft, dict(zip(stills, chosen[len(numbers) :], strict=True)))
        sizes = {dim: of_dim.get(size, size) if isinstance(size, int) else size for dim, size in draft.sizes.items()}
        yield replace(draft, sizes=sizes, constants=constants, named=named)


def _still_ways(size: int, configs: Configs) -> list[str]:
    if size <= _CONSTANT:
        return [str(size), *_choices(size, configs)]
    return ["_", *_choices(size, configs), str(size)]


def _inner_stills(expression: Any) -> Iterator[Still]:
    for part in parts_of(expression):
        yield from (each for each in inside(part) if isinstance(each, Still))


def _named(draft: Draft, chosen: Mapping[int, str]) -> tuple[dict[int, str], dict[str, str]]:
    """How every number is written in patterns, and the names that are given for it."""
    taken = {name[0] for name in draft.names.values()}
    constants: dict[int, str] = {}
    named: dict[str, str] = {}
    for size, text in chosen.items():
        if text == "_" or text.isdigit():
            constants[size] = text
            continue
        fields = re.findall(r"config\.(?:\w+\.)*(\w+)", text)
        word = fields[0] if len(fields) == 1 else "head_dim" if role_of(fields[-1]) == HEADS else "part"
        while word in taken or word in named:
            word += "_size"
        named[word], constants[size] = text, f"_:{word}"
    return constants, named


def _choices(size: int, configs: Configs) -> list[str]:
    """Expressions with this value in the small config, of those that agree in all the configs the simplest."""
    found: dict[tuple[int | None, int | None], str] = {}
    for text in _expressions(size, configs.small):
        expression = parse_expression(text)
        other, whole = (expression.evaluate(config, lambda _: None) for config in (configs.other, configs.whole))
        if other is None or whole is None:
            continue
        told = expression.evaluate(configs.real, lambda _: None) is not None
        quoted = f'"{text}"' if "[" in text else text  # as YAML has it inside of a list
        found.setdefault((other, whole), quoted if told else f"{quoted}, {whole}")
    return list(found.values())[:_MOST_CHOICES]


def _expressions(size: int, config: Config) -> Iterator[str]:
    """Fields with a value, then quotients, shares and products of fields, the likeliest first."""
    parts = list(_parts(config))
    fields = [field for part in parts for field in part]
    yield from (text for text, value in sorted(fields, key=lambda f: _rank(f[0])) if value == size)
    for part in parts:
        whole = sorted(((t, v) for t, v in part if isinstance(v, int)), key=lambda f: _rank(f[0]))
        shares = [(t, v) for t, v in part if isinstance(v, float) and 0 < v < 1]
        ratios = [(f"{a} / {b}", x // y) for a, x in whole for b, y in whole if y > 1 and x > y and not x % y]
        yield from (text for text, value in ratios if value == size)
        for share, part_of in shares:
            yield from (f"{share} * {text}" for text, value in [*whole, *ratios] if round(part_of * value, 9) == size)
        yield from (f"{a} * {b}" for a, x in whole for b, y in whole if a < b and x * y == size and min(x, y) > 1)
        for text, value in [*whole, *ratios]:
            if value == 2 * size:
                yield f"{text} / 2"
            if 2 * value == size:
                yield f"2 * {text}"
        for a, x in [*whole, *ratios]:
            yield from (f"{a} - {b}" for b, y in whole if x - y == size)
            for share, part_of in shares:
                yield from (f"{text} - {share} * {text}" for text, v in ratios if round(v - part_of * v, 9) == size)


def _rank(text: str) -> int:
    """Heads before widths, before what is not known."""
    role = role_of(re.sub(r"\[\d+\]$", "", text).rpartition(".")[2])
    return 0 if role == HEADS else 3 if not role else 2 if role == HIDDEN else 1


def _parts(config: Config, place: str = "config") -> Iterator[Sequence[tuple[str, int | float]]]:
    """The fields with numbers of a config, and of each of its parts."""
    fields: list[tuple[str, int | float]] = []
    for name, value in config.items():
        if not name.isidentifier() or role_of(name) in _NUMBERED:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            fields.append((f"{place}.{name}", value))
        elif isinstance(value, list):
            fields += [(f"{place}.{name}[{at}]", n) for at, n in enumerate(value) if type(n) is int and n > 0]
    yield fields
    for name, value in config.items():
        if isinstance(value, Mapping) and name.isidentifier() and name not in ("id2label", "label2id"):
            yield from _parts(value, f"{place}.{name}")
