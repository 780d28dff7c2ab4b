"""What a network must be for a spec to be derived from it; each failure is told before any long work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.derivation.candidate import TOLERANCE, Judge
from rebasin_cli.derivation.colouring import uniform
from rebasin_cli.derivation.passes import Network, NoGradientError
from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.comparing import change
from rebasin_cli.evaluation.running import tensors_in

_NOTHING = 1e-12  # of the largest gradient
_DRAWS, _APART = 8, 7919  # of weights, where the outputs do not depend on all of them; between their seeds


def sound_judge(network: Network, seed: int) -> Judge:
    """A judge of a network that runs on its inputs, is deterministic, finite, and has gradients.

    Raises:
        ContentError: it is not, or has not.
    """
    _require_runs(network)
    try:
        judge = _finite(network, seed)
        network.tied_lengths(uniform(network.shapes), seed)  # with equal values everywhere, as a search begins
    except ContentError:
        if not network.tables:
            raise
        network.keep_tables()
        judge = _finite(network, seed)
    _require_determinism(judge)
    silent = _silent(judge)
    for other in range(1, _DRAWS):  # an expert that no example takes, a layer of which all units are dead
        if not silent:
            break
        drawn = _finite(network, seed + _APART * other)
        less = _silent(drawn)
        judge, silent = (drawn, less) if less < silent else (judge, silent)
    if not any(bool(g.any()) for g in judge.gradients.values()):
        raise ContentError(
            "the outputs of the network do not depend on any of its weights",
            remedy="its forward must not detach what it computes from them",
        )
    return judge


def unread_tensors(judge: Judge) -> tuple[str, ...]:
    """Tensors that the outputs do not depend on, at weights that no symmetry leaves as they are."""
    gradients = judge.gradients
    top = max((float(g.abs().max()) for g in gradients.values() if g.numel()), default=0.0)
    return tuple(n for n, g in gradients.items() if g.numel() and not float(g.abs().max()) > _NOTHING * top)


def _silent(judge: Judge) -> int:
    """How many tensors the outputs do not depend on, here or anywhere."""
    exact = exact_gradients(judge)
    return sum(not bool(exact[name].any()) for name in judge.gradients) + len(unread_tensors(judge))


def exact_gradients(judge: Judge) -> Mapping[str, Tensor]:
    """Those of the real network, in which units may be dead; smooth ones where its code works in place on what a
    gradient needs.
    """
    try:
        return judge.network.gradients({name: judge.state[name] for name in judge.network.tensors}, exact=True)
    except (NoGradientError, RuntimeError):
        return judge.gradients


def _require_runs(network: Network) -> None:
    """It runs in evaluation mode with the weights that it came with, and answers with floats."""
    if not network.tensors:
        raise ContentError(
            "the network has no parameters, so there is nothing to permute",
            remedy="give the module that holds the weights",
        )
    try:
        outputs = network.answer()
    except ContentError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        raise ContentError(
            f"the network does not run on the inputs: {type(error).__name__}: {said[0]}",
            where=f"inputs: {_described(network.inputs)}",
            remedy="give inputs of the shapes and types that its forward takes, with the number of examples first "
            "(4x3x32x32); it is run in evaluation mode and in float64",
        ) from error
    if not tensors_in(outputs):
        raise ContentError(
            "there is no tensor of floats among the network's outputs",
            where=f"outputs: {_described(outputs)}",
            remedy="let its forward return logits or other values, not what was chosen by them",
        )


def _finite(network: Network, seed: int) -> Judge:
    judge = Judge.of(network, seed)
    bad = [name for name, output in judge.reference.items() if bool(output.isnan().any())]
    if bad:
        trace: list[tuple[str, Tensor]] = []
        judge.run(judge.state, trace)
        first = next((name for name, output in trace if bool(output.isnan().any())), "")
        raise ContentError(
            f"{bad[0]} of the network is not a number at random weights",
            where=f"first in {first}" if first else "",
            remedy="check the inputs, and functions that are not defined everywhere, such as log or sqrt",
        )
    return judge.with_gradients()


def _require_determinism(judge: Judge) -> None:
    first: list[tuple[str, Tensor]] = []
    second: list[tuple[str, Tensor]] = []
    one, two = judge.run(judge.state, first), judge.run(judge.state, second)
    if change(one, two) > TOLERANCE:
        where = next((n for (n, a), (_, b) in zip(first, second, strict=False) if not torch.equal(a, b)), "the network")
        raise ContentError(
            f"the network is not deterministic: {where} gave other outputs in a second run with the same inputs",
            remedy="switch off what draws random numbers in evaluation mode, and keep nothing between calls",
        )


def _described(value: Any) -> str:
    """Names, shapes and types of nested tensors."""
    if isinstance(value, Tensor):
        return f"{_kind(value)} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_described(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(_described, value)) + ")"
    return type(value).__name__


def _kind(tensor: Tensor) -> str:
    return "floats" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
