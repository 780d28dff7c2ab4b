"""Writing a checkpoint: permuted bit-exactly, or mixed, with values that are not finite counted and refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.header import SIGN_BITS, TensorInfo
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.checkpoints.tensors import as_bytes, as_elements, count_non_finite, tensor_bytes
from rebasin_cli.checkpoints.writer import stream_checkpoint, write_checkpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.permutation.gather import is_computed, permute_tensor
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.targets import Place
from rebasin_cli.safe_text import first_names
from rebasin_cli.spec import Layout

_LISTED = 5  # tensors that an error names


def exact_reader(permutation: Permutation, layout: Layout, source: Checkpoint) -> Callable[[str], Tensor]:
    """Key → the bytes of the permuted tensor; bit-exact where no unit is scaled or mapped, as no value is decoded."""

    def elements(key: str) -> Tensor:
        return as_elements(source.read_raw(key), source.infos[key])

    def read(key: str) -> Tensor:
        if not layout.tensors[key].pieces:
            return source.read_raw(key)
        info = source.infos[key]
        if is_computed(layout.tensors[key], layout, permutation):
            return tensor_bytes(permute_tensor(permutation, layout, key, source.__getitem__))
        return as_bytes(permute_tensor(permutation, layout, key, elements, SIGN_BITS.get(info.dtype)), info)

    return read


def write_weights(
    target: Place,
    source: Checkpoint,
    read: Callable[[str], Tensor],
    *,
    metadata: Mapping[str, str],
    outputs: Outputs,
    progress: Progress,
    finite: bool | None = None,
) -> None:
    """Write a checkpoint like `source` to a path, where it appears with the other outputs, or into a pipe at once.

    Args:
        finite: count values that are not finite, which mixing can make of finite ones, and refuse them (True) or warn
            of them (False); None where what is written was scanned before.

    Raises:
        ContentError: some are refused; nothing appears at `target` then.
    """
    name = target.name if isinstance(target, Path) else "to stdout"
    at_once = bool(finite) and not isinstance(target, Path)
    reader = FiniteReader(read, source.infos, at_once=at_once) if finite is not None else None
    read = reader or read
    with progress.phase(f"writing {name}", source.nbytes, "bytes") as advance:
        if isinstance(target, Path):
            write_checkpoint(target, source, read, metadata=metadata, on_bytes=advance, outputs=outputs)
        else:
            stream_checkpoint(target, source, read, metadata=metadata, on_bytes=advance)
    if reader and finite:
        reader.check()
    elif reader and reader.counts:
        progress.warn(f"{name}: {reader.found()}")


class FiniteReader:
    """Reads tensors for a writer, and counts the values that are NaN or infinite.

    Args:
        read: key -> the tensor in its final dtype, or its raw bytes.
        infos: what is written, by key.
        at_once: whether the first such value is an error at once: a pipe cannot be taken back.
    """

    def __init__(self, read: Callable[[str], Tensor], infos: Mapping[str, TensorInfo], *, at_once: bool) -> None:
        self._read, self._infos, self._at_once = read, infos, at_once
        self.counts: dict[str, int] = {}

    def __call__(self, key: str) -> Tensor:
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
