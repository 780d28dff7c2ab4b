"""The text of a derived spec: keys folded into templates where all layers agree, and a comment for what stays."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from rebasin_cli.derivation.expressions import Chain, Expression, Moving, Still
from rebasin_cli.derivation.naming import Name, numbers_of, quoted, template_of, words_of
from rebasin_cli.derivation.wiring import Wiring

_Place = tuple[int, str]
"""A number of a key, and how a line has it: as a variable, or as it is where all of its keys have the same."""

Place = tuple[str, int, int]
"""Where a dim stands: a tensor, one of its axes, and which of the dims on it, from 0."""

_LETTERS = "ijklmnopqrstuvwxyz"  # of variables; `e` is the unit of a dim that is an index of keys


@dataclass(frozen=True, slots=True)
class Draft:
    """All that a derived spec says.

    Attributes:
        names: of the dims; keys: all keys of the state dict of each tensor, the first of which names it.
        buffers: tensors that are moved and not matched; ignored: keys that are copied, with the reason.
        sizes: of dims that no shape tells, as numbers or expressions; stays: (what, why), for people; comments: of
        single tensors.
        constants: how a part of a product or of segments that stays is written, by its size; as the size itself where
        nothing is said. named: sizes by the names that `constants` use, as expressions.
        prefixes: that keys may begin with; optional: keys that a checkpoint may be without.
        signs, scales, rotations: dims that have them; marks: `|` or `/` where these do not act or act inversely.
        centred: those whose maps keep ones; norms: gains on streams → what takes these up, in templates.
    """

    title: str
    wiring: Wiring
    names: Mapping[int, Name]
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()
    sizes: Mapping[int, int | str] = field(default_factory=dict)
    name: str = "derived"
    ignored: Mapping[str, str] = field(default_factory=dict)
    stays: Sequence[tuple[str, str]] = ()
    comments: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[int, str] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    prefixes: Sequence[str] = ()
    optional: frozenset[str] = frozenset()
    signs: frozenset[int] = frozenset()
    scales: frozenset[int] = frozenset()
    rotations: frozenset[int] = frozenset()
    centred: frozenset[int] = frozenset()
    norms: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[Place, str] = field(default_factory=dict)

    def spelled(self, dim: int) -> str:
        """The name of a dim as checkpoints have it: `fc1.0`."""
        return _spelled(self.names[dim])


@dataclass(frozen=True, slots=True)
class _Line:
    """A key template with its pattern; numbers of dims are written as variables of the template, or as they are."""

    key: str
    pattern: str
    comment: str = ""


def spec_text(draft: Draft) -> str:
    """The YAML of a spec."""
    out = [f"name: {quoted(draft.name)}", f"title: {quoted(draft.title)}"]
    wiring = draft.wiring
    if draft.prefixes:
        out.append(f"prefixes: [{', '.join(draft.prefixes)}]")
    sizes = [f"{name}: [{expression}]" for name, expression in draft.named.items()]
    sizes += _rules(draft, {dim: partial(_said, f"[{size}]") for dim, size in draft.sizes.items()})
    rules = _rules(draft, {dim: partial(_owner_rule, owner) for dim, owner in wiring.owners.items()})
    rules += _rules(draft, {dim: partial(_index_rule, draft, dim) for dim in wiring.indices})
    rules += _rules(draft, dict.fromkeys(sorted(wiring.fixed), lambda _: "fixed because the network tells them apart"))
    stays = [f"{quoted(what)}: {quoted(why)}" for what, why in draft.stays]
    acting = {
        "signs": _listed(draft, draft.signs),
        "scales": _listed(draft, draft.scales),
        "rotations": _listed(draft, draft.rotations, draft.centred),
    }
    norms = [f"{quoted(gain)}: {quoted(users)}" for gain, users in draft.norms.items()]
    sections = {"sizes": sizes, "dims": rules, **acting, "norms": norms, "stays": stays}
    for section, lines in sections.items():
        if lines:
            out += [f"{section}:", *(f"  {line}" for line in lines)]
    for section, wanted in (("tensors", False), ("buffers", True)):
        lines_of = _lines(draft, {name for name in wiring.shapes if (name in draft.buffers) is wanted})
        if lines_of:
            out += [f"{section}:", *(_written(line, "?" * (line.key in draft.optional)) for line in lines_of)]
    if draft.ignored:
        out.append("ignored:")
        out += [f"  - {quoted(key)}" + (f"       # {why}" if why else "") for key, why in _ignored(draft)]
    return "\n".join(out) + "\n"


def _written(line: _Line, end: str) -> str:
    return f"  {quoted(line.key + end)}: {quoted(line.pattern)}" + (f"       # {line.comment}" if line.comment else "")


def _spelled(name: Name) -> str:
    return ".".join([name[0], *map(str, name[1])])


def _rules(draft: Draft, rules: Mapping[int, Callable[[Callable[[int], str]], str]]) -> list[str]:
    """A line for every dim, one for all dims of a word where they say the same.

    Args:
        rules: by dim, from a way to name other dims to what is said of it.
    """
    by_word: dict[tuple[str, int], list[int]] = {}
    for dim in rules:
        word, numbers = draft.names[dim]
        by_word.setdefault((word, len(numbers)), []).append(dim)
    lines = []
    for (word, count), dims in by_word.items():
        variables = _variables(count)
        general = {
            rules[dim](partial(_relative, draft, [*zip(draft.names[dim][1], variables, strict=True)])) for dim in dims
        }
        everyone = sum(1 for other in draft.names.values() if (other[0], len(other[1])) == (word, count))
        if len(general) == 1 and count and 1 < len(dims) == everyone:
            lines.append(f"{'.'.join([word, *variables])}: {general.pop()}")
        else:
            lines += [f"{_spelled(draft.names[dim])}: {rules[dim](lambda o: _spelled(draft.names[o]))}" for dim in dims]
    return lines


def _listed(draft: Draft, dims: Collection[int], keeping: Collection[int] = ()) -> list[str]:
    """Items of a section that lists dims; `keeping`: those whose maps keep ones."""
    rules = _rules(draft, {dim: partial(_said, "keeping ones" if dim in keeping else "") for dim in sorted(dims)})
    return [f"- {line.replace(': ', ' ').strip()}" for line in rules]


def _many(draft: Draft, word: str) -> bool:
    """Whether a word names one dim in each of several layers, so that one of them may be the last."""
    return sum(w == word for w, _ in draft.names.values()) > 1 and all(
        len(numbers) == 1 for w, numbers in draft.names.values() if w == word
    )


def _relative(draft: Draft, places: Sequence[_Place], dim: int, *, bare: bool = False) -> str:
    """The name of a dim where the numbers of a key are written in some way; `bare`: the key has none."""
    word, own = draft.names[dim]
    if 0 < len(own) <= len(places):
        found = [_beside(number, *place) for number, place in zip(own, places, strict=False)]
        if sum("+" in text or "-" in text for text in found) < 2:
            return ".".join([word, *found])
    if bare and len(own) == 1 and own == max(n for w, n in draft.names.values() if w == word) and _many(draft, word):
        return f"{word}.{{last {_LETTERS[0]}}}"
    return _spelled(draft.names[dim])


def _beside(own: int, number: int, text: str) -> str:
    """A number of a dim, from that of a key and how the key has it: the same, the next, the one before, or as it is."""
    if not text.startswith("{") or abs(own - number) > 1:
        return str(own)
    return text if own == number else f"{text[:-1]}{own - number:+d}}}"


def _variables(count: int) -> list[str]:
    return [f"{{{letter}}}" for letter in _LETTERS[:count]]


def _with_variables(key: str) -> str:
    """A key with a variable in place of every number."""
    letters = iter(_LETTERS)
    return ".".join(f"{{{next(letters)}}}" if word.isdigit() else word for word in key.split("."))


def _keys(draft: Draft, names: Collection[str]) -> list[tuple[str, str]]:
    """Every key that the spec has a line for, with the name of its tensor, in the order of the network."""
    return [
        (key, name)
        for name in draft.wiring.shapes
        if name in names
        for key in draft.keys.get(name, (name,))
        if key not in draft.ignored
    ]


def _lines(draft: Draft, names: Collection[str]) -> list[_Line]:
    """One line for all keys of a template that agree, single ones for the others; in the order of the network."""
    groups: dict[tuple[str, int], list[tuple[str, str]]] = {}
    every = _keys(draft, draft.wiring.shapes)
    for key, name in every:
        groups.setdefault((template_of(key), len(draft.wiring.shapes[name])), []).append((key, name))
    general: dict[str, _Line] = {}
    for (template, _), members in groups.items():
        taken = {line.key for line in general.values()}  # by tensors of another number of axes
        general |= _general(draft, template, members, taken)
    keys = _keys(draft, names)
    single = {key: _Line(key, _pattern(draft, name, ()), draft.comments.get(name, "")) for key, name in keys}
    lines = dict.fromkeys(general.get(key, single[key]) for key, _ in keys)
    return _joined([*lines], _lacking(general, {key for key, _ in every}))


def _lacking(general: Mapping[str, _Line], keys: Collection[str]) -> set[_Line]:
    """The lines with variables that some of the layers lack, which others of the same place have."""
    seen: dict[tuple[str, tuple[str, ...]], list[Mapping[str, str]]] = {}
    for key, line in general.items():
        bound = {text: word for text, word in zip(line.key.split("."), key.split("."), strict=True) if "{" in text}
        seen.setdefault((_scope(line.key), tuple(bound)), []).append(bound)
    return {
        line
        for line in general.values()
        for bound in seen[_scope(line.key), tuple(text for text in line.key.split(".") if "{" in text)]
        if ".".join(bound.get(text, text) for text in line.key.split(".")) not in keys
    }


def _scope(key: str) -> str:
    """A key up to its last variable."""
    return key.rpartition("}")[0]


def _general(
    draft: Draft, template: str, members: Sequence[tuple[str, str]], taken: Collection[str]
) -> dict[str, _Line]:
    """Lines with variables, by the keys for which they are right: first with all, then with ever fewer.

    Of the lines that match a key the one with the fewest variables counts. Those with equally many have them in the
    same places, so that no two of them match one.
    """
    if not words_of(template.rpartition(".")[0].replace("#", "0")):
        return {}
    values = [*zip(*(numbers_of(member) for member, _ in members), strict=True)]
    varying = [at for at, numbers in enumerate(values) if len(set(numbers)) > 1]
    right: dict[str, _Line] = {}
    for count in range(len(varying), 0, -1):
        ways = itertools.combinations(varying, count)
        tried = [_with_variables_at(draft, template, members, right, taken, way) for way in ways]
        changed, lost = max(tried, key=lambda made: len(made[0]) - len(made[1]))
        right = {key: line for key, line in right.items() if key not in lost} | changed
    return right


def _with_variables_at(
    draft: Draft, template: str, members: Sequence[tuple[str, str]], right: Mapping[str, _Line],
    taken: Collection[str], variable: Sequence[int],
) -> tuple[dict[str, _Line], set[str]]:  # fmt: skip
    """Lines with variables in some places that put more right than wrong: what they are right for, and no longer is."""
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for key, name in members:
        letters = iter(_LETTERS)
        texts = tuple(f"{{{next(letters)}}}" if at in variable else str(n) for at, n in enumerate(numbers_of(key)))
        groups.setdefault(texts, []).append((key, name))
    changed: dict[str, _Line] = {}
    lost: set[str] = set()
    for texts, group in groups.items():
        spelled = {key: _pattern(draft, name, [*zip(numbers_of(key), texts, strict=True)]) for key, name in group}
        pattern = Counter(spelled.values()).most_common(1)[0][0]
        fits = {key for key, text in spelled.items() if text == pattern}
        wrong = (spelled.keys() - fits) & right.keys()
        rest = iter(texts)
        line = ".".join(next(rest) if word == "#" else word for word in template.split("."))
        if len(fits) < 2 or len(fits - right.keys()) <= len(wrong) or line in taken:
            continue
        comment = next((draft.comments[name] for key, name in group if key in fits and name in draft.comments), "")
        changed |= dict.fromkeys(fits, _Line(line, pattern, comment))
        lost |= wrong
    return changed, lost


def _joined(lines: Sequence[_Line], lacking: Collection[_Line]) -> list[_Line]:
    """Neighbours that differ in the last word alone as one line: `norm.{weight,bias}`; `?` where layers lack it."""
    joined: list[_Line] = []
    for (stem, pattern, comment, lacks), group in itertools.groupby(
        lines, key=lambda line: (line.key.rpartition(".")[0], line.pattern, line.comment, line in lacking)
    ):
        lasts = [line.key.rpartition(".")[2] for line in group]
        if stem and len(lasts) > 1 and not any(c in last for last in lasts for c in "{}*?"):
            lasts = [f"{{{','.join(lasts)}}}"]
        joined += [_Line(f"{stem}.{last}{'?' * lacks}" if stem else last, pattern, comment) for last in lasts]
    return joined


def _pattern(draft: Draft, name: str, places: Sequence[_Place]) -> str:
    spelled = partial(_relative, draft, places, bare=not numbers_of(name))
    axes = range(len(draft.wiring.shapes[name]))
    return " ".join(_axis(draft, draft.wiring.expressions[name, at], _marking(draft, name, at, spelled)) for at in axes)


def _marking(draft: Draft, name: str, axis: int, spelled: Callable[[int], str]) -> Callable[[int], str]:
    """Names of the dims on an axis, one after the other, with their marks."""
    numbers = itertools.count()

    def marked(dim: int) -> str:
        mark = draft.marks.get((name, axis, next(numbers)), "")
        return f"|{spelled(dim)}|" if mark == "|" else mark + spelled(dim)

    return marked


def _axis(draft: Draft, expression: Expression, spelled: Callable[[int], str]) -> str:
    if isinstance(expression, Still):
        return "_"
    if isinstance(expression, Chain):
        return " + ".join(_atom(draft, part, spelled) for part in expression.parts)
    return _atom(draft, expression, spelled)


def _atom(draft: Draft, expression: Expression, spelled: Callable[[int], str]) -> str:
    if isinstance(expression, Still):
        return draft.constants.get(expression.size, str(expression.size))
    if isinstance(expression, Moving):
        return spelled(expression.move)
    if isinstance(expression, Chain):
        return f"({' + '.join(_atom(draft, part, spelled) for part in expression.parts)})"
    inner = [
        _axis(draft, factor, spelled) if isinstance(factor, Chain) else _atom(draft, factor, spelled)
        for factor in expression.factors
    ]
    return f"({' '.join(inner)})"


def _ignored(draft: Draft) -> list[tuple[str, str]]:
    """Templates of the keys that are copied, with every number a variable where all keys of that form are copied."""
    spoken = {
        template_of(k) for name in draft.wiring.shapes for k in draft.keys.get(name, ()) if k not in draft.ignored
    }
    found: dict[str, str] = {}
    for key, why in draft.ignored.items():
        found.setdefault(key if template_of(key) in spoken else _with_variables(key), why)
    return list(found.items())


def _said(text: str, _: Callable[[int], str]) -> str:
    return text


def _owner_rule(owner: int, name: Callable[[int], str]) -> str:
    return f"within {name(owner)}"


def _index_rule(draft: Draft, dim: int, name: Callable[[int], str]) -> str:
    place = draft.wiring.indices[dim]
    if "{" in name(dim):
        place = _with_variables(place)
    return f"index e in {place}.{{e}}.*"
