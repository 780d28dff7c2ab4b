"""torch's own files (.pt, .pth, .bin, .ckpt), read without torch.load: no name in them is imported or called.

A pickle is a program. It is read as data (`unpickling.py`), its tensors are described by its records (`stored.py`), and
their bytes are read from the file on demand, so that memory is bounded by one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rebasin_cli.checkpoints.archives import DAMAGED, RESAVE, Archive, open_archive
from rebasin_cli.checkpoints.header import METADATA, TensorInfo
from rebasin_cli.checkpoints.hyperparameters import find_config
from rebasin_cli.checkpoints.inert import PickleFault, TooMuch
from rebasin_cli.checkpoints.networks import choose_network, describe, entries, listed, named_networks, shown
from rebasin_cli.checkpoints.reader import CHUNK, Block, StableFile
from rebasin_cli.checkpoints.stored import (
    EXPANDED,
    Storage,
    StoredTensor,
    UnreadableTensor,
    is_tensor,
    read_tensor_record,
)
from rebasin_cli.errors import ContentError, human_bytes

if TYPE_CHECKING:  # what is in a file is told without it
    import torch

# Names that only an attack on careless readers has. Here they do nothing, but the user should know.
_ATTACKS = re.compile(
    r"(?:os|posix|nt|subprocess|sys|shutil|socket|ctypes|importlib|runpy|pty|code|pdb|webbrowser|commands|pip|timeit"
    r"|torch\.hub|torch\.utils\.cpp_extension)\.|builtins\.(?:eval|exec|compile|open|__import__|input|execfile|"
    r"breakpoint|globals)$"
)
_REPEATED = 16  # times that the bytes of a file may be views of: layers that share their weights
_KNOWN = ("torch.", "collections.", "numpy.", "builtins.", "_codecs.", "copyreg.")


class PickleFile:
    """A file of torch.save, opened; see `TensorFile`.

    Attributes:
        config: head counts and the like that were saved with the weights.
    """

    # As safetensors' own writer marks torch's tensors; transformers requires it.
    metadata: Mapping[str, str] = MappingProxyType({"format": "pt"})

    def __init__(self, path: Path, *, zipped: bool, key: str | None = None, named: str | None = None) -> None:
        """Open `path`; `key` names the network that is meant, if there are several; `named`: how advice names the file.

        Raises:
            ContentError: not torch's, truncated, an attack, or without a state dict that is obvious or named.
            SystemFailure: it cannot be read.
        """
        self.path = path
        self._file = StableFile(path)
        where = str(path)
        try:
            archive = open_archive(self._file, zipped=zipped)
            _refuse_attack(archive.pickle.globals, where)
            chosen = choose_network(archive.pickle.value, key, where, named or where)
            tensors, others = _state_dict(chosen.network.holder, where, self._file.size)
            self._starts = {
                name: _place(archive, name, tensor.source)
                for name, tensor in tensors.items()
                if isinstance(tensor.source, Storage)
            }
        except PickleFault as error:
            remedy = RESAVE if isinstance(error, TooMuch) else DAMAGED
            raise ContentError(str(error), where=where, remedy=remedy) from None
        if archive.swapped:
            tensors = {k: replace(t, swapped=True) if k in self._starts else t for k, t in tensors.items()}
        self._tensors: Mapping[str, StoredTensor] = tensors
        self.config = find_config(chosen.around)
        told = (*chosen.notes, *others)
        self.notes = (*told, *_left_out(archive.pickle.globals, told))
        self.infos: Mapping[str, TensorInfo] = MappingProxyType({k: t.info for k, t in tensors.items()})

    def read_raw(self, key: str) -> torch.Tensor:
        """The bytes of a tensor in row-major order, 1-D uint8, in memory that the caller owns."""
        import torch

        from rebasin_cli.checkpoints.views import read_stored

        tensor = self._tensors[key]
        if isinstance(tensor.source, bytes):
            data = torch.frombuffer(bytearray(tensor.source), dtype=torch.uint8) if tensor.source else torch.empty(0)
            return read_stored(tensor, lambda position, size: data[position : position + size].clone())
        start = self._starts[key]
        return read_stored(tensor, lambda position, size: self._file.read(start + position, size))

    def blocks(self) -> Iterator[Block]:
        """The bytes of the file, then those of the tensors: a pickle does not hold them in a plain order."""
        from rebasin_cli.checkpoints.views import is_contiguous

        for data in self._file.chunks():
            yield Block(data, None, of_file=True)
        for key, tensor in self._tensors.items():
            if is_contiguous(tensor) and not isinstance(tensor.source, bytes):
                begin = self._starts[key] + tensor.offset * tensor.itemsize
                for start in range(0, tensor.info.nbytes, CHUNK):
                    size = min(CHUNK, tensor.info.nbytes - start)
                    yield Block(self._file.read(begin + start, size), key, of_file=False)
            else:
                raw = self.read_raw(key)
                for start in range(0, raw.numel(), CHUNK):
                    yield Block(raw[start : start + CHUNK], key, of_file=False)


def network_names(path: Path, *, zipped: bool) -> tuple[str, ...]:
    """The networks in a file of torch's that have a name: `student`, `models.0`.

    Raises:
        ContentError, SystemFailure: as `PickleFile`.
    """
    where = str(path)
    try:
        pickle = open_archive(StableFile(path), zipped=zipped).pickle
    except PickleFault as error:
        raise ContentError(str(error), where=where, remedy=RESAVE if isinstance(error, TooMuch) else DAMAGED) from None
    return named_networks(pickle.value, where)


def _place(archive: Archive, name: str, storage: Storage) -> int:
    try:
        return archive.place(storage)
    except PickleFault as error:
        raise PickleFault(f"{shown(name)}: {error}") from None


def _refuse_attack(names: Collection[str], where: str) -> None:
    found = [name for name in names if _ATTACKS.match(name)]
    if found:
        raise ContentError(
            f"this pickle wants to call {listed(list(map(shown, found)))}, which weights do not need; "
            "nothing was executed",
            where=where,
            remedy="a file from someone else may be an attack. If it is your own: " + RESAVE,
        )


def _left_out(names: Collection[str], told: Collection[str]) -> tuple[str, ...]:
    classes = [shown(name) for name in names if not name.startswith(_KNOWN) and not any(name in n for n in told)]
    return (f"classes in the file that were not imported: {listed(classes)}",) if classes else ()


def _state_dict(holder: Any, where: str, size: int) -> tuple[Mapping[str, StoredTensor], tuple[str, ...]]:
    """The tensors of a network by name, and notes about the rest of it; `size`: of the file, in bytes."""
    tensors, others = {}, []
    expanded = 0
    for key, value in (entries(holder) or {}).items():
        if not is_tensor(value):
            others.append(f"{shown(key)} ({describe(value)})")
            continue
        name = _checked_name(key, where)
        try:
            tensor = read_tensor_record(value)
        except PickleFault as error:
            raise PickleFault(f"{shown(name)}: {error}") from None
        if isinstance(tensor, UnreadableTensor):
            raise _unreadable(name, tensor, where)
        tensors[name] = tensor
        expanded += tensor.info.nbytes
    if expanded > _REPEATED * size + EXPANDED:
        raise PickleFault(f"its tensors have {human_bytes(expanded)}, and the file has {human_bytes(size)}")
    return tensors, (f"not tensors, left out: {listed(others)}",) if others else ()


def _unreadable(name: str, tensor: UnreadableTensor, where: str) -> ContentError:
    if tensor.packed:
        return ContentError(
            f"{shown(name)}: {tensor.kind} is packed, and does not survive a permutation",
            where=where,
            remedy="use the checkpoint that was quantised",
        )
    return ContentError(
        f"{shown(name)}: a tensor of this kind ({tensor.kind}) cannot be stored in safetensors",
        where=where,
        remedy="save it dense and in another type",
    )


def _checked_name(key: object, where: str) -> str:
    if isinstance(key, str) and key != METADATA:
        try:
            key.encode()
            return key
        except UnicodeEncodeError:
            pass
    text = repr(key) if isinstance(key, str | int | float) else describe(key)
    what = f"a tensor has the name {shown(text)}, which safetensors cannot hold"
    raise ContentError(what, where=where, remedy=RESAVE)
