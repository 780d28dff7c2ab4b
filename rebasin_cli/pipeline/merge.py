"""`rebasin merge`: N models brought into one order of units, and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from rebasin_cli.checkpoints import Outputs
from rebasin_cli.errors import UsageError
from rebasin_cli.merging.many import Algorithm, ManyResult
from rebasin_cli.merging.many_by_activations import BY_ACTIVATIONS
from rebasin_cli.merging.models import Models, pairwise_distances
from rebasin_cli.permutation import permutation_bytes
from rebasin_cli.pipeline.binding import Pair, bind_models, tell_layout
from rebasin_cli.pipeline.checking import prepare_check
from rebasin_cli.pipeline.choices import SpecChoice
from rebasin_cli.pipeline.curves import tell_buffers
from rebasin_cli.pipeline.examples import DataRequest
from rebasin_cli.pipeline.inputs import Source, open_source, scan_sources
from rebasin_cli.pipeline.judges import Judge, prepare_judge
from rebasin_cli.pipeline.listener import Listener
from rebasin_cli.pipeline.match import resolve_device, with_data
from rebasin_cli.pipeline.match_models import match_models
from rebasin_cli.pipeline.merge_scores import Worth, judge_merge, merged_states, role_of
from rebasin_cli.pipeline.methods import MatchChoice
from rebasin_cli.pipeline.outputs import write_weights
from rebasin_cli.pipeline.path import check_dtypes, is_first, tell_kept, tell_lacking
from rebasin_cli.pipeline.plan import estimate
from rebasin_cli.pipeline.record import architecture_record, input_record, output_metadata, peak_memory
from rebasin_cli.pipeline.targets import Targets, beside, named_or_beside, output_base
from rebasin_cli.pipeline.ties import any_permutation, check_ties
from rebasin_cli.pipeline.versions import versions
from rebasin_cli.report.codec import to_json
from rebasin_cli.report.document import NATS, MergeRecord, PairRecord, RunDocument

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


def merge(request: MergeRequest, listener: Listener) -> RunDocument:
    """Match all models to one another, write their mean, the permutations and the run document.

    Raises:
        RebasinError: in the order usage, headers, spec, targets, data, contents.
    """
    weights = _weights(request)
    device = resolve_device(request.choice.device)
    with ExitStack() as files:
        opened = [files.enter_context(open_source(source, listener)) for source in request.models]
        pairs = bind_models(opened, request.spec)
        layout = pairs[0].layout
        targets = _targets(request)
        data = request.data.inputs() if request.data else []
        check_dtypes(pairs[0])
        models_read = (opened[0], *(pair.b for pair in pairs))
        targets.check((*models_read, layout.spec.path, *data), opened[0], force=request.force)
        choice = with_data(request.choice, request.data, pairs[0], device, listener)
        judged = request.data if request.data and request.data.judges else None
        judge = prepare_judge(judged, layout, opened[0], device, listener) if judged else None
        tell_layout(layout, listener)
        for number, pair in enumerate(pairs, 2):
            tell_lacking(pair, listener, "model 1", f"model {number}")
        document = RunDocument(
            command="merge",
            inputs={role_of(i): input_record(source.shown, None) for i, source in enumerate(request.models)},
            architecture=architecture_record(layout, request.spec),
            warnings=tuple(listener.warnings),
            versions=versions(),
            device=device,
        )
        check = prepare_check(pairs[0], device, listener, judge=judge, fitting=choice.fitting)
        if request.dry_run:
            return replace(document, plan=_plan(request, pairs, targets).plan)
        outputs = files.enter_context(Outputs(force=request.force))
        outputs.claim(*targets.paths().values())
        roles = {role_of(i): pair for i, pair in enumerate(zip(request.models, opened, strict=True))}
        heads: dict[str, Mapping[str, int]] = {}
        inputs = scan_sources(roles, listener, heads=heads)
        for i, own in enumerate((layout, *(pair.layout_b for pair in pairs))):
            check_ties(own, opened[i], heads[role_of(i)], any_permutation(layout))
        check.spec(layout, request.choice.seed, pairs[0].b, opened[0])
        models = Models(layout, (opened[0], *(pair.b for pair in pairs)), weights)
        first = judge.measure(opened[0]) if judge else None  # fails before anything that takes time
        result = match_models(models, request.algorithm, choice, listener)
        for model, permutation in zip((opened[0], *(pair.b for pair in pairs)), result.permutations, strict=True):
            check.found(layout, permutation, model, opened[0])
        distances = pairwise_distances(models, result.permutations)
        states = merged_states(judge, models, result.permutations, opened[0])
        worth = Worth()
        if judge and first:
            worth = judge_merge(judge, models, opened, result.permutations, states, first, request.steps, listener)
        merged = list(states.values())[-1]  # repaired as was asked for last
        if not (judge and judge.repairs):
            tell_buffers(layout, listener)
        for pair in pairs:
            tell_kept(pair, listener)

        def read(key: str) -> Tensor:
            return opened[0].read_raw(key) if is_first(layout, opened[0], key) else merged[key]

        recipe = {"algorithm": request.algorithm, "weights": ",".join(f"{w:g}" for w in weights), "seed": result.seed}
        if judge and judge.repairs:
            recipe["repair"] = judge.repairs[-1]
        write_weights(
            targets["merged"], opened[0], read, outputs=outputs, listener=listener, finite=not request.allow_non_finite,
            metadata=output_metadata("merge", layout, request.spec, inputs, **recipe),
        )  # fmt: skip
        hashes = [inputs[role_of(i)].identity for i in range(len(opened))]
        for i, (permutation, sha256) in enumerate(zip(result.permutations, hashes, strict=True), 1):
            if path := targets.path(f"permutation.{i}"):
                outputs.write(path, permutation_bytes(permutation, layout, inputs={"a": hashes[0], "b": sha256}))
        if request.data:
            roles_of_data = (("data", request.data.path), ("fit-data", request.data.fit))
            inputs |= {role: input_record(path, None) for role, path in roles_of_data if path in request.data.files()}
        document = replace(
            document,
            inputs=inputs,
            architecture=architecture_record(layout, request.spec, checked=check.record()),
            merge=_record(request, weights, result, distances, judge, worth),
            outputs=targets.written(),
            warnings=tuple(listener.warnings),
            peak_memory_bytes=peak_memory(),
        )
        if path := targets.path("report"):
            outputs.write(path, to_json(document).encode())
    return document


def _weights(request: MergeRequest) -> tuple[float, ...]:
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


def _record(
    request: MergeRequest,
    weights: Sequence[float],
    result: ManyResult,
    distances: Mapping[tuple[int, int], tuple[float, float]],
    judge: Judge | None,
    worth: Worth,
) -> MergeRecord:
    pairs = []
    for (i, j), (before, after) in distances.items():
        naive, aligned = worth.barriers.get((i, j), (None, None))
        pairs.append(PairRecord(role_of(i), role_of(j), before, after, naive, aligned))
    moved = [
        sum(map(permutation.fraction_moved, permutation)) / max(1, len(permutation))
        for permutation in result.permutations
    ]
    return MergeRecord(
        algorithm=result.algorithm,
        method=request.choice.method,
        weights=tuple(weights),
        seed=result.seed,
        objective=result.objective,
        stop=result.stop,
        seconds=round(result.seconds, 4),
        matches=result.matches,
        moved=tuple(moved),
        pairs=tuple(pairs),
        scores=dict(worth.scores),
        failures=dict(worth.failures),
        data=judge.source if judge else "",
        unit="" if judge is None or judge.unit == NATS else judge.unit,
    )


def _plan(request: MergeRequest, pairs: Sequence[Pair], targets: Targets) -> RunDocument:
    count = len(request.models)
    plans = [
        estimate(
            pair, writes=0, targets=targets.planned(), matched=True, passes=2 * count if pair is pairs[0] else count
        )
        for pair in pairs
    ]
    total = replace(
        plans[0],
        reads=sum(plan.reads for plan in plans),
        writes=pairs[0].a.nbytes,
        peak_memory_bytes=max(plan.peak_memory_bytes for plan in plans),
        seconds=round(sum(plan.seconds for plan in plans) * 2, 2),
    )
    return RunDocument(command="merge", plan=total)
