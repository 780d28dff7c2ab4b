"""Tensors that are in memory already, as a checkpoint: copied once, so that nothing is shared with their owner.

They stand in the order in which the format's own library would write them, so that hashes and outputs are those of
the file that `safetensors.torch.save_file` makes of the same tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.header import BITS, TensorInfo, build_header
from rebasin_cli.checkpoints.reader import CHUNK, Block, FileConfig
from rebasin_cli.checkpoints.tensors import dtype_name, tensor_bytes
from rebasin_cli.errors import ContentError
from rebasin_cli.safe_text import first_names

_NAMED = 4  # entries that a message lists
_RANKS = {name: rank for rank, name in enumerate(BITS)}


class HeldFile:
    """Tensors in memory in the place of a file; see `TensorFile`."""

    config: FileConfig | None = None

    def __init__(self, path: Path, tensors: Mapping[str, torch.Tensor], notes: tuple[str, ...] = ()) -> None:
        """`path`: what they are called in messages."""
        self.path, self.notes = path, notes
        infos = {key: _info(key, tensor, str(path)) for key, tensor in tensors.items()}
        order = sorted(infos, key=lambda key: (-_RANKS[infos[key].dtype], key))
        self._header, order_written = build_header({key: infos[key] for key in order}, {})
        self._raw = {key: tensor_bytes(tensors[key].as_subclass(torch.Tensor)).clone() for key in order_written}
        self.infos: Mapping[str, TensorInfo] = MappingProxyType({key: infos[key] for key in order_written})
        self.metadata: Mapping[str, str] = {}

    def read_raw(self, key: str) -> torch.Tensor:
        """The bytes of a tensor, 1-D uint8, in memory that the caller owns."""
        return self._raw[key].clone()

    def blocks(self) -> Iterator[Block]:
        """What the file would hold, from its first byte to its last."""
        yield Block(torch.frombuffer(bytearray(self._header), dtype=torch.uint8), None, of_file=True)
        for key, raw in self._raw.items():
            for begin in range(0, raw.numel(), CHUNK):
                yield Block(raw[begin : begin + CHUNK], key, of_file=True)


def held_checkpoint(name: str, state: Mapping[str, object]) -> Checkpoint:
    """A checkpoint of the tensors of a state dict; what is none of them is left out, and that is noted.

    Args:
        name: what it is called in messages.
        state: tensors of any device, layout in memory, and dtype that safetensors has.

    Raises:
        ContentError: there are no tensors, or one has no values, no name, or a type that cannot be held.
    """
    unnamed = [key for key in state if not isinstance(key, str)]
    if unnamed:
        raise ContentError(
            f"a state dict names its tensors by text, and this one has {unnamed[0]!r}",
            where=name,
            remedy="pass module.state_dict()",
        )
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    others = {key: value for key, value in state.items() if key not in tensors}
    if not tensors:
        raise ContentError("the state dict has no tensors", where=name, remedy=_remedy(others))
    entries = "an entry that is no tensor is" if len(others) == 1 else f"{len(others)} entries that are no tensors are"
    shown = first_names([f"{key} ({type(value).__name__})" for key, value in others.items()], _NAMED)
    notes = (f"{name}: {entries} left out: {shown}",) if others else ()
    path = Path(name)
    return Checkpoint(path, {f"{name}.safetensors": HeldFile(path, tensors, notes)})


def _remedy(others: Mapping[str, object]) -> str:
    """What to pass instead, if there is a state dict inside."""
    for key, value in others.items():
        if isinstance(value, Mapping) and any(isinstance(inner, torch.Tensor) for inner in value.values()):
            return f"pass the one inside: checkpoint[{key!r}]"
        if isinstance(value, torch.nn.Module):
            return f"pass the module inside: checkpoint[{key!r}]"
    if any(hasattr(value, "__array__") for value in others.values()):
        return "make tensors of its arrays: {name: torch.from_numpy(array) for name, array in state.items()}"
    return "pass module.state_dict(), or a dict of tensors by name"


def _info(key: str, tensor: torch.Tensor, where: str) -> TensorInfo:
    """What a header says of a tensor.

    Raises:
        ContentError: it cannot be held.
    """
    if torch.nn.parameter.is_lazy(tensor):
        what, remedy = "is not initialised yet", "run the module once, so that its lazy layers get their shapes"
    elif tensor.is_meta:
        what, remedy = "is on the meta device, where tensors have no values", "load the weights into the module first"
    elif tensor.layout != torch.strided or tensor.is_nested:
        what, remedy = f"has the layout {str(tensor.layout).removeprefix('torch.')}", "pass dense tensors: to_dense()"
    elif (dtype := dtype_name(tensor.dtype)) is None or tensor.is_quantized:
        name = str(tensor.dtype).removeprefix("torch.")
        what, remedy = f"is {name}, which safetensors does not have", "convert it first, to float32 or complex64"
    else:
        return TensorInfo(dtype, tuple(tensor.shape))
    raise ContentError(f"{key} {what}", where=where, remedy=remedy)
