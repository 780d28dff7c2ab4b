"""What is no checkpoint of one network: told by its contents or its folder, with what to do about it."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import ContentError, SystemFailure
from tests.checkpoints.building import run_python

FILES = {
    "model.onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(range(40)), "an ONNX graph"),
    "renamed.bin": (b"\x08\x07\x12\x0connx-example:\x8a\x01" + bytes(40), "an ONNX graph"),
    "saved_model.pb": (b"\x08\x01\x12\xe4\x8e\x02" + bytes(40), "a TensorFlow graph"),
    "model.ckpt.data-00000-of-00001": (bytes(range(60)), "a part of a TensorFlow checkpoint"),
    "model.ckpt.index": (b"\x00\x00\x02\x1e\x08\x01" + bytes(60), "a part of a TensorFlow checkpoint"),
    "model.tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(60), "a TensorFlow Lite graph"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_libraries_are_named(name: str, tmp_path: Path) -> None:
    content, what = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ContentError) as caught:
        open_checkpoint(tmp_path / name)
    assert what in caught.value.what
    assert "safetensors" in caught.value.remedy


@pytest.mark.parametrize("name", [*FILES, "model.gguf", "flax_model.msgpack", "tf_model.h5"])
def test_folders_of_other_libraries_are_named(name: str, tmp_path: Path) -> None:
    if name.endswith(".bin"):
        return
    (tmp_path / name).write_bytes(b"GGUF" + bytes(40))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ContentError) as caught:
        open_checkpoint(tmp_path)
    assert name in caught.value.what
    assert "only" in caught.value.what or "no weights" in caught.value.what


def test_a_pipeline_names_the_folders_that_work(tmp_path: Path) -> None:
    pipeline = tmp_path / "my model"
    for part in ("unet", "vae", "text_encoder"):
        (pipeline / part).mkdir(parents=True)
        save_file({f"{part}.weight": torch.ones(2)}, pipeline / part / "diffusion_pytorch_model.safetensors")
    (pipeline / "tokenizer").mkdir()
    (pipeline / "tokenizer" / "vocab.json").write_text("{}")
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ContentError, match=r"a pipeline \(StableDiffusionPipeline\)") as caught:
        open_checkpoint(pipeline)
    words = shlex.split(caught.value.remedy.removeprefix("name one of them: ").replace(",", ""))
    assert [Path(word).name for word in words] == ["text_encoder", "unet", "vae"]
    for word in words:
        assert len(open_checkpoint(Path(word))) == 1
    save_file({"w": torch.ones(2)}, pipeline / "whole.safetensors")  # the one file of weights is what is meant
    assert list(open_checkpoint(pipeline)) == ["w"]


def test_placeholders_of_zero_are_named(tmp_path: Path) -> None:
    state = {"a.weight": torch.empty(0), "a.bias": torch.empty(0), "running_mean": torch.ones(2)}
    torch.save({"module": state}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(ContentError, match=r"a\.weight: 2 of 3 tensors are empty \(shape \[0\]\)") as caught:
        open_checkpoint(tmp_path / "mp_rank_00_model_states.pt")
    assert "zero_to_fp32.py" in caught.value.remedy
    save_file({"a.weight": torch.ones(0, 3), "queue": torch.empty(0)}, tmp_path / "empty.safetensors")
    assert len(open_checkpoint(tmp_path / "empty.safetensors")) == 2


def test_a_name_of_a_hub_is_not_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemFailure, match="there is no folder org-name") as caught:
        open_checkpoint(Path("org-name/model-1.5b"))
    assert "hf:org-name/model-1.5b" in caught.value.remedy
    (tmp_path / "runs").mkdir()
    for path in ("runs/model", "absent/model.safetensors", "a/b/c", "model"):
        with pytest.raises(SystemFailure) as caught:
            open_checkpoint(Path(path))
        assert "hub" not in caught.value.remedy


NAMES = ("config.json", "model.safetensors.index.json", "model.safetensors", "model.bin")


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "link to itself", "socketless folder"])
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    for name in NAMES:
        target = tmp_path / name / name
        target.parent.mkdir()
        if not name.startswith("model.safetensors"):
            save_file({"w": torch.ones(2)}, target.parent / "model.safetensors")
        if kind == "pipe":
            os.mkfifo(target)
        elif kind == "device":
            target.symlink_to("/dev/zero")
        elif kind == "link to a device":
            (target.parent / "other").symlink_to("/dev/zero")
            target.symlink_to(target.parent / "other")
        elif kind == "link to itself":
            target.symlink_to(target)
        else:
            target.mkdir()
    done = run_python(
        """
        import resource, signal
        from rebasin_cli.checkpoints.opening import open_checkpoint
        from rebasin_cli.errors import RebasinError
        resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
        for name in sys.argv[2:]:
            folder = Path(sys.argv[1], name)
            for path in (folder, folder / name, folder / "model.safetensors"):
                signal.alarm(30)
                try:
                    print(name, "opened", *open_checkpoint(path), flush=True)
                except RebasinError as error:
                    print(name, error.exit_code, error.what, flush=True)
        """,
        tmp_path,
        *NAMES,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [name for name in NAMES for _ in range(3)]


@pytest.mark.parametrize(("name", "limit"), [("config.json", 16 << 20), ("model.safetensors.index.json", 100 << 20)])
def test_small_files_have_a_limit(name: str, limit: int, tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    with (tmp_path / name).open("wb") as file:
        file.truncate(limit + 1)
    with pytest.raises(ContentError, match="which a file of its kind does not need"):
        open_checkpoint(tmp_path / name if "index" in name else tmp_path)
