"""Permutations, maps and scales learned together by the loss between two networks (learned matching, arXiv:2506.22712).

Both networks are brought into their canonical forms, and B to where the match without data ends. From there on an
element of the group is learned that begins as the identity: orthogonal maps and scales as exponentials (of
skew-symmetric matrices, of logarithms), and permutations by the straight-through estimator: what is applied is the
assignment of a matrix of scores, at first the similarities of units, and the gradient goes to the scores. In every step
the loss is taken at another λ of U(0.4, 0.6) between A and g(B). The best g, by the loss of the midpoint on examples
that no step has seen, is kept; the first candidate is that of the match without data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.solve import solve_assignment
from rebasin_cli.matching.data.held_out import search_by_loss
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.options import SteOptions
from rebasin_cli.matching.problem import LossProblem, MatchResult, Resources
from rebasin_cli.matching.rotations import canonical, match_with_rotations
from rebasin_cli.permutation.gather import over_sides, owner_sides, permuted, piece_view
from rebasin_cli.permutation.maps import in_pairs, mapped, of_pairs, products
from rebasin_cli.permutation.values import Permutation, signs_of, units_of, with_turns
from rebasin_cli.spec import BoundTensor, Layout
from rebasin_cli.spec.language.permutation_spec import PAIRS

Matrices = dict[str, tuple[Tensor, Tensor]]
"""Of a dim, those of its units (*owner sizes, n, n), and the same where signs stay."""

LAMBDAS = (0.4, 0.6)
"""Between which λ is drawn in every step, as in the paper."""


def match_by_learning(
    problem: LossProblem, resources: Resources = Resources(), options: SteOptions = SteOptions()
) -> MatchResult:
    """Match B to A over all the layout has, by the loss between them.

    Returns:
        The element with the lowest loss held out. `losses` are those of the midpoint, at the start and after every
        epoch; the objective is that of the canonical forms.
    """
    began = perf_counter()
    problem = problem.loaded()
    first = match_with_rotations(problem, replace(resources, on_step=None), max_rounds=options.max_sweeps)
    search = Learning(problem, options, resources.seed, first.permutation)
    found = search_by_loss(search, first, problem, resources, epochs=options.epochs, patience=options.patience)
    return MatchResult(
        method="ste",
        permutation=found.permutation,
        objective=(first.objective[0], search.objective(found.permutation)),
        stop=found.stop,
        seed=resources.seed,
        seconds={**search.seconds, "all": perf_counter() - began},
        solves=first.solves + search.solves,
        losses=found.losses,
    )


class Learning:
    """What is learned: of every dim that is rotated, permuted or scaled a tensor by A's places, at first the identity.

    A rotated dim is not permuted besides; dims that act on keys stay where the start has them.
    """

    def __init__(self, problem: LossProblem, options: SteOptions, seed: int, start: Permutation) -> None:
        layout = problem.layout
        self.problem, self.layout, self.start, self.solves = problem, layout, start, 0
        self.one, self.two = canonical(layout, problem.a), canonical(layout, problem.b)
        near = permuted(self._between_forms(start), layout, self.two.state)
        self.a, self.b = ({key: _narrow(state[key]) for key in self.one.state} for state in (self.one.state, near))
        of_keys = {bound.index_dim for bound in layout.tensors.values()}
        ordered = [dim for dim in layout.moving() if dim not in {*layout.rotated(), *of_keys}]
        self.turns = {dim: torch.zeros(_square(layout, dim), requires_grad=True) for dim in layout.rotated()}
        self.logs = {dim: torch.zeros(_square(layout, dim)[:-1], requires_grad=True) for dim in layout.scaled()}
        self.scores = {dim: self._similarities(dim).requires_grad_() for dim in ordered}
        self.indices = {dim: torch.arange(t.shape[-1]).expand(t.shape[:-1]) for dim, t in self.scores.items()}
        self.optimizer = torch.optim.Adam(
            [tensor for part in (self.turns, self.logs, self.scores) for tensor in part.values()],
            lr=options.learning_rate, betas=(options.momentum, 0.99),
        )  # fmt: skip
        steps = options.epochs * problem.batches
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda k: 1 - k / steps)
        self.generator = torch.Generator().manual_seed(seed)
        self.seconds = {"gradients": 0.0, "projections": 0.0}

    def step(self, batch: int) -> None:
        """One gradient step, and the assignments after it."""
        began = perf_counter()
        low, high = LAMBDAS
        lam = low + (high - low) * float(torch.rand((), generator=self.generator))
        self.optimizer.zero_grad(set_to_none=True)
        self.problem.loss(self.between(lam), batch).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        middle = perf_counter()
        self.assign()
        self.seconds["gradients"] += middle - began
        self.seconds["projections"] += perf_counter() - middle

    def assign(self) -> None:
        """The units that the scores choose."""
        self.indices = {dim: self._assigned(dim) for dim in self.scores}

    def candidate(self) -> Permutation:
        """What is done to B itself: what is learned acts between the canonical forms, behind the start."""
        with torch.no_grad():
            maps = {dim: self._turn(dim, free.double()) for dim, free in self.turns.items()}
            scales = {dim: log.double().exp() for dim, log in self.logs.items()}
        form, learned = self.one.element, Permutation(self.indices, scales, maps)
        found = self.start.compose(form, self.layout).compose(learned, self.layout)
        return found.compose(form.inverse(self.layout), self.layout)

    def objective(self, permutation: Permutation) -> float:
        """⟨A, g(B)⟩ of the canonical forms."""
        return inner_product(self.layout, self.one.state, self.two.state, self._between_forms(permutation))

    def _between_forms(self, permutation: Permutation) -> Permutation:
        back = self.two.element.inverse(self.layout)
        return back.compose(permutation, self.layout).compose(self.one.element, self.layout)

    def between(self, lam: float) -> dict[str, Tensor]:
        """(1 − λ)·A + λ·g(B) of the canonical forms, with gradients; what has no such point is A's, and so are gains
        that are taken up: they are 1."""
        matrices: Matrices = {}
        for dim, free in self.turns.items():
            matrices[dim] = (self._turn(dim, free),) * 2
        for dim, scores in self.scores.items():  # the assignment's value and the scores' gradient
            hard, sizes = _as_matrix(self.indices[dim], scores), scores.abs()
            matrices[dim] = hard + (scores - scores.detach()), hard.abs() + (sizes - sizes.detach())
        scales = {dim: log.exp() for dim, log in self.logs.items()}
        state = {}
        for key, bound in self.layout.tensors.items():
            one, two = self.a[key], self.b[key]
            mixes = bound.section != "ignored" and one.is_floating_point() and self.layout.norms.get(key) != key
            state[key] = (1 - lam) * one + lam * _acted(two, bound, matrices, scales) if mixes else one
        return state

    def _turn(self, dim: str, free: Tensor) -> Tensor:
        """Orthogonal matrices; where the vector of ones is kept, what they turn has no part along it."""
        skew, kind = free - free.mT, self.layout.dims[dim].rotated
        if kind in PAIRS:
            skew = of_pairs(in_pairs(skew, kind), kind)
        if kind == "keeps ones":
            n = free.shape[-1]
            centre = torch.eye(n, dtype=free.dtype) - 1 / n
            skew = centre @ skew @ centre
        turn: Tensor = torch.linalg.matrix_exp(skew)
        return turn

    def _similarities(self, dim: str) -> Tensor:
        """Σ A[i]·B[j] of the units, at most 1."""
        total = torch.zeros(_square(self.layout, dim))
        for key in self.layout.users[dim]:
            bound = self.layout.tensors[key]
            for piece in bound.pieces if bound.section == "tensors" else ():
                for at, side in enumerate(piece.sides):
                    if side.dim == dim:
                        one, two = (piece_view(state[key], piece) for state in (self.a, self.b))
                        products(one, two, piece, at, bound.place, total)
        return total / total.abs().amax().clamp(min=1e-12)

    def _assigned(self, dim: str) -> Tensor:
        scores, signed = self.scores[dim].detach(), dim in self.layout.signed()
        rows = []
        for each in scores.reshape(-1, *scores.shape[-2:]).double():
            units = torch.from_numpy(solve_assignment(each.abs() if signed else each).columns)
            rows.append(with_turns(units, each.gather(1, units[:, None])[:, 0] < 0) if signed else units)
        self.solves += len(rows)
        return torch.stack(rows).reshape(scores.shape[:-1])


def _acted(tensor: Tensor, bound: BoundTensor, matrices: Matrices, scales: Mapping[str, Tensor]) -> Tensor:
    """A tensor with matrices and scales applied, differentiable; owners are moved before what is within them."""
    if not any(dim in matrices or dim in scales for dim in bound.dims()):
        return tensor
    found = torch.empty_like(tensor)
    for piece in bound.pieces:
        view = piece_view(tensor, piece)
        for at in sorted(range(len(piece.sides)), key=lambda at: len(owner_sides(piece, at))):
            side = piece.sides[at]
            if side.dim is not None and side.dim in matrices:
                view = mapped(view, piece, at, matrices[side.dim][side.still], bound.place)
        for at, side in enumerate(piece.sides):
            if side.power and side.dim is not None and side.dim in scales:
                view = view * over_sides(scales[side.dim] ** side.power, piece, at, bound.place)
        piece_view(found, piece).copy_(view)
    return found


def _as_matrix(indices: Tensor, like: Tensor) -> Tensor:
    """The matrices (.., n, n) of signed permutations (.., n)."""
    return torch.zeros_like(like).scatter(-1, units_of(indices)[..., None], signs_of(indices, like)[..., None])


def _square(layout: Layout, dim: str) -> tuple[int, ...]:
    n = layout.dims[dim].size
    return (*layout.owner_sizes(dim), n, n)


def _narrow(tensor: Tensor) -> Tensor:
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
