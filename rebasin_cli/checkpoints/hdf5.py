"""HDF5 files, as Keras writes them (.weights.h5, .h5): reading is h5py's (the extra `keras`).

Groups and arrays of the file itself alone are followed: the format can also name other files, and HDF5 would open them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rebasin_cli.checkpoints.arrays import MOST_ARRAYS, Found, FoundArray, dtype_of, refused_type
from rebasin_cli.checkpoints.header import TensorInfo
from rebasin_cli.checkpoints.networks import shown
from rebasin_cli.checkpoints.reader import StableFile
from rebasin_cli.checkpoints.zips import check_expanded
from rebasin_cli.errors import ContentError, RebasinError, UsageError

if TYPE_CHECKING:
    import torch

_DEEPEST = 64
_FILTERS = (None, "gzip", "lzf", "szip")
_SAVE = "model.save_weights('model.weights.h5')"


def hdf5_arrays(file: StableFile) -> Found:
    """The arrays of a file; names are joined by `/`, as in `layers/dense/vars/0`.

    Raises:
        UsageError: h5py is not installed. ContentError: damaged, larger than compressed weights become, or with parts
            in other files.
    """
    h5py, where = _library(), str(file.path)
    arrays: dict[str, FoundArray] = {}
    others: list[str] = []
    try:
        with h5py.File(where, "r", locking=False) as opened:
            total = 0
            for name, dataset in _datasets(h5py, opened, where):
                if dataset.dtype.kind in "OSU":
                    others.append(shown(name))
                    continue
                total += dataset.nbytes
                check_expanded(file.path, file.size, total, "what is in it", _SAVE)
                kind = dtype_of(dataset.dtype.name)
                if kind is None:
                    raise refused_type(name, dataset.dtype.name, where)
                arrays[name] = FoundArray(TensorInfo(kind, dataset.shape), _reader(file, name))
    except RebasinError:
        raise
    except Exception as error:  # whatever HDF5 makes of a damaged file
        raise _damaged(error, where) from error
    return Found(arrays, tuple(others))


def _datasets(h5py: Any, root: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every array below a group, in the order of names; each group once.

    Raises:
        ContentError: one that is elsewhere, or more than networks have.
    """
    todo, visited = [("", root, 0)], 0
    while todo:
        path, group, depth = todo.pop()
        inner = []
        for key in sorted(group, key=_by_number):
            visited += 1
            name = f"{path}{key}"
            if visited > 4 * MOST_ARRAYS or depth > _DEEPEST:
                raise ContentError("the file has more groups than networks have", where=where, remedy=_SAVE)
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ContentError(
                    f"{shown(name)} is a link, and only what the file itself holds is read", where=where,
                    remedy=f"write it whole: {_SAVE}",
                )  # fmt: skip
            entry = group[key]
            if isinstance(entry, h5py.Group):
                inner.append((f"{name}/", entry, depth + 1))
            elif isinstance(entry, h5py.Dataset):
                if entry.external or entry.is_virtual or entry.compression not in _FILTERS:
                    raise ContentError(
                        f"{shown(name)} lies in other files, or is compressed by a plugin", where=where,
                        remedy=f"write it whole: {_SAVE}",
                    )  # fmt: skip
                if entry.shape is not None:
                    yield name, entry
        todo += reversed(inner)


def _by_number(key: str) -> tuple[int, str]:
    return (int(key), "") if key.isascii() and key.isdecimal() and len(key) < 10 else (-1, key)


def _reader(file: StableFile, name: str) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        import numpy as np
        import torch

        file.read_bytes(0, 1)  # it must be the file that was opened
        try:
            with _library().File(str(file.path), "r", locking=False) as opened:
                array = np.ascontiguousarray(opened[name][()])
        except Exception as error:
            raise _damaged(error, str(file.path)) from error
        native = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return torch.from_numpy(native.reshape(-1).view(np.uint8).copy())

    return read


def _damaged(error: Exception, where: str) -> ContentError:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return ContentError(f"the HDF5 file is damaged: {first}", where=where, remedy=f"write it again: {_SAVE}")


def _library() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UsageError(
            f"reading HDF5 (Keras) needs h5py, which cannot be imported: {error}",
            remedy="pip install 'rebasin-cli[keras]'; or save the weights as safetensors",
        ) from error
    return h5py
