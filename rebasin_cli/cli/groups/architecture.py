"""Which spec describes the checkpoints, and what of it moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebasin_cli.cli import choices as c
from rebasin_cli.cli import values as v
from rebasin_cli.cli.values import number, pairs

if TYPE_CHECKING:
    from rebasin_cli.pipeline.layouts import SpecChoice

_PANEL = "Architecture"


def _complete_arch(incomplete: str) -> list[str]:
    from rebasin_cli.spec import shipped_specs

    return [name for name in shipped_specs() if name.startswith(incomplete)]


CheckpointPath = Annotated[
    Path,
    typer.Argument(
        readable=False, metavar="CKPT", help="A checkpoint: file, FILE:KEY, folder, hf:OWNER/NAME; - is stdin."
    ),
]
SpecName = Annotated[
    str, typer.Argument(metavar="SPEC", help="A shipped spec or a .yaml file.", autocompletion=_complete_arch)
]
Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="The spec, instead of finding it.",
        autocompletion=_complete_arch,
        rich_help_panel=_PANEL,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=N", help="A size shapes do not tell: n_heads=12.", rich_help_panel=_PANEL),
]
Freeze = Annotated[
    list[str] | None, typer.Option(metavar="DIM", help="Keep a dim at identity.", rich_help_panel=_PANEL)
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Leave tensors out of the match: 'head.*'.", rich_help_panel=_PANEL),
]


class _Choosing:
    """Options of which any may be absent."""

    def choice(self) -> SpecChoice:
        """The options as one value.

        Raises:
            UsageError: a `--set` that is not NAME=N.
        """
        return spec_choice(**asdict(self))  # type: ignore[call-overload]


@dataclass(frozen=True)
class SpecOptions(_Choosing):
    """For a command that finds the spec."""

    arch: Arch = None
    sizes: Set = None
    freeze: Freeze = None
    ignore: Ignore = None


@dataclass(frozen=True)
class MatchedSpecOptions(SpecOptions):
    """For a command that matches units."""

    symmetry: Annotated[
        c.Symmetry,
        typer.Option("--symmetry", help="What may be done to units.", rich_help_panel=_PANEL),
    ] = c.Symmetry.PERMUTATIONS


@dataclass(frozen=True)
class UnmatchedOptions(_Choosing):
    """For a command that matches nothing."""

    arch: Arch = None
    sizes: Set = None
    ignore: Ignore = None


@dataclass(frozen=True)
class NamedSpecOptions(_Choosing):
    """For a command that is told the spec."""

    sizes: Set = None
    freeze: Freeze = None
    ignore: Ignore = None


def spec_choice(
    arch: str | None = None,
    sizes: Sequence[str] | None = None,
    freeze: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    symmetry: str = c.Symmetry.PERMUTATIONS,
) -> SpecChoice:
    """What the user says of the spec.

    Raises:
        UsageError: one of `sizes` is not NAME=N.
    """
    from rebasin_cli.pipeline.layouts import SpecChoice

    parsed = {
        name: number(v.SIZE, value, option=f"--set {name}", example=f"--set {name}=12")
        for name, value in pairs("--set", sizes).items()
    }
    return SpecChoice(arch, parsed, tuple(freeze or ()), tuple(ignore or ()), symmetry=str(symmetry))
