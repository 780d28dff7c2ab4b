"""The calls that a network makes while it runs: told one by one, and read for where each of its weights is used.

Every network is made of calls of torch, a module as well as a function of tensors: `linear(x, weight, bias)`,
`batch_norm`, `add`. A weight is known by the memory that it lies in, so that slices and transposed views of it are too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
OnCall = Callable[[int, str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_SAME = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "contiguous", "to", "float"})
"""Calls that may give back what they were given."""


class Watch(TorchFunctionMode):
    """Tells every call of a running network, with its number, and goes on with the answer."""

    def __init__(self, on_call: OnCall) -> None:
        super().__init__()
        self.on_call, self.count = on_call, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        if func is F.multi_head_attention_forward:
            given = signature(func).bind(*args, **(kwargs or {}))
            given.apply_defaults()
            return _attention(self._project, given.arguments)
        number, self.count = self.count, self.count + 1
        return self.on_call(number, getattr(func, "__name__", ""), func, args, kwargs or {})

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with self:
            return F.linear(x, weight, bias)


def _attention(project: Callable[[Tensor, Tensor, Tensor | None], Tensor], given: Mapping[str, Any]) -> Any:
    """`nn.MultiheadAttention` with its four projections as calls of their own, and the identity in their places.

    Args:
        given: arguments of `multi_head_attention_forward`, all by name.
    """
    apart = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    joined, bias, out = (given[name] for name in ("in_proj_weight", "in_proj_bias", "out_proj_weight"))
    weights = [given[name] for name in apart] if joined is None else joined.chunk(3)
    biases = [None] * 3 if bias is None else bias.chunk(3)
    inputs = ("query", "key", "value")
    projected = {
        name: project(given[name], weight, bias) for name, weight, bias in zip(inputs, weights, biases, strict=True)
    }
    eye = torch.eye(given["embed_dim_to_check"], dtype=out.dtype, device=out.device)
    without = dict.fromkeys(("in_proj_weight", "in_proj_bias", "out_proj_bias"))
    identities = {**dict.fromkeys((*apart, "out_proj_weight"), eye), "use_separate_proj_weight": True}
    mixed, shares = F.multi_head_attention_forward(**{**given, **projected, **without, **identities})
    return project(mixed, out, given["out_proj_bias"]), shares


@dataclass(frozen=True, slots=True)
class Use:
    """A call that reads a weight which can be solved for.

    Attributes:
        number: of the call; kind: its name; name: of the parameter.
        norm: the BatchNorm that alone reads what it makes; stream: the addition that alone reads it then, and the call
            that makes the other addend. None where there is none.
        answer: whether it makes what the network answers.
    """

    number: int
    kind: str
    name: str
    norm: int | None = None
    stream: tuple[int, int] | None = None
    answer: bool = False

    @property
    def last(self) -> int:
        """The call whose result the members' mean is taken of."""
        return self.stream[0] if self.stream else self.number if self.norm is None else self.norm


@dataclass(frozen=True, slots=True)
class Norm:
    """A BatchNorm that stands behind something else: its statistics are measured again."""

    number: int
    name: str


@dataclass(slots=True)
class _Called:
    """What is known of a call: name, arguments, the calls that made its tensors, and those that read what it made."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made_by: tuple[int, ...]
    readers: list[int] = field(default_factory=list)


LINEAR = ("linear", "addmm", "matmul", "mm")
CONVOLUTIONS = tuple(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3))
_PLACE = {"addmm": 2} | dict.fromkeys((*LINEAR[:1], *LINEAR[2:], *CONVOLUTIONS), 1)
_WEIGHT = {"addmm": "mat2", "mm": "mat2", "matmul": "other"} | dict.fromkeys(("linear", *CONVOLUTIONS), "weight")


class Trace:
    """Where a network uses its parameters, as a run on a few examples shows it.

    Args:
        params: by name; each lies in memory of its own.
        frozen: names of those that are not to be solved for.
    """

    def __init__(self, params: Mapping[str, Tensor], frozen: Collection[str] = ()) -> None:
        self._frozen = frozenset(frozen)
        self.calls: dict[int, _Called] = {}
        self._alive: list[Any] = []  # so that nothing takes the place of a tensor that is gone
        self._maker: dict[int, int] = {}
        self._owner = {_memory(tensor): name for name, tensor in params.items() if tensor.numel()}
        self._read: dict[str, list[tuple[int, int, int]]] = {}

    def watch(self, run: Callable[[], Any]) -> Any:
        """Run a network once, and take down what it calls."""
        with torch.no_grad(), Watch(self._on_call):
            return run()

    def _on_call(
        self, number: int, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = list(_tensors((args, kwargs)))
        makers = tuple(self._maker[id(tensor)] for tensor in given if id(tensor) in self._maker)
        result = func(*args, **kwargs)
        made = list(_tensors(result))
        same = name in _SAME and len(made) == 1 and any(made[0] is tensor for tensor in given)
        if not made or same:
            return result
        self.calls[number] = _Called(name, args, kwargs, makers)
        for maker in dict.fromkeys(makers):
            self.calls[maker].readers.append(number)
        memory = {_memory(tensor) for tensor in made if tensor.numel()}
        for tensor in given:
            owner = self.name_of(tensor)
            if owner is not None and _memory(tensor) not in memory:  # a view of it is no use as yet
                self._read.setdefault(owner, []).append((number, *_span(tensor)))
        self._alive += [*made, *given]
        self._maker |= {id(tensor): number for tensor in made}
        return result

    def name_of(self, tensor: Any) -> str | None:
        """The parameter that a tensor is, or is a view of."""
        return self._owner.get(_memory(tensor)) if isinstance(tensor, Tensor) and tensor.numel() else None

    def alone(self, tensor: Any, number: int) -> bool:
        """Whether a tensor is (a part of) a parameter that may change, and no other call reads that part."""
        owner = self.name_of(tensor)
        if owner is None or owner in self._frozen:
            return False
        low, high = _span(tensor)
        others = [span for at, *span in self._read.get(owner, ()) if at != number]
        return all(end < low or start > high for start, end in others)

    def maker(self, tensor: Any) -> int | None:
        """The call that made a tensor."""
        return self._maker.get(id(tensor))

    def plan(self, answer: Any) -> tuple[list[Use | Norm], list[str]]:
        """What can be solved, in the order of execution, and the names of matrices and kernels that cannot."""
        found: list[Use | Norm] = []
        behind: set[int] = set()
        for number, call in self.calls.items():
            if call.name in _PLACE and (use := self._use(number, call, answer)) is not None:
                found.append(use)
                behind |= {use.norm} if use.norm is not None else set()
            elif call.name == "batch_norm" and number not in behind and self._statistics(number, call):
                name = self.name_of(argument(call.args, call.kwargs, 1, "running_mean")) or ""
                found.append(Norm(number, name.rpartition(".")[0]))
        found = [step if i + 1 == len(found) else _cut(step, found[i + 1].number) for i, step in enumerate(found)]
        solved = {step.name for step in found if isinstance(step, Use)}
        left = [name for name in self._read if name not in solved | self._frozen and name in self._matrices()]
        return found, left

    def tables(self) -> set[str]:
        """Parameters whose rows are looked up."""
        calls = [call for call in self.calls.values() if call.name == "embedding"]
        return {name for call in calls for given in _tensors(call.args) if (name := self.name_of(given)) is not None}

    def _matrices(self) -> set[str]:
        """Parameters that stand where a weight stands."""
        calls = [call for call in self.calls.values() if call.name in _PLACE]
        return {name for call in calls if (name := self.name_of(weight_of(call.name, (call.args, call.kwargs))))}

    def _use(self, number: int, call: _Called, answer: Any) -> Use | None:
        """What can be solved of a call; None if nothing can."""
        given = (call.args, call.kwargs)
        weight, bias = weight_of(call.name, given), bias_of(call.name, given)
        inputs = input_of(call.name, given)
        if not self.alone(weight, number) or not (bias is None or self.alone(bias, number)):
            return None
        if not isinstance(inputs, Tensor) or self.name_of(inputs) is not None:
            return None
        if weight.dim() != 2 if call.name in LINEAR else weight.dim() != inputs.dim():
            return None
        if call.name == "addmm" and (len(call.args) != 3 or call.kwargs):
            return None  # scaled
        norm, last = None, call
        if len(call.readers) == 1:
            at = call.readers[0]
            reader = self.calls[at]
            affine = all(self.alone(argument(reader.args, reader.kwargs, i, n), at) for i, n in _AFFINE)
            along = call.name not in LINEAR or inputs.dim() == 2  # otherwise channels of the two are other axes
            if reader.name == "batch_norm" and affine and along and self._statistics(at, reader):
                norm, last = at, reader
        answers = norm is None and self.maker(answer) == number
        return Use(number, call.name, self.name_of(weight) or "", norm, self._stream(number, last), answers)

    def _statistics(self, number: int, call: _Called) -> bool:
        """Whether a BatchNorm has running statistics of its own, and reads them."""
        training = argument(call.args, call.kwargs, 5, "training")
        return not training and all(
            self.alone(argument(call.args, call.kwargs, i, name), number)
            for i, name in ((1, "running_mean"), (2, "running_var"))
        )

    def _stream(self, number: int, last: _Called) -> tuple[int, int] | None:
        """The addition that alone reads what was made, if the other addend was made before it."""
        if len(last.readers) != 1:
            return None
        at = last.readers[0]
        reader = self.calls[at]
        terms = reader.args
        if reader.name not in ("add", "add_") or reader.kwargs or len(terms) != 2:
            return None
        if not all(isinstance(term, Tensor) for term in terms) or terms[0].shape != terms[1].shape:
            return None
        others = [maker for maker in reader.made_by if self.calls[maker] is not last]
        return (at, others[0]) if len(others) == 1 and others[0] < number else None


_AFFINE = ((3, "weight"), (4, "bias"))


def _cut(step: Use | Norm, following: int) -> Use | Norm:
    """A use whose target is known before the next one: members do not run ahead of it."""
    if isinstance(step, Norm) or step.last < following:
        return step
    norm = step.norm if step.norm is not None and step.norm < following else None
    return Use(step.number, step.kind, step.name, norm, None, step.answer)


def weight_of(kind: str, arguments: Arguments) -> Any:
    """The weight among a call's arguments."""
    return argument(*arguments, _PLACE[kind], _WEIGHT[kind])


def bias_of(kind: str, arguments: Arguments) -> Any:
    """The bias among a call's arguments; None if it has none."""
    if kind in ("matmul", "mm"):
        return None
    return argument(*arguments, 0, "input") if kind == "addmm" else argument(*arguments, 2, "bias")


def input_of(kind: str, arguments: Arguments) -> Any:
    """What a call puts its weight to."""
    return argument(*arguments, 1, "mat1") if kind == "addmm" else argument(*arguments, 0, "input")


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    """An argument by place or by name; None if it is not there."""
    return args[place] if len(args) > place else kwargs.get(name)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first and the last element of its memory that it reads."""
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset())
    return start, start + int(reach)
