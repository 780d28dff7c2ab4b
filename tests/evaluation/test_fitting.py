"""Examples against networks: what fits, and what is refused before anything is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation import Dataset, Network, check_fits
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
        check_fits(mlp, data(torch.rand(3, 12), torch.tensor(labels)))


def test_integers_are_not_taken_for_pixels(mlp: Network) -> None:
    with pytest.raises(ContentError, match="`inputs` are int64"):
        check_fits(mlp, data(torch.ones(3, 12, dtype=torch.int64)))
