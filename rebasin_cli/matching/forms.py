"""Pair forms: what putting units of B into places of A is worth, for the dims of a block.

A form over the dims (d1, …, dk) holds Σ_rest A[x1, …, xk, rest] · B[y1, …, yk, rest] for all places x and units
y. It can be taken apart along its first dim (`pair`: what is left when B's unit j sits in A's place i) and summed
along a dim whose permutation is known (`along`). `Dense` keeps all the products, `Factored` the two factors; which
is cheaper depends on sizes only, and everything else is written once for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rebasin_cli.matching.terms import Term

DENSE_LIMIT = 1 << 25
"""Entries of a dense form (128 MiB in float32): a transformer layer's 4096 × 4096 fits, 14336 × 14336 does not."""


@dataclass(frozen=True, slots=True)
class Dense:
    """All products: `gram` has shape (n1, …, nk, n1, …, nk), A's places first."""

    gram: Tensor
    order: int

    def pair(self, i: int, j: int) -> Dense:
        """The form over the remaining dims when B's unit j sits in A's place i."""
        return Dense(self.gram[i].select(self.order - 1, j), self.order - 1)

    def lead(self, position: int) -> Dense:
        """The same form with the dim at `position` first."""
        k = self.order
        return Dense(self.gram.movedim((position, k + position), (0, k)), k)

    def along(self, position: int, perm: Tensor) -> Dense:
        """The form over the other dims when the one at `position` is permuted by `perm` (n,)."""
        k = self.order
        front = self.gram.movedim((position, k + position), (0, 1))  # (n, n, ..)
        return Dense(front[torch.arange(len(perm)), perm].sum(0), k - 1)

    def matrix(self) -> Tensor:
        """The (n, n) matrix of a form over one dim."""
        return self.gram

    def value(self) -> float:
        """The number that a form over no dim is."""
        return float(self.gram)


@dataclass(frozen=True, slots=True)
class Factored:
    """The two factors: `a` and `b` of shape (n1, …, nk, rest)."""

    a: Tensor
    b: Tensor

    @property
    def order(self) -> int:
        """Number of dims."""
        return self.a.dim() - 1

    def pair(self, i: int, j: int) -> Factored:
        """The form over the remaining dims when B's unit j sits in A's place i."""
        return Factored(self.a[i], self.b[j])

    def lead(self, position: int) -> Factored:
        """The same form with the dim at `position` first."""
        return Factored(self.a.movedim(position, 0), self.b.movedim(position, 0))

    def along(self, position: int, perm: Tensor) -> Factored:
        """The form over the other dims when the one at `position` is permuted by `perm` (n,)."""
        a = self.a.movedim(position, -1)
        b = self.b.index_select(position, perm.to(self.b.device)).movedim(position, -1)
        return Factored(a.flatten(-2), b.flatten(-2))

    def matrix(self) -> Tensor:
        """The (n, n) matrix of a form over one dim."""
        return self.a @ self.b.T

    def value(self) -> float:
        """The number that a form over no dim is."""
        return float((self.a.double() * self.b.double()).sum())


Form = Dense | Factored
Forms = Mapping[tuple[str, ...], list[Form]]


def forms_of(terms: Iterable[Term]) -> dict[tuple[str, ...], list[Form]]:
    """Collect terms by the dims they are over; dense ones are added up as they come, so that their factors can go."""
    grams: dict[tuple[str, ...], Tensor] = {}
    sizes: dict[tuple[str, ...], tuple[int, ...]] = {}
    forms: dict[tuple[str, ...], list[Form]] = {}
    for term in terms:
        shape = tuple(term.a.shape[:-1])
        if len(term.sides) > 1 and prod(shape) ** 2 > DENSE_LIMIT:
            forms.setdefault(term.sides, []).append(Factored(term.a.contiguous(), term.b.contiguous()))
            continue
        sizes[term.sides] = shape
        a, b = term.a.flatten(0, -2), term.b.flatten(0, -2)  # (units, rest)
        known = grams.get(term.sides)
        grams[term.sides] = a @ b.T if known is None else known.addmm_(a, b.T)
    for sides, gram in grams.items():
        forms.setdefault(sides, []).append(Dense(gram.cpu().reshape(*sizes[sides], *sizes[sides]), len(sides)))
    return forms
