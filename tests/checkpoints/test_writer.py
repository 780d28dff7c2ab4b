from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize, safe_open
from safetensors.torch import load_file, save_file

from rebasin_cli.checkpoints.header import BITS, TensorInfo, build_header
from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.places import check_space
from rebasin_cli.checkpoints.writer import check_target, stream_checkpoint, tensors_bytes, write_checkpoint
from rebasin_cli.errors import SystemFailure, UsageError, human_bytes
from tests.checkpoints.building import every_dtype_file, two_shards, write_sharded


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.safetensors"
    save_file({"w": torch.randn(3, 2), "n": torch.tensor(3)}, path, metadata={"format": "pt", "kept": "yes"})
    return path


def copy(source: Path, target: Path, *, force: bool = False) -> tuple[Path, ...]:
    with open_checkpoint(source) as checkpoint:
        return write_checkpoint(target, checkpoint, checkpoint.read_raw, metadata={"rebasin.x": "1"}, force=force)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if ".partial" in path.name]


def test_golden_bytes() -> None:
    content = tensors_bytes({"h.0": torch.tensor([1, 0]), "é": torch.tensor(True)}, metadata={"k": "v"})
    header = (
        '{"__metadata__":{"k":"v"},"h.0":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},'
        '"é":{"dtype":"BOOL","shape":[],"data_offsets":[16,17]}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    golden = len(header).to_bytes(8, "little") + header + b"\1" + bytes(15) + b"\1"
    assert content == golden


def test_the_library_reads_every_dtype_as_it_was(tmp_path: Path) -> None:
    content, infos = every_dtype_file()
    (tmp_path / "a.safetensors").write_bytes(content)
    copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    ours = dict(deserialize((tmp_path / "b.safetensors").read_bytes()))
    theirs = dict(deserialize(content))
    assert ours == theirs
    assert ours.keys() == infos.keys()
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "näme": "λ", "rebasin.x": "1"}


def _is_plain(name: str) -> bool:
    """Not a name of which a file is refused: an empty `bias`, say, is a placeholder."""
    return not name.endswith(("bias", "SCB", "W_q"))


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, TensorInfo]:
    infos = {}
    for name in draw(st.lists(st.text(min_size=1, max_size=5).filter(_is_plain), unique=True)):
        dtype = draw(st.sampled_from(sorted(BITS)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        info = TensorInfo(dtype, tuple(shape))
        if info.numel * BITS[dtype] % 8:
            info = TensorInfo(dtype, (*shape, 4))
        try:
            name.encode()
        except UnicodeEncodeError:
            continue
        infos[name] = info
    return infos or {"a": TensorInfo("F32", ())}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(infos=layouts(), metadata=st.dictionaries(st.sampled_from(["a", "ö", ""]), st.sampled_from(["", "x\n", "λ"])))
def test_any_layout_comes_back(infos: dict[str, TensorInfo], metadata: dict[str, str], tmp_path: Path) -> None:
    header, order = build_header(infos, metadata)
    data = b"".join(bytes([i % 251]) * infos[name].nbytes for i, name in enumerate(order))
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first.write_bytes(header + data)
    with open_checkpoint(first) as checkpoint:
        assert dict(checkpoint.infos) == infos
        assert tuple(checkpoint) == order
        write_checkpoint(second, checkpoint, checkpoint.read_raw, metadata={}, force=True)
    assert second.read_bytes() == first.read_bytes()
    assert dict(deserialize(second.read_bytes())) == dict(deserialize(first.read_bytes()))


def test_keys_order_types_and_metadata_are_the_sources(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    asked: list[str] = []

    with open_checkpoint(source) as checkpoint:

        def read(key: str) -> torch.Tensor:
            asked.append(key)
            return checkpoint[key] * 2

        seen: list[int] = []
        assert write_checkpoint(target, checkpoint, read, metadata={"kept": "new"}, on_bytes=seen.append) == (target,)
        written = open_checkpoint(target)
        assert asked == list(checkpoint) == list(written)
        assert sum(seen) == checkpoint.nbytes
        assert written.infos == checkpoint.infos
        assert written.metadata == {"format": "pt", "kept": "new"}
        assert torch.equal(written["w"], checkpoint["w"] * 2)


def test_a_tensor_that_was_not_promised_stops_the_writing(source: Path, tmp_path: Path) -> None:
    with open_checkpoint(source) as checkpoint:
        fine = dict(checkpoint)
        for wrong in (
            torch.zeros(2, 3),
            torch.zeros(3, 2).double(),
            torch.zeros(3, 2, dtype=torch.int32),
            torch.zeros(4, 6, dtype=torch.uint8),
        ):
            with pytest.raises(ValueError, match=r"w: .* was promised"):
                write_checkpoint(
                    tmp_path / "out.safetensors", checkpoint, {**fine, "w": wrong}.__getitem__, metadata={}
                )
    assert os.listdir(tmp_path) == [source.name]


def test_a_view_and_a_gradient_are_written_as_values(source: Path, tmp_path: Path) -> None:
    values = torch.randn(2, 3, requires_grad=True)
    checkpoint = open_checkpoint(source)
    target = tmp_path / "out.safetensors"
    write_checkpoint(target, checkpoint, lambda key: values.T if key == "w" else checkpoint[key], metadata={})
    assert torch.equal(load_file(target)["w"], values.detach().T)


def test_an_existing_file_needs_force(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.write_text("mine")
    with pytest.raises(UsageError, match="exists already") as caught:
        copy(source, target)
    assert "--force" in caught.value.remedy
    assert target.read_text() == "mine"
    copy(source, target, force=True)
    assert torch.equal(load_file(target)["w"], load_file(source)["w"])


def test_what_cannot_become_a_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("folder", "is a folder"), ("pipe", "is not a regular file")):
        with pytest.raises(UsageError, match=message):
            copy(source, tmp_path / name, force=True)
    with pytest.raises(SystemFailure, match="there is no folder") as caught:
        copy(source, tmp_path / "absent" / "out.safetensors")
    assert caught.value.remedy == f"make the folder first: mkdir -p {tmp_path / 'absent'}"


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_the_mode_is_what_the_umask_leaves(umask: int, source: Path, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        copy(source, tmp_path / "out.safetensors")
        copy(write_sharded(tmp_path / "m", two_shards()), tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~umask for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_written_through(exists: bool, source: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / "real.safetensors", tmp_path / "link.safetensors"
    link.symlink_to("store/real.safetensors")
    if exists:
        real.write_text("old")
        with pytest.raises(UsageError, match="exists already"):
            copy(source, link)
    copy(source, link, force=exists)
    assert link.is_symlink()
    assert not real.is_symlink()
    assert torch.equal(load_file(real)["w"], load_file(source)["w"])
    assert leftovers(tmp_path) == []


def test_a_long_name(source: Path, tmp_path: Path) -> None:
    target = tmp_path / ("é" * 121 + ".safetensors")  # 254 bytes: the temporary name must not be longer
    copy(source, target)
    assert target.exists()


def test_a_folder_becomes_a_folder(tmp_path: Path) -> None:
    shards = two_shards()
    folder = write_sharded(tmp_path / "m", shards)
    written = copy(folder, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in folder.iterdir())
    assert [path.name for path in written] == sorted(shards)
    for path in written:
        loaded = load_file(path)
        assert all(torch.equal(loaded[key], tensor) for key, tensor in shards[path.name].items())
        assert loaded.keys() == shards[path.name].keys()
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": open_checkpoint(folder).nbytes, "more": "kept"}
    assert index["weight_map"] == json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert (tmp_path / "out" / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert open_checkpoint(tmp_path / "out").metadata == {"format": "pt", "rebasin.x": "1"}
    assert leftovers(tmp_path) == []


def test_shards_in_a_folder_below(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    (folder / "part").mkdir()
    (folder / "model-00001-of-00002.safetensors").rename(folder / "part" / "model-00001-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "part/model-00001"))
    copy(folder, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    copy(folder, tmp_path / "empty")
    for name in ("out", "empty"):
        assert list(open_checkpoint(tmp_path / name)) == list(open_checkpoint(folder))


def test_an_existing_folder(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    target = tmp_path / "out"
    target.mkdir()
    copy(folder, target)  # an empty folder is as good as none
    (target / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        copy(folder, target)
    (target / "config.json").write_text("old")
    copy(folder, target, force=True)
    assert (target / "mine.txt").read_text() == "mine"
    assert json.loads((target / "config.json").read_text()) == {"hidden_size": 8}
    save_file({"x": torch.ones(1)}, target / "other.safetensors")
    with pytest.raises(UsageError, match=r"would be mixed with the new ones: other\.safetensors"):
        copy(folder, target, force=True)
    with pytest.raises(UsageError, match="is a file, and the checkpoint is a folder"):
        copy(folder, target / "mine.txt", force=True)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_an_interrupt_leaves_nothing(error: type[BaseException], exists: bool, source: Path, tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    if exists:
        copy(source, outputs / "out.safetensors")
        copy(folder, outputs / "out")
    before = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    for path, last in ((source, "n"), (folder, "a.weight")):
        checkpoint = open_checkpoint(path)

        def read(key: str, checkpoint: dict[str, torch.Tensor] = checkpoint, last: str = last) -> torch.Tensor:  # type: ignore[assignment]
            if key == last:
                raise error
            return checkpoint[key]

        target = outputs / ("out" if checkpoint.is_folder else "out.safetensors")
        with pytest.raises(error):
            write_checkpoint(target, checkpoint, read, metadata={}, force=True)
    assert {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()} == before
    assert leftovers(tmp_path) == []


def test_a_stream_has_the_bytes_of_the_file(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "out.safetensors")
    checkpoint = open_checkpoint(source)
    stream = io.BytesIO()
    stream_checkpoint(stream, checkpoint, checkpoint.read_raw, metadata={"rebasin.x": "1"})
    assert stream.getvalue() == (tmp_path / "out.safetensors").read_bytes()


def test_a_folder_streams_as_one_file(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_sharded(tmp_path / "m", two_shards()))
    stream = io.BytesIO()
    stream_checkpoint(stream, checkpoint, checkpoint.__getitem__, metadata={})
    (tmp_path / "one.safetensors").write_bytes(stream.getvalue())
    loaded = load_file(tmp_path / "one.safetensors")
    assert loaded.keys() == set(checkpoint)
    assert all(torch.equal(loaded[key], checkpoint[key]) for key in checkpoint)


def test_a_closed_pipe_is_the_callers_business(source: Path) -> None:
    checkpoint = open_checkpoint(source)
    receiving, sending = os.pipe()
    os.close(receiving)
    with os.fdopen(sending, "wb", buffering=0) as out, pytest.raises(BrokenPipeError):
        stream_checkpoint(out, checkpoint, checkpoint.read_raw, metadata={})


def test_room_on_the_disk_is_looked_at_first(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match="100000 TB are needed"):
        check_space(tmp_path / "absent" / "out", 10**17)
    check_space(tmp_path, 1)


def test_a_check_beforehand_touches_nothing(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    check_target(tmp_path / "out.safetensors", checkpoint)
    assert os.listdir(tmp_path) == [source.name]
    with pytest.raises(UsageError):
        check_target(source, checkpoint)


def test_a_small_file_of_our_own(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    tensors = {"h.0": torch.tensor([2, 0, 1]), "q": torch.arange(4).reshape(2, 2).T}
    path.write_bytes(tensors_bytes(tensors, metadata={"spec": "mlp"}))
    loaded = load_file(path)
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)
    with pytest.raises(ValueError, match="complex128"):
        tensors_bytes({"a": torch.ones(1, dtype=torch.complex128)}, metadata={})


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 kB"), (999_999, "1 MB"), (10**9, "1 GB"), (5 * 10**13, "50 TB")],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert human_bytes(count) == text
