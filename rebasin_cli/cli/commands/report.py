"""`rebasin report [RUN.json …]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.groups import Force, Talk, grouped
from rebasin_cli.cli.streams import PIPE, print_payload, read_piped_document, working
from rebasin_cli.cli.values import plot_path
from rebasin_cli.errors import UsageError

_USAGE = "rebasin report RUN.json, or … | rebasin report"


@grouped
def command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            readable=False, metavar="RUN.json", help="Run documents; none: from the pipe; several are compared."
        ),
    ] = None,
    *,
    html: Annotated[
        Path | None, typer.Option(readable=False, metavar="FILE", help="One self-contained page; - prints it.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(readable=False, metavar="FILE", help="A model card in Markdown; - prints it.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(readable=False, metavar="FILE", help="As on a terminal; - prints it.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(parser=plot_path, metavar="FILE", help="A picture of it: .png, .svg or .pdf."),
    ] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Show the folders of files, not names alone.")] = False,
    force: Force = False,
    talk: Talk,
) -> None:
    """Show a run document, or compare several: on the terminal, as text, HTML, Markdown or a picture."""
    from rebasin_cli.pipeline.reporting import ReportRequest, comparison, render
    from rebasin_cli.report.codec import read_document

    targets = [path for path in (html, markdown, text, plot) if path is not None]
    session = talk.session(shows=not targets or PIPE in targets)
    if targets.count(PIPE) + session.asked > 1:
        raise UsageError("only one thing can go to stdout", remedy="name files for the others")
    named = list(runs or [PIPE])
    if named.count(PIPE) > 1:
        raise UsageError("only one run document can come through the pipe", remedy="name files for the others")
    if session.form == "json" and len(named) > 1:
        raise UsageError("--json prints one run document, and several are named", remedy="leave --json away")
    with working():
        documents = [read_piped_document(_USAGE) if run == PIPE else read_document(run) for run in named]
        request = ReportRequest(tuple(runs or ()), html, markdown, text, plot, force, paths)
        printed = render(request, documents)
    if printed is not None:
        print_payload(printed)
    elif len(documents) > 1:
        if not targets:
            print_payload(comparison(request, documents))
        return
    session.finish(documents[0], payload=not targets or session.asked)
