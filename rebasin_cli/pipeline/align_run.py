"""`rebasin align` after all headers were judged: the contents are checked, matched, measured and written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.matching.complex_numbers import in_reals
from rebasin_cli.matching.objective import Distance, measure_distance
from rebasin_cli.matching.result import MatchResult
from rebasin_cli.permutation.files import permutation_bytes
from rebasin_cli.pipeline.align import AlignRequest
from rebasin_cli.pipeline.function_check import FunctionCheck
from rebasin_cli.pipeline.inputs import scan_sources
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.pipeline.match import match_pair
from rebasin_cli.pipeline.method_choice import MatchChoice
from rebasin_cli.pipeline.outputs import exact_reader, write_weights
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.record import (
    architecture_record,
    distance_record,
    match_record,
    output_metadata,
    peak_memory,
)
from rebasin_cli.pipeline.targets import Targets
from rebasin_cli.pipeline.ties import any_permutation, check_ties
from rebasin_cli.pipeline.versions import versions
from rebasin_cli.report.codec import document_file
from rebasin_cli.report.document import InputRecord, RunDocument


@dataclass(frozen=True, slots=True)
class Run:
    """An alignment that is ready to begin.

    Attributes:
        b: the checkpoint as it was opened, of which `pair.b` may be a view.
        choice: how to match, with the examples that the method looks at.
        device: where.
    """

    request: AlignRequest
    pair: Pair
    b: Checkpoint
    targets: Targets
    choice: MatchChoice
    check: FunctionCheck
    device: str


@dataclass(frozen=True, slots=True)
class _Found:
    """The match, how far B is from A before and after it, and the file of its permutation."""

    result: MatchResult
    distance: Distance
    file: bytes

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.file).hexdigest()


def carry_out(run: Run, progress: Progress) -> RunDocument:
    """Match B to A, and write what was asked for."""
    request, pair, targets = run.request, run.pair, run.targets
    with Outputs(force=request.force) as outputs:
        outputs.claim(*targets.paths().values())
        heads: dict[str, Mapping[str, int]] = {}
        inputs = scan_sources({"a": (request.a, pair.a), "b": (request.b, run.b)}, progress, heads=heads)
        check_ties(pair.layout_b, run.b, heads["b"], any_permutation(pair.layout))
        run.check.spec(pair.layout, request.choice.seed, pair.b, pair.a)
        result = match_pair(pair, run.choice, run.device, progress, inputs)
        run.check.found(pair.layout, result.permutation, pair.b, pair.a)
        found = _measure(pair, result, inputs, progress)
        _write(run, found, outputs, inputs, progress)
        document = _document(run, outputs.hashes, found, inputs, progress)
        if path := targets.path("report"):
            outputs.write(path, document_file(document, path))
    return document


def _measure(pair: Pair, result: MatchResult, inputs: Mapping[str, InputRecord], progress: Progress) -> _Found:
    """Measure the distance of A and B, before and after the match."""
    count = sum(tensor.section == "tensors" for tensor in pair.layout.tensors.values())
    with progress.phase("measuring", count) as advance:
        layout, (a, b) = in_reals(pair.layout, pair.a, pair.b)
        distance = measure_distance(layout, a, b, result.permutation, lambda _: advance(1))
    of = {role: entry.identity for role, entry in inputs.items()}
    return _Found(result, distance, permutation_bytes(result.permutation, pair.layout, inputs=of))


def _write(run: Run, found: _Found, outputs: Outputs, inputs: Mapping[str, InputRecord], progress: Progress) -> None:
    """Write B aligned, and the permutation."""
    request, pair, targets, result = run.request, run.pair, run.targets, found.result
    metadata = output_metadata(
        "align", pair.layout, request.spec, inputs, method=result.method, seed=result.seed, permutation=found.sha256
    )  # fmt: skip
    write_weights(
        targets["aligned"], run.b, exact_reader(result.permutation, pair.layout_b, run.b),
        metadata=metadata, outputs=outputs, progress=progress,
    )  # fmt: skip
    if path := targets.path("permutation"):
        outputs.write(path, found.file)


def _document(
    run: Run, written: Mapping[Path, str], found: _Found, inputs: Mapping[str, InputRecord], progress: Progress
) -> RunDocument:
    """What was found and written."""
    return RunDocument(
        command="align",
        inputs=inputs,
        architecture=architecture_record(run.pair.layout, run.request.spec, found.distance, run.check.record()),
        match=match_record(found.result),
        distance=distance_record(found.distance),
        outputs=run.targets.written(),
        hashes=run.targets.hashes(written),
        warnings=tuple(progress.warnings),
        versions=versions(),
        invocations=progress.invocations(),
        device=run.device,
        peak_memory_bytes=peak_memory(),
    )
