"""Examples, the network that is run on them, and how it is judged and repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rebasin_cli.cli import values as v
from rebasin_cli.cli.groups.matching import MergeMatchOptions
from rebasin_cli.cli.values import pairs
from rebasin_cli.errors import UsageError

if TYPE_CHECKING:
    from rebasin_cli.pipeline.data_request import DataRequest
    from rebasin_cli.pipeline.method_choice import MatchChoice

PANEL = "Data"

DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data", readable=False, metavar="PATH", rich_help_panel=PANEL,
        help="Arrays (.npz, .safetensors), idx or image folder, text, hf:NAME, MODULE:LOADER.",
    ),
]  # fmt: skip
Limit = Annotated[
    int | None, typer.Option(parser=v.COUNT, metavar="N", help="Only the first N examples.", rich_help_panel=PANEL)
]


@dataclass(frozen=True)
class Examples:
    """What networks are judged on."""

    data: DataPath = None
    split: Annotated[
        v.SplitName | None,
        typer.Option(help="Half of a folder of idx files or images.", show_default="test", rich_help_panel=PANEL),
    ] = None
    limit: Limit = None


@dataclass(frozen=True)
class FittingExamples(Examples):
    """What a method or a repair is fitted on."""

    split: Annotated[
        v.SplitName | None,
        typer.Option(help="Half of a folder of idx files or images.", show_default="train", rich_help_panel=PANEL),
    ] = None


@dataclass(frozen=True)
class NamedNetwork:
    """The user's own network."""

    network: Annotated[
        str | None,
        typer.Option(
            "--network", metavar="MODULE:FACTORY", rich_help_panel=PANEL,
            help="Your own network; a spec is derived from it where no shipped one is its.",
        ),
    ] = None  # fmt: skip
    network_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What shapes cannot tell: activation=gelu.", rich_help_panel=PANEL),
    ] = None

    def named(self) -> DataRequest | None:
        """The network alone; None if there is none.

        Raises:
            UsageError: a network option that is not NAME=VALUE, or one without a network.
        """
        from rebasin_cli.pipeline.data_request import DataRequest

        options = pairs("--network-option", self.network_option)
        if self.network is None:
            refuse({"--network-option": self.network_option}, ("", "add --network MODULE:FACTORY"))
            return None
        return DataRequest(network=self.network, options=options)


@dataclass(frozen=True)
class NetworkOptions(NamedNetwork):
    """The network, and how its inputs are prepared."""

    sequence_length: Annotated[
        int | None,
        typer.Option(parser=v.TOKENS, metavar="N", help="Tokens of a window; else 512.", rich_help_panel=PANEL),
    ] = None
    image_size: Annotated[
        int | None,
        typer.Option(parser=v.PIXELS, metavar="N", help="Cut and scale images to N × N.", rich_help_panel=PANEL),
    ] = None
    normalise: Annotated[
        str | None,
        typer.Option(metavar="MEAN/STD", help="Of images' channels: imagenet, 0.5/0.5.", rich_help_panel=PANEL),
    ] = None
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss", metavar="NAME", help="mse, mae, cross-entropy or MODULE:FUNCTION; else by the kind of targets.",
            rich_help_panel=PANEL,
        ),
    ] = None  # fmt: skip

    def request(self) -> DataRequest:
        """The network, without examples as yet.

        Raises:
            UsageError: a network option that is not NAME=VALUE, or moments that are none.
        """
        from rebasin_cli.evaluation.options import parse_moments
        from rebasin_cli.pipeline.data_request import DataRequest

        return DataRequest(
            options=pairs("--network-option", self.network_option), network=self.network,
            sequence_length=self.sequence_length, image_size=self.image_size,
            moments=None if self.normalise is None else parse_moments(self.normalise), loss=self.loss,
        )  # fmt: skip


def fitted(examples: FittingExamples, network: NetworkOptions, match: MergeMatchOptions) -> DataRequest | None:
    """What a method is shown, and what B is run on before and after; None if there is neither data nor a network.

    Raises:
        UsageError: an option that nothing reads then, or one with a value that is none.
    """
    taps = match.taps()
    if examples.data is None:
        refuse({"--split": examples.split, "--limit": examples.limit, "--fit-batch-size": match.fit_batch}, NO_DATA)
    if examples.data is None and network.network is None:
        refuse(options_of(network), _NO_NETWORK)
        return None
    return replace(
        network.request(), fit=examples.data, path=examples.data, fit_limit=examples.limit,
        fit_split=half(examples.split, "train"), fit_batch=match.fit_batch or FIT_BATCH, seed=match.seed, taps=taps,
    )  # fmt: skip


def check_loss(choice: MatchChoice, loss: str | None) -> None:
    """Refuse `--loss` where nothing goes down one.

    Raises:
        UsageError: the method looks at none, or no loss has that name.
    """
    if loss is None:
        return
    from rebasin_cli.evaluation.options import check_name

    check_name(loss)
    if not choice.goes_down_a_loss:
        raise UsageError(
            f"--loss {loss}: --method {choice.method} goes down no loss",
            remedy="--loss goes with --method ste, or sinkhorn --objective midpoint",
        )


FIT_BATCH = 1000
NO_DATA = (" runs a network on examples, and without data there are none", "add --data FILE")
_NO_NETWORK = (" is for a network, and none is run", "add --data FILE or --network MODULE:FACTORY")


def options_of(network: NetworkOptions) -> dict[str, object]:
    alone = None if network.network else network.network_option
    return {
        "--network-option": alone, "--sequence-length": network.sequence_length,
        "--image-size": network.image_size, "--normalise": network.normalise, "--loss": network.loss,
    }  # fmt: skip


def refuse(given: Mapping[str, object], why: tuple[str, str]) -> None:
    """Refuse options of which one was given, with why nothing reads them and what to do.

    Raises:
        UsageError: one was given.
    """
    for option, value in given.items():
        if value not in (None, (), []):
            reason, remedy = why
            raise UsageError(option + reason, remedy=remedy)


def half(given: v.SplitName | None, otherwise: Literal["train", "test"]) -> Literal["train", "test"]:
    """Which half of the data was asked for."""
    return otherwise if given is None else given.value
