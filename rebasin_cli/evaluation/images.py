"""Folders of images by class as examples: `folder/cat/1.png`, or `folder/train/cat/1.png` with both halves.

Reading and resizing are Pillow's (the extra `images`). A Hugging Face folder that has a preprocessor_config.json
brings its own preparation, which is transformers' to do.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.data import Dataset, Split, as_dataset, check_limit
from rebasin_cli.evaluation.libraries import library

if TYPE_CHECKING:
    from PIL.Image import Image

_HALVES: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "validation")}
_GREY = {"1", "L", "LA"}
_DEEP = ("I", "F")  # modes of more than eight bits a channel begin so
_CHUNK = 64  # images at a time through a preparation of transformers
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's channels, which nearly every network of torchvision and timm was trained with."""

Moments = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done to an image.

    Attributes:
        size: height and width that it is cut and scaled to; None: images come in one size already.
        moments: mean and deviation of each channel, of values from 0 to 1, to be normalised by.
        channels: 1 or 3; None: 1 if all are grey.
        folder: where a preprocessor_config.json lies that is to be followed instead.
    """

    size: int | None = None
    moments: Moments | None = None
    channels: int | None = None
    folder: Path | None = None


def parse_moments(text: str) -> Moments:
    """`imagenet`, `0.5/0.5` or `0.4,0.5,0.6/0.2,0.2,0.2`.

    Raises:
        UsageError: anything else.
    """
    if text == "imagenet":
        return IMAGENET
    try:
        mean, deviation = (tuple(float(part) for part in side.split(",")) for side in text.split("/"))
    except ValueError:
        mean, deviation = (), ()
    if not mean or len(mean) != len(deviation) or len(mean) not in (1, 3) or min(deviation) <= 0:
        raise UsageError(
            f"--normalise {text}: expected MEAN/DEVIATION of one or three channels, deviations above 0",
            remedy="--normalise imagenet, --normalise 0.5/0.5 or --normalise 0.4,0.5,0.6/0.2,0.2,0.2",
        )
    return mean, deviation


def image_root(path: Path, split: Split) -> Path | None:
    """The folder whose folders are classes; None if `path` is no folder of folders, or holds idx files."""
    if not path.is_dir() or any(path.glob("*-ubyte*")):
        return None
    inside = {entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    known = set(chain(*_HALVES.values()))
    if not inside or not inside <= known:
        return path if inside else None
    half = next((name for name in _HALVES[split] if name in inside), None)
    if half is None:
        raise ContentError(
            f"there is no {' or '.join(_HALVES[split])} among {', '.join(sorted(inside))}",
            where=f"{path}, {split} split",
            remedy="choose the half that is there with --split",
        )
    return path / half


def load_images(
    path: Path, split: Split, limit: int | None, prepare: Preparation, numbers: Mapping[str, int] | None = None
) -> tuple[Dataset, dict[str, int]]:
    """Read a folder of images by class.

    Args:
        limit: keep so many; they are taken from all classes in turn.
        numbers: class numbers by name that are taken if they know every class.

    Returns:
        The examples, inputs (N, channels, height, width), and the number of each class: its place among the sorted
        names, unless `numbers` says otherwise.

    Raises:
        UsageError: Pillow is not installed. ContentError: no images, damaged ones, or several sizes.
    """
    check_limit(limit)
    root = image_root(path, split)
    assert root is not None
    files, classes = _files(root)
    place = {name: i for i, name in enumerate(classes)}
    if numbers is not None and set(classes) <= set(numbers):
        place = {name: numbers[name] for name in classes}
    files = files[:limit]
    targets = torch.tensor([place[file.parent.name] for file in files])
    inputs = _prepared(files, prepare.folder) if prepare.folder else _stacked(files, prepare)
    return as_dataset(inputs, targets, str(path), split if root != path else None, None), place


def _files(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Every image, one of each class in turn, and the names of the classes in order."""
    pillow = _pillow()
    endings = set(pillow.registered_extensions())
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    by_class = [sorted(file for file in folder.iterdir() if file.suffix.lower() in endings) for folder in folders]
    files = [file for turn in zip_longest(*by_class) for file in turn if file is not None]
    if not files:
        raise ContentError(
            f"no images in its {len(folders)} folders",
            where=str(root),
            remedy="one folder for each class with the images in it (png, jpg, …)",
        )
    return files, tuple(folder.name for folder in folders)


def _open(file: Path, mode: str) -> Image:
    pillow = _pillow()
    try:
        with pillow.open(file) as image:
            if image.mode.startswith(_DEEP):  # Pillow would cut them off at 255
                raise ContentError(
                    f"its pixels are of mode {image.mode}, and images have eight bits a channel",
                    where=str(file),
                    remedy="save it with eight bits a channel, or save arrays: np.savez(file, inputs=…, targets=…)",
                )
            return image.convert(mode)  # type: ignore[no-any-return]
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise ContentError(f"not a readable image: {error}", where=str(file), remedy="repair or remove it") from error


def _stacked(files: Sequence[Path], prepare: Preparation) -> Tensor:
    """(N, channels, height, width), from 0 to 1 before they are normalised."""
    grey = prepare.channels == 1 or (prepare.channels is None and all(map(_is_grey, files)))

    def pixels_of(file: Path) -> np.ndarray[Any, Any]:
        image = _open(file, "L" if grey else "RGB")
        if prepare.size is not None:
            from PIL import Image, ImageOps

            image = ImageOps.fit(image, (prepare.size, prepare.size), method=Image.Resampling.BILINEAR)
        return np.asarray(image)

    with ThreadPoolExecutor() as threads:  # decoding lets other threads run
        arrays = list(threads.map(pixels_of, files))
    other = next((i for i, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
    if other is not None:
        (h, w), (h2, w2) = arrays[0].shape[:2], arrays[other].shape[:2]
        raise ContentError(
            f"images differ in size: {files[0].name} is {w} × {h}, {files[other].name} is {w2} × {h2}",
            where=str(files[other]),
            remedy="cut and scale all of them to the size that the network was trained on: --image-size 224",
        )
    pixels = torch.from_numpy(np.stack(arrays))  # (N, height, width[, 3])
    pixels = (pixels.unsqueeze(1) if grey else pixels.permute(0, 3, 1, 2)).float() / 255
    return pixels if prepare.moments is None else _normalised(pixels, *prepare.moments)


def _is_grey(file: Path) -> bool:
    try:
        with _pillow().open(file) as image:  # its header alone
            return image.mode in _GREY
    except (OSError, SyntaxError, ValueError):
        return True  # told when it is read


def _normalised(pixels: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    if len(mean) not in (1, pixels.shape[1]):
        raise ContentError(
            f"--normalise has {len(mean)} channels, and the images have {pixels.shape[1]}",
            remedy="give one mean and one deviation: --normalise 0.5/0.5",
        )
    about, scale = (torch.tensor(side).reshape(1, -1, 1, 1) for side in (mean, deviation))
    return (pixels - about) / scale


def _prepared(files: Sequence[Path], folder: Path) -> Tensor:
    """Images as the preparation of a Hugging Face folder leaves them."""
    transformers = library("transformers")
    parts = []
    try:
        processor: Any = transformers.AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
        for at in range(0, len(files), _CHUNK):
            images = [_open(file, "RGB") for file in files[at : at + _CHUNK]]
            parts.append(processor(images=images, return_tensors="pt")["pixel_values"])
    except ContentError:
        raise
    except Exception as error:
        raise ContentError(
            f"the folder's preprocessor_config.json cannot be followed: {type(error).__name__}: {error}",
            where=str(folder),
            remedy="say what is to be done with --image-size and --normalise instead",
        ) from error
    return torch.cat(parts)


def _pillow() -> Any:
    if importlib.util.find_spec("PIL") is None:
        raise UsageError(
            "reading images needs Pillow, which is not installed",
            remedy="pip install 'rebasin-cli[images]'; or save arrays: np.savez(file, inputs=…, targets=…)",
        )
    from PIL import Image

    return Image
