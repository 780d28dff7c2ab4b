"""The line between two checkpoints, tensor by tensor: straight, or an arc on the sphere of each tensor.

λ (`lam`) is the weight on B, from 0 (A) to 1 (B). The result is a checkpoint like A: its keys, shapes and
dtypes. What has no midpoint is A's below λ = 1, and B's at λ = 1, so that the ends are the two networks: integers,
bools and the tensors that are left out of the match.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import acos

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.merging.options import LINE, Blend, Combine, check_lambda
from rebasin_cli.spec import Layout

_PARALLEL = 1e-4
"""Below this sine of the angle between two tensors the arc is the straight line, to more digits than it could be
computed to."""


def interpolate_tensor(a: Tensor, b: Tensor, lam: float, *, ignored: bool = False, how: Combine = "lerp") -> Tensor:
    """(1 − λ)·a + λ·b, of a's shape and dtype and on a's device; a itself where a holds integers or bools.

    The arithmetic is in float32, in float64 where either is float64, and is rounded once. Where a equals b
    the result is that value exactly; λ = 0 is `a` itself and λ = 1 is b in a's dtype, both exactly. The result
    may share memory with `a` or `b`: copy it before writing into it. Not promised: that a value of b's fits
    into a narrower dtype of a's, where it becomes infinite.

    Args:
        ignored: the spec leaves this tensor alone, so it is a's.
        how: `slerp` goes along the arc: sin((1−λ)Ω)/sin Ω·a + sin(λΩ)/sin Ω·b, Ω the angle between the two as vectors
            (Shoemake 1985); the straight line where they are (anti)parallel, or complex.

    Raises:
        UsageError: λ is outside 0–1.
        ContentError: the shapes differ, or b is not the same kind of number as a.
    """
    check_lambda(lam)
    if lam == 0.0 or ignored or not _is_mixable(a):
        return a
    if a.shape != b.shape:
        raise ContentError(
            f"A's tensor has shape {tuple(a.shape)} and B's {tuple(b.shape)}: nothing lies between them",
            remedy="both checkpoints must have the same widths; compare them with `rebasin inspect`",
        )
    if not _is_mixable(b) or a.is_complex() != b.is_complex():
        raise ContentError(
            f"A's tensor is {_name(a)} and B's {_name(b)}: nothing lies between different kinds of numbers",
            remedy="store both checkpoints with the same kinds of numbers",
        )
    if lam == 1.0:
        return b.to(device=a.device, dtype=a.dtype)
    work = _work_dtype(a, b)
    if how == "slerp" and not a.is_complex():
        return _on_the_arc(a.to(work), b.to(device=a.device, dtype=work), lam).to(a.dtype)
    return _on_the_line(a.to(work), b.to(device=a.device, dtype=work), lam).to(a.dtype)


def _on_the_line(a: Tensor, b: Tensor, lam: float) -> Tensor:
    # lerp rather than (1 − λ)a + λb: the latter is off by a rounding where a equals b
    mixed = torch.lerp(a, b, lam)
    if bool(mixed.isfinite().all()):
        return mixed
    wide = torch.complex128 if a.is_complex() else torch.float64
    return (1.0 - lam) * a.to(wide) + lam * b.to(wide)  # b − a overflows where no mix of the two does


def _on_the_arc(a: Tensor, b: Tensor, lam: float) -> Tensor:
    # Of the largest numbers and of the least ones squares are none, so that lengths are taken of scaled vectors.
    size_a, size_b = (float(tensor.abs().max()) or 1.0 if tensor.numel() else 1.0 for tensor in (a, b))
    x, y = a.double().flatten() / size_a, b.double().flatten() / size_b
    scale = float(x.norm() * y.norm())
    cosine = max(-1.0, min(1.0, float(x @ y) / scale)) if scale else 1.0
    angle = torch.tensor(acos(cosine), dtype=torch.float64)
    if float(angle.sin()) < _PARALLEL:
        return _on_the_line(a, b, lam)
    first, second = (float((part * angle).sin() / angle.sin()) for part in (1.0 - lam, lam))
    mixed = first * a + second * b
    if bool(mixed.isfinite().all()):
        return mixed
    size = max(size_a, size_b)  # near the opposite direction both terms may be much larger than their sum
    return size * (first * (a.double() / size) + second * (b.double() / size))


def interpolated(
    layout: Layout, a: Mapping[str, Tensor], b: Mapping[str, Tensor], lam: float, blend: Blend = LINE
) -> Mapping[str, Tensor]:
    """A lazy checkpoint at λ between `a` and `b`: each access reads both tensors and mixes them again.

    Its keys are a's, in a's order. `b` is not read where the result is a's alone. At λ = 1 what has no midpoint is b's,
    if b has it in that shape.

    Raises:
        UsageError: λ is outside 0–1. On access, ContentError as `interpolate_tensor`, naming the tensor.
    """
    check_lambda(lam)
    return _Interpolated(layout, a, b, lam, blend)


class _Interpolated(Mapping[str, Tensor]):
    def __init__(
        self, layout: Layout, a: Mapping[str, Tensor], b: Mapping[str, Tensor], lam: float, blend: Blend
    ) -> None:
        self._layout = layout
        self._a = a
        self._b = b
        self._lam = lam
        self._blend = blend

    def __getitem__(self, key: str) -> Tensor:
        a = self._a[key]
        lam = self._blend.at(key, self._lam)
        if self._layout.tensors[key].section == "ignored" or not _is_mixable(a):
            b = self._b.get(key) if self._lam == 1.0 else None
            return a if b is None or b.shape != a.shape else b.to(device=a.device, dtype=a.dtype)
        if lam == 0.0:
            return a
        try:
            return interpolate_tensor(a, self._b[key], lam, how=self._blend.how)
        except ContentError as error:
            raise ContentError(error.what, where=key, remedy=error.remedy) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._a)

    def __len__(self) -> int:
        return len(self._a)


def _is_mixable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _work_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    wide = {torch.float64, torch.complex128}
    is_wide = a.dtype in wide or b.dtype in wide
    if a.is_complex():
        return torch.complex128 if is_wide else torch.complex64
    return torch.float64 if is_wide else torch.float32


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
