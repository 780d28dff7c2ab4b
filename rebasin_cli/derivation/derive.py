"""From a module and example inputs to a spec that is proved on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.derivation.candidate import TOLERANCE, Candidate, Judge, candidate
from rebasin_cli.derivation.late import with_hidden_vectors, with_inner_permutations, with_key_indices, with_routers
from rebasin_cli.derivation.passes import Network
from rebasin_cli.derivation.reading import Reader, split_where_apart
from rebasin_cli.derivation.search import Found, Search, Told
from rebasin_cli.derivation.stays import Stays, what_stays
from rebasin_cli.derivation.wiring import Wiring
from rebasin_cli.derivation.writing import spec_text
from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.comparing import change
from rebasin_cli.proofs.proof import Proof, families, prove
from rebasin_cli.spec.language.permutation_spec import PermutationSpec

_REPAIRS = 8
"""Dims that are held still, one family after the other, where the proof says that moving them breaks the function."""


@dataclass(frozen=True, slots=True, eq=False)
class Derivation:
    """A derived spec, and how it was found.

    Attributes:
        text: its YAML; proof: on the network it was derived from.
        passes: forward and backward runs; seconds: of all of it.
        held: dims that were found and are held still, with the reason; unread: tensors that the outputs do not
        depend on.
        free: sides that stay though moving them alone changes nothing: the group may be larger than the spec says.
    """

    text: str
    spec: PermutationSpec
    proof: Proof
    passes: int
    seconds: float
    stays: Stays
    held: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = True
    free: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the spec may be used."""
        return self.proof.holds


def derive(
    module: nn.Module,
    inputs: Any,
    name: str = "derived",
    *,
    title: str = "",
    seed: int = 0,
    seconds: float = 600.0,
    told: Told | None = None,
) -> Derivation:
    """Derive the spec of a module.

    Args:
        module: any module; it is put in evaluation mode and in float64. inputs: what its forward takes: a tensor, a
        tuple of
            positional or a mapping of named arguments, of four examples or more.
        seconds: after which the search ends with what it has.

    Raises:
        ContentError: the module does not run on the inputs, is not deterministic, gives no finite outputs, has no
        gradient, or
            nothing in it may be permuted.
    """
    start = monotonic()
    network = Network(module, inputs)
    judge = Judge.of(network, seed + 1)
    _require_sound(judge)
    found = Search(network, seed, seconds, told).run()
    wiring, held = _read(network, found)
    wiring = with_hidden_vectors(judge, wiring)
    wiring, more = _repaired(judge, wiring, seed)
    wiring = with_routers(judge, with_key_indices(judge, wiring), found.routed)
    wiring = with_inner_permutations(judge, wiring)
    unread = _unread(judge)
    stays = what_stays(judge, wiring, found, unread)
    made = candidate(
        judge, wiring, title or f"derived from {name}", name=name, comments=stays.comments, stays=stays.lines,
        ignored={**dict.fromkeys(network.others, ""), **stays.ignored},
    )  # fmt: skip
    proof = prove(made.spec, judge.subject(name), seed)
    return Derivation(
        text=spec_text(made.draft),
        spec=made.spec,
        proof=proof,
        passes=network.passes,
        seconds=monotonic() - start,
        stays=stays,
        held=(*held, *more),
        unread=unread,
        complete=found.complete,
        free=stays.free,
    )


def _require_sound(judge: Judge) -> None:
    """The outputs are there, finite, and the same in two runs."""
    if not judge.reference:
        raise ContentError("there is no tensor of floats among the network's outputs")
    if not all(bool(output.isfinite().all()) for output in judge.reference.values()):
        raise ContentError(
            "the outputs of the network are not finite at random weights", remedy="check the inputs it is given"
        )
    first: list[tuple[str, Tensor]] = []
    second: list[tuple[str, Tensor]] = []
    one, two = judge.run(judge.state, first), judge.run(judge.state, second)
    if change(one, two) > TOLERANCE:
        where = next((n for (n, a), (_, b) in zip(first, second, strict=False) if not torch.equal(a, b)), "the network")
        raise ContentError(
            f"the network is not deterministic: {where} gave other outputs in a second run with the same inputs",
            remedy="switch off what draws random numbers in evaluation mode",
        )


def _read(network: Network, found: Found) -> tuple[Wiring, tuple[str, ...]]:
    """The axes in words; moves that no words can say are left out."""
    marks: Mapping[Any, Sequence[Any]] = found.marks
    fresh = len(found.moves)
    held = [
        f"{found.moves[move].axis[0]}: its units stand in another order in {axis[0]}"
        for move, axis in found.twisted.items()
    ]
    while True:
        reader = Reader()
        expressions, unreadable = reader.read(marks)
        if not unreadable:
            break
        apart = split_where_apart(marks, unreadable, fresh)
        if apart is not None:
            marks, fresh = apart
            continue
        gone = {move for axis in unreadable for indices in marks[axis] for move in indices}
        held += [f"axis {axis[1]} of {axis[0]}: no pattern says how its units are mixed" for axis in unreadable]
        marks = {
            axis: [{m: u for m, u in each.items() if m not in gone} for each in indices]
            for axis, indices in marks.items()
        }
    wiring = Wiring(network.shapes, expressions, {reader.dim(d): reader.dim(o) for d, o in reader.owners.items()})
    return wiring.pruned(), tuple(held)


def _repaired(judge: Judge, wiring: Wiring, seed: int) -> tuple[Wiring, tuple[str, ...]]:
    """The wiring with dims held still that the real network does not let move."""
    held: list[str] = []
    for _ in range(_REPAIRS):
        if not wiring.dims():
            raise ContentError(
                "nothing in this network may be permuted",
                where="; ".join(held),
                remedy="see `rebasin arch derive --help`",
            )
        made = candidate(judge, wiring, "a guess")
        proof = prove(made.spec, judge.subject("the network"), seed, elements=4)
        wrong = _wrong_dims(made, proof)
        if not wrong:
            break
        held += [f"{made.draft.spelled(dim)}: the real network changes when it moves" for dim in sorted(wrong)]
        wiring = wiring.without(wrong)
    return wiring, tuple(held)


def _wrong_dims(made: Candidate, proof: Proof) -> set[int]:
    names = {made.draft.spelled(dim): dim for dim in made.draft.names}
    bad = {*proof.breaking, *proof.untold}
    return {
        names[dim] for family, dims in families(made.layout).items() if family in bad for dim in dims if dim in names
    }


def _unread(judge: Judge) -> tuple[str, ...]:
    """Tensors that the outputs do not depend on, at weights that no symmetry leaves as they are."""
    gradients = judge.gradients
    top = max((float(g.abs().max()) for g in gradients.values() if g.numel()), default=0.0)
    return tuple(n for n, g in gradients.items() if g.numel() and not float(g.abs().max()) > 1e-12 * top)
