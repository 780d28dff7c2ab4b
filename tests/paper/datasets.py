"""The data of the rows: Fashion-MNIST and the digits, or MNIST and CIFAR where a folder of them is named."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rebasin_cli.evaluation.data import load_data
from tests.data.train_digits import load_split

FASHION = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))


@dataclass(frozen=True)
class Images:
    """Grey images (N, side, side), pixels from 0 to 1, and labels, for training and for tests."""

    name: str
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


def available(root: Path | None) -> str:
    """What the rows of images are run on, in words.

    Raises:
        SystemExit: there is no such data.
    """
    if root is None and not FASHION.is_dir():
        raise SystemExit(
            "no images: install Debian's dataset-fashion-mnist, set FASHION_MNIST to a folder of its idx files, or "
            "name a folder with --data-root"
        )
    return "Fashion-MNIST" if root is None else f"{_kind(root)} in {root.name}"


def _kind(root: Path) -> str:
    if (root / "data_batch_1").exists():
        return "CIFAR-10"
    if (root / "train").is_file():
        return "CIFAR-100"
    return "idx files"


@cache
def images(side: int, root: Path | None = None) -> Images:
    """All images of the data, averaged down to `side`; of colours the mean.

    Args:
        root: a folder of idx files (MNIST), or the Python version of CIFAR-10 or CIFAR-100; None: Fashion-MNIST.
    """
    if root is not None and _kind(root) != "idx files":
        train, test = _cifar(root, train=True), _cifar(root, train=False)
        return Images(_kind(root), _sized(train[0], side), train[1], _sized(test[0], side), test[1])
    folder = root or FASHION
    first, second = load_data(folder, "train"), load_data(folder, "test")
    return Images(
        "idx files" if root else "Fashion-MNIST", _sized(first.inputs, side), first.targets,
        _sized(second.inputs, side), second.targets,
    )  # fmt: skip


@cache
def digits() -> Images:
    """Scikit-learn's 1,797 digits of 8 × 8 pixels."""
    inputs, targets, test_inputs, test_targets = load_split()
    return Images("digits", inputs.reshape(-1, 8, 8), targets, test_inputs.reshape(-1, 8, 8), test_targets)


def _cifar(root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Grey images and labels of CIFAR-10's or CIFAR-100's Python files, which are pickles: only of a trusted folder."""
    if _kind(root) == "CIFAR-10":
        names, label = ([f"data_batch_{k}" for k in range(1, 6)] if train else ["test_batch"]), b"labels"
    else:
        names, label = ["train" if train else "test"], b"fine_labels"
    batches = [pickle.loads((root / name).read_bytes(), encoding="bytes") for name in names]
    pixels = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch[label] for batch in batches])
    return torch.from_numpy(pixels).float().mean(1) / 255, torch.from_numpy(labels.astype(np.int64))


def _sized(pixels: Tensor, side: int) -> Tensor:
    pixels = pixels.reshape(len(pixels), 1, *pixels.shape[-2:])
    return (pixels if pixels.shape[-1] == side else F.adaptive_avg_pool2d(pixels, side))[:, 0].float()
