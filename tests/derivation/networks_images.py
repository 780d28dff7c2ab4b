"""Networks that read images or points."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.derivation.networks import Made, images, vectors


def conv(inner: int, outer: int, kernel: int = 3, **options: int) -> nn.Sequential:
    """A convolution without bias, a norm and a ReLU."""
    padded = nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(padded, nn.BatchNorm2d(outer), nn.ReLU(inplace=True))


class TwoLevelUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv(3, 4), conv(4, 6), conv(6, 8)
        self.up2, self.merge2 = nn.ConvTranspose2d(8, 5, 2, 2), conv(11, 6)
        self.up1, self.merge1 = nn.ConvTranspose2d(6, 3, 2, 2), conv(7, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        y = self.up2(self.middle(F.max_pool2d(two, 2)))
        y = self.merge2(torch.cat([two, y], 1))
        return self.out(self.merge1(torch.cat([self.up1(y), one], 1)))


class Bottleneck(nn.Module):
    def __init__(self, inner: int, middle: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, middle, 1, bias=False), nn.BatchNorm2d(middle)
        self.conv2, self.bn2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False), nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = nn.Conv2d(middle, outer, 1, bias=False), nn.BatchNorm2d(outer)
        self.downsample = nn.Identity()
        if inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + self.downsample(x))


class BottleneckResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv(3, 8), nn.Linear(12, 3)
        self.layer1 = nn.Sequential(Bottleneck(8, 4, 12, 2), Bottleneck(12, 5, 12, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer1(self.stem(x)).mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads all the layers before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(6, 3)
        self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(7), nn.Conv2d(7, 3, 3, padding=1)
        self.bn3, self.conv3 = nn.BatchNorm2d(10), nn.Conv2d(10, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0(x)
        x = torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.bn2(x)))], 1)
        return self.fc(F.relu(self.conv3(F.relu(self.bn3(x)))).mean((2, 3)))


class Separable(nn.Module):
    """Every channel makes two of its own, which have a permutation for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv(3, 6), nn.Linear(8, 3)
        self.depth, self.bn = nn.Conv2d(6, 12, 3, groups=6, padding=1), nn.BatchNorm2d(12)
        self.point = nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu6(self.point(F.relu6(self.bn(self.depth(self.stem(x)))))).mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 14), nn.Linear(14, width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1)))))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 3)
        self.blocks = nn.Sequential(ConvNeXtBlock(8), ConvNeXtBlock(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class NormOverPlaces(nn.Module):
    """A LayerNorm over channels, rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 6, 3), nn.LayerNorm([6, 4, 4]), nn.Conv2d(6, 8, 3)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.elu(self.b(F.elu(self.norm(self.a(x))))).mean((2, 3)))


class DuellingDqn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten())
        self.advantage = nn.Sequential(nn.Linear(128, 9), nn.ReLU(), nn.Linear(9, 4))
        self.value = nn.Sequential(nn.Linear(128, 7), nn.ReLU(), nn.Linear(7, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        advantage = self.advantage(y)
        return self.value(y) + advantage - advantage.mean(1, keepdim=True)


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 10, 1), nn.Linear(10, 9)
        self.bn, self.out = nn.BatchNorm1d(8), nn.Linear(9, 4)

    def forward(self, points: Tensor) -> Tensor:
        y = self.b(F.relu(self.bn(self.a(points.transpose(1, 2)))))
        return self.out(F.relu(self.c(torch.max(y, 2, keepdim=True)[0].squeeze(2))))


class MixerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(10), nn.LayerNorm(10)
        self.tokens = nn.Sequential(nn.Linear(4, 7), nn.GELU(), nn.Linear(7, 4))
        self.channels = nn.Sequential(nn.Linear(10, 12), nn.GELU(), nn.Linear(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 10, 4, 4), nn.LayerNorm(10), nn.Linear(10, 3)
        self.blocks = nn.ModuleList(MixerBlock() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y).mean(1))


class Inverted(nn.Module):
    """An inverted bottleneck: convolutions and norms have the same keys but for their numbers."""

    def __init__(self, inner: int, outer: int, times: int) -> None:
        super().__init__()
        wide = times * inner
        self.added = inner == outer
        self.block = nn.Sequential(
            *conv(inner, wide, 1), *conv(wide, wide, groups=wide), *conv(wide, outer, 1)[:2]
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + y if self.added else y


def inverted() -> Made:
    blocks = nn.Sequential(Inverted(6, 8, 2), Inverted(8, 8, 2), Inverted(8, 10, 3))
    return nn.Sequential(
        OrderedDict(stem=conv(3, 6), blocks=blocks, flat=nn.Flatten(), out=nn.Linear(640, 3))
    ), images()


def tracked() -> Made:
    """Instance norms that keep running statistics, as generators of pictures have them."""
    norm = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
    return nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(True), nn.ConvTranspose2d(6, 5, 2), nn.Tanh()), images(
        side=5
    )


NETWORKS: dict[str, Callable[[], Made]] = {
    "two-level u-net": lambda: (TwoLevelUNet(), images()),
    "bottlenecks": lambda: (BottleneckResNet(), images()),
    "dense": lambda: (Dense(), images()),
    "separable": lambda: (Separable(), images()),
    "convnext": lambda: (ConvNeXt(), images()),
    "norm over places": lambda: (NormOverPlaces(), images(side=6)),
    "duelling dqn": lambda: (DuellingDqn(), images()),
    "pointnet": lambda: (PointNet(), vectors(3, 7)),
    "mixer": lambda: (Mixer(), images()),
    "inverted bottlenecks": inverted,
    "tracked norm": tracked,
}

GROUPS = {
    "two-level u-net": {"4": 2, "6": 2, "8": 1, "5": 1, "3": 1},
    "bottlenecks": {"8": 1, "4": 2, "12": 1, "5": 2},
    "dense": {"4": 1, "3": 2, "6": 1},
    "separable": {"6": 1, "2 in 6": 1, "8": 1},
    "convnext": {"8": 1, "14": 2},
    "norm over places": {"6": 1, "8": 1},
    "duelling dqn": {"6": 1, "8": 1, "9": 1, "7": 1},
    "pointnet": {"8": 1, "10": 1, "9": 1},
    "mixer": {"10": 1, "7": 2, "12": 2},
    "inverted bottlenecks": {"6": 1, "12": 1, "8": 1, "16": 1, "24": 1, "10": 1},
    "tracked norm": {"6": 1},
}
