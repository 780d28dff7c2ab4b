"""A spec bound to one checkpoint: dims with sizes, and every tensor cut into pieces.

A *piece* is a strided box of a (contiguous) tensor whose sides are single dims or anonymous. Code that
moves or matches tensors sees pieces only, never the language.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import lgamma, log, log10, prod
from typing import TYPE_CHECKING, Literal

from rebasin_cli.spec.binding.equations import Leaf, Plus, Times
from rebasin_cli.spec.language.permutation_spec import PermutationSpec, Section

if TYPE_CHECKING:
    from rebasin_cli.spec.binding.equations import Plus


MapKind = Literal["", "invertible", "halves", "neighbours", "orthogonal", "keeps ones"]
"""What a dim may be mapped by: nothing; any invertible map (what reads is mapped by its inverse transposed); of these a
rotation and a scale of each pair that a rotary embedding turns, which are dims i and i + n/2, or neighbours; any
orthogonal one, as for a stream under RMSNorm; one that keeps the vector of ones, too, as for one under LayerNorm."""

STREAMS: tuple[MapKind, ...] = ("orthogonal", "keeps ones")
"""The kinds that streams under norms have; the others act inside heads."""

UNSIZED = "not known: "
"""How the reason of a dim begins that stays because nothing tells its size; the names of sizes that would follow."""


@dataclass(frozen=True, slots=True)
class Dim:
    """A named set of units that move together.

    Attributes:
        size: number of units; for a dim within an owner, the number for each unit of the owner.
        owner: the dim whose every unit has a permutation of this dim of its own.
        fixed: None if it may move, otherwise why it stays at identity.
        signs: whether each of its units may also have its sign turned; scales: whether it may be scaled.
        rotated: what linear maps of all its units there may be; signs and scales are among these, and are not found
            besides.
    """

    name: str
    size: int
    owner: str | None = None
    fixed: str | None = None
    signs: bool = False
    scales: bool = False
    rotated: MapKind = ""

    @property
    def unsized(self) -> bool:
        """Whether it stays because nothing tells its size."""
        return (self.fixed or "").startswith(UNSIZED)


INDEX_SIDE = -1
"""`Side.owner` of a dim whose owner acts on the tensor's key."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a piece: `size` steps of `stride` elements.

    Attributes:
        dim: the dim it carries, None for a side that never moves.
        owner: position in the piece of the side that carries the dim's owner (`INDEX_SIDE`: the key does).
        still: whether what stands here keeps its sign when that of its unit is turned.
        power: by which power of its unit's scale what stands here is multiplied: 1, −1, or 0 for none.
    """

    dim: str | None
    size: int
    stride: int
    owner: int | None = None
    still: bool = False
    power: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """The elements at `offset + Σ index·stride` of a tensor, row-major."""

    offset: int
    sides: tuple[Side, ...]

    @property
    def elements(self) -> int:
        """The number of elements."""
        return prod(side.size for side in self.sides)


@dataclass(frozen=True, slots=True)
class BoundTensor:
    """One tensor of the checkpoint under a spec.

    Attributes:
        section: `tensors` are matched and moved, `buffers` only moved; `ignored` are neither matched nor mixed, and
            move only where the spec says how (those that the user ignores, or that the other network lacks).
        pieces: disjoint boxes that together are the whole tensor; none if the spec does not describe it.
        pattern: as the spec writes it; line: where; axes: the same with the dims of this checkpoint.
        name: the spec's own key for it, the same for every spelling in the spec.
        spoken: whether a line of `tensors` or `buffers` describes it; optional: whether a network may lack it.
        at: the values of its line's variables; part: the optional part that it belongs to, if it does to one.
        index_dim: the dim that permutes this tensor's *key* among `siblings` (keys by place), or None.
    """

    key: str
    section: Section
    pieces: tuple[Piece, ...]
    pattern: str
    line: int
    index_dim: str | None = None
    place: int = 0
    siblings: tuple[str, ...] = ()
    name: str = ""
    spoken: bool = True
    optional: bool = False
    at: frozenset[tuple[str, int | str]] = frozenset()
    part: str = ""
    axes: tuple[Plus, ...] = ()

    def reading(self) -> str:
        """The pattern with the dims of this checkpoint: `(kv.3 _:head_dim) embed`."""
        return " ".join(map(str, self.axes))

    def dims(self) -> tuple[str, ...]:
        """The dims in it, each once, in order."""
        found = [self.index_dim] if self.index_dim else []
        found += [side.dim for piece in self.pieces for side in piece.sides if side.dim]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Layout:
    """A spec bound to the shapes of one checkpoint.

    Attributes:
        prefix: the wrapper in front of the keys (`module.`), which every key on disk keeps.
        dims: every dim instance, in order of first appearance, owners before what is within them.
        tensors: every key of the checkpoint.
        sizes: the named sizes that were found, and where from.
        notes: messages for the user, such as heads of unknown size and unmatched tensors.
        norms: gains, biases and readers of the norms on rotated streams → key of the gains.
    """

    spec: PermutationSpec
    prefix: str
    dims: Mapping[str, Dim]
    tensors: Mapping[str, BoundTensor]
    sizes: Mapping[str, int]
    notes: tuple[str, ...] = ()
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norms: Mapping[str, str] = field(default_factory=dict)

    def moving(self) -> tuple[str, ...]:
        """Dims with something to permute: not fixed and of more than one unit."""
        return tuple(name for name, dim in self.dims.items() if dim.fixed is None and dim.size > 1)

    def signed(self) -> tuple[str, ...]:
        """Dims that may move and whose units may have their signs turned by themselves."""
        return tuple(name for name in self.moving() if self.dims[name].signs and not self.dims[name].rotated)

    def scaled(self) -> tuple[str, ...]:
        """Dims that may move and whose units may be scaled by themselves."""
        return tuple(name for name in self.moving() if self.dims[name].scales and not self.dims[name].rotated)

    def rotated(self) -> tuple[str, ...]:
        """Dims on whose units linear maps may act; those that a rotary embedding turns do not move besides."""
        return tuple(name for name, dim in self.dims.items() if dim.rotated and dim.size > 1)

    def gains(self) -> dict[str, str]:
        """The norms on rotated streams: the spec's name of the gains → their key here."""
        return {self.tensors[key].name: key for key in self.norms.values()}

    def needing_relu(self) -> list[str]:
        """Families of scaled dims whose scales keep the function only before ReLU."""
        needing = {rule.name.parts[0] for rule in self.spec.scales if rule.needs}
        return list(dict.fromkeys(family for dim in self.scaled() if (family := dim.split(".")[0]) in needing))

    def without_signs(self) -> Layout:
        """The same layout in which no unit may have its sign turned."""
        if not self.signed():
            return self
        return replace(self, dims={name: replace(dim, signs=False) for name, dim in self.dims.items()})

    def without_scales(self) -> Layout:
        """The same layout in which no unit may be scaled."""
        if not self.scaled():
            return self
        return replace(self, dims={name: replace(dim, scales=False) for name, dim in self.dims.items()})

    def without_rotations(self, dims: Collection[str] | None = None) -> Layout:
        """The same layout in which no map may act on some dims, or on any."""
        still = set(self.rotated() if dims is None else dims)
        changed = {name: replace(dim, rotated="") if name in still else dim for name, dim in self.dims.items()}
        kept = {key: gain for key, gain in self.norms.items() if not still & set(self.tensors[gain].dims())}
        return replace(self, dims=changed, norms=kept)

    def children(self, name: str) -> tuple[str, ...]:
        """The dims within `name`."""
        return tuple(child for child, dim in self.dims.items() if dim.owner == name)

    def root(self, name: str) -> str:
        """The outermost owner of `name`."""
        owner = self.dims[name].owner
        return name if owner is None else self.root(owner)

    def owner_sizes(self, name: str) -> tuple[int, ...]:
        """Sizes of the owners of `name`, outermost first: the leading shape of its permutation."""
        owner = self.dims[name].owner
        return () if owner is None else (*self.owner_sizes(owner), self.dims[owner].size)

    def log10_symmetries(self) -> float:
        """The decimal logarithm of the number of permutations (Table 1 of Git Re-Basin, arXiv:2209.04836).

        A dim of n units counts n!, once for each unit of its owners; a residual stream is one dim, however many
        tensors it runs through.
        """
        return sum(prod(self.owner_sizes(name)) * lgamma(self.dims[name].size + 1) / log(10) for name in self.moving())

    def log10_signs(self) -> float:
        """The decimal logarithm of the number of ways to turn signs: 2 for each unit that has one."""
        signed = (name for name in self.moving() if self.dims[name].signs)
        return sum(prod(self.owner_sizes(name)) * self.dims[name].size * log10(2) for name in signed)


_Strip = tuple[int, tuple[Side, ...]]
_SizeOf = Callable[[Leaf], int | None]


@dataclass(frozen=True, slots=True)
class _Cut:
    """How an axis is cut; see `cut`."""

    size_of: _SizeOf
    moves: Callable[[str], bool]
    power: Callable[[Leaf], int] | None


def cut(
    axes: tuple[Plus, ...],
    shape: tuple[int, ...],
    size_of: _SizeOf,
    moves: Callable[[str], bool],
    signed: Collection[str] = (),
    powers: Callable[[int, Leaf], int] | None = None,
) -> list[Piece]:
    """Cut a tensor into pieces.

    Args:
        axes: one sum for each axis; shape: the tensor's.
        size_of: the size of a leaf, None if unknown (its whole axis is then one anonymous side).
        moves: whether a dim takes part; the others become anonymous.
        signed: dims with signs; of others nothing is said of where these act.
        powers: by which power of its unit's scale what stands on an axis is multiplied; none if absent.
    """
    strips: list[list[_Strip]] = []
    stride = 1
    for at, (axis, length) in reversed(list(enumerate(zip(axes, shape, strict=True)))):
        found = _axis_strips(axis, length, _Cut(size_of, moves, partial(powers, at) if powers else None))
        strips.append([_scaled(strip, stride) for strip in found])
        stride *= length
    strips.reverse()
    pieces = []
    for choice in product(*strips):
        offset = sum(start for start, _ in choice)
        sides = _merge([side for _, sides in choice for side in sides])
        sides = tuple(replace(side, still=False) if side.still and side.dim not in signed else side for side in sides)
        pieces.append(Piece(offset, sides))
    return pieces


def _axis_strips(axis: Plus, length: int, how: _Cut) -> list[_Strip]:
    found = _strips(axis, how)
    if found is None:
        return [(0, (Side(None, length, 1),))]
    strips = found[0]
    if all(side.dim is None for _, sides in strips for side in sides):
        return [(0, (Side(None, length, 1),))]
    return strips


def _strips(axis: Plus, how: _Cut) -> tuple[list[_Strip], int] | None:
    """The strips of a sum, offsets and strides counted in its own elements, and its length."""
    strips: list[_Strip] = []
    start = 0
    for segment in axis.segments:
        if isinstance(segment, Leaf):
            size = how.size_of(segment)
            if size is None:
                return None
            dim = segment.dim if segment.dim is not None and how.moves(segment.dim) else None
            if size and dim is None:
                strips.append((start, (Side(None, size, 1),)))
            elif size:
                power = how.power(segment) if how.power else 0
                strips.append((start, (Side(dim, size, 1, still=segment.still, power=power),)))
            start += size
            continue
        inner = _product(segment, how)
        if inner is None:
            return None
        strips += [(start + offset, sides) for offset, sides in inner[0]]
        start += inner[1]
    return strips, start


def _product(times: Times, how: _Cut) -> tuple[list[_Strip], int] | None:
    factors: list[list[_Strip]] = []
    stride = 1
    for factor in reversed(times.factors):
        found = _strips(factor, how)
        if found is None:
            return None
        factors.append([_scaled(strip, stride) for strip in found[0]])
        stride *= found[1]
    factors.reverse()
    combined = [
        (sum(offset for offset, _ in choice), tuple(side for _, sides in choice for side in sides))
        for choice in product(*factors)
    ]
    return combined, stride


def _scaled(strip: _Strip, stride: int) -> _Strip:
    offset, sides = strip
    return offset * stride, tuple(replace(side, stride=side.stride * stride) for side in sides)


def _merge(sides: list[Side]) -> tuple[Side, ...]:
    """Drop anonymous sides of one step, and join anonymous neighbours that are contiguous."""
    merged: list[Side] = []
    for side in sides:
        if side.dim is None and side.size == 1:
            continue
        before = merged[-1] if merged else None
        if before and side.dim is None and before.dim is None and before.stride == side.stride * side.size:
            merged[-1] = Side(None, before.size * side.size, side.stride)
        else:
            merged.append(side)
    return tuple(merged)
