"""Examples, the network that is run on them, and how it is judged and repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rebasin_cli.cli import choices as c
from rebasin_cli.cli import numbers as n
from rebasin_cli.cli.groups.matching import MergeMatchOptions
from rebasin_cli.cli.values import pairs
from rebasin_cli.errors import UsageError

if TYPE_CHECKING:
    from rebasin_cli.evaluation.options import Polish
    from rebasin_cli.pipeline.data_request import DataRequest
    from rebasin_cli.pipeline.method_choice import MatchChoice
    from rebasin_cli.report.document import RunDocument

PANEL = "Data"

DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data", readable=False, metavar="PATH", rich_help_panel=PANEL,
        help="Arrays (.npz, .safetensors), idx or image folder, text, hf:NAME, MODULE:LOADER.",
    ),
]  # fmt: skip
Limit = Annotated[
    int | None, typer.Option(parser=n.COUNT, metavar="N", help="Only the first N examples.", rich_help_panel=PANEL)
]


@dataclass(frozen=True)
class Examples:
    """What networks are judged on."""

    data: DataPath = None
    split: Annotated[
        c.SplitName | None,
        typer.Option(help="Half of a folder of idx files or images.", show_default="test", rich_help_panel=PANEL),
    ] = None
    limit: Limit = None


@dataclass(frozen=True)
class FittingExamples(Examples):
    """What a method or a repair is fitted on."""

    split: Annotated[
        c.SplitName | None,
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
            _refuse({"--network-option": self.network_option}, ("", "add --network MODULE:FACTORY"))
            return None
        return DataRequest(network=self.network, options=options)


@dataclass(frozen=True)
class NetworkOptions(NamedNetwork):
    """The network, and how its inputs are prepared."""

    sequence_length: Annotated[
        int | None,
        typer.Option(parser=n.TOKENS, metavar="N", help="Tokens of a window; else 512.", rich_help_panel=PANEL),
    ] = None
    image_size: Annotated[
        int | None,
        typer.Option(parser=n.PIXELS, metavar="N", help="Cut and scale images to N × N.", rich_help_panel=PANEL),
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


@dataclass(frozen=True)
class PolishOptions:
    """How the weights of the merge that is written are fitted."""

    polish: Annotated[
        c.Polish | None,
        typer.Option(
            "--polish", help="Fit the merge's weights to its models' outputs.",
            rich_help_panel=PANEL,
        ),
    ] = None  # fmt: skip
    polish_steps: Annotated[
        int | None,
        typer.Option(
            "--polish-steps", parser=n.COUNT, metavar="N", help="Of distillation.", show_default="300",
            rich_help_panel=PANEL,
        ),
    ] = None  # fmt: skip

    def polished(self, request: DataRequest) -> DataRequest:
        """What is asked for, with the examples.

        Raises:
            UsageError: steps without distillation.
        """
        kinds: dict[c.Polish, Polish] = {c.Polish.LEAST_SQUARES: "least-squares", c.Polish.DISTILL: "distill"}
        if self.polish_steps is not None and self.polish != c.Polish.DISTILL:
            raise UsageError("--polish-steps are those of distillation", remedy="add --polish distill")
        return replace(
            request, polish=None if self.polish is None else kinds[self.polish],
            polish_steps=self.polish_steps or request.polish_steps,
        )  # fmt: skip


@dataclass(frozen=True)
class JudgeOptions(PolishOptions):
    """How networks are judged, and what is done to those between."""

    batch_size: Annotated[
        int | None,
        typer.Option(parser=n.COUNT, metavar="N", help="Examples at a time; else 512.", rich_help_panel=PANEL),
    ] = None
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="NAME", help="Also top5, macro-f1, calibration-error, perplexity or MODULE:FUNCTION.",
            rich_help_panel=PANEL,
        ),
    ] = None  # fmt: skip
    eval_command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND", help="Judge by 'python eval.py {checkpoint}'; $REBASIN_CHECKPOINT has the path, too.",
            rich_help_panel=PANEL,
        ),
    ] = None  # fmt: skip
    eval_server: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND", help="The same by one that stays alive: JSON lines in and out.", rich_help_panel=PANEL
        ),
    ] = None
    eval_timeout: Annotated[
        float | None, typer.Option(parser=n.SECONDS, metavar="SECONDS", help="For one point.", rich_help_panel=PANEL)
    ] = None
    repair: Annotated[
        list[c.Repair] | None,
        typer.Option(
            "--repair", help="Bring statistics to fit the weights; may be given twice.",
            rich_help_panel=PANEL,
        ),
    ] = None  # fmt: skip
    fit_data: Annotated[
        Path | None,
        typer.Option(
            readable=False, metavar="PATH", help="Examples to fit on; else the train half of --data.",
            rich_help_panel=PANEL,
        ),
    ] = None  # fmt: skip
    fit_limit: Annotated[
        int | None, typer.Option(parser=n.COUNT, metavar="N", help="Fit on the first N.", rich_help_panel=PANEL)
    ] = None

    def program(self) -> str | None:
        """The command that judges, if there is one.

        Raises:
            UsageError: there are two.
        """
        if self.eval_command is not None and self.eval_server is not None:
            raise UsageError("--eval-command and --eval-server are two judges", remedy="leave one of them away")
        return self.eval_server if self.eval_command is None else self.eval_command

    def repairs(self) -> tuple[Literal["bn", "repair"], ...]:
        """What `--repair` asks for, each once."""
        kinds: dict[c.Repair, Literal["bn", "repair"]] = {c.Repair.BN: "bn", c.Repair.REPAIR: "repair"}
        return tuple(dict.fromkeys(kinds[name] for name in self.repair or () if name in kinds))


@dataclass(frozen=True)
class LineJudgeOptions(JudgeOptions):
    """How the networks of a line are judged."""

    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also both ends' averaged answers, as a curve.", rich_help_panel=PANEL)
    ] = False
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Judge each point at a temperature of its own, fitted on --fit-data.",
            rich_help_panel=PANEL,
        ),
    ] = False  # fmt: skip


@dataclass(frozen=True)
class WorthGates:
    """How good the merge must be that is written."""

    max_loss: Annotated[
        float | None,
        typer.Option(
            parser=n.BARRIER, metavar="X", help="Exit with 1 if the merge's loss is higher.", rich_help_panel=PANEL
        ),
    ] = None
    at_least_as_good: Annotated[
        bool,
        typer.Option(
            "--at-least-as-good", help="Exit with 1 if the merge is worse than its models are on average.",
            rich_help_panel=PANEL,
        ),
    ] = False  # fmt: skip

    def given(self) -> dict[str, object]:
        """Those that were asked for, by option."""
        return {"--max-loss": self.max_loss, "--at-least-as-good": self.at_least_as_good or None}

    def check(self, document: RunDocument) -> None:
        """Hold the merge to them.

        Raises:
            GateError: it is not so good.
        """
        from rebasin_cli.pipeline.gates import check_worth

        if document.plan is None:
            check_worth(document, self.max_loss, self.at_least_as_good)


def fitted(examples: FittingExamples, network: NetworkOptions, match: MergeMatchOptions) -> DataRequest | None:
    """What a method is shown, and what B is run on before and after; None if there is neither data nor a network.

    Raises:
        UsageError: an option that nothing reads then, or one with a value that is none.
    """
    taps = match.taps()
    if examples.data is None:
        _refuse({"--split": examples.split, "--limit": examples.limit, "--fit-batch-size": match.fit_batch}, _NO_DATA)
    if examples.data is None and network.network is None:
        _refuse(_options_of(network), _NO_NETWORK)
        return None
    return replace(
        network.request(), fit=examples.data, path=examples.data, fit_limit=examples.limit,
        fit_split=half(examples.split, "train"), fit_batch=match.fit_batch or _FIT_BATCH, seed=match.seed, taps=taps,
    )  # fmt: skip


def judged(
    examples: Examples,
    network: NetworkOptions,
    judge: JudgeOptions,
    match: MergeMatchOptions,
    choice: MatchChoice,
    further: Mapping[str, object],
) -> DataRequest | None:
    """What networks are judged by and fitted on; None if there is neither.

    Args:
        further: other options that say nothing without a loss, by name.

    Raises:
        UsageError: an option that nothing reads then, or one with a value that is none.
    """
    taps, repairs = match.taps(), judge.repairs()
    ensemble, calibrate = (judge.ensemble, judge.calibrate) if isinstance(judge, LineJudgeOptions) else (False, False)
    has_loss = examples.data is not None or judge.program() is not None
    if not (choice.looks_at_data or repairs or judge.polish or calibrate):
        _refuse({"--fit-data": judge.fit_data, "--fit-limit": judge.fit_limit}, _NO_FIT)
    fits = judge.fit_data is not None and (choice.looks_at_data or judge.polish is not None)
    if not has_loss:
        of_line = {"--ensemble": ensemble or None, "--calibrate": calibrate or None}
        _refuse({"--repair": repairs, "--metric": judge.metric, **of_line, **further}, _NO_DATA)
        _refuse({"--batch-size": judge.batch_size, "--split": examples.split, "--limit": examples.limit}, _NO_DATA)
        _refuse({"--eval-timeout": judge.eval_timeout}, (_NO_DATA[0], "add --eval-command COMMAND"))
        if not fits:
            _refuse({"--polish": judge.polish}, (_NO_DATA[0], "add --fit-data FILE or --data FILE"))
            _refuse({**_options_of(network), "--fit-batch-size": match.fit_batch}, _NO_DATA)
            return network.named()
        if judge.polish is None:
            check_loss(choice, network.loss)
    if examples.data is None and judge.fit_data is None:
        _refuse({"--polish": judge.polish}, (_NO_DATA[0], "add --fit-data FILE"))
    return judge.polished(replace(
        network.request(), path=examples.data, split=half(examples.split, "test"), limit=examples.limit,
        batch_size=judge.batch_size, fit=judge.fit_data, fit_limit=judge.fit_limit,
        fit_batch=match.fit_batch or _FIT_BATCH, repairs=repairs, command=judge.program(),
        serves=judge.eval_server is not None, timeout=judge.eval_timeout, metrics=tuple(judge.metric or ()),
        seed=match.seed, taps=taps, ensemble=ensemble, calibrate=calibrate,
    ))  # fmt: skip


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


_FIT_BATCH = 1000
_NO_DATA = (" runs a network on examples, and without data there are none", "add --data FILE")
_NO_NETWORK = (" is for a network, and none is run", "add --data FILE or --network MODULE:FACTORY")
_NO_FIT = (
    ": nothing is fitted on examples here",
    "add --repair, --polish, --calibrate, or a --method that looks at data",
)


def _options_of(network: NetworkOptions) -> dict[str, object]:
    alone = None if network.network else network.network_option
    return {
        "--network-option": alone, "--sequence-length": network.sequence_length,
        "--image-size": network.image_size, "--normalise": network.normalise, "--loss": network.loss,
    }  # fmt: skip


def _refuse(given: Mapping[str, object], why: tuple[str, str]) -> None:
    """Refuse options of which one was given, with why nothing reads them and what to do.

    Raises:
        UsageError: one was given.
    """
    for option, value in given.items():
        if value not in (None, (), []):
            reason, remedy = why
            raise UsageError(option + reason, remedy=remedy)


def half(given: c.SplitName | None, otherwise: Literal["train", "test"]) -> Literal["train", "test"]:
    """Which half of the data was asked for."""
    return otherwise if given is None else given.value
