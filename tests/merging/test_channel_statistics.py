"""Statistics after merging, against torch's own BatchNorm and against what was asked for."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.networks.network import Network
from rebasin_cli.hooks import Layer, Run, Taps, per_channel
from rebasin_cli.merging.channel_statistics import Channels, measure_channels, repair_channels, reset_statistics
from tests.benchmarks.train_resnet import ResNet
from tests.evaluation.building import network_for, randomise


def over(network: Network, inputs: Tensor, batch: int) -> Run:
    def run(params: dict[str, Tensor], taps: Taps) -> None:
        with torch.no_grad():
            for x in inputs.split(batch):
                network.logits(params, x, taps)

    return run


def inputs_for(seed: int = 0, count: int = 24) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(a: Mapping[str, Tensor], b: Mapping[str, Tensor], lam: float) -> dict[str, Tensor]:
    return {k: torch.lerp(t, b[k], lam) if t.is_floating_point() else t for k, t in a.items()}


@pytest.mark.parametrize("batch", [24, 8, 7])
def test_reset_statistics_are_those_of_torch(batch: int) -> None:
    module = randomise(ResNet(4, 1, 3))
    state = {k: t.clone() for k, t in module.state_dict().items()}
    network = network_for("resnet-basic", state)
    repaired = reset_statistics(network.load(state), over(network, inputs_for(), batch))
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
            part.reset_running_stats()
    module.train()
    with torch.no_grad():
        for x in inputs_for().split(batch):
            module(x)
    expected = {k: t for k, t in module.state_dict().items() if "running" in k}
    assert set(repaired.changed) == set(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(repaired.changed[key], tensor, rtol=1e-9, atol=1e-12)
        assert not torch.equal(tensor, state[key])


class Probe(Taps):
    def __init__(self) -> None:
        self.found: dict[str, list[Tensor]] = {}

    def leaving(self, layer: Layer, y: Tensor) -> Tensor:
        self.found.setdefault(layer.name, []).append(per_channel(layer, y).clone())
        return y


@pytest.mark.parametrize("family", ["mlp", "resnet-basic"])
def test_a_repaired_network_has_the_channels_it_was_asked_for(family: str) -> None:
    if family == "mlp":
        layers = nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)
        modules = [randomise(copy.deepcopy(nn.Sequential(*layers)), s) for s in (0, 1)]
    else:
        modules = [randomise(ResNet(4, 1, 3), s) for s in (0, 1)]
    a, b = ({k: t.clone() for k, t in m.state_dict().items()} for m in modules)
    network = network_for(family, a)
    run = over(network, inputs_for(), 24)
    one, two = (measure_channels(network.load(s), run) for s in (a, b))
    head = {"mlp": "4", "resnet-basic": "fc"}[family]
    assert head not in one
    assert len(one) == {"mlp": 2, "resnet-basic": 9}[family]
    goals = {name: Channels.mixed((one[name], two[name]), (0.7, 0.3)) for name in one}
    middle = mixed(a, b, 0.3)
    repaired = repair_channels(network.load(middle), run, goals)
    assert not repaired.remarks
    assert set(repaired.changed) <= set(network.load(middle))
    probe = Probe()
    run({**network.load(middle), **repaired.changed}, probe)
    for name, goal in goals.items():
        rows = torch.cat(probe.found[name])
        torch.testing.assert_close(rows.mean(0), goal.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows.std(0, correction=0), goal.deviation, rtol=1e-4, atol=1e-5)


def test_deviations_are_interpolated_not_variances() -> None:
    parts = [Channels(torch.full((1,), m).double(), torch.full((1,), d).double()) for m, d in ((0, 1.0), (4, 3.0))]
    middle = Channels.mixed(parts, (0.5, 0.5))
    assert (float(middle.mean), float(middle.deviation)) == (2.0, 2.0)
    three = Channels.mixed([*parts, parts[0]], (0.2, 0.5, 0.3))
    assert (float(three.mean), float(three.deviation)) == (2.0, 2.0)


def test_layers_that_cannot_hold_a_correction_are_named() -> None:
    module = randomise(nn.Sequential(nn.Linear(192, 9, bias=False), nn.ReLU(), nn.Linear(9, 4)))
    state = module.state_dict()
    network = network_for("mlp", state)
    run = over(network, inputs_for(), 24)
    goals = measure_channels(network.load(state), run)
    wider = {name: Channels(goal.mean + 1, 2 * goal.deviation) for name, goal in goals.items()}
    repaired = repair_channels(network.load(state), run, wider)
    assert any("no bias" in text for text in repaired.remarks)
    torch.testing.assert_close(repaired.changed["0.weight"], 2 * state["0.weight"], rtol=1e-5, atol=0)


def test_a_dead_channel_stays_as_it_is() -> None:
    module = randomise(nn.Sequential(nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 4)))
    state = module.state_dict()
    state["0.weight"][2] = 0
    network = network_for("mlp", state)
    run = over(network, inputs_for(), 24)
    goals = measure_channels(network.load(state), run)
    assert float(goals["0"].deviation[2]) == 0
    repaired = repair_channels(network.load(state), run, goals)
    assert all(bool(t.isfinite().all()) for t in repaired.changed.values())
    torch.testing.assert_close(repaired.changed["0.bias"][2], state["0.bias"][2])


def test_inputs_are_untouched() -> None:
    state = randomise(ResNet(4, 1, 3)).state_dict()
    network = network_for("resnet-basic", state)
    params = network.load(state)
    before = {k: t.clone() for k, t in params.items()}
    run = over(network, inputs_for(), 8)
    repair_channels(params, run, measure_channels(params, run))
    reset_statistics(params, run)
    for key, tensor in before.items():
        assert torch.equal(tensor, params[key]), key
