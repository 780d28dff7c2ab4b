"""`rebasin rerun RUN.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebasin_cli.cli.groups import Talk, grouped
from rebasin_cli.cli.streams import working
from rebasin_cli.cli.values import file_path
from rebasin_cli.errors import ContentError, GateError, UsageError
from rebasin_cli.safe_text import shell_word

if TYPE_CHECKING:
    from rebasin_cli.cli.repeating import Call
    from rebasin_cli.cli.session import Session
    from rebasin_cli.report.document import RunDocument


@grouped
def command(
    run: Annotated[Path, typer.Argument(readable=False, metavar="RUN.json", help="The run document.")],
    *,
    into: Annotated[
        Path | None,
        typer.Option(
            "-o", "--into", parser=file_path, metavar="DIR", help="A new folder for the outputs; else RUN.rerun."
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Run the code that the document names: --network, --eval-command; ask the hub."),
    ] = False,
    talk: Talk,
) -> None:
    """Repeat the run of a document in a new folder, and say which outputs agree. Exit code 1 if one does not.

    Inputs must be those that the run read. Example: `rebasin rerun b.rebasin.json --into again`.
    """
    from rebasin_cli.cli.repeating import calls_of
    from rebasin_cli.pipeline.rerun import check_inputs, comparison
    from rebasin_cli.pipeline.targets import beside, document_base
    from rebasin_cli.report.codec import read_document

    session = talk.session()
    with working():
        document = read_document(run)
        folder = (into or beside(document_base(run), ".rerun")).absolute()
        calls = calls_of(document, folder)
        code = [option for call in calls for option in call.code]
        fetched = [word for call in calls for word in call.fetched]
        for words, does, remedy in (
            (code, "runs code:", "read it first; --trust runs it with your rights"),
            (fetched, "asks the hub for", "--trust opens the connection"),
        ):
            if words and not trust:
                raise UsageError(f"the run document {does} {', '.join(words)}", where=str(run), remedy=remedy)
        check_inputs(document, session)
        _make(folder)
    again = _repeat(calls, session)
    result = comparison(document, again)
    session.finish(result)
    differing = [check.name for check in result.checks or () if not check.passed]
    if differing:
        raise GateError(
            f"the run came out differently: {', '.join(differing)}",
            remedy="compare `versions` and `machine` in the two documents: other versions may round otherwise",
        )


def _make(folder: Path) -> None:
    """Make the folder that outputs go into.

    Raises:
        UsageError: there is something. SystemFailure: it cannot be made.
    """
    from rebasin_cli.errors import system_failure

    try:
        folder.mkdir()
    except FileExistsError:
        raise UsageError(f"{folder} exists already", remedy="name a new folder: --into DIR") from None
    except OSError as error:
        raise system_failure(error, folder, "write") from error


def _repeat(calls: list[Call], session: Session) -> RunDocument:
    """Call the commands one after the other, each with what the one before it printed.

    Raises:
        ContentError: the last one printed no document. typer.Exit: one failed, with its code.
    """
    from rebasin_cli.report.codec import from_json

    printed = b""
    for call in calls:
        session.remark("rebasin " + " ".join(map(shell_word, call.words)))
        code, printed = call.run(printed)
        if code != 0 and not printed.strip():
            raise typer.Exit(code)
    if not printed.strip():
        raise ContentError("the run printed no document to compare", remedy="see its messages above")
    return from_json(printed.decode("utf-8", "replace"), "the repeated run")
