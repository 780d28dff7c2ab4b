"""Examples against networks: what fits, and what is refused before anything is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.compatibility import check_fits, fitting_loss
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.networks.network import Network
from tests.evaluation.building import network_for

LABELS = torch.tensor([0, 3, 1])


def data(inputs: Tensor, targets: Tensor = LABELS) -> Dataset:
    return Dataset(inputs, targets, "digits.npz")


@pytest.fixture
def mlp() -> Network:
    return network_for("mlp", nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4)).state_dict())


def convnet(channels: int) -> Network:
    shapes = {
        "features.0.weight": (5, channels, 3, 3),
        "features.3.weight": (6, 5, 3, 3),
        "classifier.weight": (4, 6),
    }
    return network_for("vgg", {key: torch.zeros(shape) for key, shape in shapes.items()})


@pytest.mark.parametrize("shape", [(3, 12), (3, 3, 4), (3, 1, 3, 4)])
def test_vectors_of_the_right_size_fit(mlp: Network, shape: tuple[int, ...]) -> None:
    check_fits(mlp, data(torch.rand(shape)))


def test_images_fit_and_grey_ones_get_their_channel() -> None:
    check_fits(convnet(3), data(torch.rand(3, 3, 8, 8)))
    check_fits(convnet(1), data(torch.rand(3, 1, 8, 8)))
    check_fits(convnet(1), data(torch.rand(3, 8, 8)))


def test_vectors_of_another_size(mlp: Network) -> None:
    with pytest.raises(ContentError, match=r"one input has 10 numbers .* the network takes 12"):
        check_fits(mlp, data(torch.rand(3, 2, 5)))


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 192), (3, 3, 8, 8, 8)])
def test_images_of_another_rank(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContentError, match=r"takes images \(N, 3, height, width\)"):
        check_fits(convnet(3), data(torch.rand(shape)))


def test_images_of_other_channels() -> None:
    with pytest.raises(ContentError, match=r"1 channels, and the network takes \(N, 3,"):
        check_fits(convnet(3), data(torch.rand(3, 1, 8, 8)))
    with pytest.raises(ContentError) as caught:
        check_fits(convnet(3), data(torch.rand(3, 8, 8, 3)))
    assert "transpose(0, 3, 1, 2)" in caught.value.remedy


def test_images_too_small_for_the_network() -> None:
    with pytest.raises(ContentError, match="cannot pass through the network"):
        check_fits(convnet(3), data(torch.rand(3, 3, 3, 3)))


@pytest.mark.parametrize(("labels", "said"), [([0, 1, 4], "from 0 to 4"), ([0, -1, 3], "from -1 to 3")])
def test_labels_outside_the_classes(mlp: Network, labels: list[int], said: str) -> None:
    with pytest.raises(ContentError, match=f"{said}, and the network has 4 classes, 0 to 3"):
        fitting_loss(None, mlp, {}, data(torch.rand(3, 12), torch.tensor(labels)))


def test_several_inputs_are_not_for_a_shipped_network(mlp: Network) -> None:
    with pytest.raises(ContentError, match=r"several inputs \(inputs.0, inputs.1\), and the mlp network takes one"):
        check_fits(mlp, Dataset((torch.rand(3, 12), torch.rand(3, 2)), LABELS, "digits.npz"))


BAD_TARGETS: dict[str, tuple[str | None, Tensor, str, str]] = {
    "floats for labels": (None, LABELS.float(), r"\(2, 4\), and the targets are \(2,\)", "saved as int64"),
    "one-hot": (None, torch.eye(4, dtype=torch.int64)[LABELS], "a logit for every class", "argmax"),
    "counts": (None, torch.arange(12).reshape(3, 4), "a logit for every class", "--loss mse"),
    "floats, cross-entropy": ("cross-entropy", LABELS.float(), "needs class numbers", "int64"),
    "labels, mse": ("mse", LABELS, "number by number", "cross-entropy"),
    "one short, mae": ("mae", torch.rand(3, 3), r"\(2, 4\), and the targets are \(2, 3\)", "shape of the outputs"),
    "would broadcast": ("mse", torch.rand(3, 1), r"\(2, 4\), and the targets are \(2, 1\)", "shape of the outputs"),
    "bool": (None, LABELS > 0, "`targets` are bool", "int64"),
    "no answers": (None, torch.full((3,), -100), "every target is -100", "give some targets"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_targets_that_do_not_fit_the_loss(mlp: Network, case: str) -> None:
    name, targets, words, remedy = BAD_TARGETS[case]
    with pytest.raises(ContentError, match=words) as caught:
        fitting_loss(name, mlp, {}, data(torch.rand(3, 12), targets))
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "words"),
    [("distance", "--objective distance"), ("midpoint", "--objective midpoint"), ("random", "--objective random"),
     ("cross_entropy", "cross-entropy"), ("absent:f", "holds the module")],
)  # fmt: skip
def test_a_name_that_no_loss_has(mlp: Network, name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        fitting_loss(name, mlp, {}, data(torch.rand(3, 12)))
    assert words in caught.value.what + caught.value.remedy


def test_integers_are_not_taken_for_pixels(mlp: Network) -> None:
    with pytest.raises(ContentError, match="`inputs` are int64"):
        check_fits(mlp, data(torch.ones(3, 12, dtype=torch.int64)))
