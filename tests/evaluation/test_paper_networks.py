"""ResNet20 and VGG16 with LayerNorm, the paper's own, against modules written from its description."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.errors import ContentError, UsageError
from tests.evaluation.building import assert_same_function, images, network_for, randomise


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position, written out from the definition."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        scaled = (x - mean) / (variance + self.eps).sqrt()
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]


class WholeNorm(nn.LayerNorm):
    """GroupNorm with one group: over channels and positions."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((1, 2, 3), keepdim=True)
        scaled = (x - mean) / (variance + self.eps).sqrt()
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]


def conv(into: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, stride, padding=kernel // 2, bias=False)


class Block(nn.Module):
    def __init__(self, into: int, out: int, stride: int, norm: type[nn.Module], kernel: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(into, out, 3, stride), norm(out)
        self.conv2, self.norm2 = conv(out, out, 3), norm(out)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(conv(into, out, kernel, stride), norm(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet20(nn.Module):
    def __init__(self, width: int, norm: type[nn.Module], kernel: int = 1) -> None:
        super().__init__()
        w = 16 * width
        self.conv1, self.norm1 = conv(3, w, 3), norm(w)
        self.layer1 = self._stage(w, w, 1, norm, kernel)
        self.layer2 = self._stage(w, 2 * w, 2, norm, kernel)
        self.layer3 = self._stage(2 * w, 4 * w, 2, norm, kernel)
        self.linear = nn.Linear(4 * w, 10)

    @staticmethod
    def _stage(into: int, out: int, stride: int, norm: type[nn.Module], kernel: int) -> nn.Sequential:
        first = Block(into, out, stride, norm, kernel)
        return nn.Sequential(first, *(Block(out, out, 1, norm, kernel) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def vgg16(norm: type[nn.Module] | None, *, width: int = 4, head: str = "three") -> nn.Module:
    """VGG16 for 32×32 images with `width` channels in its first layer instead of 64."""
    layers: list[nn.Module] = []
    into = 3
    for size in (1, 1, "m", 2, 2, "m", 4, 4, 4, "m", 8, 8, 8, "m", 8, 8, 8, "m"):
        if isinstance(size, str):
            layers.append(nn.MaxPool2d(2))
            continue
        out = size * width
        layers += [nn.Conv2d(into, out, 3, padding=1), *([norm(out)] if norm else []), nn.ReLU()]
        into = out
    if head == "three":
        hidden = 12
        classifier: nn.Module = nn.Sequential(
            *(nn.Linear(into, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        )
    else:
        classifier = nn.Linear(into, 10)
    module = nn.Sequential()
    module.add_module("features", nn.Sequential(*layers))
    module.add_module("flatten", nn.Flatten())
    module.add_module("classifier", classifier)
    return module


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])  # the paper's code has 3×3 shortcuts
def test_resnet20_with_layernorm(width: int, kernel: int) -> None:
    module = randomise(ResNet20(width, ChannelNorm, kernel))
    network = network_for("resnet-basic", module.state_dict())
    assert network.classes == 10
    assert_same_function(network, module, images(32))


def test_groupnorm1_and_layernorm_differ_at_equal_shapes() -> None:
    module = randomise(ResNet20(1, WholeNorm))
    state = module.state_dict()
    assert_same_function(network_for("resnet-basic", state, norm="groupnorm1"), module, images(16))
    by_default = network_for("resnet-basic", state)
    assert (by_default(state, images(16)) - module(images(16))).abs().max() > 1e-3
    assert any("LayerNorm" in note and "norm=groupnorm1" in note for note in by_default.assumptions)


def test_resnet20_with_batchnorm() -> None:
    module = randomise(ResNet20(1, nn.BatchNorm2d))
    assert_same_function(network_for("resnet-basic", module.state_dict()), module, images(32))


@pytest.mark.parametrize("norm", [None, ChannelNorm, nn.BatchNorm2d])
@pytest.mark.parametrize("head", ["three", "one"])
def test_vgg16_for_small_images(norm: type[nn.Module] | None, head: str) -> None:
    module = randomise(vgg16(norm, head=head))
    assert_same_function(network_for("vgg", module.state_dict()), module, images(32))


def test_epsilon_is_an_option() -> None:
    module = randomise(vgg16(ChannelNorm))
    for layer in module.modules():
        if isinstance(layer, ChannelNorm):
            layer.eps = 1e-2
    state = module.state_dict()
    assert_same_function(network_for("vgg", state, norm_eps="1e-2"), module, images(32))
    assert (network_for("vgg", state)(state, images(32)) - module(images(32))).abs().max() > 1e-6
    with pytest.raises(UsageError, match="norm-eps=big"):
        network_for("vgg", state, norm_eps="big")


def test_options_for_a_missing_normalisation_are_refused() -> None:
    state = vgg16(None).state_dict()
    with pytest.raises(UsageError, match="no normalisation"):
        network_for("vgg", state, norm="groupnorm1")
    with pytest.raises(UsageError, match="no normalisation"):
        network_for("vgg", state, norm_eps="1e-6")


def test_pooling_is_read_from_the_numbering_or_given() -> None:
    module = randomise(vgg16(None))
    state = module.state_dict()
    pooled = "2,7,14,21,28"
    assert f"features {pooled} " in " ".join(network_for("vgg", state).assumptions)
    assert_same_function(network_for("vgg", state, pools=pooled), module, images(32))
    with pytest.raises(UsageError, match=r"no convolution features\.3"):
        network_for("vgg", state, pools="2,3")


def test_a_numbering_that_does_not_tell_the_pooling_is_refused() -> None:
    shapes = {"features.0.weight": (4, 3, 3, 3), "features.7.weight": (4, 4, 3, 3), "classifier.weight": (2, 4)}
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    with pytest.raises(ContentError, match="7 apart") as caught:
        network_for("vgg", state)
    assert "pools=" in caught.value.remedy
    assert network_for("vgg", state, pools="0,7").classes == 2
