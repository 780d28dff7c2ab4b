"""A and B of a command that goes along from one to the other: named, or those of the run before the pipe."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rebasin_cli.cli.streams import read_piped_document, sources
from rebasin_cli.errors import UsageError

if TYPE_CHECKING:
    from rebasin_cli.pipeline import Progress
    from rebasin_cli.pipeline.inputs import Source
    from rebasin_cli.pipeline.layouts import SpecChoice
    from rebasin_cli.report.document import RunDocument


@dataclass(frozen=True, slots=True)
class Ends:
    """The two networks, the spec, and what the command before the pipe left: its document, its permutation."""

    a: Source
    b: Source
    spec: SpecChoice
    document: RunDocument | None = None
    permutation: Path | None = None


def both_or_none(what: str, a: Path | None, b: Path | None, usage: str) -> None:
    """Refuse one checkpoint alone.

    Raises:
        UsageError: one is named, and not the other.
    """
    if (a is None) != (b is None):
        raise UsageError(f"a {what} needs two checkpoints, and one is named", remedy=usage)


def ends_of(
    a: Path | None, b: Path | None, spec: SpecChoice, cleanup: ExitStack, progress: Progress, usage: str
) -> Ends:
    """The ends that are named, or those of the document that is piped in.

    Raises:
        UsageError: nothing came through the pipe, or options that were settled there. ContentError: what came is of no
            such run.
    """
    if a is not None and b is not None:
        one, two = sources([a, b], cleanup, progress)
        return Ends(one, two, spec)
    from rebasin_cli.pipeline.resume import from_document

    before = read_piped_document(usage)
    if spec != type(spec)():
        raise UsageError(
            "--arch, --set, --freeze, --ignore and --symmetry were settled when the piped run aligned",
            remedy="give them to `rebasin align`",
        )
    one, two, settled, permutation = from_document(before)
    return Ends(one, two, settled, before, permutation)
