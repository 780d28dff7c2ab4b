"""Mean and variance of every weight over many checkpoints in one order of units, as one safetensors file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

import rebasin_cli
from rebasin_cli.checkpoints.header import TensorInfo
from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.checkpoints.tensors import torch_dtype
from rebasin_cli.checkpoints.writer import write_file
from rebasin_cli.errors import ContentError
from rebasin_cli.pipeline import Progress
from rebasin_cli.report.document import MemberRecord

_MOMENTS = ("mean", "variance")


def write_summary(path: Path, aligned: Iterable[MemberRecord], outputs: Outputs, progress: Progress) -> None:
    """Write `mean.KEY` and `variance.KEY`, in float64, of every floating-point tensor that all members have.

    The variance is the mean squared deviation: divided by the number of members, A not among them unless it is one. One
    tensor of one member is in memory at a time beside the two moments; members are taken in their order, so that the
    bytes do not depend on threads.

    Args:
        aligned: the members that were aligned, with the paths of what was written.

    Raises:
        ContentError: there are none.
    """
    with ExitStack() as files:
        opened = [files.enter_context(open_checkpoint(Path(member.outputs["aligned"]))) for member in aligned]
        if not opened:
            raise ContentError("no checkpoint could be aligned, so that there is nothing for --summary to sum up")
        first, *others = opened
        keys = [
            key
            for key, info in first.infos.items()
            if _is_float(info) and all(key in o and o.infos[key].shape == info.shape for o in others)
        ]
        infos = {f"{moment}.{key}": TensorInfo("F64", first.infos[key].shape) for key in keys for moment in _MOMENTS}
        recipe = {"version": rebasin_cli.__version__, "command": "align", "members": str(len(opened))}
        known: dict[str, tuple[Tensor, Tensor]] = {}
        with progress.phase("summing up", len(keys), "tensors") as advance, outputs.file(path.absolute()) as out:

            def read(name: str) -> Tensor:
                moment, _, key = name.partition(".")
                if key not in known:
                    known.clear()
                    known[key] = moments(checkpoint[key] for checkpoint in opened)
                    advance(1)
                return known[key][_MOMENTS.index(moment)]

            write_file(out, infos, read, {f"rebasin.{name}": value for name, value in recipe.items()})


def moments(tensors: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and mean squared deviation, in float64, in one pass (Welford, 1962)."""
    mean = squares = torch.zeros((), dtype=torch.float64)
    count = 0
    for count, tensor in enumerate(tensors, 1):
        wide = tensor.double()
        off = wide - mean
        mean = mean + off / count
        squares = squares + off * (wide - mean)
    return mean, squares / count


def _is_float(info: TensorInfo) -> bool:
    dtype = torch_dtype(info.dtype)
    return dtype is not None and dtype.is_floating_point
