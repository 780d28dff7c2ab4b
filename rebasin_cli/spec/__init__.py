"""The spec language: which axes of which tensors move together, declared in YAML and bound to a checkpoint's shapes.

Knows shapes, never tensors: nothing here imports torch, so that a spec that does not fit is refused from headers alone.
"""

from rebasin_cli.spec.binding.bind import attempt, bind
from rebasin_cli.spec.binding.binder import Request
from rebasin_cli.spec.binding.layout import INDEX_SIDE, BoundTensor, Dim, Layout, Piece, Side
from rebasin_cli.spec.binding.left_over import Mismatch, mismatch_error
from rebasin_cli.spec.language.loading import load_spec
from rebasin_cli.spec.language.permutation_spec import PermutationSpec
from rebasin_cli.spec.registry import detect, find_spec, shipped_spec, shipped_specs

__all__ = [
    "INDEX_SIDE",
    "BoundTensor",
    "Dim",
    "Layout",
    "Mismatch",
    "PermutationSpec",
    "Piece",
    "Request",
    "Side",
    "attempt",
    "bind",
    "detect",
    "find_spec",
    "load_spec",
    "mismatch_error",
    "shipped_spec",
    "shipped_specs",
]
