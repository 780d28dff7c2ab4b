"""The forms of one run, as `rebasin report` writes them."""

from __future__ import annotations

from rebasin_cli.report.comparison import runs_of
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.html import page_of
from rebasin_cli.report.markdown import markdown_of
from rebasin_cli.report.measurements import BarrierRecord
from rebasin_cli.report.names import without_folders
from rebasin_cli.report.png import to_picture


def to_html(document: RunDocument) -> str:
    """The page, with names of files instead of paths."""
    return page_of(runs_of([without_folders(document)], [""]))


def to_markdown(document: RunDocument) -> str:
    """The card, with names of files instead of paths."""
    return markdown_of(runs_of([without_folders(document)], [""]))


def to_png(barrier: BarrierRecord) -> bytes:
    """The picture."""
    return to_picture([("", barrier)], "png")
