"""What is matched and how: the spec, what of it moves, the method with its own options, and what it may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebasin_cli.cli import values as v
from rebasin_cli.cli.values import number, pairs
from rebasin_cli.errors import UsageError

if TYPE_CHECKING:
    from rebasin_cli.pipeline.layouts import SpecChoice
    from rebasin_cli.pipeline.method_choice import MatchChoice
    from rebasin_cli.report.document import RunDocument


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
        v.Symmetry,
        typer.Option("--symmetry", help="What may be done to units.", rich_help_panel=_PANEL),
    ] = v.Symmetry.PERMUTATIONS


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
    symmetry: str = v.Symmetry.PERMUTATIONS,
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


_RUN = "Run"

Seed = Annotated[
    int,
    typer.Option(
        parser=v.SEED, metavar="N", help="Of steps and masks; the same seed, the same bytes.", rich_help_panel=_RUN
    ),
]
DeviceName = Annotated[v.Device, typer.Option("--device", help="Where to compute.", rich_help_panel=_RUN)]


@dataclass(frozen=True)
class MergeMatchOptions:
    """For several models.

    Options of a method are None if they were not given; the texts after `show_default` are held to the methods' own
    defaults by a test.
    """

    method: Annotated[
        v.MergeMethod,
        typer.Option("--method", help="How units are matched.", rich_help_panel=_RUN, show_default=True),
    ] = v.MergeMethod.WEIGHTS
    start: Annotated[
        v.Start | None,
        typer.Option(
            "--start", help="Where matching begins.", show_default="anchored",
            rich_help_panel=_RUN,
        ),
    ] = None  # fmt: skip
    order: Annotated[
        v.Order | None,
        typer.Option(
            "--order", help="Of the steps of a sweep.", show_default="forward",
            rich_help_panel=_RUN,
        ),
    ] = None  # fmt: skip
    seed: Seed = 0
    max_sweeps: Annotated[
        int,
        typer.Option(parser=v.COUNT, metavar="N", help="Stop matching after N sweeps.", rich_help_panel=_RUN),
    ] = 100
    restarts: Annotated[
        int | None,
        typer.Option(
            parser=v.COUNT, metavar="N", help="N descents instead of what --quality has.", rich_help_panel=_RUN
        ),
    ] = None
    quality: Annotated[
        v.Quality | None,
        typer.Option(
            "--quality", help="Time for a better optimum.", show_default="default", rich_help_panel=_RUN
        ),
    ] = None  # fmt: skip
    time_budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Take the best so far after 90s, 10m, 1.5h of matching.", rich_help_panel=_RUN
        ),
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What matching may keep between steps: 512MB, 8GB.", rich_help_panel=_RUN),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            parser=v.THREADS, metavar="N", help="Else one for each core that may be used.", rich_help_panel=_RUN
        ),
    ] = None
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Workers of Dask: tcp://HOST:PORT, a scheduler file, local:4.", rich_help_panel=_RUN
        ),
    ] = None
    on_interrupt: Annotated[
        v.OnInterrupt,
        typer.Option("--on-interrupt", help="What Ctrl-C does while matching.", rich_help_panel=_RUN),
    ] = v.OnInterrupt.ABORT
    similarity: Annotated[
        v.Likeness | None,
        typer.Option(
            "--similarity", help="Of activations (--method activations).", show_default="correlation",
            rich_help_panel=_RUN,
        ),
    ] = None  # fmt: skip
    mix: Annotated[
        float | None,
        typer.Option(
            parser=v.LAMBDA, metavar="X", help="Share of activations beside weights (activations).",
            show_default="1.0", rich_help_panel=_RUN,
        ),
    ] = None  # fmt: skip
    tap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIM=MODULE", help="A dim's units are what this module makes (activations).", rich_help_panel=_RUN
        ),
    ] = None
    fit_batch: Annotated[
        int | None,
        typer.Option(
            "--fit-batch-size", parser=v.COUNT, metavar="N", help="Examples of a step on --data.", show_default="1000",
            rich_help_panel=_RUN,
        ),
    ] = None  # fmt: skip
    device: DeviceName = v.Device.AUTO

    def given(self) -> dict[str, object]:
        """The options of methods by name, None where they were not given."""
        names = ("start", "order", "restarts", "quality", "similarity", "mix")
        return {name: _plain(getattr(self, name)) for name in names}

    def choice(self) -> MatchChoice:
        """All of them as one value.

        Raises:
            UsageError: an option that the method does not read, or a size or time that is none.
        """
        from rebasin_cli.pipeline.method_choice import match_choice

        seconds = memory = None
        if self.time_budget or self.memory:
            from rebasin_cli.pipeline.quantities import parse_bytes, parse_duration

            seconds = parse_duration(self.time_budget) if self.time_budget else None
            memory = parse_bytes(self.memory) if self.memory else None
        return match_choice(
            self.method.value, self.given(),
            seed=self.seed, max_sweeps=self.max_sweeps, device=self.device.value,
            time_budget=seconds,
            on_interrupt=self.on_interrupt.value, memory=memory,
            threads=self.threads, cluster=self.cluster,
        )  # fmt: skip

    def taps(self) -> dict[str, str]:
        """What `--tap` says: dim → module.

        Raises:
            UsageError: the method looks at no activations.
        """
        if self.tap and self.method.value != v.Method.ACTIVATIONS.value:
            raise UsageError(
                f"--tap: --method {self.method.value} looks at no activations", remedy="add --method activations"
            )
        return pairs("--tap", self.tap)


@dataclass(frozen=True)
class MatchOptions(MergeMatchOptions):
    """For two models, between which there is a loss to go down."""

    method: Annotated[
        v.Method, typer.Option("--method", help="How units are matched.", rich_help_panel=_RUN, show_default=True)
    ] = v.Method.WEIGHTS  # type: ignore[assignment]  # each command has its own methods
    objective: Annotated[
        v.ObjectiveName | None,
        typer.Option(
            "--objective", help="What sinkhorn goes down.",
            show_default="distance", rich_help_panel=_RUN,
        ),
    ] = None  # fmt: skip
    epochs: Annotated[
        int | None,
        typer.Option(
            parser=v.COUNT, metavar="N", help="At most N (ste, sinkhorn).", show_default="20",
            rich_help_panel=_RUN,
        ),
    ] = None  # fmt: skip
    learning_rate: Annotated[
        float | None,
        typer.Option(
            parser=v.LEARNING_RATE, metavar="X", help="Else 0.01 (ste) or 0.2 (sinkhorn).", rich_help_panel=_RUN
        ),
    ] = None
    momentum: Annotated[
        float | None,
        typer.Option(
            parser=v.MOMENTUM, metavar="X", help="Of its steps (--method ste).", show_default="0.9",
            rich_help_panel=_RUN,
        ),
    ] = None  # fmt: skip

    def given(self) -> dict[str, object]:
        names = ("objective", "epochs", "learning_rate", "momentum")
        return {**super().given(), **{name: _plain(getattr(self, name)) for name in names}}


def _plain(value: object) -> object:
    return value.value if isinstance(value, StrEnum) else value


def end_of(document: RunDocument) -> None:
    """Leave with 130 after a run that was interrupted and wrote what it had."""
    done = document.match or document.merge
    if done is not None and done.stop == "interrupted":
        raise typer.Exit(130)
