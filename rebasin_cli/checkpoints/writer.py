"""Checkpoints to files: the header is built from the source's headers, then the tensors follow one by one.

The format's own library writes a dict that is whole in memory, makes files of mode 0600 and replaces symbolic links.
Here the keys, shapes, types and files of the source are known beforehand, so memory is bounded by one tensor.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import torch

from rebasin_cli.checkpoints.checkpoint import Checkpoint, Index
from rebasin_cli.checkpoints.header import TensorInfo, build_header
from rebasin_cli.checkpoints.outputs import HashedFile, Outputs
from rebasin_cli.checkpoints.places import check_space, check_target, file_names, needed_bytes, resolve_target
from rebasin_cli.checkpoints.reader import CHUNK
from rebasin_cli.checkpoints.tensors import combined_sha256, count_non_finite, dtype_name, tensor_bytes, torch_dtype
from rebasin_cli.errors import ContentError, system_failure
from rebasin_cli.files import new_file
from rebasin_cli.safe_text import first_names

_LISTED = 5  # tensors that an error names

Read = Callable[[str], torch.Tensor]
OnBytes = Callable[[int], None]


def write_checkpoint(
    target: Path,
    source: Checkpoint,
    read: Read,
    *,
    metadata: Mapping[str, str],
    force: bool = False,
    on_bytes: OnBytes | None = None,
    outputs: Outputs | None = None,
) -> tuple[Path, ...]:
    """Write a checkpoint with `source`'s keys, shapes, types and files, and the values that `read` gives.

    A file becomes a file. A folder becomes a folder: the same shards, an index if there was one, the companions.

    Args:
        read: key -> the tensor in the source's shape and type (on any device), or its raw bytes (1-D uint8); it is
            called once for each key, in the order of writing, and its tensor is dropped before the next call.
        metadata: `__metadata__` to add to what the source's files have.
        on_bytes: called with the size of each stretch of tensors that is written; they add up to `source.nbytes`.
        outputs: the set that it appears with, whose `force` counts; None: it appears at once.
    Returns:
        The paths of the safetensors files.
    Raises:
        UsageError, SystemFailure: see `check_target`; also a disk that fills up meanwhile. No partial file is left.
    """
    if outputs is None:
        with Outputs(force=force) as alone:
            return write_checkpoint(target, source, read, metadata=metadata, on_bytes=on_bytes, outputs=alone)
    check_target(target, source, force=outputs.force)
    check_space(target, needed_bytes(source))
    if not source.is_folder:
        with outputs.file(target) as out:
            write_file(out, source.infos, read, {**source.metadata, **metadata}, on_bytes)
        return (target,)
    place = resolve_target(target)
    with outputs.folder(target, file_names(source)) as folder:
        for companion in source.companions:
            with companion.open("rb") as content, new_file(folder / companion.name, like=place / companion.name) as out:
                shutil.copyfileobj(content, out)
        digests: dict[str, str] = {}
        for shard in source.shards:
            _make_folders(folder, Path(shard.name).parent)
            infos = {key: source.infos[key] for key in shard.keys}
            with new_file(folder / shard.name, like=place / shard.name) as out:
                hashed = HashedFile(out)
                shown = {**source.files[shard.name].metadata, **metadata}
                write_file(cast(BinaryIO, hashed), infos, read, shown, on_bytes)
                digests[shard.name] = hashed.sha256
        outputs.hashes[target.absolute()] = combined_sha256(digests)
        if source.index is not None:
            with new_file(folder / source.index.name, like=place / source.index.name) as out:
                _write_all(out, memoryview(_index_text(source, source.index)))
    return tuple(target / shard.name for shard in source.shards)


def stream_checkpoint(
    out: BinaryIO, source: Checkpoint, read: Read, *, metadata: Mapping[str, str], on_bytes: OnBytes | None = None
) -> None:
    """Write all of `source`'s tensors as one safetensors file into a pipe; arguments as in `write_checkpoint`.

    Raises:
        BrokenPipeError: the reader went away; whether that matters is the caller's to say.
        SystemFailure: any other error of writing.
    """
    try:
        write_file(out, source.infos, read, {**source.metadata, **metadata}, on_bytes)
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise system_failure(error, Path("-"), "write") from error


def tensors_bytes(tensors: Mapping[str, torch.Tensor], *, metadata: Mapping[str, str]) -> bytes:
    """The safetensors file of a few small tensors.

    Raises:
        ValueError: a type that safetensors does not have.
    """
    infos = {}
    for key, tensor in tensors.items():
        name = dtype_name(tensor.dtype)
        if name is None:
            raise ValueError(f"{key}: safetensors has no {tensor.dtype}")
        infos[key] = TensorInfo(name, tuple(tensor.shape))
    out = io.BytesIO()
    write_file(out, infos, tensors.__getitem__, metadata, None)
    return out.getvalue()


def _make_folders(top: Path, below: Path) -> None:
    """Make the folders of `below` in `top`; `top` itself is never made, as it would hide that it has vanished."""
    for parent in [*reversed(below.parents), below]:
        if parent.name:
            (top / parent).mkdir(exist_ok=True)


def write_file(
    out: BinaryIO,
    infos: Mapping[str, TensorInfo],
    read: Read,
    metadata: Mapping[str, str],
    on_bytes: OnBytes | None = None,
) -> None:
    """Write one safetensors file of these tensors, in their order; `read` as in `write_checkpoint`."""
    header, order = build_header(infos, metadata)
    _write_all(out, memoryview(header))
    for key in order:
        _write_tensor(out, _checked_bytes(key, read(key), infos[key]), on_bytes)


def _write_tensor(out: BinaryIO, data: torch.Tensor, on_bytes: OnBytes | None) -> None:
    """Write 1-D uint8; a function of its own, so that no name keeps the tensor while the next one is made."""
    for start in range(0, data.numel(), CHUNK):
        stretch = data[start : start + CHUNK]
        _write_all(out, stretch.numpy().data)
        if on_bytes is not None:
            on_bytes(stretch.numel())


def _write_all(out: BinaryIO, view: memoryview) -> None:
    while view:  # an unbuffered file may take less than it is offered
        view = view[out.write(view) :]


def _checked_bytes(key: str, tensor: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """What `read` gave, as bytes; the header has been written, so that anything else would be a broken file."""
    if tensor.dtype == torch.uint8 and tensor.dim() == 1 and tensor.numel() == info.nbytes:
        return tensor_bytes(tensor)
    if tensor.dtype != torch_dtype(info.dtype) or tuple(tensor.shape) != info.shape:
        raise ValueError(f"{key}: {info} was promised, and {tensor.dtype} {tuple(tensor.shape)} came")
    return tensor_bytes(tensor)


def _index_text(source: Checkpoint, index: Index) -> bytes:
    metadata = {**index.metadata, "total_size": source.nbytes}
    weight_map = {key: shard.name for shard in source.shards for key in shard.keys}
    return (json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, ensure_ascii=False) + "\n").encode()


class FiniteReader:
    """Reads tensors for a writer, and counts the values that are NaN or infinite.

    Args:
        read: key -> the tensor in its final dtype, or its raw bytes.
        infos: what is written, by key.
        at_once: whether the first such value is an error at once: a pipe cannot be taken back.
    """

    def __init__(self, read: Read, infos: Mapping[str, TensorInfo], *, at_once: bool) -> None:
        self._read, self._infos, self._at_once = read, infos, at_once
        self.counts: dict[str, int] = {}

    def __call__(self, key: str) -> torch.Tensor:
        tensor = self._read(key)
        count = count_non_finite(tensor_bytes(tensor), self._infos[key].dtype)
        if count:
            self.counts[key] = count
            if self._at_once:
                self.check()
        return tensor

    def check(self) -> None:
        """Stop if there were any.

        Raises:
            ContentError: naming tensors, counts and types.
        """
        if self.counts:
            raise ContentError(
                self.found(),
                remedy="the result has the first checkpoint's types, into which these values do not fit: convert it to "
                "float32 first, name the wider one first, or keep them with --allow-non-finite",
            )

    def found(self) -> str:
        """What was counted: tensors, counts and types."""
        counted = [
            f"{key} ({count} of {self._infos[key].numel}, {self._infos[key].dtype})"
            for key, count in self.counts.items()
        ]
        listed = first_names(counted, _LISTED, " and {} more")
        tensors = (
            "1 tensor of the result has" if len(self.counts) == 1 else f"{len(self.counts)} tensors of the result have"
        )
        return f"{tensors} values that are not finite: {listed}"
