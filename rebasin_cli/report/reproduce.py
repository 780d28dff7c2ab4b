"""The command that makes a run again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rebasin_cli.report.document import Option, RunDocument
from rebasin_cli.report.names import input_names
from rebasin_cli.safe_text import shell_word

_INPUTS = {"align": ("a", "b"), "interpolate": ("a", "b"), "inspect": ("checkpoint",)}
_METHODS = {"weights", "activations", "ste", "sinkhorn", "frank-wolfe"}


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A command for a shell.

    Attributes:
        words: each quoted; recorded: whether the run recorded it. Otherwise it is made of what the document
            holds, and options that change no figure there are absent.
    """

    words: tuple[str, ...]
    recorded: bool


def reproduction(document: RunDocument) -> Reproduction | None:
    """The command of a run, or those of a pipe; derived where none is recorded, and None where that cannot be."""
    calls = [call.command_line for call in document.invocations if call.command_line]
    if calls:
        words = [word for call in calls for word in ("|", *map(shell_word, call))][1:]
        return Reproduction(tuple(words), recorded=True)
    derived = tuple(map(shell_word, _derived(document)))
    return Reproduction(derived, recorded=False) if derived else None


def options_of(document: RunDocument) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every option that counted, by command; flags that were not given are left out."""
    for call in document.invocations:
        given = ((name, value) for name, value in call.options.items() if value is not False)
        yield " ".join(call.command_line[:2]), tuple((name, _option_text(value)) for name, value in given)


def _option_text(value: Option) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return "yes" if value is True else str(value)


def _derived(document: RunDocument) -> Iterator[str]:
    names = input_names(document.inputs)
    roles = [role for role in names if role.startswith("model.")] or _INPUTS.get(document.command, ())
    if not roles or any(role not in names for role in roles):
        return
    yield from ("rebasin", document.command, *(names[role] for role in roles))
    yield from _of_architecture(document)
    yield from _of_method(document)
    if document.barrier:
        yield from ("--steps", str(len(document.barrier.lam)))
    if data := names.get("data"):
        yield from ("--data", data)
    if document.merge:
        yield from ("-o", "merged.safetensors")


def _of_architecture(document: RunDocument) -> Iterator[str]:
    architecture = document.architecture
    if architecture is None:
        return
    yield from ("--arch", architecture.name if architecture.file is None else f"{architecture.name}.yaml")
    for name, size in architecture.options.set.items():
        yield from ("--set", f"{name}={size}")
    for option, values in (("--freeze", architecture.options.freeze), ("--ignore", architecture.options.ignore)):
        for value in values:
            yield from (option, value)


def _of_method(document: RunDocument) -> Iterator[str]:
    match, merge = document.match, document.merge
    if merge:
        yield from ("--algorithm", merge.algorithm)
        if len(set(merge.weights)) > 1:
            yield from ("--weights", ",".join(f"{weight:g}" for weight in merge.weights))
        yield from ("--seed", str(merge.seed))
    elif match:
        if match.method in _METHODS:
            yield from ("--method", match.method)
        yield from ("--seed", str(match.seed))
    if document.barrier:
        for kind in document.barrier.repaired.values():
            if "repair" in kind.basis:
                yield from ("--repair", kind.basis["repair"])
        if document.barrier.ensemble:
            yield "--ensemble"
        if document.barrier.naive and "temperature fitted on" in document.barrier.naive.basis:
            yield "--calibrate"
