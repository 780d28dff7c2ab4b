"""One attempt to bind a spec to a checkpoint's shapes under one prefix: claims, sizes, dims, pieces.

Unmatched tensors (`--ignore`, or no counterpart in the other network) are claimed like all others, so that they move
with their dims. If one has another size than the rest, or does not fit its line, its dims stay at identity:
moving them would leave the tensor behind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rebasin_cli.safe_text import first_names
from rebasin_cli.spec.binding.claims import Claim, Matcher, Shape, claim_tensors, compared_too_often
from rebasin_cli.spec.binding.equations import Equation, Leaf, Plus, Sizes
from rebasin_cli.spec.binding.layout import BoundTensor, Dim, Layout, MapKind, Piece, cut
from rebasin_cli.spec.binding.left_over import MOST_FAULTS, Mismatch, keys_matching, missing_tensors, patterns_for
from rebasin_cli.spec.binding.owners import (
    build_dims,
    find_owners,
    fixed_dims,
    frozen_dims,
    point_at_owners,
    unknown_dims,
)
from rebasin_cli.spec.binding.resolve import ResolutionError, Resolver, dim_instances, too_many_compared
from rebasin_cli.spec.binding.sizing import IndexedTensor, SizeSources, find_indexed
from rebasin_cli.spec.language.permutation_spec import Fault, Line
from rebasin_cli.spec.language.template import skeleton_of, skeletons_by_key

if TYPE_CHECKING:
    from rebasin_cli.spec.binding.bind import Prefix


@dataclass(frozen=True, slots=True)
class Request:
    """The options of a binding: config.json, `--set`, `--freeze`, `--ignore`.

    Attributes:
        apart: keys without a counterpart in the other network; they are not matched, as ignored ones are not.
        still: further dims that stay at identity, and why.
        signs: whether units of dims that the spec gives signs may have them turned; scales: the same of scales;
            rotations: the same of linear maps.
    """

    config: Mapping[str, Any] | None = None
    overrides: Mapping[str, int] | None = None
    freeze: Sequence[str] = ()
    ignore: Sequence[str] = ()
    apart: Collection[str] = ()
    still: Mapping[str, str] = field(default_factory=dict)
    signs: bool = False
    scales: bool = False
    rotations: bool = False


PLAIN = Request()
"""Nothing but the shapes."""

_FIXED_AXIS = Plus((Leaf("_:whole"),))  # without dims

_listed = partial(first_names, most=4, rest=" and {} more")  # tensors that a note names

_Bound = tuple[Mapping[str, Dim], Mapping[str, BoundTensor], Sizes, tuple[str, ...]]
"""What a layout is made of: dims, the tensors that have a line, sizes, notes."""


class Binder:
    """One attempt: a spec, a checkpoint, a prefix, the keys that are not matched (`left`), and scalars that no line
    matches under any prefix (`counters`)."""

    def __init__(
        self,
        matcher: Matcher,
        all_shapes: Mapping[str, Shape],
        left: Collection[str],
        prefix: Prefix,
        request: Request,
        loose: bool,
        counters: Collection[str] = (),
    ) -> None:
        self.matcher, self.spec = matcher, matcher.spec
        self.all_shapes, self.prefix, self.request, self.loose = all_shapes, prefix, request, loose
        self.counters = counters
        keys = [key for key in all_shapes if key not in counters] if counters else list(all_shapes)
        names = prefix.strip_all(keys)
        self.skeletons = skeletons_by_key(names)
        pairs = list(zip(names, keys, strict=True))
        kept = {name: key for name, key in pairs if key not in left} if left else dict(pairs)
        chosen = dict(reversed(pairs)) | kept if left else kept  # of several that are left the first
        self.left = chosen.keys() - kept.keys()
        self.on_disk = {name: key for name, key in pairs if chosen[name] == key} if left else kept
        self.shapes = {name: tuple(all_shapes[key]) for name, key in self.on_disk.items()}
        self.notes: list[str] = []
        self.norms: Mapping[str, str] = {}
        self.ignorable: set[str] = set()  # scalars, and what the spec ignores: a pattern may match them too

    def run(self) -> Layout | Mismatch:
        """The layout, or why the spec does not fit."""
        if too_many := compared_too_often(self.matcher, self.shapes, self.skeletons):
            line, name = too_many
            return self._mismatch([too_many_compared(name, line.line)])
        claims, faults = claim_tensors(self.matcher, self.shapes, self.skeletons, forms=self.loose)
        claimed = not faults
        if sum(bool(self.shapes[fault.key]) for fault in faults) >= MOST_FAULTS:
            return Mismatch(self.spec, str(self.prefix), tuple(faults))
        self.ignorable = {self.on_disk[key] for key, claim in claims.items() if claim.line.section == "ignored"}
        misfits = {p.key for p in faults if p.key in self.left and not p.unlisted}
        fixed_families = self._families(
            ln for ln in self.spec.lines if any(ln.template.match(key) is not None for key in misfits)
        )
        faults = self._without_scalars([fault for fault in faults if fault.key not in self.left])
        bases = {claim.form.base for claim in claims.values() if claim.form}
        present = self.skeletons | {base: skeleton_of(base) for base in bases} if bases else self.skeletons
        faults += self._without_folded_norms(missing_tensors(self.spec, claims, present), claims)
        stored = {key: claim.as_stored(self.shapes) for key, claim in claims.items()}
        expanded: Mapping[str, Claim] = stored
        if self.spec.shorthands:
            from rebasin_cli.spec.binding.shorthands import expand_shorthands  # which few specs have

            expanded, more = expand_shorthands(self.spec.shorthands, stored)
            faults += more
        if faults:
            odd = all(fault.unlisted for fault in faults)
            rest = self._try_to_bind(expanded, fixed_families) if odd else None  # whether all else fits
            found = self._mismatch([*faults, *(rest.faults if isinstance(rest, Mismatch) else ())])
            return replace(found, claimed=claimed)
        self._note_forms(expanded)
        result = self._try_to_bind(expanded, fixed_families)
        if isinstance(result, Mismatch) and self.left & expanded.keys():
            kept = {key: claim for key, claim in expanded.items() if key not in self.left}
            fixed_families |= self._families(claim.line for key, claim in expanded.items() if key in self.left)
            result = self._try_to_bind(kept, fixed_families)
        return replace(result, claimed=True, filled=True) if isinstance(result, Mismatch) else self._layout(*result)

    def _families(self, lines: Iterable[Line]) -> set[str]:
        """The first words of the dims in the patterns of lines, shorthands expanded."""
        found = {name.parts[0] for line in lines if line.pattern for name in line.pattern.dim_names()}
        grown = True
        while grown:
            more = {n.parts[0] for s in self.spec.shorthands if s.name.parts[0] in found for n in s.pattern.dim_names()}
            grown = not more <= found
            found |= more
        return {str(word) for word in found}

    def _without_scalars(self, faults: Sequence[Fault]) -> list[Fault]:
        """The faults without those about scalars that no line matches: counters, in which nothing moves."""
        keys = {p.key for p in faults if self.loose and p.unlisted and not self.shapes[p.key]}
        if keys or self.counters:
            found = {self.on_disk[key] for key in keys}
            scalars = [key for key in self.all_shapes if key in found or key in self.counters]
            self.ignorable |= set(scalars)
            self.notes.append(f"no line speaks of {_listed(scalars)}; scalars stay")
        return [fault for fault in faults if fault.key not in keys]

    def _without_folded_norms(self, missing: Sequence[Fault], claims: Mapping[str, Claim]) -> list[Fault]:
        """The missing tensors without those of BatchNorms that were folded into the layers before them."""
        if not any(claim.form and claim.form.role == "bias" for claim in claims.values()):
            return list(missing)
        used = {_module(claim.line) for claim in claims.values() if claim.form is None}
        norms = {_module(line) for line in self.spec.lines if "running_" in line.template.text} - used
        rest = [fault for fault in missing if fault.absent is None or _module(fault.absent) not in norms]
        if len(rest) < len(missing):
            self.notes.append("there is no BatchNorm, and layers have biases instead: it was folded into them")
        return rest

    def _note_forms(self, claims: Mapping[str, Claim]) -> None:
        mixed = [self.on_disk[k] for k, c in claims.items() if c.form and c.form.role in ("mask", "left", "right")]
        if mixed:
            self.notes.append(
                f"{_listed(mixed)} belong to pruning or spectral norm: they move with their weights, but between two "
                "networks they fit neither; make them permanent in both before you merge"
            )

    def _note_ignored(self, tensors: Mapping[str, BoundTensor]) -> None:
        ignored = keys_matching(self.request.ignore, self.all_shapes)
        moved = [key for key in self.all_shapes if key in ignored and tensors[key].pieces]
        alone = [key for key in self.all_shapes if key in ignored and not tensors[key].spoken]
        if moved:
            self.notes.append(f"not matched, by --ignore, but moved as the spec says: {_listed(moved)}")
        if alone:
            self.notes.append(
                f"left alone by --ignore, as no line speaks of them: {_listed(alone)}; right if they are no part of "
                "the network"
            )

    def _mismatch(self, faults: Sequence[Fault]) -> Mismatch:
        odd: tuple[str, ...] = ()
        if all(fault.unlisted for fault in faults):
            odd = tuple(self.on_disk[fault.key] for fault in faults)
        patterns = patterns_for(odd, [key for key in self.all_shapes if key not in self.ignorable])
        return Mismatch(self.spec, str(self.prefix), tuple(faults), odd, patterns)

    def _try_to_bind(self, claims: Mapping[str, Claim], fixed_families: Collection[str]) -> _Bound | Mismatch:
        try:
            return self._bind(claims, Resolver(self.spec, claims.values()), fixed_families)
        except ResolutionError as error:
            return self._mismatch([error.fault])

    def _bind(
        self, claims: Mapping[str, Claim], resolver: Resolver, fixed_families: Collection[str]
    ) -> _Bound | Mismatch:
        axes = {key: resolver.axes(claim) for key, claim in claims.items()}
        instances = dim_instances(resolver)
        rules = {name: found for name, i in instances.items() if (found := resolver.rule_for(i))}
        owners = find_owners(resolver, rules)
        indexed, faults = find_indexed(self.spec, resolver, claims, self.shapes)
        sources = SizeSources(self.spec, resolver, instances, self.request.overrides or {}, self.request.config)
        equations = {key: self._equations(key, axes[key], claims[key].line) for key in axes}
        sizes, fits = sources.solve([e for found in equations.values() for e in found], indexed), True
        if sizes.faults and self.left:  # unmatched tensors may have other sizes
            kept = [e for key, found in equations.items() if key not in self.left for e in found]
            sizes, fits = sources.solve(kept, indexed), False
        faults += sizes.faults
        if faults:
            return self._mismatch(faults)
        if resolver.join_equal({name: known.value for name in instances if (known := sizes.known.get(f"dim:{name}"))}):
            return self._bind(claims, resolver, fixed_families)
        reasons: dict[str, str] = {}
        for key in (key for key in axes if key in self.left and not fits):
            axes[key], unfit = _fit_axes(axes[key], equations[key], sizes, owners)
            reasons |= dict.fromkeys(unfit, f"{self.on_disk[key]} is left out of the match, and has another size there")
        misfit = "a tensor that is left out of the match does not fit its line"
        reasons |= dict.fromkeys((name for name in instances if name.split(".")[0] in fixed_families), misfit)
        sized = (axis for key, found in axes.items() if fits or key not in self.left for axis in found)
        unknown, notes = unknown_dims(self.spec, sized, sizes, owners)
        frozen = frozen_dims(self.spec, resolver, list(instances), self.request.freeze)
        still = {name: why for name, why in self.request.still.items() if name in instances}
        signed = {name for name, i in instances.items() if resolver.has_signs(i)} if self.request.signs else set()
        scaled = {name for name, i in instances.items() if resolver.has_scales(i)} if self.request.scales else set()
        turning = resolver.rotations_of(instances) if self.request.rotations else {}
        powered, power_of = frozenset[str](), None
        if scaled or turning:
            from rebasin_cli.spec.binding.powers import Powers  # of what few are asked for

            powers = Powers.of(self.spec, claims, axes, scaled | set(turning))
            powered, power_of = powers.scaled, powers.at
        held = frozen | reasons | unknown | still  # what a rotary embedding turns is rotated where it stands
        stays = held | fixed_dims(rules)
        turning = {name: rule for name, rule in turning.items() if name not in (held if rule.pairs else stays)}
        kinds: Mapping[str, MapKind] = {}
        if turning:
            from rebasin_cli.spec.binding.rotations import find_rotations  # which few are asked for

            rotations = find_rotations(self.spec, turning, claims, axes, self.on_disk, powered)
            kinds, self.norms, notes = rotations.kinds, rotations.norms, (*notes, *rotations.notes)
        dims = build_dims(instances, owners, sizes, stays, signed, powered & scaled, kinds)
        tensors, faults = self._tensors(claims, axes, sizes, dims, indexed, power_of)
        if faults:
            return self._mismatch(faults)
        return dims, tensors, sizes, (*notes, *_notes_on_fixed(dims, reasons))

    def _equations(self, key: str, axes: Sequence[Plus], line: Line) -> list[Equation]:
        return [Equation(axis, self.shapes[key][at], key, at, line.line) for at, axis in enumerate(axes)]

    def _tensors(
        self,
        claims: Mapping[str, Claim],
        axes: Mapping[str, tuple[Plus, ...]],
        sizes: Sizes,
        dims: Mapping[str, Dim],
        indexed: Mapping[str, IndexedTensor],
        power_of: Callable[[str, Claim], Callable[[int, Leaf], int]] | None,
    ) -> tuple[dict[str, BoundTensor], list[Fault]]:
        """Every claimed tensor cut into pieces, by key on disk."""
        needed = {dim.owner for dim in dims.values() if dim.fixed is None or dim.rotated}
        needed |= {name for name, dim in dims.items() if dim.rotated}
        faults: list[Fault] = []
        tensors: dict[str, BoundTensor] = {}
        on_disk: dict[int, tuple[str, ...]] = {}  # of siblings, which share one tuple: a layer has hundreds of experts

        def moves(name: str) -> bool:
            return dims[name].size > 1 and (dims[name].fixed is None or name in needed)

        signed = {name for name, dim in dims.items() if dim.signs}
        for key, claim in claims.items():
            line, disk, shape = claim.line, self.on_disk[key], self.shapes[key]
            index = indexed.get(key)
            index = index if index is not None and moves(index.dim) else None
            by = index.dim if index else None
            pieces: list[Piece] = []
            spoken = line.section != "ignored"
            power = power_of(key, claim) if power_of else None
            for cut_out in cut(axes[key], shape, sizes.of, moves, signed, power) if spoken else ():
                piece, found = point_at_owners(cut_out, dims, shape, by, Fault(key, line.line))
                pieces.append(piece)
                faults += found
            siblings = index.siblings if index else ()
            if id(siblings) not in on_disk:
                on_disk[id(siblings)] = tuple(self.on_disk[k] for k in siblings)
            tensors[disk] = BoundTensor(
                disk, "ignored" if key in self.left else line.section, tuple(pieces), str(line.pattern or ""),
                line.line, by, index.place if index else 0, on_disk[id(siblings)], claim.name,
                spoken=spoken, optional=claim.form is None and line.template.optional,
                at=frozenset(claim.bindings.items()), part=line.needed_with, axes=axes[key],
            )  # fmt: skip
        return tensors, faults

    def _layout(
        self, dims: Mapping[str, Dim], claimed: Mapping[str, BoundTensor], sizes: Sizes, notes: tuple[str, ...]
    ) -> Layout:
        tensors = {
            key: claimed.get(key) or BoundTensor(key, "ignored", (), "", 0, name=self.prefix.strip(key), spoken=False)
            for key in self.all_shapes
        }
        self._note_ignored(tensors)
        users: dict[str, list[str]] = {name: [] for name in dims}
        for key, tensor in tensors.items():
            for name in tensor.dims():
                users[name].append(key)
        return Layout(
            spec=self.spec,
            prefix=str(self.prefix),
            dims=dims,
            tensors=tensors,
            sizes={s.removeprefix("size:"): k.value for s, k in sizes.known.items() if s.startswith("size:")},
            notes=(*self.notes, *notes),
            users={name: tuple(keys) for name, keys in users.items()},
            norms=self.norms,
        )


def _fit_axes(
    axes: tuple[Plus, ...], equations: Sequence[Equation], sizes: Sizes, owners: Mapping[str, str]
) -> tuple[tuple[Plus, ...], Collection[str]]:
    """The axes of an unmatched tensor, each left as it is where its size does not fit, and the dims to fix for that."""
    fits = [sizes.admits(equation) and sizes.total(equation.axis) == equation.length for equation in equations]
    if all(fits):
        return axes, ()
    dims = [[leaf.dim for leaf in axis.leaves() if leaf.dim] for axis in axes]
    unfit = [dim for found, good in zip(dims, fits, strict=True) if not good for dim in found]
    # A dim on an axis that does fit may be within a dim that is fixed here.
    unfit += [dim for found in dims for dim in found if dim in owners]
    return tuple(axis if good else _FIXED_AXIS for axis, good in zip(axes, fits, strict=True)), unfit


def _notes_on_fixed(dims: Mapping[str, Dim], reasons: Mapping[str, str]) -> Iterable[str]:
    """Notes about the dims that stay at identity because of unmatched tensors."""
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        if dims[name].fixed == why and dims[name].size > 1:
            by_reason.setdefault(why, []).append(name)
    return [f"dim{'s' * (len(names) > 1)} {', '.join(names)} at identity: {why}" for why, names in by_reason.items()]


def _module(line: Line) -> str:
    """The template of the module that a line's tensor belongs to."""
    return line.template.text.rstrip("?*").rpartition(".")[0]
