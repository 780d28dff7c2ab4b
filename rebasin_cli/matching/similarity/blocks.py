"""What the tensors say about one block: for each piece in which its dims stand, A and B with the rest aligned.

A *block* is a dim without an owner together with everything within it; its dims are solved together, all other
dims held at their present permutations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching.objective import dot
from rebasin_cli.matching.problem import Problem
from rebasin_cli.permutation.gather import gather_piece, owner_sides, piece_view, source_key
from rebasin_cli.spec import INDEX_SIDE, BoundTensor, Layout, Piece


@dataclass(frozen=True, slots=True)
class Block:
    """A root dim and all dims within it (owners first)."""

    root: str
    dims: tuple[str, ...]

    @staticmethod
    def of(layout: Layout, root: str) -> Block:
        """The block of a dim that has no owner."""
        return Block(root, tuple(dim for dim in layout.dims if layout.root(dim) == root))


@dataclass(frozen=True, slots=True)
class Over:
    """What a similarity is over.

    Attributes:
        dims: dims of one block that stand together on a piece, owners first.
        still: those of them with signs that do not act there.
    """

    dims: tuple[str, ...]
    still: frozenset[str] = frozenset()

    @staticmethod
    def of(layout: Layout, piece: Piece, selected: Sequence[int], *before: str) -> Over:
        """Over some sides of a piece, and dims `before` them that are none of its sides."""
        sides = [piece.sides[at] for at in selected]
        still = frozenset(str(side.dim) for side in sides if side.still and layout.dims[str(side.dim)].signs)
        return Over((*before, *(str(side.dim) for side in sides)), still)


@dataclass(frozen=True, slots=True)
class Term:
    """One piece as the block sees it.

    Attributes:
        over: dims of the block, owners before what is within them.
        a, b: shape (*sizes of the sides, rest); every other dim of `b` is gathered by its present permutation.

    A dim of the block that stands in the piece a second time is held at its present permutation there. Such a term is
    the gradient of a quadratic: what it promises has to be checked.
    """

    over: Over
    a: Tensor
    b: Tensor


def blocks(layout: Layout) -> tuple[Block, ...]:
    """Every block with something to move and a tensor to say where, in order of first appearance in the spec.

    Of dims that stand in buffers alone nothing is known: they stay as they are.
    """
    roots = dict.fromkeys(layout.root(dim) for dim in layout.moving())
    found = (Block.of(layout, root) for root in roots)
    return tuple(block for block in found if block_keys(layout, block))


def neighbours_of(layout: Layout, found: Sequence[Block]) -> dict[str, set[str]]:
    """For each block the others that share a tensor of the objective with it."""
    roots = {dim: block.root for block in found for dim in block.dims}
    neighbours: dict[str, set[str]] = {block.root: set() for block in found}
    for bound in layout.tensors.values():
        if bound.section == "tensors":
            here = {roots[dim] for dim in bound.dims() if dim in roots}
            for root in here:
                neighbours[root] |= here - {root}
    return neighbours


def block_keys(layout: Layout, block: Block) -> tuple[str, ...]:
    """Tensors of the objective in which the block's dims stand; of siblings that a dim permutes, the first."""
    keys: dict[str, None] = {}
    for dim in block.dims:
        for key in layout.users[dim]:
            bound = layout.tensors[key]
            if bound.section != "tensors":
                continue
            if bound.index_dim in block.dims:
                key = bound.siblings[0]
            keys[key] = None
    return tuple(keys)


def block_terms(
    problem: Problem,
    block: Block,
    permutation: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device,
    held: bool = True,
) -> Iterator[Term]:
    """Yield the block's terms, one tensor at a time, so that a caller who drops them needs little memory.

    Args:
        held: with those in which a dim of the block is held.
    """
    layout, a, b = problem.layout, problem.a, problem.b
    for key in block_keys(layout, block):
        bound = layout.tensors[key]
        if bound.index_dim in block.dims:
            yield from _indexed_terms(problem, block, bound, permutation, dtype=dtype, device=device)
            continue
        tensor_a = a[key].to(device=device, dtype=dtype).contiguous()
        tensor_b = b[source_key(permutation, bound)].to(device=device, dtype=dtype).contiguous()
        for piece in bound.pieces:
            view_a, view_b = piece_view(tensor_a, piece), piece_view(tensor_b, piece)
            for selected, is_held in selections(piece, block):
                if is_held and not held:
                    continue
                moved = gather_piece(view_b, piece, permutation, bound.place, skip=selected)
                over = Over.of(layout, piece, selected)
                yield Term(over, _front(view_a, selected), _front(moved, selected))


def product_of_pieces(
    problem: Problem, permutation: Mapping[str, Tensor], leave_out: Collection[tuple[str, int]]
) -> float:
    """⟨A, π(B)⟩ over the objective's pieces but those of `leave_out` (key, number of the piece), in float64."""
    total = 0.0
    a, b = problem.a, problem.b
    for key, bound in problem.layout.tensors.items():
        numbers = [at for at in range(len(bound.pieces)) if (key, at) not in leave_out]
        if bound.section != "tensors" or not numbers:
            continue
        tensor_a, tensor_b = a[key].contiguous(), b[source_key(permutation, bound)].contiguous()
        for number in numbers:
            piece = bound.pieces[number]
            moved = gather_piece(piece_view(tensor_b, piece), piece, permutation, bound.place)
            total += dot(piece_view(tensor_a, piece), moved)
    return total


def two_sided_terms(
    problem: Problem, block: Block, permutation: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """For every piece in which the block's one dim stands twice: A and B in float64, shape (rest, n, n)."""
    layout, a, b = problem.layout, problem.a, problem.b
    for key in block_keys(layout, block):
        bound = layout.tensors[key]
        for piece in bound.pieces:
            ours = [at for at, side in enumerate(piece.sides) if side.dim == block.root]
            if len(ours) != 2:
                continue
            view_a = piece_view(a[key].double().contiguous(), piece)
            view_b = piece_view(b[source_key(permutation, bound)].double().contiguous(), piece)
            moved = gather_piece(view_b, piece, permutation, bound.place, skip=ours)
            one, two = (_front(v, tuple(ours)).movedim(-1, 0) for v in (view_a, moved))
            yield one, two


def selections(piece: Piece, block: Block) -> list[tuple[tuple[int, ...], bool]]:
    """Ways to look at a piece as linear in the block: positions of the sides to solve for, owners first.

    There is one, unless a dim of the block stands in the piece twice: then there is one for each appearance,
    the others being held at the present permutation.
    """
    ours = [at for at, side in enumerate(piece.sides) if side.dim in block.dims]
    if not ours:
        return []
    depth = {at: len(owner_sides(piece, at)) for at in ours}
    names = [piece.sides[at].dim for at in ours]
    if len(set(names)) == len(names):
        return [(tuple(sorted(ours, key=lambda at: depth[at])), False)]
    found: list[tuple[tuple[int, ...], bool]] = []
    roots = [at for at in ours if depth[at] == min(depth.values())]
    for root in roots:
        chosen: dict[str | None, int] = {piece.sides[root].dim: root}
        for at in sorted(ours, key=lambda at: depth[at]):
            if at != root and root in owner_sides(piece, at):
                chosen.setdefault(piece.sides[at].dim, at)
        found.append((tuple(chosen.values()), True))
    return found


def _front(view: Tensor, selected: tuple[int, ...]) -> Tensor:
    """The selected sides first, everything else flattened behind them."""
    rest = [at for at in range(view.dim()) if at not in selected]
    moved = view.permute(*selected, *rest)
    return moved.reshape(*moved.shape[: len(selected)], -1)  # (*sides, rest)


def _indexed_terms(
    problem: Problem,
    block: Block,
    bound: BoundTensor,
    permutation: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[Term]:
    """Terms of tensors whose keys the block permutes: the siblings stacked become the leading side."""
    layout, a, b = problem.layout, problem.a, problem.b
    assert bound.index_dim is not None
    for number, piece in enumerate(bound.pieces):
        stack_a, stack_b = [], []
        selected = _inner_selection(piece, block)
        for key in bound.siblings:
            sibling = layout.tensors[key]
            own = sibling.pieces[number]
            view_a = piece_view(a[key].to(device=device, dtype=dtype).contiguous(), own)
            view_b = piece_view(b[key].to(device=device, dtype=dtype).contiguous(), own)
            moved = gather_piece(view_b, own, permutation, sibling.place, skip=selected)
            stack_a.append(_front(view_a, selected))
            stack_b.append(_front(moved, selected))
        yield Term(Over.of(layout, piece, selected, bound.index_dim), torch.stack(stack_a), torch.stack(stack_b))


def _inner_selection(piece: Piece, block: Block) -> tuple[int, ...]:
    ours = [at for at, side in enumerate(piece.sides) if side.dim in block.dims]
    return tuple(sorted(ours, key=lambda at: INDEX_SIDE not in owner_sides(piece, at)))
