"""A wiring as a spec, bound to its network: what a permutation does to the real outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.derivation.naming import name_dims
from rebasin_cli.derivation.passes import Network
from rebasin_cli.derivation.wiring import Wiring
from rebasin_cli.derivation.writing import Draft, spec_text
from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.comparing import Trace, change
from rebasin_cli.evaluation.running import recorded
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.language.loading import parse_spec
from rebasin_cli.spec.language.permutation_spec import PermutationSpec

TOLERANCE = 1e-8
"""Largest change of an output, relative to the largest output, that is rounding: everything runs in float64."""


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """The real network with weights that no symmetry leaves as they are.

    Attributes:
        state: by all keys of its state dict; reference: its outputs with it.
        gradients: of a random loss by every tensor: what the outputs depend on.
    """

    network: Network
    state: Mapping[str, Tensor]
    reference: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, by the keys of the state dict."""
        return {key: tuple(tensor.shape) for key, tensor in self.state.items()}

    @staticmethod
    def of(network: Network, seed: int) -> Judge:
        """A judge of a network, without gradients; `seed` draws its weights."""
        values = network.generic(seed)
        state = {key: value for name, value in values.items() for key in network.keys[name]}
        others = network.module.state_dict()
        state |= {key: others[key].detach().clone() for key in network.others if isinstance(others[key], Tensor)}
        return Judge(network, state, network.outputs(values), {})

    def with_gradients(self) -> Judge:
        """The same with the gradients of the network in which no unit is dead."""
        return replace(self, gradients=self.network.gradients({n: self.state[n] for n in self.network.tensors}))

    def change(self, state: Mapping[str, Tensor]) -> float:
        """How far the outputs are from the reference, relative to their largest value."""
        return change(self.reference, self.run(state, None))

    def run(self, state: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        """The outputs with a state; its modules' too, where a trace is given.

        No numbers where the network refuses a state that is tried, as code that checks its values refuses a variance
        below zero.
        """
        with recorded(self.network.module, trace):
            try:
                return self.network.outputs({name: state[name] for name in self.network.tensors})
            except ContentError:
                if state is self.state:
                    raise
                return {name: torch.full_like(output, torch.nan) for name, output in self.reference.items()}

    def subject(self, name: str) -> Subject:
        """The network for a proof."""
        ties = tuple(keys for keys in self.network.keys.values() if len(keys) > 1)
        return Subject(name, self.state, self.run, tolerance=TOLERANCE, ties=ties)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A wiring as a spec, bound to the network."""

    wiring: Wiring
    draft: Draft
    spec: PermutationSpec
    layout: Layout

    def changes(self, judge: Judge, dims: Iterable[int], seed: int) -> float:
        """What a random permutation of some dims alone does to the outputs."""
        wanted = {self.draft.spelled(dim) for dim in dims}
        drawn = Permutation.random(self.layout, seed)
        alone = Permutation({dim: drawn[dim] for dim in self.layout.moving() if dim in wanted})
        return judge.change(dict(permuted(alone, self.layout, judge.state)))


def spec_of(draft: Draft) -> PermutationSpec:
    """The spec that a draft's text is."""
    return parse_spec(spec_text(draft), f"{draft.name}.yaml")


def written(judge: Judge, draft: Draft) -> Candidate:
    """A draft as a spec, bound to the network."""
    spec = spec_of(draft)
    return Candidate(draft.wiring, draft, spec, bind(spec, judge.shapes))


def candidate(judge: Judge, wiring: Wiring, title: str, **texts: Any) -> Candidate:
    """Write a wiring down as a spec, and bind it.

    Raises:
        ContentError: it is outside of the language.
    """
    names, network = name_dims(wiring), judge.network
    sizes = wiring.unsized()
    texts = {"ignored": dict.fromkeys(network.others, ""), **texts}
    while True:
        draft = Draft(title, wiring, names, network.keys, network.buffers, sizes=sizes, **texts)
        made = written(judge, draft)
        known = wiring.sizes()
        more = {
            dim: known[dim]
            for dim in names
            if dim in known and dim not in sizes and _unsized(made.layout, draft.spelled(dim))
        }
        if not more:
            return made
        sizes = sizes | more


def _unsized(layout: Layout, name: str) -> bool:
    dim = layout.dims.get(name)
    return dim is not None and dim.unsized
