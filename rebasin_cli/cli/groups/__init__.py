"""The options that several commands have, each defined once, in groups that build one value each.

A command takes a group as one parameter:

@dataclass(frozen=True, slots=True)
class Talk:
    json: Annotated[bool, typer.Option("--json", help="Print the run document.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing.")] = False

@grouped
def command(checkpoint: Annotated[Path, typer.Argument()], talk: Talk) -> None: ...

 An option that was not given is None where that matters, so
that it can be refused where nothing reads it; its default stands where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

import typer

from rebasin_cli.cli.plain_help import paragraphs, plainly
from rebasin_cli.cli.session import begin

_CONTEXT = "context_of_the_call"


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spread the groups among a command's parameters over their fields, which is how typer sees it.

    Raises:
        ValueError: two groups have an option of the same name.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hints[name] for name in signature(command).parameters if is_dataclass(hints[name])}
    flat = [Parameter(_CONTEXT, Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for name, parameter in signature(command).parameters.items():
        if name in groups:
            flat += _options(groups[name])
        else:
            flat.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name]))

    @wraps(command)
    def spread(**given: Any) -> None:
        begin(given.pop(_CONTEXT))
        made = {name: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        command(**given, **made)

    flat = [plainly(parameter) for parameter in flat]
    spread.__doc__ = paragraphs(command.__doc__ or "")
    del spread.__wrapped__  # typer would look for the parameters there
    spread.__signature__ = Signature(flat)  # type: ignore[attr-defined]  # refuses a name that comes twice
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return spread


def _options(group: type[Any]) -> Iterator[Parameter]:
    """The fields of a group as parameters."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = Parameter.empty if field.default is MISSING else field.default
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])
