"""The command that goes on from a run: one that works as it is printed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import HUB_PREFIX
from rebasin_cli.cli.streams import called
from rebasin_cli.report.document import InputRecord, RunDocument
from rebasin_cli.report.names import short_path
from rebasin_cli.safe_text import shell_word

_WRITTEN = {"--report", "--plot", "--save-permutation", "--resume"}  # name files that are there by now
_MADE = {"merged", "points"}  # roles of checkpoints that a path was asked for
_FLAGS = {"--dry-run", "--force", "-f", "--verbose", "-v"}


def next_command(document: RunDocument, document_file: Path | None) -> str:
    """What to run next, in the words of a shell; empty if nothing suggests itself.

    Args:
        document_file: where the run document was written.
    """
    words = called.get()
    if any(entry.path == "-" for entry in document.inputs.values()) or not words or words[0] == "report":
        return ""
    if document.plan is not None:
        return _shell(word for word in words if word != "--dry-run") if "a" not in _piped(words, document) else ""
    if document.command == "align" and document.members is None and document_file is not None:
        target = _free("merged", is_folder=os.path.isdir(document.outputs["aligned"]))
        return f"{_shell(['interpolate', '--at', '0.5', '-o', target])} < {_shown(document_file)}"
    if document.command == "interpolate" and _MADE.isdisjoint(document.outputs) and not _piped(words, document):
        target = _free("merged", is_folder=os.path.isdir(document.inputs["a"].path))
        at = "best" if document.barrier else "0.5"
        return _shell([*_kept(words), "--at", at, "-o", target])
    if document.command == "inspect" and document.architecture and not document.architecture.file:
        sizes = [
            word for name, size in document.architecture.options.set.items() for word in ("--set", f"{name}={size}")
        ]
        entry = document.inputs["checkpoint"]
        return _shell(["arch", "show", document.architecture.name, _on_hub(entry) or short_path(entry.path), *sizes])
    if document.architectures:
        return _shell(["arch", "show", document.architectures[0].name])
    if document_file is not None and document.outputs:
        page = document_file.with_suffix(".html")
        return "" if page.exists() else f"rebasin report {_shown(document_file)} --html {_shown(page)}"
    return ""


def _piped(words: Sequence[str], document: RunDocument) -> set[str]:
    """Roles of inputs that the call does not name, as they came with a document through a pipe."""
    named = {os.path.abspath(word) for word in words}
    ends = {role: document.inputs[role] for role in ("a", "b") if role in document.inputs}
    return {role for role, entry in ends.items() if entry.path not in named and not _on_hub(entry)}


def _on_hub(entry: InputRecord) -> str:
    """What was typed for an input that was fetched; empty for a file."""
    name = f"{HUB_PREFIX}{entry.repository}"
    return next((w for w in called.get() if entry.repository and re.match(rf"{re.escape(name)}(?:[@/]|$)", w)), "")


def _kept(words: Sequence[str]) -> Iterator[str]:
    """The words of a call without files that it wrote and without what is said of it."""
    rest = iter(words)
    for word in rest:
        option, sign, _ = word.partition("=")
        if option in _WRITTEN:
            if not sign:
                next(rest, None)
        elif word not in _FLAGS:
            yield word


def _free(stem: str, *, is_folder: bool) -> str:
    """A name in the current folder that nothing has."""
    ending = "" if is_folder else ".safetensors"
    names = (f"{stem}{f'-{i}' if i > 1 else ''}{ending}" for i in range(1, 1000))
    return next((name for name in names if not os.path.exists(name)), f"{stem}-new{ending}")


def _shown(path: Path) -> str:
    return shell_word(short_path(str(path)))


def _shell(words: Iterator[str] | Sequence[str]) -> str:
    return " ".join(["rebasin", *map(shell_word, words)])
