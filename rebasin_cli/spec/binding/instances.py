"""The dims of one checkpoint by their values: `conv.{i}` with i = 3 is the instance `("conv", 3)`."""

from __future__ import annotations

from collections.abc import Iterable

from rebasin_cli.spec.language.pattern import DimName
from rebasin_cli.spec.language.variables import Bindings, Pick, Value

Instance = tuple[Value, ...]


def instance_of(name: DimName, bindings: Bindings) -> Instance | None:
    """The instance that a name without choices stands for; None where it has `{prev i}`, `{*}` and the like."""
    parts: list[Value] = []
    for part in name.parts:
        if isinstance(part, str):
            parts.append(int(part) if part.isdigit() else part)
        elif part.pick is not Pick.SAME or part.variable not in bindings:
            return None
        else:
            parts.append(part.value(bindings))
    return tuple(parts)


def dim_text(instance: Instance) -> str:
    """`("conv", 3)` as `conv.3`."""
    return ".".join(map(str, instance))


def in_order(instances: Iterable[Instance]) -> list[Instance]:
    """The instances sorted by their values, numbers before words."""
    return sorted(instances, key=lambda instance: [rank(value) for value in instance])


def rank(value: Value) -> tuple[int, int, str]:
    """The key by which values are sorted: numbers before words."""
    return (0, value, "") if isinstance(value, int) else (1, 0, value)
