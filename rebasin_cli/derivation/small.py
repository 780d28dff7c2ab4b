"""Small networks of a folder's class, which run, and have tensors of the kinds that its checkpoint has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.derivation.candidate import Judge
from rebasin_cli.derivation.example_inputs import inputs_for
from rebasin_cli.derivation.instances import FileNetwork, Source
from rebasin_cli.derivation.naming import template_of
from rebasin_cli.derivation.passes import Network
from rebasin_cli.derivation.shrinking import Scale, smaller
from rebasin_cli.derivation.soundness import sound_judge, unread_tensors
from rebasin_cli.errors import RebasinError
from rebasin_cli.safe_text import first_names

Shapes = Mapping[str, tuple[int, ...]]

LARGEST = 10_000_000
"""Parameters of the largest network that a spec is derived on."""


class UnfitError(Exception):
    """One way to make a network small does not work."""


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """A small network of the folder's class, with inputs that it runs on."""

    config: Mapping[str, Any]
    network: FileNetwork
    inputs: Mapping[str, Any]
    judge: Judge

    @property
    def shapes(self) -> Shapes:
        return {key: tuple(t.shape) for key, t in self.network.state_dict().items()}

    @property
    def parameters(self) -> int:
        return sum(t.numel() for t in self.network.parameters())


def instance_of(source: Source, scale: Scale, real: Shapes, as_saved: bool, seed: int) -> Instance:
    """A small network that runs, and has tensors of the same kinds as the real one.

    Raises:
        UnfitError: there is none at this scale.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = _small_config(source, scale)
            with torch.device("meta"):
                numel = sum(t.numel() for t in source.make(config).parameters())
            if numel > LARGEST:
                raise UnfitError(f"{numel:,} parameters are too many")
            network = FileNetwork(source.make(config), source.prefix, as_saved=as_saved)
            judge = judge_of(network, source.complete(config), seed)
    except (RebasinError, MemoryError, UnfitError):
        raise
    except Exception as error:
        raise UnfitError(_in_a_line(error)) from error
    made = Instance(config, network, judge.network.inputs, judge)
    require_same_kinds(made, source, real)
    return made


def _in_a_line(error: Exception) -> str:
    """What a library said: its first line, and the next one where that is its title."""
    lines = [line.strip() for line in str(error).splitlines()] or [""]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {said}"


def _small_config(source: Source, scale: Scale) -> dict[str, Any]:
    """The config made small; what it does not say and its class does is said where it would stay large."""
    config = smaller(source.config, scale)
    whole, made = source.complete(config), smaller(source.whole, scale)
    for name, value in made.items():
        if name not in source.config and value != source.whole[name] and whole.get(name) == source.whole[name]:
            config = smaller({**source.config, name: source.whole[name]}, scale) | {
                n: v for n, v in config.items() if n not in source.config
            }
    return config


def judge_of(network: FileNetwork, config: Mapping[str, Any], seed: int) -> Judge:
    """The network with the first inputs that it runs on and by which its matrices are read.

    Raises:
        UnfitError: there are none. What these inputs leave unread may read or write a stream with others.
    """
    why = "no inputs are known that it takes"
    for inputs in inputs_for(network.model, config, seed):
        try:
            judge = sound_judge(Network(network, inputs), seed)
        except MemoryError:
            raise
        except RebasinError as error:
            why = error.what
            continue
        except Exception as error:
            why = _in_a_line(error)
            continue
        if not all(bool(t.isfinite().all()) for t in judge.reference.values()):
            why = "the outputs are not finite"
            continue
        unread = _left_unread(judge)
        if not unread:
            return judge
        why = f"its outputs do not depend on {first_names(unread, 2)} with the inputs that are known here"
    raise UnfitError(why)


def _left_unread(judge: Judge) -> list[str]:
    """Matrices that the outputs do not depend on, and may with other inputs: those that nothing reads are left out.

    Such a one is in a module that runs, and what the module makes, if all its tensors are no number, reaches no output:
    a pooler beside a head for tokens.
    """
    unread = unread_tensors(judge)
    matrices = [name for name in unread if sum(n > 1 for n in judge.shapes[name]) > 1]
    if not matrices:
        return []
    parts = {name.rpartition(".")[0] for name in matrices}
    lost = {name: torch.full_like(judge.state[name], math.nan) for name in unread if name.rpartition(".")[0] in parts}
    trace: list[tuple[str, Tensor]] = []
    outputs = judge.run({**judge.state, **lost}, trace)
    if any(bool(output.isnan().any()) for output in outputs.values()):
        return matrices
    read = {name.rpartition(".")[0] for name in judge.network.tensors if name not in unread}
    running = {name for name, _ in trace} - read
    return [name for name in matrices if name.rpartition(".")[0] not in running]


def require_same_kinds(made: Instance, source: Source, real: Shapes) -> None:
    ties = further_keys(made.network)
    small = {template_of(key): key for key in made.shapes}
    there = {template_of(key): key for key in real}
    more = [key for kind, key in small.items() if kind not in there and key not in ties]
    less = [key for kind, key in there.items() if kind not in small and not _left_by_loader(key, source)]
    if more or less:
        said = f"it has {more[0]}" if more else f"it lacks {less[0]}"
        raise UnfitError(f"{said}, unlike the checkpoint" if more else f"{said}, which the checkpoint has")


def _left_by_loader(key: str, source: Source) -> bool:
    """Whether the library's own loader leaves a tensor of a file aside."""
    return any(re.search(pattern, name) for pattern in source.unexpected for name in (key, f"{source.prefix}{key}"))


def further_keys(network: FileNetwork) -> set[str]:
    """Further keys of tensors that have several."""
    first: dict[int, str] = {}
    return {key for key, t in network.state_dict().items() if first.setdefault(id(t), key) != key}
