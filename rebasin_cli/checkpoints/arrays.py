"""Files of arrays by name that are not torch's: what NumPy (.npz), Flax (.msgpack) and Keras (.h5) write.

They are read as they are, under the names of their own world; nothing is transposed: a layer's weight is (in, out) or
(height, width, in, out) there, and a spec says so by its order of axes. What comes out is safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from rebasin_cli.checkpoints.header import METADATA, TORCH_NAMES, TensorInfo
from rebasin_cli.checkpoints.networks import WRAPPERS, listed, shown
from rebasin_cli.checkpoints.reader import CHUNK, Block, FileConfig, StableFile
from rebasin_cli.errors import ContentError
from rebasin_cli.safe_text import shell_word

if TYPE_CHECKING:  # what is in a file is told without it
    import torch

ArrayKind = Literal["npz", "msgpack", "hdf5"]

MOST_ARRAYS = 100_000
_NAMES = {text: name for name, text in TORCH_NAMES.items()}  # NumPy calls its types as torch does
_NETWORKS = {*WRAPPERS, "layers", "model_weights"}  # where a network lies beside its optimizer
_SEPARATORS = "./"


@dataclass(frozen=True, slots=True)
class FoundArray:
    """An array in a file: type and shape, and what reads its bytes in row-major order, 1-D uint8."""

    info: TensorInfo
    raw: Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds: arrays by name, and what is none, described."""

    arrays: Mapping[str, FoundArray]
    others: tuple[str, ...] = ()


class ArrayFile:
    """A file of arrays by name, opened; see `TensorFile`."""

    metadata: Mapping[str, str] = MappingProxyType({})
    config: FileConfig | None = None

    def __init__(self, path: Path, kind: ArrayKind, key: str | None = None, named: str | None = None) -> None:
        """Open `path`; `key` names the part that is meant; `named`: how advice names the file.

        Raises:
            ContentError: damaged, too large for what it is, or without that part. UsageError: its library is missing.
            SystemFailure: it cannot be read.
        """
        self.path = path
        self._file = StableFile(path)
        found = _find(self._file, kind)
        if len(found.arrays) > MOST_ARRAYS:
            raise ContentError(f"the file has more than {MOST_ARRAYS:,} arrays", where=str(path),
                               remedy="save the weights alone")  # fmt: skip
        self._arrays = _part(found.arrays, key, str(path), named or str(path))
        self.infos: Mapping[str, TensorInfo] = MappingProxyType({name: a.info for name, a in self._arrays.items()})
        left_out = (f"no arrays of numbers, left out: {listed(list(found.others))}",) if found.others else ()
        self.notes: tuple[str, ...] = (*left_out, *_beside(self._arrays, key, named or str(path)))

    def read_raw(self, key: str) -> torch.Tensor:
        """The bytes of an array in row-major order, 1-D uint8, in memory that the caller owns."""
        return self._arrays[key].raw()

    def blocks(self) -> Iterator[Block]:
        """The bytes of the file, then those of the arrays, which may be compressed in it."""
        for data in self._file.chunks():
            yield Block(data, None, of_file=True)
        for key, array in self._arrays.items():
            raw = array.raw()
            for start in range(0, raw.numel(), CHUNK):
                yield Block(raw[start : start + CHUNK], key, of_file=False)


def dtype_of(numpy_name: str) -> str | None:
    """The format's name of NumPy's type; None for what safetensors cannot hold."""
    return _NAMES.get(numpy_name)


def refused_type(name: str, dtype: str, where: str) -> ContentError:
    """The error for an array whose numbers safetensors cannot hold."""
    return ContentError(
        f"{shown(name)} is of type {shown(dtype)}, which is not read", where=where,
        remedy="save it as float32, or the weights as safetensors: safetensors.numpy.save_file(arrays, FILE)",
    )  # fmt: skip


def _find(file: StableFile, kind: ArrayKind) -> Found:
    if kind == "npz":
        from rebasin_cli.checkpoints.npz import npz_arrays

        return npz_arrays(file)
    if kind == "msgpack":
        from rebasin_cli.checkpoints.flax_files import flax_arrays

        return flax_arrays(file)
    from rebasin_cli.checkpoints.hdf5 import hdf5_arrays

    return hdf5_arrays(file)


def _part(arrays: Mapping[str, FoundArray], key: str | None, where: str, path: str) -> Mapping[str, FoundArray]:
    """The arrays under `key`, by their names from there on; all of them without one."""
    if METADATA in arrays:
        raise ContentError(f"an array has the name {METADATA}, which safetensors cannot hold", where=where,
                           remedy="save it under another name")  # fmt: skip
    if key is None:
        return arrays
    found = {
        name[len(key) + 1 :]: array
        for name, array in arrays.items()
        if name.startswith(key) and name[len(key) : len(key) + 1] in _SEPARATORS and len(name) > len(key) + 1
    }
    if not found:
        tops = list(_tops(arrays))
        raise ContentError(
            f"the file has no part {shown(key)!r}; it has {listed(list(map(shown, tops))) or 'none'}", where=where,
            remedy=f"name one of them: {listed([shell_word(f'{path}:{top}') for top in tops])}"
            if tops else f"leave the key away: {shell_word(path)}",
        )  # fmt: skip
    return found


def _tops(arrays: Mapping[str, FoundArray]) -> dict[str, int]:
    """The parts that a file consists of, as it names them, and how many arrays each has."""
    found: dict[str, int] = {}
    for name in arrays:
        at = min((i for separator in _SEPARATORS if (i := name.find(separator)) > 0), default=0)
        if at:
            found[name[:at]] = found.get(name[:at], 0) + 1
    return found


def _beside(arrays: Mapping[str, FoundArray], key: str | None, path: str) -> tuple[str, ...]:
    """A note on what lies beside a network, such as the state of its optimizer."""
    tops = _tops(arrays)
    networks = [top for top in tops if top in _NETWORKS]
    others = [shown(top) for top in tops if top not in _NETWORKS]
    if key is not None or len(networks) != 1 or not others:
        return ()
    alone = shell_word(f"{path}:{networks[0]}")
    return (f"the file holds more than {networks[0]}: {listed(others)}; {alone} names it alone",)
