"""Matches that a part of the product proves.

Cut the columns of both operands in two, and S = S₁ + S₂ with S₂[i, j] ≤ ‖a₂ᵢ‖ ‖b₂ⱼ‖ (Cauchy and Schwarz). For a
permutation π with values dᵢ = S[i, π(i)], the prices dᵢ / 2 for row i and for column π(i) prove it optimal if no
S[i, j] exceeds the sum of the two (linear programming duality). So S₁, the norms of what is left and the n values of π
are enough where

    S₁[i, j] + ‖a₂ᵢ‖ ‖b₂ⱼ‖ ≤ (dᵢ + d at j) / 2    for all i and j ≠ π(i).

Of two units that are alike S₁ needs a share of about one minus their cosine: a twentieth for fine-tuned copies of one
network, a third where B is A with as much noise again. That share of the products is made, the rest passed over once.
Halving the values makes it hold whatever the units' sizes are: (‖aᵢ‖² + ‖aⱼ‖²) / 2 is never below ‖aᵢ‖ ‖aⱼ‖.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from rebasin_cli.matching.assignment import solve_assignment
from rebasin_cli.matching.parallel import add_product

ROWS = 1024
"""From so many units on a product costs more than passing over its operands some times."""

ASKED = 128
"""Rows that are asked."""

MOST, PASSING = 0.65, 400
"""Share of the product beyond which the rest may as well be made, too, less what passing over the operands costs: a
product of so many units."""

CHANCE, SPREAD = 5.0, 20.0
"""Over the square root of the columns: the largest of n² chance products, as a cosine; and by what share more the units
that are least alike ask for."""

SKETCHED = 1024
"""Columns that tell which units belong together where a proof is not wanted yet: cosines are known to 0.03 by them."""

MARGIN = 2e-5
"""Left for rounding in every comparison, as a share of about ‖aᵢ‖ ‖bⱼ‖: many times what sums in float32 lose."""

AT_ONCE = 1 << 22
"""Entries that are compared at a time."""

Load = Callable[[int], tuple[Tensor, Tensor]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Evident:
    """An assignment that was found without all of its matrix.

    Attributes:
        columns: (n,) row i is matched with column ``columns[i]``.
        value, before: Σ_i S[i, columns[i]], and the same of the permutation that was there.
        is_proved: whether no other can be better.
    """

    columns: Tensor
    value: float
    before: float
    is_proved: bool


def worth_trying(a: Tensor, b: Tensor, total: int) -> float | None:
    """The share of the product that may be enough, 0 to 1, judged by a few columns; None if it is not worth it.

    Args:
        a, b: (n, k), a few of the operands' `total` columns: 256 tell the cosine of two units to about 0.06.
    """
    n = len(a)
    rows = torch.arange(0, n, max(1, n // ASKED), device=a.device)
    lengths = torch.linalg.vector_norm(b, dim=1).clamp_min(torch.finfo(b.dtype).tiny)
    asked = a.index_select(0, rows)
    near = (asked @ (b / lengths[:, None]).T).amax(1)
    own = torch.linalg.vector_norm(asked, dim=1)
    alive = own > 0
    if not alive.any():
        return None
    cosine = float((near[alive] / own[alive]).quantile(0.1))
    share = (1 - cosine) * (1 + SPREAD / total**0.5) + CHANCE / total**0.5
    return share if share <= MOST - PASSING / n else None


def prove(
    matrix: Tensor,
    load: Load,
    columns: Sequence[int],
    present: Tensor,
    share: float,
    executor: Executor | None = None,
) -> Evident | None:
    """Make as much of a similarity as a proof takes.

    Args:
        matrix: (n, n) zeros, on the operands' device.
        load: gives part k of the operands, (n, columns[k]) each.
        present: (n,) the permutation that is there.
        share: of the product to begin with.

    Returns:
        None if the matrix is whole: then it tells all there is.
    """
    made = _Made(matrix, load, executor)
    rest = made.match(columns, share * sum(columns), present, _lengths)
    left = sorted(rest, key=lambda part: -rest[part].each(columns[part]))
    if not left:
        return None
    while not made.proves([rest[part] for part in left]):
        # By some rows it is told how much more it takes; by all, whether it was enough.
        enough = bisect_left(
            range(1, len(left)),
            True,
            key=lambda n: made.proves([rest[part] for part in left[n:]], ASKED),
        )
        made.add(left[: enough + 1])
        left = left[enough + 1 :]
        if not left:
            return None
    return made.evident(is_proved=True)


def sketch(
    matrix: Tensor, load: Load, columns: Sequence[int], present: Tensor, executor: Executor | None = None
) -> Evident | None:
    """What `SKETCHED` columns tell, as good as certain but not proved; otherwise as `prove`."""
    made = _Made(matrix, load, executor)
    rest = made.match(columns, SKETCHED, present, lambda a, b: None)
    return made.evident(is_proved=False) if rest else None


@dataclass(frozen=True, slots=True, eq=False)
class _Lengths:
    """(n,) float64: the squared lengths of the rows of both operands of a part."""

    ours: Tensor
    theirs: Tensor

    def each(self, columns: int) -> float:
        """What a column adds to a product at most, over all rows."""
        return float((self.ours.sum() * self.theirs.sum()).sqrt()) / columns


@dataclass(slots=True)
class _Made:
    """What has been made of a product.

    Attributes:
        found: (n,) the best permutation by what was made when `match` was called.
        values: (n,) float64, what its pairs are worth in all; before: the sum for the permutation that was there.
    """

    matrix: Tensor
    load: Load
    executor: Executor | None
    found: Tensor = field(init=False)
    values: Tensor = field(init=False)
    before: float = field(init=False)

    def add(self, parts: Iterable[int]) -> None:
        """Add the products of some parts."""
        for part in parts:
            add_product(self.matrix, *self.load(part), self.executor)

    def match(
        self, columns: Sequence[int], wanted: float, present: Tensor, look: Callable[[Tensor, Tensor], T]
    ) -> dict[int, T]:
        """Make so many columns, match by them, and pass over the rest.

        Returns:
            For every part of the rest what `look` says of its operands; nothing if there is no rest.
        """
        count = min(bisect_left(list(accumulate(columns)), wanted) + 1, len(columns))
        self.add(range(count))
        if count == len(columns):
            return {}
        self.found = torch.from_numpy(solve_assignment(self.matrix).columns).to(self.matrix.device)
        present = present.to(self.matrix.device)
        pairs = [self.found] if torch.equal(self.found, present) else [self.found, present]
        values = [self.matrix.gather(1, perm[:, None])[:, 0].double() for perm in pairs]

        def pass_over(a: Tensor, b: Tensor) -> T:
            for value, perm in zip(values, pairs, strict=True):
                value += _paired(a, b, perm)
            return look(a, b)

        seen = {part: pass_over(*self.load(part)) for part in range(count, len(columns))}
        self.values, self.before = values[0], float(values[-1].sum())
        return seen

    def evident(self, *, is_proved: bool) -> Evident:
        """What was found."""
        return Evident(self.found.cpu(), float(self.values.sum()), self.before, is_proved)

    def proves(self, rest: Sequence[_Lengths], asked: int | None = None) -> bool:
        """Whether no entry of the whole matrix can exceed the prices that the values of `found` make.

        Args:
            rest: of what is not in the matrix.
            asked: look at about so many rows; None for all.
        """
        found, values = self.found, self.values
        n = len(values)
        price = values / 2
        prices = torch.empty_like(price)
        prices[found] = price
        nothing = torch.zeros_like(price)
        left = [sum(sides, nothing).sqrt() for sides in ([of.ours for of in rest], [of.theirs for of in rest])]
        whole = [side + values.clamp_min(0).sqrt() for side, values in zip(left, (price, prices), strict=True)]
        kind = self.matrix.dtype
        # bound[i, j] = S₁[i, j] + left_i left_j + margin - price_j, as one product of three columns
        ours = torch.stack([left[0], MARGIN * whole[0], torch.ones_like(price)], 1).to(kind)
        theirs = torch.stack([left[1], whole[1], -prices]).to(kind)
        price = price.to(kind)
        step = max(1, AT_ONCE // n) if asked is None else 1
        for at in range(0, n, step if asked is None else max(1, n // asked)):
            rows = slice(at, at + step)
            bound = torch.addmm(self.matrix[rows], ours[rows], theirs).scatter_(1, found[rows, None], -torch.inf)
            if not bool((bound.amax(1) <= price[rows]).all()):  # what is no number proves nothing
                return False
        return True


def _lengths(a: Tensor, b: Tensor) -> _Lengths:
    return _Lengths(_squares(a), _squares(b))


def _squares(side: Tensor) -> Tensor:
    """(n,) float64: the squared lengths of the rows."""
    if side.stride(0) < side.stride(1):  # columns lie in a row
        return torch.sum(side.T.square(), 0).double()
    lengths: Tensor = torch.linalg.vector_norm(side, dim=1)
    return lengths.double().square()


def _paired(a: Tensor, b: Tensor, perm: Tensor) -> Tensor:
    """(n,) what each row of `a` has with its row of `b`."""
    if a.stride(0) < a.stride(1):
        return torch.sum(a.T * b.T.index_select(1, perm), 0)
    return torch.sum(a * b.index_select(0, perm), 1)
