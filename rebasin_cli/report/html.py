"""Run documents as one HTML file that needs nothing else: no font, no picture, no address to fetch from.

What is shown is decided in the modules around this one; the templates only lay it out. Every text goes through
`safe_text` and jinja2's escaping where it is printed. The one script and the one style are named by their hashes in the
page's policy, so that a browser runs nothing else, whatever a document holds.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from rebasin_cli.report.comparison import Run, comparison_grid
from rebasin_cli.report.downloads import downloads
from rebasin_cli.report.looks import look
from rebasin_cli.report.page import Card, curves, reliability, section_views
from rebasin_cli.report.plane_svg import plane_svg
from rebasin_cli.report.thinning import shortened, thinned
from rebasin_cli.report.tiles import sentence, tiles, tone
from rebasin_cli.safe_text import block

if TYPE_CHECKING:
    from jinja2 import Environment

_LOOKS = 40  # that differ; a page of more curves draws them again


def page_of(runs: Sequence[Run]) -> str:
    """The page of one run, or of several: their curves over one another, a table of all, and each by itself."""
    environment = _environment()
    style = environment.get_template("style.css.j2").render(looks=[look(k) for k in range(_LOOKS)])
    script = environment.get_template("script.js").render()
    several = len(runs) > 1
    links = downloads([(run.name, run.document) for run in runs])
    runs = [replace(run, document=thinned(run.document)) for run in runs]
    return environment.get_template("page.html.j2").render(
        style=Markup(style),  # of this package, as is the script
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        runs=runs,
        several=several,
        cards=[Card(sentence(run.document), tone(run.document), tiles(run.document)) for run in runs],
        comparison=comparison_grid(runs) if several else None,
        figures=curves([(run.name, run.document.barrier) for run in runs if run.document.barrier]),
        reliability=reliability([(run.name, run.document) for run in runs]),
        planes=[(run.name, Markup(plane_svg(run.document.plane))) for run in runs if run.document.plane],
        sections=[section_views(run.document) for run in runs],
        downloads=links,
    )


def _hash(text: str) -> Markup:
    return Markup(b64encode(sha256(text.encode()).digest()).decode("ascii"))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rebasin_cli.report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["shortened"] = shortened
    return environment


def _shown(value: Any) -> Any:
    """What a template prints: a text without characters that act or do not show, and what is markup as it is."""
    return block(value) if isinstance(value, str) and not isinstance(value, Markup) else value
