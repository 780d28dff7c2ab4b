"""torch's own files (.pt, .pth, .bin, .ckpt), through `torch.load(weights_only=True)` and nothing laxer.

A pickle is a program. `weights_only` runs it on a list of harmless calls; whatever asks for more is refused with
the name of what it asked for. Files of the present format (zip) are mapped, so that only touched pages are read;
the mapped pages are clean, and the system takes them back when it needs memory. The old format has to be read whole.
"""

from __future__ import annotations

import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Any

import torch

from rebasin_cli.checkpoints.dtypes import TensorInfo, dtype_name, tensor_bytes
from rebasin_cli.checkpoints.failures import system_failure
from rebasin_cli.checkpoints.header import METADATA
from rebasin_cli.checkpoints.reader import CHUNK, Block, read_stream
from rebasin_cli.errors import ContentError

# Where training scripts put the state dict, the likeliest first; an averaged copy only if there is nothing else.
WRAPPERS = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "state_dict_ema",
    "model_ema", "ema_state_dict", "ema", "params_ema",
)  # fmt: skip
_RESAVE = "save the state dict alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
_DEPTH = 3  # {"model": {"state_dict": {"module": {...}}}} has been seen, deeper has not


class PickleFile:
    """A file of torch.save, opened; see `TensorFile`."""

    # What safetensors' own writer says of torch's tensors; readers of transformers insist on it.
    metadata: Mapping[str, str] = MappingProxyType({"format": "pt"})

    def __init__(self, path: Path, *, mapped: bool) -> None:
        """Open `path`; `mapped` for the zip format.

        Raises:
            ContentError: not torch's, truncated, wants to call something, or has no state dict.
        """
        self.path = path
        self._tensors, self.notes = _state_dict(_load(path, mapped=mapped), str(path))
        infos = {key: _info(key, tensor, str(path)) for key, tensor in self._tensors.items()}
        self.infos: Mapping[str, TensorInfo] = MappingProxyType(infos)

    def read_raw(self, key: str) -> torch.Tensor:
        """The bytes of a tensor in row-major order, 1-D uint8, in memory that the caller owns."""
        tensor = self._tensors[key]
        raw = tensor_bytes(tensor)  # a copy only if the tensor is a view with gaps
        return raw.clone() if raw.data_ptr() == tensor.data_ptr() else raw

    def blocks(self) -> Iterator[Block]:
        """The bytes of the file, then those of the tensors: a pickle does not hold them in a plain order."""
        for data in read_stream(self.path):
            yield Block(data, None, of_file=True)
        for key, tensor in self._tensors.items():
            raw = tensor_bytes(tensor)
            for start in range(0, raw.numel(), CHUNK):
                yield Block(raw[start : start + CHUNK], key, of_file=False)


def _load(path: Path, *, mapped: bool) -> Any:
    where = str(path)
    # torch before 2.6 unpickles members of an old tar archive without its list of harmless calls.
    if not mapped and tarfile.is_tarfile(path):
        raise ContentError("a torch checkpoint of before 2017 (tar) is not read", where=where, remedy=_RESAVE)
    if mapped:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about types of storage that have new names
            return torch.load(where, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise system_failure(error, path, "read") from error
    except UnpicklingError as error:
        raise _refusal(str(error), where) from None
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError and others on damaged files
        reason = str(error).strip().splitlines()[:1]
        raise ContentError(
            f"torch cannot read this file: {''.join(reason) or type(error).__name__}",
            where=where,
            remedy="the file is damaged or incomplete: download or save it again",
        ) from error


def _check_archive(path: Path) -> None:
    """A zip archive is torch's if it has a pickle of its own, and not code (TorchScript) or arrays (.npz)."""
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except OSError as error:
        raise system_failure(error, path, "read") from error
    except zipfile.BadZipFile:
        raise ContentError(
            "the file is truncated: it begins as a torch checkpoint and has no directory at its end",
            where=where,
            remedy="download or save it again",
        ) from None
    if "constants.pkl" in names:
        raise ContentError("this is a TorchScript program, not a state dict", where=where, remedy=_RESAVE)
    if "data.pkl" not in names:
        what = "NumPy arrays (.npz)" if any(name.endswith(".npy") for name in names) else "other files"
        raise ContentError(f"this is a zip archive of {what}, not a checkpoint", where=where, remedy=_RESAVE)


def _refusal(message: str, where: str) -> ContentError:
    found = re.search(r"GLOBAL (\S+)", message) or re.search(r"(?:class|type|function) <?'?([\w.]+)", message)
    if found:
        return ContentError(
            f"this pickle wants to call {found.group(1)}, which weights do not need; nothing was executed",
            where=where,
            remedy="a file from someone else may be an attack. If it is your own: " + _RESAVE,
        )
    return ContentError(
        "this pickle is not one of torch's, or is damaged; nothing was executed", where=where, remedy=_RESAVE
    )


def _state_dict(loaded: Any, where: str) -> tuple[Mapping[str, torch.Tensor], tuple[str, ...]]:
    """The tensors of what was loaded, and what to tell the user about the rest of it."""
    notes: list[str] = []
    for _ in range(_DEPTH):
        wrappers = [key for key in WRAPPERS if isinstance(loaded, Mapping) and _holds_tensors(loaded.get(key), _DEPTH)]
        if not wrappers:
            break
        rest = [str(key) for key in loaded if key != wrappers[0]]
        notes.append(f"the state dict is {wrappers[0]!r} of the file" + (f"; left out: {_some(rest)}" if rest else ""))
        loaded = loaded[wrappers[0]]
    if not isinstance(loaded, Mapping):
        raise ContentError(f"the file holds a {type(loaded).__name__}, not a state dict", where=where, remedy=_RESAVE)
    tensors = {key: value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        found = _some([f"{key} ({type(value).__name__})" for key, value in loaded.items()]) or "nothing"
        raise ContentError(f"the file has no state dict that we recognise; it has {found}", where=where, remedy=_RESAVE)
    for key in tensors:
        _check_name(key, where)
    others = [f"{key} ({type(value).__name__})" for key, value in loaded.items() if key not in tensors]
    if others:
        notes.append(f"not tensors, left out: {_some(others)}")
    return MappingProxyType(tensors), tuple(notes)


def _holds_tensors(value: Any, depth: int) -> bool:
    if not isinstance(value, Mapping):
        return False
    return any(
        isinstance(entry, torch.Tensor) or (depth > 1 and key in WRAPPERS and _holds_tensors(entry, depth - 1))
        for key, entry in value.items()
    )


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _check_name(key: object, where: str) -> None:
    good = isinstance(key, str) and key != METADATA
    if good:
        try:
            str(key).encode()
        except UnicodeEncodeError:
            good = False
    if not good:
        raise ContentError(f"a tensor has the name {key!r}, which safetensors cannot hold", where=where, remedy=_RESAVE)


def _info(key: str, tensor: torch.Tensor, where: str) -> TensorInfo:
    if tensor.is_quantized:
        raise ContentError(f"{key}: {tensor.dtype} is packed, and does not survive a permutation", where=where,
                           remedy="use the checkpoint that was quantised")  # fmt: skip
    name = dtype_name(tensor.dtype)
    if name is None or tensor.layout != torch.strided or tensor.is_meta:
        kind = "without data" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}"
        raise ContentError(f"{key}: a tensor of this kind ({kind}) cannot be stored in safetensors", where=where,
                           remedy="save it dense and in another type")  # fmt: skip
    return TensorInfo(name, tuple(tensor.shape))
