"""From a path to a checkpoint: one function for every format.

Faulty files are refused here, from headers, before a tensor is read; and what holds no plain weights of a network.
Adapters (LoRA and its kin) are a difference to a network; they are peft's to merge, which knows every kind of them, and
the error gives the line that does it. Formats of packed quantised weights keep several weights in one integer, or a
scale for each block of them: a unit is no longer a row or a column, so that moving rows and columns would give another
function without any error. Placeholders have no values.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import Checkpoint, is_pattern, read_config, split_address
from rebasin_cli.checkpoints.header import TensorInfo
from rebasin_cli.checkpoints.reader import SafetensorsFile, StableFile, TensorFile, kind_of, stat_file
from rebasin_cli.errors import ContentError, RebasinError, SystemFailure, UsageError
from rebasin_cli.files import read_json
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


_ADAPTER_CONFIG = "adapter_config.json"
_CONFIG_LIMIT = 1 << 20  # bytes
_OWN = re.compile(
    r"(?:^|[._])lora_(?:[AB]|up|down|embedding_[AB]|magnitude_vector)(?:$|\.)"  # peft, kohya
    r"|\.lora(?:_linear_layer)?\.(?:up|down)\."  # diffusers
    r"|\.(?:hada_w[12]|lokr_w[12])(?:_[ab])?$|\.(?:ia3_l|dora_scale)(?:$|\.)"
)
_BESIDE = re.compile(r"\.(?:alpha|diff|diff_b)$")
_PIPELINE = re.compile(
    r"^lora_(?:unet|te\d?|transformer)_|^(?:unet|transformer|text_encoder(?:_2)?)\.|\.lora(?:_linear_layer)?\."
)
_CLASSES = {
    "CAUSAL_LM": "CausalLM", "SEQ_2_SEQ_LM": "Seq2SeqLM", "SEQ_CLS": "SequenceClassification",
    "TOKEN_CLS": "TokenClassification", "QUESTION_ANS": "QuestionAnswering", "FEATURE_EXTRACTION": "FeatureExtraction",
}  # fmt: skip


def refuse_adapter(folder: Path, chosen: str, names: Collection[str]) -> None:
    """Refuse an adapter's folder.

    Args:
        chosen: the file that would be opened; names: the files that there are.
    Raises:
        ContentError: saying how to merge it into its network.
    """
    if _ADAPTER_CONFIG in names and chosen.startswith("adapter_model"):
        raise _of_peft(folder, "this folder holds")


def refuse_adapter_file(infos: Mapping[str, TensorInfo], where: str) -> None:
    """Refuse a file of which most tensors are an adapter's. A network with adapters beside its weights is none.

    Raises:
        ContentError: saying how to merge it.
    """
    own = [key for key in infos if _OWN.search(key)]
    if not own or 2 * sum(1 for key in infos if _OWN.search(key) or _BESIDE.search(key)) <= len(infos):
        return
    folder = Path(where) if Path(where).is_dir() else Path(where).parent
    if (folder / _ADAPTER_CONFIG).is_file():
        raise _of_peft(folder, f"{own[0]}: this is")
    remedy = f"merge it into its network first, with peft, by its {_ADAPTER_CONFIG}, which lay beside it"
    if _PIPELINE.search(own[0]):
        remedy = (
            "merge it into its pipeline first, with diffusers: load_lora_weights, fuse_lora and save_pretrained; then "
            "name the folder of the network in it"
        )
    raise ContentError(f"{own[0]}: this is an adapter (LoRA), and not a network", where=where, remedy=remedy)


def _of_peft(folder: Path, this: str) -> ContentError:
    try:
        config = read_json(folder / _ADAPTER_CONFIG, _CONFIG_LIMIT)
    except RebasinError:
        config = {}
    config = config if isinstance(config, Mapping) else {}
    base, kind = config.get("base_model_name_or_path"), config.get("peft_type")
    of = f" of {base:.100}" if isinstance(base, str) and base else ""
    kind = f"{kind:.20}" if isinstance(kind, str) and kind.isidentifier() else "LoRA"
    task = config.get("task_type")
    name = f"AutoPeftModelFor{_CLASSES[task]}" if isinstance(task, str) and task in _CLASSES else "AutoPeftModel"
    merge = f"M.from_pretrained({str(folder)!r}).merge_and_unload().save_pretrained('merged')"
    line = shell_word(f"from peft import {name} as M; {merge}")
    return ContentError(
        f"{this} an adapter ({kind}){of}, and not a network", where=str(folder),
        remedy=f"merge it into its network first, and name merged: python -c {line}",
    )  # fmt: skip


# (format, how the names of its tensors end, further names that must exist); the first that matches is reported.
_FORMATS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("GPTQ", (".g_idx",), ("qweight",)),
    ("AWQ or GPTQ", (".qweight",), ()),
    ("bitsandbytes, 4 bits", (".bitsandbytes__nf4", ".bitsandbytes__fp4", ".quant_map", ".nested_absmax"), ()),
    ("bitsandbytes", (".absmax",), ()),
    ("bitsandbytes, 8 bits", (".SCB",), ()),
    ("block-wise fp8", (".weight_scale_inv",), ()),
    ("compressed-tensors", (".weight_packed",), ()),
    ("MXFP4", ("_blocks",), ("_scales",)),
    ("AQLM", (".codebooks",), ("codes",)),
    ("HQQ", (".W_q",), ()),
    ("QuIP#", (".Qidxs",), ()),
)


def refuse_quantised(infos: Mapping[str, TensorInfo], where: str) -> None:
    """Refuse packed weights.

    Raises:
        ContentError: naming the format, the tensor that shows it and how many there are.
    """
    known = tuple(end for _, ends, _ in _FORMATS for end in ends)
    packed = [key for key in infos if f".{key}".endswith(known)]
    for name, ends, besides in _FORMATS if packed else ():
        found = [key for key in packed if f".{key}".endswith(ends)]
        if found and all(any(key.endswith(suffix) for key in infos) for suffix in besides):
            info = infos[found[0]]
            raise ContentError(
                f"{found[0]}: weights are packed ({name}) and do not survive a permutation; "
                f"{len(found)} such tensors, this one {info.dtype} {list(info.shape)}",
                where=where,
                remedy="use the checkpoint that was quantised, and quantise the result again",
            )


_PLACEHOLDER = re.compile(r"(?:^|\.)(?:weight|bias)$")


def refuse_placeholders(infos: Mapping[str, TensorInfo], where: str) -> None:
    """Refuse the empty tensors that DeepSpeed's ZeRO-3 leaves where each process kept a part of the values.

    Raises:
        ContentError: naming them and the script that gathers them.
    """
    found = [key for key, info in infos.items() if info.shape == (0,) and _PLACEHOLDER.search(key)]
    if found:
        raise ContentError(
            f"{found[0]}: {len(found)} of {len(infos)} tensors are empty (shape [0]), as ZeRO-3 of DeepSpeed leaves "
            "them: the values are in the other files of the checkpoint",
            where=where,
            remedy="gather them in the folder of the checkpoint: python zero_to_fp32.py . gathered, and name gathered",
        )
