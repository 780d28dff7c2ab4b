"""Train the pair that ships: two small networks on scikit-learn's digits that differ in their seed alone.

The seed decides the initialisation and the order of the examples. The files in this folder came from
`python tests/data/train_digits.py`; other versions of torch may round differently and give a pair that is
just as good but not the same bytes.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

WIDTHS = (64, 256, 256, 256, 10)
TEST_EXAMPLES = 500
SPLIT_SEED = 0
EPOCHS = 60
BATCH = 50
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-3
PIXEL_MAX = 16  # the digits' pixels are counts from 0 to 16


def load_split() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The digits as (train inputs, train targets, test inputs, test targets), pixels from 0 to 1."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(pixels))
    test, train = order[:TEST_EXAMPLES], order[TEST_EXAMPLES:]
    inputs = torch.from_numpy(pixels.astype(np.float32) / PIXEL_MAX)  # (1797, 64)
    targets = torch.from_numpy(labels.astype(np.int64))
    return inputs[train], targets[train], inputs[test], targets[test]


class DigitsMlp(nn.Module):
    """64-256-256-256-10 with ReLU; its keys are `fc.{i}.weight` and `fc.{i}.bias`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.ModuleList(nn.Linear(n, m) for n, m in itertools.pairwise(WIDTHS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.fc[:-1]:
            x = torch.relu(layer(x))
        return self.fc[-1](x)


def train(seed: int, inputs: torch.Tensor, targets: torch.Tensor) -> DigitsMlp:
    torch.manual_seed(seed)
    network = DigitsMlp()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the files go")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)  # the order of float32 sums, and so the bytes, hang on it
    train_inputs, train_targets, test_inputs, test_targets = load_split()
    for name, seed in (("a", 0), ("b", 1)):
        network = train(seed, train_inputs, train_targets)
        with torch.no_grad():
            correct = (network(test_inputs).argmax(1) == test_targets).double().mean().item()
        save_file(
            network.state_dict(),
            out / f"digits_mlp_{name}.safetensors",
            # one entry: the order of several is not the same in every run
            metadata={"trained_by": f"tests/data/train_digits.py, seed {seed}"},
        )
        print(f"digits_mlp_{name}: seed {seed}, test accuracy {correct:.3f}")
    np.savez_compressed(
        out / "digits.npz",
        inputs=test_inputs.numpy(),
        targets=test_targets.to(torch.uint8).numpy(),
    )


if __name__ == "__main__":
    main()
