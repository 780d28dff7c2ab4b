"""`rebasin report`: a run document as a page or a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.errors import ContentError
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.places import by_names

_STDOUT = Path("-")


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """The document's file (None: a pipe) and where each form of it goes; `-` is stdout.

    Attributes:
        paths: whether it shows the folders of files, and not their names alone.
    """

    run: Path | None = None
    html: Path | None = None
    markdown: Path | None = None
    text: Path | None = None
    png: Path | None = None
    force: bool = False
    paths: bool = False


def render(request: ReportRequest, document: RunDocument) -> str | None:
    """Write what was asked for; what goes to stdout is returned.

    Raises:
        RebasinError: outputs that collide, exist or cannot be written; a PNG of a document without losses.
    """
    named = {"html": request.html, "markdown": request.markdown, "text": request.text, "png": request.png}
    files = {role: path for role, path in named.items() if path is not None and path != _STDOUT}
    if files:
        _check(request, files, document)
    document = document if request.paths else by_names(document)
    printed = None
    contents = {role: _rendered(role, document) for role, path in named.items() if path is not None}
    for role, content in contents.items():
        if role not in files and isinstance(content, str):
            printed = content
    if files:
        from rebasin_cli.checkpoints.outputs import Outputs

        with Outputs(force=request.force) as outputs:
            outputs.claim(*files.values())
            for role, path in files.items():
                content = contents[role]
                outputs.write(path, content.encode(errors="replace") if isinstance(content, str) else content)
    return printed


def _check(request: ReportRequest, files: dict[str, Path], document: RunDocument) -> None:
    from rebasin_cli.checkpoints.replacing import check_file_target
    from rebasin_cli.pipeline.targets import check_apart

    if "png" in files:
        from rebasin_cli.report.png import require_matplotlib

        require_matplotlib()
        if document.barrier is None:
            raise ContentError(
                f"the run document of `rebasin {document.command}` has no losses to draw",
                where=str(request.run or "stdin"),
                remedy="make one with `rebasin interpolate A B --data FILE`",
            )
    check_apart([request.run] if request.run else [], dict(files))
    for path in files.values():
        check_file_target(path, force=request.force)


def _rendered(role: str, document: RunDocument) -> str | bytes:
    """Each form is imported when it is wanted: matplotlib takes its time."""
    if role == "html":
        from rebasin_cli.report.html import to_html

        return to_html(document)
    if role == "markdown":
        from rebasin_cli.report.markdown import to_markdown

        return to_markdown(document)
    if role == "text":
        from rebasin_cli.report.console import to_text

        return to_text(document)
    from rebasin_cli.report.png import to_png

    assert document.barrier is not None
    return to_png(document.barrier)
