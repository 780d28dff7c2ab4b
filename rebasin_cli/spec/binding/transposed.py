"""Linear layers stored transposed: [out, in] where a spec has [in, out], as in nanoGPT, or the reverse.

A layer's bias tells which axis of its weight is the output. If the sizes agree once all linear layers of the
spec are transposed, that is how they are stored; square weights follow the others.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from rebasin_cli.spec.language.pattern import Axis, Pattern
from rebasin_cli.spec.language.permutation_spec import Line, PermutationSpec

_WEIGHT = ".weight"


@lru_cache(maxsize=128)
def transposed(spec: PermutationSpec) -> PermutationSpec | None:
    """The spec with the weights of its linear layers transposed; None if no linear layer has a bias."""
    biases = biases_of(spec)
    lines = tuple(_transposed_line(line, biases.get(layer_of(line))) for line in spec.lines)
    return replace(spec, lines=lines) if lines != spec.lines else None


def biases_of(spec: PermutationSpec) -> dict[str, Axis]:
    """The axis of every bias, by the template of its layer (see `layer_of`)."""
    return {
        line.template.text.removesuffix("?").removesuffix(".bias"): line.pattern.axes[0]
        for line in spec.lines
        if line.pattern is not None and len(line.pattern.axes) == 1 and line.template.text.rstrip("?").endswith(".bias")
    }


def layer_of(line: Line) -> str:
    """The template of the layer whose weight a line describes; empty if it describes none."""
    text = line.template.text.rstrip("?")
    return text.removesuffix(_WEIGHT) if text.endswith(_WEIGHT) else ""


def _transposed_line(line: Line, bias: Axis | None) -> Line:
    if bias is None or line.pattern is None or len(line.pattern.axes) != 2 or line.section == "ignored":
        return line
    first, second = line.pattern.axes
    if (str(first) == str(bias)) == (str(second) == str(bias)):
        return line
    return replace(line, pattern=Pattern((second, first)))
