"""Small trained networks to judge methods on: several seeds of each, trained once and kept under `bench/`.

    python -m tests.benchmarks.trained

Fashion-MNIST comes from Debian's package `dataset-fashion-mnist` (or FASHION_MNIST names a folder of idx files),
the digits from scikit-learn. What is trained is not committed: the same seeds give like networks on every machine.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rebasin_cli.evaluation.data import Dataset, load_data
from rebasin_cli.evaluation.networks.module_network import ModuleNetwork
from tests.data.train_digits import load_split

FOLDER = Path(__file__).parents[2] / "bench" / "trained"
FASHION = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
Split = tuple[Tensor, Tensor, Tensor, Tensor]


class Mlp(nn.Module):
    """A perceptron with ReLU; its keys are `fc.{i}.weight` and `fc.{i}.bias`."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.fc = nn.ModuleList(nn.Linear(n, m) for n, m in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.fc[:-1]:
            x = torch.relu(layer(x))
        return self.fc[-1](x)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position, as in the paper's networks."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _conv(into: int, out: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, stride, padding=kernel // 2, bias=False)


Norm = Callable[[int], nn.Module]


class _Block(nn.Module):
    def __init__(self, into: int, out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(into, out, 3, stride), norm(out)
        self.conv2, self.norm2 = _conv(out, out, 3, 1), norm(out)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(_conv(into, out, 1, stride), norm(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def _stage(into: int, out: int, stride: int, norm: Norm, blocks: int) -> nn.Sequential:
    first = _Block(into, out, stride, norm)
    return nn.Sequential(first, *(_Block(out, out, 1, norm) for _ in range(blocks - 1)))


class Residual(nn.Module):
    """Basic blocks (the CIFAR layout), so many a stage, for grey images: ResNet-8, ResNet-20, …"""

    def __init__(self, width: int, norm: Norm = ChannelNorm, blocks: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(1, width, 3, 1), norm(width)
        self.layer1 = _stage(width, width, 1, norm, blocks)
        self.layer2 = _stage(width, 2 * width, 2, norm, blocks)
        self.layer3 = _stage(2 * width, 4 * width, 2, norm, blocks)
        self.linear = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x.unsqueeze(1))))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class Blstm(nn.Module):
    """Two bidirectional layers that read the rows of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.lstm(x)[0].mean(1))
        return found


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to train, on what, and how many of it.

    Attributes:
        constant: at the same rate to the end, as the paper's MLPs.
        side: height and width of the images, averaged down from 28; 8 keeps those of the digits.
    """

    make: Callable[[], nn.Module]
    data: str
    epochs: int
    seeds: int = 2
    examples: int = 60_000
    rate: float = 1e-3
    batch: int = 128
    constant: bool = False
    side: int = 28


RECIPES: Mapping[str, Recipe] = {
    "digits-mlp-128": Recipe(lambda: Mlp(64, 128, 128, 10), "digits", 40, seeds=5),
    "digits-mlp-512": Recipe(lambda: Mlp(64, 512, 512, 512, 10), "digits", 60, seeds=5),
    "digits-blstm": Recipe(lambda: Blstm(51), "digits", 40, seeds=8, rate=3e-3, side=8),
    "fashion-mlp-128": Recipe(lambda: Mlp(784, 128, 128, 128, 10), "fashion", 6, seeds=5),
    "fashion-mlp-256": Recipe(lambda: Mlp(784, 256, 256, 256, 10), "fashion", 6),
    "fashion-mlp-512": Recipe(lambda: Mlp(784, 512, 512, 512, 10), "fashion", 4),
    "digits-mlp-512-long": Recipe(lambda: Mlp(64, 512, 512, 512, 10), "digits", 100, seeds=5, constant=True),
    "fashion-mlp-512-long": Recipe(
        lambda: Mlp(784, 512, 512, 512, 10), "fashion", 40, seeds=5, examples=30_000, batch=500, constant=True
    ),
    "digits-resnet20-16": Recipe(lambda: Residual(16, blocks=3), "digits", 15, seeds=4, rate=3e-3, batch=64, side=8),
    "digits-resnet20-32": Recipe(lambda: Residual(32, blocks=3), "digits", 15, seeds=4, rate=3e-3, batch=64, side=8),
    "fashion-resnet8-16": Recipe(lambda: Residual(16), "fashion", 3, seeds=4, examples=20_000, rate=3e-3),
    "fashion-resnet8-16-bn": Recipe(
        lambda: Residual(16, nn.BatchNorm2d), "fashion", 3, seeds=4, examples=20_000, rate=3e-3
    ),
    "fashion-resnet8-32": Recipe(lambda: Residual(32), "fashion", 6, seeds=4, examples=20_000, rate=3e-3, side=14),
    "fashion-resnet20-16": Recipe(
        lambda: Residual(16, blocks=3), "fashion", 8, seeds=4, examples=20_000, rate=3e-3, side=14
    ),
    "fashion-resnet20-32": Recipe(
        lambda: Residual(32, blocks=3), "fashion", 8, seeds=3, examples=20_000, rate=3e-3, side=14
    ),
}


def split_of(recipe: Recipe) -> Split:
    """(train inputs, train targets, test inputs, test targets), pixels from 0 to 1."""
    if recipe.data == "digits":
        inputs, targets, test_inputs, test_targets = load_split()
        shape = (-1, 8, 8) if recipe.side == 8 else (-1, 64)
        return inputs.reshape(shape), targets, test_inputs.reshape(shape), test_targets
    train, test = (load_data(FASHION, split) for split in ("train", "test"))
    seen = slice(recipe.examples)
    return _sized(train.inputs[seen], recipe), train.targets[seen], _sized(test.inputs, recipe), test.targets


def _sized(images: Tensor, recipe: Recipe) -> Tensor:
    return images if recipe.side == 28 else nn.functional.adaptive_avg_pool2d(images.unsqueeze(1), recipe.side)[:, 0]


def trained(name: str) -> tuple[list[dict[str, Tensor]], Dataset]:
    """The networks of a recipe, one a seed, trained if they are not there yet, and the test set."""
    recipe = RECIPES[name]
    paths = [FOLDER / f"{name}-{seed}.safetensors" for seed in range(recipe.seeds)]
    split = split_of(recipe)
    for seed, path in enumerate(paths):
        if not path.exists():
            FOLDER.mkdir(parents=True, exist_ok=True)
            save_file(_train(recipe, seed, *split[:2]).state_dict(), path)
    return [load_file(path) for path in paths], Dataset(split[2], split[3], recipe.data, "test")


def network_of(name: str) -> ModuleNetwork:
    """What evaluates the networks of a recipe."""
    module = RECIPES[name].make()
    return ModuleNetwork(name, module, {key: tuple(t.shape) for key, t in module.state_dict().items()}, "")


def _train(recipe: Recipe, seed: int, inputs: Tensor, targets: Tensor) -> nn.Module:
    torch.manual_seed(seed)
    network = recipe.make()
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.rate)
    batches = recipe.epochs * -(-len(inputs) // recipe.batch)
    schedule: torch.optim.lr_scheduler.LRScheduler
    if recipe.constant:
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    else:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=batches)
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(inputs)).split(recipe.batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs[batch]), targets[batch]).backward()
            optimizer.step()
            schedule.step()
    return network


def main() -> None:
    """Train all that is missing."""
    for name in RECIPES:
        began = time.perf_counter()
        states, _ = trained(name)
        print(f"{name}: {len(states)} networks, {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
