"""`rebasin report [RUN.json]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.grouping import grouped
from rebasin_cli.cli.groups.talk import Force, Talk
from rebasin_cli.cli.streams import PIPE, need_stdout, print_payload, read_piped_document, working
from rebasin_cli.cli.values import file_path
from rebasin_cli.errors import UsageError

_USAGE = "rebasin report RUN.json, or … | rebasin report"


@grouped
def command(
    run: Annotated[
        Path | None, typer.Argument(readable=False, metavar="RUN.json", help="A run document; none: from the pipe.")
    ] = None,
    *,
    html: Annotated[
        Path | None, typer.Option(readable=False, metavar="FILE", help="One self-contained page; - prints it.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(readable=False, metavar="FILE", help="Markdown; - prints it.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(readable=False, metavar="FILE", help="As on a terminal; - prints it.")
    ] = None,
    png: Annotated[Path | None, typer.Option(parser=file_path, metavar="FILE", help="The plot.")] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Show the folders of files, not names alone.")] = False,
    force: Force = False,
    talk: Talk,
) -> None:
    """Show a run document: on the terminal, as text, HTML, Markdown or PNG."""
    from rebasin_cli.pipeline.reporting import ReportRequest, render
    from rebasin_cli.report.codec import read_document

    written = [option for option in (html, markdown, text, png) if option not in (None, PIPE)]
    session = talk.session(shows=not written)
    to_stdout = [option for option in (html, markdown, text) if option == PIPE]
    if to_stdout:
        need_stdout()
    if len(to_stdout) + talk.json > 1:
        raise UsageError("only one thing can go to stdout", remedy="name files for the others")
    with working():
        document = read_piped_document(_USAGE) if run is None or run == PIPE else read_document(run)
        printed = render(ReportRequest(run, html, markdown, text, png, force, paths), document)
    if printed is not None:
        print_payload(printed)
    session.finish(document, payload=printed is None)
