"""One pass: weights that are a random function of the colours, forward and backward of a random loss, and what it
says of every index.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rebasin_cli.derivation.colouring import AxisOf, Colouring
from rebasin_cli.derivation.surrogate import Exact, Smooth
from rebasin_cli.derivation.widening import InFloat64
from rebasin_cli.errors import ContentError, RebasinError
from rebasin_cli.evaluation.inputs import arguments
from rebasin_cli.evaluation.running import answers_of, in_dtype, tensors_in

JITTER = 1e-13
"""Relative: by how much weights are changed to see how far rounding reaches."""

_WEIGHT = 1.5  # standard deviation of a weight times the root of what it sums over
_VECTOR = 0.5
_LEAST_VARIANCE = 0.5
_NEAR = 1e-3  # relative: a table in order stays in order


class NoGradientError(ContentError):
    """Autograd cannot go back through what the code did."""


Signatures = Mapping[AxisOf, NDArray[np.float64]]
"""Two numbers for every index of every axis, (n, 2): random sums over its slice of the gradient."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How values of a tensor are drawn.

    Attributes:
        mean: around which (the ones of a norm); positive: as a variance is; rows: of an embedding, of which one is
        read at a time.
        table: the code made it and no training changes it, such as a table of positions; given: it is not drawn.
    """

    mean: float = 0.0
    positive: bool = False
    rows: bool = False
    table: bool = False
    given: bool = False


class Network:
    """A module with example inputs, whose weights can be set at will: in evaluation mode and in float64 (`borrowed`).

    Attributes:
        tensors: parameters and buffers of floats that its state dict has, each once, by the first of its keys.
        keys: all keys of the state dict of each of them (several where it is tied).
        others: keys of values that are not tensors of floats; buffers: names of the tensors that are buffers.
        tables: buffers that the code made and no training changes; passes: how many there were.
    """

    def __init__(self, module: nn.Module, inputs: Any) -> None:
        self.module, self.inputs = module, in_dtype(inputs, torch.float64)
        self.tensors: dict[str, Tensor] = {}
        self.keys: dict[str, tuple[str, ...]] = {}
        self.others: tuple[str, ...] = ()
        self.passes = 0
        self._wide: AbstractContextManager[object] = InFloat64()
        self._collect()
        self._original = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        rows = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
        self.buffers = frozenset(self.tensors) - {name for name, _ in module.named_parameters(remove_duplicate=False)}
        self._kinds = {
            name: _kind(name, tensor.detach(), rows=id(tensor) in rows, buffer=name in self.buffers)
            if not self._masks(name)
            else _Kind()
            for name, tensor in self.tensors.items()
        }
        self.tables = frozenset(name for name, kind in self._kinds.items() if kind.table)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def restore(self) -> None:
        """Give it the weights back that it came with."""
        self._load(self._original)

    def signatures(self, colouring: Colouring, seed: int, *, jitter: bool = False) -> tuple[Signatures, bool]:
        """One pass, and whether it chose among equal values, so that it says nothing."""
        values = self._draw(colouring, seed)
        loaded = values
        if jitter:
            generator = torch.Generator().manual_seed(seed + 1)
            loaded = {
                name: value * (1 + JITTER * torch.randn(value.shape, generator=generator, dtype=torch.float64))
                for name, value in values.items()
            }
        self._load(loaded)
        smooth = Smooth()
        gradients = self._gradients(seed, smooth)
        found: dict[AxisOf, NDArray[np.float64]] = {}
        for name, gradient in gradients.items():
            weighted = _real(gradient * torch.cos(7 * _real(values[name]) + 1))
            squared = _real(gradient * gradient.conj())
            for at in range(gradient.dim()):
                over = [other for other in range(gradient.dim()) if other != at]
                sums = [part.sum(over) if over else part for part in (weighted, squared)]
                found[name, at] = torch.stack(sums, 1).numpy()
        return found, bool(smooth.tied)

    def generic(self, seed: int) -> dict[str, Tensor]:
        """Weights that no symmetry leaves as they are; of tables that are kept, values close to their own."""
        apart = {(name, at): np.arange(n) for name, shape in self.shapes.items() for at, n in enumerate(shape)}
        values = {name: value.clone() for name, value in self._draw(apart, seed).items()}
        generator = torch.Generator().manual_seed(seed)
        for name in sorted(self.kept):
            values[name] *= 1 + _NEAR * torch.randn(values[name].shape, generator=generator, dtype=torch.float64)
        return values

    @property
    def kept(self) -> frozenset[str]:
        """Tables that are not drawn, though the network takes other values than their own, too."""
        return self.tables & {name for name, kind in self._kinds.items() if kind.given}

    def answer(self) -> Any:
        """What the real module returns with the weights that it came with."""
        self.restore()
        wide = InFloat64()
        with torch.no_grad(), float64(), wide, Exact():
            answer = run(self.module, self.inputs)
        self._wide = wide if wide.needed else nullcontext()
        return answer

    def keep_tables(self) -> None:
        """Draw no table: the network does not take any other values of them."""
        self._kinds = {name: replace(kind, given=kind.given or kind.table) for name, kind in self._kinds.items()}

    def outputs(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the real module answers with these tensors, by name; the logits alone where there are some."""
        self._load(values)
        with torch.no_grad(), float64(), self._wide, Exact():
            return {name: _bounded(output).clone() for name, output in self._answers().items()}

    def gradients(self, values: Mapping[str, Tensor], *, exact: bool = False) -> dict[str, Tensor]:
        """The gradient of a random loss by every tensor; `exact`: of the real network, dead units included."""
        self._load(values)
        return self._gradients(0, Exact() if exact else Smooth())

    def tied_lengths(self, colouring: Colouring, seed: int) -> set[int]:
        """Lengths of the axes along which equal values were sorted or chosen."""
        self._load(self._draw(colouring, seed))
        smooth = Smooth()
        self._gradients(seed, smooth)
        return smooth.tied

    def _collect(self) -> None:
        state = self.module.state_dict(keep_vars=True)
        first: dict[int, str] = {}
        others = []
        for key, tensor in state.items():
            if not isinstance(tensor, Tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
                others.append(key)
                continue
            name = first.setdefault(id(tensor), key)
            self.keys[name] = (*self.keys.get(name, ()), key)
            self.tensors[name] = tensor.requires_grad_(True)
        self.others = tuple(others)

    def _masks(self, name: str) -> bool:
        """Whether a buffer has the shape of a matrix of its module: the mask of a weight, which moves with it."""
        shape, stem = self.tensors[name].shape, name.rpartition(".")[0]
        return (
            name in self.buffers
            and len(shape) > 1
            and any(
                tensor.shape == shape and other.rpartition(".")[0] == stem and other not in self.buffers
                for other, tensor in self.tensors.items()
            )
        )

    def _load(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.tensors[name].copy_(value)

    def _draw(self, colouring: Colouring, seed: int) -> dict[str, Tensor]:
        """For every tensor, entries that are a random function of the colours of their indices."""
        drawn = {}
        for name, tensor in self.tensors.items():
            if self._kinds[name].given:
                drawn[name] = self._original[name]
                continue
            colours = [colouring[name, at] for at in range(tensor.dim())]
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            shape = [int(c.max()) + 1 if c.size else 0 for c in colours]
            value = torch.randn(shape, generator=generator, dtype=tensor.dtype) * self._scale(name, colours)
            kind = self._kinds[name]
            value = value.abs() + _LEAST_VARIANCE if kind.positive else value + kind.mean
            for at, c in enumerate(colours):
                value = value.index_select(at, torch.from_numpy(c))
            drawn[name] = value
        return drawn

    def _scale(self, name: str, colours: list[NDArray[np.int64]]) -> float:
        """Equal entries add up rather than cancel: what is summed over counts by the squares of its classes."""
        if len(colours) < 2:
            return _VECTOR
        if self._kinds[name].rows:
            return _WEIGHT
        summed = float(math.prod(len(c) for c in colours[1:]))
        for c in colours[1:]:
            counts = np.bincount(c).astype(float)
            summed *= float((counts**2).sum() / max(1.0, counts.sum()))
        return _WEIGHT / math.sqrt(max(1.0, summed))

    def _answers(self) -> Mapping[str, Tensor]:
        try:
            return answers_of(tensors_in(run(self.module, self.inputs)))
        except (RebasinError, MemoryError):
            raise
        except Exception as error:
            said = str(error).strip().splitlines() or [""]
            if "leaf Variable that requires grad" in said[0]:
                raise ContentError(
                    "the forward of the network writes into one of its own tensors, in evaluation mode, too",
                    remedy="return what it keeps from one call to the next, or write it in training mode alone",
                ) from error
            raise ContentError(
                f"the network does not run at other weights than its own: {type(error).__name__}: {said[0]}",
                remedy="weights are drawn at random: code that checks its values, and functions of some matrices only "
                "(cholesky, solve), cannot be searched; --debug shows where it stops",
            ) from error

    def _gradients(self, seed: int, functions: Exact) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        with float64(), self._wide:
            with functions:
                outputs = self._answers()
            loss = sum((_random_loss(output, generator) for output in outputs.values()), torch.zeros(()))
            if not loss.requires_grad:
                raise ContentError(
                    "no gradient reaches any weight of the network",
                    remedy="its forward must not detach what it returns",
                )
            functions.detaching = True
            with functions:  # again, as checkpoints run their part of the forward once more
                gradients = self._backward(loss)
        self.passes += 1
        if not bool(loss.isfinite()):
            raise ContentError("the outputs of the network are not finite at random weights")
        found = {name: gradients.get(name) for name in self.tensors}
        return {name: torch.zeros_like(self.tensors[name]) if g is None else g for name, g in found.items()}

    def _backward(self, loss: Tensor) -> dict[str, Tensor | None]:
        """By `backward`, which reentrant checkpoints need, and not by `grad`."""
        for tensor in self.tensors.values():
            tensor.grad = None
        try:
            engine: Any = torch.autograd.Variable._execution_engine  # `loss.backward` leaves the mode of functions
            engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, True)
            return {name: None if t.grad is None else t.grad.detach() for name, t in self.tensors.items()}
        except RuntimeError as error:
            raise NoGradientError(
                f"no gradient of the network can be computed: {str(error).strip().splitlines()[0]}",
                remedy="its forward must not use tensors that it kept from an earlier call",
            ) from error
        finally:
            for tensor in self.tensors.values():
                tensor.grad = None


def run(module: nn.Module, inputs: Any) -> Any:
    """The outputs of a module on its inputs: one tensor, positional or named arguments."""
    positional, named = arguments(module.forward, inputs)
    return module(*positional, **named)


@contextmanager
def float64() -> Iterator[None]:
    """New tensors are float64 while this is entered."""
    before = torch.get_default_dtype()
    try:  # a signal may raise as soon as it is set
        torch.set_default_dtype(torch.float64)
        yield
    finally:
        torch.set_default_dtype(before)


def _random_loss(output: Tensor, generator: torch.Generator) -> Tensor:
    """r·o + r₂·o², with the output at size one."""
    output = _bounded(output)
    scaled = output / (output.detach().abs().mean() + 1e-30)
    first, second = (torch.randn(output.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return (first * scaled + second * scaled**2).sum()


def _bounded(output: Tensor) -> Tensor:
    """Zero where it is infinite, as masked scores are."""
    return output.masked_fill(output.isinf(), 0.0)


def _real(tensor: Tensor) -> Tensor:
    return tensor.real if tensor.is_complex() else tensor


def _kind(name: str, tensor: Tensor, *, rows: bool, buffer: bool) -> _Kind:
    values = _real(tensor).double()
    if not values.numel() or not bool(values.isfinite().all()):
        return _Kind(given=buffer)
    spread = float(values.std()) if values.numel() > 1 else 0.0
    mean = float(values.mean())
    table = buffer and not _statistic(name)
    whole = bool((values == values.round()).all())  # a mask, or places
    if (buffer and values.numel() == 1) or (table and spread > 0.0 and (whole or values.dim() == 1)):
        return _Kind(given=True)
    if buffer and mean > 0.0 and float(values.min()) > 0.0:
        return _Kind(positive=True, table=table)
    return _Kind(mean if abs(mean) > 3 * spread else 0.0, rows=rows, table=table)


_STATISTICS = frozenset(("running", "moving", "mean", "var", "variance", "std", "ema", "avg", "u", "v"))


def _statistic(name: str) -> bool:
    """Whether training changes a buffer: running means, the vectors of a spectral norm."""
    return not _STATISTICS.isdisjoint(name.rpartition(".")[2].split("_"))
