"""`rebasin align`: B permuted onto A."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import UsageError
from rebasin_cli.matching.objective import Distance, measure_distance
from rebasin_cli.matching.result import MatchResult
from rebasin_cli.permutation.files import permutation_bytes
from rebasin_cli.pipeline.choices import SpecChoice
from rebasin_cli.pipeline.data import DataRequest
from rebasin_cli.pipeline.function_check import prepare_check
from rebasin_cli.pipeline.inputs import Source, open_source, scan_sources
from rebasin_cli.pipeline.layouts import Pair, bind_pair, tell_layout
from rebasin_cli.pipeline.match import match_pair, matching_device, resolve_device, with_data
from rebasin_cli.pipeline.methods import MatchChoice
from rebasin_cli.pipeline.network_spec import settled_spec
from rebasin_cli.pipeline.outputs import exact_reader, write_weights
from rebasin_cli.pipeline.plan import estimate
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.record import (
    architecture_record,
    distance_record,
    input_record,
    match_record,
    output_metadata,
    peak_memory,
)
from rebasin_cli.pipeline.targets import Targets, base_of, named_after, named_or_beside, output_base
from rebasin_cli.pipeline.ties import any_permutation, check_ties
from rebasin_cli.pipeline.versions import versions
from rebasin_cli.report.codec import to_json
from rebasin_cli.report.document import CheckedRecord, InputRecord, RunDocument


@dataclass(frozen=True, slots=True)
class AlignRequest:
    """What the user asked for.

    Attributes:
        output: where the aligned B goes: a path, a pipe, or None for a name beside B.
        permutation, report: paths, or None for names beside the output.
        data: what a method that looks at examples is shown, and what B is run on before and after.
    """

    a: Source
    b: Source
    spec: SpecChoice = field(default_factory=SpecChoice)
    output: Path | BinaryIO | None = None
    permutation: Path | None = None
    report: Path | None = None
    choice: MatchChoice = field(default_factory=MatchChoice)
    data: DataRequest | None = None
    force: bool = False
    dry_run: bool = False


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


def align(request: AlignRequest, progress: Progress) -> RunDocument:
    """Match B to A, write B aligned, the permutation and the run document.

    Raises:
        RebasinError: in the order headers, spec, targets, contents; before matching starts, unless a disk fills up.
    """
    resolve_device(request.choice.device)  # refused before anything is read
    with ExitStack() as files:
        a = files.enter_context(open_source(request.a, progress))
        b = files.enter_context(open_source(request.b, progress))
        request = replace(request, spec=settled_spec(request.spec, request.data, (a, b), progress))
        pair = bind_pair(a, b, request.spec)
        device = matching_device(request.choice, pair.layout)
        targets = _targets(request, b)
        data = request.data.inputs() if request.data else []
        targets.check((a, pair.b, pair.layout.spec.path, *data), pair.b, force=request.force)
        choice = with_data(request.choice, request.data, pair, device, progress)
        tell_layout(pair.layout, progress)
        if request.data and not choice.looks_at_data:
            progress.remark(f"--method {choice.method} looks at weights alone; the network is run to compare B by it")
        check = prepare_check(pair, device, progress, fitting=choice.fitting, data=request.data)
        if request.dry_run:
            return _plan(request, pair, targets, progress)
        outputs = files.enter_context(Outputs(force=request.force))
        outputs.claim(*targets.paths().values())
        heads: dict[str, Mapping[str, int]] = {}
        inputs = scan_sources({"a": (request.a, a), "b": (request.b, b)}, progress, heads=heads)
        check_ties(pair.layout_b, b, heads["b"], any_permutation(pair.layout))
        check.spec(pair.layout, request.choice.seed, pair.b, pair.a)
        result = match_pair(pair, choice, device, progress, inputs)
        check.found(pair.layout, result.permutation, pair.b, pair.a)
        found = _measure(pair, result, inputs, progress)
        _write(request, pair, b, found, targets, outputs, inputs, progress)
        document = _document(request, pair, found, targets, inputs, check.record(), progress)
        document = replace(document, device=device)
        if path := targets.path("report"):
            outputs.write(path, to_json(document).encode())
    return document


def _measure(pair: Pair, result: MatchResult, inputs: Mapping[str, InputRecord], progress: Progress) -> _Found:
    """Measure the distance of A and B, before and after the match."""
    count = sum(tensor.section == "tensors" for tensor in pair.layout.tensors.values())
    with progress.phase("measuring", count) as advance:
        distance = measure_distance(pair.layout, pair.a, pair.b, result.permutation, lambda _: advance(1))
    of = {role: entry.identity for role, entry in inputs.items()}
    return _Found(result, distance, permutation_bytes(result.permutation, pair.layout, inputs=of))


def _write(
    request: AlignRequest, pair: Pair, b: Checkpoint, found: _Found, targets: Targets, outputs: Outputs,
    inputs: Mapping[str, InputRecord], progress: Progress,
) -> None:  # fmt: skip
    """Write B aligned, and the permutation."""
    result = found.result
    metadata = output_metadata(
        "align", pair.layout, request.spec, inputs, method=result.method, seed=result.seed, permutation=found.sha256
    )  # fmt: skip
    write_weights(
        targets["aligned"], b, exact_reader(result.permutation, pair.layout_b, b),
        metadata=metadata, outputs=outputs, progress=progress,
    )  # fmt: skip
    if path := targets.path("permutation"):
        outputs.write(path, found.file)


def _document(
    request: AlignRequest, pair: Pair, found: _Found, targets: Targets, inputs: Mapping[str, InputRecord],
    checked: CheckedRecord, progress: Progress,
) -> RunDocument:  # fmt: skip
    """What was found and written."""
    return RunDocument(
        command="align",
        inputs=inputs,
        architecture=architecture_record(pair.layout, request.spec, found.distance, checked),
        match=match_record(found.result),
        distance=distance_record(found.distance),
        outputs=targets.written(),
        hashes={"permutation": found.sha256} if "permutation" in targets.places else {},
        warnings=tuple(progress.warnings),
        versions=versions(),
        peak_memory_bytes=peak_memory(),
    )


def _targets(request: AlignRequest, b: Checkpoint) -> Targets:
    """Names for everything, from `-o` or from B's own name."""
    output = request.output
    if output is not None:
        base = output_base(output)
    else:
        if str(request.b.shown) == "-":
            raise UsageError("B comes from a pipe, so that outputs have no name to follow", remedy="name one with -o")
        base = base_of(request.b.path, is_folder=b.is_folder)
        output = named_after(b, request.b.path, "aligned")
    return Targets.of(
        "aligned",
        {
            "aligned": output,
            "permutation": named_or_beside(request.permutation, base, ".permutation.safetensors"),
            "report": named_or_beside(request.report, base, ".rebasin.json"),
        },
    )


def _plan(request: AlignRequest, pair: Pair, targets: Targets, progress: Progress) -> RunDocument:
    return RunDocument(
        command="align",
        inputs={"a": input_record(request.a.shown, None), "b": input_record(request.b.shown, None)},
        architecture=architecture_record(pair.layout, request.spec),
        warnings=tuple(progress.warnings),
        versions=versions(),
        plan=estimate(pair, writes=pair.b.nbytes, targets=targets.planned(), matched=True, passes=3),
    )
