"""From headers to a layout: which spec, bound to what, and whether two checkpoints are of one architecture.

Everything here works on names and shapes, so that it refuses before a tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from rebasin_cli.checkpoints import Checkpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.pipeline.listener import Listener
from rebasin_cli.report.document import ArchitectureRecord
from rebasin_cli.spec import BoundTensor, Layout, bind, detect, find_spec

_LISTED = 5  # keys or tensors that a message names before it counts


@dataclass(frozen=True, slots=True)
class SpecChoice:
    """What the user said about the spec: `--arch`, `--set`, `--freeze`, `--ignore`."""

    arch: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @staticmethod
    def of_record(record: ArchitectureRecord) -> SpecChoice:
        """The choice that an earlier command made."""
        options = record.options
        return SpecChoice(record.file or record.name, options.set, options.freeze, options.ignore)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two checkpoints of one architecture. `layout` is bound to B's keys, `layout_a` to A's."""

    a: Checkpoint
    b: Checkpoint
    layout: Layout
    layout_a: Layout


def shapes_of(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Key → shape, from the headers."""
    return {key: info.shape for key, info in checkpoint.infos.items()}


def bind_one(checkpoint: Checkpoint, choice: SpecChoice, *, config: Mapping[str, object] | None = None) -> Layout:
    """Bind the chosen spec, or find the one that fits.

    Raises:
        ContentError: no spec fits, or several do, or the chosen one does not.
    """
    shapes = shapes_of(checkpoint)
    config = config if config is not None else checkpoint.config
    if choice.arch is None:
        return detect(shapes, config=config, overrides=choice.sizes, freeze=choice.freeze, ignore=choice.ignore)
    return bind(
        find_spec(choice.arch), shapes,
        config=config, overrides=choice.sizes, freeze=choice.freeze, ignore=choice.ignore,
    )  # fmt: skip


def bind_pair(a: Checkpoint, b: Checkpoint, choice: SpecChoice) -> Pair:
    """Bind one spec to both and see that they agree; tensors that the spec ignores may differ.

    Raises:
        ContentError: a key on one side only, other shapes or head counts, or no spec for them.
    """
    try:
        layout = bind_one(b, choice, config=b.config or a.config)
    except ContentError:
        # A key that is missing on one side says more than the specs that nearly fit what is left.
        _refuse_missing(a, b, {})
        raise
    if shapes_of(a) == shapes_of(b) and (a.config is None or b.config is None or a.config == b.config):
        return Pair(a, b, layout, layout)
    bound: Mapping[str, BoundTensor] = layout.tensors
    named = SpecChoice(
        layout.spec.name if layout.spec.shipped else str(layout.spec.path), choice.sizes, choice.freeze, choice.ignore
    )
    try:
        layout_a = bind_one(a, named, config=a.config or b.config)
    except ContentError:
        _refuse_missing(a, b, bound)
        _refuse_other_shapes(a, b, layout)
        raise
    _refuse_missing(a, b, {**layout_a.tensors, **bound})
    _refuse_other_shapes(a, b, layout)
    _refuse_other_sizes(layout_a, layout)
    return Pair(a, b, layout, layout_a)


def tell_layout(layout: Layout, listener: Listener) -> None:
    """Say what a reader of the result must know about the spec and what it leaves in place."""
    spec = layout.spec
    if not spec.shipped:
        listener.warn(
            f"{spec.path.name} is not a shipped spec: nothing has proved that it keeps the function; "
            f"`rebasin arch prove {spec.path}` does"
        )
    for note in layout.notes:
        listener.warn(note)
    reasons: dict[str, list[str]] = {}
    for name, dim in layout.dims.items():
        if dim.fixed is not None and not dim.fixed.startswith("not known"):  # those are in the notes
            reasons.setdefault(dim.fixed, []).append(name)
    for reason, names in reasons.items():
        listener.detail(f"at identity: {_listed(names, 'dim')}: {reason}")


def dims_on_axis(bound: BoundTensor, shape: tuple[int, ...], axis: int) -> tuple[str, ...]:
    """Names of the dims that stand on one axis of a tensor, read off the strides of its pieces."""
    low = prod(shape[axis + 1 :])
    high = low * shape[axis]
    names = [
        side.dim for piece in bound.pieces for side in piece.sides if side.dim is not None and low <= side.stride < high
    ]
    return tuple(dict.fromkeys(names))


def _refuse_missing(a: Checkpoint, b: Checkpoint, bound: Mapping[str, BoundTensor]) -> None:
    def wanted(key: str) -> bool:
        return key not in bound or bound[key].section != "ignored"

    only_a = [key for key in a if key not in b and wanted(key)]
    only_b = [key for key in b if key not in a and wanted(key)]
    if not only_a and not only_b:
        return
    parts = []
    if only_a:
        parts.append(f"{_listed(only_a, 'tensor')} in A and not in B")
    if only_b:
        parts.append(f"{_listed(only_b, 'tensor')} in B and not in A")
    prefix = _other_prefix(a, b)
    raise ContentError(
        "A and B do not have the same tensors: " + "; ".join(parts),
        where=f"A is {a.path}, B is {b.path}",
        remedy=f"the keys of {prefix[0]} carry `{prefix[1]}` in front: save both alike"
        if prefix
        else "align networks of one architecture, or leave tensors that do not matter alone with --ignore PATTERN",
    )


def _other_prefix(a: Checkpoint, b: Checkpoint) -> tuple[str, str] | None:
    """Whether one side's keys are the other's behind a wrapper."""
    for name, long, short in (("A", a, b), ("B", b, a)):
        first = next(iter(short))
        for key in long:
            prefix = key.removesuffix(first)
            if key.endswith("." + first) and {prefix + k for k in short} == set(long):
                return name, prefix
    return None


def _refuse_other_shapes(a: Checkpoint, b: Checkpoint, layout: Layout) -> None:
    differing = [
        key
        for key, bound in layout.tensors.items()
        if key in a and bound.section != "ignored" and a.infos[key].shape != b.infos[key].shape
    ]
    if not differing:
        return
    key = differing[0]
    bound, one, two = layout.tensors[key], a.infos[key].shape, b.infos[key].shape
    where = layout.spec.at(bound.line)
    more = f" ({len(differing) - 1} more tensors differ)" if len(differing) > 1 else ""
    if len(one) != len(two):
        what = f"{key}: shape {list(one)} in A and {list(two)} in B{more}"
    else:
        axis = next(i for i, (x, y) in enumerate(zip(one, two, strict=True)) if x != y)
        what = f"{key}: axis {axis} has {one[axis]} units in A and {two[axis]} in B{more}"
        dims = dims_on_axis(bound, two, axis)
        where += f", dim {', '.join(dims)}" if dims else ""
    raise ContentError(
        what,
        where=where,
        remedy="both checkpoints must have the same width; compare them with `rebasin inspect`",
    )


def _refuse_other_sizes(one: Layout, two: Layout) -> None:
    for name, dim in two.dims.items():
        other = one.dims.get(name)
        if other is None or other.size != dim.size:
            raise ContentError(
                f"dim {name} has {other.size if other else 'no'} units in A and {dim.size} in B",
                where=f"{two.spec.path.name}, from the config.json of either",
                remedy="both networks must have the same heads and groups; compare them with `rebasin inspect`",
            )


def _listed(names: list[str], noun: str) -> str:
    """`3 tensors (a, b, c)`."""
    shown = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({shown})"
