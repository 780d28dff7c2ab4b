"""Dims within dims: which dim owns which, and which side of a piece carries the owner; dims that stay as they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from rebasin_cli.errors import UsageError, did_you_mean
from rebasin_cli.spec.binding.claims import Shape
from rebasin_cli.spec.binding.equations import Plus, Sizes
from rebasin_cli.spec.binding.layout import INDEX_SIDE, UNSIZED, Dim, MapKind, Piece, Side
from rebasin_cli.spec.binding.resolve import ResolutionError, Resolver
from rebasin_cli.spec.language import Bindings
from rebasin_cli.spec.language.pattern import dim_text
from rebasin_cli.spec.language.permutation_spec import Fault, PermutationSpec, Rule


def find_owners(resolver: Resolver, rules: Mapping[str, tuple[Rule, Bindings]]) -> dict[str, str]:
    """The owner of every dim that has one.

    Raises:
        ResolutionError: an owner is absent, or dims are within one another in a ring.
    """
    owners: dict[str, str] = {}
    for name, (rule, bindings) in rules.items():
        if rule.owner is None:
            continue
        found = resolver.instances(rule.owner, bindings, rule.line)
        if not found:
            raise ResolutionError(Fault(f"dim `{name}` is within `{rule.owner}`, which is absent", rule.line))
        owners[name] = resolver.name_of(found[0])
    for name, (rule, _) in rules.items():
        chain = [name]
        while (owner := owners.get(chain[-1])) is not None:
            if owner in chain:
                ring = " within ".join([*chain, owner])
                raise ResolutionError(Fault(f"dims are within one another: {ring}", rule.line))
            chain.append(owner)
    return owners


def build_dims(
    names: Iterable[str],
    owners: Mapping[str, str],
    sizes: Sizes,
    reasons: Mapping[str, str],
    signed: Collection[str] = (),
    scaled: Collection[str] = (),
    rotated: Mapping[str, MapKind] | None = None,
) -> dict[str, Dim]:
    """The dims, owners before what is within them.

    An owner of one unit has nothing to choose, so what is within it is a dim like any other (or is within the
    owner's own owner).
    """
    dims: dict[str, Dim] = {}

    def size(name: str) -> int:
        known = sizes.known.get(f"dim:{name}")
        return known.value if known else 0

    def add(name: str) -> None:
        if name in dims:
            return
        owner = owners.get(name)
        if owner is not None:
            add(owner)
        while owner is not None and size(owner) == 1:
            owner = owners.get(owner)
        free = name not in reasons
        kind = (rotated or {}).get(name, "")
        signs, scales = (free and name in found for found in (signed, scaled))
        dims[name] = Dim(name, size(name), owner, reasons.get(name), signs, scales, kind)

    for name in names:
        add(name)
    return dims


def point_at_owners(
    piece: Piece, dims: Mapping[str, Dim], shape: Shape, index_dim: str | None, where: Fault
) -> tuple[Piece, list[Fault]]:
    """Point every side whose dim is within an owner at the side that carries the owner.

    On the same axis if the owner is there, else on the only other side that carries it, else in the key.

    Args:
        index_dim: the dim that permutes the tensor's key, if one does.
        where: tensor and line, for a fault.
    """
    faults: list[Fault] = []
    sides: list[Side] = []
    for position, side in enumerate(piece.sides):
        owner = dims[side.dim].owner if side.dim else None
        if owner is None:
            sides.append(side)
            continue
        found = _owner_sides(piece, position, owner, shape)
        if not found and index_dim == owner:
            found = [INDEX_SIDE]
        if len(found) != 1:
            faults.append(
                Fault(
                    f"{where.what}: dim {side.dim} is within {owner}, which "
                    + (f"stands on {len(found)} other axes" if found else "does not stand in this tensor"),
                    where.line,
                    f"put `{owner.split('.')[0]}` beside it, on the same axis: `(owner dim)`",
                )
            )
        sides.append(replace(side, owner=found[0] if found else None))
    return Piece(piece.offset, tuple(sides)), faults


def _owner_sides(piece: Piece, position: int, owner: str, shape: Shape) -> list[int]:
    """The sides that may be meant: the nearest on the same axis (outwards first), else all on other axes."""
    carrying = [i for i, side in enumerate(piece.sides) if side.dim == owner]
    axis = _axis_of(piece.sides[position], shape)
    here = [i for i in carrying if _axis_of(piece.sides[i], shape) == axis]
    outwards = [i for i in here if i < position]
    if here:
        return [outwards[-1] if outwards else here[0]]
    return carrying


def _axis_of(side: Side, shape: Shape) -> int:
    """The axis on which a side of more than one unit lies, told by its stride."""
    stride = 1
    for axis in reversed(range(len(shape))):
        stride *= shape[axis]
        if side.stride < stride:
            return axis
    raise AssertionError("a side lies outside its tensor")


def unknown_dims(
    spec: PermutationSpec, axes: Iterable[Plus], sizes: Sizes, owners: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Dims of unknown size, with all dims that share an axis with them or are within them.

    Returns:
        The reason for each dim, and notes for the user.
    """
    reasons: dict[str, str] = {}
    missing: dict[str, None] = {}
    for axis in axes:
        if sizes.total(axis) is not None:
            continue
        names = sorted({_plain_name(str(leaf.size)) for leaf in axis.leaves() if sizes.of(leaf) is None})
        for leaf in axis.leaves():
            if leaf.dim:
                reasons[leaf.dim] = f"{UNSIZED}{', '.join(names)}"
                missing |= dict.fromkeys(names)
    changed = True
    while changed:
        changed = False
        for name, owner in owners.items():
            if owner in reasons and name not in reasons:
                reasons[name] = reasons[owner]
                changed = True
    if not reasons:
        return {}, ()
    families = sorted({name.split(".")[0] for name in reasons})
    wanted = list(dict.fromkeys(str(rule.name.parts[0]) for rule in spec.sizes)) or sorted(missing)
    note = (
        f"dims {', '.join(families)} stay at identity: the shapes do not tell {', '.join(sorted(missing))}; "
        f"give config.json beside the checkpoint, or {' or '.join(f'--set {w}=N' for w in wanted[:3])}"
    )
    return reasons, (note,)


def fixed_dims(rules: Mapping[str, tuple[Rule, Bindings]]) -> dict[str, str]:
    """Dims that the spec keeps at identity, and why it says so."""
    return {name: rule.fixed for name, (rule, _) in rules.items() if rule.fixed}


def frozen_dims(
    spec: PermutationSpec, resolver: Resolver, names: Sequence[str], patterns: Sequence[str]
) -> dict[str, str]:
    """Dims that the user keeps at identity: by name, also one that is another's by `same as`, by family or pattern.

    Raises:
        UsageError: a pattern that fits no dim.
    """
    called = {dim_text(i): resolver.name_of(i) for family in resolver.families.values() for i in family}
    called |= {name: name for name in names}
    turned = {rule.name.parts[0] for rule in spec.rotations if rule.pairs}  # a dim where rotations are asked for alone
    reasons: dict[str, str] = {}
    for pattern in patterns:
        frozen = [dim for word, dim in called.items() if fnmatchcase(word, pattern) or word.split(".")[0] == pattern]
        if not frozen and pattern.split(".")[0] not in turned:
            near = [name for name in names if name.split(".")[0] == pattern.split(".")[0]]
            listed = near or list(dict.fromkeys(name.split(".")[0] for name in names))
            raise UsageError(
                f"--freeze {pattern}: the spec `{spec.name}` has no such dim here",
                remedy=did_you_mean(pattern, sorted({*called, *(name.split(".")[0] for name in names)}))
                or f"there are {', '.join(listed[:8])}",
            )
        reasons |= dict.fromkeys(frozen, "frozen by --freeze")
    return reasons


def _plain_name(symbol: str) -> str:
    kind, _, name = symbol.partition(":")
    return "a size" if kind == "_" else name.split(".")[0] if kind == "dim" else name
