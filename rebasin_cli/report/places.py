"""Where the files lie that a document names.

In memory and in pipes paths are absolute, so that the next command finds them from anywhere. In a file they are seen
from the folder of the document: it can be moved together with them, and nothing above is told to who gets it. Reports
for people have names alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from rebasin_cli.report.document import InputRecord, InvocationRecord, MemberRecord, Option, RunDocument

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
