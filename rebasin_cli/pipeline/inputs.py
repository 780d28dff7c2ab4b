"""The checkpoints that a command reads: opened, and then read once to check and hash them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import Checkpoint, hub_name, is_on_hub
from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.record import input_record
from rebasin_cli.process import give_freed_memory_back
from rebasin_cli.report.document import InputRecord
from rebasin_cli.safe_text import shell_word
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class Source:
    """An input as the user named it (`-` for what has no name), and the file that holds it.

    Attributes:
        held: a checkpoint that is in memory, and stays open for whoever made it.
    """

    path: Path
    shown: Path
    held: Checkpoint | None = None

    @staticmethod
    def file(path: Path) -> Source:
        """A file that is read where it lies."""
        return Source(path, path)

    @staticmethod
    def memory(held: Checkpoint) -> Source:
        """Tensors in memory, which have no name."""
        return Source(held.path, Path("-"), held)


def named_source(path: Path, progress: Progress) -> Source:
    """A checkpoint as the user named it: the one place where `hf:OWNER/NAME` is fetched, and becomes a path.

    Raises:
        RebasinError: see `hub.fetch`.
    """
    if not is_on_hub(str(path)):
        return Source.file(path)
    name = hub_name(str(path))
    from rebasin_cli.checkpoints.hub import fetch

    with progress.phase(f"fetching {name}") as advance:
        return Source.file(fetch(name, progress.warn, advance))


def open_source(source: Source, progress: Progress, *, permutations: bool = False) -> Checkpoint:
    """Open a checkpoint and pass on what the reader has to say about it.

    Args:
        permutations: take a permutation file, too.

    Raises:
        RebasinError: it cannot be opened, or is a permutation file.
    """
    give_freed_memory_back()
    if source.held is not None:
        return copy(source.held)
    checkpoint = open_checkpoint(source.path, named="FILE" if str(source.shown) == "-" else None)
    if not permutations and checkpoint.is_permutation:
        raise ContentError(
            f"{source.shown} is a permutation of units, and no checkpoint",
            remedy=f"leave it out; `rebasin apply {shell_word(str(source.shown))} CHECKPOINT` applies it",
        )
    for note in checkpoint.notes:
        progress.remark(note)
    return checkpoint


def scan_sources(
    opened: Mapping[str, tuple[Source, Checkpoint]],
    progress: Progress,
    expected: Mapping[str, str | None] | None = None,
    heads: dict[str, Mapping[str, int]] | None = None,
) -> dict[str, InputRecord]:
    """Read each checkpoint once: finite values, sha256.

    Args:
        expected: sha256 by role that an earlier command saw.
        heads: takes a checksum of every tensor's first bytes, by role.

    Raises:
        ContentError: a value that is not finite, or a file that has changed since.
    """
    from rebasin_cli.checkpoints.tensors import require_finite, scan

    records = {}
    for role, (source, checkpoint) in opened.items():
        with progress.phase(f"checking {source.shown.name}", checkpoint.nbytes, "bytes") as advance:
            result = scan(checkpoint, advance)
        require_finite(checkpoint, result)
        if heads is not None:
            heads[role] = result.heads
        known = (expected or {}).get(role)
        if known is not None and known != result.sha256:
            raise ContentError(
                f"{source.shown} has changed since the run document was made: "
                f"its sha256 is {result.sha256[:12]}…, the document says {known[:12]}…",
                remedy="run `rebasin align` again on the files as they are now",
            )
        checkpoint.sha256 = result.sha256
        records[role] = input_record(source.shown, result.sha256)
    return records


def check_rotations(layout: Layout, checkpoint: Checkpoint) -> None:
    """See that gains that a rotation passes can be taken up.

    Args:
        layout: bound to the checkpoint's own names.

    Raises:
        ContentError: naming one of zero.
    """
    if layout.norms:
        from rebasin_cli.permutation.maps import check_gains

        check_gains(layout, checkpoint.__getitem__, checkpoint.address)
