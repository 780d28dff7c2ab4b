"""`rebasin align`: B permuted onto A.

First what headers tell, then the work on tensors, for which `align` loads torch; what needs it is imported there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import UsageError
from rebasin_cli.matching.resources import require_device
from rebasin_cli.permutation.files import permutation_bytes
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.function_check import FunctionCheck, prepare_check, settled_spec
from rebasin_cli.pipeline.inputs import Source, check_rotations, open_source, scan_sources
from rebasin_cli.pipeline.layouts import Pair, SpecChoice, bind_pair, check_symmetry, tell_layout
from rebasin_cli.pipeline.method_choice import MatchChoice, with_data
from rebasin_cli.pipeline.record import (
    architecture_record,
    distance_record,
    input_record,
    match_record,
    output_metadata,
    peak_memory,
    versions,
)
from rebasin_cli.pipeline.targets import (
    Targets,
    base_of,
    named_after,
    named_or_beside,
    output_base,
    tell_room,
    write_document,
    write_weights,
)
from rebasin_cli.process import load_torch
from rebasin_cli.report.document import InputRecord, RunDocument

if TYPE_CHECKING:
    from rebasin_cli.checkpoints.writer import Read
    from rebasin_cli.matching.objective import Distance
    from rebasin_cli.matching.problem import MatchResult
    from rebasin_cli.pipeline.data_request import DataRequest


@dataclass(frozen=True, slots=True)
class AlignRequest:
    """What the user asked for.

    Attributes:
        output: where the aligned B goes: a path, a pipe, or None for a name beside B.
        writes: False: nothing is written, and whoever asked keeps what was found.
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
    writes: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """An alignment that is ready to begin.

    Attributes:
        request: with the spec that was settled.
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


def align(request: AlignRequest, progress: Progress) -> RunDocument:
    """Match B to A, write B aligned, the permutation and the run document.

    Raises:
        RebasinError: in the order headers, spec, targets, contents; before matching starts, unless a disk fills up.
    """
    with ExitStack() as files:
        run = prepare(request, files, progress)
        if request.dry_run:
            return _plan(run, progress)
        load_torch()
        return carry_out(run, progress)


def prepare(request: AlignRequest, files: ExitStack, progress: Progress) -> Run:
    """Judge everything that headers tell; the checkpoints stay open as long as `files`."""
    require_device(request.choice.device)  # refused before anything is read
    a = files.enter_context(open_source(request.a, progress))
    b = files.enter_context(open_source(request.b, progress))
    _targets(request, b).check_places((a, b), b, force=request.force)
    request = replace(
        request, spec=settled_spec(request.spec.for_method(request.choice.method), request.data, (a, b), progress)
    )
    pair = bind_pair(a, b, request.spec)
    check_symmetry([pair], request.spec)
    device = request.choice.device_for(pair.layout)
    targets = checked_targets(request, pair, b, tell_room(request, progress))
    choice = with_data(request.choice, request.data, pair, device, progress)
    tell_layout(pair.layout, progress, request.spec)
    if request.data and not choice.looks_at_data:
        progress.remark(f"--method {choice.method} looks at weights alone; the network is run to compare B by it")
    check = prepare_check(pair, device, progress, fitting=choice.fitting, data=request.data)
    return Run(request, pair, b, targets, choice, check, device)


def checked_targets(
    request: AlignRequest, pair: Pair, b: Checkpoint, tell: Callable[[str], None] | None = None
) -> Targets:
    """The outputs, after everything that forbids to write them was refused."""
    targets = _targets(request, b)
    data = request.data.inputs() if request.data else []
    targets.check((pair.a, pair.b, pair.layout.spec.path, *data), pair.b, force=request.force, tell=tell)
    return targets


def _targets(request: AlignRequest, b: Checkpoint) -> Targets:
    """Names for everything, from `-o` or from B's own name."""
    if not request.writes:
        return Targets({}, "aligned")
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


def _plan(run: Run, progress: Progress) -> RunDocument:
    from rebasin_cli.pipeline.plan import estimate

    request, pair = run.request, run.pair
    return RunDocument(
        command="align",
        inputs={"a": input_record(request.a.shown, None), "b": input_record(request.b.shown, None)},
        architecture=architecture_record(pair.layout, request.spec),
        warnings=tuple(progress.warnings),
        versions=versions(),
        invocations=progress.invocations(),
        plan=estimate(pair, writes=pair.b.nbytes, targets=run.targets.planned(), matched=True, passes=3),
    )


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
    from rebasin_cli.pipeline.match import on_cluster

    with on_cluster(run.choice, (run.request.a, run.request.b), progress) as choice:
        return _found(replace(run, choice=choice), progress, known)


def _found(run: Run, progress: Progress, known: InputRecord | None) -> Found:
    from rebasin_cli.pipeline.match import match_pair

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
    from rebasin_cli.pipeline.match import distance_of

    count = sum(tensor.section == "tensors" for tensor in pair.layout.tensors.values())
    with progress.phase("measuring", count) as advance:
        distance = distance_of(pair, result.permutation, lambda _: advance(1))
    of = {role: entry.identity for role, entry in inputs.items()}
    return Found(pair, result, distance, permutation_bytes(result.permutation, pair.layout, inputs=of), inputs)


def aligned_reader(run: Run, found: Found) -> Read:
    """Key → the bytes of B's tensor in A's order of units."""
    from rebasin_cli.permutation.gather import exact_reader

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
