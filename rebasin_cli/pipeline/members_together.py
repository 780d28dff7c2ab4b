"""Many checkpoints in one common order of units, that of A: matched as the models of a merge are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import RebasinError
from rebasin_cli.matching.problem import in_reals
from rebasin_cli.matching.resources import resolve_device
from rebasin_cli.merging.models import Models
from rebasin_cli.permutation.files import permutation_bytes
from rebasin_cli.permutation.gather import exact_reader
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.function_check import prepare_check
from rebasin_cli.pipeline.inputs import check_rotations, open_source, scan_sources
from rebasin_cli.pipeline.layouts import bind_models, check_symmetry
from rebasin_cli.pipeline.match import distance_of
from rebasin_cli.pipeline.match_models import match_models
from rebasin_cli.pipeline.members import Member, Run
from rebasin_cli.pipeline.members_run import Listening, Told, kept_record, may_replace, moved
from rebasin_cli.pipeline.method_choice import with_data
from rebasin_cli.pipeline.record import distance_record, output_metadata
from rebasin_cli.pipeline.targets import write_weights
from rebasin_cli.pipeline.ties import any_permutation, check_ties, without_parting_ties
from rebasin_cli.report.document import InputRecord, MemberRecord

_Read = tuple[Member, Checkpoint, InputRecord, Mapping[str, int]]
"""A member, opened and read, with a checksum of every tensor's first bytes."""


def aligned_together(
    run: Run, known: InputRecord, basis: Mapping[str, str], told: Told, progress: Progress
) -> Iterator[MemberRecord]:
    """The record of every member, in their order, after all were matched to one another."""
    kept = [None if member.failure else kept_record(run, member, basis) for member in run.members]
    if all(record or member.failure for record, member in zip(kept, run.members, strict=True)):
        for record, member in zip(kept, run.members, strict=True):
            yield record or member.failed(member.failure)  # type: ignore[arg-type]  # as was seen to
        return
    with ExitStack() as files:
        found = _read(run, files, told, progress)
        matched = iter(_matched(run, known, found, told, progress))
        for member, outcome in zip(run.members, found, strict=True):
            yield member.failed(outcome) if isinstance(outcome, RebasinError) else next(matched)


def _read(run: Run, files: ExitStack, told: Told, progress: Progress) -> list[_Read | RebasinError]:
    """Every member, opened and read once; or why it cannot be used."""
    found: list[_Read | RebasinError] = []
    for member in run.members:
        try:
            if member.failure:
                raise member.failure
            talk = Listening()
            b = files.enter_context(open_source(member.source, talk))
            heads: dict[str, Mapping[str, int]] = {}
            record = scan_sources({"b": (member.source, b)}, progress, heads=heads)["b"]
            told.take(member.source.shown.name, talk)
            found.append((member, b, record, heads["b"]))
        except RebasinError as failure:
            found.append(failure)
    return found


def _matched(
    run: Run,
    known: InputRecord,
    found: Sequence[_Read | RebasinError],
    told: Told,
    progress: Progress,
) -> Iterator[MemberRecord]:
    """Match A and all members to one another, and write each in the common order."""
    request = run.request
    good = [entry for entry in found if not isinstance(entry, RebasinError)]
    if not good:
        return
    pairs = bind_models((run.a, *(b for _, b, _, _ in good)), request.spec)
    check_symmetry(pairs, request.spec)
    stored = [(pair.layout_b, b, heads) for pair, (_, b, _, heads) in zip(pairs, good, strict=True)]
    pairs = without_parting_ties(pairs, stored, request.spec, progress)
    layout, device = pairs[0].layout, resolve_device(request.choice.device)
    check_rotations(layout, run.a)
    for pair, (_, b, _, heads) in zip(pairs, good, strict=True):
        check_ties(pair.layout_b, b, heads, any_permutation(layout))
        check_rotations(pair.layout_b, b)
    choice = with_data(request.choice, request.data, pairs[0], device, progress)
    check = prepare_check(pairs[0], device, progress, fitting=choice.fitting, data=request.data)
    check.spec(layout, choice.seed, pairs[0].b, run.a)
    plain = Models.of(layout, (run.a, *(pair.b for pair in pairs)))
    real_layout, states = in_reals(layout, *plain.states)
    models = plain if choice.looks_at_data else Models.of(real_layout, states)
    result = match_models(models, "cycle-consistent", choice, progress)
    for i, (pair, (member, b, record, _)) in enumerate(zip(pairs, good, strict=True), 1):
        permutation = result.permutations[i]
        check.found(layout, permutation, pair.b, run.a)
        told.checked = check.record()
        content = permutation_bytes(permutation, layout, inputs={"a": known.identity, "b": record.identity})
        metadata = output_metadata(
            "align", layout, request.spec, {"a": known, "b": record}, method=choice.method, seed=result.seed,
            order="together", permutation=hashlib.sha256(content).hexdigest(),
        )  # fmt: skip
        distance = distance_of(pair, permutation)
        member.places["aligned"].parent.mkdir(parents=True, exist_ok=True)
        with Outputs(force=may_replace(run, member)) as outputs:
            reader = exact_reader(permutation, pair.layout_b, b)
            write_weights(
                member.places["aligned"], b, reader, metadata=metadata, outputs=outputs, progress=progress
            )  # fmt: skip
            outputs.write(member.places["permutation"], content)
        hashes = {role: outputs.hashes[path] for role, path in member.places.items()}
        yield MemberRecord(
            record, {role: str(path) for role, path in member.places.items()}, hashes, distance_record(distance),
            moved(permutation), result.stop,
        )  # fmt: skip
