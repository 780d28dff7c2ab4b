"""Data sets of the `datasets` library as examples: saved to disk, from a hub on this machine, and from the cache."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rebasin_cli.errors import ContentError, RebasinError, SystemFailure, UsageError
from rebasin_cli.evaluation.hub_data import DataName, data_name, is_saved, load_hub_data
from rebasin_cli.evaluation.images import Preparation
from rebasin_cli.evaluation.options import Split
from tests.hub import COMMIT, Hub, serving
from tests.small import save_pair

datasets = pytest.importorskip("datasets")
constants = pytest.importorskip("huggingface_hub.constants")

Value, Sequence, Label = datasets.Value, datasets.Sequence, datasets.ClassLabel
ROWS = np.random.default_rng(0).random((6, 4)).astype("f4")
LABELS = [0, 1, 2, 0, 1, 2]
CLASSES = Label(names=["ant", "bee", "cat"])


def made(columns: dict[str, Any], features: dict[str, Any]) -> Any:
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


def plain(rows: Any = ROWS) -> Any:
    return made(
        {"pixels": rows, "label": LABELS[: len(rows)]}, {"pixels": Sequence(Value("float32")), "label": CLASSES}
    )


def load(path: Path, split: Split = "test", limit: int | None = None, *, labels: bool = True) -> Any:
    return load_hub_data(path, split, limit, Preparation(), labels=labels)


def test_a_saved_folder_becomes_inputs_and_targets(tmp_path: Path) -> None:
    plain().save_to_disk(tmp_path / "set")
    assert is_saved(tmp_path / "set")
    found, classes = load(tmp_path / "set")
    assert found.inputs.numpy().tobytes() == ROWS.tobytes()
    assert found.targets.tolist() == LABELS
    assert found.targets.dtype == torch.int64
    assert classes == ("ant", "bee", "cat")
    assert len(load(tmp_path / "set", limit=2)[0]) == 2


def test_halves_go_by_their_names(tmp_path: Path) -> None:
    halves = datasets.DatasetDict(train=plain(), validation=plain(ROWS[:2]))
    halves.save_to_disk(tmp_path / "set")
    assert len(load(tmp_path / "set", "train")[0]) == 6
    assert len(load(tmp_path / "set", "test")[0]) == 2
    assert load(tmp_path / "set", "test")[0].split == "test"
    datasets.DatasetDict(train=plain(), extra=plain()).save_to_disk(tmp_path / "other")
    with pytest.raises(ContentError, match="no split test or validation") as caught:
        load(tmp_path / "other")
    assert "--split" in caught.value.remedy


def test_images_are_decoded_with_our_limits(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (6, 5, 7, 3), dtype="u1")
    features = {"image": datasets.Image(), "label": CLASSES}
    made({"image": list(pixels), "label": LABELS}, features).save_to_disk(tmp_path / "set")
    found, _ = load(tmp_path / "set")
    assert torch.equal(found.inputs, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    broken = {"image": [{"bytes": b"GIF", "path": None}] * 6, "label": LABELS}
    made(broken, features).save_to_disk(tmp_path / "broken")
    with pytest.raises(ContentError, match="not a readable image") as caught:
        load(tmp_path / "broken")
    assert "broken, image 0" in caught.value.where
    elsewhere = {"image": [{"bytes": None, "path": "/etc/hostname"}] * 6, "label": LABELS}
    made(elsewhere, {**features, "image": {"bytes": Value("binary"), "path": Value("string")}}).cast(
        datasets.Features(features)
    ).save_to_disk(tmp_path / "elsewhere")
    with pytest.raises(ContentError):
        load(tmp_path / "elsewhere")


def test_names_of_our_own_say_what_is_what(tmp_path: Path) -> None:
    columns = {"inputs.ids": [[1, 2]] * 6, "inputs.mask": [[1, 0]] * 6, "targets": ROWS[:, 0], "label": LABELS}
    numbers = Sequence(Value("int64"))
    features = {"inputs.ids": numbers, "inputs.mask": numbers, "targets": Value("float32"), "label": CLASSES}
    made(columns, features).remove_columns("label").save_to_disk(tmp_path / "set")
    found, _ = load(tmp_path / "set")
    assert set(found.inputs) == {"ids", "mask"}
    assert found.targets.dtype == torch.float32


UNCLEAR = {
    "one, two may each be the inputs": (
        {"one": ROWS, "two": ROWS, "label": LABELS},
        {"one": Sequence(Value("float32")), "two": Sequence(Value("float32")), "label": CLASSES},
    ),
    "a, b may each be the targets": (
        {"x": ROWS, "a": LABELS, "b": LABELS}, {"x": Sequence(Value("float32")), "a": CLASSES, "b": CLASSES},
    ),
    "no column is called `targets` or `label`": ({"x": ROWS}, {"x": Sequence(Value("float32"))}),
    r"no column of numbers or images; it has text \(string\)": (
        {"text": ["a"] * 6, "label": LABELS}, {"text": Value("string"), "label": CLASSES},
    ),
    "are not arrays of one shape": (
        {"x": [[1.0], [1.0, 2.0]] * 3, "label": LABELS}, {"x": Sequence(Value("float32")), "label": CLASSES},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNCLEAR)
def test_what_is_unclear_is_refused(what: str, tmp_path: Path) -> None:
    made(*UNCLEAR[what]).save_to_disk(tmp_path / "set")
    with pytest.raises(ContentError, match=what) as caught:
        load(tmp_path / "set")
    assert "MODULE:FUNCTION" in caught.value.remedy


def test_inputs_alone_are_enough_to_fit_on(tmp_path: Path) -> None:
    made({"x": ROWS}, {"x": Sequence(Value("float32"))}).save_to_disk(tmp_path / "set")
    assert not load(tmp_path / "set", labels=False)[0].labelled


def test_a_damaged_folder_is_told_as_one(tmp_path: Path) -> None:
    plain().save_to_disk(tmp_path / "set")
    (arrow,) = (tmp_path / "set").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(ContentError, match="the data set cannot be read"):
        load(tmp_path / "set")


def test_names_are_read() -> None:
    assert data_name("hf:mnist") == DataName("mnist")
    assert data_name("hf:a/b/c@v1:train") == DataName("a/b", "c", "v1", "train")
    assert data_name("hf:a/b/c@v1:train").of("test") == "hf:a/b/c@v1:test"
    for text in ("hf:", "hf:../a", "hf:a/b:x/y", "hf:a--b"):
        with pytest.raises(UsageError, match="no name of a data set"):
            data_name(text)


def _parquet(rows: int) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"pixels": ROWS[:rows].tolist(), "label": LABELS[:rows]}), out)
    return out.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    files = {"README.md": b"---\n{}\n---\n", "data/train-0.parquet": _parquet(6), "data/test-0.parquet": _parquet(4)}
    with serving(Hub({}, datasets={"me/digits": files})) as server:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
        for place, name, value in (
            (constants, "ENDPOINT", server.address),
            (constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "".join(template[1:])),
            (constants, "HF_HUB_CACHE", str(tmp_path / "hub")),
            (datasets.config, "HF_ENDPOINT", server.address),
            (datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets"),
        ):
            monkeypatch.setattr(place, name, value)
        yield server


def test_the_hub_gives_what_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = load(Path("hf:me/digits"))
    assert found.inputs.shape == (4, 4)
    assert found.source == f"hf:me/digits@{COMMIT}"
    train, _ = load(Path("hf:me/digits:train"))
    assert len(train) == 6
    assert train.source == f"hf:me/digits@{COMMIT}:train"
    assert torch.equal(load(Path(train.source))[0].inputs, train.inputs)
    with pytest.raises(ContentError, match="no split other") as caught:
        load(Path("hf:me/digits:other"))
    assert "hf:me/digits:train" in caught.value.remedy
    with pytest.raises(SystemFailure, match="hf:me/absent cannot be loaded") as failed:
        load(Path("hf:me/absent"))
    assert "hf auth login" in failed.value.remedy
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert torch.equal(load(Path("hf:me/digits"))[0].inputs, found.inputs)  # of the cache
    with pytest.raises(RebasinError, match="cannot be loaded"):
        load(Path("hf:me/other"))
    assert len(hub.asked) == asked
    Path("me/digits").mkdir(parents=True)
    with pytest.raises(UsageError, match="something of that name here"):
        load(Path("hf:me/digits"))


def test_the_command_takes_it_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rebasin_cli.cli import main

    monkeypatch.chdir(tmp_path)
    save_pair(tmp_path)
    arrays = np.load("data.npz")
    features = {"x": Sequence(Value("float32")), "label": Value("int64")}
    made({"x": arrays["inputs"], "label": arrays["targets"]}, features).save_to_disk("set")
    for data in ("set", "data.npz"):
        words = [
            "interpolate",
            "a.safetensors",
            "b.safetensors",
            "--data",
            data,
            "--steps",
            "3",
            "--report",
            f"{data}.json",
        ]
        assert main([*words, "-q"]) == 0
    one, two = (Path(f"{name}.json").read_text().replace("data.npz", "set") for name in ("set", "data.npz"))
    part = '"loss": ['
    assert one[one.index(part) : one.index(part) + 200] == two[two.index(part) : two.index(part) + 200]
