"""Steps for a dim that stands on two sides of one tensor (an LSTM's hidden-to-hidden matrix, `x + W x`).

Its objective is quadratic, f(P) = Σ_i L[i, P_i] + Σ_r ⟨A_r, P B_r Pᵀ⟩, so the assignment of the linearised
similarity is a proposal that usually *lowers* it (samuela/git-re-basin#8 is this case). A step is taken only where
f rises: the linearised one, its cycles one by one, a Frank-Wolfe path with exact steps (C2M3,
arXiv:2405.17897, on one dim), swaps of two units, and turned signs of single units where P is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rebasin_cli.permutation.values import signs_of, taken, units_of, with_turns

MAX_FRANK_WOLFE = 30
MAX_ROUNDS = 50

KEPT = 1 << 22
"""Elements of gradients that are kept while a dim is solved (32 MiB)."""

Assign = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Quadratic:
    """f(P) = Σ_i L[i, P_i] + Σ_r ⟨A_r, P B_r Pᵀ⟩ in float64; `linear` (n, n), `a` and `b` (rest, n, n).

    `signed`: whether signs may be turned.
    """

    linear: Tensor
    a: Tensor
    b: Tensor
    signed: bool = False
    _both_ways: tuple[Tensor, ...] = ()
    _gradients: dict[bytes, Tensor] = field(default_factory=dict)
    _values: dict[bytes, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self._both_ways:
            return
        one, two = (torch.cat((tensor, tensor.mT)) for tensor in (self.a, self.b))  # (2 rest, n, n)
        a = one.permute(1, 2, 0).flatten(1)  # (n, n · 2 rest)
        b = two.permute(2, 0, 1).contiguous()  # (n, 2 rest, n)
        object.__setattr__(self, "_both_ways", (a, b))

    def beside(self, linear: Tensor) -> Quadratic:
        """The same pairs beside another linear part."""
        return Quadratic(linear, self.a, self.b, self.signed, self._both_ways)

    def at(self, perm: Tensor) -> tuple[Tensor, Tensor]:
        """`linear` and `b` with B's units in the order of a permutation (n,)."""
        return self._taken(self.linear, 1, perm), self._taken(self._taken(self.b, 1, perm), 2, perm)

    def _taken(self, view: Tensor, axis: int, perm: Tensor) -> Tensor:
        return taken(view, axis, perm) if self.signed else view.index_select(axis, perm)

    def value(self, perm: Tensor) -> float:
        """f at a permutation (n,)."""
        key = perm.numpy().tobytes()
        if key not in self._values:
            linear, b = self.at(perm)
            self._values[key] = float(linear.diagonal().sum() + (self.a * b).sum())
        return self._values[key]

    def gradient(self, perm: Tensor) -> Tensor:
        """∇f at a permutation (n,), (n, n): L + Σ_r A_r P B_rᵀ + A_rᵀ P B_r as one product. It is linear in P.

        Not to be modified: Frank-Wolfe comes back to the same few permutations again and again.
        """
        key = perm.numpy().tobytes()
        if (known := self._gradients.get(key)) is not None:
            return known
        a, b = self._both_ways
        found = torch.addmm(self.linear, a, self._taken(b, 0, perm).flatten(0, 1))
        if (len(self._gradients) + 1) * found.numel() <= KEPT:
            self._gradients[key] = found
        return found


def improve(quadratic: Quadratic, present: Tensor, assign: Assign) -> tuple[Tensor, float]:
    """A permutation with a larger value, and by how much; the present one and 0.0 if none was found."""
    start = best = quadratic.value(present)
    perm = present
    for _ in range(MAX_ROUNDS):
        gradient = quadratic.gradient(perm)
        full = assign(gradient)
        found, value = perm, best
        if not torch.equal(full, perm):
            linearised = _linearised(quadratic, perm, full, best)
            through = _frank_wolfe(quadratic, perm, gradient, full, assign)
            found, value = _best(quadratic, (linearised, through), perm, best)
        if value <= best:  # the last resort: one at a time, they are the slowest
            steps = (_swaps, _turns) if quadratic.signed else (_swaps,)
            found, value = _best(quadratic, (step(quadratic, perm) for step in steps), perm, best)
        if value <= best + 1e-9 * abs(best):
            break
        perm, best = found, value
    return perm, best - start


def _best(quadratic: Quadratic, candidates: Iterable[Tensor], perm: Tensor, value: float) -> tuple[Tensor, float]:
    """The first of the best of some permutations and of one whose value is known."""
    for candidate in candidates:
        if candidate is not perm and (reached := quadratic.value(candidate)) > value:
            perm, value = candidate, reached
    return perm, value


def _linearised(quadratic: Quadratic, perm: Tensor, full: Tensor, best: float) -> Tensor:
    """The assignment of the gradient if f rises, otherwise those of its cycles that raise f."""
    if quadratic.value(full) > best:
        return full
    current = perm
    for cycle in _cycles(perm, full):
        trial = current.clone()
        trial[cycle] = full[cycle]
        value = quadratic.value(trial)
        if value > best:
            current, best = trial, value
    return current


def _frank_wolfe(quadratic: Quadratic, perm: Tensor, gradient: Tensor, corner: Tensor, assign: Assign) -> Tensor:
    """Rounded from where Frank-Wolfe with exact steps comes to rest; ∇f is linear, so that it is known at every mixture
    of corners whose own is. It begins at a permutation, with its gradient and what that points at."""
    x, gradient = _added(torch.zeros_like(gradient), perm), gradient.clone()
    vertex: Tensor | None = perm  # where x is one
    for iteration in range(MAX_FRANK_WOLFE):
        corner = assign(gradient) if iteration else corner
        direction = _added(x.neg(), corner)
        slope = float((gradient * direction).sum())
        if slope <= 1e-12 * float(gradient.abs().sum()):
            break
        there = quadratic.gradient(corner)
        bend = 0.5 * float(((there - gradient) * direction).sum())
        step = 1.0 if bend >= 0 else min(1.0, -slope / (2 * bend))
        x += step * direction
        gradient.lerp_(there, step)
        vertex = corner if step == 1.0 else None
    return assign(x) if vertex is None else vertex


def _swaps(quadratic: Quadratic, perm: Tensor) -> Tensor:
    """The best exchange of two units, all n² of them judged by a few matrix products."""
    gain = swap_gains(quadratic, perm)
    flat = int(gain.argmax())
    i, j = divmod(flat, len(perm))
    if float(gain[i, j]) <= 0:
        return perm
    swapped = perm.clone()
    swapped[i], swapped[j] = perm[j], perm[i]
    return swapped


def _turns(quadratic: Quadratic, perm: Tensor) -> Tensor:
    """The sign whose turning gains most."""
    linear, b = quadratic.at(perm)
    products = (quadratic.a * b).sum(0)
    off = products - products.diagonal().diag()
    gain = -2 * (linear.diagonal() + off.sum(0) + off.sum(1))
    best = int(gain.argmax())
    return perm if float(gain[best]) <= 0 else with_turns(perm, torch.arange(len(perm)) == best)


def swap_gains(quadratic: Quadratic, perm: Tensor) -> Tensor:
    """By how much f rises when the units in places i and j are exchanged, for all i and j; shape (n, n).

    That is what ∇f promises, and Σ_r ⟨A_r, D B_r Dᵀ⟩ for D = (e_i − e_j)(e_j − e_i)ᵀ, with B's units in order.
    """
    slopes = taken(quadratic.gradient(perm), 1, perm)
    own = slopes.diagonal()
    _, there = quadratic.at(perm)
    gain = slopes + slopes.T - own[:, None] - own[None, :] + (_crossed(quadratic.a) * _crossed(there)).sum(0)
    gain.fill_diagonal_(0.0)
    return gain


def _crossed(matrices: Tensor) -> Tensor:
    """m_ii + m_jj − m_ij − m_ji for all i and j, (rest, n, n)."""
    own = matrices.diagonal(dim1=1, dim2=2)
    return own[:, :, None] + own[:, None, :] - matrices - matrices.mT


def _cycles(old: Tensor, new: Tensor) -> list[Tensor]:
    """The cycles of places in which two permutations differ, if only by signs."""
    where = torch.empty_like(old)
    where[units_of(old)] = torch.arange(len(old))
    step = where[units_of(new)].tolist()
    alike = (old == new).tolist()
    seen: set[int] = set()
    cycles: list[Tensor] = []
    for start in range(len(step)):
        if start in seen or alike[start]:
            continue
        cycle = []
        at = start
        while at not in seen:
            seen.add(at)
            cycle.append(at)
            at = step[at]
        cycles.append(torch.tensor(cycle))
    return cycles


def _added(matrix: Tensor, perm: Tensor) -> Tensor:
    """A matrix (n, n) to which that of a permutation (n,) is added in place."""
    return matrix.scatter_add_(1, units_of(perm)[:, None], signs_of(perm, matrix)[:, None])
