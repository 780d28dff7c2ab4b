"""Whether a value is of a type, and what a message says that was expected instead."""

from __future__ import annotations

import math
import os
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rebasin_cli.errors import did_you_mean


def misfit(value: Any, hint: Any) -> str:
    """What is expected instead of a value; empty if it fits."""
    origin = get_origin(hint)
    if hint is Any or hint is types.NoneType:
        return ""
    if origin is Annotated:
        inner, *ranges = get_args(hint)
        wrong = misfit(value, inner)
        outside = not wrong and any(not (r.least <= value <= r.most) for r in ranges)
        return f"{_name(inner)} {ranges[0]}" if wrong or outside else ""
    if origin is Literal:
        return "" if isinstance(value, str) and value in get_args(hint) else _name(hint)
    if origin in (Union, types.UnionType):
        return (
            ""
            if any(not misfit(value, part) and part is not types.NoneType for part in get_args(hint))
            else _name(hint)
        )
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if is_number and math.isfinite(value) else _name(hint)
    if hint is int:
        return "" if isinstance(value, int) and not isinstance(value, bool) else _name(hint)
    if origin is Sequence:
        (inner,) = get_args(hint)
        fits = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return "" if fits and not any(misfit(part, inner) for part in value) else _name(hint)
    if origin is Mapping:
        _, inner = get_args(hint)
        fits = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        return "" if fits and not any(misfit(part, inner) for part in value.values()) else _name(hint)
    return "" if isinstance(value, origin or hint) else _name(hint)


def _name(hint: Any) -> str:
    """What a type is called in a message."""
    origin, parts = get_origin(hint), [part for part in get_args(hint) if part is not types.NoneType]
    if origin is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_name, parts)))
    if origin is Annotated:
        return f"{_name(parts[0])} {parts[1]}"
    if origin is Sequence:
        return f"a list, each {_name(parts[0])}"
    if origin is Mapping:
        return f"a dict of names, each with {_name(parts[1])}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
    return words.get(hint) or ("a path" if origin is os.PathLike else str(getattr(hint, "__name__", hint)))


def nearest(value: Any, hint: Any) -> str:
    """The words of a choice that are like a text; empty if none is."""
    known = [word for word in get_args(hint) if isinstance(word, str)] if get_origin(hint) is Literal else []
    return did_you_mean(value, known) if isinstance(value, str) else ""


def plain(hint: Any) -> Any:
    """A type without its range."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def shown(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) < 60 else f"{type(value).__name__}(…)"
