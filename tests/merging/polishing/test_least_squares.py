"""Least squares after matching: right values by hand, every kind of layer, and networks that make it hard."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rebasin_cli.errors import ContentError
from rebasin_cli.merging.polishing.least_squares import Examples, Polished, least_squares
from rebasin_cli.merging.polishing.solving import brought_onto, ridge_of

State = dict[str, Tensor]


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A module with random weights and BatchNorm statistics, in float64."""
    torch.manual_seed(seed)
    module = make().double().eval()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                part.weight.data.uniform_(0.5, 2)
                part.bias.data.normal_()
    return module


def state_of(module: nn.Module) -> State:
    """Every tensor of floats once."""
    named = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named if tensor.is_floating_point()}


def examples(module: nn.Module, inputs: Tensor, batches: int = 2, **more: Any) -> Examples:
    """The module on the inputs, in batches; each run has a module of its own, as hooks and swapped tensors need."""

    def run(params: State, batch: Tensor) -> Any:
        own = copy.deepcopy(module, {id(t): t for t in (*module.parameters(), *module.buffers())})
        return functional_call(own, params, (batch,))

    return Examples(run, inputs.tensor_split(batches), inputs[:2], answer=lambda outputs: outputs, **more)


def polish(
    make: Callable[[], nn.Module], inputs: Tensor, members: int = 2, start: State | None = None, **more: Any
) -> tuple[Polished, nn.Module, list[State]]:
    """Members from as many seeds, and their plain mean polished."""
    module = seeded(make, 0)
    states = [state_of(seeded(make, seed)) for seed in range(members)]
    mean = start or {key: sum(s[key] for s in states) / members for key in states[0]}  # type: ignore[misc]
    found = least_squares(mean, states, (1 / members,) * members, examples(module, inputs, **more))
    return found, module, states


def outputs(module: nn.Module, state: State, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return functional_call(module, state, (inputs,))


def error(module: nn.Module, state: State, states: Sequence[State], inputs: Tensor) -> float:
    """Mean square of the difference to the members' mean output, relative to that output's variance."""
    wanted = sum(outputs(module, s, inputs) for s in states) / len(states)
    return float((outputs(module, state, inputs) - wanted).square().mean() / wanted.var())


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def test_a_linear_network_becomes_the_mean_function() -> None:
    """With more units than outputs, two linear layers can be any matrix; ours are the members' mean output exactly."""
    found, module, states = polish(lambda: nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 3)), normal(4000, 5))
    assert found.solved == ["0.weight", "1.weight"]
    inputs = normal(50, 5)
    assert error(module, found.params, states, inputs) < 1e-3  # all that the ridge leaves
    one = [s["0.weight"] for s in states]
    torch.testing.assert_close(found.params["0.weight"], (one[0] + one[1]) / 2, rtol=1e-9, atol=1e-9)


def test_a_linear_map_brings_units_together() -> None:
    """Of tables with opposite signs the mean is nothing; the two networks are one function all the same."""
    module = seeded(lambda: nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 3)), 0)
    one = state_of(module)
    two = {key: tensor if key == "1.bias" else -tensor for key, tensor in one.items()}
    mean = {key: (one[key] + two[key]) / 2 for key in one}
    tokens = torch.randint(20, (300, 8), generator=torch.Generator().manual_seed(0))
    found = least_squares(mean, (one, two), (0.5, 0.5), examples(module, tokens))
    assert error(module, found.params, [one, two], tokens) < 1e-6


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.cell(x)[0])
        return answer


def test_what_is_mostly_not_fitted_is_not_one_members() -> None:
    """The head alone is fitted, and in the units of the first member its cell would answer nearer."""
    module = seeded(Recurrent, 0)
    one = state_of(module)
    two = {key: tensor if key.startswith("head") else -0.9 * tensor for key, tensor in one.items()}
    mean = {key: (one[key] + two[key]) / 2 for key in one}
    found = least_squares(mean, (one, two), (0.5, 0.5), examples(module, normal(40, 6, 5)))
    assert found.solved == ["head.weight"]
    assert all(torch.equal(found.params[key], mean[key]) for key in mean if key.startswith("cell"))


@pytest.mark.parametrize("units", [1, -1])
def test_outputs_are_brought_onto_what_they_are_an_image_of(units: int) -> None:
    onto = [normal(60, 5, 5), normal(40, 5, 5)]
    map_ = normal(5, 5)
    outputs = [(each.movedim(units, -1) @ map_ + 3).movedim(-1, units) for each in onto]
    for found, wanted in zip(brought_onto(outputs, onto, units), onto, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-2)


def test_the_last_layer_has_the_weights_of_the_normal_equations() -> None:
    inputs = normal(300, 4)
    found, module, states = polish(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), inputs)
    z = (inputs @ found.params["0.weight"].T + found.params["0.bias"]).relu()
    y = sum(outputs(module, s, inputs) for s in states) / 2
    start = (states[0]["2.weight"] + states[1]["2.weight"]) / 2
    about_z, about_y = z - z.mean(0), y - y.mean(0)
    g, h = about_z.T @ about_z / 300, about_z.T @ about_y / 300
    ridge = ridge_of(6, 300) * g.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    wanted = start + torch.linalg.solve(g + ridge, h - g @ start.T).T
    torch.testing.assert_close(found.params["2.weight"], wanted, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.params["2.bias"], y.mean(0) - wanted @ z.mean(0), rtol=1e-6, atol=1e-8)


def test_the_ridge_falls_with_the_examples() -> None:
    assert ridge_of(784, 500) == ridge_of(100, 100) == 1e-2
    assert ridge_of(100, 200) == pytest.approx(1e-2 / 8)
    assert ridge_of(10, 10_000) == 1e-6


class Transformer(nn.Module):
    """Tokens, two kinds of attention, sums that are streams, an output tied to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 11, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + F.dropout(self.down(F.gelu(self.up(self.norm(x)))), training=self.training)
        return self.head(x)


class Block(nn.Module):
    """Two convolutions with BatchNorm beside a shortcut that runs after them, added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 5, 3, padding=1, stride=2), nn.BatchNorm2d(5)
        self.short, self.bn3, self.fc = nn.Conv2d(2, 5, 1, stride=2), nn.BatchNorm2d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        y += self.bn3(self.short(x))
        return self.fc(F.relu_(y).mean((2, 3)))


def convolutions(kernel: int = 3, groups: int = 1, stride: int = 1, dilation: int = 1, n: int = 2) -> nn.Module:
    conv, back = ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d))[
        n - 1
    ]
    first = conv(4, 8, kernel, stride, kernel // 2, dilation, groups)
    return nn.Sequential(first, nn.Tanh(), back(8, 4, kernel, stride, 1, stride - 1, groups, dilation=dilation))


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), lambda n: normal(n, 6)),
    "batchnorm of vectors": (
        lambda: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3)), lambda n: normal(n, 6)
    ),
    "residual block": (Block, lambda n: normal(n, 2, 8, 8)),
    "transposed": (lambda: convolutions(stride=2), lambda n: normal(n, 4, 7, 7)),
    "grouped": (lambda: convolutions(groups=2), lambda n: normal(n, 4, 6, 6)),
    "depthwise, transposed": (lambda: convolutions(groups=4, stride=2), lambda n: normal(n, 4, 7, 7)),
    "dilated": (lambda: convolutions(dilation=2), lambda n: normal(n, 4, 9, 9)),
    "one dimension": (lambda: convolutions(n=1, stride=2), lambda n: normal(n, 4, 11)),
    "three dimensions": (lambda: convolutions(n=3), lambda n: normal(n, 4, 4, 4, 4)),
    "padding by name": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 4, padding="same"), nn.Tanh(), nn.Conv2d(6, 2, 3, padding="valid")),
        lambda n: normal(n, 2, 6, 6),
    ),
    "norms of instances and groups": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.ReLU(),
            nn.Conv2d(6, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 1),
        ), lambda n: normal(n, 2, 8, 8),
    ),
    "transformer": (Transformer, lambda n: normal(n, 9).mul(100).long() % 11),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_layer_comes_nearer_to_the_mean_output(name: str) -> None:
    make, data = KINDS[name]
    found, module, states = polish(make, data(200), batches=3)
    assert not found.left
    mean = {key: (states[0][key] + states[1][key]) / 2 for key in states[0]}
    fresh = data(260)[200:]
    assert error(module, found.params, states, fresh) < 0.8 * error(module, mean, states, fresh)
    assert found.params.keys() == states[0].keys()
    assert all(found.params[key].shape == states[0][key].shape for key in found.params)


@pytest.mark.parametrize("name", KINDS)
def test_equal_members_stay_what_they_are(name: str) -> None:
    """Every layer's target is what the layer makes: forms of weights there and back, streams, norms that are folded."""
    make, data = KINDS[name]
    module = seeded(make, 3)
    state, inputs = state_of(module), data(60)
    found = least_squares(state, [state, state], (0.25, 0.75), examples(module, inputs))
    torch.testing.assert_close(
        outputs(module, found.params, inputs), outputs(module, state, inputs), rtol=1e-6, atol=1e-6
    )
    assert not found.left


def test_batchnorm_holds_the_statistics_of_what_it_is_given() -> None:
    """So that a later reset of them changes nothing."""
    inputs = normal(100, 2, 8, 8)
    found, module, _ = polish(Block, inputs)
    functional = copy.deepcopy(module)
    functional.load_state_dict(found.params, strict=False)
    for part in functional.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
    functional.train()
    with torch.no_grad():
        functional(inputs)
    for key, tensor in functional.state_dict().items():
        if "running" in key:
            torch.testing.assert_close(tensor, found.params[key], rtol=1e-3, atol=1e-6)


def test_batches_and_runs_give_the_same_bytes() -> None:
    make, data = KINDS["residual block"]
    one, two = (polish(make, data(60), batches=3)[0].params for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = polish(make, data(60), batches=1)[0].params
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-8, atol=1e-8)


def test_one_temperature_fits_the_mean_probabilities() -> None:
    make, data = KINDS["mlp"]
    inputs = 3 * data(400)
    found, module, states = polish(make, inputs, members=3, logits=lambda outputs: outputs)
    plain, *_ = polish(make, inputs, members=3)
    ratio = found.params["2.weight"] / plain.params["2.weight"]
    torch.testing.assert_close(ratio, torch.full_like(ratio, found.scale))
    wanted = sum(outputs(module, s, inputs).softmax(1) for s in states) / 3
    logits = outputs(module, plain.params, inputs)
    losses = [float(F.cross_entropy(found.scale * f * logits, wanted)) for f in (0.98, 1, 1.02)]
    assert losses[1] == min(losses)
    assert found.scale != 1


class Twice(nn.Module):
    """A layer that is used twice, a tied pair, and layers that are called in another order than they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.late, self.early = nn.Linear(6, 5), nn.Linear(6, 6), nn.Linear(5, 6)
        self.shared, self.tied = nn.Linear(6, 6), nn.Embedding(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.early(x))
        y = torch.tanh(self.shared(torch.tanh(self.shared(y))))
        y = torch.tanh(self.late(y)) + self.tied(torch.zeros(len(x), dtype=torch.long))
        return F.linear(y, self.tied.weight) + self.out(y)


def test_shared_weights_stay_in_the_order_of_execution() -> None:
    found, _, states = polish(Twice, normal(200, 5))
    assert found.solved == ["early.weight", "late.weight", "out.weight"]
    assert sorted(found.left) == ["shared.weight", "tied.weight"]
    for key in ("shared.weight", "shared.bias", "tied.weight"):
        assert torch.equal(found.params[key], (states[0][key] + states[1][key]) / 2)
    assert all(bool(tensor.isfinite().all()) for tensor in found.params.values())


def test_few_examples_and_dead_units_give_finite_weights() -> None:
    make, data = KINDS["mlp"]
    states = [state_of(seeded(make, seed)) for seed in (0, 1)]
    for state in states:
        state["0.weight"][3], state["0.bias"][3] = 0, 0
    mean = {key: (states[0][key] + states[1][key]) / 2 for key in states[0]}
    found = least_squares(mean, states, (0.5, 0.5), examples(seeded(make, 0), data(4)))
    assert found.scarce == ["0.weight", "2.weight"]
    assert all(bool(tensor.isfinite().all()) for tensor in found.params.values())


def test_activations_that_are_no_numbers_leave_a_layer_as_it_is() -> None:
    make, data = KINDS["mlp"]
    inputs = data(50)
    inputs[3, 2] = float("nan")
    found, _, states = polish(make, inputs)
    assert found.left == ["0.weight", "2.weight"]
    assert not found.solved
    torch.testing.assert_close(found.params["0.weight"], (states[0]["0.weight"] + states[1]["0.weight"]) / 2)


class Fickle(nn.Module):
    """Another way through the layers for some inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)) if len(x) == 2 else self.two(x)


def test_a_network_that_goes_other_ways_is_refused() -> None:
    with pytest.raises(ContentError, match="on all examples"):
        polish(Fickle, normal(50, 5))


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise ValueError("no such batch")
        return self.one(x)


def test_an_error_of_the_network_comes_out() -> None:
    with pytest.raises(ValueError, match="no such batch"):
        polish(Broken, normal(50, 5))


def test_frozen_weights_stay() -> None:
    make, data = KINDS["mlp"]
    states = [state_of(seeded(make, seed)) for seed in (0, 1)]
    mean = {key: (states[0][key] + states[1][key]) / 2 for key in states[0]}
    run = examples(seeded(make, 0), data(50))
    found = least_squares(mean, states, (0.5, 0.5), run, frozen=("0.weight",))
    assert found.solved == ["2.weight"]
    assert not found.left
    assert torch.equal(found.params["0.weight"], mean["0.weight"])
