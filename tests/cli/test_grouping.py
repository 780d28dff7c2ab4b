"""Groups of options."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Annotated, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from rebasin_cli.cli.groups import grouped
from rebasin_cli.cli.groups.matching import MatchOptions
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.pipeline.method_choice import METHODS


@dataclass(frozen=True, slots=True)
class Size:
    width: Annotated[int, typer.Option("--width", "-w", help="In cells.")] = 3
    names: Annotated[list[str] | None, typer.Option("--name")] = None


@dataclass(frozen=True, slots=True)
class Depth:
    width: Annotated[int, typer.Option("--deep")] = 1


def test_a_command_gets_each_group_as_one_value() -> None:
    app = typer.Typer()
    seen: list[object] = []

    @app.command()
    @grouped
    def command(
        place: Annotated[str, typer.Argument()], size: Size, last: Annotated[bool, typer.Option()] = False
    ) -> None:
        """What it does."""
        seen.append((place, size, last))

    runner = CliRunner()
    assert runner.invoke(app, ["here"]).exit_code == 0
    assert runner.invoke(app, ["here", "-w", "5", "--name", "a", "--name", "b", "--last"]).exit_code == 0
    assert seen == [("here", Size(), False), ("here", Size(5, ["a", "b"]), True)]
    text = runner.invoke(app, ["--help"]).output
    assert "What it does." in text
    assert "--width" in text
    assert "In cells." in text


def test_the_defaults_of_help_are_those_of_the_methods() -> None:
    options = {f.name: get_args(hint)[1] for f, hint in zip(fields(MatchOptions), _hints(MatchOptions), strict=True)}
    known: dict[str, set[str]] = {}
    for method in METHODS:
        for field in fields(method.options):
            if field.default is not MISSING:
                known.setdefault(field.name, set()).add(str(field.default))
    shown = {name: option.show_default for name, option in options.items() if isinstance(option.show_default, str)}
    assert shown.pop("fit_batch") == str(DataRequest().fit_batch)
    assert set(shown) == {"start", "order", "quality", "similarity", "objective", "epochs", "mix", "momentum"}
    for name, default in shown.items():
        assert known[name] == {default}, name


def _hints(group: type) -> list[object]:
    hints = get_type_hints(group, include_extras=True)
    return [hints[f.name] for f in fields(group)]


def test_two_groups_cannot_share_a_name() -> None:
    def command(size: Size, depth: Depth) -> None: ...

    with pytest.raises(ValueError, match="width"):
        grouped(command)
