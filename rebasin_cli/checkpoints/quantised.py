"""Packed weights and placeholders, recognised by their tensors' names and refused before any is read.

Formats of packed quantised weights keep several weights in one integer, or a scale for each block of them: a unit is
no longer a row or a column, so that moving rows and columns would give another function without any error.
Placeholders have no values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rebasin_cli.checkpoints.dtypes import TensorInfo
from rebasin_cli.errors import ContentError

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
