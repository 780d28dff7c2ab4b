"""RunDocument ↔ JSON.

The classes of `document.py` are the one description: msgspec writes them, reads them strictly, and makes the schema.
A number that is not finite is `null`, as JSON has no NaN.

In memory and in pipes the paths that a document names are absolute, so that the next command finds the files from
anywhere. In a file they are seen from the folder of the document: it can be moved together with them, and nothing above
is told to who gets it. Reports for people have names alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from rebasin_cli.errors import ContentError
from rebasin_cli.files import parse_json, read_text
from rebasin_cli.process import collection_paused
from rebasin_cli.report.document import SCHEMA_VERSION, InputRecord, InvocationRecord, MemberRecord, Option, RunDocument
from rebasin_cli.report.measurements import Figure
from rebasin_cli.safe_text import escaped_json

LONGEST = 128 << 20  # bytes of a document: a hundred thousand tensors and dims take half
_INT64 = 1 << 63
SCHEMA_PATH = Path(__file__).with_name("run-document.schema.json")


@collection_paused()
def to_json(document: RunDocument) -> str:
    """The document as JSON text, indented, with a newline at the end; the same document gives the same bytes.

    What a terminal would act on is escaped, and so are bytes of a path that are no UTF-8; letters of every script stay.
    """
    try:
        text = msgspec.json.format(msgspec.json.encode(document), indent=1).decode()
    except UnicodeEncodeError:  # such bytes, which Python's own writer has an escape for
        plain = json.dumps(msgspec.to_builtins(document))
        text = json.dumps(json.loads(plain, parse_constant=lambda _: None), indent=1, ensure_ascii=False)
    return escaped_json(text) + "\n"


def document_file(document: RunDocument, path: Path) -> bytes:
    """What a file of the document has in it; paths are seen from its folder."""
    return to_json(seen_from(document, path.parent)).encode()


def from_json(text: str, source: str) -> RunDocument:
    """Read a document; `source` says in messages where the text came from.

    Raises:
        ContentError: not JSON, not a run document, of another schema version, or with a field we do not know.
    """
    remedy = "give the JSON that `rebasin align` or `rebasin interpolate` prints into a pipe or writes to --report"
    try:
        value = parse_json(
            text, parse_int=_whole, parse_float=_finite, parse_constant=_refused, object_pairs_hook=_each_once
        )
    except ValueError as error:
        raise ContentError(f"not a run document: {_not_json(text, error)}", where=source, remedy=remedy) from error
    if not isinstance(value, dict) or "schema_version" not in value:
        raise ContentError("not a run document: no `schema_version` in it", where=source, remedy=remedy)
    version = value["schema_version"]
    if version is True or version != SCHEMA_VERSION:
        raise ContentError(
            f"the run document has schema_version {version!r}, this program reads {SCHEMA_VERSION}",
            where=source,
            remedy="make it again with this version of rebasin, or read it with the one that wrote it",
        )
    try:
        document = msgspec.convert(value, RunDocument, dec_hook=_figure)
    except (msgspec.ValidationError, UnicodeEncodeError) as misfit:
        raise ContentError(f"not a run document: {_told(misfit)}", where=source, remedy=remedy) from misfit
    from rebasin_cli.report.consistency import contradiction

    if wrong := _unusable_name(document) or contradiction(document):
        raise ContentError(f"not a run document: {wrong}", where=source, remedy=remedy)
    return document


def read_document(path: Path) -> RunDocument:
    """Read a document from a file; paths that are relative to its folder become absolute."""
    remedy = "name the .rebasin.json file that `rebasin align` wrote, not the checkpoint beside it"
    return placed_in(from_json(read_text(path, LONGEST, "a run document", remedy), str(path)), path.parent)


def schema() -> str:
    """The JSON schema of the document, as `run-document.schema.json` has it."""
    described = msgspec.json.schema(RunDocument, schema_hook=_schema_of)
    for part in described["$defs"].values():
        part["description"] = cleandoc(part["description"])
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rebasin run document"}
    return json.dumps({**head, **described}, indent=1, ensure_ascii=False) + "\n"


def write_schema() -> None:
    """Write the shipped schema again, after a change to the document (`make schema`)."""
    SCHEMA_PATH.write_text(schema(), encoding="utf-8")


def _figure(kind: type, value: Any) -> float:
    """A number of the document, which msgspec hands over as it is: it knows no float that may be `null`."""
    if value is None:
        return math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"Expected `float | null`, got `{type(value).__name__}`")


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is not Figure:
        raise NotImplementedError
    return {"type": ["number", "null"], "description": kind.__doc__}


def _whole(text: str) -> int:
    """Only what 64 bits hold: JSON has larger numbers, which are no float."""
    if len(text) > 20 or not -_INT64 <= int(text) < _INT64:
        raise ValueError(f"the number {text[:20]}… is too large")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"`{twice[:100]}` stands twice in one object")
    return found


def _not_json(text: str, error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        line = text[error.pos - error.colno + 1 :][:40].partition("\n")[0]
        return f"line {error.lineno} is not JSON: {line!r}"
    return str(error)


def _told(misfit: Exception) -> str:
    """What msgspec says, with the place as users write it: ``expected `str`, got `null`, at `inputs[...].path` ``."""
    if isinstance(misfit, UnicodeEncodeError):
        return f"unknown field {misfit.object!r:.100}"
    what, _, place = str(misfit).partition(" - at `$")
    what = what.replace("Object contains unknown", "unknown").replace("Object missing required", "there is no")
    return what[:1].lower() + what[1:] + (f", at `{place.lstrip('.')}" if place else "")


def _unusable_name(document: RunDocument) -> str | None:
    """The system can be asked for no file with NUL in its name, or with a surrogate that stands for no byte."""
    named = {f"inputs.{role}.path": entry.path for role, entry in document.inputs.items()}
    for place, name in (named | {f"outputs.{role}": name for role, name in document.outputs.items()}).items():
        try:
            usable = b"\0" not in os.fsencode(name)
        except UnicodeEncodeError:
            usable = False
        if not usable:
            return f"`{place}` is {json.dumps(name)[:40]}, not the name of a file"
    return None


Change = Callable[[str], str]


def seen_from(document: RunDocument, folder: Path) -> RunDocument:
    """The document with all paths relative to a folder, and absolute ones that were typed to where the command ran."""

    def seen(path: str, base: str = os.path.abspath(folder)) -> str:
        return os.path.relpath(path, base) if os.path.isabs(path) else path

    def seen_word(text: str, base: str = os.path.abspath(folder)) -> str:
        return text if " " in text else seen(text, base)  # a command, whose words have to stay

    calls = tuple(_with_words(call, seen_word) if call.folder else call for call in document.invocations)
    return _with_data(_with_paths(structs.replace(document, invocations=calls), seen), seen_word)


def placed_in(document: RunDocument, folder: Path) -> RunDocument:
    """The document with all paths absolute, which were relative to a folder."""
    base = os.path.abspath(folder)
    return _with_paths(document, lambda path: os.path.normpath(os.path.join(base, path)))


def by_names(document: RunDocument) -> RunDocument:
    """The document with the names of files alone, and without the folders that they lie in."""
    known = {entry.path for entry in document.inputs.values()} | {*document.outputs.values()}

    def named(text: str, folder: str) -> str:
        return " ".join(named_word(word, folder) for word in text.split(" "))  # of a command each

    def named_word(word: str, folder: str) -> str:
        is_path = word.startswith(("/", "./", "../", "~")) or os.path.normpath(os.path.join(folder, word)) in known
        return _name(word) if is_path else word

    calls = tuple(structs.replace(_with_words(call, named), folder="") for call in document.invocations)
    placed = _with_data(_with_paths(document, _name), lambda text: named(text, ""))
    return structs.replace(placed, invocations=calls)


def _with_words(call: InvocationRecord, change: Callable[[str, str], str]) -> InvocationRecord:
    """A command with each word and each text among its options changed, given the folder that it ran in."""

    def word(text: str) -> str:
        option, sign, value = text.partition("=") if text.startswith("--") else ("", "", text)
        return option + sign + change(value, call.folder)

    def option(value: Option) -> Option:
        if isinstance(value, tuple):
            return tuple(change(item, call.folder) for item in value)
        return change(value, call.folder) if isinstance(value, str) else value

    options = {name: option(value) for name, value in call.options.items()}
    return structs.replace(call, command_line=tuple(map(word, call.command_line)), options=options)


def _name(path: str) -> str:
    return os.path.basename(os.path.normpath(path))


def _with_data(document: RunDocument, change: Change) -> RunDocument:
    """The same for what losses were measured on, which need not be a file and is only shown."""
    barrier, merge, plane = document.barrier, document.merge, document.plane
    return structs.replace(
        document,
        barrier=barrier and structs.replace(barrier, data=change(barrier.data)),
        merge=merge and structs.replace(merge, data=change(merge.data)),
        plane=plane and structs.replace(plane, data=change(plane.data)),
    )


def _with_paths(document: RunDocument, change: Change) -> RunDocument:
    def changed(path: str) -> str:
        return path if path in ("", "-") else change(path)

    def placed(entry: InputRecord) -> InputRecord:
        key = f":{entry.key}" if entry.key and entry.path.endswith(f":{entry.key}") else ""  # it is no part of a path
        return structs.replace(entry, path=changed(entry.path.removesuffix(key)) + key)

    def moved(member: MemberRecord) -> MemberRecord:
        outputs = {role: changed(path) for role, path in member.outputs.items()}
        return structs.replace(member, input=placed(member.input), outputs=outputs)

    own, plan, many = document.architecture, document.plan, document.members
    return structs.replace(
        document,
        members=many and structs.replace(many, members=tuple(map(moved, many.members))),
        inputs={role: placed(entry) for role, entry in document.inputs.items()},
        outputs={role: changed(path) for role, path in document.outputs.items()},
        architecture=own and structs.replace(own, file=own.file and changed(own.file)),
        plan=plan and structs.replace(plan, targets={role: changed(path) for role, path in plan.targets.items()}),
        invocations=tuple(structs.replace(call, folder=changed(call.folder)) for call in document.invocations),
    )
