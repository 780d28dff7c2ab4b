"""From a YAML file to a `PermutationSpec`: everything that can be wrong with a spec by itself is refused here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from rebasin_cli.errors import ContentError
from rebasin_cli.spec.expressions import Expression, parse_expression
from rebasin_cli.spec.hints import did_you_mean
from rebasin_cli.spec.nodes import Items, Node, Scalar, Table, read_yaml
from rebasin_cli.spec.pattern import DimName, Pattern, parse_dim_name, parse_pattern
from rebasin_cli.spec.template import Template, parse_templates

Section = Literal["tensors", "buffers", "ignored"]
T = TypeVar("T")

_KEYS = (
    "name",
    "title",
    "model_types",
    "prefixes",
    "sizes",
    "dims",
    "stays",
    "tensors",
    "buffers",
    "ignored",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a section: a key template, and what the tensor's axes are."""

    template: Template
    pattern: Pattern | None
    section: Section
    line: int


@dataclass(frozen=True, slots=True)
class Rule:
    """What the `dims` section says of a dim.

    Attributes:
        owner: the dim it is within.
        index: (variable, template): it acts on that variable of the keys.
        same_as: the dim it is another name of.
        fixed: why it never moves; empty where it may.
    """

    name: DimName
    line: int
    owner: DimName | None = None
    index: tuple[str, Template] | None = None
    same_as: DimName | None = None
    fixed: str = ""


@dataclass(frozen=True, slots=True)
class SizeRule:
    """What the `sizes` section says of a named size or of a dim: the first expression that has a value counts."""

    name: DimName
    choices: tuple[Expression, ...]
    line: int


@dataclass(frozen=True, slots=True, eq=False)
class PermutationSpec:
    """A permutation spec, parsed: which axes of which tensors of an architecture move together.

    Attributes:
        sha256: over the canonical parsed form, so that comments, order of sections and spacing do not change it.
        stays: what never moves in this family and why, for people.
        shipped: whether it is one of the specs that come with the program (and are proved by its tests).
    """

    name: str
    title: str
    path: Path
    shipped: bool
    sha256: str
    lines: tuple[Line, ...]
    rules: tuple[Rule, ...]
    sizes: tuple[SizeRule, ...]
    prefixes: tuple[str, ...]
    model_types: tuple[str, ...]
    stays: tuple[tuple[str, str], ...]

    def at(self, line: int) -> str:
        """`file.yaml:12`, for messages."""
        return f"{self.path.name}:{line}"


def load_spec(path: Path, *, shipped: bool = False) -> PermutationSpec:
    """Read and check one spec file.

    Raises:
        ContentError: with file and line, for anything the language does not have.
    """
    return _Parser(path, shipped).parse(read_yaml(path))


@lru_cache(maxsize=65536)
def _pattern(text: str) -> Pattern:
    return parse_pattern(text)


class _Parser:
    def __init__(self, path: Path, shipped: bool) -> None:
        self.path = path
        self.shipped = shipped

    def parse(self, table: Table) -> PermutationSpec:
        sections = self._sections(table)
        if "tensors" not in sections:
            raise ContentError(
                "a spec needs a `tensors` section", where=f"{self.path.name}:{table.line}",
                remedy="list each tensor's key template with one pattern per axis; see architectures/README.md",
            )  # fmt: skip
        lines = [
            *self._lines(sections.get("tensors"), "tensors"),
            *self._lines(sections.get("buffers"), "buffers"),
            *self._ignored(sections.get("ignored")),
        ]
        self._refuse_twice(lines)
        rules = tuple(r for key, value in self._table(sections.get("dims")) for r in [self._rule(key, value)])
        sizes = tuple(self._size(key, value) for key, value in self._table(sections.get("sizes")))
        self._check_names(lines, rules, sizes)
        return PermutationSpec(
            name=self._text(sections["name"]) if "name" in sections else self.path.stem,
            title=self._text(sections["title"]) if "title" in sections else "",
            path=self.path,
            shipped=self.shipped,
            sha256=_canonical_hash(lines, rules, sizes),
            lines=tuple(lines),
            rules=rules,
            sizes=sizes,
            prefixes=tuple(self._words(sections.get("prefixes"))),
            model_types=tuple(self._words(sections.get("model_types"))),
            stays=tuple((k.text, self._text(v)) for k, v in self._table(sections.get("stays"))),
        )

    def error(self, what: str, line: int, remedy: str = "") -> ContentError:
        return ContentError(what, where=f"{self.path.name}:{line}", remedy=remedy)

    def _sections(self, table: Table) -> dict[str, Node]:
        sections: dict[str, Node] = {}
        for key, value in table:
            if key.text not in _KEYS:
                raise self.error(
                    f"unknown key `{key.text}`", key.line,
                    did_you_mean(key.text, _KEYS) or f"the keys of a spec are {', '.join(_KEYS)}",
                )  # fmt: skip
            sections[key.text] = value
        return sections

    def _lines(self, node: Node | None, section: Section) -> list[Line]:
        lines: list[Line] = []
        for key, value in self._table(node):
            pattern = self._parsed(_pattern, self._text(value), value.line)
            templates = self._parsed(parse_templates, key.text, key.line)
            for template in templates:
                self._check_variables(template, pattern, key)
                lines.append(Line(template, pattern, section, key.line))
        return lines

    def _ignored(self, node: Node | None) -> list[Line]:
        return [
            Line(template, None, "ignored", item.line)
            for item in self._items(node)
            for template in self._parsed(parse_templates, item.text, item.line)
        ]

    def _check_variables(self, template: Template, pattern: Pattern, key: Scalar) -> None:
        for name in pattern.dim_names():
            for part in name.parts:
                if isinstance(part, str) or (part.is_range and part.variable == "*"):
                    continue
                free = part.pick.value in ("first", "last")
                if part.variable not in template.variables and not free:
                    raise self.error(
                        f"dim `{name}` uses `{{{part.variable}}}`, which the key `{template.text}` does not have",
                        key.line, did_you_mean(part.variable, sorted(template.variables))
                        or "put the variable into the key template, or name the dim without it",
                    )  # fmt: skip

    def _refuse_twice(self, lines: list[Line]) -> None:
        seen: dict[tuple[str, int | None], Line] = {}
        for line in lines:
            axes = len(line.pattern.axes) if line.pattern else None
            first = seen.setdefault((line.template.text.rstrip("?"), axes), line)
            if first is not line:
                raise self.error(
                    f"the template `{line.template.text}` stands on lines {first.line} and {line.line}", line.line,
                    "keep one of the two",
                )  # fmt: skip

    def _rule(self, key: Scalar, value: Node) -> Rule:
        name = self._parsed(parse_dim_name, key.text, key.line)
        text = " ".join(self._text(value).split())
        if text == "fixed" or text.startswith("fixed because "):
            return Rule(name, key.line, fixed=text.removeprefix("fixed because "))
        if text.startswith("same as "):
            return Rule(name, key.line, same_as=self._parsed(parse_dim_name, text[8:], value.line))
        within, _, index = text.partition("index ")
        owner = None
        if within.startswith("within "):
            owner = self._parsed(parse_dim_name, within.removeprefix("within "), value.line)
        elif within:
            raise self.error(
                f"dim `{name}`: `{text}` is none of `within OWNER`, `index e in KEYS`, `same as DIM`, `fixed`",
                value.line, did_you_mean(text.split()[0], ("within", "index", "same", "fixed")),
            )  # fmt: skip
        return Rule(name, key.line, owner=owner, index=self._index(name, index, value.line) if index else None)

    def _index(self, name: DimName, text: str, line: int) -> tuple[str, Template]:
        variable, _, keys = text.partition(" in ")
        templates = self._parsed(parse_templates, keys.strip(), line) if keys.strip() else ()
        if len(templates) != 1 or variable.strip() not in templates[0].variables:
            raise self.error(
                f"dim `{name}`: `index {text}` should read `index e in some.{{e}}.key.*`", line,
                "name the variable of the keys on which the permutation acts, and one template that has it",
            )  # fmt: skip
        return variable.strip(), templates[0]

    def _size(self, key: Scalar, value: Node) -> SizeRule:
        name = self._parsed(parse_dim_name, key.text, key.line)
        items = self._items(value) if isinstance(value, Items) else [Scalar(self._text(value), value.line)]
        return SizeRule(name, tuple(self._parsed(parse_expression, item.text, item.line) for item in items), key.line)

    def _check_names(self, lines: list[Line], rules: tuple[Rule, ...], sizes: tuple[SizeRule, ...]) -> None:
        """Every size that a pattern names is declared, and every rule speaks of a dim that stands somewhere."""
        declared = {str(rule.name) for rule in sizes}
        families = {n.parts[0] for line in lines if line.pattern for n in line.pattern.dim_names()}
        for line in lines:
            for size in line.pattern.size_names() if line.pattern else ():
                if size not in declared:
                    raise self.error(
                        f"`_:{size}` names a size that `sizes` does not have", line.line,
                        did_you_mean(size, sorted(declared)) or f"add `{size}:` to `sizes` (an empty list will do)",
                    )  # fmt: skip
        for rule in rules:
            for name in (rule.name, rule.owner, rule.same_as):
                if name is not None and name.parts[0] not in families:
                    raise self.error(
                        f"dim `{name}` stands in no pattern", rule.line,
                        did_you_mean(str(name.parts[0]), sorted(map(str, families))),
                    )  # fmt: skip

    def _parsed(self, parse: Callable[[str], T], text: str, line: int) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise self.error(str(error), line, "architectures/README.md has the grammar on one page") from error

    def _table(self, node: Node | None) -> tuple[tuple[Scalar, Node], ...]:
        if node is None or (isinstance(node, Scalar) and not node.text):
            return ()
        if not isinstance(node, Table):
            raise self.error("expected `key: value` lines here", node.line)
        return node.entries

    def _items(self, node: Node | None) -> list[Scalar]:
        if node is None or (isinstance(node, Scalar) and not node.text):
            return []
        if isinstance(node, Scalar):
            return [node]
        if not isinstance(node, Items):
            raise self.error("expected a list here, one template an item", node.line)
        return [Scalar(self._text(item), item.line) for item in node.items]

    def _words(self, node: Node | None) -> list[str]:
        return [item.text for item in self._items(node)]

    def _text(self, node: Node) -> str:
        if not isinstance(node, Scalar):
            raise self.error("expected a single line of text here", node.line)
        return node.text


def _canonical_hash(lines: list[Line], rules: tuple[Rule, ...], sizes: tuple[SizeRule, ...]) -> str:
    form = {
        "lines": sorted([ln.section, ln.template.text, "" if ln.pattern is None else str(ln.pattern)] for ln in lines),
        "rules": sorted(
            [
                str(r.name),
                str(r.owner),
                str(r.same_as),
                bool(r.fixed),
                str(r.index and (r.index[0], r.index[1].text)),
            ]
            for r in rules
        ),
        "sizes": sorted([str(s.name), [e.text for e in s.choices]] for s in sizes),
    }
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()
