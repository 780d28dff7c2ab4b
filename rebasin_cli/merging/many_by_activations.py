"""Bringing N models into one order of units by their activations: the same idea as `many`, on what units answer.

Every pair of models is run side by side once. What remains is Σ_{i<j} w_i w_j ⟨π_i(z_i), π_j(z_j)⟩, the likeness of
activations in the common order, block by block: blocks do not depend on each other. One model after the other is
assigned exactly to the weighted sum of the others, which no step lowers. A mean of networks is never run: its
activations would be those of a network that nobody has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from rebasin_cli.matching.data.activations import Grams, Solver, by_weights, pair_grams, untold
from rebasin_cli.matching.data.mixing import best_by_both, by_forms, forms_beside, norms_of, worth_beside
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.options import ActivationOptions
from rebasin_cli.matching.problem import ActivationProblem, Problem, Resources, Stop, StopMatching
from rebasin_cli.matching.similarity.blocks import Block, blocks
from rebasin_cli.merging.many import ManyResult, OnRound, in_order_of_first
from rebasin_cli.merging.models import Mean, Models, total_similarity
from rebasin_cli.merging.options import ManyOptions
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout

_GAIN = 1e-9


def match_many_by_activations(
    models: Models,
    pair_problem: Callable[[int, int], ActivationProblem],
    resources: Resources = Resources(),
    options: ManyOptions = ManyOptions(),
    by: ActivationOptions = ActivationOptions(),
    on_round: OnRound | None = None,
) -> ManyResult:
    """Match N models by their activations.

    Args:
        pair_problem: of two models by number, both to be run side by side.
        by: with a share `mix` of activations below 1, weights count as well, see `matching/data/mixing.py`.
        options: `to-first` assigns every model to the first; `merge-many` each in random order to the others;
            `cycle-consistent` begins with `to-first` and goes on with each to the others.

    Returns:
        The permutations; `objective` is that of the *weights*, before and after, which may fall. Blocks in which a dim
        has no activations are matched to the first model by weights. The likenesses of all pairs that the algorithm
        looks at are in memory together: N(N − 1)/2, or N − 1 for `to-first`.
    """
    algorithm, count = options.algorithm, len(models)
    search = _Search(models, [Permutation.identity(models.layout)] * count, on_round, by.mix)
    start = total_similarity(models, search.present)
    began = perf_counter()
    try:
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count) if i == 0 or algorithm != "to-first"]
        for done, (i, j) in enumerate(pairs, 1):
            search.grams[i, j] = pair_grams(pair_problem(i, j), by)
            search.tell("activations of pairs", done, len(pairs))
        if algorithm != "merge-many":
            search.to_first()
        if algorithm == "merge-many":
            search.rounds(options.max_rounds, torch.Generator().manual_seed(resources.seed))
        elif algorithm == "cycle-consistent" and count > 2:
            search.rounds(options.max_rounds, None)
    except StopMatching as wish:
        search.stop = wish.stop
    found = search.finished()
    return ManyResult(
        algorithm=algorithm,
        permutations=found,
        objective=(start, total_similarity(models, found)),
        stop=search.stop,
        seed=resources.seed,
        seconds=perf_counter() - began,
        matches=search.matches,
        notes=untold(list(search.left.values())),
    )


@dataclass(slots=True)
class _Search:
    """The likenesses of pairs, (i, j) with i < j, and the permutations so far."""

    models: Models
    present: list[Permutation]
    on_round: OnRound | None
    mix: float = 1.0
    grams: dict[tuple[int, int], Grams] = field(default_factory=dict)
    left: dict[str, Block] = field(default_factory=dict)
    norms: Mapping[str, float] = field(default_factory=dict)
    matches: int = 0
    stop: Stop = "converged"

    def tell(self, what: str, done: int, of: int) -> None:
        if self.on_round:
            self.on_round(what, done, of)

    def to_first(self) -> None:
        """Every model to the first."""
        for j in range(1, len(self.models)):
            self.place(j, [0])
            self.tell("to the first", j, len(self.models) - 1)

    def rounds(self, most: int, generator: torch.Generator | None) -> None:
        """Every model in turn to all others, until nothing rises; in random order if there is a generator."""
        count = len(self.models)
        for number in range(most):
            order = list(range(count)) if generator is None else torch.randperm(count, generator=generator).tolist()
            before = list(self.present)
            gained = 0.0
            for done, i in enumerate(order, 1):
                gained += self.place(i, [j for j in range(count) if j != i])
                self.tell(f"round {number + 1}", done, count)
            if gained <= _GAIN or all(one.equals(two) for one, two in zip(before, self.present, strict=True)):
                return
        self.stop = "max-sweeps"

    def place(self, i: int, others: Sequence[int]) -> float:
        """Assign a model to others as they are placed now; what that gains."""
        layout = self.models.layout
        summed: dict[tuple[str, ...], Tensor] = {}
        for j in others:
            known = self.grams[min(i, j), max(i, j)]
            for dims, gram in known.items():
                mine_last = gram if j < i else _turned(gram)
                placed = self.models.weights[j] * _gathered(layout, dims, mine_last, self.present[j])
                summed[dims] = summed[dims] + placed if dims in summed else placed
        if self.mix < 1:
            return self._place_by_both(i, others, summed)
        solver, gained = Solver(layout), 0.0
        for block in blocks(layout):
            found = solver.solve(block, summed, self.present[i])
            if found is None:
                self.left[block.root] = block
            else:
                self.present[i] = self.present[i].replace(found[0])
                gained += found[1]
        self.matches += 1
        return gained

    def _place_by_both(self, i: int, others: Sequence[int], summed: Mapping[tuple[str, ...], Tensor]) -> float:
        """The same by weights, too: the mean of the others as they are placed now, beside their likenesses."""
        layout, models = self.models.layout, self.models
        if not self.norms:
            each = [norms_of(layout, state) for state in models.states]
            self.norms = {r: sum(w * own[r] for w, own in zip(models.weights, each, strict=True)) for r in each[0]}
        total = sum(models.weights[j] for j in others)
        mean = {dims: gram / total for dims, gram in summed.items()}
        beside = forms_beside(layout, mean, self.mix, self.norms, self.norms)
        problem = Problem(layout, Mean(models, self.present, others), models.states[i])
        begins = [self.present[i], by_forms(layout, beside)]
        if len(others) == 1:
            begins.append(match_by_weights(problem).permutation)
        found = best_by_both(problem, beside, begins)
        before = problem.objective(self.present[i]) + worth_beside(layout, beside, self.present[i])
        self.present[i] = found.permutation
        self.matches += 1
        return found.value - before

    def finished(self) -> tuple[Permutation, ...]:
        """All in the order of the first; what no activation tells is matched to it by weights."""
        layout, states = self.models.layout, self.models.states
        first, *others = in_order_of_first(layout, self.present)
        if self.left:
            left = list(self.left.values())
            problems = [Problem(layout, states[0], state) for state in states[1:]]
            others = [by_weights(problem, p, left)[0] for problem, p in zip(problems, others, strict=True)]
        return (first, *others)


def _turned(gram: Tensor) -> Tensor:
    """The other model's units first."""
    half = gram.dim() // 2
    return gram.permute(*range(half, 2 * half), *range(half))


def _gathered(layout: Layout, dims: tuple[str, ...], gram: Tensor, permutation: Mapping[str, Tensor]) -> Tensor:
    """A likeness with the units of the first model in their places; owners stand before what is within them."""
    for at, dim in enumerate(dims):
        if dim not in permutation:
            continue
        perm = permutation[dim]  # (*owner sizes, n)
        chain: list[str] = []
        owner = layout.dims[dim].owner
        while owner is not None:
            chain.insert(0, owner)
            owner = layout.dims[owner].owner
        for name in [name for name in chain if name not in dims]:  # an owner that stays: its units are alike here
            perm = perm.select(chain.index(name), 0)
            chain.remove(name)
        shape = [gram.shape[k] if dims[k] in chain or k == at else 1 for k in range(len(dims))]
        index = perm.reshape(*shape, *[1] * (gram.dim() - len(dims)))
        gram = torch.take_along_dim(gram, index, dim=at)
    return gram
