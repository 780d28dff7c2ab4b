"""Every size of one checkpoint: its shapes first, then what the user, config.json and the spec say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rebasin_cli.errors import UsageError
from rebasin_cli.spec.binding.equations import Equation, Sizes
from rebasin_cli.spec.binding.indexing import IndexedTensor
from rebasin_cli.spec.binding.instances import Instance
from rebasin_cli.spec.binding.resolve import Resolver
from rebasin_cli.spec.hints import did_you_mean
from rebasin_cli.spec.language.expressions import Expression
from rebasin_cli.spec.language.permutation_spec import PermutationSpec, SizeRule
from rebasin_cli.spec.language.variables import Bindings
from rebasin_cli.spec.limits import LARGEST_SIZE

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
        sizes = Sizes(list(equations))
        for slab in indexed.values():
            sizes.set(f"dim:{slab.dim}", len(slab.siblings), f"the number of keys like {slab.siblings[0]}")
        self._apply_overrides(sizes)
        rules = [(rule, self._targets(rule)) for rule in self.spec.sizes]
        for rule, targets in rules:
            self._apply(rule, targets, [c for c in rule.choices if c.uses_config], sizes)
        sizes.propagate()
        while any(self._fill(rule, targets, sizes) for rule, targets in rules):
            pass
        return sizes

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
