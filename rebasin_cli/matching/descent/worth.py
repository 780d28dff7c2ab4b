"""What B's units are worth in A's places, where a unit's sign may be turned.

With all else held, unit j in place i adds P[i, j] ± T[i, j]: P from the tensors on which its sign does not act, T from
the others. The better sign gives P + |T|, so that an assignment of that is the best signed permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching.objective import paired_sum
from rebasin_cli.matching.similarity.pair_forms import Dense, Form
from rebasin_cli.permutation.signed import units_of, with_turns


@dataclass(frozen=True, slots=True)
class Worth:
    """A batch (.., n, n) of both; `plain` alone where no sign may be turned.

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
