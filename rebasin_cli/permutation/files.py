"""Permutations as files: a safetensors file with one int64 tensor a dim, and what it was made for.

Where signs of units are turned the format is another, so that a program that does not know of them refuses the file:
an entry below zero, `~j`, is then unit j with its sign turned. Where units are scaled it is a third one, with a float64
tensor `scales:DIM` for each such dim. Where they are mapped it is a fourth, with float64 matrices `map:DIM`, and for
each norm that a map passes `gains:NAME`, its gains before and after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.checkpoints.places import check_file_target
from rebasin_cli.errors import ContentError
from rebasin_cli.files import parse_json, read_bytes
from rebasin_cli.process import load_torch
from rebasin_cli.spec import Layout
from rebasin_cli.spec.binding.layout import STREAMS

if TYPE_CHECKING:  # a file that is none is refused without torch
    from rebasin_cli.permutation.values import Permutation

FORMAT = "rebasin.permutation/1"
SIGNED_FORMAT = "rebasin.permutation/2"
SCALED_FORMAT = "rebasin.permutation/3"
MAPPED_FORMAT = "rebasin.permutation/4"
_FORMATS = (FORMAT, SIGNED_FORMAT, SCALED_FORMAT, MAPPED_FORMAT)
_SCALES, _MAPS, _GAINS = "scales:", "map:", "gains:"
LARGEST_CONDITION = 1e12
"""Condition number up to which a matrix is taken for invertible; those of trained heads are below 10³."""
LARGEST = 1 << 30  # bytes: 8 for each unit, of which the largest networks have some millions


@dataclass(frozen=True, slots=True)
class SavedPermutation:
    """A permutation as it was read, with the spec and the checkpoints it was made for.

    Attributes:
        inputs: sha256 by role (`a`, `b`).
        spec_text: the YAML of a spec that does not ship; sha256: of the file.
        signs_sha256: of where the spec lets signs act; empty where none is turned; scales_sha256, rotations_sha256: the
            same of scales and of maps.
        is_held: whether it is in memory alone.
    """

    permutation: Permutation
    spec_name: str
    spec_sha256: str
    inputs: Mapping[str, str]
    path: Path
    sha256: str
    spec_text: str = ""
    signs_sha256: str = ""
    scales_sha256: str = ""
    rotations_sha256: str = ""
    is_held: bool = False

    @property
    def shown(self) -> Path:
        """How documents name it: `-` where it is in memory alone."""
        return Path("-") if self.is_held else self.path

    @property
    def symmetry(self) -> str:
        """The `--symmetry` that it takes."""
        signs, scales = self.permutation.has_signs, bool(self.permutation.scales)
        if self.permutation.has_maps:
            return "all" if signs or scales else "rotations"
        return ("all" if signs else "scales") if scales else "signs" if signs else "permutations"

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every dim's array; where a dim is mapped and does not move, that which one would have."""
        mapped = {dim: tuple(map_.shape[:-1]) for dim, map_ in self.permutation.maps.items()}
        return mapped | {dim: tuple(perm.shape) for dim, perm in self.permutation.items()}

    def check_fits(self, layout: Layout) -> None:
        """Refuse a checkpoint for which this permutation was not made.

        Raises:
            ContentError: another spec, another version of it, dims of other sizes, or one that must stay is moved.
        """
        if self.spec_name != layout.spec.name or self.spec_sha256 != layout.spec.sha256:
            raise ContentError(
                f"the permutation was made with the spec `{self.spec_name}` ({self.spec_sha256[:12]}…), "
                f"the checkpoint is `{layout.spec.name}` ({layout.spec.sha256[:12]}…)",
                where=str(self.path),
                remedy="align again with this spec, or name the one it was made with: --arch",
            )
        spec = layout.spec
        for what, made, here_ in (
            ("turns signs", self.signs_sha256, spec.signs_sha256),
            ("scales units", self.scales_sha256, spec.scales_sha256),
            ("rotates units", self.rotations_sha256, spec.rotations_sha256),
        ):  # fmt: skip
            if made and made != here_:
                raise ContentError(
                    f"the permutation {what}, and the spec `{spec.name}` lets them act elsewhere than when it was made",
                    where=str(self.path),
                    remedy="align again with this spec, or name the one it was made with: --arch",
                )
        for dim, shape in self.sizes.items():
            if dim not in layout.dims:
                raise ContentError(
                    f"the permutation moves dim {dim}, which this checkpoint does not have",
                    where=str(self.path),
                    remedy="apply it to a checkpoint of the same depth as the one it was made for",
                )
            here = (*layout.owner_sizes(dim), layout.dims[dim].size)
            if shape != here:
                raise ContentError(
                    f"dim {dim} has shape {list(shape)} in the permutation and {list(here)} in the checkpoint",
                    where=str(self.path),
                    remedy="apply it to a checkpoint of the same width (and config.json) as the one it was made for",
                )
            if self.permutation.fraction_turned(dim) and not layout.dims[dim].signs:
                raise ContentError(
                    f"the permutation turns signs of dim {dim}, which has none",
                    where=str(self.path),
                    remedy="the file was edited, or made with other options; align again with those of this command",
                )
            if dim in self.permutation.scales and not layout.dims[dim].scales:
                raise ContentError(
                    f"the permutation scales units of dim {dim}, which has no scales here",
                    where=str(self.path),
                    remedy="the file was edited, or made with other options; align again with those of this command",
                )
            if dim in self.permutation.maps and not layout.dims[dim].rotated:
                raise ContentError(
                    f"the permutation rotates units of dim {dim}, which has no rotations here",
                    where="; ".join((str(self.path), *layout.notes)),
                    remedy="the file was edited, or made with other options; align again with those of this command",
                )
            fixed = layout.dims[dim].fixed
            if fixed is not None and dim in self.permutation and self.permutation.fraction_moved(dim):
                raise ContentError(
                    f"the permutation moves dim {dim}, which has to stay as it is: {fixed}",
                    where=str(self.path),
                    remedy="the file was edited, or made with other options; align again with those of this command",
                )
        self._check_maps(layout)

    def _check_maps(self, layout: Layout) -> None:
        """Refuse maps of another kind than the checkpoint's, and gains of norms that it does not have."""
        permutation = self.permutation
        if not permutation.has_maps:
            return
        from rebasin_cli.permutation.maps import wrong_map

        dim = wrong_map(layout, permutation.maps)
        here = {
            name: sum(piece.elements for piece in layout.tensors[key].pieces) for name, key in layout.gains().items()
        }
        found = {key: gains.shape[-1] for key, gains in permutation.gains.items()}
        passed = any(layout.dims[d].rotated in STREAMS for d in permutation.maps)
        if dim or (found != here and (found or passed)):
            what = f"map of dim {dim} is not {layout.dims[dim].rotated}" if dim else "gains are not those of the norms"
            raise ContentError(
                f"the permutation's {what}, as this checkpoint needs it",
                where=str(self.path),
                remedy="the file was edited, or made for another checkpoint; align again",
            )


def permutation_bytes(permutation: Permutation, layout: Layout, *, inputs: Mapping[str, str]) -> bytes:
    """A permutation file. `inputs` maps roles (`a`, `b`) to the sha256 of the checkpoints."""
    from rebasin_cli.checkpoints.writer import tensors_bytes

    metadata = {
        "format": FORMAT,
        "spec.name": layout.spec.name,
        "spec.sha256": layout.spec.sha256,
        "inputs": json.dumps(dict(inputs), sort_keys=True),
        "convention": "aligned[i] = b[perm[i]]; within an owner: aligned[g, i] = b[P[g], p[g, i]]",
    }
    if permutation.has_signs:
        metadata["format"] = SIGNED_FORMAT
        metadata["convention"] += "; an entry below zero, ~j = -1 - j, is unit j with its sign turned"
        metadata["spec.signs"] = layout.spec.signs_sha256
    if permutation.scales:
        metadata["format"] = SCALED_FORMAT
        metadata["convention"] += (
            "; scales:DIM, by A's places: what writes to a unit is multiplied, what reads it divided"
        )
        metadata["spec.scales"] = layout.spec.scales_sha256
    if permutation.has_maps:
        metadata["format"] = MAPPED_FORMAT
        metadata["convention"] += (
            "; map:DIM, by A's places: what writes to the units is multiplied by it, what reads them by its inverse "
            "transposed; gains:NAME: of a norm before and after, taken up by what reads it"
        )
        metadata["spec.rotations"] = layout.spec.rotations_sha256
    if layout.spec.text:
        metadata["spec.text"] = layout.spec.text
    tensors = {dim: perm.contiguous() for dim, perm in permutation.items()}
    scales = {_SCALES + dim: scale.contiguous() for dim, scale in permutation.scales.items()}
    maps = {_MAPS + dim: map_.contiguous() for dim, map_ in permutation.maps.items()}
    gains = {_GAINS + key: found.contiguous() for key, found in permutation.gains.items()}
    return tensors_bytes({**tensors, **scales, **maps, **gains}, metadata=metadata)


def save_permutation(
    path: Path, permutation: Permutation, layout: Layout, *, inputs: Mapping[str, str], force: bool = False
) -> None:
    """Write a permutation file by itself; see `permutation_bytes`."""
    check_file_target(path, force=force)
    with Outputs(force=force) as outputs:
        outputs.write(path, permutation_bytes(permutation, layout, inputs=inputs))


def load_permutation(path: Path | SavedPermutation) -> SavedPermutation:
    """Read a permutation file and check that every array is a permutation; one that was read before is what it is.

    Raises:
        ContentError: not a permutation file, or an array that is none.
    """
    if isinstance(path, SavedPermutation):
        return path
    checkpoint = open_checkpoint(path, empty=True)  # where every dim stays there is none
    sha256 = hashlib.sha256(read_bytes(path, LARGEST)).hexdigest()
    version = checkpoint.metadata.get("format", "")
    if version not in _FORMATS:
        if checkpoint.is_permutation:
            raise ContentError(
                f"{path} is a permutation file of another version, {version!r}",
                where=f"this program reads {', '.join(map(repr, _FORMATS))}",
                remedy="use the version of rebasin that wrote it, or a later one; or align again",
            )
        raise ContentError(
            f"{path} is not a permutation file",
            where=f"its metadata has format {checkpoint.metadata.get('format')!r}, expected {FORMAT!r}",
            remedy="`rebasin align A B` writes one beside the aligned checkpoint: NAME.permutation.safetensors",
        )
    load_torch()
    import torch

    from rebasin_cli.permutation.values import Permutation, units_of

    prefixes = {SCALED_FORMAT: (_SCALES,), MAPPED_FORMAT: (_SCALES, _MAPS, _GAINS)}.get(version, ())
    indices = {dim: checkpoint[dim] for dim in checkpoint if not dim.startswith(prefixes)}
    scales, maps, gains = (
        {name.removeprefix(p): checkpoint[name] for name in checkpoint if p in prefixes and name.startswith(p)}
        for p in (_SCALES, _MAPS, _GAINS)
    )
    for dim, perm in indices.items():
        wanted = torch.arange(perm.shape[-1] if perm.dim() else 0)
        is_array = perm.dtype == torch.int64 and perm.dim()
        units = units_of(perm) if is_array and version != FORMAT else perm
        if not is_array or not bool((units.sort(dim=-1).values == wanted).all()):
            raise ContentError(
                f"{path}: the array of dim {dim} {list(perm.shape)} is not a permutation",
                remedy="the file is damaged or was edited; align again",
            )
    for dim, scale in scales.items():
        fits = dim in indices and scale.shape == indices[dim].shape and scale.dtype == torch.float64
        if not fits or not bool((scale.isfinite() & (scale > 0)).all()):
            raise ContentError(
                f"{path}: the scales of dim {dim} {list(scale.shape)} are not positive numbers for its units",
                remedy="the file is damaged or was edited; align again",
            )
    for dim, map_ in maps.items():
        like = indices[dim].shape if dim in indices else map_.shape[:-1]
        fits = map_.dim() > 1 and map_.shape == (*like, *like[-1:])
        if not fits or map_.dtype != torch.float64 or not bool(torch.linalg.cond(map_).lt(LARGEST_CONDITION).all()):
            raise ContentError(
                f"{path}: the map of dim {dim} {list(map_.shape)} is no invertible matrix for its units",
                remedy="the file is damaged or was edited; align again",
            )
    for key, given in gains.items():
        is_pair = given.dim() == 2 and len(given) == 2 and given.dtype == torch.float64
        if not is_pair or not bool((given.isfinite() & (given != 0)).all()):
            raise ContentError(
                f"{path}: the gains of {key} {list(given.shape)} are not two rows of numbers other than zero",
                remedy="the file is damaged or was edited; align again",
            )
    return SavedPermutation(
        Permutation(indices, scales, maps, gains),
        checkpoint.metadata.get("spec.name", ""),
        checkpoint.metadata.get("spec.sha256", ""),
        _inputs(checkpoint.metadata.get("inputs", "{}")),
        path,
        sha256,
        checkpoint.metadata.get("spec.text", ""),
        checkpoint.metadata.get("spec.signs", ""),
        checkpoint.metadata.get("spec.scales", ""),
        checkpoint.metadata.get("spec.rotations", ""),
    )


def _inputs(text: str) -> Mapping[str, str]:
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
