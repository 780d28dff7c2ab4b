"""Dims that act on keys: `expert.{i}: index e in model.layers.{i}.*.experts.{e}.*` permutes whole tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rebasin_cli.spec.binding.claims import Claim, Shape
from rebasin_cli.spec.binding.resolve import Resolver
from rebasin_cli.spec.language.fault import Fault
from rebasin_cli.spec.language.permutation_spec import PermutationSpec, Rule


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
