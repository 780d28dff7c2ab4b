"""`rebasin merge`: N models brought into one order of units, and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import UsageError
from rebasin_cli.merging.many import Algorithm, ManyResult
from rebasin_cli.merging.many_by_activations import BY_ACTIVATIONS
from rebasin_cli.merging.models import Models, pairwise_distances
from rebasin_cli.permutation.files import permutation_bytes
from rebasin_cli.pipeline.choices import SpecChoice
from rebasin_cli.pipeline.data import DataRequest
from rebasin_cli.pipeline.function_check import FunctionCheck, prepare_check
from rebasin_cli.pipeline.inputs import Source, open_source, scan_sources
from rebasin_cli.pipeline.layouts import Pair, bind_models, tell_layout
from rebasin_cli.pipeline.match import resolve_device, with_data
from rebasin_cli.pipeline.match_models import match_models
from rebasin_cli.pipeline.merge_scoring import MergeScores, merged_states, role_of, score_merge
from rebasin_cli.pipeline.methods import MatchChoice
from rebasin_cli.pipeline.network_spec import settled_spec
from rebasin_cli.pipeline.outputs import write_weights
from rebasin_cli.pipeline.plan import estimate
from rebasin_cli.pipeline.points import check_dtypes, is_first, tell_kept, tell_lacking
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.record import architecture_record, data_records, input_record, output_metadata, peak_memory
from rebasin_cli.pipeline.scoring import Scorer, prepare_scorer
from rebasin_cli.pipeline.sweep import tell_buffers
from rebasin_cli.pipeline.targets import Targets, beside, named_or_beside, output_base
from rebasin_cli.pipeline.ties import any_permutation, check_ties
from rebasin_cli.pipeline.versions import versions
from rebasin_cli.report.codec import to_json
from rebasin_cli.report.document import NATS, InputRecord, MergeRecord, PairRecord, PlanRecord, RunDocument
from rebasin_cli.spec import Layout

_METHODS = ("weights", "frank-wolfe", "sinkhorn", "activations")
State = Mapping[str, Tensor]

_LEAST_SHARE = 1e-18
"""The least weight, as a share of the largest: far below what a float64 can add to it."""


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """What the user asked for.

    Attributes:
        weights: of the models, in their order; None for equal ones.
        output: where the merged checkpoint goes: a path or a pipe.
        steps: points of the lines between models, of which the pairwise barriers are taken.
    """

    models: tuple[Source, ...]
    output: Path | BinaryIO
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
class _Run:
    """A merge that is ready to begin.

    Attributes:
        opened: the models as they were opened; pairs: each model after the first, under the names of the first.
        models: all under the names of the first, with their weights.
        choice: how to match, with the examples that the method looks at.
    """

    opened: tuple[Checkpoint, ...]
    pairs: tuple[Pair, ...]
    models: Models
    targets: Targets
    choice: MatchChoice
    scorer: Scorer | None
    check: FunctionCheck

    @property
    def first(self) -> Checkpoint:
        """The model whose form the merge has."""
        return self.opened[0]


@dataclass(frozen=True, slots=True)
class _Found:
    """What came out of a merge: the match, the distances of pairs before and after, the merge, and how good it is."""

    result: ManyResult
    distances: Mapping[tuple[int, int], tuple[float, float]]
    merged: State
    worth: MergeScores


def merge(request: MergeRequest, progress: Progress) -> RunDocument:
    """Match all models to one another, write their mean, the permutations and the run document.

    Raises:
        RebasinError: in the order usage, headers, spec, targets, data, contents.
    """
    weights = _weights(request)
    device = resolve_device(request.choice.device)
    with ExitStack() as files:
        opened = tuple(files.enter_context(open_source(source, progress)) for source in request.models)
        request = replace(request, spec=settled_spec(request.spec, request.data, opened, progress))
        pairs = tuple(bind_models(opened, request.spec))
        models = Models(pairs[0].layout, (opened[0], *(pair.b for pair in pairs)), weights)
        targets = _checked_targets(request, pairs)
        choice = with_data(request.choice, request.data, pairs[0], device, progress)
        scorer = _scorer(request, pairs[0], device, progress)
        _tell_models(pairs, progress)
        document = _planned(request, models.layout, device, progress)
        check = prepare_check(pairs[0], device, progress, scorer=scorer, fitting=choice.fitting, data=request.data)
        if request.dry_run:
            return replace(document, plan=_plan(pairs, targets))
        run = _Run(opened, pairs, models, targets, choice, scorer, check)
        outputs = files.enter_context(Outputs(force=request.force))
        outputs.claim(*targets.paths().values())
        inputs = _scan(request, run, progress)
        found = _match(request, run, progress)
        _write_merged(request, run, found, inputs, outputs, progress)
        _write_permutations(run, found.result, inputs, outputs)
        document = _finished(document, request, run, found, inputs, progress)
        if path := targets.path("report"):
            outputs.write(path, to_json(document).encode())
    return document


def _checked_targets(request: MergeRequest, pairs: Sequence[Pair]) -> Targets:
    """The outputs, after everything that forbids to write them was refused."""
    first, layout = pairs[0].a, pairs[0].layout
    targets = _targets(request)
    data = request.data.inputs() if request.data else []
    check_dtypes(pairs[0])
    models = (first, *(pair.b for pair in pairs))
    targets.check((*models, layout.spec.path, *data), first, force=request.force)
    return targets


def _scorer(request: MergeRequest, pair: Pair, device: str, progress: Progress) -> Scorer | None:
    """What the models and the merge are judged by, if there is data for it."""
    if request.data is None or not request.data.judges:
        return None
    return prepare_scorer(request.data, pair.layout, pair.a, device, progress)


def _tell_models(pairs: Sequence[Pair], progress: Progress) -> None:
    """Say what a reader must know of the layout, and of models that lack something."""
    tell_layout(pairs[0].layout, progress)
    for number, pair in enumerate(pairs, 2):
        tell_lacking(pair, progress, "model 1", f"model {number}")


def _scan(request: MergeRequest, run: _Run, progress: Progress) -> dict[str, InputRecord]:
    """Read every model once, and refuse what would not stay the same network."""
    layout = run.models.layout
    named = {role_of(i): pair for i, pair in enumerate(zip(request.models, run.opened, strict=True))}
    heads: dict[str, Mapping[str, int]] = {}
    inputs = scan_sources(named, progress, heads=heads)
    for i, own in enumerate((layout, *(pair.layout_b for pair in run.pairs))):
        check_ties(own, run.opened[i], heads[role_of(i)], any_permutation(layout))
    run.check.spec(layout, request.choice.seed, run.pairs[0].b, run.first)
    return inputs


def _match(request: MergeRequest, run: _Run, progress: Progress) -> _Found:
    """Match the models, check what was found, and measure the merge."""
    models, scorer = run.models, run.scorer
    first = scorer.measure(run.first) if scorer else None  # fails before anything that takes time
    result = match_models(models, request.algorithm, run.choice, progress)
    for model, permutation in zip((run.first, *(pair.b for pair in run.pairs)), result.permutations, strict=True):
        run.check.found(models.layout, permutation, model, run.first)
    distances = pairwise_distances(models, result.permutations)
    states = merged_states(scorer, models, result.permutations, run.first)
    worth = MergeScores()
    if scorer and first:
        worth = score_merge(scorer, models, run.opened, result.permutations, states, first, request.steps, progress)
    return _Found(result, distances, list(states.values())[-1], worth)  # repaired as was asked for last


def _write_merged(
    request: MergeRequest, run: _Run, found: _Found, inputs: Mapping[str, InputRecord], outputs: Outputs,
    progress: Progress,
) -> None:  # fmt: skip
    """Write the merge, with the tensors of the first model where nothing is mixed."""
    layout, first, repairs = run.models.layout, run.first, run.scorer.repairs if run.scorer else ()
    if not repairs:
        tell_buffers(layout, progress)
    for pair in run.pairs:
        tell_kept(pair, progress)

    def read(key: str) -> Tensor:
        return first.read_raw(key) if is_first(layout, first, key) else found.merged[key]

    weights = ",".join(f"{weight:g}" for weight in run.models.weights)
    recipe = {"algorithm": request.algorithm, "weights": weights, "seed": found.result.seed}
    if repairs:
        recipe["repair"] = repairs[-1]
    write_weights(
        run.targets["merged"], first, read, outputs=outputs, progress=progress, finite=not request.allow_non_finite,
        metadata=output_metadata("merge", layout, request.spec, inputs, **recipe),
    )  # fmt: skip


def _write_permutations(run: _Run, result: ManyResult, inputs: Mapping[str, InputRecord], outputs: Outputs) -> None:
    """Write the permutation of every model into the order of the first."""
    hashes = [inputs[role_of(i)].identity for i in range(len(run.opened))]
    for i, (permutation, sha256) in enumerate(zip(result.permutations, hashes, strict=True), 1):
        if path := run.targets.path(f"permutation.{i}"):
            of = {"a": hashes[0], "b": sha256}
            outputs.write(path, permutation_bytes(permutation, run.models.layout, inputs=of))


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


def _finished(
    document: RunDocument, request: MergeRequest, run: _Run, found: _Found, inputs: Mapping[str, InputRecord],
    progress: Progress,
) -> RunDocument:  # fmt: skip
    """The document with what was found and written."""
    return replace(
        document,
        inputs={**inputs, **(data_records(request.data) if request.data else {})},
        architecture=architecture_record(run.models.layout, request.spec, checked=run.check.record()),
        merge=_record(request.choice.method, run, found),
        outputs=run.targets.written(),
        warnings=tuple(progress.warnings),
        peak_memory_bytes=peak_memory(),
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
    base = output_base(request.output)
    numbered = range(1, len(request.models) + 1) if base else ()
    permutations = {f"permutation.{i}": beside(base, f".{i}.permutation.safetensors") for i in numbered if base}
    report = named_or_beside(request.report, base, ".rebasin.json")
    return Targets.of("merged", {"merged": request.output, "report": report, **permutations})


def _record(method: str, run: _Run, found: _Found) -> MergeRecord:
    """The match and the figures of a merge, as the document keeps them."""
    result, scorer, worth = found.result, run.scorer, found.worth
    pairs = []
    for (i, j), (before, after) in found.distances.items():
        naive, aligned = worth.barriers.get((i, j), (None, None))
        pairs.append(PairRecord(role_of(i), role_of(j), before, after, naive, aligned))
    moved = [
        sum(map(permutation.fraction_moved, permutation)) / max(1, len(permutation))
        for permutation in result.permutations
    ]
    return MergeRecord(
        algorithm=result.algorithm,
        method=method,
        weights=tuple(run.models.weights),
        seed=result.seed,
        objective=result.objective,
        stop=result.stop,
        seconds=round(result.seconds, 4),
        matches=result.matches,
        moved=tuple(moved),
        pairs=tuple(pairs),
        scores=dict(worth.scores),
        failures=dict(worth.failures),
        data=scorer.source if scorer else "",
        unit="" if scorer is None or scorer.unit == NATS else scorer.unit,
    )


def _plan(pairs: Sequence[Pair], targets: Targets) -> PlanRecord:
    """What the merge would cost: a match of every pair, twice."""
    count = len(pairs) + 1
    plans = [
        estimate(pair, writes=0, targets=targets.planned(), matched=True, passes=passes)
        for pair, passes in zip(pairs, (2 * count, *[count] * (count - 2)), strict=True)
    ]
    return replace(
        plans[0],
        reads=sum(plan.reads for plan in plans),
        writes=pairs[0].a.nbytes,
        peak_memory_bytes=max(plan.peak_memory_bytes for plan in plans),
        seconds=round(sum(plan.seconds for plan in plans) * 2, 2),
    )
