"""A permutation of a network's units, as a value."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rebasin_cli.api.calls import public
from rebasin_cli.api.showing import Row, Shown
from rebasin_cli.checkpoints.outputs import save_file
from rebasin_cli.permutation.files import SavedPermutation

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_cli.permutation.values import Permutation
    from rebasin_cli.spec import Layout


class UnitPermutation(Shown, Mapping[str, "Tensor"]):
    """For each dim which unit of B goes to each place: dim → int64 tensor.

    A dim of its own has shape (units,) and means `aligned[i] = b[p[i]]`; a dim within an owner, as the queries of a
    head, has shape (*owner units, units): `aligned[g, i] = b[P[g], p[g, i]]`. Dims that are absent stay as they are.
    An entry below zero, `~j`, is unit j with its sign turned.
    The tensors are not to be written to.

    Attributes:
        saved: with the spec and the hashes of the networks that it was made for.

    Example:
        >>> found = rebasin.align(a, b)
        >>> sorted(found.permutation)
        ['h.0', 'h.1']
        >>> found.permutation["h.0"].shape
        torch.Size([8])
    """

    def __init__(self, saved: SavedPermutation, file: bytes) -> None:
        """`file`: the permutation file."""
        self.saved, self._file = saved, file

    @public()
    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the file that `rebasin apply` reads; `force` replaces one that is there.

        Raises:
            UsageError, SystemFailure: it exists, or cannot be written.

        Example:
            >>> rebasin.align(a, b).permutation.save("b.permutation.safetensors").name
            'b.permutation.safetensors'
        """
        return save_file(Path(path), self._file, force=force)

    def __getitem__(self, dim: str) -> Tensor:
        return self.saved.permutation[dim]

    def __iter__(self) -> Iterator[str]:
        return iter(self.saved.permutation)

    def __len__(self) -> int:
        return len(self.saved.permutation)

    def _title(self) -> str:
        return f"permutation by the spec {self.saved.spec_name}"

    def _rows(self) -> list[Row]:
        moved = self.saved.permutation.fraction_moved
        return [(dim, f"{'×'.join(map(str, self[dim].shape))} units, {moved(dim):.0%} moved") for dim in self]


def unit_permutation(
    permutation: Permutation, layout: Layout, file: bytes, inputs: Mapping[str, str]
) -> UnitPermutation:
    """A permutation that was found, with its file."""
    spec = layout.spec
    saved = SavedPermutation(
        permutation,
        spec.name,
        spec.sha256,
        inputs,
        Path("<permutation>"),
        hashlib.sha256(file).hexdigest(),
        spec.text,
        signs_sha256=spec.signs_sha256 if permutation.has_signs else "",
        scales_sha256=spec.scales_sha256 if permutation.scales else "",
        rotations_sha256=spec.rotations_sha256 if permutation.has_maps else "",
        is_held=True,
    )
    return UnitPermutation(saved, file)
