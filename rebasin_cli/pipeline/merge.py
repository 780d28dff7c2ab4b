"""`rebasin merge`: N models brought into one order of units, and their mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import structs

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.matching.resources import resolve_device
from rebasin_cli.merging.options import BY_ACTIVATIONS, Algorithm
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.function_check import FunctionCheck, prepare_check, settled_spec
from rebasin_cli.pipeline.inputs import Source, open_source
from rebasin_cli.pipeline.layouts import Pair, SpecChoice, bind_models, check_symmetry, tell_layout
from rebasin_cli.pipeline.method_choice import MatchChoice, with_data
from rebasin_cli.pipeline.plan import estimate
from rebasin_cli.pipeline.points import check_dtypes, tell_lacking
from rebasin_cli.pipeline.record import architecture_record, input_record, role_of, versions
from rebasin_cli.pipeline.targets import Targets, beside, named_or_beside, output_base, tell_room
from rebasin_cli.process import load_torch
from rebasin_cli.report.document import PlanRecord, RunDocument
from rebasin_cli.spec import Layout

if TYPE_CHECKING:  # examples and networks, which not every command has
    from rebasin_cli.pipeline.data_request import DataRequest
    from rebasin_cli.pipeline.polisher import Polisher
    from rebasin_cli.pipeline.scoring import Scorer

_METHODS = ("weights", "frank-wolfe", "sinkhorn", "activations")
_LEAST_SHARE = 1e-18
"""The least weight, as a share of the largest: far below what a float64 can add to it."""


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """What the user asked for.

    Attributes:
        weights: of the models, in their order; None for equal ones.
        output: where the merged checkpoint goes: a path or a pipe; None: nothing is written.
        steps: points of the lines between models, of which the pairwise barriers are taken.
    """

    models: tuple[Source, ...]
    output: Path | BinaryIO | None
    spec: SpecChoice = field(default_factory=SpecChoice)
    algorithm: Algorithm = "cycle-consistent"
    weights: tuple[float, ...] | None = None
    data: DataRequest | None = None
    steps: int = 5
    report: Path | None = None
    choice: MatchChoice = field(default_factory=MatchChoice)
    force: bool = False
    dry_run: bool = False
    allow_non_finite: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """A merge that is ready to begin.

    Attributes:
        request: with the spec that was settled.
        opened: the models as they were opened; pairs: each model after the first, under the names of the first.
        weights: the share of every model.
        choice: how to match, with the examples that the method looks at.
        document: what is known before anything is read.
        polisher: what the merge is fitted to its models with; None if that was not asked for.
    """

    request: MergeRequest
    opened: tuple[Checkpoint, ...]
    pairs: tuple[Pair, ...]
    weights: tuple[float, ...]
    targets: Targets
    choice: MatchChoice
    scorer: Scorer | None
    check: FunctionCheck
    document: RunDocument
    polisher: Polisher | None = None

    @property
    def first(self) -> Checkpoint:
        """The model whose form the merge has."""
        return self.opened[0]

    @property
    def layout(self) -> Layout:
        """Of all models, bound to the names of the first."""
        return self.pairs[0].layout


def merge(request: MergeRequest, progress: Progress) -> RunDocument:
    """Match all models to one another, write their mean, the permutations and the run document.

    Raises:
        RebasinError: in the order usage, headers, spec, targets, data, contents.
    """
    with ExitStack() as files:
        run = prepare(request, files, progress)
        if request.dry_run:
            plan = _plan(run.pairs, run.targets)
            return structs.replace(run.document, plan=plan, invocations=progress.invocations())
        load_torch()
        from rebasin_cli.pipeline.merge_run import carry_out

        return carry_out(run, progress)


def prepare(request: MergeRequest, files: ExitStack, progress: Progress) -> Run:
    """Judge everything that headers tell; the checkpoints stay open as long as `files`."""
    weights = _weights(request)
    device = resolve_device(request.choice.device)
    opened = tuple(files.enter_context(open_source(source, progress)) for source in request.models)
    _targets(request).check_places(opened, opened[0], force=request.force)
    request = replace(request, spec=settled_spec(_spec(request), request.data, opened, progress))
    pairs = tuple(bind_models(opened, request.spec))
    check_symmetry(pairs, request.spec)
    targets = checked_targets(request, pairs, tell_room(request, progress))
    choice = with_data(request.choice, request.data, pairs[0], device, progress)
    scorer = request.data.scorer(pairs[0], device, progress) if request.data else None
    polisher = request.data.polisher(pairs[0], device, progress, scorer) if request.data else None
    _tell_models(request.models, pairs, request.spec, progress)
    document = _planned(request, pairs[0].layout, device, progress)
    check = prepare_check(pairs[0], device, progress, scorer=scorer, fitting=choice.fitting, data=request.data)
    return Run(request, opened, pairs, weights, targets, choice, scorer, check, document, polisher)


def _spec(request: MergeRequest) -> SpecChoice:
    """What the user said of the spec, and whether models are rotated.

    Raises:
        UsageError: rotations were asked for, and of what was asked for besides something does not rotate.
    """
    choice = request.spec.for_method(request.choice.method)
    if request.algorithm != "frank-wolfe":
        return choice
    if choice.symmetry == "rotations":
        raise UsageError(
            "--algorithm frank-wolfe permutes units and rotates none, and --symmetry asks for rotations",
            remedy="leave out --algorithm, or --symmetry",
        )
    return replace(choice, rotates=False)


def checked_targets(request: MergeRequest, pairs: Sequence[Pair], tell: Callable[[str], None] | None = None) -> Targets:
    """The outputs, after everything that forbids to write them was refused."""
    first, layout = pairs[0].a, pairs[0].layout
    targets = _targets(request)
    data = request.data.inputs() if request.data else []
    check_dtypes(pairs[0])
    models = (first, *(pair.b for pair in pairs))
    targets.check((*models, layout.spec.path, *data), first, force=request.force, tell=tell)
    return targets


def _tell_models(models: Sequence[Source], pairs: Sequence[Pair], choice: SpecChoice, progress: Progress) -> None:
    """Say what a reader must know of the layout, and of models that are named twice or lack something."""
    tell_layout(pairs[0].layout, progress, choice)
    for name, count in Counter(str(source.shown) for source in models if source.held is None).items():
        if count > 1:
            progress.warn(f"{name} is named {count} times, and weighs as often; --weights says it openly")
    for number, pair in enumerate(pairs, 2):
        tell_lacking(pair, progress, "model 1", f"model {number}")


def _planned(request: MergeRequest, layout: Layout, device: str, progress: Progress) -> RunDocument:
    """What is known before anything is read."""
    return RunDocument(
        command="merge",
        inputs={role_of(i): input_record(source.shown, None) for i, source in enumerate(request.models)},
        architecture=architecture_record(layout, request.spec),
        warnings=tuple(progress.warnings),
        versions=versions(),
        device=device,
    )


def _weights(request: MergeRequest) -> tuple[float, ...]:
    """The share of every model, after every combination of options that cannot be carried out was refused."""
    count = len(request.models)
    if count < 2:
        raise UsageError("a merge needs two models or more, and one is named", remedy="rebasin merge M1 M2 M3 -o FILE")
    if request.choice.method not in _METHODS:
        raise UsageError(
            f"--method {request.choice.method} matches two models by the loss between them, and a merge has several",
            remedy=f"use --method {', '.join(_METHODS)}",
        )
    if request.choice.method == "activations" and request.algorithm not in BY_ACTIVATIONS:
        raise UsageError(
            f"--algorithm {request.algorithm} matches means of models, which have no activations of their own",
            remedy=f"with --method activations use --algorithm {', '.join(BY_ACTIVATIONS)}; or --method weights",
        )
    given = request.weights or (1.0,) * count
    if len(given) != count:
        raise UsageError(f"--weights has {len(given)} numbers for {count} models", remedy="give one for each model")
    if not all(0 < weight < float("inf") for weight in given):
        raise UsageError(
            "--weights: every weight is a finite number above zero",
            remedy="leave out a model that is to weigh nothing",
        )
    # By the largest first: sums of the largest floats overflow. What is less than rounding keeps a weight all the same.
    shares = [max(weight / max(given), _LEAST_SHARE) for weight in given]
    return tuple(share / sum(shares) for share in shares)


def _targets(request: MergeRequest) -> Targets:
    """Names for everything, from `-o`."""
    if request.output is None:
        return Targets({}, "merged")
    base = output_base(request.output)
    numbered = range(1, len(request.models) + 1) if base else ()
    permutations = {f"permutation.{i}": beside(base, f".{i}.permutation.safetensors") for i in numbered if base}
    report = named_or_beside(request.report, base, ".rebasin.json")
    return Targets.of("merged", {"merged": request.output, "report": report, **permutations})


def _plan(pairs: Sequence[Pair], targets: Targets) -> PlanRecord:
    """What the merge would cost: a match of every pair, twice."""
    count = len(pairs) + 1
    plans = [
        estimate(pair, writes=0, targets=targets.planned(), matched=True, passes=passes)
        for pair, passes in zip(pairs, (2 * count, *[count] * (count - 2)), strict=True)
    ]
    return structs.replace(
        plans[0],
        reads=sum(plan.reads for plan in plans),
        writes=pairs[0].a.nbytes,
        peak_memory_bytes=max(plan.peak_memory_bytes for plan in plans),
        seconds=round(sum(plan.seconds for plan in plans) * 2, 2),
    )
