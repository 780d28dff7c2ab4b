"""Distillation to an ensemble."""

from __future__ import annotations

import torch
from torch import Tensor

from rebasin_cli.merging.polishing.distilling import EVERY, PATIENCE, Distilled, Lessons, distil

State = dict[str, Tensor]


def state(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(6, 3, generator=generator), "b": torch.randn(3, generator=generator)}


def run(params: State, inputs: Tensor) -> Tensor:
    return inputs @ params["w"] + params["b"]


def taught(axis: int | None, steps: int = 100, free: tuple[str, ...] = ("w", "b")) -> tuple[Distilled, State, Tensor]:
    """From a network of its own, near to the members' mean."""
    inputs = torch.randn(200, 6, generator=torch.Generator().manual_seed(9))
    members = [state(0), state(1)]
    start = {key: (members[0][key] + members[1][key]) / 2 + 0.05 for key in members[0]}
    lessons = Lessons(run, inputs[:160].split(40), [inputs[160:]], axis)
    return distil(start, free, members, (0.5, 0.5), lessons, steps=steps), start, inputs


def test_it_comes_nearer_to_the_mean_outputs() -> None:
    found, start, inputs = taught(None)
    wanted = (run(state(0), inputs) + run(state(1), inputs)) / 2
    before, after = ((run(params, inputs) - wanted).square().mean() for params in (start, found.params))
    assert after < 0.5 * before
    assert found.losses[-1] < found.losses[0]
    assert not found.params["w"].requires_grad


def test_it_comes_nearer_to_the_mean_probabilities() -> None:
    found, start, inputs = taught(1)
    wanted = (run(state(0), inputs).softmax(1) + run(state(1), inputs).softmax(1)) / 2
    before, after = (-(wanted * run(p, inputs).log_softmax(1)).sum(1).mean() for p in (start, found.params))
    assert after < before


def test_what_is_not_free_stays_and_the_start_is_untouched() -> None:
    found, start, _ = taught(None, free=("b",))
    assert torch.equal(found.params["w"], start["w"])
    assert not torch.equal(found.params["b"], start["b"])
    again, *_ = taught(None, free=("b",))
    assert torch.equal(found.params["b"], again.params["b"])


def test_it_ends_early_and_keeps_the_best() -> None:
    """From the members' mean function itself nothing is better."""
    inputs = torch.randn(100, 6, generator=torch.Generator().manual_seed(9))
    only = state(0)
    told: list[int] = []
    lessons = Lessons(run, inputs[:80].split(20), [inputs[80:]])
    found = distil(only, only, [only], (1.0,), lessons, steps=1000, on_step=told.append)
    assert sum(told) == EVERY * PATIENCE
    assert all(torch.equal(found.params[key], only[key]) for key in only)


def test_answers_that_are_no_numbers_end_it_at_once() -> None:
    broken = {**state(0), "b": torch.full((3,), float("nan"))}
    lessons = Lessons(run, [torch.ones(2, 6)], [torch.ones(2, 6)])
    found = distil(state(1), ("w", "b"), [broken], (1.0,), lessons)
    assert len(found.losses) == 1
    assert torch.equal(found.params["w"], state(1)["w"])
