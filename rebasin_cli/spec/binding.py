"""A spec and a checkpoint's shapes, brought together: every tensor claimed, every size solved, or why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.spec.claims import Claim, Matcher, Problem, Shape, claim_tensors, missing_tensors
from rebasin_cli.spec.expressions import Expression
from rebasin_cli.spec.hints import did_you_mean
from rebasin_cli.spec.language import PermutationSpec, Rule
from rebasin_cli.spec.layout import INDEX_SIDE, BoundTensor, Dim, Layout, Piece, Side
from rebasin_cli.spec.pieces import cut
from rebasin_cli.spec.resolve import Plus, ResolutionError, Resolver, dim_instances, dim_text
from rebasin_cli.spec.unify import Equation, Sizes
from rebasin_cli.spec.variables import Bindings

WRAPPERS = (
    "module.", "_orig_mod.", "model.", "base_model.model.", "base_model.", "network.", "net.", "student.", "teacher.",
    "ema.", "model_ema.", "backbone.", "encoder_q.", "state_dict.",
)  # fmt: skip
"""Prefixes that training frameworks put in front of every key (DDP, torch.compile, Lightning, PEFT, …)."""


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
    lines = [f"the spec `{spec.name}` does not fit this checkpoint ({len(problems)} differences)"]
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
    kept = {k: s for k, s in shapes.items() if not any(fnmatchcase(k, p) for p in request.ignore)}
    unused = [p for p in request.ignore if not any(fnmatchcase(k, p) for k in shapes)]
    if unused:
        raise UsageError(f"--ignore {unused[0]} matches no tensor", remedy="`rebasin inspect` lists the tensors")
    best: Mismatch | None = None
    for strip in _prefixes(spec, kept):
        stripped = {strip(key): key for key in kept}
        if len(stripped) < len(kept):
            continue
        result = _Binder(spec, shapes, stripped, request).run()
        if isinstance(result, Layout):
            return result
        if best is None or len(result.problems) < len(best.problems):
            best = result
    assert best is not None
    return best


def prefix_candidates(spec: PermutationSpec, keys: Sequence[str]) -> Iterator[str]:
    """Prefixes worth trying, likeliest first: none, the spec's own, wrappers (nested), what all keys share."""
    seen = {""}
    yield ""
    for prefix in spec.prefixes:
        if any(key.startswith(prefix) for key in keys) and prefix not in seen:
            seen.add(prefix)
            yield prefix
    stack = [""]
    while stack:
        base = stack.pop(0)
        for wrapper in WRAPPERS:
            prefix = base + wrapper
            if prefix not in seen and all(key.startswith(prefix) for key in keys):
                seen.add(prefix)
                yield prefix
                stack.append(prefix)
                for own in spec.prefixes:
                    if any(key.startswith(prefix + own) for key in keys) and prefix + own not in seen:
                        seen.add(prefix + own)
                        yield prefix + own
    shared = os.path.commonprefix(list(keys))
    parts = shared.split(".")[:-1]
    for end in range(1, len(parts) + 1):
        prefix = ".".join(parts[:end]) + "."
        if prefix not in seen:
            seen.add(prefix)
            yield prefix


def _prefixes(spec: PermutationSpec, shapes: Mapping[str, Shape]) -> list[Callable[[str], str]]:
    """The prefixes that pass the quick screen; if none does, the one that leaves the fewest kinds uncovered."""
    matcher = matcher_for(spec)
    strips = [_stripper(prefix) for prefix in prefix_candidates(spec, list(shapes))]
    passing = [s for s in strips if matcher.covers({s(key): shape for key, shape in shapes.items()})]
    return passing or strips[:4]


def _stripper(prefix: str) -> Callable[[str], str]:
    strip: Callable[[str], str] = lambda key: key.removeprefix(prefix)  # noqa: E731
    strip.prefix = prefix  # type: ignore[attr-defined]
    return strip


class _Binder:
    """One attempt: a spec, a checkpoint, a prefix."""

    def __init__(
        self,
        spec: PermutationSpec,
        all_shapes: Mapping[str, Shape],
        stripped: Mapping[str, str],
        request: Request,
    ) -> None:
        self.spec = spec
        self.all_shapes = all_shapes
        self.on_disk = stripped
        self.prefix = next((d.removesuffix(k) for k, d in stripped.items() if d != k), "")
        self.shapes = {key: tuple(all_shapes[disk]) for key, disk in stripped.items()}
        self.request = request
        self.notes: list[str] = []

    def run(self) -> Layout | Mismatch:
        claims, problems = claim_tensors(matcher_for(self.spec), self.shapes)
        ignored = [key.removeprefix(self.prefix) for key in self.all_shapes]
        problems += missing_tensors(self.spec, claims, {*self.shapes, *ignored})
        if problems:
            return self._mismatch(problems)
        self.resolver = Resolver(self.spec, claims.values())
        try:
            axes = {key: self.resolver.axes(claim) for key, claim in claims.items()}
            self.instances = dim_instances(self.resolver)
            self.rules = {n: found for n, i in self.instances.items() if (found := self.resolver.rule_for(n, i))}
            self.owners = {n: self._owner(rule, b) for n, (rule, b) in self.rules.items() if rule.owner is not None}
        except ResolutionError as error:
            return self._mismatch([error.problem])
        slabs, problems = self._slabs(claims)
        self.sizes = self._solve(axes, claims, slabs)
        problems += self.sizes.problems
        if problems:
            return self._mismatch(problems)
        return self._layout(claims, axes, slabs)

    def _mismatch(self, problems: list[Problem]) -> Mismatch:
        return Mismatch(self.spec, self.prefix, tuple(problems))

    def _owner(self, rule: Rule, bindings: Bindings) -> str:
        assert rule.owner is not None
        found = self.resolver.instances(rule.owner, bindings, rule.line)
        if not found:
            raise ResolutionError(Problem(f"dim `{rule.name}` is within `{rule.owner}`, which is absent", rule.line))
        return self.resolver.name_of(found[0])

    # -- dims that act on keys ------------------------------------------------------------------------------

    def _slabs(self, claims: Mapping[str, Claim]) -> tuple[dict[str, tuple[str, int, tuple[str, ...]]], list[Problem]]:
        """For every tensor whose key a dim permutes: the dim, its place, and all keys by place."""
        slabs: dict[str, tuple[str, int, tuple[str, ...]]] = {}
        problems: list[Problem] = []
        for rule in (rule for rule in self.spec.rules if rule.index is not None):
            assert rule.index is not None
            variable, template = rule.index
            groups: dict[tuple[str, str], dict[int, str]] = {}
            for key, claim in claims.items():
                bindings = template.match(key)
                if bindings is None or claim.line.section == "ignored":
                    continue
                place = bindings.pop(variable)
                dims = self.resolver.instances(rule.name, bindings, rule.line)
                own = {**claim.bindings, variable: -1}
                if not dims or not isinstance(place, int) or variable not in claim.bindings:
                    problems.append(Problem(f"{key}: the line that claims it has no `{{{variable}}}`", rule.line))
                    continue
                group = f"{claim.line.template.text} {sorted((k, str(v)) for k, v in own.items())}"
                groups.setdefault((dim_text(dims[0]), group), {})[place] = key
            for (dim, _), places in groups.items():
                siblings = tuple(places[p] for p in sorted(places))
                if sorted(places) != list(range(len(places))):
                    gap = next(p for p in range(len(places)) if p not in places)
                    problems.append(Problem(f"{siblings[0]}: number {gap} of {dim} is absent", rule.line))
                if len({self.shapes[key] for key in siblings}) > 1:
                    problems.append(Problem(f"{siblings[0]} and its siblings have different shapes", rule.line))
                slabs |= {key: (dim, place, siblings) for place, key in places.items()}
        return slabs, problems

    # -- sizes ----------------------------------------------------------------------------------------------

    def _solve(
        self, axes: Mapping[str, tuple[Plus, ...]], claims: Mapping[str, Claim], slabs: Mapping[str, Any]
    ) -> Sizes:
        equations = [
            Equation(axis, self.shapes[key][position], key, position, claims[key].line.line)
            for key, found in axes.items()
            for position, axis in enumerate(found)
        ]
        sizes = Sizes(equations)
        for dim, _, siblings in slabs.values():
            sizes.set(f"dim:{dim}", len(siblings), f"the number of keys like {siblings[0]}")
        self._apply_overrides(sizes)
        self._apply_rules(sizes, from_config=True)
        sizes.propagate()
        while self._apply_rules(sizes, from_config=False):
            sizes.propagate()
        return sizes

    def _apply_overrides(self, sizes: Sizes) -> None:
        for name, value in (self.request.overrides or {}).items():
            targets = [f"size:{name}"] if any(str(r.name) == name for r in self.spec.sizes) else []
            targets += [f"dim:{d}" for d in self.instances if name in (d, d.split(".")[0])]
            if not targets:
                known = [str(r.name) for r in self.spec.sizes] + sorted({d.split(".")[0] for d in self.instances})
                raise UsageError(
                    f"--set {name}={value}: the spec `{self.spec.name}` has no size or dim `{name}`",
                    remedy=did_you_mean(name, known) or f"it has {', '.join(known)}",
                )
            for target in targets:
                sizes.set(target, value, f"--set {name}={value}")

    def _apply_rules(self, sizes: Sizes, *, from_config: bool) -> bool:
        """Give sizes that the spec declares; config.json comes first and is verified, the rest fills gaps."""
        progress = False
        for rule in self.spec.sizes:
            targets: list[tuple[str, Bindings]] = []
            for name, instance in self.instances.items():
                bindings = self.resolver.unify(rule.name, instance)
                if bindings is not None:
                    targets.append((f"dim:{name}", bindings))
            if len(rule.name.parts) == 1 and not targets:
                targets.append((f"size:{rule.name}", {}))
            for symbol, bindings in targets:
                if symbol in sizes.known:
                    continue
                for choice in rule.choices:
                    if from_config and not choice.uses_config:
                        continue
                    value = self._value(choice, sizes, bindings)
                    if value is not None:
                        sizes.set(symbol, value, choice.text, rule.line)
                        progress = True
                        break
        return progress

    def _value(self, choice: Expression, sizes: Sizes, bindings: Bindings) -> int | None:
        def lookup(name: str) -> int | None:
            if name in bindings:
                bound = bindings[name]
                return bound if isinstance(bound, int) else None
            for symbol in (f"size:{name}", f"dim:{name}"):
                if symbol in sizes.known:
                    return sizes.known[symbol].value
            return None

        return choice.evaluate(self.request.config, lookup)

    # -- the result -----------------------------------------------------------------------------------------

    def _layout(
        self,
        claims: Mapping[str, Claim],
        axes: Mapping[str, tuple[Plus, ...]],
        slabs: Mapping[str, tuple[str, int, tuple[str, ...]]],
    ) -> Layout | Mismatch:
        reasons = self._reasons(axes)
        dims = self._dims(reasons)
        needed = {dim.owner for dim in dims.values() if dim.fixed is None}
        problems: list[Problem] = []

        def moves(name: str) -> bool:
            return dims[name].size > 1 and (dims[name].fixed is None or name in needed)

        tensors: dict[str, BoundTensor] = {}
        for key, claim in claims.items():
            line, disk = claim.line, self.on_disk[key]
            slab = slabs.get(key)
            if slab is not None and not moves(slab[0]):
                slab = None
            pieces: list[Piece] = []
            if line.section != "ignored":
                for piece in cut(axes[key], self.shapes[key], self.sizes.of, moves):
                    pieces.append(self._owned(piece, dims, slab[0] if slab else None, key, line.line, problems))
            siblings = tuple(self.on_disk[k] for k in slab[2]) if slab else ()
            tensors[disk] = BoundTensor(
                disk, line.section, tuple(pieces), str(line.pattern or ""), line.line,
                slab[0] if slab else None, slab[1] if slab else 0, siblings,
            )  # fmt: skip
        if problems:
            return self._mismatch(problems)
        left_out = [key for key in self.all_shapes if key not in tensors]
        for key in left_out:
            tensors[key] = BoundTensor(key, "ignored", (), "", 0)
        if left_out:
            self.notes.append(f"{len(left_out)} tensors are left alone by --ignore")
        users: dict[str, list[str]] = {name: [] for name in dims}
        for key in self.all_shapes:
            for name in tensors[key].dims():
                users[name].append(key)
        return Layout(
            spec=self.spec,
            prefix=self.prefix,
            dims=dims,
            tensors={key: tensors[key] for key in self.all_shapes},
            sizes={s.removeprefix("size:"): k.value for s, k in self.sizes.known.items() if s.startswith("size:")},
            notes=tuple(self.notes),
            users={name: tuple(keys) for name, keys in users.items()},
        )

    def _reasons(self, axes: Mapping[str, tuple[Plus, ...]]) -> dict[str, str]:
        """Dims that cannot move, and why: unknown sizes (spreading along axes and owners), the spec, the user."""
        reasons: dict[str, str] = {}
        missing: dict[str, None] = {}
        for found in axes.values():
            for axis in found:
                if self.sizes.total(axis) is not None:
                    continue
                unknown = [leaf for leaf in axis.leaves() if self.sizes.of(leaf) is None]
                for leaf in axis.leaves():
                    if leaf.dim:
                        names = sorted({_plain_name(str(u.size)) for u in unknown})
                        reasons[leaf.dim] = f"not known: {', '.join(names)}"
                        missing |= dict.fromkeys(names)
        changed = True
        while changed:
            changed = False
            for name, owner in self.owners.items():
                if owner in reasons and name not in reasons:
                    reasons[name] = reasons[owner]
                    changed = True
        if reasons:
            families = sorted({name.split(".")[0] for name in reasons})
            wanted = [str(rule.name) for rule in self.spec.sizes] or sorted(missing)
            self.notes.append(
                f"dims {', '.join(families)} stay at identity: the shapes do not tell {', '.join(sorted(missing))}; "
                f"give config.json beside the checkpoint, or {' or '.join(f'--set {w}=N' for w in wanted[:3])}"
            )
        for name, (rule, _) in self.rules.items():
            if rule.fixed and name not in reasons:
                reasons[name] = "fixed" if rule.fixed == "fixed" else rule.fixed
        for pattern in self.request.freeze:
            frozen = [d for d in self.instances if fnmatchcase(d, pattern) or d.split(".")[0] == pattern]
            if not frozen:
                raise UsageError(
                    f"--freeze {pattern}: the spec `{self.spec.name}` has no such dim here",
                    remedy=did_you_mean(pattern, sorted({d.split(".")[0] for d in self.instances}))
                    or "`rebasin inspect` lists the dims",
                )
            reasons |= {name: reasons.get(name, "frozen by --freeze") for name in frozen}
        return reasons

    def _dims(self, reasons: Mapping[str, str]) -> dict[str, Dim]:
        dims: dict[str, Dim] = {}

        def add(name: str) -> None:
            if name in dims:
                return
            owner = self.owners.get(name)
            if owner is not None:
                add(owner)
            known = self.sizes.known.get(f"dim:{name}")
            dims[name] = Dim(name, known.value if known else 0, owner, reasons.get(name))

        for name in self.instances:
            add(name)
        # A single owner has nothing to choose: what is within it is a dim like any other.
        alone = {name for name, dim in dims.items() if dim.size == 1}
        return {n: replace(dim, owner=None) if dim.owner in alone else dim for n, dim in dims.items()}

    def _owned(
        self,
        piece: Piece,
        dims: Mapping[str, Dim],
        index: str | None,
        key: str,
        line: int,
        problems: list[Problem],
    ) -> Piece:
        """Point every side whose dim is within an owner at the side that carries the owner."""
        sides: list[Side] = []
        for side in piece.sides:
            owner = dims[side.dim].owner if side.dim else None
            if owner is None:
                sides.append(side)
                continue
            at = _owner_side(piece, sides, owner)
            if at is None and index == owner:
                at = INDEX_SIDE
            if at is None:
                problems.append(
                    Problem(
                        f"{key}: dim {side.dim} is within {owner}, which does not stand in this tensor",
                        line,
                        f"put `{owner.split('.')[0]}` beside it, on the same axis: `(owner dim)`",
                    )
                )
            sides.append(replace(side, owner=at))
        return Piece(piece.offset, tuple(sides))


def _owner_side(piece: Piece, before: list[Side], owner: str) -> int | None:
    """The side that carries `owner`: the nearest before it, which is on the same axis if any is; else any other."""
    positions = [i for i, side in enumerate(piece.sides) if side.dim == owner]
    earlier = [i for i in positions if i < len(before)]
    return earlier[-1] if earlier else positions[0] if positions else None


def _plain_name(symbol: str) -> str:
    kind, _, name = symbol.partition(":")
    return "a size" if kind == "_" else name.split(".")[0] if kind == "dim" else name
