"""`rebasin inspect`: what is in a checkpoint, and how it would be read. Headers only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.function_check import settled_spec
from rebasin_cli.pipeline.inputs import Source, open_source
from rebasin_cli.pipeline.layouts import SpecChoice, bind_one, tell_layout
from rebasin_cli.pipeline.record import architecture_record, input_record, versions
from rebasin_cli.report.document import RunDocument, TensorRecord
from rebasin_cli.safe_text import shell_word
from rebasin_cli.spec import Layout

if TYPE_CHECKING:  # what loads data imports networks
    from rebasin_cli.pipeline.data_request import DataRequest


def inspect(source: Source, spec: SpecChoice, progress: Progress, data: DataRequest | None = None) -> RunDocument:
    """Tensors, the architecture and why, dims with their sizes, what stays fixed and why.

    Args:
        data: the network that was named, for its spec.

    A checkpoint of no known architecture is shown all the same, with the nearest specs as a warning.

    Raises:
        RebasinError: it cannot be opened, or does not fit the spec that was named.
    """
    with open_source(source, progress, permutations=True) as checkpoint:
        layout = None
        if checkpoint.is_permutation:
            of = checkpoint.metadata.get("spec.name", "")
            shown = shell_word(str(source.shown))
            progress.remark(f"a permutation of the dims of `{of}`: `rebasin apply {shown} CHECKPOINT` applies it")
        else:
            spec = settled_spec(spec, data, (checkpoint,), progress)
            try:
                layout = bind_one(checkpoint, spec)
            except ContentError as error:
                if spec.arch is not None:
                    raise
                progress.warn(str(error))
        if layout is not None:
            tell_layout(layout, progress)
        return RunDocument(
            command="inspect",
            inputs={"checkpoint": input_record(source.shown, None)},
            architecture=architecture_record(layout, spec) if layout else None,
            warnings=tuple(progress.warnings),
            versions=versions(),
            tensors=tensor_records(checkpoint, layout),
        )


def tensor_records(checkpoint: Checkpoint, layout: Layout | None) -> dict[str, TensorRecord]:
    """Every tensor in the order of the file, with the dims along its axes."""
    records: dict[str, TensorRecord] = {}
    known: dict[tuple[object, ...], TensorRecord] = {}  # of 100,000 tensors most share one of a few
    for key, info in checkpoint.infos.items():
        bound = layout.tensors[key] if layout else None
        fields = (info.dtype, info.shape, *((bound.section, bound.reading(), bound.line) if bound else ()))
        if fields not in known:
            known[fields] = TensorRecord(*fields)
        records[key] = known[fields]
    return records
