"""A pretended GPU for machines that have none: tensors that say `cuda:0` and lie in ordinary memory.

What a real one refuses is refused here, too: operations on tensors of two devices, and `numpy()`. Operations are
counted, so that a test can see that the work was done where it should be. What only hardware shows, such as other
rounding, missing kernels and the limits of its memory, is not seen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
# What a real device does between two devices: copies, and places given by a tensor of indices.
BETWEEN_DEVICES = {aten.copy_, aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_}
OPERATIONS: Counter[str] = Counter()


class OnDevice(torch.Tensor):
    """A tensor on the pretended device; its values are in `inside`.

    To torch's own code it is a CPU tensor without memory, since a build without CUDA has no guard for its devices;
    to everything written in Python it says `cuda:0`.
    """

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> OnDevice:
        wrapper: OnDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inside.size(), strides=inside.stride(), storage_offset=inside.storage_offset(),
            dtype=inside.dtype, device="cpu", requires_grad=False,
        )  # fmt: skip
        wrapper.inside = inside.detach()
        return wrapper

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.inside!r})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _ask(func, args, dict(kwargs or {}), super().__torch_function__)  # in threads, too

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        mine = {id(x.inside): x for x in tensors if isinstance(x, cls)}
        packet = func.overloadpacket
        if packet not in BETWEEN_DEVICES and any(not isinstance(x, cls) and x.dim() > 0 for x in tensors):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu in {packet}")
        OPERATIONS[packet.__name__] += 1
        result = func(*tree_map(_values, args), **tree_map(_values, kwargs))
        if packet is aten.copy_ and not isinstance(args[0], cls):
            return args[0]

        def wrapped(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return mine[id(x)] if id(x) in mine else cls(x)

        return tree_map(wrapped, result)


def _values(x: Any) -> Any:
    return x.inside if isinstance(x, OnDevice) else x


class _Move(torch.autograd.Function):
    """From one device to the other, with the way back for gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.back = type(tensor) is OnDevice
        OPERATIONS["to cpu" if ctx.back else "to device"] += 1
        return tensor.inside.clone() if isinstance(tensor, OnDevice) else OnDevice(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _moved(gradient, ctx.back)


def _moved(tensor: Tensor, to_device: bool) -> Tensor:
    if isinstance(tensor, OnDevice) == to_device:
        return tensor
    moved: Tensor = _Move.apply(tensor)  # type: ignore[no-untyped-call]
    return moved


def _ask(func: Any, args: Sequence[Any], kwargs: dict[str, Any], otherwise: Callable[..., Any]) -> Any:
    """What Python code asks of devices: where a tensor is, to move it, to make one there."""
    if args and isinstance(args[0], OnDevice) and func in HERE:
        return HERE[func](args[0])
    if func in (torch.Tensor.cpu, torch.Tensor.cuda):
        return _moved(args[0], func is torch.Tensor.cuda)
    if func is torch.Tensor.to:
        tensor, wanted, kwargs = _to(args[0], args[1:], kwargs)
        return otherwise(func, (), (tensor, *wanted), kwargs) if wanted or kwargs else tensor
    place = kwargs.get("device")
    if place is not None and func is not torch.device and torch.device(place).type == "cuda":
        if any(isinstance(x, OnDevice) for x in args):  # zeros_like and its kind
            return func(*args, **kwargs | {"device": None})
        return OnDevice(func(*args, **kwargs | {"device": "cpu"}))
    return otherwise(func, (), args, kwargs)


def _to(tensor: Tensor, wanted: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, list[Any], dict[str, Any]]:
    """The part of `tensor.to(…)` that is a device, done; and what is left to do."""
    wanted = [y for x in wanted for y in ((x.device, x.dtype) if isinstance(x, Tensor) else (x,))]
    places = [x for x in (*wanted, kwargs.pop("device", None)) if isinstance(x, (str, torch.device))]
    rest = [x for x in wanted if not isinstance(x, (str, torch.device))]
    place = torch.device(places[0]).type if places else ""
    if place == "cuda" or (place == "cpu" and isinstance(tensor, OnDevice)):
        return _moved(tensor, place == "cuda"), rest, kwargs
    return tensor, [*places, *rest], kwargs


class _Device(TorchFunctionMode):
    """Answers for tensors that are not on the device, too."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _ask(func, args, dict(kwargs or {}), lambda func, types, args, kwargs: func(*args, **kwargs))


def _no_numpy(tensor: OnDevice) -> Any:
    raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")


HERE: dict[Any, Any] = {
    torch.Tensor.device.__get__: lambda tensor: torch.device("cuda:0"),  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: lambda tensor: True,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda tensor: False,  # type: ignore[attr-defined]
    torch.Tensor.tolist: lambda tensor: tensor.inside.tolist(),
    torch.Tensor.numpy: _no_numpy,
    torch.Tensor.__array__: _no_numpy,
}
"""What a tensor on the pretended device says, whatever torch's own code thinks of it."""


@contextmanager
def device() -> Iterator[Counter[str]]:
    """A device `cuda` while it lasts: the real one, or the pretended one with a count of its operations."""
    OPERATIONS.clear()
    if torch.cuda.is_available():
        OPERATIONS["real"] = 1
        yield OPERATIONS
        return
    with pytest.MonkeyPatch.context() as patch, _Device():
        patch.setattr(torch.cuda, "is_available", lambda: True)
        yield OPERATIONS
