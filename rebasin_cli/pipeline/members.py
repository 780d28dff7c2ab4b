"""`rebasin align A B1 B2 … -o FOLDER`: many checkpoints onto A, each as if it were alone, or all into one order.

A member that cannot be aligned is named, and the others are finished. What headers tell is told of all of them before
the first is read; `members_run` is the rest.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.places import check_file_target, check_space, needed_bytes
from rebasin_cli.errors import ContentError, RebasinError, SystemFailure, UsageError
from rebasin_cli.matching.resources import require_device
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.function_check import settled_spec
from rebasin_cli.pipeline.inputs import Source, open_source
from rebasin_cli.pipeline.layouts import Pair, SpecChoice, bind_pair, check_symmetry, shapes_of, tell_layout
from rebasin_cli.pipeline.method_choice import MatchChoice, missing_data
from rebasin_cli.pipeline.plan import estimate
from rebasin_cli.pipeline.record import architecture_record, input_record, versions
from rebasin_cli.pipeline.targets import base_of, beside, check_apart, named_or_beside, tell_room
from rebasin_cli.process import load_torch
from rebasin_cli.report.codec import read_document
from rebasin_cli.report.document import MemberRecord, MembersRecord, RunDocument
from rebasin_cli.report.names import short_path
from rebasin_cli.safe_text import first_names, shell_word

if TYPE_CHECKING:  # examples and networks, which not every command has
    from rebasin_cli.pipeline.data_request import DataRequest

_NAMED = 3  # members that a message lists


@dataclass(frozen=True, slots=True)
class MembersRequest:
    """What the user asked for.

    Attributes:
        members: what is aligned onto `a`.
        folder: where the aligned checkpoints go, with their permutations.
        together: bring all into one order, and not each onto A alone.
        report: where the document goes; None for a name beside the folder.
        resume: a document to go on from, if it is there, and to keep.
        summary: where the mean and the variance of every weight go.
    """

    a: Source
    members: tuple[Source, ...]
    folder: Path
    spec: SpecChoice = field(default_factory=SpecChoice)
    together: bool = False
    report: Path | None = None
    resume: Path | None = None
    summary: Path | None = None
    choice: MatchChoice = field(default_factory=MatchChoice)
    data: DataRequest | None = None
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One checkpoint, and what headers tell of it.

    Attributes:
        places: paths of its outputs by role: aligned, permutation.
        failure: why it cannot be aligned, as far as headers tell.
        earlier: what an earlier run says of the same checkpoint.
        left: whether outputs that are there are what its workers have left.
    """

    source: Source
    places: Mapping[str, Path]
    failure: RebasinError | None = None
    earlier: MemberRecord | None = None
    left: bool = False

    def failed(self, failure: RebasinError) -> MemberRecord:
        """The record of a member that cannot be aligned."""
        text = failure.what + (f" ({failure.where})" if failure.where else "")
        return MemberRecord(input_record(self.source.shown, None), failure=text, code=failure.exit_code)


@dataclass(frozen=True, slots=True)
class Run:
    """Many alignments that are ready to begin.

    Attributes:
        request: with the spec that was settled.
        a: as it was opened.
        pair: A with the first member that fits; None if none does.
        report: where the document is kept.
    """

    request: MembersRequest
    a: Checkpoint
    members: tuple[Member, ...]
    pair: Pair | None
    report: Path | None
    earlier: MembersRecord | None


def align_members(request: MembersRequest, progress: Progress) -> RunDocument:
    """Align every member, write them with their permutations, and the document.

    Members that cannot be aligned are in the document with the reason, see `check_members`.

    Raises:
        RebasinError: A or the options cannot be used, or outputs would be written over.
    """
    with ExitStack() as files:
        run = prepare(request, files, progress)
        if request.dry_run:
            return _plan(run, progress)
        load_torch()
        from rebasin_cli.pipeline.members_run import carry_out

        return carry_out(run, progress)


def check_members(document: RunDocument) -> None:
    """Answer members that could not be aligned, once the others were.

    Raises:
        SystemFailure, ContentError: naming the first of them; of several kinds the first of these.
    """
    record = document.members
    failed = record.failed if record else ()
    if record is None or not failed:
        return
    named = [f"{os.path.basename(member.input.path)}: {member.failure}" for member in failed]
    kind = SystemFailure if any(member.code == SystemFailure.exit_code for member in failed) else ContentError
    raise kind(
        f"{len(failed)} of {len(record.members) + record.missing} checkpoints could not be aligned: "
        + first_names(named, _NAMED, "; and {} more"),
        remedy="the others were aligned and written; mend these or leave them out, and go on with --resume",
    )


def prepare(request: MembersRequest, files: ExitStack, progress: Progress) -> Run:
    """Judge everything that headers tell; A stays open as long as `files`."""
    _check_request(request)
    require_device(request.choice.device)
    a = files.enter_context(open_source(request.a, progress))
    request = replace(
        request, resume=request.resume and request.resume.absolute(),
        summary=request.summary and request.summary.absolute(),
    )  # fmt: skip
    named = _named_members(request)
    folder = Path(os.path.abspath(request.folder))  # `.` has no name
    report = request.resume or named_or_beside(request.report, folder, ".rebasin.json")
    report = report and report.absolute()
    earlier = _earlier(request.resume)
    known = {member.input.path: member for member in earlier.members} if earlier else {}
    left = earlier.left if earlier else ()
    members = [
        replace(m, earlier=known.get(input_record(m.source.shown, None).path), left=str(m.places["aligned"]) in left)
        for m in named
    ]
    _check_targets(request, a, members, report)
    spec = request.spec.for_method(request.choice.method)
    request = replace(request, spec=settled_spec(spec, request.data, (a,), progress))
    pair, judged = _judge(request, a, members, progress)
    if pair is not None:
        tell_layout(pair.layout, progress, request.spec)
    return Run(request, a, tuple(judged), pair, report, earlier)


def _check_request(request: MembersRequest) -> None:
    """Refuse options that go together with a single B only."""
    if request.choice.on_interrupt == "save":
        raise UsageError(
            "--on-interrupt save keeps the best of one match, and there are several",
            remedy="leave it out: what is finished stays, and --resume goes on",
        )
    if request.choice.looks_at_data and request.data is None:
        raise missing_data(request.choice)
    if request.choice.cluster is not None and request.data is not None:
        raise UsageError(
            "--cluster: workers do not run networks and data of yours, which --network and --data name",
            remedy="leave --cluster away, or --network and --data",
        )
    if request.together and request.choice.goes_down_a_loss:
        raise UsageError(
            "--together brings all into one order, and a loss lies between two networks only",
            remedy="use --method weights, frank-wolfe, sinkhorn or activations; or leave out --together",
        )
    if not request.members:
        raise UsageError("there is nothing to align", remedy="rebasin align A B1 B2 B3 -o FOLDER")


def _named_members(request: MembersRequest) -> list[Member]:
    """A name in the folder for each: its own, or where two have one the path to it from where all lie.

    Raises:
        UsageError: two would be one file.
    """
    if any(str(source.shown) == "-" for source in request.members):
        raise UsageError("a checkpoint from a pipe has no name in the folder", remedy="name files")
    folders = [s.path.is_dir() or s.path.suffix == ".json" for s in request.members]
    bases = [base_of(s.path, is_folder=folder) for s, folder in zip(request.members, folders, strict=True)]
    names = [Path(base.name) for base in bases]
    if len(set(names)) < len(names):
        top = os.path.commonpath([base.parent for base in bases])
        names = [base.relative_to(top) for base in bases]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        one, two, *_ = (s.shown for s, name in zip(request.members, names, strict=True) if name == twice[0])
        raise UsageError(
            f"{one} and {two} would both be written to {request.folder / twice[0]}",
            remedy="name each checkpoint once, and rename one of two that have the same name",
        )
    folder = Path(os.path.abspath(request.folder))
    return [
        Member(source, {
            "aligned": folder / name if is_folder else beside(folder / name, ".safetensors"),
            "permutation": beside(folder / name, ".permutation.safetensors"),
        })
        for source, name, is_folder in zip(request.members, names, folders, strict=True)
    ]  # fmt: skip


def _earlier(resume: Path | None) -> MembersRecord | None:
    """What the run that is gone on with left behind; nothing if it has not begun."""
    if resume is None or not resume.exists():
        return None
    document = read_document(resume)
    if document.members is None:
        raise ContentError(
            f"{resume} is the document of `rebasin {document.command}`, and has no members to go on with",
            remedy="name the file that `rebasin align A B1 B2 … -o FOLDER` has written beside the folder",
        )
    return document.members


def _check_targets(request: MembersRequest, a: Checkpoint, members: Sequence[Member], report: Path | None) -> None:
    """Refuse outputs that are inputs, that are there already, or that cannot be written."""
    folder = request.folder
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, and several checkpoints need a folder", remedy="name a folder with -o")
    if not folder.exists():
        if folder.suffix == ".safetensors":
            raise UsageError(
                f"{folder} would be a folder under the name of a file: {len(members)} checkpoints go into it",
                remedy=f"name a folder: -o {shell_word(short_path(str(folder.with_suffix(''))))}",
            )
        check_file_target(folder, force=False)  # whether there is a place for it
    outputs = {str(path): path for member in members for path in member.places.values()}
    outputs |= {name: path for name, path in (("summary", request.summary), ("report", report)) if path is not None}
    spec = [Path(request.spec.arch)] if request.spec.arch else []
    data = request.data.inputs() if request.data else []
    check_apart([a, *(m.source.path for m in members), *spec, *data], outputs)
    _refuse_present(request, members, report)
    for path in (report if report != request.resume else None, request.summary):
        if path is not None:
            check_file_target(path, force=request.force)


def _refuse_present(request: MembersRequest, members: Sequence[Member], report: Path | None) -> None:
    """Refuse to write over checkpoints that are not of the run that is gone on with."""
    if request.force:
        return
    ours = {path for m in members if m.earlier for path in m.earlier.outputs.values()}
    others = [path for m in members if not m.left for path in m.places.values() if str(path) not in ours]
    there = [path for path in others if os.path.lexists(path)]
    if there:
        go_on = (
            f"go on with that run: --resume {shell_word(short_path(str(report)))}; or "
            if report and report.exists()
            else ""
        )
        raise UsageError(
            f"{there[0]} exists already" + (f", and {len(there) - 1} more" if len(there) > 1 else ""),
            remedy=f"{go_on}choose another folder, or replace them with --force",
        )


def _judge(
    request: MembersRequest, a: Checkpoint, members: Sequence[Member], progress: Progress
) -> tuple[Pair | None, list[Member]]:
    """Open every member, and see that the spec fits it together with A; the first pair that does."""
    pair: Pair | None = None
    known: list[tuple[object, object]] = []
    judged, needed = [], 0
    with progress.phase("reading headers", len(members), "files") as advance:
        for member in members:
            try:
                with open_source(member.source, Progress()) as b:
                    form = shapes_of(b), b.config
                    if form not in known:
                        found = bind_pair(a, b, request.spec)
                        check_symmetry([found], request.spec)
                        known.append(form)
                        pair = pair or found
                    needed += needed_bytes(b)
                judged.append(member)
            except UsageError:
                raise  # the options are wrong, and so for all
            except RebasinError as failure:
                judged.append(replace(member, failure=failure))
            advance(1)
    check_space(request.folder, needed, tell_room(request, progress))
    left_out = [f"{member.source.shown}: {member.failure.what}" for member in judged if member.failure]
    if left_out:
        progress.remark(f"left out, as headers tell: {first_names(left_out, _NAMED, '; and {} more')}")
    return pair, judged


def blank(run: Run, progress: Progress) -> RunDocument:
    """The document before anything is aligned."""
    return RunDocument(
        command="align",
        inputs={"a": input_record(run.request.a.shown, None)},
        architecture=architecture_record(run.pair.layout, run.request.spec) if run.pair else None,
        outputs={"aligned": str(run.request.folder.absolute())},
        warnings=tuple(progress.warnings),
        versions=versions(),
        invocations=progress.invocations(),
    )


def _plan(run: Run, progress: Progress) -> RunDocument:
    """What it would cost: the plan of the first pair, times the members."""
    document = blank(run, progress)
    records = tuple(
        m.failed(m.failure) if m.failure else MemberRecord(input_record(m.source.shown, None)) for m in run.members
    )
    document = structs.replace(document, outputs={}, members=MembersRecord(records, run.request.together))
    if run.pair is None:
        return document
    count = sum(member.failure is None for member in run.members)
    targets = {"folder": str(run.request.folder.absolute()), **({"report": str(run.report)} if run.report else {})}
    one = estimate(run.pair, writes=run.pair.b.nbytes, targets=targets, matched=True, passes=3)
    times = count * (count + 1) if run.request.together else count  # each is compared with the mean of the others
    plan = structs.replace(
        one, reads=one.reads * times, writes=one.writes * count, seconds=round(one.seconds * times, 2)
    )
    return structs.replace(document, plan=plan)
