"""Train a pair of CIFAR-style ResNet20s with BatchNorm on Fashion-MNIST that differ in their seed alone.

`python -m tests.benchmarks.train_resnet FOLDER` writes `resnet20_seed{0,1}.safetensors`, and `train.npz` and
`test.npz` with the images at the size that was trained on: what `rebasin interpolate --repair` is judged on. A few
minutes of one core at the defaults; not a benchmark of training.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from rebasin_cli.evaluation.data import load_data

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
BASE_WIDTH, BLOCKS, CLASSES = 16, 3, 10


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


class ResNet(nn.Module):
    """3 stages of `blocks` blocks, of `base`, twice and four times `base` channels."""

    def __init__(self, base: int, blocks: int = BLOCKS, channels: int = 1) -> None:
        super().__init__()
        before = base
        self.conv1 = nn.Conv2d(channels, before, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        for stage in (1, 2, 3):
            after = base * 2 ** (stage - 1)
            chain = [Block(before if b == 0 else after, after, 2 if stage > 1 and b == 0 else 1) for b in range(blocks)]
            setattr(self, f"layer{stage}", nn.Sequential(*chain))
            before = after
        self.fc = nn.Linear(before, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def examples(data: Path, split: str, count: int, side: int) -> tuple[Tensor, Tensor]:
    """Images (N, 1, side, side), averaged down from 28 × 28, and labels."""
    found = load_data(data, split, count)  # type: ignore[arg-type]
    return F.adaptive_avg_pool2d(found.inputs.reshape(-1, 1, 28, 28), side), found.targets


def train(seed: int, width: int, epochs: int, batch: int, inputs: Tensor, targets: Tensor) -> ResNet:
    """SGD with momentum and a one-cycle learning rate; images are mirrored at random."""
    torch.manual_seed(seed)
    network = ResNet(BASE_WIDTH * width).to(memory_format=torch.channels_last)
    steps = epochs * (len(inputs) // batch)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    began = time.perf_counter()
    for epoch in range(epochs):
        order = torch.randperm(len(inputs))
        total = 0.0
        for at in range(0, len(inputs) - batch + 1, batch):
            x, y = inputs[order[at : at + batch]], targets[order[at : at + batch]]
            mirrored = torch.rand(len(x), 1, 1, 1) < 0.5
            loss = F.cross_entropy(network(torch.where(mirrored, x.flip(3), x)), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * batch / len(inputs)
        print(f"seed {seed}, epoch {epoch + 1}: loss {total:.3f}, {time.perf_counter() - began:.0f} s", flush=True)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=FASHION_MNIST)
    parser.add_argument("--width", type=int, default=2)
    parser.add_argument("--side", type=int, default=14, help="height and width of the images")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    inputs, targets = examples(chosen.data, "train", chosen.examples, chosen.side)
    test_inputs, test_targets = examples(chosen.data, "test", 10_000, chosen.side)
    np.savez(chosen.folder / "train.npz", inputs=inputs.numpy(), targets=targets.numpy())
    np.savez(chosen.folder / "test.npz", inputs=test_inputs.numpy(), targets=test_targets.numpy())
    for seed in chosen.seeds:
        network = train(seed, chosen.width, chosen.epochs, chosen.batch, inputs, targets)
        with torch.no_grad():
            right = (torch.cat([network(x) for x in test_inputs.split(500)]).argmax(1) == test_targets).float().mean()
        state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
        save_file(state, chosen.folder / f"resnet20_seed{seed}.safetensors", {"accuracy": f"{right:.4f}"})
        print(f"seed {seed}: test accuracy {right:.4f}", flush=True)


if __name__ == "__main__":
    main()
