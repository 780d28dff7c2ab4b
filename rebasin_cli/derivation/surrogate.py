"""What the search runs in place of the network: the same wiring, in float64, with smooth functions and tame norms.

A search compares gradients to thirteen digits, at weights of which most are equal. There a LayerNorm over equal
values multiplies rounding by a thousand, and half of the ReLUs are dead for all units at once. What a function does
to the *order* of units is all that counts, so any other function that treats all units alike may stand in its place.
The proof runs the real network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rebasin_cli.derivation.widening import wide_type
from rebasin_cli.errors import ContentError

_KINKED = (
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "hardswish", "hardtanh", "threshold"),
    *("elu", "elu_", "selu", "celu", "rrelu"),
)
_SORTING = frozenset(("topk", "argmax", "argmin", "argsort", "sort", "kthvalue", "median"))
_EPSILON = 0.1
_FAR = 1e6  # a bound that nothing reaches
_TIED = 1e-9  # relative to the largest value: closer values are equal but for rounding


class Exact(TorchFunctionMode):
    """Casts, and functions that torch has for narrow types alone, in float64.

    Norms by running statistics are spelled out, so that these have gradients. Where gradients are asked for, what the
    code computes without them has them too: the outputs depend on it.

    Attributes:
        detaching: what is detached is, as on the way back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.detaching = False
        self._gradients = torch.is_grad_enabled()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {key: wide_type(value) for key, value in (kwargs or {}).items()}
        args = tuple(map(wide_type, args))
        if getattr(func, "__name__", "") in ("float", "half", "bfloat16") and args and isinstance(args[0], Tensor):
            return args[0].double()
        name = getattr(func, "__name__", "").removeprefix("linalg_")
        if name in ("numpy", "__array__"):
            raise ContentError(
                "the network computes in numpy, where no gradient of it is known",
                remedy="write that part of its forward in torch",
            )
        with torch.enable_grad() if self._gradients and not _changes(name, kwargs) else nullcontext():
            made = self.replaced(name, func, args, kwargs)
            return func(*args, **kwargs) if made is None else made

    def replaced(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """What stands in for a call; None if nothing does."""
        if name in ("batch_norm", "instance_norm"):
            return _by_statistics(name, args, kwargs)
        return _grouped_mm(args, kwargs) if name in ("grouped_mm", "_grouped_mm") else None


class Smooth(Exact):
    """Replaces functions by smooth ones that treat units alike, and notices where a choice was between equal values.

    Attributes:
        tied: lengths of the axes along which values were sorted or chosen that are equal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tied: set[int] = set()

    def replaced(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        if not args or not isinstance(args[0], Tensor):
            return super().replaced(name, func, args, kwargs)
        if name in _SORTING:
            self._notice_ties(name, args, kwargs)
        replacement = _REPLACEMENTS.get(name)
        if replacement is None or not args[0].is_floating_point() or (name == "detach" and self.detaching):
            return super().replaced(name, func, args, kwargs)
        try:
            made = replacement(func, args, kwargs)
            return args[0].copy_(made) if made is not None and _in_place(name, kwargs) else made
        except (IndexError, RuntimeError, TypeError, ValueError):  # a call that the replacement does not know
            return None

    def _notice_ties(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        x = args[0].detach()
        at = 2 if name in ("topk", "kthvalue") else 1
        dim = kwargs.get("dim", args[at] if len(args) > at else -1)
        if not x.is_floating_point() or not x.dim() or not args[0].requires_grad:  # of a mask, or of the inputs
            return
        x = x.flatten() if not isinstance(dim, int) or isinstance(dim, bool) else x.movedim(dim, -1)
        ordered = x.sort(dim=-1).values
        if name in ("argmax", "argmin"):  # of those far from it some may be equal but for rounding
            ordered = ordered[..., -2:] if name == "argmax" else ordered[..., :2]
        if ordered.shape[-1] > 1 and ordered.numel():
            nearest = float(ordered.diff(dim=-1).abs().min())
            if nearest <= _TIED * float(ordered.abs().max()):
                self.tied.add(int(x.shape[-1]))


def _in_place(name: str, kwargs: Mapping[str, Any]) -> bool:
    return name.endswith("_") or kwargs.get("inplace") is True


def _changes(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call changes a tensor, which may be a weight, or the mode of torch."""
    in_place = name.startswith("__i") if name.endswith("__") else name.endswith("_")
    return in_place or kwargs.get("out") is not None or name in ("__setitem__", "_set_grad_enabled")


def _argument(args: Any, kwargs: Mapping[str, Any], at: int, name: str, default: Any = None) -> Any:
    return kwargs.get(name, args[at] if len(args) > at else default)


def _grouped_mm(args: Any, kwargs: Mapping[str, Any]) -> Tensor | None:
    """(rows, k) times (groups, k, n): rows up to `offs[g]` with the matrix of group g."""
    a, b, ends = (
        _argument(args, kwargs, 0, "mat_a"),
        _argument(args, kwargs, 1, "mat_b"),
        _argument(args, kwargs, 2, "offs"),
    )
    if a.dim() != 2 or b.dim() != 3 or ends is None:
        return None
    bounds = [0, *ends.tolist()]
    return torch.cat([a[start:end] @ b[at] for at, (start, end) in enumerate(pairwise(bounds))])


def _softplus(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Smooth, with a slope everywhere: units that are all alike may all lie far below zero."""
    bent: Tensor = F.softplus(args[0] * 1.3) + 0.2 * args[0] - 0.4
    return bent


def _clamped(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """Within the same bounds, with a slope beyond them: of units that are all alike all may lie there."""
    name = func.__name__.rstrip("_")
    low = _argument(args, kwargs, 1, "min") if name != "clamp_max" else None
    high = _argument(args, kwargs, 1 if name == "clamp_max" else 2, "max")
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None
    x, (low, high) = args[0], (None if bound is None or abs(bound) > _FAR else float(bound) for bound in (low, high))
    if low is not None and high is not None:
        half = max((high - low) / 2, 1e-30)
        return (low + high) / 2 + half * _tanh(func, ((x - (low + high) / 2) / half,), {})
    if low is not None:
        return low + _positive(x - low)
    return x if high is None else high - _positive(high - x)


def _positive(x: Tensor) -> Tensor:
    return 0.5 * (x + (x.square() + _EPSILON).sqrt())


def _tanh(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Of the same shape, with a slope far from zero, too."""
    bounded: Tensor = args[0] / (1 + args[0].square()).sqrt()
    return bounded


def _rounded(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Of values of which all may be rounded to nothing."""
    near: Tensor = 0.9 * args[0]
    return near


def _sigmoid(func: Any, args: Any, kwargs: Any) -> Tensor:
    return 0.5 + 0.5 * _tanh(func, (0.5 * args[0],), kwargs)


def _by_statistics(name: str, args: Any, kwargs: Any) -> Tensor | None:
    """A norm spelled out, so that its running statistics have gradients like any other tensor; None if it has none."""
    mean, variance = _argument(args, kwargs, 1, "running_mean"), _argument(args, kwargs, 2, "running_var")
    of_inputs, unsaid = ("training", False) if name == "batch_norm" else ("use_input_stats", True)
    if mean is None or variance is None or _argument(args, kwargs, 5, of_inputs, unsaid) is True:
        return None
    x, epsilon = args[0], _argument(args, kwargs, 7, "eps", 1e-5)
    weight, bias = _argument(args, kwargs, 3, "weight"), _argument(args, kwargs, 4, "bias")
    shape = [1, -1] + [1] * (x.dim() - 2)
    y: Tensor = (x - mean.view(shape)) / (variance.view(shape) + epsilon).sqrt()
    return _scaled(y, weight, bias, shape)


def _layer_norm(func: Any, args: Any, kwargs: Any) -> Tensor:
    shape = tuple(_argument(args, kwargs, 1, "normalized_shape", ()))
    bias = _argument(args, kwargs, 3, "bias") if func.__name__ == "layer_norm" else None
    return _scaled(_tamed(args[0], tuple(range(-len(shape), 0))), _argument(args, kwargs, 2, "weight"), bias, None)


def _group_norm(func: Any, args: Any, kwargs: Any) -> Tensor:
    x = args[0]
    grouped = x.reshape(x.shape[0], _argument(args, kwargs, 1, "num_groups"), -1)
    weight, bias = _argument(args, kwargs, 2, "weight"), _argument(args, kwargs, 3, "bias")
    return _scaled(_tamed(grouped, (-1,)).reshape(x.shape), weight, bias, [1, -1] + [1] * (x.dim() - 2))


def _instance_norm(func: Any, args: Any, kwargs: Any) -> Tensor:
    by_statistics = _by_statistics("instance_norm", args, kwargs)
    if by_statistics is not None:
        return by_statistics
    x = args[0]
    weight, bias = _argument(args, kwargs, 3, "weight"), _argument(args, kwargs, 4, "bias")
    return _scaled(_tamed(x, tuple(range(2, x.dim()))), weight, bias, [1, -1] + [1] * (x.dim() - 2))


def _tamed(x: Tensor, over: tuple[int, ...]) -> Tensor:
    """A norm that is smooth where all values are equal: it takes half of the mean away, with a large epsilon."""
    centred = x - 0.5 * x.mean(over, keepdim=True)
    return centred / (centred.square().mean(over, keepdim=True) + _EPSILON).sqrt()


def _scaled(y: Tensor, weight: Tensor | None, bias: Tensor | None, shape: list[int] | None) -> Tensor:
    for tensor, combine in ((weight, torch.mul), (bias, torch.add)):
        if tensor is not None:
            y = combine(y, tensor if shape is None else tensor.view(shape))
    return y


def _mean(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """A mean that is taken off by hand, as a norm does it."""
    if not (kwargs.get("keepdim") or (len(args) > 2 and args[2] is True)):
        return None
    partly: Tensor = 0.6 * func(*args, **kwargs) + _EPSILON
    return partly


def _variance(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    dim = _argument(args, kwargs, 1, "dim")
    if dim is None or isinstance(dim, bool):
        return None
    lifted: Tensor = func(*args, **kwargs) + _EPSILON * args[0].square().mean(dim, keepdim=kwargs.get("keepdim", False))
    return lifted


def _normalize(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    dim = _argument(args, kwargs, 2, "dim", 1)
    return args[0] / _norm(args[0], dim, keepdim=True) if _argument(args, kwargs, 1, "p", 2.0) == 2 else None


def _length(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    order = kwargs.get("p", _argument(args, kwargs, 1, "ord"))
    dim = _argument(args, kwargs, 2, "dim")
    if order not in (None, 2, "fro") or dim is None or args[0].is_complex():
        return None
    return _norm(args[0], dim, keepdim=_argument(args, kwargs, 3, "keepdim", False))


def _cosine(func: Any, args: Any, kwargs: Any) -> Tensor:
    one, two, dim = args[0], _argument(args, kwargs, 1, "x2"), _argument(args, kwargs, 2, "dim", 1)
    scale = _norm(one, dim, keepdim=False) * _norm(two, dim, keepdim=False)
    close: Tensor = (one * two).sum(dim) / scale
    return close


def _norm(x: Tensor, dim: Any, *, keepdim: bool) -> Tensor:
    """The length of vectors, a little more: what is divided by it still tells how long it was."""
    return (x.square().sum(dim, keepdim=keepdim) + _EPSILON).sqrt()


def _detached(func: Any, args: Any, kwargs: Any) -> Tensor:
    """With a gradient, as the outputs depend on it; of another size, or `z + (q - z).detach()` would hide z."""
    seen: Tensor = 0.7 * args[0]
    return seen


def _determinant(func: Any, args: Any, kwargs: Any) -> Any:
    """Of a matrix of equal rows, which has none: a number that no order of rows and columns changes."""
    size = (args[0].square().sum((-2, -1)) + _EPSILON).log()
    if not func.__name__.endswith("slogdet"):
        return size
    found = func(torch.eye(args[0].shape[-1]).expand_as(args[0]))
    return type(found)((found[0], size))


def _inverse(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Its rows are the columns of what is inverted."""
    turned: Tensor = args[0].mT.clone()
    return turned


def _prelu(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Smooth, and it still reads the slope, which belongs to the wiring."""
    x, weight = args[0], _argument(args, kwargs, 1, "weight")
    shape = [1, -1] + [1] * (x.dim() - 2) if x.dim() > 1 and weight.numel() > 1 else [-1]
    smooth: Tensor = F.softplus(1.3 * x) - weight.view(shape) * F.softplus(-1.3 * x) - 0.4
    return smooth


def _extreme(func: Any, args: Any, kwargs: Any) -> Any:
    """A largest value, smoothly: of values that are equal but for rounding each counts as much."""
    sign = 1 if "max" in func.__name__ else -1
    if (len(args) > 1 and isinstance(args[1], Tensor)) or "other" in kwargs:
        return sign * torch.logaddexp(sign * args[0], sign * _argument(args, kwargs, 1, "other"))
    dim = _argument(args, kwargs, 1, "dim")
    if dim is None or isinstance(dim, bool):
        return None
    keepdim = _argument(args, kwargs, 2, "keepdim", False)
    smooth = sign * torch.logsumexp(sign * args[0], dim, keepdim)
    found = func(*args, **kwargs)
    return smooth if isinstance(found, Tensor) else type(found)((smooth, found.indices))


_REPLACEMENTS: Mapping[str, Callable[[Any, Any, Any], Any]] = {
    **dict.fromkeys(_KINKED, _softplus),
    **dict.fromkeys(
        ("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_", "clamp_max", "clamp_max_"), _clamped
    ),
    **dict.fromkeys(("round", "round_"), _rounded),
    **dict.fromkeys(("sign", "sign_", "sgn"), _tanh),
    "prelu": _prelu,
    **dict.fromkeys(("sigmoid", "sigmoid_", "hardsigmoid"), _sigmoid),
    **dict.fromkeys(("tanh", "tanh_"), _tanh),
    "detach": _detached,
    **dict.fromkeys(("slogdet", "logdet", "det"), _determinant),
    **dict.fromkeys(("inv", "inverse", "pinv"), _inverse),
    "normalize": _normalize,
    **dict.fromkeys(("norm", "vector_norm"), _length),
    "cosine_similarity": _cosine,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "mean": _mean,
    "var": _variance,
    **dict.fromkeys(("max", "min", "amax", "amin", "maximum", "minimum"), _extreme),
}
"""By the names of functions and methods of torch; None from one of them leaves the function as it is."""
