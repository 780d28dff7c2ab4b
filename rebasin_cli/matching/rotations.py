"""Rotations that are matched: both networks in a canonical form, then one group after the other until none gains.

In the canonical form the gains of norms are taken up by what reads them, and inside each head what writes a unit and
what reads it are balanced: of all invertible maps only orthogonal ones are left, which change no length. There

- a stream is rotated by the solution of the orthogonal Procrustes problem, U·V of the singular value decomposition of
  Σ A-piece · B-pieceᵀ (Schönemann 1966), at first anchored at what never moves: embeddings, positions, the output head;
- heads are assigned by what each pair is worth at its best: the nuclear norms of the same sums inside of it;
- all other dims are permuted as ever.

Each step is the best with the others held, so that ⟨A, g(B)⟩ never falls, and ‖A − g(B)‖ never rises. Both forms act
linearly on tensors: bringing A back to the form it had takes the whole line along, B alone changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import dot
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.problem import MatchResult, Problem, Resources, Stop, StopMatching
from rebasin_cli.matching.rotated_heads import match_heads
from rebasin_cli.permutation.gather import permuted, piece_view
from rebasin_cli.permutation.maps import in_pairs, nearest_map, of_pairs, products
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import BoundTensor, Layout, Piece
from rebasin_cli.spec.binding.layout import STREAMS
from rebasin_cli.spec.language.permutation_spec import PAIRS

State = Mapping[str, Tensor]

MAX_ROUNDS = 200
"""Rounds over all groups at most; a pair of trained networks of four layers is at rest after some twelve."""

RELATIVE_GAIN = 1e-5
"""Rise of ⟨A, g(B)⟩ in a round from which on the match is at rest, as a share of it or of ‖A − g(B)‖², whichever is
less: networks that are nearly one are brought as near as they come."""

ROUNDING = 1e-6
"""Share of ⟨A, g(B)⟩ below which ‖A − g(B)‖² is not told from nothing by its rises."""

SINGULAR = 1e-12
"""Smallest eigenvalue of what writes to a head, as a share of the largest, from which on it is balanced."""


@dataclass(frozen=True, slots=True)
class Form:
    """A network in its canonical form: the element that brings it there, and its tensors then, in float64."""

    element: Permutation
    state: State


def canonical(layout: Layout, state: State) -> Form:
    """Gains (none of which is zero) taken up, heads balanced, and units that are scaled balanced, too."""
    gains = {}
    for name, key in layout.gains().items():
        own = state[key].double().reshape(-1)
        gains[name] = torch.stack([own, torch.ones_like(own)])
    eyes = {dim: _eye(layout, dim) for dim in layout.rotated()}
    element = Permutation({}, {}, {dim: eyes[dim] for dim in eyes if layout.dims[dim].rotated in STREAMS}, gains)
    folded = _applied(layout, element, {key: _wide(tensor) for key, tensor in state.items()})
    inside = {dim: eye for dim, eye in eyes.items() if layout.dims[dim].rotated not in STREAMS}
    balancing = Permutation({}, {}, {dim: _balancing(layout, folded, dim, eye) for dim, eye in inside.items()})
    if layout.scaled():
        from rebasin_cli.matching.scales import balance

        balancing = replace(balancing, scales=balance(layout, folded))
    return Form(element.compose(balancing, layout), _applied(layout, balancing, folded))


def in_canonical_forms(
    layout: Layout, states: Sequence[State], permutations: Sequence[Permutation]
) -> tuple[tuple[State, ...], tuple[Permutation, ...]]:
    """Networks in their canonical forms, and what permutations with maps onto the first one do between these."""
    forms = [canonical(layout, state) for state in states]
    first = forms[0].element
    between = [
        form.element.inverse(layout).compose(permutation, layout).compose(first, layout)
        for form, permutation in zip(forms, permutations, strict=True)
    ]
    return tuple(form.state for form in forms), tuple(between)


def match_with_rotations(problem: Problem, resources: Resources, *, max_rounds: int = MAX_ROUNDS) -> MatchResult:
    """Match B to A over all the layout has: the better of two starts, rotations from anchors and permutations alone.

    Its objective is that of the canonical forms.
    """
    began = perf_counter()
    layout = problem.layout
    one, two = canonical(layout, problem.a), canonical(layout, problem.b)
    search = _Search(layout, one.state, resources, max_rounds)
    found = search.run(two.state)
    element = found.element
    if layout.scaled():
        from rebasin_cli.matching.scales import nearest

        scales = nearest(layout, one.state, found.state, Permutation({}))
        element = element.compose(Permutation({}, scales), layout)
    whole = two.element.compose(element, layout).compose(one.element.inverse(layout), layout)
    seconds = {"matching": perf_counter() - began}
    return MatchResult("weights", whole, tuple(found.course), found.stop, resources.seed, seconds, found.solves)


def match_between_forms(
    problem: Problem, resources: Resources, start: Permutation | None = None, max_rounds: int = MAX_ROUNDS
) -> MatchResult:
    """Match networks that are in their canonical forms already, such as a model and the mean of others.

    Args:
        start: go on from this element; None: the better of two starts, as `match_with_rotations`.
    """
    began, layout = perf_counter(), problem.layout
    a, b = (dict(state) for state in (problem.a, problem.b))  # a mean is worked out once, not at every look
    search = _Search(layout, a, resources, max_rounds)
    found = search.run(b) if start is None else search.refine(dict(permuted(start, layout, b)))
    element = found.element if start is None else start.compose(found.element, layout)
    seconds = {"matching": perf_counter() - began}
    return MatchResult("weights", element, tuple(found.course), found.stop, resources.seed, seconds, found.solves)


@dataclass(slots=True)
class _Found:
    """Where a search stands.

    Attributes:
        element: what was done to B's canonical form; state: what that has become.
        inner: ⟨A, g(B)⟩ of every tensor that counts; course: of all of them before each round.
        lengths: ‖A‖² + ‖B‖², which no step changes.
    """

    element: Permutation
    state: State
    inner: Mapping[str, float]
    lengths: float
    course: list[float] = field(default_factory=list)
    stop: Stop = "converged"
    solves: int = 0

    @property
    def objective(self) -> float:
        return sum(self.inner.values())

    @property
    def rests(self) -> bool:
        """Whether the last round gained next to nothing."""
        value = self.objective
        left = min(max(self.lengths - 2 * value, ROUNDING * abs(value)), abs(value))
        return value - self.course[-1] <= RELATIVE_GAIN * left


class _Search:
    """The rounds of a match between canonical forms."""

    def __init__(self, layout: Layout, a: State, resources: Resources, max_rounds: int) -> None:
        self.layout, self.a, self.max_rounds = layout, a, max_rounds
        self.on_step = resources.on_step or (lambda *_: None)
        self.resources = replace(resources, on_step=None)
        self.keys = [key for key, bound in layout.tensors.items() if bound.section == "tensors"]
        self.streams = [dim for dim in layout.rotated() if layout.dims[dim].rotated in STREAMS]
        inside = {layout.root(dim) for dim in layout.rotated() if dim not in self.streams}
        inside -= {bound.index_dim for bound in layout.tensors.values()}  # of experts nothing inside is rotated
        self.heads = sorted(inside, key=list(layout.dims).index)
        rest = [dim for dim in layout.moving() if layout.root(dim) not in inside and dim not in self.streams]
        self.rest = only_dims(layout, rest)

    def run(self, b: State) -> _Found:
        """A round from each start, and then rounds from where that led higher."""
        return self._rounds([self._from_anchors(b), self._from_permutations(b)])

    def refine(self, b: State) -> _Found:
        """Rounds from where B is."""
        return self._rounds([self._begin(b)])

    def _rounds(self, starts: list[_Found]) -> _Found:
        stop: Stop = "max-sweeps"
        try:
            for found in starts:
                self._round(found)
            found = max(starts, key=lambda each: each.objective)
            while len(found.course) < self.max_rounds:
                if found.rests:
                    stop = "converged"
                    break
                self._round(found)
        except StopMatching as stopped:
            stop = stopped.stop
        found = max(starts, key=lambda each: each.objective)
        found.course.append(found.objective)
        return replace(found, stop=stop)

    def _from_anchors(self, b: State) -> _Found:
        """Streams rotated by what never moves."""
        found = self._begin(b)
        for dim in self.streams:
            self._step(found, self._procrustes(found.state, dim, anchors=True), always=True)
        return found

    def _from_permutations(self, b: State) -> _Found:
        """What permutations alone reach."""
        found = self._begin(b)
        plain = self.layout.without_rotations().without_scales()
        self._step(found, self._permuted(found, plain, start="anchored"))
        return found

    def _begin(self, b: State) -> _Found:
        inner = {key: dot(self.a[key], b[key]) for key in self.keys}
        lengths = sum(dot(state[key], state[key]) for state in (self.a, b) for key in self.keys)
        return _Found(Permutation.identity(self.layout), b, inner, lengths)

    def _round(self, found: _Found) -> None:
        """Every step once."""
        found.course.append(found.objective)
        for step, element in enumerate(self._elements(found)):
            self._step(found, element())
            self.on_step(len(found.course) - 1, step + 1, self._steps, found.objective)

    @property
    def _steps(self) -> int:
        return len(self.heads) + len(self.streams) + bool(self.rest.moving())

    def _elements(self, found: _Found) -> Iterable[Callable[[], Permutation]]:
        """The steps of a round, each made when its turn comes."""
        for root in self.heads:
            yield partial(self._matched_heads, found, root)
        if self.rest.moving():
            yield partial(self._permuted, found, self.rest, start="identity")
        for dim in self.streams:
            yield partial(self._turned_stream, found, dim)

    def _matched_heads(self, found: _Found, root: str) -> Permutation:
        return match_heads(self.layout, self.a, found.state, root)

    def _turned_stream(self, found: _Found, dim: str) -> Permutation:
        return self._procrustes(found.state, dim)

    def _permuted(self, found: _Found, layout: Layout, start: str) -> Permutation:
        options = WeightsOptions("anchored" if start == "anchored" else "identity", max_sweeps=1000)
        result = match_by_weights(Problem(layout, self.a, found.state), self.resources, options)
        found.solves += result.solves
        return result.permutation

    def _procrustes(self, b: State, dim: str, *, anchors: bool = False) -> Permutation:
        """The rotation of a stream that is best with all else held; `anchors`: for tensors alone in which no other dim
        moves."""
        total = torch.zeros_like(_eye(self.layout, dim))
        for key in self.layout.users[dim]:
            bound = self.layout.tensors[key]
            if key not in self.keys or self.layout.norms.get(key) == key:
                continue
            for piece, at in _sides(bound, dim):
                if not anchors or all(side.dim in (None, dim) for side in piece.sides):
                    one, two = (piece_view(state[key].contiguous(), piece) for state in (self.a, b))
                    products(one, two, piece, at, bound.place, total)
        return Permutation({}, {}, {dim: nearest_map(total, self.layout.dims[dim].rotated)})

    def _step(self, found: _Found, element: Permutation, *, always: bool = False) -> None:
        """Take a step unless it lowers the objective, which rounding alone makes it do; `always`: a start."""
        dims = {*element, *element.maps}
        users = (key for dim in dims for key in self.layout.users.get(dim, ()))
        touched = dict.fromkeys(key for key in users if key in found.state)  # but those of A alone
        moved = permuted(element, self.layout, found.state)
        changed = {key: moved[key] for key in touched}
        inner = {**found.inner, **{key: dot(self.a[key], changed[key]) for key in touched if key in found.inner}}
        if sum(inner.values()) > found.objective or always:
            found.element = found.element.compose(element, self.layout)
            found.state, found.inner = {**found.state, **changed}, inner


def only_dims(layout: Layout, dims: Iterable[str]) -> Layout:
    """The layout in which some dims alone may move, with their signs."""
    kept = set(dims)

    def piece_of(piece: Piece) -> Piece:
        sides = (side if side.dim in kept else replace(side, dim=None, owner=None) for side in piece.sides)
        return replace(piece, sides=tuple(sides))

    tensors = {
        key: replace(bound, pieces=tuple(map(piece_of, bound.pieces)),
                     index_dim=bound.index_dim if bound.index_dim in kept else None)
        for key, bound in layout.tensors.items()
    }  # fmt: skip
    moving = {name: replace(dim, scales=False) for name, dim in layout.dims.items() if name in kept}
    return replace(layout, dims=moving, tensors=tensors, users={dim: layout.users[dim] for dim in moving}, norms={})


def _balancing(layout: Layout, state: State, dim: str, eye: Tensor) -> Tensor:
    """The map after which what writes to the units of a head and what reads them have one Gram matrix.

    M = S^½ with S·W·S = R for the Gram matrices W of what writes and R of what reads; S is their geometric mean.
    Where either is singular, as where keys come from fewer inputs than the head has dims, the head stays as it is, so
    that maps which stretch it are not found. Of what a rotary embedding turns each pair becomes as long
    in both.
    """
    grams = {1: torch.zeros_like(eye), -1: torch.zeros_like(eye)}
    for key in layout.users[dim]:
        bound = layout.tensors[key]
        for piece, at in _sides(bound, dim) if bound.section == "tensors" else ():
            view = piece_view(state[key].contiguous(), piece)
            products(view, view, piece, at, bound.place, grams[piece.sides[at].power])
    kind = layout.dims[dim].rotated
    if kind in PAIRS:
        write, read = (in_pairs(grams[power], kind).real for power in (1, -1))
        scale = torch.where((write > 0) & (read > 0), read / write, 1) ** 0.25
        return of_pairs(scale.to(torch.complex128), kind)
    values = torch.linalg.eigvalsh(grams[1]), torch.linalg.eigvalsh(grams[-1])
    regular = torch.stack([v[..., 0] > SINGULAR * v[..., -1] for v in values]).all(0)[..., None, None]
    write, read = (torch.where(regular, gram, eye) for gram in (grams[1], grams[-1]))
    root = _power(write, 0.5)
    back = torch.linalg.inv(root)
    mean = back @ _power(root @ read @ root, 0.5) @ back
    return torch.where(regular, _power(mean, 0.5), eye)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of symmetric positive definite matrices."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    found: Tensor = vectors * values.clamp(min=0)[..., None, :] ** exponent @ vectors.mT
    return found


def _sides(bound: BoundTensor, dim: str) -> Iterable[tuple[Piece, int]]:
    return ((piece, at) for piece in bound.pieces for at, side in enumerate(piece.sides) if side.dim == dim)


def _eye(layout: Layout, dim: str) -> Tensor:
    n = layout.dims[dim].size
    return torch.eye(n, dtype=torch.float64).expand(*layout.owner_sizes(dim), n, n).contiguous()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _applied(layout: Layout, element: Permutation, state: State) -> dict[str, Tensor]:
    return dict(permuted(element, layout, state))
