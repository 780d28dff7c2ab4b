"""Reparametrised layers: how tensors move that are stored in place of a weight that the spec describes.

A spec has a line for `fc.weight`. A checkpoint may hold that weight as weight norm, spectral norm or pruning leave it
(`fc.weight_v`, `fc.parametrizations.weight.original1`, `fc.weight_orig`, `fc.weight_mask`), or with a bias that the
spec's network does not have, as when a BatchNorm is folded into the layer before it. The rules here hold for
every spec. They apply only to tensors that no line matches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rebasin_cli.spec.language.pattern import Anonymous, Axis, Pattern, Product
from rebasin_cli.spec.language.permutation_spec import Section

Shape = tuple[int, ...]
Role = Literal["whole", "mask", "length", "left", "right", "bias"]

_NEW = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.(?P<role>original[01]?|\d+\._[uv])")
_OLD = re.compile(r"(?P<base>.*\w)_(?P<role>orig|mask|g|v|u)")
_WHOLE_ENDS = ("original", "original1", "_orig", "_v")
_ENDS = ("bias", "original0", "_mask", "_g", "_u", *_WHOLE_ENDS)
"""How the keys end that the expressions match: of 100,000 keys most end otherwise."""
_ANONYMOUS = Axis((Anonymous(),))

# Names of torch.nn.utils.parametrizations, and of the older functions: what the tensor is to the weight.
_NEW_ROLES: Mapping[str, Role] = {"original": "whole", "original1": "whole", "original0": "length"}
_OLD_ROLES: Mapping[str, Role] = {"orig": "whole", "mask": "mask", "u": "left", "v": "right"}


@dataclass(frozen=True, slots=True)
class Form:
    """How a tensor is derived from the weight that a line describes.

    Attributes:
        base: the weight's key; axes: how many it has.
        role: `whole`: the weight's own axes; `mask`: those of a pruning mask; `length`: weight norm's g, which has
            length 1 on the axes that it sums over; `left`, `right`: spectral norm's singular vectors, along the
            output axis and along all others; `bias`: along the output axis.
    """

    base: str
    axes: int
    role: Role

    @property
    def name(self) -> str:
        """The tensor's name, the same for the old and the new form of weight norm."""
        return self.base if self.role == "whole" else f"{self.base}: {self.role}"

    def section(self, of_weight: Section) -> Section:
        """Where it belongs: singular vectors and masks are moved, not matched."""
        return of_weight if self.role in ("whole", "length", "bias") or of_weight == "ignored" else "buffers"

    def pattern(self, weight: Pattern, shape: Shape, weight_shape: Shape | None) -> Pattern:
        """What its axes are, from what those of the weight are."""
        if self.role in ("whole", "mask"):
            return weight
        if self.role == "length":  # one number for all, or one for each unit of some axes
            return Pattern(tuple(axis if n > 1 else _ANONYMOUS for axis, n in zip(weight.axes, shape, strict=False)))
        out = _output_axis(shape, weight_shape) if self.role != "right" else _right_of(shape, weight_shape)
        if self.role != "right":
            return Pattern((weight.axes[out],))
        rest = weight.axes[:out] + weight.axes[out + 1 :]
        return Pattern(rest if len(rest) == 1 else (Axis((Product(rest),)),))


def may_be_derived(key: str) -> bool:
    """Whether a key is spelled like one that `form_of` knows; the other keys decide."""
    return key.endswith(_ENDS) and (
        key.rpartition(".")[2] == "bias" or bool(_NEW.fullmatch(key) or _OLD.fullmatch(key))
    )


def form_of(key: str, shapes: Mapping[str, Shape]) -> Form | None:
    """How `key` is derived from a weight, or None; `shapes` are those of all tensors."""
    if not key.endswith(_ENDS):
        return None
    new = _NEW.fullmatch(key)
    if new:
        role = _NEW_ROLES.get(new["role"]) or ("left" if new["role"].endswith("u") else "right")
        return _form(new["module"] + new["name"], role, shapes)
    old = _OLD.fullmatch(key)
    if old:
        base, role_name = old["base"], old["role"]
        if f"{base}_orig" in shapes:
            return _form(base, _OLD_ROLES[role_name], shapes) if role_name != "g" else None
        if role_name in ("g", "v") and {f"{base}_g", f"{base}_v"} <= shapes.keys():
            return _form(base, "length" if role_name == "g" else "whole", shapes)
        return None
    module, _, name = key.rpartition(".")
    if name == "bias" and len(shapes[key]) == 1:
        form = _form(f"{module}.weight" if module else "weight", "bias", shapes)
        length = shapes[key][0]
        if form is not None and form.axes >= 2 and length in (weight_shape(form.base, shapes) or ())[:2]:
            return form
    return None


def stored_weights(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The weights that are stored in another form: the key and shape that each would have by itself."""
    forms = [form_of(key, shapes) for key in shapes if key.endswith(_WHOLE_ENDS)]
    found = {form.base: weight_shape(form.base, shapes) for form in forms if form is not None and form.role == "whole"}
    return {base: shape for base, shape in found.items() if shape is not None}


def _form(base: str, role: Role, shapes: Mapping[str, Shape]) -> Form | None:
    shape = weight_shape(base, shapes)
    return None if shape is None else Form(base, len(shape), role)


def weight_shape(base: str, shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of the weight with the key `base`, in whatever form it is stored."""
    module, _, name = base.rpartition(".")
    hidden = f"{module}.parametrizations.{name}" if module else f"parametrizations.{name}"
    for key in (base, f"{base}_orig", f"{base}_v", f"{hidden}.original", f"{hidden}.original1"):
        if key in shapes:
            return shapes[key]
    return None


def _output_axis(shape: Shape, weight: Shape | None) -> int:
    """The first axis, or the second one if only that is as long (transposed convolutions)."""
    return 1 if weight is not None and len(weight) > 1 and shape[0] != weight[0] and shape[0] == weight[1] else 0


def _right_of(shape: Shape, weight: Shape | None) -> int:
    """The axis that the right singular vector leaves out."""
    if weight is None or len(weight) < 2:
        return 0
    size = 1
    for length in weight:
        size *= length
    return 1 if shape[0] * weight[0] != size and shape[0] * weight[1] == size else 0
