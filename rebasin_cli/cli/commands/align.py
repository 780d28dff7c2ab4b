"""`rebasin align A B`, and `rebasin align A B1 B2 … -o FOLDER`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebasin_cli.cli.groups import DryRun, Force, Report, SavePermutation, Talk, grouped, one_document
from rebasin_cli.cli.groups.data import FittingExamples, NetworkOptions, check_loss, fitted
from rebasin_cli.cli.groups.matching import MatchedSpecOptions, MatchOptions, end_of
from rebasin_cli.cli.streams import PIPE, listed_paths, many_sources, output_of, sources, working
from rebasin_cli.cli.values import file_path
from rebasin_cli.errors import UsageError

if TYPE_CHECKING:
    from rebasin_cli.pipeline import Progress
    from rebasin_cli.pipeline.inputs import Source

_PANEL = "Many checkpoints"
_USAGE = "rebasin align A B, or rebasin align A B1 B2 B3 -o FOLDER"


@dataclass(frozen=True)
class ManyOptions:
    """For several B."""

    members_from: Annotated[
        Path | None,
        typer.Option(
            "--from", readable=False, metavar="FILE", rich_help_panel=_PANEL, help="More B, a path a line; - is stdin."
        ),
    ] = None
    together: Annotated[
        bool,
        typer.Option(
            "--together", help="Bring all into one order, and not each onto A alone.", rich_help_panel=_PANEL
        ),
    ] = False  # fmt: skip
    resume: Annotated[
        Path | None,
        typer.Option(
            parser=file_path, metavar="FILE", rich_help_panel=_PANEL,
            help="Keep the run document here, and what it has that is finished.",
        ),
    ] = None  # fmt: skip
    summary: Annotated[
        Path | None,
        typer.Option(
            parser=file_path, metavar="FILE", rich_help_panel=_PANEL,
            help="Write the mean and variance of every weight.",
        ),
    ] = None  # fmt: skip

    def asked(self) -> str:
        """The first option that was given; empty if none was."""
        given = {
            "--from": self.members_from, "--together": self.together or None, "--resume": self.resume,
            "--summary": self.summary,
        }  # fmt: skip
        return next((name for name, value in given.items() if value is not None), "")

    def sources(self, named: list[Path], cleanup: ExitStack, progress: Progress) -> list[Source]:
        """Every B."""
        return many_sources(
            [*named, *(listed_paths(self.members_from) if self.members_from else ())], cleanup, progress
        )


@grouped
def command(
    a: Annotated[
        Path,
        typer.Argument(
            readable=False,
            metavar="A",
            help="The checkpoint that stays: file, folder, hf:OWNER/NAME; - is stdin.",
        ),
    ],
    b: Annotated[
        Path | None,
        typer.Argument(
            readable=False, metavar="B", show_default=False, help="The checkpoint whose units are permuted."
        ),
    ] = None,
    more: Annotated[
        list[Path] | None,
        typer.Argument(readable=False, metavar="B2 …", show_default=False, help="More of them, with -o FOLDER."),
    ] = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            readable=False,
            metavar="FILE",
            help="B aligned; - streams it. Of several B a folder.",
            rich_help_panel="Output",
        ),
    ] = None,
    save_permutation: SavePermutation = None,
    report: Report = None,
    force: Force = False,
    many: ManyOptions,
    examples: FittingExamples,
    network: NetworkOptions,
    spec: MatchedSpecOptions,
    match: MatchOptions,
    dry_run: DryRun = False,
    talk: Talk,
) -> None:
    """Permute B's units onto A's.

    Writes B aligned, the permutation and a run document beside B, and prints the document into a pipe. With --network
    or --data the network is run on B before and after, and a difference is an error. Several B go into a folder, with
    their permutations and one run document beside it; one that cannot be aligned is named, and the others are finished.
    """
    choice = match.choice()
    check_loss(choice, network.loss)
    shown = fitted(examples, network, match)
    session = talk.session(shows=dry_run, feeds=True, report=report, output=output)
    named = [*([b] if b is not None else []), *(more or [])]
    if not named and many.members_from is None:
        raise UsageError("there is no B to align onto A", remedy=_USAGE)
    with working() as cleanup:
        from rebasin_cli.checkpoints.checkpoint import names_several

        if len(named) == 1 and not many.asked() and not names_several(named[0]):
            from rebasin_cli.pipeline.align import AlignRequest, align

            target = output_of(output)
            one, two = sources([a, *named], cleanup, session)
            request = AlignRequest(
                one, two, spec.choice(), target, save_permutation, report, choice, shown, force=force, dry_run=dry_run
            )
            document = align(request, session)
        else:
            from rebasin_cli.pipeline.members import MembersRequest, align_members

            folder = _folder(output, save_permutation, many, report, len(named))
            others = MembersRequest(
                sources([a], cleanup, session)[0], tuple(many.sources(named, cleanup, session)), folder, spec.choice(),
                many.together, report, many.resume, many.summary, choice, shown, force=force, dry_run=dry_run,
            )  # fmt: skip
            document = align_members(others, session)
    session.finish(document, payload=output != PIPE)
    end_of(document)
    if document.members is not None:
        from rebasin_cli.pipeline.members import check_members

        check_members(document)


def _folder(
    output: Path | None, save_permutation: Path | None, many: ManyOptions, report: Path | None, count: int
) -> Path:
    """Where several aligned checkpoints go.

    Raises:
        UsageError: no folder is named, or an option is for a single one.
    """
    reason = many.asked() or f"{count} checkpoints"
    if output is None or output == PIPE:
        raise UsageError(f"{reason}: what is aligned goes into a folder", remedy="name it with -o FOLDER")
    if save_permutation is not None:
        raise UsageError(
            "--save-permutation names one file", remedy="leave it out: each permutation goes into -o FOLDER"
        )
    one_document(report, many.resume)
    return output
