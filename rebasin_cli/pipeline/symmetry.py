"""Whether the symmetry that was asked for is there, and what types of tensors can hold what it makes of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from rebasin_cli.checkpoints.checkpoint import Checkpoint, RenamedCheckpoint
from rebasin_cli.checkpoints.header import SCALED_TYPES, SIGN_BITS
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.pipeline.layouts import Pair, SpecChoice
from rebasin_cli.safe_text import listed
from rebasin_cli.spec import Layout


def check_asked(pairs: Sequence[Pair], choice: SpecChoice) -> None:
    """See that the symmetry that was asked for is there; see `check_symmetry`.

    Raises:
        UsageError: the spec gives that to no dim. ContentError: as `check_types`; or norms of A and B differ.
    """
    layout = pairs[0].layout
    kinds = {"signs": layout.signed(), "scales": layout.scaled(), "rotations": layout.rotated()}
    wanted = list(kinds) if choice.symmetry == "all" else [kind for kind in kinds if kind == choice.symmetry]
    if choice.symmetry == "rotations" and not kinds["rotations"]:
        raise _without_rotations(layout)
    if wanted and not any(kinds[kind] for kind in wanted):
        what = " or ".join(wanted)
        raise UsageError(
            f"--symmetry {choice.symmetry}: the spec `{layout.spec.name}` gives {what} to no dim that may move here",
            remedy=f"leave it out; architectures/README.md says how a spec gives a dim {what}",
        )
    for pair in pairs:
        alone = sorted(pair.layout.gains().keys() ^ pair.layout_b.gains().keys())
        if alone:
            raise ContentError(
                f"rotations pass norms of one checkpoint that the other does not have: {listed(alone, 'gain')}",
                where="; ".join(dict.fromkeys((*pair.layout.notes, *pair.layout_b.notes))),
                remedy=f"leave out --symmetry {choice.symmetry}",
            )
    check_types(layout, pairs[0].a, choice.symmetry)
    for pair in pairs:
        own = pair.b.source if isinstance(pair.b, RenamedCheckpoint) else pair.b
        check_types(pair.layout_b, own, choice.symmetry)


def rotated_alike(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with those dims alone rotated that can be in all models, and notes of the others."""
    every = [layout for pair in pairs for layout in (pair.layout, pair.layout_b)]
    sets = [set(layout.rotated()) for layout in every]
    apart = [
        dim for dim in every[0].dims if any(dim in found for found in sets) and not all(dim in found for found in sets)
    ]
    if not apart:
        return list(pairs)
    told = dict.fromkeys(note for layout in every for note in layout.notes)
    new = [
        f"{dim} is not rotated: it can be in some of the checkpoints alone"
        for dim in apart
        if not any(note.startswith(f"{dim} is not rotated") for note in told)
    ]
    return unrotated(pairs, apart, new)


def unrotated(pairs: Sequence[Pair], dims: Collection[str], notes: Collection[str]) -> list[Pair]:
    """The pairs in which no map may act on some dims, and notes of why."""

    def kept(layout: Layout) -> Layout:
        return replace(layout.without_rotations(dims), notes=(*layout.notes, *notes))

    return [replace(pair, layout=kept(pair.layout), layout_b=kept(pair.layout_b)) for pair in pairs]


def check_types(layout: Layout, checkpoint: Checkpoint, symmetry: str) -> None:
    """Refuse a checkpoint with tensors whose units cannot be turned, scaled or rotated as the layout wants.

    Raises:
        ContentError: naming one, and its type.
    """
    signed, scaled, rotated = set(layout.signed()), set(layout.scaled()), set(layout.rotated())
    for key, bound in layout.tensors.items() if signed or scaled or rotated else ():
        sides = [side for piece in bound.pieces for side in piece.sides]
        acts = any(side.dim in signed and not side.still for side in sides)
        dtype = checkpoint.infos[key].dtype
        multiplied = any(side.dim in rotated or (side.dim in scaled and side.power) for side in sides)
        if dtype not in SCALED_TYPES and multiplied:
            what = "rotat" if any(side.dim in rotated for side in sides) else "scal"
            raise ContentError(
                f"{key} is of type {dtype}, which holds no {what}ed values",
                where=f"{checkpoint.path}; {what}{'ions' if what == 'rotat' else 'es'} act on it by "
                f"{layout.spec.at(bound.line)}",
                remedy="convert it to one of " + ", ".join(SCALED_TYPES) + f", or leave out --symmetry {symmetry}",
            )
        if acts and dtype not in SIGN_BITS:
            raise ContentError(
                f"{key} is of type {dtype}, whose elements have no sign bit that could be turned",
                where=f"{checkpoint.path}; signs act on it by {layout.spec.at(bound.line)}",
                remedy="convert it to one of " + ", ".join(SIGN_BITS) + f", or leave out --symmetry {symmetry}",
            )


def _without_rotations(layout: Layout) -> UsageError:
    """What is said where rotations were asked for and there are none."""
    return UsageError(
        f"--symmetry rotations: the spec `{layout.spec.name}` rotates no dim that may move here",
        where="; ".join(layout.notes),
        remedy="leave it out; docs/families.md tells which specs have rotations, and architectures/README.md how",
    )
