"""Every option that more than one command has, defined once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from rebasin_cli.cli import numbers as n
from rebasin_cli.errors import UsageError

if TYPE_CHECKING:
    from rebasin_cli.evaluation.images import Moments
    from rebasin_cli.pipeline.choices import SpecChoice
    from rebasin_cli.pipeline.methods import MatchChoice
    from rebasin_cli.report.document import RunDocument

_Number = TypeVar("_Number", int, float)

DATA = "Data"
_SPEC, _RUN, _OUTPUT, _TALK = "Architecture", "Run", "Output", "Messages"


class Device(StrEnum):
    """Where similarities and losses are computed."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Method(StrEnum):
    """How units are matched."""

    WEIGHTS = "weights"
    FRANK_WOLFE = "frank-wolfe"
    SINKHORN = "sinkhorn"
    ACTIVATIONS = "activations"
    STE = "ste"


class MergeMethod(StrEnum):
    """How units of several models are matched; what goes by the loss between two is not among them."""

    WEIGHTS = "weights"
    FRANK_WOLFE = "frank-wolfe"
    SINKHORN = "sinkhorn"
    ACTIVATIONS = "activations"


class ObjectiveName(StrEnum):
    """What Sinkhorn re-basin goes down."""

    DISTANCE = "distance"
    MIDPOINT = "midpoint"
    RANDOM = "random"


class Likeness(StrEnum):
    """What activations have in common."""

    CORRELATION = "correlation"
    COVARIANCE = "covariance"


class Start(StrEnum):
    """Where matching begins."""

    ANCHORED = "anchored"
    IDENTITY = "identity"


class Order(StrEnum):
    """The order of the steps of a sweep."""

    FORWARD = "forward"
    RANDOM = "random"


class Quality(StrEnum):
    """How much time to spend on a better optimum."""

    FAST = "fast"
    DEFAULT = "default"
    HIGH = "high"


class OnInterrupt(StrEnum):
    """What Ctrl-C does while matching."""

    ABORT = "abort"
    SAVE = "save"


class SplitName(StrEnum):
    """Which half of the data."""

    TRAIN = "train"
    TEST = "test"


class Repair(StrEnum):
    """What is done to the statistics of merged networks."""

    NONE = "none"
    BN = "bn"
    REPAIR = "repair"


def _complete_arch(incomplete: str) -> list[str]:
    from rebasin_cli.spec import shipped_specs

    return [name for name in shipped_specs() if name.startswith(incomplete)]


def file_path(text: str | Path) -> Path:
    """Read the name of a file for an option that knows no stdout, and would make a file called `-`.

    Raises:
        typer.BadParameter: for `-`.
    """
    if str(text) == "-":
        raise typer.BadParameter("`-` is stdout, and this is written to a file")
    return Path(text)


CheckpointPath = Annotated[
    Path,
    typer.Argument(readable=False, metavar="CKPT", help="A checkpoint: file, FILE:KEY, folder or index; - is stdin."),
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
        rich_help_panel=_SPEC,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=N", help="A size shapes do not tell: n_heads=12.", rich_help_panel=_SPEC),
]
Freeze = Annotated[list[str] | None, typer.Option(metavar="DIM", help="Keep a dim at identity.", rich_help_panel=_SPEC)]
Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Leave tensors out of the match: 'head.*'.", rich_help_panel=_SPEC),
]

DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data", readable=False, metavar="PATH", rich_help_panel=DATA,
        help="Arrays (.npz, .safetensors), idx or image folder, text, MODULE:LOADER.",
    ),
]  # fmt: skip
NetworkName = Annotated[
    str | None,
    typer.Option("--network", metavar="MODULE:FACTORY", help="Your own network.", rich_help_panel=DATA),
]
NetworkOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="What shapes cannot tell: activation=gelu.", rich_help_panel=DATA),
]
SequenceLength = Annotated[
    int | None, typer.Option(parser=n.TOKENS, metavar="N", help="Tokens of a window; else 512.", rich_help_panel=DATA)
]
ImageSize = Annotated[
    int | None, typer.Option(parser=n.PIXELS, metavar="N", help="Cut and scale images to N × N.", rich_help_panel=DATA)
]
Normalise = Annotated[
    str | None,
    typer.Option(metavar="MEAN/STD", help="Of images' channels: imagenet, 0.5/0.5.", rich_help_panel=DATA),
]
BatchSize = Annotated[
    int | None, typer.Option(parser=n.COUNT, metavar="N", help="Examples at a time; else 512.", rich_help_panel=DATA)
]
LossName = Annotated[
    str | None,
    typer.Option(
        "--loss", metavar="NAME", help="mse, mae, cross-entropy or MODULE:FUNCTION; else by the kind of targets.",
        rich_help_panel=DATA,
    ),
]  # fmt: skip
MetricName = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", metavar="NAME", help="Also top5, macro-f1, calibration-error, perplexity or MODULE:FUNCTION.",
        rich_help_panel=DATA,
    ),
]  # fmt: skip
Limit = Annotated[
    int | None, typer.Option(parser=n.COUNT, metavar="N", help="Only the first N examples.", rich_help_panel=DATA)
]
EvalCommand = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Judge by 'python eval.py {checkpoint}'; $REBASIN_CHECKPOINT has the path, too.",
        rich_help_panel=DATA,
    ),
]
EvalTimeout = Annotated[
    float | None, typer.Option(parser=n.SECONDS, metavar="SECONDS", help="For one point.", rich_help_panel=DATA)
]
RepairName = Annotated[
    list[Repair] | None,
    typer.Option(
        "--repair", help="Recompute BatchNorm statistics, or rescale all channels; may be given twice.",
        rich_help_panel=DATA,
    ),
]  # fmt: skip
FitData = Annotated[
    Path | None,
    typer.Option(
        readable=False, metavar="PATH", help="Examples to fit on; else the train half of --data.", rich_help_panel=DATA
    ),
]
FitLimit = Annotated[
    int | None, typer.Option(parser=n.COUNT, metavar="N", help="Fit on the first N.", rich_help_panel=DATA)
]

DeviceName = Annotated[Device, typer.Option("--device", help="Where to compute.", rich_help_panel=_RUN)]
Seed = Annotated[
    int,
    typer.Option(
        parser=n.SEED, metavar="N", help="Of steps and masks; the same seed, the same bytes.", rich_help_panel=_RUN
    ),
]
MaxSweeps = Annotated[
    int,
    typer.Option(parser=n.COUNT, metavar="N", help="Stop matching after so many sweeps.", rich_help_panel=_RUN),
]
MethodName = Annotated[
    Method, typer.Option("--method", help="How units are matched.", rich_help_panel=_RUN, show_default=True)
]
LikenessName = Annotated[
    Likeness,
    typer.Option("--similarity", help="Of activations (--method activations).", rich_help_panel=_RUN),
]
Tap = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIM=MODULE", help="A dim's units are what this module makes (activations).", rich_help_panel=_RUN
    ),
]
Objective = Annotated[
    ObjectiveName,
    typer.Option(
        "--objective", help="Of sinkhorn: weights' distance, or the loss at ½ or a random λ.", rich_help_panel=_RUN
    ),
]
Epochs = Annotated[
    int, typer.Option(parser=n.COUNT, metavar="N", help="At most so many (ste, sinkhorn).", rich_help_panel=_RUN)
]
LearningRate = Annotated[
    float | None,
    typer.Option(parser=n.LEARNING_RATE, metavar="X", help="Else 0.01 (ste) or 0.2 (sinkhorn).", rich_help_panel=_RUN),
]
Momentum = Annotated[
    float,
    typer.Option(parser=n.MOMENTUM, metavar="X", help="Of its steps (--method ste).", rich_help_panel=_RUN),
]
FitBatch = Annotated[
    int,
    typer.Option(
        "--fit-batch-size", parser=n.COUNT, metavar="N", help="Examples of a step on --data.", rich_help_panel=_RUN
    ),
]
StartName = Annotated[
    Start,
    typer.Option("--start", help="Outwards from what never moves, or identity as in the paper.", rich_help_panel=_RUN),
]
OrderName = Annotated[
    Order, typer.Option("--order", help="The spec's order, or random as in the paper.", rich_help_panel=_RUN)
]
Restarts = Annotated[
    int | None,
    typer.Option(parser=n.COUNT, metavar="N", help="N descents instead of what --quality has.", rich_help_panel=_RUN),
]
QualityName = Annotated[Quality, typer.Option("--quality", help="Time for a better optimum.", rich_help_panel=_RUN)]
Threads = Annotated[
    int | None,
    typer.Option(parser=n.THREADS, metavar="N", help="Else one for each core that may be used.", rich_help_panel=_RUN),
]
Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="What matching may keep between steps: 512MB, 8GB.", rich_help_panel=_RUN),
]
TimeBudget = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Take the best so far after 90s, 10m, 1.5h of matching.", rich_help_panel=_RUN),
]
OnInterruptName = Annotated[
    OnInterrupt,
    typer.Option("--on-interrupt", help="On Ctrl-C write nothing, or the best so far.", rich_help_panel=_RUN),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.", rich_help_panel=_RUN)]

Report = Annotated[
    Path | None,
    typer.Option(parser=file_path, metavar="FILE", help="Where the run document is written.", rich_help_panel=_OUTPUT),
]
AllowNonFinite = Annotated[
    bool, typer.Option("--allow-non-finite", help="Write mixed values that overflow, too.", rich_help_panel=_OUTPUT)
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.", rich_help_panel=_OUTPUT)]
SavePermutation = Annotated[
    Path | None,
    typer.Option(parser=file_path, metavar="FILE", help="Where the permutation is written.", rich_help_panel=_OUTPUT),
]

Json = Annotated[bool, typer.Option("--json", help="Print the run document, on a terminal too.", rich_help_panel=_TALK)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, warnings or notes on stderr.", rich_help_panel=_TALK)
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Every dim, every sweep.", rich_help_panel=_TALK)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_TALK)]


def spec_choice(
    arch: str | None, sizes: Sequence[str] | None, freeze: Sequence[str] | None, ignore: Sequence[str] | None
) -> SpecChoice:
    """The four architecture options as one value.

    Raises:
        UsageError: a `--set` that is not NAME=N.
    """
    from rebasin_cli.pipeline.choices import SpecChoice

    parsed = {}
    for name, value in pairs("--set", sizes).items():
        parsed[name] = number(n.SIZE, value, option=f"--set {name}", example=f"--set {name}=12")
    return SpecChoice(arch, parsed, tuple(freeze or ()), tuple(ignore or ()))


def need_data(given: Mapping[str, object]) -> None:
    """Refuse options that say nothing without examples; `given` are their values by name.

    Raises:
        UsageError: one of them was given.
    """
    for option, value in given.items():
        if value:
            raise UsageError(
                f"{option} runs a network on examples, and without data there are none", remedy="add --data FILE"
            )


def need_fitting(fit_data: Path | None, fit_limit: int | None, *, fits: bool) -> None:
    """Refuse `--fit-data` and `--fit-limit` where nothing is fitted.

    Raises:
        UsageError: one was given.
    """
    if not fits and (fit_data is not None or fit_limit is not None):
        raise UsageError(
            f"--fit-{'limit' if fit_data is None else 'data'}: nothing is fitted on examples here",
            remedy="add --repair, or a --method that looks at data",
        )


def need_loss(choice: MatchChoice, loss: str) -> None:
    """Refuse `--loss` where nothing goes down one.

    Raises:
        UsageError: the method looks at none, or no loss has that name.
    """
    from rebasin_cli.evaluation.losses import check_name

    check_name(loss)
    if not choice.goes_down_a_loss:
        raise UsageError(
            f"--loss {loss}: --method {choice.method} goes down no loss",
            remedy="--loss goes with --method ste, or sinkhorn --objective midpoint",
        )


def taps(method: Method, given: Sequence[str] | None) -> dict[str, str]:
    """What `--tap` says: dim → module.

    Raises:
        UsageError: another method looks at no activations.
    """
    if given and method != Method.ACTIVATIONS:
        raise UsageError(f"--tap: --method {method.value} looks at no activations", remedy="add --method activations")
    return pairs("--tap", given)


def moments(text: str | None) -> Moments | None:
    """What `--normalise` says."""
    if text is None:
        return None
    from rebasin_cli.evaluation.images import parse_moments

    return parse_moments(text)


def repairs(named: Sequence[Repair] | None) -> tuple[Literal["bn", "repair"], ...]:
    """What `--repair` asks for, each once."""
    kinds: dict[Repair, Literal["bn", "repair"]] = {Repair.BN: "bn", Repair.REPAIR: "repair"}
    return tuple(dict.fromkeys(kinds[name] for name in named or () if name in kinds))


def pairs(option: str, values: Sequence[str] | None) -> dict[str, str]:
    """`["a=1", "b=x"]` as a dict.

    Raises:
        UsageError: one without `=`, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in values or ():
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise UsageError(f"{option} {text}: expected NAME=VALUE", remedy=f"for example {option} name=value")
        if name in found:
            raise UsageError(f"{option} {name} is given twice: {found[name]} and {value}", remedy="keep one of the two")
        found[name] = value
    return found


def number(read: Callable[[str], _Number], text: str, *, option: str, example: str) -> _Number:
    """A number that is a part of an option's value.

    Raises:
        UsageError: as `read` says.
    """
    try:
        return read(text)
    except typer.BadParameter as error:
        raise UsageError(f"{option}: {error.message}", remedy=f"for example {example}") from None


def match_choice(
    method: Method,
    seed: int,
    max_sweeps: int,
    start: Start,
    order: Order,
    device: Device,
    restarts: int | None = None,
    quality: Quality = Quality.DEFAULT,
    time_budget: str | None = None,
    on_interrupt: OnInterrupt = OnInterrupt.ABORT,
    memory: str | None = None,
    similarity: Likeness = Likeness.CORRELATION,
    epochs: int = 20,
    learning_rate: float | None = None,
    momentum: float = 0.9,
    threads: int | None = None,
    objective: ObjectiveName = ObjectiveName.DISTANCE,
) -> MatchChoice:
    """The options of matching as one value."""
    from rebasin_cli.pipeline import methods
    from rebasin_cli.pipeline.amounts import parse_bytes
    from rebasin_cli.pipeline.stopping import parse_duration

    given = {
        "start": start.value, "order": order.value, "restarts": restarts, "quality": quality.value,
        "similarity": similarity.value, "epochs": epochs, "learning_rate": learning_rate, "momentum": momentum,
        "objective": objective.value,
    }  # fmt: skip
    return methods.match_choice(
        method.value, given,
        seed=seed, max_sweeps=max_sweeps, device=device.value,
        time_budget=parse_duration(time_budget) if time_budget else None, on_interrupt=on_interrupt.value,
        memory=parse_bytes(memory) if memory else None, threads=threads,
    )  # fmt: skip


def end_of(document: RunDocument) -> None:
    """Leave with 130 after a run that was interrupted and wrote what it had."""
    done = document.match or document.merge
    if done is not None and done.stop == "interrupted":
        raise typer.Exit(130)
