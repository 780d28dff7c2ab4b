"""From names with `{prev c}` and `{*}` to the dims of one checkpoint: each axis as a tree of concrete parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from rebasin_cli.spec.binding.claims import Claim, Definitions
from rebasin_cli.spec.binding.equations import Leaf, Plus, Times
from rebasin_cli.spec.language import MOST_COMPARED, MOST_LEAVES, Bindings, Pick, Ref, Value
from rebasin_cli.spec.language.pattern import (
    Anonymous,
    Axis,
    DimName,
    Instance,
    Segment,
    dim_text,
    in_order,
    instance_of,
    rank,
)
from rebasin_cli.spec.language.permutation_spec import (
    Fault,
    PermutationSpec,
    RotationRule,
    Rule,
    ScaleRule,
    SignRule,
)


class ResolutionError(Exception):
    """A dim that is used but that no tensor defines."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.what)
        self.fault = fault


def too_many_compared(name: DimName, line: int) -> Fault:
    """A name chooses among more dims than it may."""
    return Fault(f"names with choices, such as `{name}`, are compared with more than {MOST_COMPARED:,} dims", line)


class Resolver:
    """The dims that the claimed tensors define, and what a name means among them."""

    def __init__(self, spec: PermutationSpec, claims: Iterable[Claim]) -> None:
        self.spec = spec
        self.families: dict[tuple[Value, int], set[Instance]] = {}
        claims = list(claims)
        self.rules = [rule for rule in spec.rules if not _is_lifted(rule, claims)]
        self.signs = [sign for sign in spec.signs if not _is_lifted(sign, claims)]
        self.scales = [scale for scale in spec.scales if not _is_lifted(scale, claims)]
        self.rotations = [rotation for rotation in spec.rotations if not _is_lifted(rotation, claims)]
        self._claims_of = Counter(id(claim.line) for claim in claims)
        definitions = Definitions()
        for claim in claims:
            for instance in definitions.of(claim):
                self.families.setdefault((instance[0], len(instance)), set()).add(instance)
        self._anonymous = 0
        self._leaves = self._compared = 0
        self._found: dict[Instance, tuple[Rule, Bindings] | None] = {}
        self._joined: set[Instance] | None = None
        self._plain: dict[tuple[Instance, bool, bool], Plus] = {}  # axes that are one name, of which there are many

    def axes(self, claim: Claim) -> tuple[Plus, ...]:
        """The axes of a claimed tensor with every name resolved.

        Raises:
            ResolutionError: a name stands for nothing.
        """
        if claim.line.pattern is None:
            return ()
        tensors = self._claims_of.pop(id(claim.line), 0)  # of the line; 0 when it has been looked at
        for name in claim.line.pattern.dim_names() if tensors else ():
            if name.chooses:
                self._allow(name, claim.line.line, tensors * len(self._family(name)))
        return tuple(self._axis(axis, claim) for axis in claim.line.pattern.axes)

    def rule_for(self, instance: Instance) -> tuple[Rule, Bindings] | None:
        """What the `dims` section says of one dim: the rule with the fewest variables that fits.

        Raises:
            ResolutionError: two rules with equally few variables say different things.
        """
        if instance not in self._found:
            self._found[instance] = self._rule_for(instance)
        return self._found[instance]

    def _rule_for(self, instance: Instance) -> tuple[Rule, Bindings] | None:
        fitting: list[tuple[int, Rule, Bindings]] = []
        for rule in self.rules:
            bindings = self.match_name(rule.name, instance)
            if bindings is not None:
                plain = sum(isinstance(p, Ref) and p.pick is Pick.SAME for p in rule.name.parts)
                fitting.append((plain, rule, bindings))
        if not fitting:
            return None
        fitting.sort(key=lambda item: item[0])
        (rank, rule, bindings), *others = fitting
        if others and others[0][0] == rank and not (rule.fixed and others[0][1].fixed):
            raise ResolutionError(
                Fault(
                    f"dim {dim_text(instance)} falls under two rules alike: `{rule.name}` (line {rule.line}) "
                    f"and `{others[0][1].name}` (line {others[0][1].line})",
                    rule.line,
                    "make one of them more specific: the rule with fewer variables wins",
                )
            )
        return rule, bindings

    def has_signs(self, instance: Instance) -> bool:
        """Whether the `signs` section names one dim."""
        return any(self.match_name(sign.name, instance) is not None for sign in self.signs)

    def has_scales(self, instance: Instance) -> bool:
        """Whether the `scales` section names one dim."""
        return any(self.match_name(scale.name, instance) is not None for scale in self.scales)

    def rotations_of(self, instances: Mapping[str, Instance]) -> dict[str, RotationRule]:
        """What the `rotations` section says of the dims that it names."""
        return {
            name: rule
            for name, instance in instances.items()
            for rule in self.rotations
            if self.match_name(rule.name, instance) is not None
        }

    def match_name(self, name: DimName, instance: Instance) -> Bindings | None:
        """The bindings under which `name` is `instance`, or None."""
        if len(name.parts) != len(instance):
            return None
        bindings: dict[str, Value] = {}
        for part, value in zip(name.parts, instance, strict=True):
            if isinstance(part, str):
                if part != str(value):
                    return None
            elif part.pick is Pick.SAME:
                bound = value - part.offset if isinstance(value, int) else value
                if isinstance(bound, int) and bound < 0:
                    return None
                if part.is_number != isinstance(value, int) or bindings.setdefault(part.variable, bound) != bound:
                    return None
        for position, part in enumerate(name.parts):
            if isinstance(part, Ref) and part.pick in (Pick.FIRST, Pick.LAST):
                family = self._siblings(instance, position)
                if instance[position] != (family[0] if part.pick is Pick.FIRST else family[-1]):
                    return None
                bindings[part.variable] = instance[position]
        return bindings

    def instances(self, name: DimName, bindings: Bindings, line: int) -> list[Instance] | None:
        """The instances of `name`: one, a list for `{<l}` and `{*}`, or None for “before the first one”."""
        family = self._family(name)
        plain = instance_of(name, bindings)
        if plain in family:  # nothing to choose: most names of a checkpoint with thousands of tensors
            return [plain]
        self._compared += len(family)
        self._allow(name, line, self._compared)
        matching = [i for i in family if self._fits_plainly(name, i, bindings)]
        for position, part in enumerate(name.parts):
            if not isinstance(part, Ref) or (part.pick is Pick.SAME and part.offset >= 0):
                continue
            values = sorted({i[position] for i in matching}, key=rank)
            chosen = self._choose(part, values, bindings)
            if chosen is None:
                return None
            matching = [i for i in matching if i[position] in chosen]
            if not matching and not part.is_range:
                raise ResolutionError(self._undefined(name, bindings, line))
        is_list = any(isinstance(part, Ref) and part.is_range for part in name.parts)
        if not matching and not is_list:
            raise ResolutionError(self._undefined(name, bindings, line))
        return in_order(matching)

    def _family(self, name: DimName) -> set[Instance]:
        """The dims that `name` chooses from."""
        return self.families.get((name.parts[0] if isinstance(name.parts[0], str) else "", len(name.parts)), set())

    def _allow(self, name: DimName, line: int, compared: int) -> None:
        """Refuse more comparisons than `MOST_COMPARED`: before they are made, where one line alone has too many."""
        if compared > MOST_COMPARED:
            raise ResolutionError(too_many_compared(name, line))

    def _choose(self, part: Ref, values: list[Value], bindings: Bindings) -> set[Value] | None:
        """The values that a choice among `values` means; None for before the first or after the last."""
        if part.pick is Pick.ALL:
            return set(values)
        if part.pick in (Pick.FIRST, Pick.LAST):
            return {values[0 if part.pick is Pick.FIRST else -1]} if values else set()
        here = bindings[part.variable]
        below = [v for v in values if rank(v) < rank(here)]
        if part.pick is Pick.BELOW:
            return set(below)
        if part.pick is Pick.PREV:
            return {below[-1]} if below else None
        if part.pick is Pick.NEXT:
            above = [v for v in values if rank(v) > rank(here)]
            return {above[0]} if above else None
        target = part.value(bindings)  # {i-1}
        if not isinstance(target, int) or target < 0 or (values and rank(target) < rank(values[0])):
            return None
        return {target}

    def _fits_plainly(self, name: DimName, instance: Instance, bindings: Bindings) -> bool:
        for part, value in zip(name.parts, instance, strict=True):
            if isinstance(part, str):
                if part != str(value):
                    return False
            elif part.pick is Pick.SAME and part.offset >= 0 and part.value(bindings) != value:
                return False
        return True

    def _siblings(self, instance: Instance, position: int) -> list[Value]:
        family = self.families.get((instance[0], len(instance)), set())
        rest = (instance[:position], instance[position + 1 :])
        return sorted({i[position] for i in family if (i[:position], i[position + 1 :]) == rest}, key=rank)

    def _undefined(self, name: DimName, bindings: Bindings, line: int) -> Fault:
        values = ", ".join(f"{k} = {v}" for k, v in bindings.items())
        return Fault(
            f"dim `{name}`{f' with {values}' if values else ''} is used, but no tensor brings it into being",
            line,
            "a tensor must name it plainly, or with `{i+1}`, for `{i-1}`, `{prev i}` and the like to find it",
        )

    def _axis(self, axis: Axis, claim: Claim) -> Plus:
        name = axis.segments[0]
        if len(axis.segments) == 1 and isinstance(name, DimName) and (plain := instance_of(name, claim.bindings)):
            known = self._plain.get((plain, name.still, name.inverse))
            if known is None and plain in self._family(name):
                known = Plus((Leaf(f"dim:{(dim := self.name_of(plain))}", dim, name.still, name.inverse),))
                self._plain[plain, name.still, name.inverse] = known
            if known is not None:
                return known
        segments: list[Leaf | Times] = []
        for part in axis.segments:
            for leaf in self._segment(part, claim):
                before = segments[-1] if segments else None
                both_open = _is_open(leaf) and isinstance(before, Leaf) and _is_open(before)
                if not both_open:
                    segments.append(leaf)
        return Plus(tuple(segments or [self._open()]))  # a list of nothing (`{*}`) is a side that never moves

    def _segment(self, part: Segment, claim: Claim) -> list[Leaf | Times]:
        if isinstance(part, Anonymous):
            if isinstance(part.size, int):
                return [Leaf(part.size)]
            return [Leaf(f"size:{part.size}") if part.size else self._open()]
        if isinstance(part, DimName):
            instances = self.instances(part, claim.bindings, claim.line.line)
            if instances is None:
                return [self._open()]
            self._leaves += len(instances) - 1  # a plain name is as long as what it stands for
            if self._leaves > MOST_LEAVES:
                what = f"{claim.key}: `{part}` and the like stand for more than {MOST_LEAVES:,} dims"
                raise ResolutionError(Fault(what, claim.line.line))
            return [Leaf(f"dim:{name}", name, part.still, part.inverse) for name in map(self.name_of, instances)]
        factors: list[Plus] = []
        for factor in (self._axis(factor, claim) for factor in part.factors):
            if not (factors and _is_one_open(factor) and _is_one_open(factors[-1])):  # (c _ _) is (c _)
                factors.append(factor)
        return [Times(tuple(factors))]

    def join_equal(self, sizes: Mapping[str, int]) -> bool:
        """Apply `same as … if equal` to dims of equal `sizes`; return whether that changes what names mean.

        A block adds its input to its output only if both are as wide, and keys do not tell which blocks do.
        """
        if self._joined is not None:
            return False
        found: set[Instance] = set()
        for instance in (i for family in self.families.values() for i in family):
            rule, bindings = self.rule_for(instance) or (None, {})
            if rule is None or rule.same_as is None or not rule.if_equal:
                continue
            for target in self.instances(rule.same_as, bindings, rule.line) or ():
                if sizes.get(self.name_of(instance)) == sizes.get(self.name_of(target)):
                    found.add(instance)
        self._joined = found
        self._plain.clear()
        return bool(found)

    def name_of(self, instance: Instance) -> str:
        """The dim's name, after `same as` (which may be followed several times; before the first one it ends)."""
        followed = [instance]
        while (found := self.rule_for(followed[-1])) is not None and found[0].same_as is not None:
            if found[0].if_equal and followed[-1] not in (self._joined or ()):
                break
            rule, bindings = found
            assert rule.same_as is not None
            target = self.instances(rule.same_as, bindings, rule.line)
            if target is None:
                break
            if target[0] in followed:
                ring = " same as ".join(map(dim_text, [*followed, target[0]]))
                raise ResolutionError(Fault(f"dims are the same as one another: {ring}", rule.line))
            followed.append(target[0])
        return dim_text(followed[-1])

    def _open(self) -> Leaf:
        self._anonymous += 1
        return Leaf(f"_:{self._anonymous}")


def _is_lifted(rule: Rule | SignRule | ScaleRule | RotationRule, claims: Iterable[Claim]) -> bool:
    """Whether a key exists that the rule excludes by `without`."""
    return any(template.match(claim.key) is not None for template in rule.without for claim in claims)


def _is_open(part: Leaf | Times) -> bool:
    return isinstance(part, Leaf) and isinstance(part.size, str) and part.size.startswith("_:")


def _is_one_open(axis: Plus) -> bool:
    return len(axis.segments) == 1 and _is_open(axis.segments[0])


def dim_instances(resolver: Resolver) -> Mapping[str, Instance]:
    """Every dim that exists, by name (aliases left out)."""
    return {
        dim_text(i): i
        for family in resolver.families.values()
        for i in in_order(family)
        if resolver.name_of(i) == dim_text(i)
    }
