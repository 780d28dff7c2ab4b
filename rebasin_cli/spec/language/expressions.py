"""Sizes that do not follow from shapes, as small exact expressions: `config.hidden_size / config.num_attention_heads`.

Integers, `config.…` (with `[index]`), names of other sizes, variables of the dim, `+ - * /`, brackets and `min`.
Read with Python's own parser and walked node by node: nothing is ever evaluated as code.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rebasin_cli.spec.language import LARGEST_SIZE

_Lookup = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed size expression; `text` is as written."""

    text: str
    tree: ast.expr

    def __str__(self) -> str:
        return ast.unparse(self.tree)

    @property
    def names(self) -> frozenset[str]:
        """The names it uses, `config` aside."""
        return frozenset(n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name)) - {"config", _FUNCTION}

    @property
    def uses_config(self) -> bool:
        """Whether it reads config.json."""
        return any(_is_config(node) for node in ast.walk(self.tree))

    def evaluate(self, config: Mapping[str, Any] | None, lookup: _Lookup) -> int | None:
        """Its value, or None if a name in it is absent or null, or the result is not a valid size."""
        value = _number(_evaluate(self.tree, config, lookup))
        whole = value is not None and value.denominator == 1 and 0 <= value <= LARGEST_SIZE
        return int(value) if whole and value is not None else None


def parse_expression(text: str) -> Expression:
    """Parse a size expression.

    Raises:
        ValueError: not an expression of the language.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError) as error:
        raise ValueError(f"`{text}` is not a size expression") from error
    nodes = list(ast.walk(tree))
    if len(nodes) > _MOST_NODES or any(isinstance(n, ast.Constant) and _is_large(n.value) for n in nodes):
        raise ValueError(f"`{text[:40]}…` is longer than a size needs, or has a number beyond {LARGEST_SIZE:,}")
    for node in nodes:
        if not isinstance(node, _ALLOWED) or (isinstance(node, ast.Constant) and type(node.value) is not int):
            raise ValueError(f"`{text}`: a size has only whole numbers, names, config.…, + - * /, min( ) and brackets")
        if isinstance(node, ast.Call) and not (_is_named(node.func, _FUNCTION) and node.args and not node.keywords):
            raise ValueError(f"`{text}`: a size has no function but {_FUNCTION}(a, b)")
        inner = node.value if isinstance(node, ast.Attribute | ast.Subscript) else None
        if inner is not None and not (isinstance(inner, ast.Attribute | ast.Subscript) or _is_config(inner)):
            raise ValueError(f"`{text}`: only `config` has a `.` or a `[ ]` after it")
    return Expression(text.strip(), tree)


def _is_config(node: ast.AST) -> bool:
    return _is_named(node, "config")


def _is_named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


_FUNCTION = "min"
_MOST_NODES = 200  # of the parsed tree: some 40 numbers and names, and so nested no deeper than that
_ALLOWED = (
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Load,
    ast.Call,
)  # fmt: skip


def _evaluate(node: ast.expr, config: Any, lookup: _Lookup) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id="config"):
            return config
        case ast.Name(id=name):
            return lookup(name)
        case ast.Attribute(value=inner, attr=attr):
            found = _evaluate(inner, config, lookup)
            return found.get(attr) if isinstance(found, Mapping) else None
        case ast.Subscript(value=inner, slice=index):
            found, at = _evaluate(inner, config, lookup), _number(_evaluate(index, config, lookup))
            inside = isinstance(found, Sequence) and at is not None and at.denominator == 1 and 0 <= at < len(found)
            return found[int(at)] if inside and at is not None else None
        case ast.Call(args=args):
            values = [_number(_evaluate(each, config, lookup)) for each in args]
            return None if None in values else min(value for value in values if value is not None)
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(op, _evaluate(left, config, lookup), _evaluate(right, config, lookup))
    return None


def _is_large(value: Any) -> bool:
    """Whether it is a whole number beyond every size."""
    return isinstance(value, int) and abs(value) > LARGEST_SIZE


def _number(value: Any) -> Fraction | None:
    """A number exactly as it is written: config.json's 0.1 is a tenth, not the nearest binary fraction."""
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction) or _is_large(value):
        return None
    return Fraction(str(value)) if math.isfinite(value) else None


def _arithmetic(op: ast.operator, left: Any, right: Any) -> Fraction | None:
    x, y = _number(left), _number(right)
    if x is None or y is None:
        return None
    match op:
        case ast.Add():
            return x + y
        case ast.Sub():
            return x - y
        case ast.Mult():
            return x * y
        case _:
            return x / y if y else None
