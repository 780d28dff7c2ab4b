"""Whether the symmetry that was asked for is there, and what types of tensors can hold what it makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from rebasin_cli.checkpoints.checkpoint import Checkpoint, RenamedCheckpoint
from rebasin_cli.checkpoints.header import SCALED_TYPES, SIGN_BITS
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.pipeline.layouts import Pair, SpecChoice
from rebasin_cli.spec import Layout


def check_asked(pairs: Sequence[Pair], choice: SpecChoice) -> None:
    """See that the symmetry that was asked for is there; see `check_symmetry`.

    Raises:
        UsageError: the spec gives that to no dim. ContentError: as `check_types`; or A and B are not rotated alike.
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
        ends = [
            ({dim: found.dims[dim].rotated for dim in found.rotated()}, found.gains().keys())
            for found in (pair.layout, pair.layout_b)
        ]
        if ends[0] != ends[1]:
            parted = sorted({dim.split(".")[0] for dim in ends[0][0].keys() ^ ends[1][0].keys()})
            raise ContentError(
                f"rotations act on {', '.join(parted) or 'norms'} of one checkpoint, and not of the other",
                where="; ".join(dict.fromkeys((*pair.layout.notes, *pair.layout_b.notes))),
                remedy=" ".join(("keep them in place with", *(f"--freeze {dim}" for dim in parted)))
                if parted
                else f"leave out --symmetry {choice.symmetry}",
            )
    check_types(layout, pairs[0].a, choice.symmetry)
    for pair in pairs:
        own = pair.b.source if isinstance(pair.b, RenamedCheckpoint) else pair.b
        check_types(pair.layout_b, own, choice.symmetry)


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
