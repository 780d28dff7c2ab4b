"""From a module and example inputs to a spec that is proved on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from torch import nn

from rebasin_cli.derivation.acting import with_acting
from rebasin_cli.derivation.borrowing import borrowed
from rebasin_cli.derivation.candidate import Candidate, Judge, candidate
from rebasin_cli.derivation.colouring import AxisOf
from rebasin_cli.derivation.expressions import alone_in
from rebasin_cli.derivation.fixing import with_fixed_owners, with_fixed_stacks
from rebasin_cli.derivation.found import Found, Marks
from rebasin_cli.derivation.late import with_hidden_vectors, with_inner_permutations, with_key_indices, with_routers
from rebasin_cli.derivation.passes import Network
from rebasin_cli.derivation.reading import Reader, split_where_apart, without_move
from rebasin_cli.derivation.search import Search, Told
from rebasin_cli.derivation.soundness import sound_judge, unread_tensors
from rebasin_cli.derivation.stays import Stays, what_stays
from rebasin_cli.derivation.streams import with_streams
from rebasin_cli.derivation.unsaid import unsaid
from rebasin_cli.derivation.wiring import Wiring
from rebasin_cli.derivation.writing import Draft, spec_text
from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.running import unseen_in
from rebasin_cli.proofs.proof import Proof, families, prove
from rebasin_cli.safe_text import first_names
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.language.permutation_spec import PermutationSpec

_RUNS, _LONG = 4, 10.0
"""Runs for each tensor (3.3 of a Segformer, 3.2 of a U-Net, 4.3 of a GPT-2), and seconds that are told beforehand."""

_REPAIRS = 8
"""Dims that are held still, one family after the other, where the proof says that moving them breaks the function."""


@dataclass(frozen=True, slots=True, eq=False)
class Derivation:
    """A derived spec, and how it was found.

    Attributes:
        text: its YAML; proof: on the network it was derived from; wiring: what it says, without names.
        passes: forward and backward runs; seconds: of all of it.
        held: dims that were found and are held still, with the reason; unread: tensors that the outputs do not
            depend on.
        free: exchanges of units that change nothing though the spec does not say so: the group may be larger.
        undecided: those of which that was not found out; complete: whether all was decided, and in time.
        draft: what the text was written from; bound: the spec bound to a checkpoint, where another network than the
            checkpoint's was searched.
    """

    text: str
    spec: PermutationSpec
    proof: Proof
    wiring: Wiring
    passes: int
    seconds: float
    stays: Stays
    held: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = True
    free: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    draft: Draft | None = None
    bound: Layout | None = None

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
    acting: bool = True,
) -> Derivation:
    """Derive the spec of a module.

    Args:
        module: any module; it is worked on in evaluation mode and in float64, and is as it was afterwards.
        inputs: what its forward takes: a tensor, a tuple of positional or a mapping of named arguments, of four
            examples or more.
        seconds: after which the search ends with what it has, and nothing else is compared with it.
        told: hears what share is done, and beforehand how long it will take if that is long.
        acting: whether signs, scales and maps of units are looked for, too.

    Raises:
        ContentError: the module does not run on the inputs, is not deterministic, gives no finite outputs, has no
            gradient, or nothing in it may be permuted.
    """
    with borrowed(module):
        return _derived(Network(module, inputs), name, title, seed, seconds, told, acting)


def _derived(
    network: Network, name: str, title: str, seed: int, seconds: float, told: Told | None, acting: bool
) -> Derivation:
    start = monotonic()
    judge = sound_judge(network, seed + 1)
    if told is not None and (expected := _expected(network, seed, seconds)):
        told(None, expected)
    search = Search(network, seed, seconds, told)
    found = search.run()
    wiring, held, gone = _settled(judge, found, seed)
    if gone:
        found = search.again(gone)
        wiring, held, _ = _settled(judge, found, seed)
    wiring = with_routers(judge, with_key_indices(judge, wiring), found.routed)
    if not wiring.dims():
        raise _no_dims(held, monotonic() - start, seconds)
    wiring = with_fixed_stacks(judge, with_fixed_owners(with_inner_permutations(judge, wiring)))
    unread = unread_tensors(judge)
    stays = what_stays(judge, wiring, unread)
    made = candidate(
        judge, wiring, title or f"derived from {name}", name=name, comments=stays.comments, stays=stays.lines,
        ignored={**dict.fromkeys(network.others, ""), **stays.ignored},
    )  # fmt: skip
    marked = with_streams(judge, with_acting(judge, made, seed + 3), seed + 4) if acting else made
    proof = prove(marked.spec, judge.subject(name), seed)
    if not proof.holds and marked is not made:
        proof = prove(made.spec, judge.subject(name), seed)
    else:
        made = marked
    more = unsaid(judge, made.layout, seed + 2, seconds=start + seconds - monotonic())
    return Derivation(
        text=spec_text(made.draft),
        spec=made.spec,
        proof=proof,
        wiring=wiring,
        passes=network.passes,
        seconds=monotonic() - start,
        stays=stays,
        held=held,
        unread=unread,
        notes=_left_out(network, stays),
        complete=found.complete and not more.undecided,
        free=more.free,
        undecided=more.undecided,
        draft=made.draft,
    )


def _left_out(network: Network, stays: Stays) -> tuple[str, ...]:
    """What is said where outputs are nothing that is looked at, and some tensors may be read by these alone."""
    unseen = unseen_in(network.answer()) if stays.ignored else []
    if not unseen:
        return ()
    return (f"what {first_names(unseen, 2)} among the outputs holds is not looked at: return its tensors",)


def _no_dims(held: Sequence[str], took: float, seconds: float) -> ContentError:
    """Why there is nothing to say: there is nothing, or time ran out before anything was found."""
    if took > seconds:
        return ContentError(
            f"nothing that may be permuted was found in {seconds:.0f} s", where="; ".join(held),
            remedy="give `rebasin arch derive` more with --max-seconds, or a smaller network: fewer layers and units",
        )  # fmt: skip
    return ContentError(
        "nothing in this network may be permuted: no order of the units of any layer keeps its outputs",
        where="; ".join(held),
        remedy="check that its inputs and outputs are those of the whole network, with a hidden layer between",
    )


def _expected(network: Network, seed: int, limit: float) -> str:
    """How many runs there will be, and how long they take, from one of them; empty if that is not long."""
    began = monotonic()
    network.gradients(network.generic(seed))
    runs = _RUNS * len(network.tensors)
    seconds = runs * (monotonic() - began)
    if seconds <= _LONG:
        return ""
    ends = f", and the search ends after {max(limit, 0):.0f} s (--max-seconds)" * (seconds > limit)
    return f"{len(network.tensors)} tensors, some {runs} runs of the network: about {seconds:.0f} s{ends}"


def _settled(judge: Judge, found: Found, seed: int) -> tuple[Wiring, tuple[str, ...], set[int]]:
    """What was found, as far as words can say it and the real network has it; what is held; the moves that are gone."""
    wiring, held, dim_of = _read(judge.network, found)
    wiring, tables = _without_tables(judge.network, wiring)
    wiring = with_hidden_vectors(judge, wiring)
    read = wiring.dims()
    wiring, strays = _without_strays(wiring)
    wiring, more = _repaired(judge, wiring, seed)
    lost = read.keys() - wiring.dims().keys()
    unread = {*found.twisted, *(move for move, dim in dim_of.items() if dim is None)}
    gone = {move for move, dim in dim_of.items() if dim in lost} | unread
    return wiring, (*held, *tables, *strays, *more), gone


def _read(network: Network, found: Found) -> tuple[Wiring, tuple[str, ...], dict[int, int | None]]:
    """The axes in words, and the dim of every move; moves that no words can say are left out, and have none."""
    marks: Mapping[AxisOf, Sequence[Marks]] = found.marks
    fresh = len(found.moves)
    held = [
        f"{found.moves[move].axis[0]}: its units stand in another order in {axis[0]}"
        for move, axis in found.twisted.items()
    ]
    while True:
        reader = Reader(found.same)
        expressions, unknown = reader.read(marks)
        unreadable = [axis for axis in unknown if not _half_silent(network, found, axis)]
        if not unreadable:
            break
        apart = split_where_apart(marks, unreadable, fresh)
        if apart is not None:
            marks, fresh = apart
            continue
        held += [f"axis {unreadable[0][1]} of {unreadable[0][0]}: no pattern says how its units are mixed"]
        marks = without_move(marks, _least_missed(marks, unreadable))
    wiring = Wiring(network.shapes, expressions, {reader.dim(d): reader.dim(o) for d, o in reader.owners.items()})
    there = {move for indices in marks.values() for own in indices for move in own}
    dim_of = {move: reader.dim(move) if move in there else None for move in range(len(found.moves))}
    return wiring.pruned(), tuple(held), dim_of


def _least_missed(marks: Mapping[AxisOf, Sequence[Marks]], unreadable: Sequence[AxisOf]) -> int:
    """The move without which most of these axes can be read; of several the one of the fewest units."""
    axes = {axis: marks[axis] for axis in unreadable}
    units = {move: n for indices in axes.values() for each in indices for move, (_, n) in each.items()}
    return min(units, key=lambda move: (len(Reader().read(without_move(axes, move))[1]), units[move], move))


def _without_tables(network: Network, wiring: Wiring) -> tuple[Wiring, tuple[str, ...]]:
    """The wiring without dims that merely name the entries of a table of the code, which one other tensor reads."""
    found = {
        dim: sorted(names & network.tables)[0]
        for dim, names in wiring.dims().items()
        if names & network.tables and len(names - network.tables) < 2
    }
    return wiring.without(set(found)), tuple(f"{table}: the code made it" for table in found.values())


def _without_strays(wiring: Wiring) -> tuple[Wiring, tuple[str, ...]]:
    """The wiring without dims that stand outside of what they are within somewhere: units that were hidden there."""
    found = {
        dim: name
        for (name, _), expression in wiring.expressions.items()
        for dim in alone_in(expression, wiring.owners)
    }  # fmt: skip
    return wiring.without(set(found)), tuple(f"{name}: its groups were not found" for name in found.values())


def _half_silent(network: Network, found: Found, axis: AxisOf) -> bool:
    """Whether it is a vector of which a part is silent, such as a bias of keys: its weight will tell what it does."""
    return axis in found.silent and len(network.shapes[axis[0]]) == 1


def _repaired(judge: Judge, wiring: Wiring, seed: int) -> tuple[Wiring, tuple[str, ...]]:
    """The wiring with dims held still that the real network does not let move."""
    held: list[str] = []
    for _ in range(_REPAIRS):
        if not wiring.dims():
            break
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
