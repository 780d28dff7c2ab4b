"""Least squares after matching (after PLeaS, arXiv:2407.02447): each layer of a merged network fitted to its members.

One walk in the order of execution. A layer's inputs are those of the merged network, whose earlier layers are solved
by then; its targets are the members' mean outputs, behind a BatchNorm that follows (which is folded), before any other
norm; where a layer adds to a stream the mean of the members' sums, less what the merged stream holds. The merged
network keeps exactly the tensors it had.

A permutation leaves units together that have little in common, of which the mean is neither. So there is a second walk,
in the units of the member that weighs most: those of the others are brought into them by the linear map that comes
nearest before the mean is taken (not of answers), and what cannot be fitted, embeddings and gains of norms, is that
member's; a network of which most cannot be fitted has the first walk alone. What is kept is whichever answers nearer to
the members' mean.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.merging.polishing.calls import CONVOLUTIONS, Norm, Trace, Use, argument, bias_of, input_of, weight_of
from rebasin_cli.merging.polishing.lockstep import Walker
from rebasin_cli.merging.polishing.solving import Form, Sums, best_scale, brought_onto, ridge_of, share_of, solve

Params = dict[str, Tensor]
Runner = Callable[[Params, Any], Any]
"""Runs the network with these parameters on some inputs; several runs may be under way at a time."""

_SCALES = 0.05, 20.0  # within which logits are scaled


@dataclass(frozen=True, slots=True)
class Examples:
    """How the network is run.

    Attributes:
        run: see `Runner`; batches: inputs; few: some inputs to see on which calls the network makes.
        answer: the tensor among the outputs that is judged.
        logits: (questions, classes) of the outputs, where answers are classes; None where they are not, or for these.
    """

    run: Runner
    batches: Sequence[Any]
    few: Any
    answer: Callable[[Any], Tensor]
    logits: Callable[[Any], Tensor | None] | None = None


@dataclass(slots=True)
class Polished:
    """New values for a merged network.

    Attributes:
        params: all of them; solved: names of the weights that were fitted; left: of those that were not.
        scale: of the logits; 1.0 where none was fitted.
        scarce: names of the weights that were fitted on fewer rows than they have inputs.
        mostly_stays: whether there is nothing to fit in most of the network, tables of embeddings aside.
        distance: mean square of what is between its answers and the members' mean ones; infinite without a fit.
    """

    params: Params
    solved: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    scarce: list[str] = field(default_factory=list)
    scale: float = 1.0
    mostly_stays: bool = False
    distance: float = inf


def least_squares(
    merged: Mapping[str, Tensor],
    members: Sequence[Params],
    weights: Sequence[float],
    examples: Examples,
    frozen: Collection[str] = (),
    on_plan: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
) -> Polished:
    """Fit the weights of a merged network, layer by layer.

    Args:
        merged: where it begins, in one order with the `members`; not changed.
        weights: of the members; they sum to 1.
        frozen: names of tensors that stay as they are.
        on_plan: told the number of steps; what it returns is called after each.

    Raises:
        ContentError: the network goes other ways on other examples.
    """
    walk = partial(_walked, merged, members, weights, examples, frozen, on_plan)
    found = walk(bring=False)
    if found.mostly_stays:
        return found  # in the units of one member most of the network would be that member's
    return min(found, walk(bring=True), key=lambda each: each.distance)


def _walked(
    merged: Mapping[str, Tensor],
    members: Sequence[Params],
    weights: Sequence[float],
    examples: Examples,
    frozen: Collection[str],
    on_plan: Callable[[int], Callable[[int], None]],
    *,
    bring: bool,
) -> Polished:
    """Walk once; with `bring` in the units of one member."""
    first = max(range(len(members)), key=weights.__getitem__)
    begin = {**merged, **{name: members[first][name] for name in merged if bring and name not in frozen}}
    params = {name: tensor.detach().clone() for name, tensor in begin.items()}
    trace = Trace(params, frozen)
    steps, left = trace.plan(examples.answer(trace.watch(lambda: examples.run(params, examples.few))))
    advance = on_plan(len(steps))
    elements = {name: params[name].numel() for name in params.keys() - trace.tables() - {*frozen}}
    fitted = sum(elements[step.name] for step in steps if isinstance(step, Use))
    found = Polished(params, left=left, mostly_stays=2 * fitted < sum(elements.values()))
    kept = {step.stream[1] for step in steps if isinstance(step, Use) and step.stream}
    with _side_by_side(params, members, examples, kept) as (own, others):
        solver = _Solver(trace, found, own, others, weights, first if bring else None)
        for step in steps:
            if isinstance(step, Norm):
                solver.reset(step)
            else:
                solver.fit(step)
            advance(1)
        last = steps[-1] if steps else None
        is_fitted = isinstance(last, Use) and last.answer and last.name in found.solved
        probable = solver.finish(examples, with_logits=is_fitted)
        if probable and isinstance(last, Use):
            solver.scale(last, probable)
    return found


@contextmanager
def _side_by_side(
    params: Params, members: Sequence[Params], examples: Examples, kept: set[int]
) -> Iterator[tuple[list[Walker], list[list[Walker]]]]:
    """A walker for each batch of the merged network, and of every member."""
    begun: list[Walker] = []

    def walkers(state: Params, keep: set[int]) -> list[Walker]:
        made = [Walker(partial(examples.run, state, batch), keep) for batch in examples.batches]
        begun.extend(made)
        return made

    try:
        yield walkers(params, kept), [walkers(member, set()) for member in members]
    finally:
        for walker in begun:
            walker.end()


@dataclass(slots=True)
class _Solver:
    """Solves one step after the other; the walkers of all networks stand before it."""

    trace: Trace
    found: Polished
    own: list[Walker]
    others: list[list[Walker]]
    weights: Sequence[float]
    first: int | None

    def fit(self, step: Use) -> None:
        """Fit one weight, with the bias or the BatchNorm behind it."""
        arguments = [walker.before(step.number, step.kind) for walker in self.own]
        weight, bias = self._written(step)
        form = Form.of(step.kind, arguments[0])
        inputs = [input_of(step.kind, given) for given in arguments]
        targets = self._targets(step)
        sums = Sums(form)
        rows = sum(target.numel() for target in targets) // max(1, form.matrix(weight).shape[:2].numel())
        share = share_of(form.matrix(weight).shape[2], rows)
        for x, target in zip(inputs, targets, strict=True):
            sums.add(x, target, share)
        ridge = ridge_of(form.matrix(weight).shape[2], sum(len(x) for x in inputs))
        self._solve(step, form, sums, weight, bias, ridge)

    def _written(self, step: Use) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias, as the merged network reads them."""
        call = self.trace.calls[step.number]
        given = (call.args, call.kwargs)
        return weight_of(step.kind, given), bias_of(step.kind, given)

    def _targets(self, step: Use) -> list[Tensor]:
        """What the layer is to make of every batch."""
        name = self.trace.calls[step.last].name
        made = [[walker.behind(step.last, name) for walker in walkers] for walkers in self.others]
        if self.first is not None and not step.answer:
            units = 1 if step.kind in CONVOLUTIONS else -1
            onto = made[self.first]
            made = [each if each is onto else brought_onto(each, onto, units) for each in made]
        targets = []
        for batch, own in enumerate(self.own):
            target = sum(weight * each[batch] for weight, each in zip(self.weights, made, strict=True))
            assert isinstance(target, Tensor)
            if step.stream:
                target = target - own.result(step.stream[1])
                own.forget(step.stream[1])
            targets.append(target)
        return targets

    def _solve(self, step: Use, form: Form, sums: Sums, weight: Tensor, bias: Tensor | None, ridge: float) -> None:
        """Write the weight that fits, and what stands behind it; where there is none, everything stays."""
        g, h, mean_z, mean_t = sums.moments(centred=bias is not None or step.norm is not None)
        start = form.matrix(weight).double()
        norm = self._norm(step)
        if norm is not None:  # at the scale that fits best: the norm gave the weight another one
            own = torch.einsum("goi,gij,goj->go", start, g, start)
            scale = torch.einsum("goi,gio->go", start, h) / torch.where(own > 0, own, torch.ones_like(own))
            start = start * scale[..., None]
        matrix = solve(g, h, start, ridge)
        if matrix is None:
            self.found.left.append(step.name)
            return
        made = (matrix @ mean_z.unsqueeze(2))[..., 0]  # (groups, outputs)
        rest = (mean_t - made).flatten()
        weight.copy_(form.weight(matrix))
        if norm is not None:
            shift = bias.double() if bias is not None else torch.zeros_like(rest)
            spread = torch.einsum("goi,gij,goj->go", matrix, g, matrix).clamp(min=0).flatten()
            norm.mean.copy_(made.flatten() + shift)
            norm.variance.copy_(spread)
            norm.weight.copy_((spread + norm.eps).sqrt())
            norm.bias.copy_(mean_t.flatten())
        elif bias is not None:
            bias.copy_(rest)
        self.found.solved.append(step.name)
        if sums.count < g.shape[1]:
            self.found.scarce.append(step.name)

    def _norm(self, step: Use) -> _BatchNorm | None:
        """The BatchNorm behind a layer, as the merged network reads it."""
        if step.norm is None:
            return None
        call = self.trace.calls[step.norm]
        return _BatchNorm.of(call.args, call.kwargs)

    def reset(self, step: Norm) -> None:
        """Give a BatchNorm the statistics of what the merged network puts into it."""
        call = self.trace.calls[step.number]
        norm = _BatchNorm.of(call.args, call.kwargs)
        inputs = [argument(*walker.before(step.number, "batch_norm"), 0, "input") for walker in self.own]
        rows = torch.cat([x.movedim(1, -1).flatten(0, -2) for x in inputs])
        variance, mean = torch.var_mean(rows.double(), 0, correction=0)
        if bool(mean.isfinite().all() & variance.isfinite().all()):
            norm.mean.copy_(mean)
            norm.variance.copy_(variance)

    def finish(self, examples: Examples, *, with_logits: bool) -> list[tuple[Tensor, Tensor]]:
        """Go on to the answers, and measure the distance; the logits and the members' mean probabilities of each batch,
        where answers are classes."""
        logits = examples.logits if with_logits else None
        probable: list[tuple[Tensor, Tensor]] = []
        total, count = 0.0, 0
        for batch, own in enumerate(self.own):
            ours = own.finish()
            answer = examples.answer(ours).double()
            z = logits(ours) if logits else None
            mean, shares = torch.zeros_like(answer), torch.zeros(())
            for weight, walkers in zip(self.weights, self.others, strict=True):
                theirs = walkers[batch].finish()
                mean += weight * examples.answer(theirs)
                if logits and z is not None and (each := logits(theirs)) is not None:
                    shares = shares + weight * each.double().softmax(1)
            total, count = total + float((answer - mean).square().sum()), count + answer.numel()
            if z is not None:
                probable.append((z.double(), shares))
        if self.found.solved and count and isfinite(total):
            self.found.distance = total / count
        return probable

    def scale(self, step: Use, probable: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Fit one temperature to the members' mean probabilities, and put it into the last layer."""
        z, wanted = (torch.cat(parts) for parts in zip(*probable, strict=True))
        scale = best_scale(z, (wanted * z).sum(), *_SCALES)
        weight, bias = self._written(step)
        weight.mul_(scale)
        if bias is not None:
            bias.mul_(scale)
        self.found.scale = scale


@dataclass(frozen=True, slots=True)
class _BatchNorm:
    """The tensors of a BatchNorm; weight and bias are there where a layer before it is solved."""

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    @staticmethod
    def of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> _BatchNorm:
        """Of the arguments of `batch_norm`."""
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (argument(args, kwargs, i, name) for i, name in enumerate(names, 1))
        eps = argument(args, kwargs, 7, "eps")
        return _BatchNorm(mean, variance, weight, bias, 1e-5 if eps is None else float(eps))
