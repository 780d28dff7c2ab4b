"""Every size of one checkpoint: its shapes first, then what the user, config.json and the spec say.

Dims that act on keys, too: `expert.{i}: index e in model.layers.{i}.*.experts.{e}.*` permutes whole tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rebasin_cli.errors import UsageError, did_you_mean
from rebasin_cli.spec.binding.claims import Claim, Shape
from rebasin_cli.spec.binding.equations import Equation, Sizes
from rebasin_cli.spec.binding.resolve import Resolver
from rebasin_cli.spec.language import LARGEST_SIZE, Bindings
from rebasin_cli.spec.language.pattern import DimName, Instance
from rebasin_cli.spec.language.permutation_spec import Fault, PermutationSpec, Rule, SizeRule

if TYPE_CHECKING:
    from rebasin_cli.spec.language.expressions import Expression

_Targets = Sequence[tuple[str, Bindings]]


@dataclass(frozen=True, slots=True)
class SizeSources:
    """The sources of sizes besides the shapes, strongest first: `--set`, config.json, the spec."""

    spec: PermutationSpec
    resolver: Resolver
    instances: Mapping[str, Instance]
    overrides: Mapping[str, int]
    config: Mapping[str, Any] | None

    def solve(self, equations: Sequence[Equation], indexed: Mapping[str, IndexedTensor]) -> Sizes:
        """Solve the equations of all axes together.

        `--set` and config.json come first, so the shapes verify them. Constants and expressions of other sizes
        only give sizes that the shapes leave unknown, one rule after the other.
        """
        sizes = Sizes(list(equations), self._equal())
        for slab in indexed.values():
            sizes.set(f"dim:{slab.dim}", len(slab.siblings), f"the number of keys like {slab.siblings[0]}")
        self._apply_overrides(sizes)
        rules = [(rule, self._targets(rule)) for rule in self.spec.sizes]
        for rule, targets in rules:
            self._apply(rule, targets, [c for c in rule.choices if c.uses_config], sizes)
        sizes.propagate()
        while any(self._fill(rule, targets, sizes) for rule, targets in rules):
            pass
        sizes.faults += () if sizes.faults else self._refused(sizes)
        return sizes

    def _equal(self) -> dict[str, tuple[str, ...]]:
        """For the dims that the spec says are of one size, all of them."""
        equal: dict[str, tuple[str, ...]] = {}
        for need in (need for need in self.spec.requires if need.equal is not None):
            for name, bindings in self._instances_of(need.name):
                others = self.resolver.instances(need.equal, bindings, need.line) if need.equal else ()
                names = (f"dim:{name}", *(f"dim:{self.resolver.name_of(other)}" for other in others or ()))
                together = tuple(dict.fromkeys(each for one in names for each in equal.get(one, (one,))))
                equal |= dict.fromkeys(together, together)
        return equal

    def _refused(self, sizes: Sizes) -> Iterator[Fault]:
        """What the spec asks of sizes, and these do not have."""
        for need in (need for need in self.spec.requires if need.equal is None):
            for name, _ in self._instances_of(need.name):
                known = sizes.known.get(f"dim:{name}")
                if known is not None and known.value <= need.more_than:
                    yield Fault(f"dim {name} is {known.value} by {known.source}, and needs to be more", need.line)

    def _instances_of(self, name: DimName) -> Iterator[tuple[str, Bindings]]:
        for dim, instance in self.instances.items():
            bindings = self.resolver.match_name(name, instance)
            if bindings is not None:
                yield dim, bindings

    def _fill(self, rule: SizeRule, targets: _Targets, sizes: Sizes) -> bool:
        progress = self._apply(rule, targets, rule.choices, sizes)
        if progress:
            sizes.propagate()
        return progress

    def _apply_overrides(self, sizes: Sizes) -> None:
        for name, value in self.overrides.items():
            if not 1 <= value <= LARGEST_SIZE:
                raise UsageError(
                    f"--set {name}={value}: a size is a whole number from 1 to {LARGEST_SIZE}", remedy="give another"
                )
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

    def _apply(self, rule: SizeRule, targets: _Targets, choices: Sequence[Expression], sizes: Sizes) -> bool:
        """Set every unknown size of the rule to its first choice that has a value."""
        progress = False
        for symbol, bindings in targets:
            if symbol in sizes.known:
                continue
            for choice in choices:
                value = self._value(choice, sizes, bindings, rule.part)
                if value is not None:
                    sizes.set(symbol, value, f"`{choice.text}`", rule.line)
                    progress = True
                    break
        return progress

    def _targets(self, rule: SizeRule) -> _Targets:
        """The sizes that a rule is about, each with the values of the rule's variables."""
        found: list[tuple[str, Bindings]] = []
        for name, instance in self.instances.items():
            bindings = self.resolver.match_name(rule.name, instance)
            if bindings is not None:
                found.append((f"dim:{name}", bindings))
        if len(rule.name.parts) == 1 and not found:
            found.append((f"size:{rule.name}", {}))
        return found

    def _value(self, choice: Expression, sizes: Sizes, bindings: Bindings, part: str) -> int | None:
        config = (self.config or {}).get(part) if part else self.config
        of = f"{part}/" if part else ""

        def lookup(name: str) -> int | None:
            if name in bindings:
                bound = bindings[name]
                return bound if isinstance(bound, int) else None
            for symbol in (f"size:{of}{name}", f"dim:{of}{name}"):
                if symbol in sizes.known:
                    return sizes.known[symbol].value
            return None

        return choice.evaluate(config if isinstance(config, Mapping) else None, lookup)


@dataclass(frozen=True, slots=True)
class IndexedTensor:
    """A tensor whose key a dim permutes: the dim, the tensor's place in it, and the keys of all places."""

    dim: str
    place: int
    siblings: tuple[str, ...]


def find_indexed(
    spec: PermutationSpec, resolver: Resolver, claims: Mapping[str, Claim], shapes: Mapping[str, Shape]
) -> tuple[dict[str, IndexedTensor], list[Fault]]:
    """The tensors that an `index` rule of the spec moves as a whole, by key."""
    indexed: dict[str, IndexedTensor] = {}
    faults: list[Fault] = []
    for rule in (rule for rule in spec.rules if rule.index is not None):
        groups, found = _groups(rule, resolver, claims)
        faults += found
        for (dim, _), places in groups.items():
            siblings = tuple(places[p] for p in sorted(places))
            if sorted(places) != list(range(len(places))):
                gap = next(p for p in range(len(places)) if p not in places)
                faults.append(Fault(f"{siblings[0]}: number {gap} of {dim} is absent", rule.line))
            odd = next((key for key in siblings if shapes[key] != shapes[siblings[0]]), None)
            if odd is not None:
                faults.append(
                    Fault(
                        f"{siblings[0]} is {list(shapes[siblings[0]])} and {odd} is {list(shapes[odd])}, "
                        f"but dim {dim} puts one in the other's place",
                        rule.line,
                    )
                )
            indexed |= {key: IndexedTensor(dim, place, siblings) for place, key in places.items()}
    return indexed, faults


_Groups = dict[tuple[str, str], dict[int, str]]


def _groups(rule: Rule, resolver: Resolver, claims: Mapping[str, Claim]) -> tuple[_Groups, list[Fault]]:
    """The keys that one rule moves, in groups of siblings: (dim, what they have in common) -> place -> key."""
    assert rule.index is not None
    variable, template = rule.index
    groups: _Groups = {}
    faults: list[Fault] = []
    for key, claim in claims.items():
        bindings = template.match(key)
        if bindings is None or claim.line.section == "ignored":
            continue
        place = bindings.pop(variable)
        dims = resolver.instances(rule.name, bindings, rule.line)
        if not dims or not isinstance(place, int) or variable not in claim.bindings:
            faults.append(Fault(f"{key}: the line that claims it has no `{{{variable}}}`", rule.line))
            continue
        names = claim.line.pattern.dim_names() if claim.line.pattern else ()
        for name in (name for name in names if variable in name.variables):
            faults.append(
                Fault(
                    f"{key}: dim `{name}` has `{{{variable}}}` in its name, and `{rule.name}` moves `{{{variable}}}`",
                    claim.line.line,
                    f"name it without, and say in `dims` that it is `within {rule.name}`",
                )
            )
        own = {**claim.bindings, variable: -1}
        group = f"{claim.line.template.text} {sorted((k, str(v)) for k, v in own.items())}"
        groups.setdefault((resolver.name_of(dims[0]), group), {})[place] = key
    return groups, faults
