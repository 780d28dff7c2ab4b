"""How the pieces of tensors contribute to a block: products that fit a cache, and what pairs of units are worth.

A form over the dims (d1, …, dk) holds Σ_rest A[x1, …, xk, rest] · B[y1, …, yk, rest] for all places x and units
y. `Dense` keeps all the products, for a whole batch of such forms at once; `Factored` keeps the two factors of one
form that would be too large, and gives the products of some pairs of its first dim at a time (`pairs`, `paired`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from rebasin_cli.matching.objective import paired_sum
from rebasin_cli.matching.similarity.blocks import Block, Over, Term, block_keys, selections
from rebasin_cli.permutation.gather import flat_places, owner_sides, piece_view
from rebasin_cli.permutation.values import turned_where, units_of, with_turns
from rebasin_cli.spec import INDEX_SIDE, BoundTensor, Layout, Piece, Side


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How one piece contributes: the sides to solve for, the sides that move with other dims, and the rest.

    Attributes:
        number: which of the tensor's pieces it is.
        units: positions of the block's own sides, owners first: rows and columns of the matrix run over their product.
        others: positions of the sides that move with other dims, and of their owners, in order.
        frame: the piece made of `others` alone, row-major: what gathers their flat places.
        neighbours: the other dims that it depends on.
        work: multiply-adds for each entry of the matrix.
        over: the dims of `units`: plans of the same add up to one matrix.
    """

    bound: BoundTensor
    number: int
    units: tuple[int, ...]
    others: tuple[int, ...]
    frame: Piece
    neighbours: tuple[str, ...]
    work: int
    over: Over

    @property
    def piece(self) -> Piece:
        """The piece itself."""
        return self.bound.pieces[self.number]

    @property
    def solved(self) -> int:
        """Position of the side of a block of one dim."""
        return self.units[0]

    @property
    def dims(self) -> tuple[str, ...]:
        """The dims of `units`."""
        return self.over.dims

    @property
    def size(self) -> int:
        """Rows of the matrix."""
        return prod(self.piece.sides[at].size for at in self.units)

    def operand(self, tensor: Tensor) -> Tensor:
        """The tensor's piece, shape (n, places of `others`, rest): a view where the strides allow it."""
        view = piece_view(tensor.contiguous(), self.piece)
        rest = [at for at in range(view.dim()) if at not in self.units and at not in self.others]
        places = prod(self.piece.sides[at].size for at in self.others)
        return view.permute(*self.units, *self.others, *rest).reshape(self.size, places, -1)

    def places(self, permutation: Mapping[str, Tensor]) -> Tensor | None:
        """For every flat place of `others` in A, its place in B, signed; None if there are none."""
        return flat_places(self.frame, permutation, self.bound.place) if self.others else None


def permutes_keys(layout: Layout, block: Block) -> bool:
    """Whether a dim of the block acts on the keys of tensors (experts): those are no pieces with sides of their own."""
    return any(layout.tensors[key].index_dim in block.dims for dim in block.dims for key in layout.users[dim])


def plans_of(layout: Layout, block: Block, moving: Collection[str]) -> list[Plan]:
    """The plans of a block, one for each way in which a piece is linear in it (see `selections`)."""
    plans: list[Plan] = []
    for key in block_keys(layout, block):
        bound = layout.tensors[key]
        for number, piece in enumerate(bound.pieces):
            for units, _ in selections(piece, block):
                others = _moving_sides(piece, units, moving)
                dims = [str(piece.sides[at].dim) for at in others]
                neighbours = (*dims, bound.index_dim) if bound.index_dim else tuple(dims)
                work = prod(side.size for at, side in enumerate(piece.sides) if at not in units)
                over = Over.of(layout, piece, units)
                plans.append(Plan(bound, number, units, others, _frame(piece, others), neighbours, work, over))
    return plans


def _moving_sides(piece: Piece, units: tuple[int, ...], moving: Collection[str]) -> tuple[int, ...]:
    """Sides of other moving dims, and of their owners, whose units say which inner permutation holds."""
    found = {at for at, side in enumerate(piece.sides) if at not in units and side.dim in moving}
    found |= {owner for at in found for owner in owner_sides(piece, at) if owner != INDEX_SIDE}
    return tuple(sorted(found))


def _frame(piece: Piece, others: tuple[int, ...]) -> Piece:
    sides: list[Side] = []
    stride = prod(piece.sides[at].size for at in others)
    for at in others:
        side = piece.sides[at]
        stride //= side.size
        owner = side.owner
        if owner is not None and owner != INDEX_SIDE:
            owner = others.index(owner)
        sides.append(replace(side, stride=stride, owner=owner))
    return Piece(0, tuple(sides))


CACHED = 1 << 20
"""Elements of an operand worked on at a time, so that what was gathered is still in a cache when it is multiplied."""


def chunks(
    x: Tensor, y: Tensor, at: Tensor | None, to: Tensor | None, dtype: torch.dtype, *, less: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Two operands (n, places, rest) in parts (n, k), whose products with one another add up.

    A part is a run of places, or of the rest where it is all in one place. It fits a cache, but has not too few
    columns, for each product passes over n² sums.

    Args:
        at, to: places of x, and the places of y that go with them, signed; None for all as they are.
        less: places of y that are taken off those at `to`.
    """
    n, places, rest = x.shape
    columns = max(CACHED // n, n // 4, 512)
    if places == 1 and to is None:
        for start in range(0, rest, columns):
            cut = slice(start, start + columns)
            yield flat(x[:, :, cut], dtype), flat(y[:, :, cut], dtype)
        return
    length, step = places if at is None else len(at), max(1, columns // rest)
    for cut in (slice(start, min(start + step, length)) for start in range(0, length, step)):
        two = _taken(y, to, cut, dtype)
        yield _taken(x, at, cut, dtype), two if less is None else two - _taken(y, less, cut, dtype)


def flat(operand: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, places, rest) as a matrix (n, places · rest)."""
    return operand.to(dtype).flatten(1)


def _taken(operand: Tensor, places: Tensor | None, cut: slice, dtype: torch.dtype) -> Tensor:
    """Part of the operand's places as a matrix, copied in the order in which they lie in memory."""
    if places is None:
        return flat(operand[:, cut], dtype)
    there = places[cut]
    turned = there < 0
    signed = bool(turned.any())
    units = units_of(there) if signed else there
    if operand.stride(1) > operand.stride(0):
        chosen = operand.transpose(0, 1).index_select(0, units).transpose(0, 1)
    else:
        chosen = operand.index_select(1, units)
    chosen = chosen.to(dtype)
    return (torch.where(turned[:, None], -chosen, chosen) if signed else chosen).flatten(1)


DENSE_LIMIT = 1 << 25
"""Entries of a dense form (128 MiB in float32): a transformer layer's 4096 × 4096 fits, 14336 × 14336 does not."""


@dataclass(frozen=True, slots=True)
class Dense:
    """All products of a batch of forms: `gram` has shape (batch, n1, …, nk, n1, …, nk), A's places first.

    `still` are the dims with signs that do not act on it.
    """

    gram: Tensor
    still: frozenset[str] = frozenset()

    @property
    def order(self) -> int:
        """Number of dims."""
        return (self.gram.dim() - 1) // 2

    @property
    def size(self) -> int:
        """Number of units of the first dim."""
        return self.gram.shape[1]

    def pairs(self, rows: slice, columns: slice) -> Dense:
        """The forms over the other dims with B's unit j in A's place i, for every i of `rows` and j of `columns`.

        They are one batch, in the order (batch, i, j).
        """
        chosen = self.gram.movedim(1 + self.order, 2)[:, rows, columns]  # (batch, i, j, ..)
        return replace(self, gram=chosen.flatten(0, 2))

    def paired(self, perm: Tensor) -> Dense:
        """The forms over the other dims with B's unit perm[i] in A's place i; perm (batch, n); order (batch, i)."""
        return replace(self, gram=self._along(0, perm).flatten(0, 1))

    def along(self, position: int, perm: Tensor) -> Dense:
        """The forms over the other dims when the one at `position` is permuted by `perm` (batch, n)."""
        return replace(self, gram=self._along(position, perm).sum(1))

    def lead(self, position: int) -> Dense:
        """The same forms with the dim at `position` first."""
        gram = self.gram.movedim((1 + position, 1 + position + self.order), (1, 1 + self.order))
        return replace(self, gram=gram)

    def _along(self, position: int, perm: Tensor) -> Tensor:
        """What stands at (i, ±perm[i]) of the dim at `position`, shape (batch, n, ..)."""
        front = self.gram.movedim((1 + position, 1 + position + self.order), (1, 2))  # (batch, n, n, ..)
        batch, n = perm.shape
        chosen = front[torch.arange(batch)[:, None], torch.arange(n), units_of(perm)]
        return turned_where(chosen, (perm < 0).reshape(batch, n, *(1,) * (chosen.dim() - 2)), torch.neg)


@dataclass(frozen=True, slots=True)
class Factored:
    """The two factors of one form: `a` and `b` of shape (n1, …, nk, rest); `still` as of `Dense`."""

    a: Tensor
    b: Tensor
    still: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Number of units of the first dim."""
        return self.a.shape[0]

    def pairs(self, rows: slice, columns: slice) -> Dense:
        """As of `Dense`: one matrix product for all pairs."""
        a, b = self.a[rows], self.b[columns]
        gram = a.flatten(0, -2) @ b.flatten(0, -2).T
        form = Dense(gram.cpu().reshape(1, *a.shape[:-1], *b.shape[:-1]), self.still)
        return form.pairs(slice(None), slice(None))

    def paired(self, perm: Tensor) -> Dense:
        """As of `Dense`."""
        inner = self.a.shape[1:-1]
        moved = self.b[perm[0].to(self.b.device)]
        gram = self.a.flatten(1, -2) @ moved.flatten(1, -2).mT  # (n, inner, inner)
        return Dense(gram.cpu().reshape(-1, *inner, *inner), self.still)


Form = Dense | Factored
Forms = Mapping[tuple[str, ...], list[Form]]


def forms_of(terms: Iterable[Term]) -> dict[tuple[str, ...], list[Form]]:
    """Collect terms by the dims they are over; dense ones are added up as they come, so that their factors can go."""
    grams: dict[Over, Tensor] = {}
    sizes: dict[Over, tuple[int, ...]] = {}
    forms: dict[tuple[str, ...], list[Form]] = {}
    for term in terms:
        shape = tuple(term.a.shape[:-1])
        over = term.over
        if len(over.dims) > 1 and prod(shape) ** 2 > DENSE_LIMIT:
            factors = Factored(term.a.contiguous(), term.b.contiguous(), over.still)
            forms.setdefault(over.dims, []).append(factors)
            continue
        sizes[over] = shape
        a, b = term.a.flatten(0, -2), term.b.flatten(0, -2)  # (units, rest)
        known = grams.get(over)
        grams[over] = a @ b.T if known is None else known.addmm_(a, b.T)
    for over, gram in grams.items():
        dense = Dense(gram.cpu().reshape(1, *sizes[over], *sizes[over]), over.still)
        forms.setdefault(over.dims, []).append(dense)
    return forms


@dataclass(frozen=True, slots=True)
class Worth:
    """What B's units are worth in A's places, where a unit's sign may be turned.

    With all else held, unit j in place i adds P[i, j] ± T[i, j]: P from the tensors on which its sign does not act, T
    from the others. The better sign gives P + |T|, so that an assignment of that is the best signed permutation. A
    batch (.., n, n) of both; `plain` alone where no sign may be turned.

    Attributes:
        plain: what a unit adds whatever its sign; turning: what it adds, or takes away where its sign is turned.
    """

    plain: Tensor | None
    turning: Tensor | None = None

    @staticmethod
    def of(found: Sequence[Form], dim: str, *, signed: bool) -> Worth:
        """Of dense forms over one dim."""
        turning = [form for form in found if signed and dim not in form.still]
        plain = [form for form in found if not signed or dim in form.still]
        return Worth(_total(plain), _total(turning))

    def best(self) -> Tensor:
        """What each unit is worth with the better sign."""
        if self.turning is None:
            assert self.plain is not None
            return self.plain
        return self.turning.abs() if self.plain is None else self.plain + self.turning.abs()

    def signed(self, units: Tensor) -> Tensor:
        """Units (.., n) in their places, each with the better sign; as it is where both are as good."""
        if self.turning is None:
            return units
        chosen = self.turning.gather(-1, units.to(self.turning.device)[..., None])[..., 0]
        return with_turns(units, (chosen < 0).to(units.device))

    def total(self, perm: Tensor) -> Tensor:
        """What signed units (.., n) are worth together, in float64."""
        parts = [] if self.plain is None else [paired_sum(self.plain, units_of(perm))]
        parts += [] if self.turning is None else [paired_sum(self.turning, perm)]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _total(found: Sequence[Form]) -> Tensor | None:
    grams = [form.gram for form in found if isinstance(form, Dense)]
    return None if not grams else grams[0] if len(grams) == 1 else torch.stack(grams).sum(0)
