"""Two checkpoints side by side: which tensor is which, what one of them lacks, and whether they agree."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod

from rebasin_cli.checkpoints.checkpoint import Checkpoint, RenamedCheckpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.safe_text import listed
from rebasin_cli.spec import BoundTensor, Layout
from rebasin_cli.spec.binding.left_over import options_for, patterns_for


@dataclass(frozen=True, slots=True)
class Side:
    """A checkpoint, what it is called in messages, and its own layout."""

    label: str
    checkpoint: Checkpoint
    layout: Layout

    def names(self) -> dict[str, BoundTensor]:
        """Its tensors by the spec's own names for them."""
        return {bound.name or key: bound for key, bound in self.layout.tensors.items()}


@dataclass(frozen=True, slots=True)
class Counterparts:
    """Two checkpoints, each bound to one spec; a tensor's counterpart has the same name to the spec."""

    first: Side
    second: Side

    def view(self) -> Checkpoint:
        """The second one's tensors under the first one's names, without those that the first lacks or has in another
        shape; itself where that changes nothing."""
        mine, theirs = self.first.names(), self.second.names()
        names = {
            bound.key: theirs[name].key
            for name, bound in mine.items()
            if name in theirs and self._shape(self.first, bound) == self._shape(self.second, theirs[name])
        }
        if len(names) == len(theirs) and all(new == old for new, old in names.items()):
            return self.second.checkpoint
        return RenamedCheckpoint(self.second.checkpoint, names)

    def only_first(self) -> Iterator[str]:
        """The first one's keys that are matched unless they have no counterpart, and have none."""
        theirs = self.second.names()
        for name, bound in self.first.names().items():
            if bound.section != "ignored" and (name not in theirs or theirs[name].section == "ignored"):
                yield bound.key

    def only_second(self) -> Iterator[str]:
        """The second one's keys of which the spec speaks, and of which the first has none."""
        mine = self.first.names()
        for name, bound in self.second.names().items():
            if bound.spoken and name not in mine:
                yield bound.key

    def still(self) -> dict[str, str]:
        """Dims of the first that stay at identity since the second has none or keeps it there, and why."""
        found = {}
        for name, dim in self.first.layout.dims.items():
            other = self.second.layout.dims.get(name)
            if dim.fixed is None and (other is None or other.fixed is not None):
                found[name] = f"it stands in {self.first.label} alone" if other is None else str(other.fixed)
        return found

    def notes(self) -> Iterator[str]:
        """What a reader of the result must know of tensors on one side only."""
        mine, theirs = self.first.names(), self.second.names()
        alone = [bound.key for name, bound in mine.items() if bound.spoken and name not in theirs]
        if alone:
            yield f"in {self.first.label} and not in {self.second.label}, so not matched: {listed(alone, 'tensor')}"
        moved = [key for key in self.only_second() if self.second.layout.tensors[key].section != "ignored"]
        if moved:
            yield (
                f"in {self.second.label} and not in {self.first.label}: {listed(moved, 'tensor')}; "
                f"not matched, and moved with {self.second.label}'s units"
            )

    def check(self) -> None:
        """Refuse networks that do not agree.

        Raises:
            ContentError: a tensor that no network of the spec lacks is on one side only; other shapes or sizes.
        """
        self._refuse_missing()
        self._refuse_other_shapes()
        self._refuse_other_sizes()

    def _refuse_missing(self) -> None:
        parts: list[str] = []
        options: list[str] = []
        for here, there in ((self.first, self.second), (self.second, self.first)):
            known = there.names()
            needed = [
                bound.key
                for name, bound in here.names().items()
                if name not in known and bound.section != "ignored" and not _may_lack(bound, known.values())
            ]
            if needed:
                parts.append(f"{listed(needed, 'tensor')} in {here.label} and not in {there.label}")
                options += patterns_for(needed, here.checkpoint)
        if parts:
            raise ContentError(
                f"{self.first.label} and {self.second.label} do not have the same tensors: " + "; ".join(parts),
                where=self._where(),
                remedy="align networks of one architecture; to go on without matching them: "
                f"{options_for(tuple(dict.fromkeys(options)))}",
            )

    def _refuse_other_shapes(self) -> None:
        mine = self.first.names()
        differing = [
            (mine[name], bound)
            for name, bound in self.second.names().items()
            if name in mine
            and "ignored" not in (bound.section, mine[name].section)
            and self._shape(self.first, mine[name]) != self._shape(self.second, bound)
        ]
        if not differing:
            return
        one, two = differing[0]
        here, there = self._shape(self.first, one), self._shape(self.second, two)
        where = self.first.layout.spec.at(two.line)
        more = f" ({len(differing) - 1} more tensors differ)" if len(differing) > 1 else ""
        pattern = options_for((_module_pattern(two.key),))
        remedy = f"where only these differ, such as heads of other classes: {pattern} leaves them out of the match"
        labels = (self.first.label, self.second.label)
        if len(here) != len(there):
            what = f"{two.key}: shape {list(here)} in {labels[0]} and {list(there)} in {labels[1]}{more}"
        else:
            axis = next(i for i, (x, y) in enumerate(zip(here, there, strict=True)) if x != y)
            what = (
                f"{two.key}: axis {axis} has {here[axis]} units in {labels[0]} and {there[axis]} in {labels[1]}{more}"
            )
            dims = dims_on_axis(two, there, axis)
            if any(self.second.layout.dims[dim].fixed is None for dim in dims):
                where += f", dim {', '.join(dims)}"
                remedy = "both checkpoints must have the same width; compare them with `rebasin inspect`"
        raise ContentError(what, where=where, remedy=remedy)

    def _refuse_other_sizes(self) -> None:
        one, two = self.first.layout, self.second.layout
        for name, dim in two.dims.items():
            other = one.dims.get(name)
            if other is not None and other.size != dim.size and {None} == {other.fixed, dim.fixed}:
                raise ContentError(
                    f"dim {name} has {other.size} units in {self.first.label} and {dim.size} in {self.second.label}",
                    where=f"{two.spec.path.name}, from the config.json of either",
                    remedy="both networks must have the same heads and groups; compare them with `rebasin inspect`",
                )

    def _where(self) -> str:
        return ", ".join(f"{side.label} is {side.checkpoint.address}" for side in (self.first, self.second))

    @staticmethod
    def _shape(side: Side, bound: BoundTensor) -> tuple[int, ...]:
        return side.checkpoint.infos[bound.key].shape


def _may_lack(bound: BoundTensor, others: Collection[BoundTensor]) -> bool:
    """Whether the network of `others` may be without a tensor: of an optional part that it lacks as a whole, or
    optional by itself, in a layer that it has."""
    if bound.part and all(other.part != bound.part for other in others):
        return True
    return bound.optional and (not bound.at or any(bound.at <= other.at for other in others))


def dims_on_axis(bound: BoundTensor, shape: tuple[int, ...], axis: int) -> tuple[str, ...]:
    """Names of the dims that stand on one axis of a tensor, read off the strides of its pieces."""
    low = prod(shape[axis + 1 :])
    high = low * shape[axis]
    names = [
        side.dim for piece in bound.pieces for side in piece.sides if side.dim is not None and low <= side.stride < high
    ]
    return tuple(dict.fromkeys(names))


def _module_pattern(key: str) -> str:
    """All tensors of the module of `key`: `head.weight` as `head.*`."""
    module = key.rpartition(".")[0]
    return f"{module}.*" if module else key
