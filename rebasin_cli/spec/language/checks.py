"""Faults of a spec as a whole: undefined names, unbound variables, repeated lines.

Without these checks a misspelt dim would silently never move, and a misspelt rule would never apply.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.errors import did_you_mean
from rebasin_cli.spec.language import Pick, Ref
from rebasin_cli.spec.language.pattern import DimName
from rebasin_cli.spec.language.permutation_spec import (
    RELU,
    Fault,
    Line,
    NormRule,
    Requirement,
    RotationRule,
    Rule,
    ScaleRule,
    Section,
    Shorthand,
    SignRule,
    SizeRule,
)


@dataclass(frozen=True, slots=True)
class _Mention:
    """The dims and sizes in the pattern of a line or a shorthand."""

    line: int
    names: tuple[DimName, ...]
    sizes: tuple[str, ...]


ActingRule = SignRule | ScaleRule | RotationRule


def find_faults(
    lines: Sequence[Line],
    rules: Sequence[Rule],
    sizes: Sequence[SizeRule],
    shorthands: Sequence[Shorthand] = (),
    requires: Sequence[Requirement] = (),
) -> Iterator[Fault]:
    """Every fault of a spec, in the order in which it is best corrected."""
    yield from repeated_templates(lines)
    for line in lines:
        yield from _faults_of_line(line)
    yield from _faults_of_shorthands(shorthands, lines)
    short = {shorthand.name.parts[0] for shorthand in shorthands}
    patterns = [(line.pattern, line.line) for line in lines] + [(s.pattern, s.line) for s in shorthands]
    mentions = [
        _Mention(
            number,
            tuple(name for name in pattern.dim_names() if name.parts[0] not in short),
            tuple(pattern.size_names()),
        )
        for pattern, number in patterns
        if pattern is not None
    ]
    yield from _undefined_dims(mentions)
    for rule in rules:
        yield from _faults_of_rule(rule, mentions)
        yield from _faults_of_condition(rule, lines)
    yield from _faults_of_sizes(mentions, sizes)
    yield from _faults_of_requirements(mentions, requires)


def repeated_templates(lines: Sequence[Line]) -> Iterator[Fault]:
    """Templates that two lines have, so that neither can be preferred."""
    seen: dict[tuple[str, int | None], Line] = {}
    for line in lines:
        axes = len(line.pattern.axes) if line.pattern else None
        first = seen.setdefault((line.template.text.rstrip("?"), axes), line)
        if first is not line:
            lines_ = f"lines {first.line} and {line.line}" if first.line != line.line else f"line {line.line} twice"
            yield Fault(f"the template `{line.template.text}` stands on {lines_}", line.line, "keep one of the two")


def acting_faults(
    lines: Sequence[Line],
    rules: Sequence[Rule],
    acting: Mapping[str, Sequence[ActingRule]],
    shorthands: Sequence[Shorthand] = (),
) -> Iterator[Fault]:
    """Faults of the sections `signs`, `scales` and `rotations`, and of their marks in patterns."""
    patterns = [(ln.pattern, ln.line, ln.section) for ln in lines if ln.pattern is not None]
    patterns += [(shorthand.pattern, shorthand.line, "tensors") for shorthand in shorthands]
    names = [(name, line, section) for pattern, line, section in patterns for name in pattern.dim_names()]
    turned = [(name, ln.line, ln.section) for ln in lines for name in ln.turned()]
    yield from _turned_faults(turned, acting["rotations"], [name for name, *_ in names], rules)
    names += turned
    short = {shorthand.name.parts[0] for shorthand in shorthands}
    used = {_family(name): name for name, _, _ in names if name.parts[0] not in short}
    acts = {_family(name) for name, _, section in names if section == "tensors" and not name.still}
    owners = {_family(rule.owner) for rule in rules if rule.owner}
    indices = {_family(rule.name) for rule in rules if rule.index}
    fixed = {str(rule.name) for rule in rules if rule.fixed and not rule.without}
    for section, found in acting.items():
        seen: set[str] = set()
        for rule in found:
            name, family = rule.name, _family(rule.name)
            what = f"dim `{name}` has {section}"
            if family not in used:
                near = did_you_mean(str(name), sorted(map(str, used.values())))
                yield Fault(f"dim `{name}` stands in no pattern", rule.line, near)
            elif str(name) in seen:
                yield Fault(f"{what} twice", rule.line, "keep one of the two")
            elif not _is_plain(name):
                yield Fault(f"dim `{name}`: a name in `{section}` has {{i}}, {{first i}} or {{last i}} only", rule.line)
            elif family in owners or family in indices:
                why = "dims are within it" if family in owners else "it acts on keys"
                yield Fault(f"{what}, and {why}", rule.line, f"give {section} to what is inside its units")
            elif str(name) in fixed:
                yield Fault(f"{what}, and is fixed", rule.line, f"what stays as it is keeps its {section}")
            elif family not in acts:
                yield Fault(f"{what}, which act nowhere: it stands in bars in every tensor", rule.line)
            if isinstance(rule, ScaleRule) and rule.needs not in ("", RELU):
                yield Fault(f"dim `{name}` before `{rule.needs}`: scales are kept by {RELU} alone", rule.line)
            yield from _faults_of_condition(rule, lines)
            seen.add(str(name))
    scaled = {_family(rule.name) for rule in (*acting["scales"], *acting["rotations"])}
    marked = scaled | {_family(rule.name) for rule in acting["signs"]}
    for name, line, _ in names:
        if (name.still or name.inverse) and name.parts[0] in short:
            marked_name, how = (f"|{name}|", "in bars") if name.still else (f"/{name}", "behind `/`")
            yield Fault(f"`{marked_name}`: a name of `axes` cannot stand {how}", line, "put the mark into `axes`")
        elif name.still and _family(name) not in marked:
            yield Fault(
                f"`|{name}|` says where sign and scale of dim `{name}` do not act, and it has none",
                line,
                "list it in `signs` or `scales`, or leave out the bars",
            )
        elif name.inverse and _family(name) not in scaled:
            yield Fault(
                f"`/{name}` says where the scale of dim `{name}` divides, and it has none",
                line,
                "list it in `scales` or `rotations`, or leave out the `/`",
            )


def _turned_faults(
    turned: Sequence[tuple[DimName, int, Section]],
    rotations: Sequence[ActingRule],
    names: Sequence[DimName],
    rules: Sequence[Rule],
) -> Iterator[Fault]:
    """Faults of sides that a rotary embedding turns, `rope.{i}:head_dim`, and of their rules."""
    paired = {str(rule.name): rule for rule in rotations if isinstance(rule, RotationRule) and rule.pairs}
    moving = {_family(name) for name in (*names, *(rule.name for rule in rules))}
    for name, line, section in turned:
        if str(name) not in paired:
            yield Fault(
                f"`{name}` has a size, as what a rotary embedding turns has, and `rotations` does not say how", line,
                f"list it there: `{name} in halves within OWNER`",
            )  # fmt: skip
        elif _family(name) in moving:
            yield Fault(f"dim `{name}` stands with a size here, and without one elsewhere", line, "choose another name")
        elif section != "tensors":
            yield Fault(f"dim `{name}` stands in `{section}`", line, "write `_` and its size there")
    for rule in paired.values():
        if str(rule.name) not in {str(name) for name, *_ in turned}:
            yield Fault(
                f"dim `{rule.name}` in pairs stands nowhere with a size", rule.line,
                f"write `{rule.name}:SIZE` where the rotary embedding turns it, a name from `sizes`",
            )  # fmt: skip
        elif rule.owner is not None and _family(rule.owner) not in {_family(name) for name in names}:
            yield Fault(f"dim `{rule.name}` is within `{rule.owner}`, which stands in no pattern", rule.line)


def norm_faults(lines: Sequence[Line], norms: Sequence[NormRule]) -> Iterator[Fault]:
    """Faults of the section `norms`: keys that no line has."""
    known = [line.template.text.rstrip("?") for line in lines]
    for norm in norms:
        for template in (norm.gain, *norm.users):
            if not any(template.text == text or template.regex.fullmatch(text) for text in known):
                near = did_you_mean(template.text, known) or "write it as a line of the spec does"
                yield Fault(f"`norms` names `{template.text}`, and no line has that key", norm.line, near)
            for variable in sorted(norm.gain.variables - template.variables):
                yield Fault(f"`{template.text}` does not tell `{{{variable}}}` of `{norm.gain.text}`", norm.line)


def _faults_of_line(line: Line) -> Iterator[Fault]:
    for name in line.pattern.dim_names() if line.pattern else ():
        for variable in _unbound(name, line.template.variables):
            yield Fault(
                f"dim `{name}` uses `{{{variable}}}`, which the key `{line.template.text}` does not have",
                line.line,
                did_you_mean(variable, sorted(line.template.variables))
                or "put the variable into the key template, or name the dim without it",
            )


def _faults_of_shorthands(shorthands: Sequence[Shorthand], lines: Sequence[Line]) -> Iterator[Fault]:
    """Names of `axes` that are repeated, lack a variable, or contain themselves."""
    seen: dict[str, Shorthand] = {}
    leads: dict[str | Ref, set[str | Ref]] = {shorthand.name.parts[0]: set() for shorthand in shorthands}
    for shorthand in shorthands:
        name, line = shorthand.name, shorthand.line
        first = seen.setdefault(str(name), shorthand)
        if first is not shorthand:
            yield Fault(f"`{name}` stands on lines {first.line} and {line}", line, "keep one of the two")
        if any(isinstance(part, Ref) and (part.pick is not Pick.SAME or part.offset) for part in name.parts):
            yield Fault(f"`{name}`: a name in `axes` has words, numbers and plain {{i}} only", line)
        for used in shorthand.pattern.dim_names():
            leads[name.parts[0]].add(used.parts[0])
            for variable in _unbound(used, name.variables):
                yield Fault(f"`{used}` uses `{{{variable}}}`, which `{name}` does not have", line)
    for shorthand in shorthands:
        if shorthand.name.parts[0] in _reached(leads, shorthand.name.parts[0]):
            yield Fault(f"`{shorthand.name}` stands for itself in the end", shorthand.line, "name a dim instead")
    patterns = [(line.pattern, line.line) for line in lines] + [(s.pattern, s.line) for s in shorthands]
    for pattern, number in patterns:
        for used in pattern.dim_names() if pattern else ():
            if used.parts[0] in leads and used.chooses:
                yield Fault(f"`{used}` is a name of `axes`, which stands plainly or with an offset", number)


def _reached(leads: Mapping[str | Ref, Collection[str | Ref]], start: str | Ref) -> set[str | Ref]:
    """The names that `start` contains, directly or through other names."""
    found: set[str | Ref] = set()
    todo = [*leads[start]]
    while todo:
        word = todo.pop()
        if word not in found:
            found.add(word)
            todo += leads.get(word, ())
    return found


def _undefined_dims(mentions: Sequence[_Mention]) -> Iterator[Fault]:
    """Dims that are only used through `{prev c}`, `{i-1}` or `{*}`, so that no tensor defines them."""
    names = [(line, name) for line in mentions for name in line.names]
    defined = {_family(name): name for _, name in names if not any(_refers_elsewhere(part) for part in name.parts)}
    for line, name in names:
        if _family(name) not in defined:
            yield Fault(
                f"dim `{name}` is used, but no line names it plainly, so no tensor brings it into being",
                line.line,
                did_you_mean(str(name), map(str, defined.values())) or "name it plainly where it is made: `conv.{c}`",
            )


def _faults_of_rule(rule: Rule, mentions: Sequence[_Mention]) -> Iterator[Fault]:
    used = {_family(name): name for line in mentions for name in line.names}
    for name in (rule.name, rule.owner, rule.same_as):
        if name is not None and _family(name) not in used:
            near = did_you_mean(str(name), sorted({str(found) for found in used.values()}))
            yield Fault(f"dim `{name}` stands in no pattern", rule.line, near)
    bound = rule.name.variables
    for name in (rule.owner, rule.same_as):
        for variable in _unbound(name, bound) if name is not None else ():
            yield Fault(
                f"dim `{rule.name}`: `{name}` uses `{{{variable}}}`, which `{rule.name}` does not have",
                rule.line,
                did_you_mean(variable, sorted(bound)) or "use the variables of the dim itself",
            )
        if name is not None and any(isinstance(part, Ref) and part.is_range for part in name.parts):
            yield Fault(f"dim `{rule.name}`: `{name}` stands for several dims, and one is needed", rule.line)
    if not _is_plain(rule.name):
        yield Fault(f"dim `{rule.name}`: a rule's name has {{i}}, {{first i}} or {{last i}} only", rule.line)
    if rule.index is not None:
        variable, template = rule.index
        for missing in _unbound(rule.name, template.variables - {variable}):
            yield Fault(
                f"dim `{rule.name}` uses `{{{missing}}}`, which the keys `{template.text}` do not have", rule.line
            )


def _faults_of_condition(rule: Rule | SignRule | ScaleRule | RotationRule, lines: Sequence[Line]) -> Iterator[Fault]:
    """Keys of `without KEYS` that no line has: the rule would always hold."""
    known = [line.template.text.rstrip("?") for line in lines]
    for template in rule.without:
        if not any(template.text == text or template.regex.fullmatch(text) for text in known):
            yield Fault(
                f"dim `{rule.name}` has a rule without `{template.text}`, and no line has that key",
                rule.line,
                did_you_mean(template.text, known) or "write it as a line of the spec does",
            )


def _faults_of_sizes(mentions: Sequence[_Mention], sizes: Sequence[SizeRule]) -> Iterator[Fault]:
    declared = {str(rule.name): rule for rule in sizes}
    used = {size for line in mentions for size in line.sizes}
    used |= {name for rule in sizes for choice in rule.choices for name in choice.names}
    families = {_family(name) for line in mentions for name in line.names}
    for line in mentions:
        for size in line.sizes:
            if size not in declared:
                yield Fault(
                    f"`_:{size}` names a size that `sizes` does not have",
                    line.line,
                    did_you_mean(size, sorted(declared)) or f"add `{size}:` to `sizes` (nothing after it will do)",
                )
    words = {str(word) for word, parts in families if parts == 1}
    for rule in sizes:
        if not _is_plain(rule.name):
            yield Fault(f"size `{rule.name}`: its name has {{i}}, {{first i}} or {{last i}} only", rule.line)
        if _family(rule.name) not in families and str(rule.name) not in used:
            near = did_you_mean(str(rule.name), sorted(used | {str(n) for line in mentions for n in line.names}))
            yield Fault(f"size `{rule.name}` is used nowhere", rule.line, near)
        for choice in rule.choices:
            known = sorted({*declared, *words, *rule.name.variables} - {str(rule.name)})
            for name in sorted(choice.names.difference(known)):
                yield Fault(
                    f"`{choice.text}` uses `{name}`, which is no size, dim or variable here",
                    rule.line,
                    did_you_mean(name, ["config", *known]) or f"it can use {', '.join(['config', *known])}",
                )


def _faults_of_requirements(mentions: Sequence[_Mention], requires: Sequence[Requirement]) -> Iterator[Fault]:
    known = {_family(name): str(name) for line in mentions for name in line.names}
    for need in requires:
        for name in (need.name, need.equal) if need.equal else (need.name,):
            unbound = [*_unbound(name, need.name.variables)]
            if _family(name) not in known:
                yield Fault(
                    f"`require` speaks of dim `{name}`, which no pattern has",
                    need.line,
                    did_you_mean(str(name), sorted(known.values())) or "write it as a pattern does",
                )
            elif not _is_plain(name) or unbound:
                yield Fault(f"dim `{name}` in `require` has {{i}} as the dim before it, and nothing else", need.line)


def _family(name: DimName) -> tuple[str | Ref, int]:
    """Dims of one family share their first word and their number of parts."""
    return name.parts[0], len(name.parts)


def _refers_elsewhere(part: str | Ref) -> bool:
    return isinstance(part, Ref) and (part.pick is not Pick.SAME or part.offset < 0)


def _unbound(name: DimName, bound: Collection[str]) -> Iterator[str]:
    """Variables that `name` needs and `bound` lacks."""
    for part in name.parts:
        if isinstance(part, Ref) and part.pick not in (Pick.ALL, Pick.FIRST, Pick.LAST) and part.variable not in bound:
            yield part.variable


def _is_plain(name: DimName) -> bool:
    plain = (Pick.SAME, Pick.FIRST, Pick.LAST)
    return all(isinstance(part, str) or part.pick in plain for part in name.parts)
