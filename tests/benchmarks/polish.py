"""What a merge is worth by what is done to it: as it is, repaired, fitted by least squares, distilled.

    python -m tests.benchmarks.polish --sets digits-mlp,unet --counts 2,4 --methods weights,activations

Small networks, four seeds of each, trained on the first run and kept under `bench/polish` (all in some minutes). Every
figure is one of `rebasin merge --repair repair --polish …`, so that the whole way of a user is measured: losses on test
examples, the fit on the inputs of training examples. *closed* is (repaired − polished) / (repaired − models' mean).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from rebasin_cli.cli import main as rebasin
from rebasin_cli.evaluation.data import load_data
from tests.benchmarks.trained import FASHION, Mlp, Residual
from tests.data.train_digits import load_split

FOLDER = Path(__file__).parents[2] / "bench" / "polish"
Split = tuple[Tensor, Tensor, Tensor, Tensor]
SEEDS = 4


class Unet(nn.Module):
    """Two levels, InstanceNorm, transposed convolutions, a concatenation: it takes noise away from images."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        w = width

        def block(into: int, out: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(into, out, 3, padding=1), nn.InstanceNorm2d(out, affine=True), nn.ReLU())

        self.down1, self.down2 = nn.Sequential(block(1, w), block(w, w)), block(w, 2 * w)
        self.middle = block(2 * w, 4 * w)
        self.up2, self.join2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, stride=2), block(4 * w, 2 * w)
        self.up1, self.join1 = nn.ConvTranspose2d(2 * w, w, 2, stride=2), block(2 * w, w)
        self.out = nn.Conv2d(w, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        deep = self.middle(F.max_pool2d(two, 2))
        y = self.join2(torch.cat([self.up2(deep), two], 1))
        return self.out(self.join1(torch.cat([self.up1(y), one], 1)))


class Gpt(nn.Module):
    """A small language model of characters: pre-norm blocks, heads, an output of its own."""

    def __init__(
        self, width: int = 64, layers: int = 2, heads: int = 4, vocabulary: int = 96, context: int = 64
    ) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(width), "q": nn.Linear(width, width), "k": nn.Linear(width, width),
                "v": nn.Linear(width, width), "o": nn.Linear(width, width), "norm2": nn.LayerNorm(width),
                "up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width),
            })
            for _ in range(layers)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            y = block["norm1"](x)
            q, k, v = (block[name](y).unflatten(2, (self.heads, -1)).transpose(1, 2) for name in "qkv")
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["o"](y.transpose(1, 2).flatten(2))
            x = x + block["down"](F.gelu(block["up"](block["norm2"](x))))
        return self.head(self.norm(x))


def unet() -> nn.Module:
    """For `--network`."""
    return Unet()


def gpt() -> tuple[nn.Module, Tensor]:
    """For `--network`."""
    return Gpt(), torch.arange(64).reshape(4, 16)


def _fashion(side: int, examples: int) -> Split:
    train, test = (load_data(FASHION, split, limit) for split, limit in (("train", examples), ("test", 2000)))  # type: ignore[arg-type]
    images = [F.adaptive_avg_pool2d(data.inputs.unsqueeze(1), side)[:, 0] for data in (train, test)]
    return images[0], train.targets, images[1], test.targets


def _digits(side: int = 0) -> Split:
    inputs, targets, test_inputs, test_targets = load_split()
    shape = (-1, 8, 8) if side else (-1, 64)
    return inputs.reshape(shape), targets, test_inputs.reshape(shape), test_targets


def _noisy() -> Split:
    clean, _, test, _ = _fashion(16, 2000)
    generator = torch.Generator().manual_seed(0)
    both = [images.unsqueeze(1) for images in (clean, test[:500])]
    noisy = [images + 0.3 * torch.randn(images.shape, generator=generator) for images in both]
    return noisy[0], both[0], noisy[1], both[1]


def _text() -> Split:
    """Windows of this project's own sources, each with the character after every one of its."""
    files = sorted((Path(__file__).parents[2] / "rebasin_cli").rglob("*.py"))
    text = "".join(file.read_text() for file in files)
    codes = torch.tensor([min(95, max(0, ord(sign) - 31)) for sign in text])
    windows = codes[: len(codes) // 65 * 65].reshape(-1, 65)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    test, train = windows[order[:300]], windows[order[300:]]
    return train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:]


@dataclass(frozen=True, slots=True)
class Set:
    """Networks of one kind, and what they are trained on.

    Attributes:
        network: for `--network`; "": one that ships.
        fit: examples that merges are fitted on.
    """

    make: Callable[[], nn.Module]
    data: Callable[[], Split]
    steps: int
    batch: int = 64
    rate: float = 3e-3
    network: str = ""
    fit: int = 2000


SETS: Mapping[str, Set] = {
    "digits-mlp": Set(lambda: Mlp(64, 128, 128, 128, 10), _digits, 700, rate=1e-3),
    "fashion-mlp": Set(lambda: Mlp(196, 128, 128, 128, 10), partial(_fashion, 14, 10_000), 1200, rate=2e-3),
    "digits-resnet20-bn": Set(lambda: Residual(16, nn.BatchNorm2d, blocks=3), partial(_digits, 8), 250),
    "fashion-resnet20-bn": Set(
        lambda: Residual(16, nn.BatchNorm2d, blocks=3), partial(_fashion, 14, 10_000), 400, fit=1000
    ),
    "unet": Set(unet, _noisy, 350, batch=32, network="tests.benchmarks.polish:unet", fit=300),
    "gpt": Set(Gpt, _text, 900, batch=24, network="tests.benchmarks.polish:gpt", fit=300),
}


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """As `rebasin` judges them."""
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets)
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def train(one: Set, seed: int, split: Split) -> dict[str, Tensor]:
    """The network of a seed."""
    torch.manual_seed(seed)
    network = one.make()
    optimizer = torch.optim.Adam(network.parameters(), lr=one.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, one.rate, total_steps=one.steps)
    for _ in range(one.steps):
        batch = torch.randint(len(split[0]), (one.batch,))
        optimizer.zero_grad()
        loss_of(network(split[0][batch]), split[1][batch]).backward()
        optimizer.step()
        schedule.step()
    return {key: tensor.contiguous() for key, tensor in network.state_dict().items()}


def prepare(name: str) -> tuple[list[Path], Path, Path]:
    """The networks of a set, test examples and inputs to fit on, made if they are not there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    paths = [FOLDER / f"{name}-{seed}.safetensors" for seed in range(SEEDS)]
    test, fit = FOLDER / f"{name}-test.npz", FOLDER / f"{name}-fit.npz"
    one = SETS[name]
    if not all(path.exists() for path in (*paths, test, fit)):
        split = one.data()
        np.savez(test, inputs=split[2].numpy(), targets=split[3].numpy())
        np.savez(fit, inputs=split[0][: one.fit].numpy())
        for seed, path in enumerate(paths):
            if not path.exists():
                began = time.perf_counter()
                save_file(train(one, seed, split), path)
                print(f"  trained {path.name} in {time.perf_counter() - began:.0f} s", flush=True)
    return paths, test, fit


def measure(name: str, count: int, method: str, polish: str, more: list[str]) -> None:
    """Print one line."""
    paths, test, fit = prepare(name)
    report = FOLDER / f"{name}-{count}-{method}.json"
    merged = FOLDER / f"{name}-{count}-{method}.safetensors"
    network = SETS[name].network
    began = time.process_time()
    with redirect_stdout(StringIO()):
        code = rebasin([
        "merge", *map(str, paths[:count]), "-o", str(merged), "--report", str(report), "--force", "--quiet",
        "--method", method, "--data", str(test), "--fit-data", str(fit), "--repair", "repair", "--polish", polish,
        "--steps", "3", *(["--network", network] if network else []), *more,
    ])  # fmt: skip
    spent = time.process_time() - began
    if code:
        print(f"{name:22}{count} {method:12} exit {code}", flush=True)
        return
    document = json.loads(report.read_text())
    loss = {key: score["loss"] for key, score in document["merge"]["scores"].items()}
    single, repaired = document["verdict"]["members"], loss["merged + repair"]
    figures = [single, *(loss[key] for key in ("ensemble", "naive average", "merged", "merged + repair"))]
    fitted = [loss[key] for key in ("merged + least squares", "merged + distilled") if key in loss]
    closed = [(repaired - each) / (repaired - single) for each in fitted]
    shown = "".join(f"{figure:10.4f}" for figure in (*figures, *fitted))
    print(
        f"{name:22}{count} {method:12}{shown}   closed {', '.join(f'{c:.2f}' for c in closed)}  {spent:.0f} s",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--counts", default="2,4")
    parser.add_argument("--methods", default="weights,activations")
    parser.add_argument("--polish", default="distill")
    given, more = parser.parse_known_args()
    names = ("single", "ensemble", "mean", "merge", "+ repair", "+ l. sq.", "+ distil")
    print(" " * 36 + "".join(f"{name:>10}" for name in names))
    for name in given.sets.split(","):
        for count in map(int, given.counts.split(",")):
            for method in given.methods.split(","):
                measure(name, count, method, given.polish, more)


if __name__ == "__main__":
    main()
