"""Permutations: values, what they do to tensors, and the file that keeps one."""

from rebasin_cli.permutation.files import SavedPermutation, load_permutation, permutation_bytes, save_permutation
from rebasin_cli.permutation.gather import gather_piece, owner_sides, permute_tensor, permuted, piece_view, source_key
from rebasin_cli.permutation.values import Permutation, is_identity

__all__ = [
    "Permutation",
    "SavedPermutation",
    "gather_piece",
    "is_identity",
    "load_permutation",
    "owner_sides",
    "permutation_bytes",
    "permute_tensor",
    "permuted",
    "piece_view",
    "save_permutation",
    "source_key",
]
