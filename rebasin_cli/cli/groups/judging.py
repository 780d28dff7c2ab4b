"""The options that say how networks are judged, and what is done to those between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rebasin_cli.cli import values as v
from rebasin_cli.cli.groups.data import (
    FIT_BATCH,
    NO_DATA,
    PANEL,
    Examples,
    NetworkOptions,
    check_loss,
    half,
    options_of,
    refuse,
)
from rebasin_cli.cli.groups.matching import MergeMatchOptions
from rebasin_cli.errors import UsageError

if TYPE_CHECKING:
    from rebasin_cli.evaluation.options import Polish
    from rebasin_cli.pipeline.data_request import DataRequest
    from rebasin_cli.pipeline.method_choice import MatchChoice
    from rebasin_cli.report.document import RunDocument

_NO_FIT = (
    ": nothing is fitted on examples here",
    "add --repair, --polish, --calibrate, or a --method that looks at data",
)


@dataclass(frozen=True)
class PolishOptions:
    """How the weights of the merge that is written are fitted."""

    polish: Annotated[
        v.Polish | None,
        typer.Option(
            "--polish", help="Fit the merge's weights to its models' outputs.",
            rich_help_panel=PANEL,
        ),
    ] = None  # fmt: skip
    polish_steps: Annotated[
        int | None,
        typer.Option(
            "--polish-steps", parser=v.COUNT, metavar="N", help="Of distillation.", show_default="300",
            rich_help_panel=PANEL,
        ),
    ] = None  # fmt: skip

    def polished(self, request: DataRequest) -> DataRequest:
        """What is asked for, with the examples.

        Raises:
            UsageError: steps without distillation.
        """
        kinds: dict[v.Polish, Polish] = {v.Polish.LEAST_SQUARES: "least-squares", v.Polish.DISTILL: "distill"}
        if self.polish_steps is not None and self.polish != v.Polish.DISTILL:
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
        typer.Option(parser=v.COUNT, metavar="N", help="Examples at a time; else 512.", rich_help_panel=PANEL),
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
        float | None, typer.Option(parser=v.SECONDS, metavar="SECONDS", help="For one point.", rich_help_panel=PANEL)
    ] = None
    repair: Annotated[
        list[v.Repair] | None,
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
        int | None, typer.Option(parser=v.COUNT, metavar="N", help="Fit on the first N.", rich_help_panel=PANEL)
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
        kinds: dict[v.Repair, Literal["bn", "repair"]] = {v.Repair.BN: "bn", v.Repair.REPAIR: "repair"}
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
            parser=v.BARRIER, metavar="X", help="Exit with 1 if the merge's loss is higher.", rich_help_panel=PANEL
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
        refuse({"--fit-data": judge.fit_data, "--fit-limit": judge.fit_limit}, _NO_FIT)
    fits = judge.fit_data is not None and (choice.looks_at_data or judge.polish is not None)
    if not has_loss:
        of_line = {"--ensemble": ensemble or None, "--calibrate": calibrate or None}
        refuse({"--repair": repairs, "--metric": judge.metric, **of_line, **further}, NO_DATA)
        refuse({"--batch-size": judge.batch_size, "--split": examples.split, "--limit": examples.limit}, NO_DATA)
        refuse({"--eval-timeout": judge.eval_timeout}, (NO_DATA[0], "add --eval-command COMMAND"))
        if not fits:
            refuse({"--polish": judge.polish}, (NO_DATA[0], "add --fit-data FILE or --data FILE"))
            refuse({**options_of(network), "--fit-batch-size": match.fit_batch}, NO_DATA)
            return network.named()
        if judge.polish is None:
            check_loss(choice, network.loss)
    if examples.data is None and judge.fit_data is None:
        refuse({"--polish": judge.polish}, (NO_DATA[0], "add --fit-data FILE"))
    return judge.polished(replace(
        network.request(), path=examples.data, split=half(examples.split, "test"), limit=examples.limit,
        batch_size=judge.batch_size, fit=judge.fit_data, fit_limit=judge.fit_limit,
        fit_batch=match.fit_batch or FIT_BATCH, repairs=repairs, command=judge.program(),
        serves=judge.eval_server is not None, timeout=judge.eval_timeout, metrics=tuple(judge.metric or ()),
        seed=match.seed, taps=taps, ensemble=ensemble, calibrate=calibrate,
    ))  # fmt: skip
