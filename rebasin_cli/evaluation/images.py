"""Folders of images by class as examples: `folder/cat/1.png`, or `folder/train/cat/1.png` with both halves.

Reading and resizing are Pillow's (the extra `images`). A Hugging Face folder that has a preprocessor_config.json
brings its own preparation, which is transformers' to do.
"""

from __future__ import annotations

import importlib.util
import io
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.errors import ContentError, RebasinError, UsageError, human_bytes
from rebasin_cli.evaluation.data import Dataset, as_dataset, check_limit
from rebasin_cli.evaluation.libraries import from_folder
from rebasin_cli.evaluation.options import Moments, Split
from rebasin_cli.files import open_regular
from rebasin_cli.matching.resources import free_memory

if TYPE_CHECKING:
    from PIL.Image import Image

_HALVES: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "validation")}
_GREY = {"1", "L", "LA"}
_DEEP = ("I", "F")  # modes of more than eight bits a channel begin so
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "MPO")
"""Kinds of images that are opened, whatever they are called. Pillow knows some that start a program (EPS)."""

MOST_PIXELS = 50_000_000
"""Pixels of one image, as the largest cameras make: 150 MB of memory. A PNG of 1 MB may hold a thousand million."""

_SIDES = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")
_LARGEST_SIDE = 8192  # pixels that a preprocessor_config.json may ask for
_LARGE = 4_000_000  # pixels; only one image that is larger is decoded at a time
_ONE_LARGE = Lock()
_FLOAT = 4  # bytes that a network reads for one of an image
_CHUNK = 64  # images at a time through a preparation of transformers
_Pixels: TypeAlias = "np.ndarray[Any, Any]"


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


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An image in memory; `name`: what it is called in messages."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


Picture = Path | ImageBytes


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
        limit: how many are kept; they are taken from all classes in turn.
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
    if isinstance(numbers, Mapping) and all(_is_class(numbers.get(name)) for name in classes):
        place = {name: numbers[name] for name in classes}
    files = files[:limit]
    targets = torch.tensor([place[file.parent.name] for file in files])
    inputs = prepare_images(files, prepare)
    return as_dataset(inputs, targets, str(path), split if root != path else None, None), place


def prepare_images(images: Sequence[Picture], prepare: Preparation) -> Tensor:
    """Images as one tensor, (N, channels, height, width).

    Raises:
        UsageError: Pillow is not installed. ContentError: damaged ones, or several sizes.
    """
    return _prepared(images, prepare.folder) if prepare.folder else _stacked(images, prepare)


def _stream(image: Picture) -> BinaryIO:
    if isinstance(image, ImageBytes):
        return io.BytesIO(image.data)
    return open(open_regular(image), "rb")


def _is_class(number: object) -> bool:
    return type(number) is int and 0 <= number < 1 << 31


def _files(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Every image, one of each class in turn, and the names of the classes in order."""
    pillow = _pillow()
    endings = {ending for ending, kind in pillow.registered_extensions().items() if kind in _FORMATS}
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


def _open(file: Picture, mode: str) -> Image:
    pillow = _pillow()
    try:
        with _stream(file) as stream, pillow.open(stream, formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ContentError(
                    f"the image has {image.width} × {image.height} pixels, and {MOST_PIXELS:,} are allowed",
                    where=str(file),
                    remedy="scale it down: networks read images of some hundred pixels a side",
                )
            if image.mode.startswith(_DEEP):  # Pillow would cut them off at 255
                raise ContentError(
                    f"its pixels are of mode {image.mode}, and images have eight bits a channel",
                    where=str(file),
                    remedy="save it with eight bits a channel, or save arrays: np.savez(file, inputs=…, targets=…)",
                )
            with _ONE_LARGE if image.width * image.height > _LARGE else nullcontext():
                return image.convert(mode)  # type: ignore[no-any-return]
    except pillow.UnidentifiedImageError as error:
        kinds = ", ".join(_FORMATS)
        raise ContentError(
            f"not a readable image, or of another kind than {kinds}", where=str(file), remedy="convert it, or remove it"
        ) from error
    except _unreadable() as error:
        raise ContentError(f"not a readable image: {error}", where=str(file), remedy="repair or remove it") from error


def _stacked(files: Sequence[Picture], prepare: Preparation) -> Tensor:
    """(N, channels, height, width), from 0 to 1 before they are normalised."""
    grey = prepare.channels == 1 or (prepare.channels is None and all(map(_is_grey, files)))

    def pixels_of(file: Picture) -> np.ndarray[Any, Any]:
        image = _open(file, "L" if grey else "RGB")
        if prepare.size is not None:
            from PIL import Image, ImageOps

            image = ImageOps.fit(image, (prepare.size, prepare.size), method=Image.Resampling.BILINEAR)
        return np.asarray(image)

    arrays = _read_all(files, pixels_of)
    pixels = torch.from_numpy(np.stack(arrays))  # (N, height, width[, 3])
    pixels = (pixels.unsqueeze(1) if grey else pixels.permute(0, 3, 1, 2)).float() / 255
    return pixels if prepare.moments is None else _normalised(pixels, *prepare.moments)


def _read_all(files: Sequence[Picture], pixels_of: Callable[[Picture], _Pixels]) -> list[_Pixels]:
    """The pixels of all files, which have one size.

    Raises:
        ContentError: they have several, or need more memory than there is.
    """
    arrays: list[_Pixels] = []
    threads = ThreadPoolExecutor()  # decoding lets other threads run
    try:
        for file, array in zip(files, threads.map(pixels_of, files), strict=True):
            if arrays and array.shape != arrays[0].shape:
                (h, w), (h2, w2) = arrays[0].shape[:2], array.shape[:2]
                raise ContentError(
                    f"images differ in size: {files[0].name} is {w} × {h}, {file.name} is {w2} × {h2}",
                    where=str(file),
                    remedy="cut and scale all of them to the size that the network was trained on: --image-size 224",
                )
            if not arrays and (needed := len(files) * array.nbytes * _FLOAT) > free_memory():
                raise ContentError(
                    f"{len(files)} images of {array.shape[1]} × {array.shape[0]} pixels need {human_bytes(needed)} of "
                    f"memory, and {human_bytes(free_memory())} are free",
                    where=str(file.parent.parent) if isinstance(file, Path) else str(file),
                    remedy="scale them down with --image-size 224, or take fewer with --limit",
                )
            arrays.append(array)
    finally:
        threads.shutdown(cancel_futures=True)
    return arrays


def _is_grey(file: Picture) -> bool:
    try:
        with _stream(file) as stream, _pillow().open(stream, formats=_FORMATS) as image:
            return image.mode in _GREY  # by its header alone
    except Exception:
        return True  # told when it is read


def _normalised(pixels: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    if len(mean) not in (1, pixels.shape[1]):
        raise ContentError(
            f"--normalise has {len(mean)} channels, and the images have {pixels.shape[1]}",
            remedy="give one mean and one deviation: --normalise 0.5/0.5",
        )
    about, scale = (torch.tensor(side).reshape(1, -1, 1, 1) for side in (mean, deviation))
    return (pixels - about) / scale


def _prepared(files: Sequence[Picture], folder: Path) -> Tensor:
    """Images as the preparation of a Hugging Face folder leaves them."""
    what = "the folder's preprocessor_config.json cannot be followed"
    remedy = "say what is to be done with --image-size and --normalise instead"
    processor = from_folder("AutoImageProcessor", folder, what, remedy)
    _check_size(processor, what, folder, remedy)
    parts = []
    try:
        for images in _chunks(files):
            parts.append(processor(images=images, return_tensors="pt")["pixel_values"])
    except RebasinError:
        raise
    except Exception as error:
        raise ContentError(f"{what}: {type(error).__name__}: {error}", where=str(folder), remedy=remedy) from error
    return torch.cat(parts)


def _chunks(files: Sequence[Picture]) -> Iterator[list[Image]]:
    """Images, a few at a time: fewer if they are large."""
    images: list[Image] = []
    for file in files:
        images.append(_open(file, "RGB"))
        if len(images) == _CHUNK or sum(image.width * image.height for image in images) > MOST_PIXELS:
            yield images
            images = []
    if images:
        yield images


def _check_size(processor: Any, what: str, folder: Path, remedy: str) -> None:
    """Refuse a preparation that makes images larger than they may be."""
    for name in ("size", "crop_size", "pad_size"):
        value = getattr(processor, name, None)
        value = value if isinstance(value, Mapping) else {side: getattr(value, side, value) for side in _SIDES}
        sides = [value.get(side) for side in _SIDES]
        if any(isinstance(side, int | float) and side > _LARGEST_SIDE for side in sides):
            raise ContentError(f"{what}: its {name} is above {_LARGEST_SIDE}", where=str(folder), remedy=remedy)


def _pillow() -> Any:
    if importlib.util.find_spec("PIL") is None:
        raise UsageError(
            "reading images needs Pillow, which is not installed",
            remedy="pip install 'rebasin-cli[images]'; or save arrays: np.savez(file, inputs=…, targets=…)",
        )
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # it is an error, in our own words
    return Image


def _unreadable() -> tuple[type[Exception], ...]:
    """What Pillow raises on a file that it cannot make an image of."""
    return (OSError, SyntaxError, ValueError, KeyError, IndexError, struct.error, _pillow().DecompressionBombError)
