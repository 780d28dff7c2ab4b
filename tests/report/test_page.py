"""The page: what it says, how its charts are drawn, and what it carries."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import math
import re
from hashlib import sha256
from html import unescape
from typing import Any
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from rebasin_cli.report.chart import chart
from rebasin_cli.report.comparison import comparison_grid, comparison_text, runs_of
from rebasin_cli.report.dim_families import dim_rows
from rebasin_cli.report.document import (
    DimRecord,
    InputRecord,
    InvocationRecord,
    RunDocument,
)
from rebasin_cli.report.downloads import curves_csv
from rebasin_cli.report.html import page_of
from rebasin_cli.report.looks import look
from rebasin_cli.report.measurements import CurveRecord, MergeRecord, PairRecord, ScoreRecord, VerdictRecord
from rebasin_cli.report.names import without_folders
from rebasin_cli.report.page import curves
from rebasin_cli.report.reproduce import options_of, reproduction
from rebasin_cli.report.series import Measure, Series, measures, summit
from rebasin_cli.report.tiles import tiles, tone
from tests.report.examples import ALIGN, ARCHITECTURE, BARRIER, CHECKED, EXAMPLES, INTERPOLATE
from tests.report.forms import to_html

SCORES = {
    **{f"model.{k}": ScoreRecord(0.1 + k / 100, 0.9) for k in (1, 2, 3)},
    "naive average": ScoreRecord(1.9, 0.4), "merged": ScoreRecord(0.14, 0.88),
}  # fmt: skip
PAIRS = tuple(
    PairRecord(f"model.{i}", f"model.{j}", 17.0, 11.0, 1.0 + i / 10, i / 100) for i, j in ((1, 2), (1, 3), (2, 3))
)
MERGE = RunDocument(
    command="merge",
    inputs={f"model.{k}": InputRecord(f"/models/m{k}.safetensors") for k in (1, 2, 3)},
    merge=MergeRecord(
        "cycle", "weights", (1 / 3,) * 3, 0, (1.0, 2.0, 3.0), "converged", 0.5, 6, pairs=PAIRS, scores=SCORES
    ),
)
OTHER = replace(INTERPOLATE, match=replace(INTERPOLATE.match, method="activations", seed=3))


def charts_of(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(text) for text in re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL)]


def texts(chart: ElementTree.Element, name: str = "text") -> list[str]:
    return [element.text or "" for element in chart.iter(name)]


# -- the verdict -------------------------------------------------------------------------------------------


def test_the_verdict_comes_first_with_its_figures() -> None:
    page = to_html(CHECKED)
    card = page[page.index("<body>") : page.index("</header>")]
    for part in ("a.safetensors", "b.safetensors", "0.036", "0.632", "kept", "3e-16"):
        assert part in card
    assert "/models/" not in page
    assert [tile.name for tile in tiles(INTERPOLATE)] == ["Cosine of A and B", "Distance", "Loss barrier", "One basin"]
    assert {tile.name: tile.steps for tile in tiles(INTERPOLATE)}["Loss barrier"] == ("1.200", "0.010")


def test_the_tone_of_a_result() -> None:
    assert tone(INTERPOLATE) == "good"
    assert tone(replace(INTERPOLATE, barrier=replace(BARRIER, aligned=None))) == "bad"
    assert tone(replace(INTERPOLATE, barrier=replace(BARRIER, missing=3))) == "open"
    assert tone(ALIGN) == "plain"
    assert tone(MERGE) == "good"
    for loss, word in ((1.0, "open"), (2.0, "bad"), (math.nan, "open")):
        scores = {**SCORES, "merged": ScoreRecord(loss, 0.5)}
        assert tone(replace(MERGE, merge=replace(MERGE.merge, scores=scores))) == word


# -- charts ------------------------------------------------------------------------------------------------


def test_the_charts_say_what_they_show() -> None:
    loss, log, accuracy, objective = charts_of(to_html(INTERPOLATE))
    assert texts(loss, "desc")[0] == "naive: 0.3 to 1.5, barrier 1.200; aligned: 0.3 to 0.31, barrier 0.010."
    assert texts(loss, "title")[:2] == ["Loss (nats per example)", "naive, λ = 0: 0.3 nats per example"]
    assert "naive: 1.200" in texts(loss)
    assert texts(log, "title")[0] == "Loss (nats per example), logarithmic"
    assert texts(accuracy, "title")[0] == "Accuracy (fraction right)"
    assert texts(objective, "desc") == ["From 5.9 to 105 in 2 steps."]
    assert [len(chart.findall(".//path[@class='arrow']")) for chart in (loss, log, accuracy)] == [1, 1, 0]
    assert len(loss.findall(".//path[@class='mark end']")) == 4


def test_curves_differ_without_colour() -> None:
    looks = [look(number) for number in range(40)]
    assert len({(each.dash, each.marker, each.light) for each in looks}) == 40
    assert len({(each.dash, each.marker) for each in looks[:5]}) == 5


def chart_of(*values: float) -> Any:
    lam = tuple(k / (len(values) - 1) for k in range(len(values)))
    return chart(Measure("loss", "Loss", "nats", (Series("naive", 0, lam, values, "1", summit(lam, values)),)))


def test_a_point_that_was_not_measured_leaves_a_gap() -> None:
    drawn = chart_of(1.0, 2.0, math.nan, 2.0, 1.0)
    (line,) = drawn.lines
    assert [point.text for point in line.points][1:3] == ["naive, λ = 0.25: 2 nats", "naive, λ = 0.75: 2 nats"]
    assert line.path.count("M") == 2
    assert line.points[1].y < line.points[0].y  # a higher loss is higher up
    assert line.arrow is None
    assert chart_of(math.nan, math.nan) is None


def test_the_arrow_goes_from_the_line_to_the_summit() -> None:
    assert summit((0.0, 0.5, 1.0), (1.0, 4.0, 3.0)) == summit((0.0, 0.5, 1.0), (1.0, 4.0, 3.0))
    found = summit((0.0, 0.5, 1.0), (1.0, 4.0, 3.0))
    assert found is not None
    assert (found.lam, found.top, found.foot) == (0.5, 4.0, 2.0)
    assert summit((0.0, 0.5, 1.0), (1.0, 0.5, 1.0)) is None
    (line,) = chart_of(1.0, 4.0, 3.0).lines
    assert line.arrow is not None
    x, top, foot = line.arrow
    assert line.points[1].x == x
    assert line.points[1].y == top < foot


def test_a_logarithmic_chart_is_for_losses_above_zero() -> None:
    (loss, _) = curves([("", BARRIER)])
    assert loss.log is not None
    below = CurveRecord((0.3, -0.1, 0.3), (0.9,) * 3, 0.0, 0.0)
    (loss, _) = curves([("", replace(BARRIER, lam=(0.0, 0.5, 1.0), naive=below, aligned=None))])
    assert loss.log is None
    assert loss.linear is not None


# -- the rest of the page ----------------------------------------------------------------------------------


def test_the_policy_names_the_only_script_and_style() -> None:
    page = to_html(INTERPOLATE)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; ")
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy[1]
    assert not re.search(r"<[^>]* (?:on\w+|style)=", page)


def test_dims_are_folded_by_their_template() -> None:
    dims = {f"h.{i}": DimRecord(100, moved=0.5, gain=2.0, relative=0.1 * i) for i in range(3)}
    dims |= {f"in.{i}.{j}": DimRecord(10, moved=1.0, gain=-1.0) for i in (0, 1) for j in (0, 1)}
    rows = dim_rows({**dims, "embed": DimRecord(8, fixed="these are the outputs")})
    assert [(row.name, row.count, row.units, row.moved, row.gain) for row in rows] == [
        ("h.{i}", 3, 300, 0.5, 6.0), ("in.{i}.{j}", 4, 40, 1.0, -4.0), ("embed", 1, 8, None, None),
    ]  # fmt: skip
    assert [row.name for row in rows[0].members] == ["h.0", "h.1", "h.2"]
    assert rows[2].note == "fixed: these are the outputs"
    page = to_html(replace(ALIGN, architecture=replace(ARCHITECTURE, dims=dims)))
    assert page.count('<tbody class="family">') == 2
    many = {f"h.{i}": DimRecord(100, moved=0.5, gain=2.0) for i in range(20)}
    assert "data-folded" in to_html(replace(ALIGN, architecture=replace(ARCHITECTURE, dims=many)))


def test_every_table_has_scopes() -> None:
    for document in (INTERPOLATE, MERGE, *EXAMPLES.values()):
        page = to_html(document)
        heads = re.findall(r"<th\b[^>]*>", page)
        assert all('scope="row"' in head or 'scope="col"' in head for head in heads)
        assert page.count("<figure") == page.count("<figcaption")


def test_the_command_is_the_recorded_one_or_derived() -> None:
    derived = reproduction(INTERPOLATE)
    assert derived is not None
    assert not derived.recorded
    assert " ".join(derived.words) == (
        "rebasin interpolate /models/a.safetensors /models/b.safetensors --arch mlp --set n_heads=4 --freeze h.9 "
        "--ignore 'ema.*' --method weights --seed 0 --steps 9"
    ).replace("/models/", "")
    options = {"--steps": 9, "--repair": ("bn", "repair"), "--force": True, "--quiet": False}
    machine = {"platform": "Linux", "cores": "2"}
    calls = (
        InvocationRecord(("rebasin", "align", "my a.pt", "b.pt"), seconds=1.0),
        InvocationRecord(("rebasin", "interpolate"), options, "2026-01-31T12:00:00Z", 2.0, machine),
    )
    page = to_html(replace(INTERPOLATE, invocations=calls))
    assert "Made of what the run document holds" not in page
    shown = re.search(r'<pre id="command-1">(.*?)</pre>', page)
    assert shown
    assert unescape(re.sub("<.*?>", "", shown[1])) == "rebasin align 'my a.pt' b.pt | rebasin interpolate"
    for part in ("bn, repair", "2026-01-31T12:00:00Z", "3.0 s", "platform Linux, cores 2"):
        assert part in page
    names = [name for name, _ in options_of(replace(INTERPOLATE, invocations=calls))]
    assert names == ["rebasin align", "rebasin interpolate"]
    assert "--force" in page
    assert "--quiet" not in page
    assert reproduction(EXAMPLES["others"]) is None


def test_a_merge_shows_members_and_pairs() -> None:
    page = to_html(MERGE)
    for part in ("model 1: m1.safetensors", "naive average", "merged", "0.140", "Loss barrier of every pair"):
        assert part in page
    heat = re.findall(r'<td class="h(\d)">([^<]*)</td>', page)
    assert heat == [("4", "1.100"), ("4", "1.100"), ("0", "0.010"), ("4", "1.200"), ("0", "0.010"), ("0", "0.020")]
    unmeasured = replace(MERGE.merge, scores={}, pairs=(PairRecord("model.1", "model.2", 4.0, 1.0),))
    assert "Distance of every pair" in to_html(replace(MERGE, merge=unmeasured))


def carried(page: str) -> dict[str, str]:
    found = re.findall(r'<a download="([^"]*)" href="data:[^,]*,([^"]*)"', page)
    return {name: base64.b64decode(data).decode() for name, data in found}


def test_a_point_of_a_path_shows_what_it_is_worth() -> None:
    scores = {"A": ScoreRecord(0.1, 0.97), "B": ScoreRecord(0.2, 0.95), "λ = 0.5": ScoreRecord(0.15, 0.96)}
    verdict = VerdictRecord("as good as its models", False, "losses", 0.15, 0.15, 0.12, 0.0, None, scores)
    page = to_html(replace(INTERPOLATE, verdict=verdict))
    assert re.search(r"<h2>Worth, loss in [^<]*</h2>", page)
    assert "λ = 0.5" in page
    assert "<h2>Worth" not in to_html(INTERPOLATE)


def test_the_data_are_in_the_page() -> None:
    files = carried(to_html(INTERPOLATE))
    assert json.loads(files["run.json"])["inputs"]["a"]["path"] == "a.safetensors"
    rows = list(csv.DictReader(io.StringIO(files["curves.csv"])))
    assert len(rows) == 18
    assert rows[4] == {"curve": "naive", "lambda": "0.5", "loss": "1.5", "accuracy": "0.5"}


def test_a_csv_has_gaps_and_no_formulas() -> None:
    naive = replace(BARRIER.naive, metrics={"=f1": (math.nan,) * 9})
    lines = curves_csv([("", replace(BARRIER, naive=naive, aligned=None))]).splitlines()
    assert lines[0] == "curve,lambda,loss,accuracy,'=f1"
    assert lines[5] == "naive,0.5,1.5,0.5,"


def test_paths_of_a_machine_are_not_sent() -> None:
    cached = "/cache/models--org--net/snapshots/0123"
    inputs = {"a": InputRecord(cached), "b": InputRecord("/x/1/b.pt"), "data": InputRecord("/x/2/b.pt")}
    shown = without_folders(replace(ALIGN, inputs=inputs))
    assert [entry.path for entry in shown.inputs.values()] == ["org/net", "1/b.pt", "2/b.pt"]
    assert without_folders(shown) == shown
    assert shown.outputs["aligned"] == "b.aligned.safetensors"


# -- several runs ------------------------------------------------------------------------------------------


def test_runs_are_named_by_what_differs() -> None:
    assert [run.name for run in runs_of([INTERPOLATE, OTHER], ["x", "y"])] == ["weights, seed 0", "activations, seed 3"]
    assert [run.name for run in runs_of([INTERPOLATE, INTERPOLATE], ["x.json", "y.json"])] == ["x.json", "y.json"]
    assert [run.name for run in runs_of([INTERPOLATE] * 2, ["x.json"] * 2)] == ["run 1", "run 2"]


def test_the_comparison_has_a_row_for_each_run() -> None:
    grid = comparison_grid(runs_of([INTERPOLATE, OTHER, MERGE], ["x", "y", "z"]))
    assert grid.rows[1][2:] == ("activations", "3", "0.036 → 0.632", "1.200", "0.010", "yes", "0.2 s")
    assert grid.rows[2][1] == "m1.safetensors, m2.safetensors, m3.safetensors"


def test_what_all_runs_share_stands_above_their_table() -> None:
    lines = comparison_text(runs_of([INTERPOLATE, OTHER], ["x", "y"])).splitlines()
    assert lines[0] == "files: a.safetensors, b.safetensors"
    assert lines[-3].split() == ["run", "method", "seed"]
    assert lines[-1] == "activations, seed 3  activations     3"


def test_curves_of_several_runs_lie_over_one_another() -> None:
    (loss, _) = measures([("one", BARRIER), ("two", BARRIER)])
    assert [series.name for series in loss.series] == ["naive", "one: aligned", "two: aligned"]
    assert len({series.place for series in loss.series}) == 3
    other = replace(BARRIER, naive=replace(BARRIER.naive, loss=BARRIER.aligned.loss))
    (loss, _) = measures([("one", BARRIER), ("two", other)])
    assert [series.name for series in loss.series] == ["one: naive", "one: aligned", "two: naive", "two: aligned"]
    page = page_of(runs_of([INTERPOLATE, OTHER], ["x", "y"]))
    assert "<h1>2 runs compared</h1>" in page
    assert "weights, seed 0: aligned, barrier 0.010" in page
    assert set(carried(page)) == {"curves.csv", "run-1.json", "run-2.json"}
    assert carried(page)["curves.csv"].startswith("run,curve,lambda,")


@pytest.mark.parametrize("count", [2, 12])
def test_a_page_of_many_runs(count: int) -> None:
    runs = [replace(OTHER, match=replace(OTHER.match, seed=seed)) for seed in range(count)]
    page = page_of(runs_of(runs, ["x"] * count))
    assert page.count('<header class="card') == count + 1


def test_views_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiles(ALIGN)[0].name = "other"  # type: ignore[misc]
