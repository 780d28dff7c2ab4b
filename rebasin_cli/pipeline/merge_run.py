"""`rebasin merge` after all headers were judged: the match, what the mean is worth, and what is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from msgspec import structs
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.matching.complex_numbers import in_reals
from rebasin_cli.merging.many import ManyResult
from rebasin_cli.merging.models import Models, pairwise_distances
from rebasin_cli.permutation.files import permutation_bytes
from rebasin_cli.pipeline.function_check import FunctionCheck
from rebasin_cli.pipeline.inputs import scan_sources
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.pipeline.match_models import match_models
from rebasin_cli.pipeline.merge import MergeRequest
from rebasin_cli.pipeline.merge_scoring import MergeScores, merged_states, score_merge
from rebasin_cli.pipeline.method_choice import MatchChoice
from rebasin_cli.pipeline.outputs import write_weights
from rebasin_cli.pipeline.points import is_first, tell_kept
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.record import architecture_record, data_records, output_metadata, peak_memory, role_of
from rebasin_cli.pipeline.scoring import Scorer
from rebasin_cli.pipeline.sweep import tell_buffers
from rebasin_cli.pipeline.targets import Targets
from rebasin_cli.pipeline.ties import any_permutation, check_ties
from rebasin_cli.report.codec import document_file
from rebasin_cli.report.document import NATS, InputRecord, MergeRecord, PairRecord, RunDocument

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Run:
    """A merge that is ready to begin.

    Attributes:
        opened: the models as they were opened; pairs: each model after the first, under the names of the first.
        models: all under the names of the first, with their weights.
        choice: how to match, with the examples that the method looks at.
    """

    request: MergeRequest
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


def carry_out(run: Run, document: RunDocument, progress: Progress) -> RunDocument:
    """Match the models, write their mean, the permutations and the document, of which `document` is the beginning."""
    request = run.request
    with Outputs(force=request.force) as outputs:
        outputs.claim(*run.targets.paths().values())
        inputs = _scan(request, run, progress)
        found = _match(request, run, progress)
        _write_merged(request, run, found, inputs, outputs, progress)
        _write_permutations(run, found.result, inputs, outputs)
        document = _finished(document, request, run, found, inputs, progress)
        document = structs.replace(document, hashes=run.targets.hashes(outputs.hashes))
        if path := run.targets.path("report"):
            outputs.write(path, document_file(document, path))
    return document


def _scan(request: MergeRequest, run: Run, progress: Progress) -> dict[str, InputRecord]:
    """Read every model once, and refuse what would not stay the same network."""
    layout = run.models.layout
    named = {role_of(i): pair for i, pair in enumerate(zip(request.models, run.opened, strict=True))}
    heads: dict[str, Mapping[str, int]] = {}
    inputs = scan_sources(named, progress, heads=heads)
    for i, own in enumerate((layout, *(pair.layout_b for pair in run.pairs))):
        check_ties(own, run.opened[i], heads[role_of(i)], any_permutation(layout))
    run.check.spec(layout, request.choice.seed, run.pairs[0].b, run.first)
    return inputs


def _match(request: MergeRequest, run: Run, progress: Progress) -> _Found:
    """Match the models, check what was found, and measure the merge."""
    models, scorer = run.models, run.scorer
    first = scorer.measure(run.first) if scorer else None  # fails before anything that takes time
    layout, states = in_reals(models.layout, *models.states)
    reals = replace(models, layout=layout, states=states)
    result = match_models(models if run.choice.looks_at_data else reals, request.algorithm, run.choice, progress)
    for model, permutation in zip((run.first, *(pair.b for pair in run.pairs)), result.permutations, strict=True):
        run.check.found(models.layout, permutation, model, run.first)
    distances = pairwise_distances(reals, result.permutations)
    merged = merged_states(scorer, models, result.permutations, run.first)
    worth = MergeScores()
    if scorer and first:
        worth = score_merge(scorer, models, run.opened, result.permutations, merged, first, request.steps, progress)
    return _Found(result, distances, list(merged.values())[-1], worth)  # repaired as was asked for last


def _write_merged(
    request: MergeRequest, run: Run, found: _Found, inputs: Mapping[str, InputRecord], outputs: Outputs,
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


def _write_permutations(run: Run, result: ManyResult, inputs: Mapping[str, InputRecord], outputs: Outputs) -> None:
    """Write the permutation of every model into the order of the first."""
    hashes = [inputs[role_of(i)].identity for i in range(len(run.opened))]
    for i, (permutation, sha256) in enumerate(zip(result.permutations, hashes, strict=True), 1):
        if path := run.targets.path(f"permutation.{i}"):
            of = {"a": hashes[0], "b": sha256}
            outputs.write(path, permutation_bytes(permutation, run.models.layout, inputs=of))


def _finished(
    document: RunDocument, request: MergeRequest, run: Run, found: _Found, inputs: Mapping[str, InputRecord],
    progress: Progress,
) -> RunDocument:  # fmt: skip
    """The document with what was found and written."""
    return structs.replace(
        document,
        inputs={**inputs, **(data_records(request.data) if request.data else {})},
        architecture=architecture_record(run.models.layout, request.spec, checked=run.check.record()),
        merge=_record(request.choice.method, run, found),
        outputs=run.targets.written(),
        warnings=tuple(progress.warnings),
        invocations=progress.invocations(),
        peak_memory_bytes=peak_memory(),
    )


def _record(method: str, run: Run, found: _Found) -> MergeRecord:
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
