"""Activation matching: a planted permutation is found, whatever the weights look like, and dead units do no harm."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from rebasin_cli.hooks import PairRun, Taps
from rebasin_cli.matching.data.activations import match_by_activations
from rebasin_cli.matching.data.channels import channel_axis, segment_of, segments_of
from rebasin_cli.matching.options import ActivationOptions, Similarity
from rebasin_cli.matching.problem import ActivationProblem
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from tests.benchmarks.train_resnet import ResNet
from tests.evaluation.building import layout_of, network_for, randomise
from tests.spec.building import bound


def both(family: str, a: dict[str, Tensor], b: dict[str, Tensor], inputs: Tensor, batch: int = 16) -> PairRun:
    network = network_for(family, a)

    def run(taps_a: Taps, taps_b: Taps) -> None:
        with torch.no_grad():
            for x in inputs.split(batch):
                network.logits(network.load(a), x, taps_a)
                network.logits(network.load(b), x, taps_b)

    return run


def states(family: str) -> dict[str, Tensor]:
    layers = nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)
    module = nn.Sequential(*copy.deepcopy(layers)) if family == "mlp" else ResNet(4, 1, 3)
    return {k: t.clone() for k, t in randomise(module).state_dict().items()}


def images(count: int = 40) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("similarity", ["covariance", "correlation"])
@pytest.mark.parametrize("family", ["mlp", "resnet-basic"])
def test_a_planted_permutation_is_found(family: str, similarity: Similarity) -> None:
    a = states(family)
    layout = layout_of(family, a)
    planted = Permutation.random(layout, 5)
    b = {key: permuted(planted, layout, a)[key] for key in a}
    # of the same answers but other weights: the loudness of every unit is another (ReLU lets it through)
    if similarity == "correlation" and family == "mlp":
        b["0.weight"], b["0.bias"], b["2.weight"] = 3 * b["0.weight"], 3 * b["0.bias"], b["2.weight"] / 3
    result = match_by_activations(
        ActivationProblem(layout, a, b, both(family, a, b, images())), options=ActivationOptions(similarity=similarity)
    )
    moved = planted.compose(result.permutation, layout)
    network = network_for(family, a)
    aligned = {key: permuted(result.permutation, layout, b)[key] for key in b}
    torch.testing.assert_close(network(aligned, images()), network(a, images()))
    wrong = {dim: moved.fraction_moved(dim) for dim in layout.moving()}
    if similarity == "correlation":
        # units that are dead on all examples have no place of their own
        assert sum(wrong.values()) / len(wrong) < 0.35, wrong
    assert not result.notes
    assert result.stop == "converged"
    assert result.solves == len(layout.moving())


def test_similarities_are_those_of_the_definition() -> None:
    """Against numpy's corrcoef on activations computed by hand; a dead unit has no correlation."""
    a, b = states("mlp"), states("mlp")
    generator = torch.Generator().manual_seed(1)
    for key, tensor in b.items():
        b[key] = tensor + torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    a["0.weight"][4], a["0.bias"][4] = 0, -1
    layout = layout_of("mlp", a)
    from rebasin_cli.matching.data.activations import _Multiplying, _Remembering, _Sums

    shapes = {key: tuple(t.shape) for key, t in a.items()}
    x = images(37).flatten(1)
    hidden = [torch.relu(x @ s["0.weight"].T + s["0.bias"]) for s in (a, b)]
    for centred in (True, False):
        sums = _Sums(layout, shapes, "", centred)
        both("mlp", a, b, images(37))(_Remembering(sums), _Multiplying(sums))
        found = sums.grams()[("h.0",)]
        if centred:
            wanted = torch.corrcoef(torch.cat([h.T for h in hidden]))[:9, 9:].nan_to_num(0.0)
            assert bool((found[4] == 0).all())
        else:
            wanted = hidden[0].T @ hidden[1]
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("similarity", ["covariance", "correlation"])
def test_a_module_named_by_hand_replaces_what_layers_read(similarity: Similarity) -> None:
    """Against the correlation of what the first layer makes, before the nonlinearity, computed by hand."""
    a, b = states("mlp"), states("mlp")
    generator = torch.Generator().manual_seed(1)
    for key, tensor in b.items():
        b[key] = tensor + torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    layout = layout_of("mlp", a)
    run = both("mlp", a, b, images(37))
    derived = match_by_activations(
        ActivationProblem(layout, a, b, run), options=ActivationOptions(similarity=similarity)
    )
    tapped = match_by_activations(
        ActivationProblem(layout, a, b, run, modules={"h.0": "0"}), options=ActivationOptions(similarity=similarity)
    )
    x = images(37).flatten(1)
    hidden = [x @ s["0.weight"].T + s["0.bias"] for s in (a, b)]
    gram = hidden[0].T @ hidden[1]
    if similarity == "correlation":
        gram = torch.corrcoef(torch.cat([h.T for h in hidden]))[:9, 9:]
    best = linear_sum_assignment(gram.numpy(), maximize=True)[1]
    assert tapped.permutation["h.0"].tolist() == best.tolist()
    assert not torch.equal(derived.permutation["h.0"], tapped.permutation["h.0"])
    assert torch.equal(derived.permutation["h.2"], tapped.permutation["h.2"])


def test_units_of_a_dim_within_an_owner_are_counted_inside_it() -> None:
    layout = bound("dims:\n  v: within h\ntensors:\n  x: (h v) _\n  y: h\n", {"x": (6, 2), "y": (2,)})
    segment = segment_of(layout, "v")
    assert segment.dims == ("h", "v")
    assert segment.channels[1].flatten().tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("shape", "channels", "axis"),
    [
        ((1, 5), 5, -1), ((1, 5), 4, None), ((1, 5, 8, 8), 5, 1), ((1, 8, 8, 5), 5, -1), ((1, 5, 5, 5), 5, 1),
        ((1, 7, 5), 5, -1), ((1, 5, 7), 5, 1), ((1, 5, 5), 5, -1), ((5,), 5, None),
    ],
)  # fmt: skip
def test_the_axis_of_the_channels(shape: tuple[int, ...], channels: int, axis: int | None) -> None:
    assert channel_axis(shape, channels) == axis


def test_a_flattened_axis_has_positions() -> None:
    module = nn.Sequential()
    module.features = nn.Sequential(nn.Conv2d(1, 6, 3))
    module.classifier = nn.Sequential(nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3))
    state = module.state_dict()
    layout = layout_of("vgg", state)
    (segment,) = segments_of(layout, "classifier.0.weight", (5, 24), 1)
    assert tuple(segment.channels.shape) == (6, 4)
    assert segment.channels[2].tolist() == [8, 9, 10, 11]


def test_dims_of_few_units_have_channels() -> None:
    layout = bound(
        "tensors:\n  w: (g u) _\n  v: _ (g u)\ndims:\n  u: within g\nsizes:\n  u: 3\n", {"w": (6, 5), "v": (4, 6)}
    )
    (segment,) = segments_of(layout, "v", (4, 6), 1)
    assert segment.dims == ("g", "u")
    assert segment.channels.tolist() == [[[0], [1], [2]], [[3], [4], [5]]]
