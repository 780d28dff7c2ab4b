"""Proof by the real network: permute its state at random, run it, and the outputs must not change.

A spec that is wrong anywhere gives a *different function*; nothing else shows that as surely as running it. A proof
has four parts: every dim is permuted, the outputs stay, every tensor that should move did, and the network can tell
(permuting one tensor of a dim alone changes the outputs, so that an unchanged output means something).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.comparing import Run, Trace, change, first_difference
from rebasin_cli.permutation.gather import gather_piece, permute_tensor, permuted, piece_view, source_key
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.proofs.acting import ActingProof, Judge, Kind, broken_ties, prove_acting
from rebasin_cli.spec import Layout, PermutationSpec, Request, bind
from rebasin_cli.spec.binding.layout import UNSIZED

ELEMENTS = 20
"""Random permutations that a spec is judged by: a wrong group survives each with a probability of a half at most."""

SIGNED_ELEMENTS = 5
"""The same with random signs, scales or rotations: one unit turned where it must not be shows, and most elements turn
many."""

SECONDS = 20.0
"""After which no further one is drawn; the first always is."""


__all__ = ["ELEMENTS", "Proof", "Subject", "Trace", "families", "prove"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A real network, small enough to run many times.

    Attributes:
        name: what it is, for people.
        state: its tensors under the keys that its checkpoints have on disk, float64 where the network takes it.
        run: from such a state to the outputs by name.
        config: what its config.json says, where the spec needs it; overrides: what `--set` would say.
        tolerance: largest relative change of an output that is rounding (networks that cast to float32: more).
        ties: keys that are one tensor in the network.
        network: the module and its example inputs, where its own keys are those of the state.
    """

    name: str
    state: Mapping[str, Tensor]
    run: Run
    config: Mapping[str, object] | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    tolerance: float = 1e-9
    ties: tuple[tuple[str, ...], ...] = ()
    network: tuple[nn.Module, Any] | None = None

    def tied_to(self, key: str) -> tuple[str, ...]:
        """Every key of the tensor, itself included."""
        return next((tie for tie in self.ties if key in tie), (key,))


@dataclass(frozen=True, slots=True)
class Proof:
    """What a proof found.

    Attributes:
        error: largest change of an output, relative to the largest output.
        elements: random permutations that were tried.
        breaking: dims (families, such as `mlp`) whose permutation alone changes the outputs.
        first: the module whose output first differs by more than the order of its units; empty if not known.
        still: tensors that a moving dim should have changed and did not.
        untold: dims that the outputs do not depend on, so that nothing is proved for them.
        unsized: dims that were not permuted, because nothing tells their size; missing: names that `--set` takes.
        single: dims of which every one has a single unit here, so that nothing was permuted.
        parted: keys of one tensor of the network that the spec moves differently.
        signs, scales, rotations: the proof of these, where it has any.
    """

    spec: PermutationSpec
    subject: str
    layout: Layout
    error: float
    tolerance: float
    elements: int = 1
    breaking: tuple[str, ...] = ()
    first: str = ""
    still: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    unsized: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    parted: tuple[tuple[str, ...], ...] = ()
    signs: ActingProof | None = None
    scales: ActingProof | None = None
    rotations: ActingProof | None = None

    @property
    def holds(self) -> bool:
        """Whether the spec is proved on this network."""
        wrong = not self.error <= self.tolerance
        acting = all(proof.holds for proof in self.acting())
        return acting and not (wrong or self.breaking or self.still or self.untold or self.unsized or self.parted)

    def acting(self) -> tuple[ActingProof, ...]:
        """The proofs of what is done to units beside permuting them."""
        return tuple(proof for proof in (self.signs, self.scales, self.rotations) if proof)

    def describe(self) -> str:
        """One line: what was proved, or what is wrong and where."""
        moving = len(self.layout.moving())
        if self.holds:
            drawn = f"{self.elements} random permutation{'s' if self.elements > 1 else ''} of {moving} dims"
            more = "".join(proof.describe() for proof in self.acting())
            return f"{self.subject}: outputs unchanged to {self.error:.1e} under {drawn}{more}"
        problems = []
        if not self.error <= self.tolerance:
            problems.append(f"outputs change by {self.error:.1e} (tolerance {self.tolerance:.0e})")
        if self.breaking:
            problems.append(f"permuting {', '.join(self.breaking)} alone breaks the function")
        if self.first:
            problems.append(f"first seen after {self.first}")
        if self.still:
            problems.append(f"not moved at all: {', '.join(self.still[:5])}")
        if self.untold:
            problems.append(f"the outputs do not depend on {', '.join(self.untold)}, which are thus not proved")
        if self.unsized:
            given = [f"--set {name}=N" for name in self.missing]
            if any(choice.uses_config for rule in self.spec.sizes for choice in rule.choices):
                given.append("--config FILE")
            problems.append(
                f"not proved: {', '.join(self.unsized)} were not permuted, as nothing tells {', '.join(self.missing)}; "
                f"give {' or '.join(given)}"
            )
        for keys in self.parted:
            problems.append(f"{' and '.join(keys)} are one tensor of the network, and the spec moves them differently")
        problems += [problem for acting in self.acting() for problem in acting.problems()]
        return f"{self.subject}: " + "; ".join(problems)


def prove(
    spec: PermutationSpec, subject: Subject, seed: int = 0, *, elements: int = ELEMENTS, seconds: float = SECONDS
) -> Proof:
    """Prove `spec` on `subject`.

    Args:
        elements: how many random permutations; seconds: after which no further one is drawn.

    Raises:
        ContentError: the spec does not fit the subject's tensors, has nothing to move there, or the network's
            outputs are not finite.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in subject.state.items()}
    layout = bind(spec, shapes, Request(subject.config, subject.overrides))
    unsized, missing = _unsized(layout)
    proof = Proof(
        spec, subject.name, layout, 0.0, subject.tolerance, unsized=unsized, missing=missing, single=_single(layout)
    )
    if not layout.moving():
        if unsized:
            return proof
        raise ContentError(
            f"the spec `{spec.name}` moves nothing in {subject.name}",
            where="; ".join(layout.notes),
            remedy="name dims in the patterns",
        )
    reference = subject.run(subject.state, None)
    if not all(bool(t.isfinite().all()) for t in reference.values()):
        raise ContentError(f"{subject.name} gives outputs that are not finite, so nothing can be proved on it")
    drawn, error, count = _worst(layout, subject, reference, seed, elements, seconds)
    if not error <= subject.tolerance:
        proof = replace(
            proof,
            breaking=_breaking(layout, subject, drawn, reference),
            first=first_difference(subject.run, subject.state, _moved(layout, subject, drawn)),
        )
    permutation = _all_moving(layout, seed)
    judge = Judge(
        subject.state, lambda state: change(reference, subject.run(state, None)), subject.tolerance, subject.ties,
        min(elements, SIGNED_ELEMENTS), seconds,
    )  # fmt: skip
    kinds: tuple[Kind, ...] = ("signs", "scales", "rotations")
    plain = Request(subject.config, subject.overrides)
    acting = {
        kind: prove_acting(
            kind,
            bind(
                spec,
                shapes,
                replace(plain, signs=kind == "signs", scales=kind == "scales", rotations=kind == "rotations"),
            ),
            judge,
            seed,
        )
        for kind in kinds
    }
    return replace(
        proof,
        error=error,
        elements=count,
        still=_unmoved(layout, subject, permutation),
        untold=_untold(layout, subject, permutation, reference),
        parted=_parted(layout, subject, seed),
        signs=acting["signs"],
        scales=acting["scales"],
        rotations=acting["rotations"],
    )


def families(layout: Layout) -> dict[str, list[str]]:
    """Moving dims by the first word of their names."""
    found: dict[str, list[str]] = {}
    for dim in layout.moving():
        found.setdefault(dim.split(".")[0], []).append(dim)
    return found


def _unsized(layout: Layout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Families of dims whose size nothing tells, and the names that `--set` takes for them."""
    reasons = {name: dim.fixed for name, dim in layout.dims.items() if dim.unsized}
    told = [str(rule.name.parts[0]) for rule in layout.spec.sizes]
    named = told or [name for why in reasons.values() for name in (why or "").removeprefix(UNSIZED).split(", ")]
    found = tuple(dict.fromkeys(name.split(".")[0] for name in reasons))
    return found, tuple(dict.fromkeys(named)) if found else ()


def _single(layout: Layout) -> tuple[str, ...]:
    """Families that may move and have one unit each."""
    several = families(layout)
    alone = [name.split(".")[0] for name, dim in layout.dims.items() if dim.fixed is None and dim.size == 1]
    return tuple(dict.fromkeys(family for family in alone if family not in several))


def _worst(
    layout: Layout, subject: Subject, reference: Mapping[str, Tensor], seed: int, elements: int, seconds: float
) -> tuple[Permutation, float, int]:
    """The random permutation that changes the outputs most, the change, and how many were drawn.

    In the first one no dim is at identity. The others are drawn freely: two dims of two units that ought to be one
    are told apart only where one of them rests.
    """
    end = monotonic() + seconds
    worst, found = 0.0, _all_moving(layout, seed)
    for at in range(elements):
        if at and monotonic() >= end:
            return found, worst, at
        drawn = Permutation.random(layout, seed + at) if at else found
        error = change(reference, subject.run(_moved(layout, subject, drawn), None))
        if error > worst:
            worst, found = error, drawn
        if worst > subject.tolerance:
            return found, worst, at + 1
    return found, worst, elements


def _moved(layout: Layout, subject: Subject, permutation: Permutation) -> dict[str, Tensor]:
    return dict(permuted(permutation, layout, subject.state))


def _all_moving(layout: Layout, seed: int) -> Permutation:
    """A random permutation with no dim at identity (small dims land there by chance)."""
    drawn = Permutation.random(layout, seed)
    still = {dim: perm.roll(1, -1) for dim, perm in drawn.items() if drawn.fraction_moved(dim) == 0.0}
    return drawn.replace(still)


def _breaking(
    layout: Layout, subject: Subject, permutation: Permutation, reference: Mapping[str, Tensor]
) -> tuple[str, ...]:
    found = []
    for family, dims in families(layout).items():
        alone = Permutation({dim: permutation[dim] for dim in dims})
        if not change(reference, subject.run(_moved(layout, subject, alone), None)) <= subject.tolerance:
            found.append(family)
    return tuple(found)


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
            change(reference, subject.run(broken, None)) > 100 * subject.tolerance
            for broken in _broken_states(layout, subject, permutation, dims[0])
        )
    )


def _broken_states(
    layout: Layout, subject: Subject, permutation: Permutation, dim: str
) -> Iterator[Mapping[str, Tensor]]:
    """States in which `dim` is permuted in one place only: one key, one piece of one tensor, or half of a piece.

    One piece, because in a fused tensor all that a dim does may happen in that tensor; half of it, because it may
    stand in one piece alone (queries of which the outputs take the mean).
    """
    alone = {dim: permutation[dim]}
    for key in layout.users[dim]:
        bound, tensor = layout.tensors[key], subject.state[key].contiguous()
        if bound.index_dim == dim:
            other = subject.state[source_key(alone, bound)].clone()
            yield {**subject.state, **dict.fromkeys(subject.tied_to(key), other)}
        for piece in (piece for piece in bound.pieces if any(side.dim == dim for side in piece.sides)):
            gathered = gather_piece(piece_view(tensor, piece), piece, alone, bound.place)
            for half in (None, *(at for at, side in enumerate(piece.sides) if side.dim != dim and side.size > 1)):
                moved = tensor.clone()
                into, other = piece_view(moved, piece), gathered
                if half is not None:
                    into, other = (view.narrow(half, 0, piece.sides[half].size // 2) for view in (into, other))
                into.copy_(other)
                yield {**subject.state, **dict.fromkeys(subject.tied_to(key), moved)}


def _parted(layout: Layout, subject: Subject, seed: int) -> tuple[tuple[str, ...], ...]:
    """Ties whose tensors are no longer equal under one of some random permutations."""
    drawn = [_all_moving(layout, seed), *(Permutation.random(layout, seed + at) for at in range(1, 4))]
    return broken_ties(layout, subject.state, subject.ties, drawn)
