"""`rebasin merge` after all headers were judged: the match, what the mean is worth, and what is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from msgspec import structs
from torch import Tensor

from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.matching.problem import in_reals
from rebasin_cli.matching.scales import all_in_balance
from rebasin_cli.merging.many import ManyResult
from rebasin_cli.merging.models import Models, PairDistance, pairwise_distances
from rebasin_cli.permutation.files import permutation_bytes
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.inputs import check_rotations, scan_sources
from rebasin_cli.pipeline.match import on_cluster
from rebasin_cli.pipeline.match_models import match_models
from rebasin_cli.pipeline.merge import Run
from rebasin_cli.pipeline.merge_scoring import MergeScores, merged_states, score_merge
from rebasin_cli.pipeline.points import is_first, tell_kept
from rebasin_cli.pipeline.record import architecture_record, data_records, output_metadata, peak_memory, role_of
from rebasin_cli.pipeline.sweep import tell_buffers
from rebasin_cli.pipeline.targets import write_document, write_weights
from rebasin_cli.pipeline.ties import any_permutation, check_ties, without_parting_ties
from rebasin_cli.pipeline.worth import told
from rebasin_cli.report.document import InputRecord, RunDocument
from rebasin_cli.report.measurements import NATS, MergeRecord, PairRecord, VerdictRecord
from rebasin_cli.report.worth import judge, judge_unmeasured

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Found:
    """What came out of a merge: the match, the distances of pairs before and after, the merge, and how good it is.

    Attributes:
        inputs: the models as they were read, by role.
        models: all under the names of the first, with their weights.
        worth: what was measured; verdict: what that comes to.
    """

    inputs: Mapping[str, InputRecord]
    models: Models
    result: ManyResult
    distances: Mapping[tuple[int, int], PairDistance]
    merged: State
    worth: MergeScores
    verdict: VerdictRecord


def carry_out(run: Run, progress: Progress) -> RunDocument:
    """Match the models, write their mean, the permutations and the document."""
    with Outputs(force=run.request.force) as outputs:
        outputs.claim(*run.targets.paths().values())
        found = find(run, progress)
        return write(run, found, outputs, progress)


def write(run: Run, found: Found, outputs: Outputs, progress: Progress) -> RunDocument:
    """Write what has a target, and return the document."""
    _write_merged(run, found, outputs, progress)
    _write_permutations(run, found, outputs)
    document = describe(run, found, progress)
    document = structs.replace(document, hashes=run.targets.hashes(outputs.hashes))
    write_document(document, run.targets, outputs, progress)
    return document


def _scan(run: Run, progress: Progress) -> tuple[Run, dict[str, InputRecord]]:
    """Read every model once, and refuse what would not stay the same network; the run with what may move."""
    request = run.request
    named = {role_of(i): pair for i, pair in enumerate(zip(request.models, run.opened, strict=True))}
    heads: dict[str, Mapping[str, int]] = {}
    inputs = scan_sources(named, progress, heads=heads)
    layouts = (run.layout, *(pair.layout_b for pair in run.pairs))
    stored = [(own, run.opened[i], heads[role_of(i)]) for i, own in enumerate(layouts)]
    run = replace(run, pairs=tuple(without_parting_ties(run.pairs, stored, request.spec, progress)))
    layout = run.layout
    for i, own in enumerate((layout, *(pair.layout_b for pair in run.pairs))):
        check_ties(own, run.opened[i], heads[role_of(i)], any_permutation(layout))
        check_rotations(own, run.opened[i])
    run.check.spec(layout, request.choice.seed, run.pairs[0].b, run.first)
    return run, inputs


def find(run: Run, progress: Progress) -> Found:
    """Read and match the models, check what was found, and measure the merge."""
    with on_cluster(run.choice, run.request.models, progress) as choice:
        return _found(replace(run, choice=choice), progress)


def _found(run: Run, progress: Progress) -> Found:
    run, inputs = _scan(run, progress)
    request, scorer = run.request, run.scorer
    models = Models(run.layout, (run.first, *(pair.b for pair in run.pairs)), run.weights)
    first = scorer.measure(run.first) if scorer else None  # fails before anything that takes time
    layout, states = in_reals(models.layout, *models.states)
    reals = replace(models, layout=layout, states=states)
    result = match_models(models if run.choice.looks_at_data else reals, request.algorithm, run.choice, progress)
    for model, permutation in zip((run.first, *(pair.b for pair in run.pairs)), result.permutations, strict=True):
        run.check.found(models.layout, permutation, model, run.first)
    compared, between = all_in_balance(layout, states, result.permutations)
    distances = pairwise_distances(replace(reals, states=compared), between)
    merged = merged_states(scorer, models, result.permutations, run.first)
    if run.polisher:
        ordered = [permuted(p, models.layout, s) for p, s in zip(result.permutations, models.states, strict=True)]
        polished = run.polisher.polish(merged["merged"], ordered, models.weights)
        merged |= {f"merged + {how}": state for how, state in polished.items()}
    worth = MergeScores()
    if scorer and first:
        worth = score_merge(scorer, models, run.opened, result.permutations, merged, first, request.steps, progress)
    verdict = told(_verdict(run, distances, worth), progress)
    last = list(merged.values())[-1]  # repaired and polished as was asked for last
    return Found(inputs, models, result, distances, last, worth, verdict)


def merged_reader(run: Run, found: Found) -> Callable[[str], Tensor]:
    """Key → the tensor of the merge, or the bytes of the first model's where nothing is mixed."""

    def read(key: str) -> Tensor:
        return run.first.read_raw(key) if is_first(run.layout, run.first, key) else found.merged[key]

    return read


def _write_merged(run: Run, found: Found, outputs: Outputs, progress: Progress) -> None:
    """Write the merge, with the tensors of the first model where nothing is mixed."""
    request, layout, repairs = run.request, run.layout, run.scorer.repairs if run.scorer else ()
    if not repairs and run.polisher is None:
        tell_buffers(layout, progress)
    for pair in run.pairs:
        tell_kept(pair, progress)
    weights = ",".join(f"{weight:g}" for weight in run.weights)
    recipe = {"algorithm": request.algorithm, "weights": weights, "seed": found.result.seed}
    if run.polisher:
        recipe["polish"] = run.polisher.recipe
    elif repairs:
        recipe["repair"] = repairs[-1]
    write_weights(
        run.targets["merged"], run.first, merged_reader(run, found),
        metadata=output_metadata("merge", layout, request.spec, found.inputs, **recipe),
        outputs=outputs, progress=progress, finite=not request.allow_non_finite,
    )  # fmt: skip


def permutation_file(run: Run, found: Found, i: int) -> bytes:
    """The file of the permutation of the i-th model, from 0 on, into the order of the first."""
    of = {"a": found.inputs[role_of(0)].identity, "b": found.inputs[role_of(i)].identity}
    return permutation_bytes(found.result.permutations[i], run.layout, inputs=of)


def _write_permutations(run: Run, found: Found, outputs: Outputs) -> None:
    """Write the permutation of every model into the order of the first."""
    for i in range(len(run.opened)):
        if path := run.targets.path(f"permutation.{i + 1}"):
            outputs.write(path, permutation_file(run, found, i))


def describe(run: Run, found: Found, progress: Progress) -> RunDocument:
    """The document with what was found and written."""
    request = run.request
    return structs.replace(
        run.document,
        inputs={**found.inputs, **(data_records(request.data) if request.data else {})},
        architecture=architecture_record(found.models.layout, request.spec, checked=run.check.record()),
        merge=_record(run, found),
        verdict=found.verdict,
        outputs=run.targets.written(),
        warnings=tuple(progress.warnings),
        invocations=progress.invocations(),
        peak_memory_bytes=peak_memory(),
    )


def _verdict(run: Run, distances: Mapping[tuple[int, int], PairDistance], worth: MergeScores) -> VerdictRecord:
    """What the merge is worth."""
    if worth.scores:
        return judge(worth.scores, [role_of(i) for i in range(len(run.opened))], run.weights)
    return judge_unmeasured([distance.cosine for distance in distances.values()], run.polisher is not None)


def _record(run: Run, found: Found) -> MergeRecord:
    """The match and the figures of a merge, as the document keeps them."""
    result, scorer, worth = found.result, run.scorer, found.worth
    pairs = []
    for (i, j), distance in found.distances.items():
        naive, aligned = worth.barriers.get((i, j), (None, None))
        pairs.append(PairRecord(role_of(i), role_of(j), distance.before, distance.after, naive, aligned))
    moved = [
        sum(map(permutation.fraction_moved, permutation)) / max(1, len(permutation))
        for permutation in result.permutations
    ]
    return MergeRecord(
        algorithm=result.algorithm,
        method=run.request.choice.method,
        weights=tuple(run.weights),
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
