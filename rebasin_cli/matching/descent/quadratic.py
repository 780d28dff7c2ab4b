"""Steps for a dim that stands on two sides of one tensor (an LSTM's hidden-to-hidden matrix, `x + W x`).

Its objective is quadratic, f(P) = Σ_i L[i, P_i] + Σ_r ⟨A_r, P B_r Pᵀ⟩, so the assignment of the linearised
similarity is a proposal that usually *lowers* it (samuela/git-re-basin#8 is this case). A step is taken only where
f rises: the linearised one, its cycles one by one, a Frank-Wolfe path with exact steps (C2M3,
arXiv:2405.17897, on one dim), swaps of two units, and turned signs of single units where P is signed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.permutation.values import signs_of, taken, units_of, with_turns

MAX_FRANK_WOLFE = 30
MAX_ROUNDS = 50

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

    def at(self, perm: Tensor) -> Quadratic:
        """The same with B's units in the order of a permutation (n,): f there is that of its identity."""
        return replace(self, linear=taken(self.linear, 1, perm), b=taken(taken(self.b, 1, perm), 2, perm))

    def value(self, perm: Tensor) -> float:
        """f at a permutation (n,)."""
        here = self.at(perm)
        return float(here.linear.diagonal().sum() + (here.a * here.b).sum())

    def gradient(self, x: Tensor) -> Tensor:
        """∇f at a (doubly stochastic) matrix X (n, n): L + Σ_r A_r X B_rᵀ + A_rᵀ X B_r."""
        forth = torch.einsum("rij,jk,rlk->il", self.a, x, self.b)
        back = torch.einsum("rji,jk,rkl->il", self.a, x, self.b)
        return self.linear + forth + back

    def curvature(self, d: Tensor) -> float:
        """The coefficient of t² in f(X + t D)."""
        return float((self.a * torch.einsum("ij,rjk,lk->ril", d, self.b, d)).sum())


def improve(quadratic: Quadratic, present: Tensor, assign: Assign) -> tuple[Tensor, float]:
    """A permutation with a larger value, and by how much; the present one and 0.0 if none was found."""
    start = best = quadratic.value(present)
    perm = present
    for _ in range(MAX_ROUNDS):
        found, value = perm, best
        for step in (_linearised, _frank_wolfe, _swaps, *((_turns,) if quadratic.signed else ())):
            candidate = step(quadratic, perm, assign)
            reached = quadratic.value(candidate)
            if reached > value:
                found, value = candidate, reached
            if step is _frank_wolfe and value > best:
                break  # swaps are the last resort: one at a time, they are the slowest
        if value <= best + 1e-9 * abs(best):
            break
        perm, best = found, value
    return perm, best - start


def _linearised(quadratic: Quadratic, perm: Tensor, assign: Assign) -> Tensor:
    """The assignment of the gradient if f rises, otherwise those of its cycles that raise f."""
    full = assign(quadratic.gradient(_matrix(perm)))
    best = quadratic.value(perm)
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


def _frank_wolfe(quadratic: Quadratic, perm: Tensor, assign: Assign) -> Tensor:
    x = _matrix(perm)
    for _ in range(MAX_FRANK_WOLFE):
        gradient = quadratic.gradient(x)
        direction = _matrix(assign(gradient)) - x
        slope = float((gradient * direction).sum())
        if slope <= 1e-12 * float(gradient.abs().sum()):
            break
        bend = quadratic.curvature(direction)
        step = 1.0 if bend >= 0 else min(1.0, -slope / (2 * bend))
        x = x + step * direction
    return assign(x)


def _swaps(quadratic: Quadratic, perm: Tensor, assign: Assign) -> Tensor:
    """The best exchange of two units, all n² of them judged by a few matrix products."""
    del assign
    gain = swap_gains(quadratic, perm)
    flat = int(gain.argmax())
    i, j = divmod(flat, len(perm))
    if float(gain[i, j]) <= 0:
        return perm
    swapped = perm.clone()
    swapped[i], swapped[j] = perm[j], perm[i]
    return swapped


def _turns(quadratic: Quadratic, perm: Tensor, assign: Assign) -> Tensor:
    """The sign whose turning gains most."""
    del assign
    here = quadratic.at(perm)
    products = (here.a * here.b).sum(0)
    off = products - products.diagonal().diag()
    gain = -2 * (here.linear.diagonal() + off.sum(0) + off.sum(1))
    best = int(gain.argmax())
    return perm if float(gain[best]) <= 0 else with_turns(perm, torch.arange(len(perm)) == best)


def swap_gains(quadratic: Quadratic, perm: Tensor) -> Tensor:
    """By how much f rises when the units in places i and j are exchanged, for all i and j; shape (n, n)."""
    here = quadratic.at(perm)
    linear = here.linear
    own = linear.diagonal()
    gain = linear + linear.T - own[:, None] - own[None, :]
    for a, b in zip(here.a, here.b, strict=True):
        gain = gain - _row_change(a, b) - _row_change(a.T, b.T) + _corner_change(a, b)
    gain.fill_diagonal_(0.0)
    return gain


def _row_change(a: Tensor, b: Tensor) -> Tensor:
    """Σ over k other than i, j of (a_ik − a_jk)(b_ik − b_jk)."""
    d = a @ b.T
    own = d.diagonal()
    total = own[:, None] + own[None, :] - d - d.T
    da, db = a.diagonal(), b.diagonal()
    at_i = (da[:, None] - a.T) * (db[:, None] - b.T)  # k = i: (a_ii − a_ji)(b_ii − b_ji)
    return total - at_i - at_i.T


def _corner_change(a: Tensor, b: Tensor) -> Tensor:
    da, db = a.diagonal(), b.diagonal()
    diagonal = (da[:, None] - da[None, :]) * (db[None, :] - db[:, None])
    return diagonal + a * (b.T - b) + a.T * (b - b.T)


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


def _matrix(perm: Tensor) -> Tensor:
    matrix = torch.zeros(len(perm), len(perm), dtype=torch.float64)
    matrix[torch.arange(len(perm)), units_of(perm)] = signs_of(perm, matrix)
    return matrix
