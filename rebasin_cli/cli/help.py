"""How help looks: flags without a value, choices with what each means, defaults as they are, and examples at the end.

`-h` shows the options of every day, and `--help` all of them. A test runs every example on the pair that ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from enum import StrEnum
from inspect import Parameter, cleandoc
from typing import Annotated, Any, get_args, get_origin

from typer.core import TyperCommand, TyperGroup

from rebasin_cli.cli.values import MEANINGS

_COLUMN = 17  # letters of a choice that stand beside the option; longer lists stand in the text
_FEW = 14  # options that are shown by `-h` in any case

DAILY = {
    "output", "data", "network", "arch", "method", "quality", "steps", "at", "polish", "repair", "plot", "report",
    "html", "markdown", "into", "trust", "freeze", "force", "inverse", "end", "algorithm", "dry_run", "resume", "help",
}  # fmt: skip
"""The options of every day, by the names of their parameters."""


class _PlainFlags:
    """For a command: flags, `--help` among them, name no kind of value; `-h` hides what is not of every day."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        options = [param for param in params if param.param_type_name == "option"]
        further = [param for param in options if param.name not in DAILY] if len(options) > _FEW else []
        words = ctx.find_root().obj or ()
        for param in params:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
            if param.param_type_name == "argument" and param.nargs != 1:
                param.bare_type = lambda: "path"  # Typer would say list[Path]
            if param.name == "help" and further:
                param.help = f"-h: the options of every day; --help: all {len(options)}."
        if "-h" in words and "--help" not in words and further:
            for param in options:
                param.hidden, param.rich_help_panel = param in further, None
        return params


class PlainCommand(_PlainFlags, TyperCommand):
    """A command."""


class PlainGroup(_PlainFlags, TyperGroup):
    """A command that has commands."""


def paragraphs(docstring: str) -> str:
    """A docstring with every paragraph on one line, as help breaks lines where the terminal ends."""
    return "\n\n".join(" ".join(part.split()) for part in cleandoc(docstring).split("\n\n"))


def plainly(parameter: Parameter) -> Parameter:
    """The parameter of a command as help shows it."""
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    kind, *details = get_args(parameter.annotation)
    details = [_plain(detail, kind, parameter.name) for detail in details]
    return parameter.replace(annotation=Annotated[(kind, *details)])


def _plain(detail: Any, kind: Any, name: str) -> Any:
    detail = copy(detail)
    choices, meanings = _choices(kind)
    if choices and detail.metavar is None:
        together = "|".join(choices)
        whole = len(together) <= _COLUMN
        detail.metavar = together if whole else name.rpartition("_")[2].upper()
        said = [f"{word}: {meanings[word]}" if word in meanings else word for word in choices]
        said = [text for word, text in zip(choices, said, strict=True) if word in meanings or not whole]
        if said:
            detail.help = f"{detail.help} {'; '.join(said)}."
    if isinstance(detail.show_default, str):  # would be in brackets of its own
        detail.help = rf"{detail.help} \[default: {detail.show_default}]"
        detail.show_default = False
    return detail


def _choices(kind: Any) -> tuple[list[str], Mapping[str, str]]:
    """The words that an option of some kind, a list of it or one that may be absent chooses from; what they mean."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return [choice.value for choice in kind], MEANINGS.get(kind, {})
    found = [_choices(part) for part in get_args(kind)]
    return next((one for one in found if one[0]), ([], {}))


EXAMPLES: Mapping[str, Mapping[str, str]] = {
    "": {
        "B with its units in A's order": "rebasin align a.safetensors b.safetensors",
        "the loss on the way from A to B": "rebasin interpolate a.safetensors b.safetensors --data digits.npz",
    },
    "align": {
        "write B aligned, the permutation and a run document beside B": "rebasin align a.safetensors b.safetensors",
        "search longer, and say where it goes": (
            "rebasin align a.safetensors b.safetensors -o x.safetensors --quality high"
        ),
        "go on with the path between them": (
            "rebasin align a.safetensors b.safetensors -f | rebasin interpolate --steps 9"
        ),
        "many networks onto A": "rebasin align a.safetensors b.safetensors c.safetensors -o aligned",
    },
    "interpolate": {
        "the barrier, before and after": "rebasin interpolate a.safetensors b.safetensors --data digits.npz",
        "write the network halfway": "rebasin interpolate a.safetensors b.safetensors --at 0.5 -o half.safetensors",
        "fail if the barrier is high, on what was aligned before": (
            "rebasin interpolate --data digits.npz --max-barrier 0.1 < b.rebasin.json"
        ),
    },
    "plane": {
        "both basins on the terminal": "rebasin plane a.safetensors b.safetensors --data digits.npz",
        "and as a picture": (
            "rebasin plane a.safetensors b.safetensors --data digits.npz --plot plane.png \\\n    --steps 5"
        ),
    },
    "merge": {
        "the mean of three models in one order": (
            "rebasin merge a.safetensors b.safetensors c.safetensors -o m.safetensors"
        ),
        "and what it is worth": "rebasin merge a.safetensors b.safetensors -o n.safetensors --data digits.npz",
        "its weights fitted to its models' outputs": (
            "rebasin merge a.safetensors b.safetensors -o p.safetensors \\\n"
            "    --data digits.npz --polish least-squares"
        ),
    },
    "apply": {
        "the same permutation on another checkpoint": (
            "rebasin apply b.permutation.safetensors b.safetensors -o out.safetensors"
        ),
        "and back": "rebasin apply b.permutation.safetensors out.safetensors --inverse \\\n    -o b2.safetensors",
    },
    "repair": {
        "bring a merge's statistics to fit its weights": (
            "rebasin repair half.safetensors --data digits.npz --end a.safetensors \\\n    --end b.aligned.safetensors"
        ),
    },
    "inspect": {
        "tensors, architecture and dims": "rebasin inspect a.safetensors",
        "one fact for a script": "rebasin inspect a.safetensors --json | jq .architecture.name",
    },
    "report": {
        "a run on the terminal": "rebasin report b.rebasin.json",
        "a page to send": "rebasin report b.rebasin.json --html page.html",
        "a model card": "rebasin align a.safetensors b.safetensors -f | rebasin report --markdown -",
    },
    "rerun": {"whether the run comes out the same": "rebasin rerun b.rebasin.json --into again"},
    "arch": {"which specs there are": "rebasin arch list resnet", "what one says": "rebasin arch show llama"},
    "arch list": {"all of them": "rebasin arch list", "some": "rebasin arch list resnet"},
    "arch show": {
        "dims, and where they stand": "rebasin arch show llama",
        "the number of symmetries of a checkpoint": "rebasin arch show mlp a.safetensors --count",
    },
    "arch check": {"whether every tensor is covered": "rebasin arch check mlp a.safetensors"},
    "arch derive": {
        "print the spec of your own network": "rebasin arch derive my_module:make",
        "with inputs of your own, into a file": "rebasin arch derive my_module:make --inputs 4x64 -o my.yaml",
    },
    "arch prove": {
        "a spec that ships, on real networks": "rebasin arch prove mlp",
        "one of your own": "rebasin arch prove my.yaml --network my_module:make",
    },
}
"""By command, what each does and how it is typed; every line fits 80 columns."""


def epilog(command: str) -> str:
    """The last lines of a command's help."""
    lines = [line for what, typed in EXAMPLES[command].items() for line in (f"# {what}", *typed.split("\n"))]
    more = (
        ()
        if command
        else ("", "`rebasin help COMMAND` shows all of one, `rebasin COMMAND -h` its options of every day.")
    )
    return "Examples:\n" + "\n".join("  " + line if line else "" for line in (*lines, *more))
