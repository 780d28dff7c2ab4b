"""One layer's least squares: its inputs as rows, sums of products over all examples, and the weights that fit best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rebasin_cli.merging.polishing.calls import LINEAR, Arguments, argument, weight_of

RIDGE, LEAST_RIDGE = 1e-2, 1e-6
"""Share of the inputs' mean square that is added to each, where there are no more examples than inputs, and at least.

With none, few examples and constant inputs give nonsense (losses of 221 for .313). Of more examples it is in the way:
four MLPs of 128 units on 1,437 digits have .1495 with the first and .1393 with the second, their members .1393."""

_CHUNK = 1 << 22  # numbers of rows at a time
_ROWS = 1 << 18  # of a layer with many positions, no more are looked at than this or
_ROWS_FOR_EACH = 64  # this for each input
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Form:
    """How a call's weight is a matrix for each group, (groups, outputs, inputs), that its input's rows are put to.

    Attributes:
        kind: the call's name; groups: of channels; window: of a convolution, else None.
    """

    kind: str
    shape: tuple[int, ...]
    groups: int = 1
    window: _Window | None = None

    @staticmethod
    def of(kind: str, arguments: Arguments) -> Form:
        """The form of a call."""
        args, kwargs = arguments
        weight = weight_of(kind, arguments)
        if kind in LINEAR:
            return Form(kind, tuple(weight.shape))
        transposed = "transpose" in kind
        count = weight.dim() - 2

        def each(place: int, name: str, default: int) -> tuple[int, ...]:
            given = argument(args, kwargs, place, name)
            given = default if given is None else given
            return (given,) * count if isinstance(given, int) else tuple(given)

        stride = each(3, "stride", 1)
        groups = argument(args, kwargs, 6, "groups") or 1
        kernel = tuple(weight.shape[2:])
        dilation = each(7 if transposed else 5, "dilation", 1)
        reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        padding = argument(args, kwargs, 4, "padding")
        if isinstance(padding, str):
            low = tuple(r // 2 if padding == "same" else 0 for r in reach)
            high = tuple(r - r // 2 if padding == "same" else 0 for r in reach)
        else:
            low = high = each(4, "padding", 0)
        if not transposed:
            return Form(kind, tuple(weight.shape), groups, _Window(kernel, dilation, low, high, stride))
        more = each(5, "output_padding", 0)
        low = tuple(r - p for r, p in zip(reach, low, strict=True))
        high = tuple(p + m for p, m in zip(low, more, strict=True))
        return Form(kind, tuple(weight.shape), groups, _Window(kernel, dilation, low, high, (1,) * count, stride))

    def matrix(self, weight: Tensor) -> Tensor:
        """(groups, outputs, inputs)."""
        if self.window is None:
            return (weight if self.kind == "linear" else weight.t()).unsqueeze(0)
        if self.window.apart is None:
            return weight.reshape(self.groups, -1, weight[0].numel())
        split = _split(weight, 0, self.groups).transpose(1, 2)  # (groups, out, in, kernel…)
        return split.flip(list(range(3, split.dim()))).flatten(2)

    def weight(self, matrix: Tensor) -> Tensor:
        """What `matrix` was made of."""
        if self.window is None:
            return matrix[0] if self.kind == "linear" else matrix[0].t()
        if self.window.apart is None:
            return matrix.reshape(self.shape)
        split = matrix.reshape(*matrix.shape[:2], -1, *self.shape[2:])
        return split.flip(list(range(3, split.dim()))).transpose(1, 2).flatten(0, 1)

    def rows(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (groups, rows, inputs) and outputs (groups, rows, outputs) of a batch, some of the rows at a time."""
        if self.window is None:
            yield x.reshape(1, -1, x.shape[-1]), y.reshape(1, -1, y.shape[-1])
            return
        inner = 2 + len(self.window.kernel)
        one = x[:1].numel() * torch.Size(self.window.kernel).numel()
        at_once = max(1, _CHUNK // max(1, one))
        for start in range(0, len(x), at_once):
            some = slice(start, start + at_once)
            windows = _split(self.window.of(x[some]), 1, self.groups)  # (N, groups, channels, places…, kernel…)
            z = windows.movedim(2, inner).transpose(0, 1).flatten(inner).flatten(1, inner - 1)
            t = _split(y[some], 1, self.groups).movedim(2, -1).transpose(0, 1).flatten(1, -2)
            yield z, t


def _split(tensor: Tensor, axis: int, groups: int) -> Tensor:
    """A tensor with an axis split into groups and what is in each."""
    shape = tensor.shape
    return tensor.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])


@dataclass(frozen=True, slots=True)
class _Window:
    """What a convolution looks at for each output.

    Attributes:
        low, high: padding on either side, which may be negative; apart: of a transposed one, the steps at which its
            input lies among zeros, over which it is a plain one.
    """

    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    stride: tuple[int, ...]
    apart: tuple[int, ...] | None = None

    def of(self, x: Tensor) -> Tensor:
        """(N, channels, sides…) → (N, channels, places…, kernel…), a view of the padded input."""
        if self.apart is not None:
            sides = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], self.apart, strict=True)]
            spread = x.new_zeros(*x.shape[:2], *sides)
            spread[(slice(None), slice(None), *(slice(None, None, step) for step in self.apart))] = x
            x = spread
        pads = [side for pair in zip(reversed(self.low), reversed(self.high), strict=True) for side in pair]
        x = F.pad(x, pads).contiguous()
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        places = [(size - r - 1) // s + 1 for size, r, s in zip(x.shape[2:], reach, self.stride, strict=True)]
        steps = x.stride()
        return x.as_strided(
            (*x.shape[:2], *places, *self.kernel),
            (
                *steps[:2],
                *(step * s for step, s in zip(steps[2:], self.stride, strict=True)),
                *(step * d for step, d in zip(steps[2:], self.dilation, strict=True)),
            ),
        )


class Sums:
    """Sums over rows of inputs z and targets t about the means of the first: products in float32, totals in float64."""

    def __init__(self, form: Form, seed: int = 0) -> None:
        self.form, self.count = form, 0
        self._generator = torch.Generator().manual_seed(seed)
        self._about: tuple[Tensor, Tensor] | None = None

    def add(self, x: Tensor, target: Tensor, share: float) -> None:
        """Take a batch; `share`: of its rows that are looked at."""
        for z, t in self.form.rows(x, target):
            if share < 1:
                count = z.shape[1]
                some = torch.randperm(count, generator=self._generator)[: max(1, round(share * count))].to(z.device)
                z, t = z[:, some], t[:, some]
            if self._about is None:
                self._about = z.mean(1, keepdim=True), t.mean(1, keepdim=True)
                groups, inputs, outputs = z.shape[0], z.shape[2], t.shape[2]
                shapes = (groups, inputs, inputs), (groups, inputs, outputs), (groups, inputs), (groups, outputs)
                self.zz, self.zt, self.z, self.t = (
                    torch.zeros(shape, dtype=torch.float64, device=z.device) for shape in shapes
                )
            z, t = z - self._about[0], t - self._about[1]
            self.zz += z.transpose(1, 2) @ z
            self.zt += z.transpose(1, 2) @ t
            self.z += z.sum(1, dtype=torch.float64)
            self.t += t.sum(1, dtype=torch.float64)
            self.count += z.shape[1]

    def moments(self, centred: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """G = mean zzᵀ and H = mean ztᵀ, about the means or about 0, and the means of z and t."""
        assert self._about is not None
        z, t = self.z / self.count, self.t / self.count  # about the first chunk's means
        g = self.zz / self.count - z.unsqueeze(2) * z.unsqueeze(1)
        h = self.zt / self.count - z.unsqueeze(2) * t.unsqueeze(1)
        mean_z, mean_t = z + self._about[0][:, 0].double(), t + self._about[1][:, 0].double()
        if not centred:
            g = g + mean_z.unsqueeze(2) * mean_z.unsqueeze(1)
            h = h + mean_z.unsqueeze(2) * mean_t.unsqueeze(1)
        return g, h, mean_z, mean_t


def share_of(inputs: int, rows: int) -> float:
    """The share of a layer's rows that is enough."""
    return min(1.0, max(_ROWS, _ROWS_FOR_EACH * inputs) / max(1, rows))


def ridge_of(inputs: int, examples: int) -> float:
    """The ridge for a layer of this many inputs: it falls with the third power of the examples that there are for each.

    Examples count, and not their positions, which are too alike: twenty images of 64 positions are still few.
    """
    return max(LEAST_RIDGE, RIDGE * min(1.0, (inputs / examples) ** 3))


def solve(g: Tensor, h: Tensor, start: Tensor, ridge: float) -> Tensor | None:
    """The matrix W (groups, outputs, inputs) that is nearest to W z = t, drawn to `start`: W₀ + (G + rI)⁻¹(H − G W₀).

    None if there is none: values that are not finite, or inputs that are all 0.
    """
    size = ridge * g.diagonal(dim1=1, dim2=2).mean(1)
    if not bool(g.isfinite().all() & h.isfinite().all()) or not bool((size > 0).any()):
        return None
    size = torch.where(size > 0, size, torch.ones_like(size))
    eye = torch.eye(g.shape[1], dtype=g.dtype, device=g.device)
    factor, failed = torch.linalg.cholesky_ex(g + size[:, None, None] * eye)
    if bool(failed.any()):
        return None
    start = start.double()
    step = torch.cholesky_solve(h - g @ start.transpose(1, 2), factor).transpose(1, 2)
    return start + step if bool(step.isfinite().all()) else None


def brought_onto(outputs: Sequence[Tensor], onto: Sequence[Tensor], units: int) -> list[Tensor]:
    """A layer's outputs of every batch in the units of another network, by the linear map (with constants) that comes
    nearest to that one's; as they are where there is none.

    Args:
        units: the axis of the layer's units.
    """
    outputs, onto = ([each.movedim(units, -1) for each in several] for several in (outputs, onto))
    count = outputs[0].shape[-1]
    form = Form("linear", (count, count))
    sums = Sums(form)
    share = share_of(count, sum(each.numel() for each in outputs) // count)
    for one, two in zip(outputs, onto, strict=True):
        sums.add(one, two, share)
    g, h, here, there = sums.moments(centred=True)
    eye = torch.eye(count, dtype=g.dtype, device=g.device).unsqueeze(0)
    matrix = solve(g, h, eye, ridge_of(count, sum(map(len, outputs))))
    if matrix is not None:
        map_, here, there = (each[0].to(outputs[0].dtype) for each in (matrix, here, there))
        outputs = [(each - here) @ map_.T + there for each in outputs]
    return [each.movedim(-1, units) for each in outputs]


def best_scale(logits: Tensor, right: Tensor, low: float, high: float) -> float:
    """The scale of logits (questions, classes), from `low` to `high`, at which their cross-entropy is least.

    Cross-entropy is convex in the scale, so that the interval in which its slope is 0 is halved.

    Args:
        right: the sum over questions of the logits, each weighted by the probability that is wanted of its class.
    """
    for _ in range(_HALVINGS):
        scale = (low * high) ** 0.5
        slope = ((scale * logits).softmax(1) * logits).sum() - right
        low, high = (scale, high) if slope <= 0 else (low, scale)
    return float((low * high) ** 0.5)
