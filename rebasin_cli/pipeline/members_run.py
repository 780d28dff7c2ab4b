"""`rebasin align A B1 B2 … -o FOLDER` after all headers were judged: one member after the other, each with its outputs.

A member's checkpoint and permutation appear together as soon as they are there, and the document is kept meanwhile, so
that a run that is cut short can be gone on with. What is not changed since is recognised by hashes, and stays.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from time import monotonic

from msgspec import structs

import rebasin_cli
from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.checkpoints.reopening import sha256_of_checkpoint
from rebasin_cli.errors import RebasinError
from rebasin_cli.files import sha256_of
from rebasin_cli.matching.portfolio import starts_at_once
from rebasin_cli.matching.resources import in_order
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.align import AlignRequest, find, prepare, write_aligned
from rebasin_cli.pipeline.cluster import died_of_it
from rebasin_cli.pipeline.function_check import runs_network
from rebasin_cli.pipeline.inputs import Source, scan_sources
from rebasin_cli.pipeline.match import on_cluster, pool, resolve_threads
from rebasin_cli.pipeline.members import Member, MembersRequest, Run, blank
from rebasin_cli.pipeline.method_choice import search_record
from rebasin_cli.pipeline.record import data_records, distance_record, peak_memory
from rebasin_cli.report.codec import document_file
from rebasin_cli.report.document import CheckedRecord, InputRecord, MemberRecord, MembersRecord, RunDocument
from rebasin_cli.safe_text import first_names

_NETWORKS = Lock()  # of the one thread of a worker that runs networks

_EVERY = 2.0
"""Seconds between two writings of the document: a process that is killed loses no more than that."""


class Listening(Progress):
    """What is said of one member, to be told of all at once.

    Attributes:
        checked: how it is known that it is the same function still.
    """

    def __init__(self) -> None:
        super().__init__()
        self.remarks: list[str] = []
        self.checked: CheckedRecord | None = None

    def remark(self, text: str) -> None:
        self.remarks.append(text)


Outcome = tuple[MemberRecord, Listening]
Task = Callable[[], Outcome]
"""What there is to do for one member."""


@dataclass(slots=True)
class Told:
    """Who has what to say, by what it is; and how it is known of the first that it is the same function still."""

    checked: CheckedRecord | None = None
    remarks: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def take(self, name: str, talk: Listening) -> None:
        """Take what was said of one member."""
        self.checked = self.checked or talk.checked
        for found, texts in ((self.remarks, talk.remarks), (self.warnings, talk.warnings)):
            for text in texts:
                found.setdefault(text, []).append(name)

    def tell(self, progress: Progress, count: int) -> None:
        """Say each thing once, and of whom."""
        for found, say in ((self.remarks, progress.remark), (self.warnings, progress.warn)):
            for text, names in found.items():
                whom = f"all {count} checkpoints" if len(names) == count > 1 else first_names(names, 3, " and {} more")
                say(text if text in progress.warnings else f"{whom}: {text}")


def carry_out(run: Run, progress: Progress) -> RunDocument:
    """Align all members and write what was asked for; see `align_members`."""
    request = run.request
    request.folder.mkdir(exist_ok=True)
    read: list[Source | Path] = [request.a, *(member.source for member in run.members if not member.failure)]
    if request.spec.arch and os.path.isfile(request.spec.arch):
        read.append(Path(request.spec.arch))
    with on_cluster(request.choice, read, progress, request.folder) as choice:
        return _carried_out(replace(run, request=replace(request, choice=choice)), progress)


def _carried_out(run: Run, progress: Progress) -> RunDocument:
    known = scan_sources({"a": (run.request.a, run.a)}, progress)["a"]
    document = structs.replace(blank(run, progress), inputs={"a": known, **_data(run)})
    basis = _basis(run, known)
    told, records = Told(), []
    ours = [path for path in (run.report,) if path is not None and path == run.request.resume]
    with Outputs(force=run.request.force, ours=ours) as outputs:
        outputs.claim(*(path for path in (run.report, run.request.summary) if path is not None))
        keeper = _Keeper(run, document, basis, outputs)
        try:
            for record in _aligned(run, known, basis, told, progress):
                records.append(record)
                keeper.keep(records)
        except BaseException:
            keeper.keep(records, now=True)
            if run.report is not None:
                progress.remark(f"{len(records)} are finished and stay: --resume {run.report} goes on from there")
            raise
        told.tell(progress, len(records))
        done = keeper.document(records)
        if run.request.summary is not None:
            from rebasin_cli.pipeline.weight_summary import write_summary

            write_summary(run.request.summary, MembersRecord(tuple(records)).aligned, outputs, progress)
            path = run.request.summary
            done = structs.replace(
                done, outputs={**done.outputs, "summary": str(path)}, hashes={"summary": outputs.hashes[path]}
            )
        architecture = done.architecture
        if architecture is not None:
            done = structs.replace(done, architecture=structs.replace(architecture, checked=told.checked))
        done = structs.replace(
            done, warnings=tuple(progress.warnings), invocations=progress.invocations(), peak_memory_bytes=peak_memory()
        )
        if run.report is not None:
            outputs.write(run.report, document_file(done, run.report))
            progress.document_file = run.report
        return done


@dataclass(slots=True)
class _Keeper:
    """Keeps the document in its file while members come."""

    run: Run
    blank: RunDocument
    basis: Mapping[str, str]
    outputs: Outputs
    written: float = -math.inf

    def document(self, records: list[MemberRecord]) -> RunDocument:
        """With the members so far."""
        missing = len(self.run.members) - len(records)
        members = MembersRecord(tuple(records), self.run.request.together, self.basis, missing, self._left(records))
        return structs.replace(self.blank, members=members)

    def _left(self, records: list[MemberRecord]) -> tuple[str, ...]:
        """Outputs of members that are not finished: workers end what they have begun, whatever becomes of the run."""
        if self.run.request.choice.workers is None or self.run.request.together:
            return ()
        done = [not record.failure for record in records] + [False] * len(self.run.members)
        return tuple(
            str(m.places["aligned"]) for m, is_done in zip(self.run.members, done, strict=False) if not is_done
        )

    def keep(self, records: list[MemberRecord], *, now: bool = False) -> None:
        """Write it, unless the last one is fresh."""
        if self.run.report is not None and (now or monotonic() - self.written >= _EVERY):
            self.outputs.write(self.run.report, document_file(self.document(records), self.run.report), at_once=True)
            self.written = monotonic()


def _data(run: Run) -> dict[str, InputRecord]:
    return data_records(run.request.data) if run.request.data else {}


def _basis(run: Run, known: InputRecord) -> dict[str, str]:
    """What every output depends on beside its own member; where it is the same, so are the bytes."""
    request = run.request
    spec = request.spec
    return {
        "A": known.identity,
        "version": rebasin_cli.__version__,
        "spec": run.pair.layout.spec.sha256 if run.pair else "",
        "options": repr((sorted(spec.sizes.items()), spec.freeze, spec.ignore, spec.symmetry)),
        "data": ",".join(entry.identity for entry in _data(run).values()),
        **({"together": ",".join(str(m.source.shown) for m in run.members)} if request.together else {}),
        **search_record(request.choice),
    }


def _aligned(
    run: Run, known: InputRecord, basis: Mapping[str, str], told: Told, progress: Progress
) -> Iterator[MemberRecord]:
    """The record of every member, in their order; several work at once where they do not share user code."""
    if run.request.together:
        from rebasin_cli.pipeline.members_together import aligned_together

        yield from aligned_together(run, known, basis, told, progress)
        return
    cluster = run.request.choice.workers
    with ExitStack() as stack:
        if cluster is not None:
            executor: Executor | None = cluster.executor
            at_once = cluster.at_once
            tasks: Iterable[Task] = remote_tasks(run, known, basis)
        else:
            at_once = _at_once(run)
            executor = stack.enter_context(pool(at_once)) if at_once > 1 else None
            tasks = (partial(_one, run, member, known, basis, alone=at_once == 1) for member in run.members)
        advance = stack.enter_context(progress.phase("aligning", len(run.members), "checkpoints"))
        for member, (record, talk) in zip(run.members, _results(run, list(tasks), executor, at_once), strict=True):
            told.take(member.source.shown.name, talk)
            advance(1)
            yield record


def _results(run: Run, tasks: Sequence[Task], executor: Executor | None, at_once: int) -> Iterator[Outcome]:
    """The outcome of every member's task; one that its workers died of has failed alone, and what was under way with it
    is begun again."""
    done = 0
    while done < len(tasks):
        with closing(in_order(tasks[done:], executor, at_once)) as results:
            try:
                for outcome in results:
                    done += 1
                    yield outcome
            except Exception as error:
                named = run.request.choice.cluster
                failure = died_of_it(error, named) if named is not None else None
                if failure is None:
                    raise
                yield run.members[done].failed(failure), Listening()
                done += 1


def _at_once(run: Run) -> int:
    """How many members are aligned at a time on this machine."""
    if run.pair is None or runs_network(run.a, run.request.data):
        return 1
    threads = resolve_threads(run.request.choice.threads)
    return starts_at_once(run.pair.layout, min(threads, len(run.members)), run.request.choice.memory)


def remote_tasks(run: Run, known: InputRecord, basis: Mapping[str, str]) -> Iterator[Task]:
    """A task for each member that another process can do: it is told paths, and reads A itself."""
    choice = replace(run.request.choice, cluster=None, workers=None)
    request = replace(run.request, a=_at_path(run.request.a), members=(), choice=choice, force=True)
    earlier = run.earlier and structs.replace(run.earlier, members=())
    for member in run.members:
        yield partial(
            _elsewhere, request, run.a, replace(member, source=_at_path(member.source)), known, basis, earlier
        )


def _at_path(source: Source) -> Source:
    """A source by its absolute path: a worker has another current folder."""
    return Source(Path(os.path.abspath(source.path)), Path(os.path.abspath(source.shown)))


def _elsewhere(
    request: MembersRequest,
    a: Checkpoint,
    member: Member,
    known: InputRecord,
    basis: Mapping[str, str],
    earlier: MembersRecord | None,
) -> Outcome:
    """`_one` on a worker, where A comes as the file that it is there.

    Outputs were free when the run began; what is there now, a worker that died has left.
    """
    run = Run(request, a, (member,), None, None, earlier)
    with a, _NETWORKS if runs_network(run.a, run.request.data) else nullcontext():
        return _one(run, member, known, basis, alone=False)


def _one(run: Run, member: Member, known: InputRecord, basis: Mapping[str, str], *, alone: bool) -> Outcome:
    """Align one member as `rebasin align A B` does, unless that was done before; and what is said of it."""
    talk, request = Listening(), run.request
    if member.failure:
        return member.failed(member.failure), talk
    try:
        kept = kept_record(run, member, basis)
        if kept is not None:
            return kept, talk
        choice = request.choice if alone else replace(request.choice, threads=1)
        single = AlignRequest(
            replace(request.a, held=run.a), member.source, request.spec, member.places["aligned"],
            member.places["permutation"], Path("-"), choice, request.data, force=may_replace(run, member),
        )  # fmt: skip
        member.places["aligned"].parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            one = prepare(single, files, talk)
            found = find(one, talk, known)
            with Outputs(force=single.force) as outputs:
                write_aligned(one, found, outputs, talk)
        talk.checked = one.check.record()
        result = found.result
        record = MemberRecord(
            found.inputs["b"], one.targets.written(), one.targets.hashes(outputs.hashes),
            distance_record(found.distance), moved(result.permutation), result.stop, tuple(talk.warnings),
        )  # fmt: skip
        return record, talk
    except RebasinError as failure:
        return member.failed(failure), talk


def moved(permutation: Permutation) -> float:
    """The fraction of the units whose place changed, averaged over dims."""
    return sum(map(permutation.fraction_moved, permutation)) / max(1, len(permutation))


def kept_record(run: Run, member: Member, basis: Mapping[str, str]) -> MemberRecord | None:
    """What an earlier run has found of the same checkpoint, if its outputs are there as they were written."""
    before, earlier = run.earlier, member.earlier
    if before is None or earlier is None or earlier.failure or dict(before.basis) != dict(basis):
        return None
    if {role: str(path) for role, path in member.places.items()} != dict(earlier.outputs):
        return None
    same_input = earlier.input.sha256 == sha256_of_checkpoint(member.source.path)
    return earlier if same_input and _as_written(earlier) else None


def may_replace(run: Run, member: Member) -> bool:
    """Whether the outputs of a member that are there may be replaced: those that an earlier run wrote may."""
    return run.request.force or member.left or (member.earlier is not None and _as_written(member.earlier, gone=True))


def _as_written(record: MemberRecord, *, gone: bool = False) -> bool:
    """Whether outputs are there as they were written; `gone`: one that is not there is as good."""
    readers: Mapping[str, Callable[[Path], str]] = {"aligned": sha256_of_checkpoint, "permutation": sha256_of}
    for role, path in record.outputs.items():
        place = Path(path)
        try:
            if not place.exists() and gone:
                continue
            if readers[role](place) != record.hashes.get(role):
                return False
        except RebasinError:
            return False
    return True
