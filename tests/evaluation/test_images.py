"""Folders of images by class: which files, which numbers, which pixels, and everything that can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.images import Preparation, image_root, load_images
from rebasin_cli.evaluation.options import IMAGENET, parse_moments


def save_image(path: Path, colour: int | tuple[int, int, int], size: tuple[int, int] = (6, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of 3, 1 and 2 images of one colour each, and files that are none."""
    for name, colours in (("dog", (10, 11, 12)), ("ant", (20,)), ("cat", (30, 31))):
        for number, colour in enumerate(colours):
            save_image(tmp_path / name / f"{number}.png", (colour, 2 * colour, 200))
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    return tmp_path


PLAIN = Preparation()


def test_classes_are_sorted_and_taken_in_turn(folder: Path) -> None:
    data, numbers = load_images(folder, "test", None, PLAIN)
    assert numbers == {"ant": 0, "cat": 1, "dog": 2}
    assert data.targets.tolist() == [0, 1, 2, 1, 2, 2]
    reds = (data.inputs[:, 0, 0, 0] * 255).round().int().tolist()
    assert reds == [20, 30, 10, 31, 11, 12]
    assert data.inputs.shape == (6, 3, 6, 6)
    torch.testing.assert_close(data.inputs[:, 2], torch.full((6, 6, 6), 200 / 255))
    assert data.split is None
    few, _ = load_images(folder, "test", 3, PLAIN)
    assert torch.equal(few.inputs, data.inputs[:3])


def test_numbers_of_the_model_win_where_they_know_every_class(folder: Path) -> None:
    known = {"dog": 0, "ant": 7, "cat": 4, "emu": 1}
    data, numbers = load_images(folder, "test", None, PLAIN, known)
    assert numbers == {"ant": 7, "cat": 4, "dog": 0}
    assert data.targets.tolist() == [7, 4, 0, 4, 0, 0]
    _, sorted_ = load_images(folder, "test", None, PLAIN, {"dog": 0, "ant": 7})
    assert sorted_ == {"ant": 0, "cat": 1, "dog": 2}


@pytest.mark.parametrize(("second", "split"), [("test", "test"), ("val", "test"), ("train", "train")])
def test_both_halves_in_one_folder(tmp_path: Path, second: str, split: str) -> None:
    for half, colour in (("train", 50), ("test" if second != "val" else "val", 90)):
        save_image(tmp_path / half / "a" / "x.png", colour)
    data, _ = load_images(tmp_path, split, None, PLAIN)  # type: ignore[arg-type]
    assert round(float(data.inputs.max()) * 255) == (50 if split == "train" else 90)
    assert data.split == split


def test_a_half_that_is_not_there(tmp_path: Path) -> None:
    save_image(tmp_path / "train" / "a" / "x.png", 50)
    with pytest.raises(ContentError, match="no test or val or validation among train"):
        image_root(tmp_path, "test")


def test_idx_files_make_it_no_folder_of_images(folder: Path) -> None:
    assert image_root(folder, "test") == folder
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"")
    assert image_root(folder, "test") is None
    assert image_root(folder / "cat", "test") is None
    assert image_root(folder / "cat" / "0.png", "test") is None


def test_grey_images_get_the_channels_of_the_network(tmp_path: Path) -> None:
    save_image(tmp_path / "a" / "x.png", 51)
    grey, _ = load_images(tmp_path, "test", None, PLAIN)
    assert grey.inputs.shape == (1, 1, 6, 6)
    three, _ = load_images(tmp_path, "test", None, Preparation(channels=3))
    torch.testing.assert_close(three.inputs, torch.full((1, 3, 6, 6), 0.2))
    save_image(tmp_path / "b" / "x.png", (51, 51, 51))
    both, _ = load_images(tmp_path, "test", None, PLAIN)
    assert both.inputs.shape == (2, 3, 6, 6)
    one, _ = load_images(tmp_path, "test", None, Preparation(channels=1))
    assert one.inputs.shape == (2, 1, 6, 6)


def test_a_size_cuts_the_middle_and_scales(tmp_path: Path) -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 255  # the middle is white
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "x.png")
    save_image(tmp_path / "a" / "y.png", 0, (9, 5))
    data, _ = load_images(tmp_path, "test", None, Preparation(size=4))
    assert data.inputs.shape == (2, 1, 4, 4)
    assert bool((data.inputs[0] == 1).all())
    with pytest.raises(ContentError, match=r"x\.png is 12 × 4, y\.png is 9 × 5"):
        load_images(tmp_path, "test", None, PLAIN)


def test_normalised_images(tmp_path: Path) -> None:
    save_image(tmp_path / "a" / "x.png", (255, 0, 51))
    data, _ = load_images(tmp_path, "test", None, Preparation(moments=IMAGENET))
    wanted = [(v - m) / d for v, m, d in zip((1, 0, 0.2), *IMAGENET, strict=True)]
    torch.testing.assert_close(data.inputs[0, :, 0, 0], torch.tensor(wanted))
    half, _ = load_images(tmp_path, "test", None, Preparation(moments=parse_moments("0.5/0.25")))
    torch.testing.assert_close(half.inputs[0, :, 3, 3], torch.tensor([2.0, -2.0, -1.2]))


@pytest.mark.parametrize("text", ["", "x", "0.5", "0.5/0", "1,2/1,2", "0.5/0.5/0.5", "0.1,0.2,0.3/0.5", "imagenets"])
def test_moments_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected MEAN/DEVIATION"):
        parse_moments(text)


def test_moments_of_the_wrong_channels(tmp_path: Path) -> None:
    save_image(tmp_path / "a" / "x.png", 51)
    with pytest.raises(ContentError, match="has 3 channels, and the images have 1"):
        load_images(tmp_path, "test", None, Preparation(moments=IMAGENET))


def test_damaged_images_are_named(folder: Path) -> None:
    whole = (folder / "cat" / "0.png").read_bytes()
    for content in (whole[:40], b"text"):
        (folder / "cat" / "0.png").write_bytes(content)
        with pytest.raises(ContentError, match="not a readable image") as caught:
            load_images(folder, "test", None, PLAIN)
        assert caught.value.where.endswith("0.png")


def test_images_of_sixteen_bits_are_refused(folder: Path) -> None:
    """Pillow's way to eight bits would make nearly all of it white."""
    Image.fromarray(np.full((6, 6), 30_000, np.uint16)).save(folder / "ant" / "deep.png")
    with pytest.raises(ContentError, match="eight bits a channel") as caught:
        load_images(folder, "test", None, PLAIN)
    assert caught.value.where.endswith("deep.png")


def test_no_images_and_no_limit(folder: Path) -> None:
    with pytest.raises(UsageError, match="limit of 0"):
        load_images(folder, "test", 0, PLAIN)
    (folder / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(ContentError, match="no images in its 1 folders"):
        load_images(folder / "empty", "test", None, PLAIN)
