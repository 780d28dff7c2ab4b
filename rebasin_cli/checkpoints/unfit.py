"""Checkpoints that are no network of plain weights, recognised by their tensors' names and refused before any is read.

Adapters (LoRA and its kin) are a difference to a network; they are peft's to merge, which knows every kind of them, and
the error gives the line that does it. Formats of packed quantised weights keep several weights in one integer, or a
scale for each block of them: a unit is no longer a row or a column, so that moving rows and columns would give another
function without any error. Placeholders have no values.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from rebasin_cli.checkpoints.dtypes import TensorInfo
from rebasin_cli.errors import ContentError, RebasinError
from rebasin_cli.files import read_json
from rebasin_cli.safe_text import shell_word

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
