"""Folders: which files are the weights, whether they agree with their index, and which files go with them.

Nothing is guessed: where a folder could be read in two ways, the user is asked to name the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from rebasin_cli.checkpoints.checkpoint import Checkpoint, Folder, Index, read_config
from rebasin_cli.checkpoints.folders import refuse_others, refuse_pipeline
from rebasin_cli.checkpoints.opening import refuse_adapter
from rebasin_cli.checkpoints.reader import TensorFile
from rebasin_cli.errors import ContentError, system_failure
from rebasin_cli.files import read_json

INDEX_SUFFIX = ".index.json"
# Formats of weights, the preferred first; a folder with several is read in the first that it has.
_FORMATS = ((".safetensors",), (".bin",), (".pt", ".pth", ".ckpt"))
_WEIGHTS = frozenset(
    (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".npz", ".tflite")
)
# Other files of training in the same formats.
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")
_USUAL = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model")
_INDEX_LIMIT = 64 << 20  # bytes: 100,000 tensors take 10 MB
_COMPANION_LIMIT = 64 << 20  # bytes: tokenizers reach 35 MB, weights in an unknown format are larger


def open_folder(folder: Path, open_file: Callable[[Path], TensorFile]) -> Checkpoint:
    """Open the weights of a folder: through its index if it has one, else the one file that it has.

    Raises:
        ContentError: no weights, or several without an index.
        SystemFailure: the folder or a file cannot be read.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() or entry.is_symlink())
    except OSError as error:
        raise system_failure(error, folder, "read") from error
    weights, indexes = weights_among(names)
    if weights or indexes:
        if len(weights) != 1 or indexes:
            refuse_pipeline(folder, names)
        chosen = choose_weights(names, folder)
        refuse_adapter(folder, chosen, names)
        if chosen in indexes:
            return open_index(folder / chosen, open_file, named=folder)
        file = open_file(folder / chosen)
        return _opened(folder, {_written_name(chosen): file}, folder)
    refuse_pipeline(folder, names)
    refuse_others(folder, names)
    raise ContentError(
        f"the folder has no weights; it has {', '.join(names[:6]) or 'no files'}{' ...' if len(names) > 6 else ''}",
        where=str(folder),
        remedy="name a folder with model.safetensors or model.safetensors.index.json, or a file",
    )


def open_index(path: Path, open_file: Callable[[Path], TensorFile], *, named: Path | None = None) -> Checkpoint:
    """Open the shards that an index lists and check that both agree.

    Args:
        named: what the user named, if that is not the index itself.
    Raises:
        ContentError: not an index; a shard outside the folder, absent, or with other tensors than the index says.
    """
    index, shards = _read_index(path)
    files: dict[str, TensorFile] = {}
    for name in sorted(shards):
        shard = path.parent / name
        if not os.path.exists(shard):  # Path.exists raises without permission
            raise ContentError(
                f"the index lists {name} with {len(shards[name])} tensors, and that file is not there",
                where=str(path), remedy="download the missing shard",
            )  # fmt: skip
        file = open_file(shard)
        _check_shard(name, shards[name], file, path)
        written = _written_name(name)
        if written in files:
            raise ContentError(
                f"two shards would be written as {written}; one of them is {name}", where=str(path),
                remedy="rename one of them, in the index too",
            )  # fmt: skip
        files[written] = file
    _check_one_run(files, path)
    metadata = index.get("metadata")
    described = Index(
        _written_name(path.name.removesuffix(INDEX_SUFFIX)) + INDEX_SUFFIX,
        metadata if isinstance(metadata, Mapping) else {},
    )
    return _opened(named or path, files, path.parent, described)


def shards_of(index: Path) -> list[str]:
    """The files that an index of shards lists, seen from its folder.

    Raises:
        ContentError: it is no index, or points outside its folder. SystemFailure: it cannot be read.
    """
    return sorted(_read_index(index)[1])


def weights_among(names: Collection[str]) -> tuple[list[str], list[str]]:
    """Of the files of one folder, those of weights and the indexes of shards, in the first format that it has."""
    for suffixes in _FORMATS:
        weights = [n for n in names if n.endswith(suffixes) and not n.startswith((".", *_NOT_WEIGHTS))]
        indexes = [n for n in names if n.endswith(tuple(s + INDEX_SUFFIX for s in suffixes))]
        if weights or indexes:
            return weights, indexes
    return [], []


def choose_weights(names: Collection[str], folder: Path) -> str:
    """The one name to open: an index before the files that it lists, a usual name before others.

    Args:
        names: the files of a folder that has weights; folder: is named in messages alone.
    Raises:
        ContentError: it is not clear which is meant.
    """
    weights, indexes = weights_among(names)
    usual_indexes = [n for n in indexes if n.split(".")[0] in _USUAL and n.count(".") == 3]
    for candidates in (indexes, usual_indexes):
        if len(candidates) == 1:
            whole = candidates[0].removesuffix(INDEX_SUFFIX)
            if whole in weights and len(weights) > 1:
                raise ContentError(
                    f"the folder has both {whole} and an index of shards, {candidates[0]}", where=str(folder),
                    remedy="name the one that you mean",
                )  # fmt: skip
            return candidates[0]
    usual = [n for n in weights if n.split(".")[0] in _USUAL and n.count(".") == 1]
    for candidates in ([] if indexes else weights, [] if indexes else usual):
        if len(candidates) == 1:
            return candidates[0]
    several = indexes or weights
    raise ContentError(
        f"the folder has {len(several)} {'indexes' if indexes else 'files of weights'} and no way to tell "
        f"which is meant: {', '.join(several[:6])}{' ...' if len(several) > 6 else ''}",
        where=str(folder),
        remedy="name one of them" if indexes else "name one of them, or restore model.safetensors.index.json",
    )


def _read_index(path: Path) -> tuple[Mapping[str, Any], dict[str, set[str]]]:
    """An index, and the tensors that it says are in each shard."""
    index = read_json(path, _INDEX_LIMIT)
    weight_map = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(index, Mapping) or not isinstance(weight_map, Mapping) or not weight_map:
        raise ContentError(
            "this JSON is not an index of shards: it has no weight_map", where=str(path),
            remedy="name the folder, a checkpoint, or its model.safetensors.index.json",
        )  # fmt: skip
    shards: dict[str, set[str]] = {}
    for key, name in weight_map.items():
        shards.setdefault(_inside(key, name, path), set()).add(key)
    return index, shards


def _inside(key: str, name: object, path: Path) -> str:
    """A shard's name, if it stays inside the folder of the index; also on a system with drive letters."""
    if not isinstance(name, str) or not name:
        raise ContentError(f"{key}: the index should give a file's name, and gives {name!r}", where=str(path))
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts or "\0" in name:
        raise ContentError(
            f"{key}: the index points outside its folder, at {name!r}", where=str(path),
            remedy="shards must lie beside their index; do not use an index from a source that you do not trust",
        )  # fmt: skip
    return name


def _check_shard(name: str, listed: set[str], file: TensorFile, path: Path) -> None:
    present = set(file.infos)
    remedy = "the index and the shards come from different versions: download them again"
    for keys, what in (
        (listed - present, "the index says that {key} is in {name}, and it is not"),
        (present - listed, "{name} has {key}, and the index does not list it there"),
    ):
        if keys:
            more = f" ({len(keys)} such tensors)" if len(keys) > 1 else ""
            raise ContentError(what.format(key=min(keys), name=name) + more, where=str(path), remedy=remedy)


def _check_one_run(files: Mapping[str, TensorFile], path: Path) -> None:
    """Refuse shards of which `rebasin.*` says that they were written by two runs."""
    first, *others = files
    recipes = {name: {k: v for k, v in files[name].metadata.items() if k.startswith("rebasin.")} for name in files}
    for name in others:
        if recipes[name] != recipes[first]:
            differing = [
                k for k in {**recipes[first], **recipes[name]} if recipes[first].get(k) != recipes[name].get(k)
            ]
            raise ContentError(
                f"{first} and {name} were written by two runs of rebasin: they differ in {', '.join(differing[:4])}",
                where=str(path), remedy="write the folder again, with --force",
            )  # fmt: skip


def _written_name(name: str) -> str:
    """The name of a shard when it is written: pickles become safetensors under the usual name."""
    path = PurePosixPath(name)
    if path.suffix == ".safetensors":
        return name
    stem = path.stem.replace("pytorch_model", "model") if path.stem.startswith("pytorch_model") else path.stem
    return str(path.with_name(stem + ".safetensors"))


def _opened(named: Path, files: Mapping[str, TensorFile], folder: Path, index: Index | None = None) -> Checkpoint:
    """The checkpoint of a folder, with what lies beside its weights."""
    config, notes = read_config(folder / "config.json", required=True)
    try:
        companions = tuple(entry for entry in sorted(folder.iterdir()) if _is_companion(entry))
    except OSError as error:
        raise system_failure(error, folder, "read") from error
    return Checkpoint(named, files, folder=Folder(index, companions), config=config, notes=notes)


def _is_companion(entry: Path) -> bool:
    if entry.name.startswith(".") or entry.name.endswith(INDEX_SUFFIX) or entry.suffix in _WEIGHTS:
        return False
    return entry.is_file() and entry.stat().st_size <= _COMPANION_LIMIT
