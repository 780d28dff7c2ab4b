from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.writer import write_checkpoint
from rebasin_cli.errors import ContentError
from tests.checkpoints.building import two_shards, write_sharded

INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00002.safetensors"


def change_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_a_folder_and_its_index_are_the_same_checkpoint(tmp_path: Path) -> None:
    shards = two_shards()
    folder = write_sharded(tmp_path / "m", shards)
    for named in (folder, folder / INDEX):
        checkpoint = open_checkpoint(named)
        assert checkpoint.path == named
        assert checkpoint.is_folder
        assert {shard.name: set(shard.keys) for shard in checkpoint.shards} == {n: set(t) for n, t in shards.items()}
        assert checkpoint.config == {"hidden_size": 8}
        assert [path.name for path in checkpoint.companions] == ["config.json", "tokenizer.json"]
        assert checkpoint.metadata == {"format": "pt"}
        for tensors in shards.values():
            for key, tensor in tensors.items():
                assert torch.equal(checkpoint[key], tensor)


@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.safetensors", "odd.safetensors"])
def test_a_folder_with_one_file(name: str, tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / name)
    (tmp_path / "training_args.bin").write_bytes(b"anything")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.is_folder
    assert [shard.name for shard in checkpoint.shards] == [name]
    assert checkpoint.index is None
    assert checkpoint.config is None


def test_safetensors_are_preferred_and_a_usual_name_too(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path)["w"].tolist() == [0, 0]
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    save_file({"w": torch.ones(2) * 2}, tmp_path / "model.aligned.safetensors")
    assert open_checkpoint(tmp_path)["w"].tolist() == [1, 1]


def test_a_folder_of_pickles_is_written_as_safetensors(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for i, name in enumerate(names):
        torch.save({f"w{i}": torch.full((2,), i)}, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(names)}})
    )
    checkpoint = open_checkpoint(folder)
    written = write_checkpoint(tmp_path / "out", checkpoint, checkpoint.read_raw, metadata={})
    assert [path.name for path in written] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert load_file(written[1])["w1"].tolist() == [1, 1]
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index == {"metadata": {"total_size": 32}, "weight_map": {f"w{i}": p.name for i, p in enumerate(written)}}


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "a/../../x", "/etc/passwd", "C:\\x", "C:x", "..\\x", "\\\\host\\x", "a\0b"]
)
def test_an_index_that_points_elsewhere(name: str, tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    save_file({"b": torch.ones(2)}, tmp_path / "other.safetensors")
    change_index(folder, lambda weight_map: weight_map.update(b=name))
    with pytest.raises(ContentError, match="b: the index points outside its folder") as caught:
        open_checkpoint(folder)
    assert repr(name) in caught.value.what
    assert caught.value.where == str(folder / INDEX)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(new=FIRST), f"the index says that new is in {FIRST}, and it is not"),
        (lambda m: m.pop("b"), f"{FIRST} has b, and the index does not list it there"),
        (lambda m: m.update(b="model-00002-of-00002.safetensors"), "and it is not|does not list it there"),
        (lambda m: m.update(b="gone.safetensors"), "lists gone.safetensors with 1 tensors, and that file is not"),
        (lambda m: m.update(b=3), "should give a file's name, and gives 3"),
        (lambda m: m.clear(), "has no weight_map"),
    ],
)
def test_an_index_that_disagrees_with_its_shards(
    change: Callable[[dict[str, str]], object], message: str, tmp_path: Path
) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    change_index(folder, change)
    with pytest.raises(ContentError, match=message) as caught:
        open_checkpoint(folder)
    assert caught.value.where == str(folder / INDEX)


def test_shards_that_differ_only_in_their_format(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    torch.save({"b": torch.ones(1)}, tmp_path / "w.bin")
    index = tmp_path / INDEX
    index.write_text(json.dumps({"weight_map": {"a": "w.safetensors", "b": "w.bin"}}))
    with pytest.raises(ContentError, match=r"two shards would be written as w\.safetensors"):
        open_checkpoint(index)


def test_a_shard_that_is_only_a_pointer(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    (folder / FIRST).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ContentError, match="git-lfs pointer") as caught:
        open_checkpoint(folder)
    assert caught.value.where == str(folder / FIRST)


def test_a_damaged_index(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    (folder / INDEX).write_text('{"weight_map": ')
    with pytest.raises(ContentError, match="is not JSON"):
        open_checkpoint(folder)
    (folder / INDEX).write_text("[1]")
    with pytest.raises(ContentError, match="has no weight_map"):
        open_checkpoint(folder)


def test_ambiguous_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="the folder has no weights; it has no files") as caught:
        open_checkpoint(tmp_path)
    assert "model.safetensors" in caught.value.remedy
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ContentError, match=r"it has notes\.txt"):
        open_checkpoint(tmp_path)
    for name in ("a", "b"):
        save_file({"w": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ContentError, match=r"2 files of weights .*a\.safetensors, b\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_whole_file_and_an_index_of_shards(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    save_file({"w": torch.ones(2)}, folder / "consolidated.safetensors")
    assert "w" not in open_checkpoint(folder)  # the index says what belongs together
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(ContentError, match=r"has both model\.safetensors and an index"):
        open_checkpoint(folder)
    assert list(open_checkpoint(folder / "model.safetensors")) == ["w"]


def test_several_indexes(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    variant = folder / "model.safetensors.index.fp16.json"
    variant.write_text("{}")
    assert len(open_checkpoint(folder)) == 3
    (folder / "other.safetensors.index.json").write_text("{}")
    assert len(open_checkpoint(folder)) == 3  # the usual name
    (folder / "pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(ContentError, match="3 indexes"):
        open_checkpoint(folder)


def test_a_config_that_is_not_json(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    for text, message in (("{", "config.json is not JSON"), ("[]", "should be a JSON object and is a list")):
        (folder / "config.json").write_text(text)
        with pytest.raises(ContentError, match=message):
            open_checkpoint(folder)


def test_companions_are_small_files_that_are_not_weights(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    for name in (".hidden", "model.gguf", "optimizer.pt", "merges.txt"):
        (folder / name).write_text("x")
    (folder / "sub").mkdir()
    with (folder / "huge.dat").open("wb") as file:
        file.truncate(65 << 20)
    names = [path.name for path in open_checkpoint(folder).companions]
    assert names == ["config.json", "merges.txt", "tokenizer.json"]
