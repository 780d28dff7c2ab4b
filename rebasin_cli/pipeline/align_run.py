"""`rebasin align` after all headers were judged: the contents are checked, matched, measured and written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.matching.objective import Distance
from rebasin_cli.matching.problem import MatchResult
from rebasin_cli.permutation.files import permutation_bytes
from rebasin_cli.permutation.gather import exact_reader
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.align import Run
from rebasin_cli.pipeline.inputs import check_rotations, scan_sources
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.pipeline.match import distance_of, match_pair, on_cluster
from rebasin_cli.pipeline.record import (
    architecture_record,
    distance_record,
    match_record,
    output_metadata,
    peak_memory,
    versions,
)
from rebasin_cli.pipeline.targets import write_document, write_weights
from rebasin_cli.report.document import InputRecord, RunDocument


@dataclass(frozen=True, slots=True)
class Found:
    """The match, how far B is from A before and after it, and the file of its permutation.

    Attributes:
        pair: what was matched: the run's, but for streams that tied tensors keep from being rotated.
        inputs: the checkpoints as they were read, by role.
    """

    pair: Pair
    result: MatchResult
    distance: Distance
    file: bytes
    inputs: Mapping[str, InputRecord]

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.file).hexdigest()


def carry_out(run: Run, progress: Progress) -> RunDocument:
    """Match B to A, and write what was asked for."""
    with Outputs(force=run.request.force) as outputs:
        outputs.claim(*run.targets.paths().values())
        found = find(run, progress)
        return write(run, found, outputs, progress)


def find(run: Run, progress: Progress, known: InputRecord | None = None) -> Found:
    """Read both checkpoints, match B to A, and measure how near they are before and after.

    Args:
        known: of A, where it was read and found to be finite before.
    """
    with on_cluster(run.choice, (run.request.a, run.request.b), progress) as choice:
        return _found(replace(run, choice=choice), progress, known)


def _found(run: Run, progress: Progress, known: InputRecord | None) -> Found:
    request, pair = run.request, run.pair
    heads: dict[str, Mapping[str, int]] = {}
    unread = {} if known else {"a": (request.a, pair.a)}
    found = scan_sources({**unread, "b": (request.b, run.b)}, progress, heads=heads)
    inputs = {"a": known, **found} if known else found
    if len(set(heads["b"].values())) < len(run.b.infos):  # only tensors that begin alike can be tied
        from rebasin_cli.pipeline.ties import any_permutation, check_ties, without_parting_ties

        (pair,) = without_parting_ties([pair], [(pair.layout_b, run.b, heads["b"])], request.spec, progress)
        check_ties(pair.layout_b, run.b, heads["b"], any_permutation(pair.layout))
    check_rotations(pair.layout, pair.a)
    check_rotations(pair.layout_b, run.b)
    run.check.spec(pair.layout, request.choice.seed, pair.b, pair.a)
    result = match_pair(pair, run.choice, run.device, progress, inputs)
    run.check.found(pair.layout, result.permutation, pair.b, pair.a)
    return _measure(pair, result, inputs, progress)


def write(run: Run, found: Found, outputs: Outputs, progress: Progress) -> RunDocument:
    """Write what has a target, and return the document."""
    write_aligned(run, found, outputs, progress)
    document = describe(run, found, progress, outputs.hashes)
    write_document(document, run.targets, outputs, progress)
    return document


def _measure(pair: Pair, result: MatchResult, inputs: Mapping[str, InputRecord], progress: Progress) -> Found:
    """Measure the distance of A and B, before and after the match."""
    count = sum(tensor.section == "tensors" for tensor in pair.layout.tensors.values())
    with progress.phase("measuring", count) as advance:
        distance = distance_of(pair, result.permutation, lambda _: advance(1))
    of = {role: entry.identity for role, entry in inputs.items()}
    return Found(pair, result, distance, permutation_bytes(result.permutation, pair.layout, inputs=of), inputs)


def aligned_reader(run: Run, found: Found) -> Callable[[str], Tensor]:
    """Key → the bytes of B's tensor in A's order of units."""
    return exact_reader(found.result.permutation, found.pair.layout_b, run.b)


def write_aligned(run: Run, found: Found, outputs: Outputs, progress: Progress) -> None:
    """Write B aligned, and the permutation."""
    request, pair, targets, result = run.request, found.pair, run.targets, found.result
    metadata = output_metadata(
        "align", pair.layout, request.spec, found.inputs,
        method=result.method, seed=result.seed, permutation=found.sha256,
    )  # fmt: skip
    write_weights(
        targets["aligned"], run.b, aligned_reader(run, found), metadata=metadata, outputs=outputs, progress=progress
    )
    if path := targets.path("permutation"):
        outputs.write(path, found.file)


def describe(run: Run, found: Found, progress: Progress, written: Mapping[Path, str] | None = None) -> RunDocument:
    """What was found and written."""
    return RunDocument(
        command="align",
        inputs=found.inputs,
        architecture=architecture_record(found.pair.layout, run.request.spec, found.distance, run.check.record()),
        match=match_record(found.result),
        distance=distance_record(found.distance),
        outputs=run.targets.written(),
        hashes=run.targets.hashes(written or {}),
        warnings=tuple(progress.warnings),
        versions=versions(),
        invocations=progress.invocations(),
        device=run.device,
        peak_memory_bytes=peak_memory(),
    )
