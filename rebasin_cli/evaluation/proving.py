"""Proof by the real network: permute its state at random, run it, and the outputs must not change.

A spec that is wrong anywhere gives a *different function*; nothing else shows that as surely as running it. A proof
has three parts: the outputs stay, every tensor that should move did, and the network can tell (permuting one
tensor of a dim alone changes the outputs, so that an unchanged output means something).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.permutation import Permutation, gather_piece, permute_tensor, permuted, piece_view, source_key
from rebasin_cli.spec import Layout, PermutationSpec, bind

Trace = list[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A real network, small enough to run many times.

    Attributes:
        name: what it is, for people.
        state: its tensors under the keys that its checkpoints have on disk, float64.
        run: from such a state to the outputs by name. Given a list, it appends (module name, output) in the order
            of execution, where it can.
        config: what its config.json says, where the spec needs it; overrides: what `--set` would say.
        tolerance: largest relative change of an output that is rounding (networks that cast to float32: more).
    """

    name: str
    state: Mapping[str, Tensor]
    run: Callable[[Mapping[str, Tensor], Trace | None], Mapping[str, Tensor]]
    config: Mapping[str, object] | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    tolerance: float = 1e-9


@dataclass(frozen=True, slots=True)
class Proof:
    """What a proof found.

    Attributes:
        error: largest change of an output, relative to the largest output.
        breaking: dims (families, such as `mlp`) whose permutation alone changes the outputs.
        first: the module whose output first differs by more than the order of its units; empty if not known.
        still: tensors that a moving dim should have changed and did not.
        untold: dims that the outputs do not depend on, so that nothing is proved for them.
    """

    spec: PermutationSpec
    subject: str
    layout: Layout
    error: float
    tolerance: float
    breaking: tuple[str, ...] = ()
    first: str = ""
    still: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the spec is proved on this network."""
        return not (self.error > self.tolerance or self.breaking or self.still or self.untold)

    def describe(self) -> str:
        """One line: what was proved, or what is wrong and where."""
        moving = len(self.layout.moving())
        if self.holds:
            return f"{self.subject}: outputs unchanged to {self.error:.1e} with {moving} dims permuted at random"
        problems = []
        if self.error > self.tolerance:
            problems.append(f"outputs change by {self.error:.1e} (tolerance {self.tolerance:.0e})")
        if self.breaking:
            problems.append(f"permuting {', '.join(self.breaking)} alone breaks the function")
        if self.first:
            problems.append(f"first seen after {self.first}")
        if self.still:
            problems.append(f"not moved at all: {', '.join(self.still[:5])}")
        if self.untold:
            problems.append(f"the outputs do not depend on {', '.join(self.untold)}, which are thus not proved")
        return f"{self.subject}: " + "; ".join(problems)


def prove(spec: PermutationSpec, subject: Subject, seed: int = 0) -> Proof:
    """Prove `spec` on `subject`.

    Raises:
        ContentError: the spec does not fit the subject's tensors, has nothing to move there, or the network's
            outputs are not finite.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in subject.state.items()}
    layout = bind(spec, shapes, config=subject.config, overrides=subject.overrides)
    if not layout.moving():
        raise ContentError(
            f"the spec `{spec.name}` moves nothing in {subject.name}",
            where="; ".join(layout.notes),
            remedy="give the sizes that shapes cannot tell, or name dims in the patterns",
        )
    reference = subject.run(subject.state, None)
    if not all(bool(t.isfinite().all()) for t in reference.values()):
        raise ContentError(f"{subject.name} gives outputs that are not finite, so nothing can be proved on it")
    permutation = _all_moving(layout, seed)
    error = _change(reference, subject.run(dict(permuted(permutation, layout, subject.state)), None))
    breaking: tuple[str, ...] = ()
    first = ""
    if not error <= subject.tolerance:
        breaking = _breaking(layout, subject, permutation, reference)
        first = _first_difference(layout, subject, permutation)
    return Proof(
        spec=spec,
        subject=subject.name,
        layout=layout,
        error=error,
        tolerance=subject.tolerance,
        breaking=breaking,
        first=first,
        still=_unmoved(layout, subject, permutation),
        untold=_untold(layout, subject, permutation, reference),
    )


def families(layout: Layout) -> dict[str, list[str]]:
    """Moving dims by the first word of their names."""
    found: dict[str, list[str]] = {}
    for dim in layout.moving():
        found.setdefault(dim.split(".")[0], []).append(dim)
    return found


def _all_moving(layout: Layout, seed: int) -> Permutation:
    """A random permutation with no dim at identity (small dims land there by chance)."""
    drawn = Permutation.random(layout, seed)
    still = {dim: perm.roll(1, -1) for dim, perm in drawn.items() if drawn.fraction_moved(dim) == 0.0}
    return drawn.replace(still)


def _change(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> float:
    worst = 0.0
    for name, expected in reference.items():
        scale = float(expected.abs().max()) or 1.0
        change = (outputs[name].to(expected) - expected).abs().max()
        worst = max(worst, float(change) / scale if bool(change.isfinite()) else float("inf"))
    return worst


def _breaking(
    layout: Layout, subject: Subject, permutation: Permutation, reference: Mapping[str, Tensor]
) -> tuple[str, ...]:
    found = []
    for family, dims in families(layout).items():
        alone = Permutation({dim: permutation[dim] for dim in dims})
        outputs = subject.run(dict(permuted(alone, layout, subject.state)), None)
        if not _change(reference, outputs) <= subject.tolerance:
            found.append(family)
    return tuple(found)


def _first_difference(layout: Layout, subject: Subject, permutation: Permutation) -> str:
    """The first module whose outputs differ as sets of numbers: a mere change of order is what should happen."""
    before: Trace = []
    after: Trace = []
    subject.run(subject.state, before)
    subject.run(dict(permuted(permutation, layout, subject.state)), after)
    for (name, one), (_, two) in zip(before, after, strict=False):
        x, y = one.double().flatten().sort().values, two.double().flatten().sort().values
        if x.shape != y.shape or float((x - y).abs().max()) > 1e-5 * max(1e-12, float(x.abs().max())):
            return name
    return ""


def _unmoved(layout: Layout, subject: Subject, permutation: Permutation) -> tuple[str, ...]:
    still = []
    for key, tensor in subject.state.items():
        bound = layout.tensors[key]
        if any(dim in permutation for dim in bound.dims()) and torch.equal(
            permute_tensor(permutation, layout, key, subject.state.__getitem__), tensor
        ):
            still.append(key)
    return tuple(still)


def _untold(
    layout: Layout, subject: Subject, permutation: Permutation, reference: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Families of which any one part of a tensor alone can be permuted without the outputs changing."""
    return tuple(
        family
        for family, dims in families(layout).items()
        if not any(
            _change(reference, subject.run(broken, None)) > 100 * subject.tolerance
            for broken in _broken_states(layout, subject, permutation, dims[0])
        )
    )


def _broken_states(
    layout: Layout, subject: Subject, permutation: Permutation, dim: str
) -> Iterator[Mapping[str, Tensor]]:
    """States in which `dim` is permuted in one place only: one key, or one piece of one tensor.

    One piece, because in a fused tensor all that a dim does may happen in that tensor.
    """
    alone = {dim: permutation[dim]}
    for key in layout.users[dim]:
        bound, tensor = layout.tensors[key], subject.state[key].contiguous()
        if bound.index_dim == dim:
            yield {**subject.state, key: subject.state[source_key(alone, bound)].clone()}
        for piece in (piece for piece in bound.pieces if any(side.dim == dim for side in piece.sides)):
            moved = tensor.clone()
            piece_view(moved, piece).copy_(gather_piece(piece_view(tensor, piece), piece, alone, bound.place))
            yield {**subject.state, key: moved}
