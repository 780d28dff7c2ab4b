"""RunDocument ↔ JSON.

The dataclasses are the one description: writing walks their fields, reading walks their annotations and refuses
whatever they do not have, naming the place. A loss that is not finite is `null` in JSON, which has no NaN.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, TypeVar, Union, cast

from rebasin_cli.errors import ContentError
from rebasin_cli.files import parse_json, read_text
from rebasin_cli.garbage import collection_paused
from rebasin_cli.report.consistency import contradiction
from rebasin_cli.report.document import SCHEMA_VERSION, RunDocument
from rebasin_cli.safe_text import escaped_json

T = TypeVar("T")

_JSON_NAME = {"lam": "lambda"}  # `lambda` is a word of Python's own
_OPTIONAL = ("tensors", "architectures", "checks", "plan", "merge", "at", "derivation")
"""Absent unless the command is about them."""
_UNLESS_EMPTY = (
    "trials", "losses", "repaired", "failures", "metrics", "basis", "missing", "unit", "kept", "proof", "checked",
    "text", "key", "hashes",
)  # fmt: skip
LONGEST = 128 << 20  # bytes of a document: a hundred thousand tensors and dims take half
_INT64 = 1 << 63
SCHEMA_PATH = Path(__file__).with_name("run-document.schema.json")


@collection_paused()
def to_json(document: RunDocument) -> str:
    """The document as JSON text, indented, with a newline at the end; the same document gives the same bytes.

    What a terminal would act on is escaped, and so are bytes of a path that are no UTF-8; letters of every script stay.
    """
    fields = _fields_of(document)
    ordered = {"schema_version": fields.pop("schema_version")} | fields
    for name in _OPTIONAL:
        if ordered[name] is None:
            del ordered[name]
    return escaped_json(_Writer().text(ordered, "\n")) + "\n"


def from_json(text: str, source: str) -> RunDocument:
    """Read a document; `source` says in messages where the text came from.

    Raises:
        ContentError: not JSON, not a run document, of another schema version, or with a field we do not know.
    """
    remedy = "give the JSON that `rebasin align` or `rebasin interpolate` prints into a pipe or writes to --report"
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ContentError(f"not a run document: {_not_json(text, error)}", where=source, remedy=remedy) from error
    if not isinstance(value, dict) or "schema_version" not in value:
        raise ContentError("not a run document: no `schema_version` in it", where=source, remedy=remedy)
    version = value["schema_version"]
    if version != SCHEMA_VERSION:
        raise ContentError(
            f"the run document has schema_version {version!r}, this program reads {SCHEMA_VERSION}",
            where=source,
            remedy="make it again with this version of rebasin, or read it with the one that wrote it",
        )
    try:
        document = _with_usable_names(_decode(RunDocument, value, ""))
        if wrong := contradiction(document):
            raise _MisfitError(wrong)
        return document
    except _MisfitError as misfit:
        raise ContentError(f"not a run document: {misfit}", where=source, remedy=remedy) from misfit


def read_document(path: Path) -> RunDocument:
    """Read a document from a file."""
    remedy = "name the .rebasin.json file that `rebasin align` wrote, not the checkpoint beside it"
    return from_json(read_text(path, LONGEST, "a run document", remedy), str(path))


class _MisfitError(Exception):
    """A value that is not what the document has in that place."""


def _not_json(text: str, error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        line = text[error.pos - error.colno + 1 :][:40].partition("\n")[0]
        return f"line {error.lineno} is not JSON: {line!r}"
    return str(error)


@dataclasses.dataclass(slots=True)
class _Writer:
    """Writes values as JSON, laid out as `json.dumps` does with `indent=1`, which is slow for 100,000 records.

    Attributes:
        known: the text of every record, by its id and the line break: most tensors share one of a few records.
    """

    known: dict[tuple[int, str], str] = dataclasses.field(default_factory=dict)

    def text(self, value: Any, line: str) -> str:
        """The JSON of `value`; `line` is a line break and the indent of the place."""
        if isinstance(value, str):
            return encode_basestring(value)
        if isinstance(value, Mapping):
            inner = line + " "
            items = [f"{encode_basestring(str(key))}: {self.text(item, inner)}" for key, item in value.items()]
            return f"{{{inner}{f',{inner}'.join(items)}{line}}}" if items else "{}"
        if isinstance(value, tuple | list):
            inner = line + " "
            items = [self.text(item, inner) for item in value]
            return f"[{inner}{f',{inner}'.join(items)}{line}]" if items else "[]"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            place = (id(value), line)
            if place not in self.known:
                self.known[place] = self.text(_fields_of(value), line)
            return self.known[place]
        if isinstance(value, float) and not math.isfinite(value):
            return "null"
        return json.dumps(value)


def _fields_of(record: Any) -> dict[str, Any]:
    """The fields of a record by their names in JSON."""
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    return {_JSON_NAME.get(name, name): field for name, field in fields.items() if field or name not in _UNLESS_EMPTY}


def _decode(kind: type[T], value: Any, place: str) -> T:
    """Turn a JSON value into `kind`, one of: a dataclass, int, float, str, bool, Mapping, tuple, or `kind | None`."""
    return cast(T, _value(kind, value, place))


def _value(kind: Any, value: Any, place: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _value(inner[0], value, place)
    if dataclasses.is_dataclass(kind):
        return _fields(kind, value, place)
    if origin is tuple:
        _expect(isinstance(value, list), place, "a list", value)
        return tuple(_value(inner[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        _expect(isinstance(value, dict), place, "an object", value)
        return {key: _value(inner[1], item, f"{place}.{key}") for key, item in value.items()}
    if kind is float:
        if value is None:
            return math.nan
        _expect((isinstance(value, float) and math.isfinite(value)) or _is_int(value), place, "a number", value)
        return float(value)
    right = _is_int(value) if kind is int else isinstance(value, kind)
    _expect(right, place, {int: "a whole number", str: "a text", bool: "true or false"}[kind], value)
    return value


def _is_int(value: Any) -> bool:
    """Whether it is a whole number that 64 bits hold: JSON has larger ones, which are no float."""
    return type(value) is int and -_INT64 <= value < _INT64


_hints = functools.cache(typing.get_type_hints)  # slow, and a document has thousands of records of a few kinds


def _with_usable_names(document: RunDocument) -> RunDocument:
    """See that the system can be asked for the files it names: no NUL, and no surrogate that stands for no byte."""
    named = {f"inputs.{role}.path": entry.path for role, entry in document.inputs.items()}
    for place, name in (named | {f"outputs.{role}": name for role, name in document.outputs.items()}).items():
        try:
            right = b"\0" not in os.fsencode(name)
        except UnicodeEncodeError:
            right = False
        _expect(right, place, "the name of a file", name)
    return document


def _fields(kind: Any, value: Any, place: str) -> Any:
    _expect(isinstance(value, dict), place, "an object", value)
    hints = _hints(kind)
    names = {_JSON_NAME.get(f.name, f.name): f for f in dataclasses.fields(kind)}
    for name in value:
        if name not in names:
            raise _MisfitError(f"unknown field `{place}.{name}`".replace("`.", "`"))
    given: dict[str, Any] = {}
    for name, field in names.items():
        if name in value:
            given[field.name] = _value(hints[field.name], value[name], f"{place}.{name}".lstrip("."))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _MisfitError(f"no `{place}.{name}` in it".replace("`.", "`"))
    return kind(**given)


def _expect(right: bool, place: str, wanted: str, value: Any) -> None:
    if not right:
        raise _MisfitError(f"`{place}` is {json.dumps(value)[:40]}, not {wanted}")
