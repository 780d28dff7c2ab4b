"""Tensors that are one and must stay one: equal in B, and moved differently by the spec.

A checkpoint may hold a tied tensor under both of its names. A spec that moves them differently writes a checkpoint
that a network with the tie cannot be loaded from: whichever name it reads last wins, and the function is another.
Equal tensors are told by their first bytes, which the scan of a checkpoint sees anyway, and then by all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.tensors import hash_tensors
from rebasin_cli.errors import ContentError
from rebasin_cli.permutation.gather import permute_tensor, stored_elements
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.layouts import Pair, SpecChoice, check_symmetry
from rebasin_cli.pipeline.symmetry import unrotated
from rebasin_cli.spec import BoundTensor, Layout
from rebasin_cli.spec.binding.layout import STREAMS

_LEAST = 8
"""Elements from which on equal tensors are not so by chance."""

_DRAWN = 3

Read = Callable[[str], Tensor]
Stored = tuple[Layout, Checkpoint, Mapping[str, int]]
"""A checkpoint, the layout bound to its own names, and a digest of each tensor's first bytes, as the scan gives it."""


def any_permutation(layout: Layout) -> list[Permutation]:
    """Random ones, which two tensors must survive to be moved alike."""
    return [Permutation.random(layout, seed) for seed in range(_DRAWN)]


def without_parting_ties(
    pairs: Sequence[Pair], stored: Sequence[Stored], choice: SpecChoice, progress: Progress
) -> list[Pair]:
    """The pairs with those streams unrotated of which a norm's gains would part equal tensors, and say which.

    A head that is tied to the embedding, and stored beside it, would take up the gains of the last norm.

    Args:
        stored: the checkpoints whose equal tensors must stay equal.

    Raises:
        UsageError: nothing is left to rotate, and rotations alone were asked for.
    """
    notes: dict[str, str] = {}
    for layout, checkpoint, heads in stored:
        notes = {**_parting(layout, checkpoint, heads), **notes}
    if not notes:
        return list(pairs)
    found = unrotated(pairs, notes, notes.values())
    check_symmetry(found, choice)
    for note in notes.values():
        progress.warn(note)
    return found


def _parting(layout: Layout, checkpoint: Checkpoint, heads: Mapping[str, int]) -> dict[str, str]:
    """Rotated streams that part equal tensors as a norm's gains go into one of them: the stream → what is said."""
    streams = {dim for dim in layout.rotated() if layout.dims[dim].rotated in STREAMS}
    notes: dict[str, str] = {}
    if not streams or len(set(heads.values())) == len(heads):
        return notes
    read, drawn = stored_elements(checkpoint), any_permutation(layout)
    for keys in _beginning_alike(layout, checkpoint, heads):
        for one, two in _parted(layout, keys, read, drawn):
            if layout.norms.get(one) != layout.norms.get(two):
                for dim in streams.intersection(layout.tensors[one].dims(), layout.tensors[two].dims()):
                    notes[dim] = (
                        f"{dim} is not rotated: {one} and {two} are equal, as a tied head and its embedding are"
                    )
    return notes


def _beginning_alike(layout: Layout, checkpoint: Checkpoint, heads: Mapping[str, int]) -> Iterator[list[str]]:
    """Keys of tensors that are moved and have one type, shape and beginning."""
    groups: dict[object, list[str]] = {}
    for key, bound in layout.tensors.items():
        info = checkpoint.infos[key]
        moves = bound.section == "tensors" or (bound.section == "ignored" and bool(bound.pieces))
        if moves and info.numel >= _LEAST:
            groups.setdefault((info.dtype, info.shape, heads.get(key)), []).append(key)
    yield from groups.values()


def check_ties(
    layout: Layout,
    checkpoint: Checkpoint,
    heads: Mapping[str, int],
    drawn: Sequence[Permutation],
    *,
    again: bool = False,
) -> None:
    """See that equal tensors stay equal.

    Args:
        layout: bound to the checkpoint's own names.
        heads: a digest of each tensor's first bytes, as the scan gives it.
        drawn: permutations under which they must; `again`: they were found by another run.

    Raises:
        ContentError: naming two that would not.
    """
    read = stored_elements(checkpoint)
    for keys in _beginning_alike(layout, checkpoint, heads):
        for one, two in _parted(layout, keys, read, drawn):
            raise _refusal(layout, checkpoint, one, two, read, drawn, again=again)


def _parted(layout: Layout, keys: Sequence[str], read: Read, drawn: Sequence[Permutation]) -> Iterator[tuple[str, str]]:
    """Pairs of keys of equal tensors that the permutations move differently."""
    ways = {key: _way(layout.tensors[key], layout) for key in keys}
    if len(set(ways.values())) < 2:  # those that move in one way stay equal whatever they hold
        return
    equal: dict[str, dict[object, str]] = {}
    for key in keys:
        tensor = read(key)
        if not _constant(tensor):
            equal.setdefault(hash_tensors({"": tensor}), {}).setdefault(ways[key], key)
    for first, *others in (list(found.values()) for found in equal.values()):
        yield from ((first, other) for other in others if not _alike(layout, first, other, read, drawn))


def _way(bound: BoundTensor, layout: Layout) -> object:
    """How a tensor moves, as far as its layout tells."""
    moving = layout.moving()
    if not any(dim in moving for dim in bound.dims()):
        return ()
    return (
        bound.pieces,
        layout.norms.get(bound.key),
        (bound.index_dim, bound.place) if bound.index_dim in moving else None,
    )


def _alike(layout: Layout, one: str, two: str, read: Read, drawn: Sequence[Permutation]) -> bool:
    return all(
        torch.equal(permute_tensor(p, layout, one, read), permute_tensor(p, layout, two, read)) for p in drawn
    )  # fmt: skip


def _constant(tensor: Tensor) -> bool:
    """Whether all elements are one value: fresh norms and biases are equal without being tied."""
    flat = tensor.flatten()
    return bool((flat == flat[0]).all())


def _refusal(
    layout: Layout, checkpoint: Checkpoint, one: str, two: str, read: Read, drawn: Sequence[Permutation], *, again: bool
) -> ContentError:
    first, second = layout.tensors[one], layout.tensors[two]
    sides = [{dim for dim in bound.dims() if dim in layout.moving()} for bound in (first, second)]
    frozen = sorted(sides[0] ^ sides[1])
    left = [p.only([dim for dim in p if dim not in frozen]) for p in drawn]
    if not frozen or not _alike(layout, one, two, read, left):
        frozen = sorted(sides[0] | sides[1])
    freeze = " ".join(f"--freeze {dim}" for dim in frozen)
    spec = layout.spec
    patterns = ", ".join(f"{bound.key}: {bound.pattern} ({spec.at(bound.line)})" for bound in (first, second))
    return ContentError(
        f"{one} and {two} are equal, as one tensor under two names is, and the spec `{spec.name}` does not move them "
        "alike",
        where=f"{checkpoint.path}; {patterns}",
        remedy=f"{'align again and ' if again else ''}keep them in place with {freeze}, or name a spec with "
        "--arch that moves both alike",
    )
