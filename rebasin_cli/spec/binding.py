"""A spec and a checkpoint's shapes, brought together: every tensor claimed, every size solved, or why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.spec.claims import Claim, Matcher, Problem, Shape, claim_tensors, missing_tensors
from rebasin_cli.spec.indexing import Slab, find_slabs
from rebasin_cli.spec.language import PermutationSpec
from rebasin_cli.spec.layout import BoundTensor, Dim, Layout, Piece
from rebasin_cli.spec.owners import build_dims, find_owners, point_at_owners
from rebasin_cli.spec.pieces import cut
from rebasin_cli.spec.prefixes import Prefix, prefix_candidates
from rebasin_cli.spec.resolve import Plus, ResolutionError, Resolver, dim_instances
from rebasin_cli.spec.shorthands import spell_out
from rebasin_cli.spec.sizing import SizeSources
from rebasin_cli.spec.stillness import fixed_dims, frozen_dims, unknown_dims
from rebasin_cli.spec.unify import Equation, Sizes


@dataclass(frozen=True, slots=True)
class Request:
    """What a user may say beside the checkpoint: config.json, `--set`, `--freeze`, `--ignore`."""

    config: Mapping[str, Any] | None = None
    overrides: Mapping[str, int] | None = None
    freeze: Sequence[str] = ()
    ignore: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a spec does not fit a checkpoint: all problems of the best prefix, and how far off it was."""

    spec: PermutationSpec
    prefix: str
    problems: tuple[Problem, ...]

    @property
    def counted(self) -> str:
        """`3 differences`."""
        return f"{len(self.problems)} difference{'s' if len(self.problems) != 1 else ''}"


@lru_cache(maxsize=512)
def matcher_for(spec: PermutationSpec) -> Matcher:
    """The matcher of a spec, built once."""
    return Matcher(spec)


def bind(
    spec: PermutationSpec,
    shapes: Mapping[str, Shape],
    *,
    config: Mapping[str, Any] | None = None,
    overrides: Mapping[str, int] | None = None,
    freeze: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Layout:
    """Bind `spec` to a checkpoint's shapes.

    Raises:
        ContentError: they do not fit; the message lists what is left over on either side.
        UsageError: `overrides`, `freeze` or `ignore` name something that does not exist.
    """
    result = attempt(spec, shapes, Request(config, overrides, freeze, ignore))
    if isinstance(result, Layout):
        return result
    raise mismatch_error(result)


def mismatch_error(mismatch: Mismatch, shown: int = 8) -> ContentError:
    """The error for a spec that does not fit, with its first differences."""
    spec, problems = mismatch.spec, mismatch.problems
    lines = [f"the spec `{spec.name}` does not fit this checkpoint ({mismatch.counted})"]
    for problem in problems[:shown]:
        lines.append(f"  - {problem.what}{f'; {problem.remedy}' if problem.remedy else ''}")
    if len(problems) > shown:
        lines.append(f"  - and {len(problems) - shown} more")
    line = next((p.line for p in problems if p.line), 0)
    return ContentError(
        "\n".join(lines),
        where=spec.at(line) if line else str(spec.path.name),
        remedy="name the right spec with --arch, leave tensors alone with --ignore PATTERN, or extend the spec",
    )


def attempt(spec: PermutationSpec, shapes: Mapping[str, Shape], request: Request) -> Layout | Mismatch:
    """Bind `spec` under the prefix that fits best; a `Mismatch` says what stands in the way."""
    kept = left_in(shapes, request.ignore)
    matcher = matcher_for(spec)
    best: Mismatch | None = None
    for prefix in _passing(matcher, prefix_candidates(spec, list(kept)), kept):
        result = _Binder(spec, shapes, {prefix.strip(key): key for key in kept}, prefix, request).run()
        if isinstance(result, Layout):
            return result
        if best is None or len(result.problems) < len(best.problems):
            best = result
    assert best is not None  # there is always the empty prefix
    return best


def left_in(shapes: Mapping[str, Shape], ignore: Sequence[str]) -> dict[str, Shape]:
    """The tensors that no `--ignore` pattern leaves out.

    Raises:
        UsageError: a pattern that fits nothing, or patterns that leave nothing.
    """
    for pattern in ignore:
        if not any(fnmatchcase(key, pattern) for key in shapes):
            raise UsageError(f"--ignore {pattern} matches no tensor", remedy="`rebasin inspect` lists the tensors")
    kept = {key: shape for key, shape in shapes.items() if not any(fnmatchcase(key, p) for p in ignore)}
    if shapes and not kept:
        raise UsageError("--ignore leaves no tensor of the checkpoint", remedy="ignore fewer of them")
    return kept


def _passing(matcher: Matcher, prefixes: Sequence[Prefix], shapes: Mapping[str, Shape]) -> Sequence[Prefix]:
    """The prefixes that pass the quick screen; if none does, the four that come nearest to it."""
    coverage = {p: matcher.coverage({p.strip(key): shape for key, shape in shapes.items()}) for p in prefixes}
    passing = [p for p in prefixes if coverage[p] == 1.0]
    return passing or sorted(prefixes, key=lambda p: -coverage[p])[:4]


class _Binder:
    """One attempt: a spec, a checkpoint, a prefix."""

    def __init__(
        self,
        spec: PermutationSpec,
        all_shapes: Mapping[str, Shape],
        on_disk: Mapping[str, str],
        prefix: Prefix,
        request: Request,
    ) -> None:
        self.spec = spec
        self.all_shapes = all_shapes
        self.on_disk = on_disk
        self.prefix = prefix
        self.shapes = {key: tuple(all_shapes[disk]) for key, disk in on_disk.items()}
        self.request = request

    def run(self) -> Layout | Mismatch:
        claims, problems = claim_tensors(matcher_for(self.spec), self.shapes)
        present = {*self.shapes, *map(self.prefix.strip, self.all_shapes)}
        problems += missing_tensors(self.spec, claims, present)
        spelled, unsaid = spell_out(self.spec.shorthands, claims)
        problems += unsaid
        if problems:
            return self._mismatch(problems)
        try:
            return self._bind(spelled, Resolver(self.spec, spelled.values()))
        except ResolutionError as error:
            return self._mismatch([error.problem])

    def _mismatch(self, problems: Sequence[Problem]) -> Mismatch:
        return Mismatch(self.spec, str(self.prefix), tuple(problems))

    def _bind(self, claims: Mapping[str, Claim], resolver: Resolver) -> Layout | Mismatch:
        axes = {key: resolver.axes(claim) for key, claim in claims.items()}
        instances = dim_instances(resolver)
        rules = {name: found for name, i in instances.items() if (found := resolver.rule_for(i))}
        owners = find_owners(resolver, rules)
        slabs, problems = find_slabs(self.spec, resolver, claims, self.shapes)
        sources = SizeSources(self.spec, resolver, instances, self.request.overrides or {}, self.request.config)
        equations = [
            Equation(axis, self.shapes[key][position], key, position, claims[key].line.line)
            for key, found in axes.items()
            for position, axis in enumerate(found)
        ]
        sizes = sources.solve(equations, slabs)
        problems += sizes.problems
        if problems:
            return self._mismatch(problems)
        if resolver.join({name: known.value for name in instances if (known := sizes.known.get(f"dim:{name}"))}):
            return self._bind(claims, resolver)
        every_axis = (axis for found in axes.values() for axis in found)
        unknown, notes = unknown_dims(self.spec, every_axis, sizes, owners)
        frozen = frozen_dims(self.spec, list(instances), self.request.freeze)
        dims = build_dims(instances, owners, sizes, frozen | fixed_dims(rules) | unknown)
        tensors, problems = self._tensors(claims, axes, sizes, dims, slabs)
        if problems:
            return self._mismatch(problems)
        return self._layout(dims, tensors, sizes, notes)

    def _tensors(
        self,
        claims: Mapping[str, Claim],
        axes: Mapping[str, tuple[Plus, ...]],
        sizes: Sizes,
        dims: Mapping[str, Dim],
        slabs: Mapping[str, Slab],
    ) -> tuple[dict[str, BoundTensor], list[Problem]]:
        """Every claimed tensor cut into pieces, by key on disk."""
        needed = {dim.owner for dim in dims.values() if dim.fixed is None}
        problems: list[Problem] = []
        tensors: dict[str, BoundTensor] = {}

        def moves(name: str) -> bool:
            return dims[name].size > 1 and (dims[name].fixed is None or name in needed)

        for key, claim in claims.items():
            line, disk, shape = claim.line, self.on_disk[key], self.shapes[key]
            slab = slabs.get(key)
            if slab is not None and not moves(slab.dim):
                slab = None
            pieces: list[Piece] = []
            for cut_out in cut(axes[key], shape, sizes.of, moves) if line.section != "ignored" else ():
                piece, found = point_at_owners(
                    cut_out, dims, shape, slab.dim if slab else None, Problem(key, line.line)
                )  # fmt: skip
                pieces.append(piece)
                problems += found
            siblings = tuple(self.on_disk[k] for k in slab.siblings) if slab else ()
            tensors[disk] = BoundTensor(
                disk, line.section, tuple(pieces), str(line.pattern or ""), line.line,
                slab.dim if slab else None, slab.place if slab else 0, siblings,
            )  # fmt: skip
        return tensors, problems

    def _layout(
        self, dims: Mapping[str, Dim], claimed: Mapping[str, BoundTensor], sizes: Sizes, notes: tuple[str, ...]
    ) -> Layout:
        tensors = {
            key: claimed[key] if key in claimed else BoundTensor(key, "ignored", (), "", 0) for key in self.all_shapes
        }
        if len(claimed) < len(tensors):
            notes = (*notes, f"{len(tensors) - len(claimed)} tensors are left alone by --ignore")
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
            notes=notes,
            users={name: tuple(keys) for name, keys in users.items()},
        )
