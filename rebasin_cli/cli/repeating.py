"""The commands of a run document, to be called again.

A document may be a stranger's: its words are parsed by our own parser and put together again, so that what is called
reads the files that were read, writes into one folder alone, and runs code only where the user trusts it.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, redirect_stdout
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from rebasin_cli.checkpoints.checkpoint import HUB_PREFIX, hub_name
from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.user_code import is_named
from rebasin_cli.report.document import InvocationRecord, RunDocument
from rebasin_cli.safe_text import shortened

REPEATED = ("align", "interpolate", "plane", "merge", "apply", "repair")
READ = {
    "a",
    "b",
    "more",
    "members_from",
    "models",
    "checkpoint",
    "permutation",
    "data",
    "fit_data",
    "end",
    "arch",
    "network",
}
"""Parameters that name files to read, or code."""
WRITTEN = {"output", "report", "plot", "save_permutation", "resume", "summary"}
"""Parameters that name files to write."""
_CODE = {"network", "data", "fit_data", "loss", "metric", "eval_command", "eval_server"}
_DATA = re.compile(rf"(?P<name>{HUB_PREFIX}[^@:]+)@(?P<commit>[0-9a-f]{{40}})(?::|$)")
_LEFT_OUT = {"force", "json", "form", "cluster"}
"""The document is always printed: it is what is compared, and what the next command of a pipe works on. A scheduler is
trusted, and a stranger's document names none; the bytes do not depend on it."""
_UNNAMED = {"align": "aligned", "repair": "repaired"}
"""Commands that write beside their input without `-o`, and the role of what they write."""


@dataclass(frozen=True, slots=True)
class Call:
    """A command to be called.

    Attributes:
        folder: where it was called, and is again if it runs code.
        into: where its outputs go.
        code: the options of it that run code; fetched: its words that name something on the hub.
    """

    words: tuple[str, ...]
    folder: Path
    into: Path
    code: tuple[str, ...]
    fetched: tuple[str, ...] = ()

    def run(self, stdin: bytes) -> tuple[int, bytes]:
        """Call it, with what the command before it printed; its exit code, and what it prints."""
        from rebasin_cli.cli import main

        printed = io.TextIOWrapper(io.BytesIO(), "utf-8")
        before = sys.stdin
        self.into.mkdir(exist_ok=True)
        with ExitStack() as surroundings:
            if self.code:  # modules and evaluation programs are looked for there
                surroundings.enter_context(chdir(self.folder))
            surroundings.enter_context(redirect_stdout(printed))
            surroundings.callback(setattr, sys, "stdin", before)
            sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
            code = main(list(self.words))
            printed.flush()
            return code, printed.buffer.getvalue()


def calls_of(document: RunDocument, into: Path) -> list[Call]:
    """The commands of the document in their order, each writing into a folder below `into`, or into `into` itself.

    Raises:
        ContentError: the document has none, or one that is not repeated.
    """
    records = document.invocations
    if not records:
        raise ContentError(
            f"the run document of `rebasin {shortened(document.command, 40)}` does not say how it was made",
            remedy=f"the documents of {', '.join(REPEATED)} do",
        )
    folders = [into / f"{i}-{_command(r)}" for i, r in enumerate(records, 1)] if len(records) > 1 else [into]
    commits = {entry.repository: entry.commit for entry in document.inputs.values() if entry.commit} | {
        match["name"]: match["commit"] for text in _data_of(document) if (match := _DATA.match(text))
    }
    return [_call(record, document.outputs, folder, commits) for record, folder in zip(records, folders, strict=True)]


def _command(record: InvocationRecord) -> str:
    name = record.command_line[1] if len(record.command_line) > 1 else ""
    if name not in REPEATED:
        raise ContentError(
            f"`rebasin {shortened(name, 40)}` is not repeated", remedy=f"only {', '.join(REPEATED)} can be"
        )
    return name


def _call(record: InvocationRecord, outputs: Mapping[str, str], into: Path, commits: Mapping[str, str]) -> Call:
    """One command, with absolute inputs and with its outputs in `into`."""
    from rebasin_cli.cli import program

    name = _command(record)
    folder = Path(record.folder)
    command: Any = typer.main.get_command(program([name]))
    command = command.commands[name]
    context = command.make_context(name, list(record.command_line[2:]), help_option_names=[])  # would print it
    given = {p: v for p, v in context.params.items() if _is_typed(context, p) and p not in _LEFT_OUT}
    if str(given.get("report")) == "-":
        del given["report"]
    options: list[str] = []
    arguments: list[str] = []
    for parameter in command.params:
        if parameter.name not in given:
            continue
        values = [_value(parameter.name, v, folder, into, name, commits) for v in _each(given[parameter.name])]
        if parameter.param_type_name == "argument":
            arguments += values
        else:
            options += _words(parameter, values)
    if name in _UNNAMED and "output" not in given and not given.get("dry_run"):
        options.append(f"--output={into / _file_name(outputs.get(_UNNAMED[name], ''))}")
    named = [(p, value) for p in sorted(_CODE & given.keys()) for value in _each(given[p])]
    code = tuple(f"--{p.replace('_', '-')} {value}" for p, value in named if _runs(p, value))
    words = (name, "--json", *options, *(["--", *arguments] if arguments else ()))
    return Call(words, folder, into, code, tuple(w for w in words if w.rpartition("=")[2].startswith(HUB_PREFIX)))


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _runs(name: str, value: Any) -> bool:
    return name in ("network", "eval_command", "eval_server") or is_named(str(value))


def _words(parameter: Any, values: Sequence[str]) -> Iterator[str]:
    """An option as it is typed; flags have no value."""
    for value in values:
        if not parameter.is_flag:
            yield f"{parameter.opts[-1]}={value}"
        elif value == "True":
            yield parameter.opts[0]
        elif parameter.secondary_opts:
            yield parameter.secondary_opts[0]


def _data_of(document: RunDocument) -> Iterator[str]:
    """The data that figures of the document come from."""
    yield from (part.data for part in (document.barrier, document.merge, document.plane) if part is not None)


def _pinned(text: str, commits: Mapping[str, str], *, data: bool) -> str:
    """A name on the hub with the commit that the run read: what is there now may be another one."""
    if data:
        base, colon, split = text.partition(":")[2].partition(":")
        commit = commits.get(f"{HUB_PREFIX}{base.partition('@')[0]}")
        return f"{HUB_PREFIX}{base.partition('@')[0]}@{commit}{colon}{split}" if commit else text
    name = hub_name(text)
    return str(replace(name, revision=commits.get(name.repo, name.revision)))


def _value(name: str, value: Any, folder: Path, into: Path, command: str, commits: Mapping[str, str]) -> str:
    text = str(value.value if isinstance(value, Enum) else value)
    if name in WRITTEN:
        return str(into / (f"{command}.safetensors" if text == "-" else _file_name(text)))
    if name not in READ:
        return text
    if text == "-":
        raise ContentError("an input came through a pipe, and cannot be read again", remedy="name a file by hand")
    path = os.path.join(folder, text)
    if text.startswith(HUB_PREFIX) and not os.path.lexists(path):
        return _pinned(text, commits, data=name in ("data", "fit_data"))
    if name == "arch":
        return path if text.endswith((".yaml", ".yml")) or os.sep in text else text
    return text if name in _CODE and is_named(text) and not os.path.lexists(path) else path


def _file_name(path: str) -> str:
    """The name of an output.

    Raises:
        ContentError: it is none, and might lead out of the folder.
    """
    name = os.path.basename(os.path.normpath(path))
    if name in ("", ".", "..") or "\0" in name:
        raise ContentError(f"the run document names no file for an output: {path!r:.80}", remedy="it was edited")
    return name
