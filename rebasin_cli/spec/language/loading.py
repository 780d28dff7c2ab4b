"""From a YAML file to a `PermutationSpec`: every fault of a spec by itself is refused here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import rebasin_cli
from rebasin_cli.errors import ContentError, did_you_mean
from rebasin_cli.spec.language import LONGEST_TEXT, MOST_LINES
from rebasin_cli.spec.language.checks import ActingRule, acting_faults, find_faults, norm_faults, repeated_templates
from rebasin_cli.spec.language.pattern import DimName, Pattern, parse_dim_name, parse_pattern
from rebasin_cli.spec.language.permutation_spec import (
    PAIRS,
    Line,
    NormRule,
    Pairs,
    PermutationSpec,
    Requirement,
    RotationRule,
    Rule,
    ScaleRule,
    Section,
    Shorthand,
    SignRule,
    SizeRule,
)
from rebasin_cli.spec.language.template import Template, alternatives, parse_templates
from rebasin_cli.spec.language.yaml_nodes import Items, Node, Scalar, Table, parse_yaml, read_spec, read_yaml

if TYPE_CHECKING:  # which few specs have
    from rebasin_cli.spec.language.parts import Part

T = TypeVar("T")

_KEYS = (
    "name", "title", "model_types", "prefixes", "parts", "sizes", "require", "axes", "dims", "signs", "scales",
    "rotations", "norms", "stays", "tensors", "buffers", "ignored",
)  # fmt: skip


def load_spec(path: Path, *, shipped: bool = False) -> PermutationSpec:
    """Read and check one spec file.

    Raises:
        ContentError: with file and line, for anything outside the language.
    """
    if shipped:
        return _Parser(path, shipped).parse(read_yaml(path))
    return parse_spec(read_spec(path), str(path))


def parse_spec(text: str, file: str = "spec.yaml") -> PermutationSpec:
    """Parse and check the text of a spec; `file` names it in messages and, without its ending, by default.

    Raises:
        ContentError: as `load_spec` does.
    """
    path = Path(file)
    spec = _Parser(path, shipped=False).parse(parse_yaml(text, path.name))
    return spec if spec.parts else replace(spec, text=text)


@lru_cache(maxsize=65536)
def _pattern(text: str) -> Pattern:
    return parse_pattern(text)


class _Parser:
    def __init__(self, path: Path, shipped: bool) -> None:
        self.path = path
        self.shipped = shipped
        self._tables = 0

    def parse(self, table: Table) -> PermutationSpec:
        sections = self._sections(table)
        if not self._table(sections.get("tensors")) and not self._table(sections.get("parts")):
            raise ContentError(
                "a spec needs a `tensors` section", where=f"{self.path.name}:{table.line}",
                remedy="list each tensor's key template with one pattern per axis; see architectures/README.md",
            )  # fmt: skip
        lines: list[Line] = []
        self._lines(lines, sections.get("tensors"), "tensors")
        self._lines(lines, sections.get("buffers"), "buffers")
        self._ignored(lines, sections.get("ignored"))
        rules = tuple(self._rule(key, value) for key, value in self._table(sections.get("dims")))
        sizes = tuple(self._size(key, value) for key, value in self._table(sections.get("sizes")))
        shorthands = tuple(s for key, value in self._table(sections.get("axes")) for s in self._shorthands(key, value))
        signs = tuple(self._sign(item) for item in self._items(sections.get("signs")))
        scales = tuple(self._scale(item) for item in self._items(sections.get("scales")))
        requires = tuple(self._requirement(item) for item in self._items(sections.get("require")))
        rotations = tuple(self._rotation(item) for item in self._items(sections.get("rotations")))
        norms = tuple(self._norm(*entry) for entry in self._entries(sections.get("norms")))
        acting: dict[str, Sequence[ActingRule]] = {"signs": signs, "scales": scales, "rotations": rotations}
        for fault in (
            *find_faults(lines, rules, sizes, shorthands, requires),
            *acting_faults(lines, rules, acting, shorthands),
            *norm_faults(lines, norms),
        ):
            raise self.error(fault.what, fault.line, fault.remedy)
        parts = []
        for key, value in self._table(sections.get("parts")):
            parts.append(self._part(key, value))
            self._add(lines, parts[-1].lines(), key.line)
        rules += tuple(rule for part in parts for rule in part.rules())
        sizes += tuple(size for part in parts for size in part.sizes())
        shorthands += tuple(shorthand for part in parts for shorthand in part.shorthands())
        signs += tuple(sign for part in parts for sign in part.signs())
        scales += tuple(scale for part in parts for scale in part.scales())
        requires += tuple(need for part in parts for need in part.requires())
        rotations += tuple(rotation for part in parts for rotation in part.rotations())
        norms += tuple(norm for part in parts for norm in part.norms())
        for fault in repeated_templates(lines):
            raise self.error(fault.what, fault.line, fault.remedy)
        stays = [(k.text, self._text(v)) for k, v in self._table(sections.get("stays"))]
        return PermutationSpec(
            name=self._text(sections["name"]) if "name" in sections else self.path.stem,
            title=self._text(sections["title"]) if "title" in sections else "",
            path=self.path,
            shipped=self.shipped,
            lines=tuple(lines),
            rules=rules,
            sizes=sizes,
            prefixes=tuple(self._words(sections.get("prefixes"))),
            model_types=tuple(self._words(sections.get("model_types"))),
            stays=(*stays, *(stay for part in parts for stay in part.stays())),
            shorthands=shorthands,
            parts=tuple(part.spec.name for part in parts),
            signs=signs,
            scales=scales,
            requires=requires,
            rotations=rotations,
            norms=norms,
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

    def _entries(self, node: Node | None, prefix: str = "") -> Iterator[tuple[str, Scalar, Node]]:
        """What a key begins with, the key and its value; a key that holds a table is a prefix of the table's keys."""
        self._tables += 1
        if self._tables > MOST_LINES:
            raise self.error(f"the spec's tables stand for more than {MOST_LINES:,} tables", node.line if node else 1)
        for key, value in self._table(node):
            if isinstance(value, Table):
                for start in key.text.split():
                    yield from self._entries(value, prefix + start)
            else:
                yield prefix, key, value

    def _lines(self, lines: list[Line], node: Node | None, section: Section) -> None:
        for prefix, key, value in self._entries(node):
            pattern = self._parsed(_pattern, self._text(value), value.line)
            templates = self._parsed(parse_templates, prefix + key.text, key.line)
            self._add(lines, (Line(template, pattern, section, key.line) for template in templates), key.line)

    def _ignored(self, lines: list[Line], node: Node | None) -> None:
        for item in self._items(node):
            templates = self._parsed(parse_templates, item.text, item.line)
            self._add(lines, (Line(template, None, "ignored", item.line) for template in templates), item.line)

    def _add(self, lines: list[Line], more: Iterable[Line], at: int) -> None:
        lines += more
        if len(lines) > MOST_LINES:
            raise self.error(f"the spec has more than {MOST_LINES:,} key templates, alternatives spelled out", at)

    def _rule(self, key: Scalar, value: Node) -> Rule:
        name = self._parsed(parse_dim_name, key.text, key.line)
        text = " ".join(self._text(value).split())
        stays, _, why = text.partition(" because ")
        kind, without = self._condition(stays, value.line)
        if kind == "fixed":
            return Rule(name, key.line, fixed=why or "fixed", without=without)
        if kind.startswith("same as "):
            target = kind.removeprefix("same as ").removesuffix(" if equal")
            same_as = self._parsed(parse_dim_name, target, value.line)
            return Rule(name, key.line, same_as=same_as, if_equal=kind.endswith(" if equal"), without=without)
        within, _, index = kind.partition("index ")
        owner = None
        if within.startswith("within "):
            owner = self._parsed(parse_dim_name, within.removeprefix("within "), value.line)
        elif within or not index:
            raise self.error(
                f"dim `{name}`: `{text}` is none of `within OWNER`, `index e in KEYS`, `same as DIM` (`if equal`), "
                "`fixed`, each perhaps `without KEYS`",
                value.line, did_you_mean(text.partition(" ")[0], ("within", "index", "same", "fixed")),
            )  # fmt: skip
        found = self._index(name, index, value.line) if index else None
        return Rule(name, key.line, owner=owner, index=found, without=without)

    def _condition(self, text: str, line: int) -> tuple[str, tuple[Template, ...]]:
        """What is said, and the keys without which alone it holds."""
        said, conditional, keys = text.partition(" without ")
        found = (self._parsed(parse_templates, each, line) for each in (keys.split(" or ") if conditional else ()))
        return said, tuple(template for templates in found for template in templates)

    def _sign(self, item: Scalar) -> SignRule:
        name, without = self._condition(" ".join(item.text.split()), item.line)
        return SignRule(self._parsed(parse_dim_name, name, item.line), item.line, without)

    def _scale(self, item: Scalar) -> ScaleRule:
        said, without = self._condition(" ".join(item.text.split()), item.line)
        name, _, needs = said.partition(" before ")
        return ScaleRule(self._parsed(parse_dim_name, name, item.line), item.line, without, needs)

    def _requirement(self, item: Scalar) -> Requirement:
        one, sign, other = [*item.text.split(), "", "", ""][:3]
        number = int(other) if sign == ">" and re.fullmatch(r"\d{1,9}", other) else None
        if len(item.text.split()) != 3 or (sign != "=" and number is None):
            raise self.error(
                f"`{item.text}` should read `DIM = DIM` or `DIM > NUMBER`", item.line,
                "what `require` asks: that two dims have equally many units, or one of them more than a number",
            )  # fmt: skip
        equal = None if number is not None else self._parsed(parse_dim_name, other, item.line)
        return Requirement(self._parsed(parse_dim_name, one, item.line), item.line, equal, number or 0)

    def _rotation(self, item: Scalar) -> RotationRule:
        said, without = self._condition(" ".join(item.text.split()), item.line)
        said, _, owner = said.partition(" within ")
        said, turned, pairs = said.partition(" in ")
        name, keeping, what = said.partition(" keeping ")
        if keeping and what != "ones":
            raise self.error(f"dim `{name}` keeping `{what}`: rotations keep ones, or nothing", item.line)
        paired: Pairs = next((known for known in PAIRS if known == pairs), "")
        if (turned or owner) and not paired:
            raise self.error(
                f"dim `{name}` in `{pairs}`: a rotary embedding turns pairs in {' or in '.join(PAIRS)}", item.line,
                "halves: units i and i + n/2; neighbours: 2i and 2i + 1; `DIM in halves within OWNER`",
            )  # fmt: skip
        within = self._parsed(parse_dim_name, owner, item.line) if owner else None
        rule = RotationRule(self._parsed(parse_dim_name, name, item.line), item.line, without, bool(keeping))
        return replace(rule, pairs=paired, owner=within)

    def _norm(self, prefix: str, key: Scalar, value: Node) -> NormRule:
        gains = self._parsed(parse_templates, prefix + key.text, key.line)
        if len(gains) != 1:
            raise self.error(f"`{key.text}` names several norms", key.line, "give each of them a line")
        users = (self._parsed(parse_templates, prefix + text, value.line) for text in self._text(value).split())
        return NormRule(gains[0], tuple(template for found in users for template in found), key.line)

    def _index(self, name: DimName, text: str, line: int) -> tuple[str, Template]:
        variable, _, keys = text.partition(" in ")
        templates = self._parsed(parse_templates, keys.strip(), line) if keys.strip() else ()
        if len(templates) != 1 or variable.strip() not in templates[0].variables:
            raise self.error(
                f"dim `{name}`: `index {text}` should read `index e in some.{{e}}.key.*`", line,
                "name the variable of the keys on which the permutation acts, and one template that has it",
            )  # fmt: skip
        return variable.strip(), templates[0]

    def _part(self, key: Scalar, value: Node) -> Part:
        from rebasin_cli.spec.language.parts import Part

        name, said = key.text.removesuffix("?"), self._text(value).split()
        if len(said) != 3 or said[1] != "under" or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise self.error(
                f"the part `{key.text}: {self._text(value)}` should read `name: SPEC under PREFIX.`", key.line,
                "the spec's name, and what the keys of this part begin with",
            )  # fmt: skip
        beside = self.path.parent / f"{said[0]}.yaml"
        path = beside if beside.is_file() else architectures_folder() / f"{said[0]}.yaml"
        if not path.is_file():
            near = did_you_mean(said[0], [p.stem for p in architectures_folder().glob("*.yaml")])
            raise self.error(f"there is no architecture `{said[0]}` for the part `{name}`", key.line, near)
        if any(section.text == "parts" for section, _ in read_yaml(path)):
            raise self.error(f"the part `{name}` is itself made of parts", key.line, "name its parts here")
        return Part(name, load_spec(path, shipped=self.shipped), said[2], key.text.endswith("?"), key.line)

    def _shorthands(self, key: Scalar, value: Node) -> list[Shorthand]:
        pattern = self._parsed(_pattern, self._text(value), value.line)
        if len(pattern.axes) != 1:
            raise self.error(
                f"`{key.text}` stands for one axis, and `{pattern}` is {len(pattern.axes)}", value.line,
                "put spaces only inside brackets and around `+`",
            )  # fmt: skip
        names = self._parsed(alternatives, key.text, key.line)
        return [Shorthand(self._parsed(parse_dim_name, name, key.line), pattern, key.line) for name in names]

    def _size(self, key: Scalar, value: Node) -> SizeRule:
        name = self._parsed(parse_dim_name, key.text, key.line)
        from rebasin_cli.spec.language.expressions import parse_expression

        choices = tuple(self._parsed(parse_expression, item.text, item.line) for item in self._items(value))
        return SizeRule(name, choices, key.line)

    def _parsed(self, parse: Callable[[str], T], text: str, line: int) -> T:
        if len(text) > LONGEST_TEXT:
            raise self.error(f"`{text[:40]}…` has {len(text):,} characters, and {LONGEST_TEXT:,} are allowed", line)
        try:
            return parse(text)
        except ValueError as error:
            raise self.error(str(error), line, "architectures/README.md has the grammar on one page") from error
        except RecursionError as error:
            raise self.error(f"`{text[:40]}…` is nested too deep to read", line) from error

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
            raise self.error("expected a list here, one item a line", node.line)
        return [Scalar(self._text(item), item.line) for item in node.items]

    def _words(self, node: Node | None) -> list[str]:
        return [item.text for item in self._items(node)]

    def _text(self, node: Node) -> str:
        if not isinstance(node, Scalar):
            raise self.error("expected a single line of text here", node.line)
        return node.text


@lru_cache(maxsize=1)
def architectures_folder() -> Path:
    """The folder of the shipped specs: inside the package if installed, next to it in a source checkout."""
    package = Path(rebasin_cli.__file__).parent
    candidates = (package / "architectures", package.parent / "architectures")
    for folder in candidates:
        if any(folder.glob("*.yaml")):
            return folder
    raise ContentError(
        "the shipped permutation specs are not there",
        where=" or ".join(map(str, candidates)),
        remedy="install the package again: `pip install --force-reinstall rebasin-cli`",
    )
