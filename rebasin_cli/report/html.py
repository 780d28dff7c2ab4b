"""A run document as one HTML file that needs nothing else: no script, no font, no address to fetch from."""

from __future__ import annotations

from operator import attrgetter

from rebasin_cli.report.contents import facts, grids, headline
from rebasin_cli.report.document import BarrierRecord, RunDocument
from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.measured import Grid
from rebasin_cli.report.svg import curve_svg, markup

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #66727f; --line: #dfe4ea; --page: #fff; --note: #fff6e0;
        --naive: #d1495b; --aligned: #1a7f5a; --bn: #2a6fb5; --repair: #8a5cb8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --soft: #94a1ae; --line: #333e49; --page: #14191f;
        --note: #3a3116; --naive: #f07f8c; --aligned: #55c596;
        --bn: #74aee8; --repair: #bd97e6; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1180px;
       margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 .8rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } figure { flex: 1 1 420px; margin: 0; }
figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; } .grid { stroke: var(--line); } .axis { stroke: var(--soft); }
path { fill: none; stroke-width: 2; } path.naive { stroke: var(--naive); stroke-dasharray: 5 4; }
path.aligned { stroke: var(--aligned); } circle.naive { fill: var(--naive); } circle.aligned { fill: var(--aligned); }
path.bn { stroke: var(--bn); } circle.bn { fill: var(--bn); } path.repair { stroke: var(--repair); }
circle.repair { fill: var(--repair); } .key .naive { color: var(--naive); } .key .aligned { color: var(--aligned); }
.key b { font-weight: 600; } .key .bn { color: var(--bn); } .key .repair { color: var(--repair); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; } .words { text-align: left; overflow-wrap: anywhere; }
.note { background: var(--note); padding: .5rem .8rem; border-radius: 4px; }
.scroll { overflow-x: auto; } footer { color: var(--soft); margin-top: 2rem; font-size: .85rem; }
"""


def to_html(document: RunDocument) -> str:
    """The whole page."""
    title = markup(headline(document))
    body = [f"<h1>{title}</h1>"]
    body += [f'<p class="note">{markup(warning)}</p>' for warning in document.warnings]
    if document.barrier:
        body.append(_charts(document.barrier))
    body.append(_table(Grid("", (), tuple(facts(document)), words=(0, 1))))
    for grid in grids(document, every_dim=True):
        body.append(f"<h2>{markup(grid.title)}</h2>")
        body.append(_table(grid))
    versions = ", ".join(f"{name} {version}" for name, version in document.versions.items())
    body.append(f"<footer>rebasin {markup(document.command)} · {markup(versions)} · {markup(document.device)}</footer>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _charts(barrier: BarrierRecord) -> str:
    curves = barrier.curves
    key = " &nbsp; ".join(
        f'<span class="{barrier.kind(name)}">●</span> {markup(name)}, barrier <b>{loss_text(curve.barrier)}</b>'
        for name, curve in curves.items()
    )
    others = dict.fromkeys(metric for curve in curves.values() for metric in curve.metrics)
    loss, right = (
        {name: (barrier.kind(name), values(curve)) for name, curve in curves.items()}
        for values in (attrgetter("loss"), attrgetter("accuracy"))
    )
    charts = (
        (f"Loss ({barrier.loss_unit})", loss, barrier.loss_unit),
        *((("Accuracy (fraction right)", right, ""),) if barrier.has_accuracy else ()),
        *((o, {n: (barrier.kind(n), c.metrics[o]) for n, c in curves.items() if o in c.metrics}, "") for o in others),
    )
    figures = "\n".join(
        f"<figure><figcaption>{markup(title)}</figcaption>{curve_svg(title, barrier.lam, values, unit)}</figure>"
        for title, values, unit in charts
    )
    return f'<p class="key">{key}</p>\n<div class="charts">\n{figures}\n</div>'


def _table(grid: Grid) -> str:
    def cells(row: tuple[str, ...], tag: str) -> str:
        return "".join(
            f'<{tag} class="words">{markup(cell)}</{tag}>' if i in grid.words else f"<{tag}>{markup(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )

    head = f"<thead><tr>{cells(grid.columns, 'th')}</tr></thead>\n" if grid.columns else ""
    rows = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in grid.rows)
    return f'<div class="scroll"><table>\n{head}<tbody>\n{rows}\n</tbody></table></div>'
