"""`rebasin align`: B permuted onto A."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.matching.resources import require_device
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.function_check import FunctionCheck, prepare_check, settled_spec
from rebasin_cli.pipeline.inputs import Source, open_source
from rebasin_cli.pipeline.layouts import Pair, SpecChoice, bind_pair, check_symmetry, tell_layout
from rebasin_cli.pipeline.method_choice import MatchChoice, with_data
from rebasin_cli.pipeline.record import (
    architecture_record,
    input_record,
    versions,
)
from rebasin_cli.pipeline.targets import Targets, base_of, named_after, named_or_beside, output_base, tell_room
from rebasin_cli.process import load_torch
from rebasin_cli.report.document import RunDocument

if TYPE_CHECKING:  # examples and networks, which not every command has
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
        from rebasin_cli.pipeline.align_run import carry_out

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
