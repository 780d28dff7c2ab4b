"""What is drawn of documents that are too long: some of the points, the first rows, and a word about the rest."""

from __future__ import annotations

import json
from math import inf
from typing import Any

import pytest
from msgspec.structs import replace

from rebasin_cli.errors import ContentError
from rebasin_cli.report.codec import from_json, to_json
from rebasin_cli.report.console import to_text
from rebasin_cli.report.document import ArchitectureRecord, DimRecord, RunDocument, TensorRecord
from rebasin_cli.report.measurements import BarrierRecord, BinRecord, CurveRecord
from rebasin_cli.report.thinning import MOST_POINTS, MOST_ROWS, thinned
from tests.report.forms import to_html, to_markdown

_POINTS = 5000
_PEAK = 1237  # of no round place


def _line(points: int) -> RunDocument:
    loss = [1.0] * points
    loss[_PEAK % points] = 9.0
    loss[7], loss[8] = -inf, 0.25
    sure = tuple((BinRecord(1, at / points, 0.5),) for at in range(points))
    curve = CurveRecord(tuple(loss), tuple(loss), 8.0, 8.0, {"f1": tuple(loss)}, reliability=sure)
    barrier = BarrierRecord(tuple(k / (points - 1) for k in range(points)), None, curve)
    return RunDocument("interpolate", barrier=barrier, warnings=("an older one",))


def test_thinning_keeps_ends_peaks_and_says_so() -> None:
    document = _line(_POINTS)
    fewer = thinned(document)
    assert fewer.barrier
    assert fewer.barrier.aligned
    assert document.barrier
    lam, curve = fewer.barrier.lam, fewer.barrier.aligned
    assert MOST_POINTS <= len(lam) <= MOST_POINTS + 2
    assert list(lam) == sorted(set(lam))
    assert (lam[0], lam[-1]) == (0.0, 1.0)
    assert set(lam) <= set(document.barrier.lam)
    peak = lam.index(document.barrier.lam[_PEAK])
    assert curve.loss[peak] == curve.accuracy[peak] == curve.metrics["f1"][peak] == 9.0
    assert [bins[0].confidence for bins in curve.reliability] == pytest.approx(
        [at * (_POINTS - 1) / _POINTS for at in lam]
    )
    assert min(loss for loss in curve.loss if loss > -inf) == 0.25
    assert fewer.warnings == (
        "an older one", f"{len(lam):,} of the 5,000 points of the line are shown; the run document has all",
    )  # fmt: skip


def test_a_line_that_can_be_drawn_stays_whole() -> None:
    document = _line(MOST_POINTS)
    assert thinned(document) is document


@pytest.mark.parametrize("form", [to_text, to_html, to_markdown])
def test_every_form_of_a_long_line_says_what_it_leaves(form: Any) -> None:
    shown = form(_line(_POINTS))
    assert "of the 5,000 points of the line" in " ".join(shown.split())
    assert shown.count("\n| 0.") <= MOST_POINTS + 2
    assert shown.count("<tr>") <= MOST_POINTS + 60


@pytest.mark.parametrize("form", [to_text, to_html, to_markdown])
def test_every_form_of_a_long_table_ends_with_the_rest(form: Any) -> None:
    tensors = {f"{'abcdefghij'[at % 10]}{at}.weight": TensorRecord("F32", (1,)) for at in range(MOST_ROWS + 500)}
    shown = form(RunDocument("inspect", tensors=tensors))
    assert "… and 500 more" in " ".join(shown.split())
    assert "j999.weight" in shown
    assert "a1000.weight" not in shown


@pytest.mark.parametrize("name", ["h.{}", "h{}"])
def test_a_page_lists_no_more_dims_than_rows(name: str) -> None:
    dims = {name.format(at): DimRecord(4) for at in range(MOST_ROWS + 500)}
    shown = to_html(RunDocument("align", architecture=ArchitectureRecord("mlp", "an MLP", "0" * 64, True, dims=dims)))
    assert name.format(MOST_ROWS - 1) in shown
    assert name.format(MOST_ROWS + 1) not in shown
    assert "the first 1,000 are listed" in shown or "… and 500 more kinds" in shown


def test_a_document_of_too_many_curves_is_refused() -> None:
    value = json.loads(to_json(_line(10)))
    value["barrier"]["repaired"] = {f"aligned + {at}": value["barrier"]["aligned"] for at in range(101)}
    with pytest.raises(ContentError, match=r"`barrier\.repaired` has 101 entries, and up to 100 are drawn"):
        from_json(json.dumps(value), "run.json")


def test_a_document_of_many_dims_and_points_is_read() -> None:
    dims = {f"h.{at}": DimRecord(4) for at in range(2000)}
    document = replace(_line(_POINTS), architecture=ArchitectureRecord("mlp", "an MLP", "0" * 64, True, dims=dims))
    assert from_json(to_json(document), "run.json").architecture == document.architecture
