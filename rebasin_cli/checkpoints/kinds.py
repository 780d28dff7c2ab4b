"""What a file is, from its first bytes and the names of its tensors; one without plain weights of a network is refused.

Names lie: `.bin` holds pickles and safetensors alike, and a failed download leaves an HTML page or a git-lfs pointer
under the right name. Those are recognised here, because "header too large" would not help.

Among checkpoints, adapters (LoRA and its kin) are a difference to a network; they are peft's to merge, which knows
every kind of them, and the error gives the line that does it. Formats of packed quantised weights keep several weights
in one integer, or a scale for each block of them: a unit is no longer a row or a column, so that moving rows and
columns would give another function without any error. Placeholders have no values.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from rebasin_cli.checkpoints.header import LENGTH_BYTES, MAX_HEADER, TensorInfo
from rebasin_cli.errors import ContentError, RebasinError, human_bytes, system_failure
from rebasin_cli.files import not_regular, open_regular, read_json
from rebasin_cli.safe_text import shell_word

Kind = Literal["safetensors", "zip", "pickle", "msgpack", "hdf5"]

_HEAD = 512
_TAR_AT = 257  # where a tar archive has its name, in bytes
_CONVERT = "load it with its own library and save the weights as safetensors, or get the safetensors of the same model"
_PIPE = "pass a pipe's contents with -"
_READS = (
    "checkpoints are read from safetensors files, from torch's .pt, .pth, .bin and .ckpt, and as arrays by name from "
    ".npz, Flax's .msgpack and Keras's .h5"
)

# (how the file begins, what it is, what to do)
_FOREIGN = (
    (
        b"GGUF",
        "a GGUF file, whose weights are packed for llama.cpp and cannot be permuted",
        "use the model it was made of",
    ),
    (b"version https://git-lfs", "a git-lfs pointer and not the weights themselves", "fetch them: git lfs pull"),
    (b"\x93NUMPY", "a NumPy array", _READS),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
)
# Files without typical first bytes are recognised by name, after all others.
_FOREIGN_NAMES = (
    (re.compile(r"\.onnx$"), "an ONNX graph"),
    (re.compile(r"\.tflite$"), "a TensorFlow Lite graph"),
    (re.compile(r"\.pb$"), "a TensorFlow graph"),
    (re.compile(r"\.(?:data-\d+-of-\d+|index|meta)$"), "a part of a TensorFlow checkpoint"),
)
_MAPS = tuple(bytes([0x80 + count]) for count in range(1, 16))  # msgpack's mappings of a few entries
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head")


def stat_file(path: Path) -> os.stat_result:
    """`path`'s status, if it is a regular file.

    Raises:
        SystemFailure: absent, not permitted, or a pipe or device, which cannot be read twice.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise system_failure(error, path, "read") from error
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise not_regular(path, status.st_mode, _PIPE)
    return status


def kind_of(path: Path) -> Kind:
    """Which reader a file needs.

    Raises:
        SystemFailure: it cannot be read.
        ContentError: it is recognisably something else.
    """
    size = stat_file(path).st_size
    try:
        with open(open_regular(path, _PIPE), "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise system_failure(error, path, "read") from error
    # First: a header of 640 bytes starts with the two bytes that a pickle starts with.
    if int.from_bytes(head[:LENGTH_BYTES], "little") <= MAX_HEADER and head[LENGTH_BYTES:][:1] == b"{":
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[_TAR_AT:].startswith(b"ustar"):
        raise ContentError(
            "this is a tar archive; a torch checkpoint of before 2017 (tar) is not read", where=str(path),
            remedy="unpack it if there are checkpoints in it, or load it with torch and save the state dict again",
        )  # fmt: skip
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if head.startswith(b"\x89HDF\r\n"):
        return "hdf5"
    if path.suffix == ".msgpack" or _is_msgpack(head):
        return "msgpack"
    _refuse_foreign(head, size, path)
    return "safetensors"  # its parser says what is wrong


def _is_msgpack(head: bytes) -> bool:
    """Whether it begins with a map whose first key is a short text."""
    return len(head) > 1 and head[:1] in _MAPS and 0xA0 <= head[1] <= 0xBF


def _refuse_foreign(head: bytes, size: int, path: Path) -> None:
    for start, what, remedy in _FOREIGN:
        if head.startswith(start):
            raise ContentError(f"this is {what}", where=str(path), remedy=remedy)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_PAGES):
        raise ContentError(
            f"this is an HTML page of {human_bytes(size)}, as a failed download leaves it, and not a checkpoint",
            where=str(path),
            remedy="download it again; a gated model needs a login",
        )
    for pattern, what in _FOREIGN_NAMES:
        if pattern.search(path.name) or (b"onnx" in head and "ONNX" in what):
            raise ContentError(f"this is {what}, and not a checkpoint that is read", where=str(path), remedy=_CONVERT)
    if head.strip() and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        line = head[:40].decode("ascii").strip().splitlines()[0]
        raise ContentError(
            f"this is a text file and not a checkpoint; it begins with {line!r}",
            where=str(path),
            remedy=_READS,
        )


CONFIG = "adapter_config.json"
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
    if CONFIG in names and chosen.startswith("adapter_model"):
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
    if (folder / CONFIG).is_file():
        raise _of_peft(folder, f"{own[0]}: this is")
    remedy = f"merge it into its network first, with peft, by its {CONFIG}, which lay beside it"
    if _PIPELINE.search(own[0]):
        remedy = (
            "merge it into its pipeline first, with diffusers: load_lora_weights, fuse_lora and save_pretrained; then "
            "name the folder of the network in it"
        )
    raise ContentError(f"{own[0]}: this is an adapter (LoRA), and not a network", where=where, remedy=remedy)


def _of_peft(folder: Path, this: str) -> ContentError:
    try:
        config = read_json(folder / CONFIG, _CONFIG_LIMIT)
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
_ENDS = tuple(end for _, ends, _ in _FORMATS for end in ends)


def refuse_quantised(infos: Mapping[str, TensorInfo], where: str) -> None:
    """Refuse packed weights.

    Raises:
        ContentError: naming the format, the tensor that shows it and how many there are.
    """
    packed = [key for key in infos if f".{key}".endswith(_ENDS)]
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
