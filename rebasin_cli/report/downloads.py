"""What a page carries as files: the curves as CSV and the document as JSON, as links that hold their contents."""

from __future__ import annotations

import csv
import io
import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rebasin_cli.errors import human_bytes
from rebasin_cli.report.codec import to_json
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measurements import BarrierRecord
from rebasin_cli.safe_text import LONGEST_NAME, one_line

_LARGEST = 1_400_000  # bytes; browsers follow no address above two million characters
_LEAST = 8  # bytes of a line of the curves
_FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True, slots=True)
class Download:
    """A file within a page: what it is, its name, its size in words, and its contents as an address."""

    text: str
    name: str
    size: str
    address: Markup


def downloads(runs: Sequence[tuple[str, RunDocument]]) -> list[Download]:
    """The curves of all runs, and every document; what is too large for a link is left out."""
    found = []
    curves = [(name, document.barrier) for name, document in runs if document.barrier]
    if curves and sum(len(b.lam) * len(b.curves) for _, b in curves) * _LEAST <= _LARGEST:
        found.append(_download("Curves (CSV)", "curves.csv", "text/csv", curves_csv(curves)))
    for number, (name, document) in enumerate(runs, 1):
        text = "Run document (JSON)" if len(runs) == 1 else f"Run document of {name} (JSON)"
        stem = "run" if len(runs) == 1 else f"run-{number}"
        found.append(_download(text, f"{stem}.json", "application/json", to_json(document)))
    return [each for each in found if each is not None]


def curves_csv(curves: Sequence[tuple[str, BarrierRecord]]) -> str:
    """A line for each run, curve and λ; what was not measured is empty."""
    others = tuple(dict.fromkeys(m for _, b in curves for c in b.curves.values() for m in c.metrics))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    several = len(curves) > 1
    writer.writerow(["run"] * several + ["curve", "lambda", "loss", "accuracy", *map(_cell, others)])
    for run, barrier in curves:
        for name, curve in barrier.curves.items():
            for k, lam in enumerate(barrier.lam):
                figures = [curve.loss[k], curve.accuracy[k]]
                figures += [curve.metrics[other][k] if other in curve.metrics else math.nan for other in others]
                shown = [repr(value) if math.isfinite(value) else "" for value in figures]
                writer.writerow([_cell(run)] * several + [_cell(name), repr(lam), *shown])
    return stream.getvalue()


def _cell(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    shown = one_line(text, LONGEST_NAME)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def _download(text: str, name: str, kind: str, contents: str) -> Download | None:
    data = contents.encode(errors="replace")
    if len(data) > _LARGEST:
        return None
    address = Markup(f"data:{kind};charset=utf-8;base64,{b64encode(data).decode('ascii')}")
    return Download(text, name, human_bytes(len(data)), address)
