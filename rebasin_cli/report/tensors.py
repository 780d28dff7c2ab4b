"""The table of tensors: one by one, or those that differ in numbers alone together (`layers.{i}.mlp.weight`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod

from rebasin_cli.report.document import TensorRecord
from rebasin_cli.report.figures import count_text
from rebasin_cli.report.measured import Grid

FEW_TENSORS = 40
"""Up to this many tensors are shown one by one; more are folded."""

_VARIABLES = "ijklmn"
_NUMBER = re.compile(r"(?<=\.)\d+(?![^.\s)+])|^\d+(?=\.)")  # a part of a name that is one


def tensors_grid(tensors: Mapping[str, TensorRecord], *, every_tensor: bool) -> Grid:
    """Tensors of a checkpoint with dtype, shape and the dims along their axes; or the lines of a spec."""
    if not any(record.dtype for record in tensors.values()):  # templates of a spec
        lines = tuple((key, _reading(t.section, t.pattern), str(t.line)) for key, t in tensors.items())
        return Grid("Tensors", ("template", "axes", "line"), lines, words=(0, 1))
    if every_tensor or len(tensors) <= FEW_TENSORS:
        rows = tuple((key, *_facts(t, _reading(t.section, t.pattern))) for key, t in tensors.items())
        return Grid("Tensors", ("tensor", "dtype", "shape", "axes"), rows, words=(0, 1, 3))
    return Grid("Tensors", ("tensor", "count", "dtype", "shape", "axes"), tuple(_folded(tensors)), words=(0, 2, 4))


def size_text(tensors: Mapping[str, TensorRecord]) -> str:
    """`150,282 parameters, F32`: values of all tensors, and their dtypes, the commonest first."""
    values = Counter[str]()
    for record in tensors.values():
        values[record.dtype] += prod(record.shape)
    return ", ".join([count_text(values.total(), "parameter"), *(dtype for dtype, _ in values.most_common())])


def _facts(record: TensorRecord, reading: str) -> tuple[str, ...]:
    return (record.dtype, "×".join(map(str, record.shape)) or "scalar", reading)


def _folded(tensors: Mapping[str, TensorRecord]) -> Iterable[tuple[str, ...]]:
    """A row for those whose names, axes, shapes and dtypes are alike but for numbers."""
    alike: dict[str, dict[str, list[str]]] = {}
    for key in tensors:
        alike.setdefault(_NUMBER.sub("#", key), {})[key] = _NUMBER.findall(key)
    groups: dict[tuple[str, str, tuple[int, ...], str], dict[str, list[str]]] = {}
    for name, found in alike.items():
        varies = [len(set(values)) > 1 for values in zip(*found.values(), strict=True)]
        for key, numbers in found.items():
            record = tensors[key]
            pattern = _reading(record.section, record.pattern)
            if any(varies):
                pattern = _relative(pattern, {at: int(n) for at, n in enumerate(numbers) if varies[at]})
            groups.setdefault((name, record.dtype, record.shape, pattern), {})[key] = numbers
    place = {key: at for at, key in enumerate(tensors)}
    for (_, _, _, pattern), found in sorted(groups.items(), key=lambda group: place[next(iter(group[1]))]):
        first = next(iter(found))
        record = tensors[first]
        if len(found) == 1:
            yield first, "1", *_facts(record, _reading(record.section, record.pattern))
        else:
            name, reading = _together(found, pattern)
            yield name, str(len(found)), *_facts(record, reading)


def _together(numbers: Mapping[str, Sequence[str]], pattern: str) -> tuple[str, str]:
    """Name and axes of several tensors: `{i}` for a number that differs, and the others as they are.

    Args:
        numbers: those of each name.
    """
    values = zip(*numbers.values(), strict=True)
    names = [value[0] if len(set(value)) == 1 else f"{{{_variable(at)}}}" for at, value in enumerate(values)]
    parts = iter(names)
    reading = re.sub(r"#(\d+)([+-]\d)?", lambda found: _shown(names[int(found[1])], found[2] or ""), pattern)
    return _NUMBER.sub(lambda _: next(parts), next(iter(numbers))), reading


def _relative(pattern: str, numbers: Mapping[int, int]) -> str:
    """The axes with `#0` for a number that is the name's first, `#0-1` for the one before it.

    Args:
        numbers: of the name, by place, those that differ among names that are alike.
    """

    def told(found: re.Match[str]) -> str:
        for near, sign in ((0, ""), (-1, "-1"), (1, "+1")):
            for at, number in numbers.items():
                if int(found[0]) == number + near:
                    return f"#{at}{sign}"
        return found[0]

    return _NUMBER.sub(told, pattern)


def _shown(name: str, offset: str) -> str:
    """`{i}` and `-1` as `{i-1}`, `3` and `-1` as `2`."""
    return f"{name[:-1]}{offset}}}" if name.startswith("{") else str(int(name) + int(offset or 0))


def _variable(at: int) -> str:
    return _VARIABLES[min(at, len(_VARIABLES) - 1)]


def _reading(section: str | None, pattern: str) -> str:
    if section is None:
        return "–"
    if section == "ignored":
        return "left alone"
    return pattern + (" (buffer)" if section == "buffers" else "")
