"""The same network as other files have it: under other keys, with extra tensors, or with a tensor left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from rebasin_cli.proofs.proof import Subject, Trace


def under_other_keys(subject: Subject, name: str, names: Mapping[str, str] | Callable[[str], str]) -> Subject:
    """The subject with every key renamed (published files drop `transformer.`, older releases had other names).

    Args:
        names: parts of keys and what replaces them, one after the other; or what renames a key.
    """

    def rename(key: str) -> str:
        if callable(names):
            return names(key)
        for part, other in names.items():
            key = key.replace(part, other)
        return key

    original = {rename(key): key for key in subject.state}
    assert len(original) == len(subject.state)

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return subject.run({original[key]: tensor for key, tensor in tensors.items()}, trace)

    state = {rename(key): tensor for key, tensor in subject.state.items()}
    return replace(subject, name=name, state=state, run=run, network=None)


def with_extra(subject: Subject, name: str, extra: Mapping[str, Tensor]) -> Subject:
    """The subject with tensors that files hold and the network does not read (masks, rotary frequencies)."""

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return subject.run({key: tensor for key, tensor in tensors.items() if key not in extra}, trace)

    return replace(subject, name=name, state={**subject.state, **extra}, run=run, network=None)


def judged_by(subject: Subject, *outputs: str) -> Subject:
    """The subject without the other outputs, which show the inside of the network in its own order."""

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        found = subject.run(tensors, trace)
        return {name: found[name] for name in outputs}

    return replace(subject, run=run)
