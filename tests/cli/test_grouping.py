"""Groups of options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from rebasin_cli.cli.grouping import grouped


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


def test_two_groups_cannot_share_a_name() -> None:
    def command(size: Size, depth: Depth) -> None: ...

    with pytest.raises(ValueError, match="width"):
        grouped(command)
