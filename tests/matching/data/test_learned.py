"""Maps and permutations learned together on small trained GPTs: never worse than the match without data."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from rebasin_cli.evaluation.comparing import change
from rebasin_cli.matching.data.held_out import midpoint
from rebasin_cli.matching.data.learned import Learning, match_by_learning
from rebasin_cli.matching.options import SteOptions
from rebasin_cli.matching.problem import LossProblem, Problem, Resources, StopMatching
from rebasin_cli.matching.rotations import match_with_rotations
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.maps import wrong_map
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.proofs.subjects import SUBJECTS
from rebasin_cli.proofs.subjects.classic_decoders import gpt2
from rebasin_cli.spec import Request, bind, shipped_spec
from tests.rotated_networks import rotated_forward, rotated_layout, rotated_state
from tests.small_gpts import layout_of, loss_of, make, sequences, trained

BATCHES = 10
KINDS = ("gpt-j", "gpt-neox", "llama", "mixtral", "qwen3", "vit")
"""Pairs as neighbours and as halves, query heads within, experts, norms inside of heads, streams that keep ones."""


def problem(a: dict[str, Tensor], b: dict[str, Tensor]) -> LossProblem:
    """Losses on sequences that training saw, and on others."""
    network, seen, apart = make(), sequences(64 * BATCHES, 1), sequences(256, 2)

    def loss(state: Mapping[str, Tensor], batch: int) -> Tensor:
        return loss_of(network, state, seen[64 * batch : 64 * batch + 64])

    def held_out(state: Mapping[str, Tensor]) -> float:
        with torch.no_grad():
            return float(loss_of(network, state, apart))

    return LossProblem(layout_of(a), a, b, loss, held_out, BATCHES)


def test_the_held_out_loss_falls_and_the_function_of_b_is_kept() -> None:
    a, b = trained(0), trained(1)
    given = problem(a, b)
    result = match_by_learning(given, Resources(), SteOptions(epochs=4))
    start = match_with_rotations(Problem(given.layout, a, b), Resources()).permutation
    plain, found = (given.held_out(midpoint(given, element)) for element in (start, result.permutation))
    ends = max(map(given.held_out, (a, b)))
    assert result.losses[0] == plain
    assert min(result.losses) == found
    assert len(result.losses) == 5
    assert found - ends < 0.5 * (plain - ends)  # measured: 0.31
    moved = dict(permuted(result.permutation, given.layout, b))
    tokens = sequences(64, 3)[:, :-1]
    answers = [functional_call(make(), state, (tokens,)) for state in (moved, b)]
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-5)


def test_permutations_are_learned_too() -> None:
    """Units of an MLP change places beside what the match without data found."""
    given = problem(trained(0), trained(1))
    result = match_by_learning(given, Resources(), SteOptions(epochs=4))
    start = match_with_rotations(Problem(given.layout, given.a, given.b), Resources()).permutation
    assert any(not torch.equal(result.permutation[dim], start[dim]) for dim in given.layout.moving() if dim in start)


def test_a_planted_element_is_kept() -> None:
    a = trained(0)
    layout = layout_of(a)
    b = {key: t.contiguous() for key, t in permuted(Permutation.random(layout, 1), layout, a).items()}
    given = problem(a, b)
    result = match_by_learning(given, Resources(), SteOptions(epochs=2))
    assert result.losses[0] == pytest.approx(given.held_out(a), abs=1e-5)
    assert min(result.losses) == given.held_out(midpoint(given, result.permutation)) <= result.losses[0]


@pytest.mark.parametrize(
    ("spec", "make_subject"),
    [
        pytest.param("gpt2", lambda: gpt2(tie_word_embeddings=False), id="gpt2"),
        *(
            pytest.param(name, make_one, id=f"{name}-{at}")
            for name in KINDS
            for at, make_one in enumerate(SUBJECTS[name][:2])
        ),
    ],
)
def test_what_is_differentiated_is_what_is_found(spec: str, make_subject: object) -> None:
    """Wherever learning has come to, with signs and scales, too: B is the same function, and the midpoint the same."""
    assert callable(make_subject)
    subject = make_subject()
    shapes = {key: tuple(tensor.shape) for key, tensor in subject.state.items()}
    layout = bind(shipped_spec(spec), shapes, Request(subject.config, signs=True, scales=True, rotations=True))
    if not layout.rotated():
        pytest.skip("no rotations in this variant")
    generator = torch.Generator().manual_seed(1)
    a = subject.state
    real = {key: t for key, t in a.items() if t.is_floating_point()}  # positions are whole numbers
    noise = {key: torch.randn(t.shape, generator=generator, dtype=t.dtype) for key, t in real.items()}
    b = {**a, **{key: t + 0.2 * noise[key] for key, t in real.items()}}
    given = LossProblem(layout, a, b, lambda state, batch: torch.zeros(()), lambda state: 0.0, 1)
    learning = Learning(given, SteOptions(), 0, match_with_rotations(given, Resources()).permutation)
    with torch.no_grad():
        for part, size in ((learning.turns, 0.3), (learning.logs, 0.3), (learning.scores, 1.0)):
            for tensor in part.values():
                tensor.copy_(size * torch.randn(tensor.shape, generator=generator))
        learning.assign()
        found = learning.candidate()
        for state, same, rounding in (
            (dict(permuted(found, layout, b)), b, 2e-5),  # some networks compute in float32
            (learning.between(1.0), b, 2e-4),  # which is made in float32
            (learning.between(0.5), midpoint(given, found), 2e-4),
        ):
            one, two = (subject.run({key: t.to(a[key].dtype) for key, t in s.items()}, None) for s in (state, same))
            assert change(two, one) < rounding


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_maps_are_of_their_kind_and_keep_every_function(name: str) -> None:
    """Whatever loss leads them: here one that wants large logits of random networks."""
    layout, a, b = rotated_layout(name), rotated_state(name, 1), rotated_state(name, 2)

    def loss(state: Mapping[str, Tensor], batch: int = 0) -> Tensor:
        return -rotated_forward(name, {key: tensor.double() for key, tensor in state.items()}).square().mean()

    given = LossProblem(layout, a, b, loss, lambda state: float(loss(state)), 5)
    result = match_by_learning(given, Resources(), SteOptions(0.1, epochs=3))
    assert min(result.losses) < result.losses[0]
    moved = dict(permuted(result.permutation, layout, b))
    torch.testing.assert_close(rotated_forward(name, moved), rotated_forward(name, b), rtol=1e-8, atol=1e-8)
    assert not wrong_map(layout, result.permutation.maps)


def test_a_call_repeats_itself_and_leaves_its_inputs_alone() -> None:
    a, b = trained(0), trained(1)
    before = {key: t.clone() for key, t in b.items()}
    first, second = (match_by_learning(problem(a, b), Resources(seed=3), SteOptions(epochs=2)) for _ in range(2))
    assert first.permutation.equals(second.permutation)
    assert first.losses == second.losses
    other = match_by_learning(problem(a, b), Resources(seed=4), SteOptions(epochs=2))
    assert other.losses[0] == first.losses[0]
    assert other.losses != first.losses
    assert all(torch.equal(b[key], before[key]) for key in b)


def test_without_a_gain_the_match_without_data_is_kept() -> None:
    given = problem(trained(0), trained(1))
    start = match_with_rotations(given, Resources()).permutation

    def stop(*_: object) -> None:
        raise StopMatching("time")

    stopped = match_by_learning(given, Resources(on_step=stop), SteOptions(1e-9))
    assert stopped.stop == "time"
    worse = match_by_learning(given, Resources(), SteOptions(learning_rate=3.0, epochs=3, patience=1))
    assert worse.stop == "converged"
    assert worse.permutation.equals(start)
