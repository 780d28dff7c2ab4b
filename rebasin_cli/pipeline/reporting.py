"""`rebasin report`: run documents as a page, a text or a picture; several are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.errors import ContentError
from rebasin_cli.report.comparison import Run, comparison_text, runs_of
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measurements import PlaneRecord
from rebasin_cli.report.names import without_folders

_STDOUT = Path("-")


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """The documents' files (none: a pipe) and where each form of them goes; `-` is stdout.

    Attributes:
        paths: whether folders of files are shown, and not their names alone.
    """

    runs: tuple[Path, ...] = ()
    html: Path | None = None
    markdown: Path | None = None
    text: Path | None = None
    plot: Path | None = None
    force: bool = False
    paths: bool = False


def render(request: ReportRequest, documents: Sequence[RunDocument]) -> str | None:
    """Write what was asked for; what goes to stdout is returned.

    Raises:
        RebasinError: outputs that collide, exist or cannot be written; a plot of documents without losses.
    """
    named = {"html": request.html, "markdown": request.markdown, "text": request.text, "plot": request.plot}
    files = {role: path for role, path in named.items() if path is not None and path != _STDOUT}
    if files:
        _check(request, files, documents)
    printed = None
    runs = _runs(request, documents)
    contents = {role: _rendered(role, runs, path) for role, path in named.items() if path is not None}
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


def comparison(request: ReportRequest, documents: Sequence[RunDocument]) -> str:
    """The table of several runs as text."""
    return comparison_text(_runs(request, documents))


def _runs(request: ReportRequest, documents: Sequence[RunDocument]) -> list[Run]:
    shown = documents if request.paths else list(map(without_folders, documents))
    return runs_of(shown, [path.name for path in request.runs] or ["stdin"])


def _check(request: ReportRequest, files: dict[str, Path], documents: Sequence[RunDocument]) -> None:
    from rebasin_cli.checkpoints.places import check_file_target
    from rebasin_cli.pipeline.targets import check_apart

    if "plot" in files:
        from rebasin_cli.report.png import form_of, require_matplotlib

        form_of(files["plot"])
        require_matplotlib()
        if not any(document.barrier for document in documents) and not _only_plane(documents):
            raise ContentError(
                f"the run document of `rebasin {documents[0].command}` has no losses to draw",
                where=", ".join(map(str, request.runs)) or "stdin",
                remedy="make one with `rebasin interpolate A B --data FILE`",
            )
    check_apart(list(request.runs), dict(files))
    for path in files.values():
        check_file_target(path, force=request.force)


def _only_plane(documents: Sequence[RunDocument]) -> PlaneRecord | None:
    """The plane of the one document, if it is that of a plane."""
    return documents[0].plane if len(documents) == 1 else None


def _rendered(role: str, runs: Sequence[Run], path: Path) -> str | bytes:
    """Each form is imported when it is wanted: matplotlib takes its time."""
    if role == "html":
        from rebasin_cli.report.html import page_of

        return page_of(runs)
    if role == "markdown":
        from rebasin_cli.report.markdown import markdown_of

        return markdown_of(runs)
    if role == "text":
        from rebasin_cli.report.console import to_text

        table = comparison_text(runs) if len(runs) > 1 else ""
        return "\n".join(filter(None, [table, *(to_text(run.document) for run in runs)]))
    from rebasin_cli.report.png import form_of, to_picture

    if plane := _only_plane([run.document for run in runs]):
        from rebasin_cli.report.plane_plot import plane_picture

        return plane_picture(plane, form_of(path))
    return to_picture([(run.name, run.document.barrier) for run in runs if run.document.barrier], form_of(path))
