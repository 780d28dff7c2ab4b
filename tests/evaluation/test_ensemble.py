"""Mean answers of several networks."""

from __future__ import annotations

import types
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.calibration import HIGH, fitted_scale
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.ensemble import averaged
from rebasin_cli.evaluation.evaluate import Judging, evaluate, evaluate_ensemble, evaluate_mixtures
from rebasin_cli.evaluation.losses import LOSSES, Loss
from rebasin_cli.evaluation.networks.network import Network
from tests.evaluation.building import network_for
from tests.small import mlp_state

CROSS_ENTROPY, MSE = LOSSES["cross-entropy"], LOSSES["mse"]
WHOLE = Loss("own", "own", lambda outputs, targets: (outputs, 1), whole=True)


def test_classes_have_the_mean_of_their_probabilities() -> None:
    one, two = torch.tensor([[0.9, 0.1]]).log() + 7, torch.tensor([[0.3, 0.7]]).log()
    found = averaged("x", (one, two), (0.75, 0.25), torch.tensor([0]), CROSS_ENTROPY)
    torch.testing.assert_close(found.exp(), torch.tensor([[0.75, 0.25]]).double())


def test_positions_keep_their_axis_of_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 3, 5, 4, 4, generator=generator).unbind()
    found = averaged("x", (one, two), (0.5, 0.5), torch.zeros(3, 4, 4, dtype=torch.int64), CROSS_ENTROPY)
    torch.testing.assert_close(found.exp(), (one.double().softmax(1) + two.double().softmax(1)) / 2)


def test_numbers_have_their_mean() -> None:
    found = averaged("x", (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])), (0.5, 0.5), torch.zeros(2), MSE)
    assert found.tolist() == [2.0, 4.0]


@dataclass
class Outputs:
    mean: Tensor
    more: tuple[Tensor, int]


def test_outputs_that_are_judged_whole_keep_their_structure() -> None:
    values = [Outputs(torch.tensor(v), (torch.tensor([v]), 3)) for v in (1.0, 2.0)]
    found = averaged("x", values, (0.5, 0.5), torch.zeros(1), WHOLE)
    assert isinstance(found, Outputs)
    assert (float(found.mean), found.more[0].tolist(), found.more[1]) == (1.5, [1.5], 3)
    assert averaged("x", [{"y": v.mean} for v in values], (0.5, 0.5), torch.zeros(1), WHOLE) == {"y": torch.tensor(1.5)}


def test_outputs_without_a_mean_are_refused() -> None:
    values = [types.SimpleNamespace(y=torch.zeros(1))] * 2
    with pytest.raises(ContentError, match="SimpleNamespace, of which there is no mean"):
        averaged("x", values, (0.5, 0.5), torch.zeros(1), WHOLE)


def test_an_ensemble_of_one_network_is_that_network() -> None:
    states = [mlp_state(seed) for seed in (0, 1)]
    network = network_for("mlp", states[0])
    inputs = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    data = Dataset(inputs, torch.arange(20) % 16, "x")
    alone = evaluate(network, states[0], data)
    same = evaluate_ensemble(network, (states[0], states[0]), (0.5, 0.5), data)
    assert same.loss == pytest.approx(alone.loss, rel=1e-6)
    both = evaluate_ensemble(network, states, (0.5, 0.5), data, Judging(batch_size=7))
    logits = [network(state, inputs).double().softmax(1) for state in states]
    wanted = -((logits[0] + logits[1]) / 2)[torch.arange(20), data.targets].log().mean()
    assert both.loss == pytest.approx(float(wanted), rel=1e-6)


def random_answers(count: int) -> tuple[list[dict[str, Tensor]], Network, Dataset]:
    """Two networks, and examples whose labels follow the first one's answers now and then."""
    states = [mlp_state(seed) for seed in (0, 1)]
    network = network_for("mlp", states[0])
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 32, generator=generator)
    logits = network(states[0], inputs)
    noise = 2 * logits.std() * torch.randn(logits.shape, generator=generator)
    return states, network, Dataset(inputs, (logits + noise).argmax(1), "x")


def test_one_pass_measures_several_weightings() -> None:
    states, network, data = random_answers(40)
    mixtures = ((0.75, 0.25), (0.5, 0.5))
    found = evaluate_mixtures(network, states, mixtures, data, Judging(batch_size=7))
    wanted = [evaluate_ensemble(network, states, each, data) for each in mixtures]
    assert [one.loss for one in found] == pytest.approx([one.loss for one in wanted], rel=1e-6)
    assert [one.accuracy for one in found] == [one.accuracy for one in wanted]


@pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.5)])
def test_the_temperature_is_the_best_one(weights: tuple[float, ...]) -> None:
    states, network, data = random_answers(60)
    states = states[: len(weights)]
    (found,) = evaluate_mixtures(network, states, (weights,), data, Judging(batch_size=7, calibrate=data))
    parts = [w * network(s, data.inputs).double().softmax(1) for w, s in zip(weights, states, strict=True)]
    logits = torch.stack(parts).sum(0).log()
    at = found.metrics["temperature"]
    losses = {t: float(F.cross_entropy(logits / t, data.targets)) for t in (1.0, at, 0.95 * at, 1.05 * at)}
    assert losses[at] == pytest.approx(found.loss, rel=1e-6)
    assert min(losses, key=losses.__getitem__) == at
    assert found.accuracy == evaluate_ensemble(network, states, weights, data).accuracy


def test_logits_that_are_alike_have_no_best_scale() -> None:
    labels = torch.tensor([0, 1, -100])
    assert fitted_scale([(torch.zeros(3, 4), labels)]) == 1.0
    assert fitted_scale([(torch.full((3, 4), torch.nan), labels)]) == 1.0
    assert fitted_scale([(torch.eye(4)[:3], labels)]) == pytest.approx(HIGH)  # all right: the surer the better
