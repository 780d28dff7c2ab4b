"""From a path to a checkpoint: one function for every format.

Faulty files are refused here, from headers, before a tensor is read.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import Checkpoint, is_pattern, read_config, split_address
from rebasin_cli.checkpoints.kinds import kind_of, refuse_adapter_file, refuse_placeholders, refuse_quantised, stat_file
from rebasin_cli.checkpoints.reader import SafetensorsFile, StableFile, TensorFile
from rebasin_cli.errors import ContentError, SystemFailure, UsageError
from rebasin_cli.safe_text import shell_word

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LONGEST_NAME = 400  # characters: the longest names of known networks have 150
_FILE_NAME = re.compile(r"\.(?:safetensors|json|bin|pth?|ckpt)$")


def open_checkpoint(path: Path, *, named: str | None = None, empty: bool = False) -> Checkpoint:
    """Open a safetensors file, a file of torch.save or of arrays by name, a folder with weights, or an index of shards.

    Reads headers and pickles only. The contents of a file decide its kind, not its name.

    Args:
        path: also `FILE:KEY`, for one of several networks in a file: by the key that a file of torch.save has it
            under, or by how its tensors' names begin.
        named: how advice names the file, if not by its path.
        empty: whether it may be without tensors.
    Raises:
        SystemFailure: it cannot be read.
        ContentError: it is not an acceptable checkpoint: damaged, of an unknown kind, packed, or without tensors.
        UsageError: a KEY for what has only one network.
    """
    path, key = split_address(path)
    _refuse_hub_name(path)
    if stat.S_ISDIR(stat_file(path).st_mode):
        from rebasin_cli.checkpoints.sharded import open_folder

        _refuse_key(key, "a folder", path)
        checkpoint = open_folder(path, _open_file)
    elif path.suffix == ".json":
        from rebasin_cli.checkpoints.sharded import open_index

        _refuse_key(key, "an index of shards", path)
        checkpoint = open_index(path, _open_file)
    else:
        config, notes = read_config(path.parent / "config.json", required=False)
        file = _open_file(path, key, named)
        name = path.with_suffix(".safetensors").name
        checkpoint = Checkpoint(path, {name: file}, config=config, notes=notes, key=key)
    where = checkpoint.address
    if not checkpoint.infos and not empty:
        raise ContentError("the checkpoint has no tensors", where=where, remedy="save the model again")
    _refuse_long_names(checkpoint)
    for refuse in (refuse_quantised, refuse_placeholders, refuse_adapter_file):
        refuse(checkpoint.infos, where)
    return checkpoint


def _open_file(path: Path, key: str | None = None, named: str | None = None) -> TensorFile:
    kind = kind_of(path)
    if is_pattern(key):
        from rebasin_cli.checkpoints.members import expanded

        raise UsageError(
            f"{path}:{key} names several networks, and one is meant here",
            remedy=f"name one: {shell_word(str(expanded(Path(f'{path}:{key}'))[0]))}; merge takes all, and align as B",
        )
    if kind == "safetensors":
        return SafetensorsFile(path) if key is None else _member_of_safetensors(path, key)
    if kind in ("msgpack", "hdf5") or (kind == "zip" and _is_npz(path)):
        from rebasin_cli.checkpoints.arrays import ArrayFile

        return ArrayFile(path, "npz" if kind == "zip" else kind, key, named)
    from rebasin_cli.checkpoints.pickles import PickleFile

    def open_network(name: str | None) -> TensorFile:
        return PickleFile(path, zipped=kind == "zip", key=name, named=named)

    try:
        return open_network(key)
    except ContentError:
        if key is None:
            raise
        from rebasin_cli.checkpoints.members import member_file

        member = member_file(open_network, key)
        if member is None:
            raise
        return member


def _member_of_safetensors(path: Path, key: str) -> TensorFile:
    from rebasin_cli.checkpoints.members import copies, listed, member_file

    file = SafetensorsFile(path)
    member = member_file(lambda name: file, key)
    if member is not None:
        return member
    several = copies(file.infos)
    raise UsageError(
        f"{path}:{key}: no tensor's name in it begins with `{key}.`"
        + (f"; it has {listed(*several)}" if several else ", and it has one network"),
        remedy=f"name one of them: {shell_word(f'{path}:{several[0]}{several[1][0]}')}" if several
        else f"leave the key away: {shell_word(str(path))}",
    )  # fmt: skip


def _is_npz(path: Path) -> bool:
    from rebasin_cli.checkpoints.zips import is_npz

    return is_npz(StableFile(path))


def _refuse_long_names(checkpoint: Checkpoint) -> None:
    """Refuse names longer than any module's path: comparing them with many patterns takes long."""
    longest = max(checkpoint.infos, key=len, default="")
    if len(longest) > _LONGEST_NAME:
        raise ContentError(
            f"a tensor has a name of {len(longest):,} characters, and {_LONGEST_NAME} are allowed: {longest[:60]}…",
            where=checkpoint.address,
            remedy="save the model again with shorter names",
        )


def _refuse_key(key: str | None, what: str, path: Path) -> None:
    if key is not None:
        raise UsageError(
            f"{path}:{key}: {what} has one network, and no keys to choose from",
            remedy=f"leave the key away: {shell_word(str(path))}",
        )


def _refuse_hub_name(path: Path) -> None:
    """Say what to do with `org/name`, where the user meant a model of a hub."""
    text = str(path)
    if _HUB_NAME.fullmatch(text) and not _FILE_NAME.search(text) and not os.path.lexists(path.parent):
        raise SystemFailure(
            f"cannot read {text}: there is no folder {path.parent}",
            remedy=f"if it is a model on the Hugging Face hub, name it hf:{text}",
        )
