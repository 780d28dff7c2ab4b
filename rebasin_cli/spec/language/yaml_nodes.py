"""YAML read as nodes: every scalar is a string, every value has its line, no key is overwritten.

PyYAML's own constructors would turn `no` into False and `1_0` into 10, and let the second of two equal
keys win silently. A permutation spec is a table of names, which must stay as they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from rebasin_cli.errors import ContentError
from rebasin_cli.files import read_text
from rebasin_cli.spec.language import LONGEST_FILE

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TOO_DEEP = "nested too deep to be a permutation spec"
_REMEDY = "a permutation spec is a YAML file; `rebasin arch list` shows the shipped ones"


@dataclass(frozen=True, slots=True)
class Scalar:
    """One word or phrase of the file, exactly as it is written."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Items:
    """A YAML sequence."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """A YAML mapping in the order of the file, keys unique."""

    entries: tuple[tuple[Scalar, Node], ...]
    line: int

    def __iter__(self) -> Iterator[tuple[Scalar, Node]]:
        return iter(self.entries)


Node = Scalar | Items | Table


def read_spec(path: Path) -> str:
    """The text of a spec file.

    Raises:
        SystemFailure: it cannot be read. ContentError: too large, or not UTF-8.
    """
    return read_text(path, LONGEST_FILE, "a permutation spec", _REMEDY)


def read_yaml(path: Path) -> Table:
    """Read a YAML file whose top level is a mapping.

    Raises:
        SystemFailure: the file cannot be read.
        ContentError: not UTF-8, not YAML, no mapping at the top, or a key given twice.
    """
    return parse_yaml(read_spec(path), path.name)


def parse_yaml(text: str, file: str) -> Table:
    """Parse `text`; `file` is only used in error messages."""
    try:
        return _table(yaml.compose(text, Loader=_Loader), file)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else file
        if "nesting" in str(error.problem):  # libyaml's own limit, since 0.2.6
            raise ContentError(TOO_DEEP, where=where) from error
        raise ContentError(
            f"not valid YAML: {error.problem or error.context}",
            where=where,
            remedy="quote keys that start with '{', '*' or '?', and values that start with '|' or hold ': '",
        ) from error
    except yaml.YAMLError as error:
        raise ContentError(f"not valid YAML: {error}", where=file) from error
    except RecursionError as error:
        raise ContentError(TOO_DEEP, where=file) from error


def _table(node: yaml.Node | None, file: str) -> Table:
    if not isinstance(node, yaml.MappingNode):
        raise ContentError(
            "a permutation spec is a mapping with `name`, `dims`, `tensors` …", where=f"{file}:1",
            remedy="see architectures/README.md for the shape of a spec",
        )  # fmt: skip
    table = _convert(node, file, set())
    assert isinstance(table, Table)
    return table


def _convert(node: yaml.Node, file: str, seen_nodes: set[int]) -> Node:
    """`seen_nodes` refuses `*alias`: a node that comes twice (or holds itself) has no one line of its own."""
    line = node.start_mark.line + 1
    if id(node) in seen_nodes:
        raise ContentError(
            "anchors and aliases (`&name`, `*name`) are not part of the spec language",
            where=f"{file}:{line}",
            remedy="write it out; put quotes around a key or template that starts with '*' or '&'",
        )
    seen_nodes.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        return Scalar(str(node.value), line)
    if isinstance(node, yaml.SequenceNode):
        return Items(tuple(_convert(item, file, seen_nodes) for item in node.value), line)
    assert isinstance(node, yaml.MappingNode)
    entries: list[tuple[Scalar, Node]] = []
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ContentError(
                "a key must be a single word or template",
                where=f"{file}:{key_line}",
                remedy="put quotes around a key that starts with '{' or '['",
            )
        key = str(key_node.value)
        if key in seen:
            raise ContentError(
                f"`{key}` is given twice, on lines {seen[key]} and {key_line}",
                where=f"{file}:{key_line}",
                remedy="keep one of the two",
            )
        seen[key] = key_line
        entries.append((Scalar(key, key_line), _convert(value_node, file, seen_nodes)))
    return Table(tuple(entries), line)
