"""By which power of a unit's scale each place of a tensor is multiplied: what writes it by s, what reads it by 1/s.

A layer writes along one axis of its weight, which its bias tells (the first where there is none), and reads along the
others. Behind a norm that has gains it is these and the norm's biases that write: what the norm is fed stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from rebasin_cli.spec.binding.claims import Claim
from rebasin_cli.spec.binding.equations import Leaf, Plus
from rebasin_cli.spec.language.permutation_spec import PermutationSpec


@dataclass(frozen=True, slots=True)
class Powers:
    """Powers of the scales of some dims.

    Attributes:
        scaled: the dims; gained: those whose units are written by gains of a norm.
        norms: modules with gains; written: by line, the axis along which it writes, where that is not the first.
    """

    scaled: frozenset[str]
    gained: frozenset[str]
    norms: frozenset[str]
    written: Mapping[str, int]

    @staticmethod
    def of(
        spec: PermutationSpec, claims: Mapping[str, Claim], axes: Mapping[str, tuple[Plus, ...]], scaled: set[str]
    ) -> Powers:
        """Of the dims of `scaled`, but those that no scale can act on here: of reparametrised weights (whose lengths
        are tensors of their own), of norms without gains, and that stand on two axes of one tensor."""
        norms: dict[str, set[str]] = {}
        counted: set[str] = set()
        refused: set[str] = set()
        for key, claim in claims.items():
            dims = {leaf.dim for axis in axes[key] for leaf in axis.leaves() if leaf.dim in scaled}
            module, _, name = key.rpartition(".")
            sides = [{leaf.dim for leaf in axis.leaves()} for axis in axes[key]]
            refused |= {dim for dim in dims if sum(dim in found for found in sides) > 1}
            if claim.form is not None and claim.form.role != "bias":
                refused |= dims
            elif len(axes[key]) == 1 and claim.line.section == "tensors" and name == "weight":
                norms[module] = dims
            elif claim.line.section == "buffers":
                counted |= dims
        gained = {dim for dims in norms.values() for dim in dims}
        free = scaled - refused - (counted - gained)
        return Powers(frozenset(free), frozenset(gained), frozenset(norms), _written(spec))

    def at(self, key: str, claim: Claim) -> partial[int]:
        """Of a tensor: (axis, leaf) → power."""
        module = key.rpartition(".")[0]
        written = self.written.get(claim.line.template.text.rstrip("?"), 0)
        is_norm = module in self.norms and claim.line.section == "tensors"
        return partial(self._power, written, is_norm)

    def _power(self, written: int, is_norm: bool, axis: int, leaf: Leaf) -> int:
        if leaf.dim not in self.scaled or leaf.still:
            return 0
        if axis == written and leaf.dim in self.gained and not is_norm:
            return 0
        return (1 if axis == written else -1) * (-1 if leaf.inverse else 1)


@lru_cache(maxsize=128)
def _written(spec: PermutationSpec) -> Mapping[str, int]:
    """The axis that a layer's bias has, for lines of weights where that is not the first."""
    from rebasin_cli.spec.binding.transposed import biases_of, layer_of  # which few checkpoints need

    biases = biases_of(spec)
    found: dict[str, int] = {}
    for line in spec.lines:
        bias = biases.get(layer_of(line))
        if bias is None or line.pattern is None or len(line.pattern.axes) < 2:
            continue
        equal = [axis for axis, text in enumerate(line.pattern.axes) if text == bias]
        if equal and equal[0]:
            found[line.template.text.rstrip("?")] = equal[0]
    return found
