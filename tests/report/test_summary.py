"""The summary on a terminal: the verdict, and what a screen has room for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from rebasin_cli.report.dims import dims_grid, folded
from rebasin_cli.report.document import CheckedRecord, DimRecord, InputRecord, RunDocument
from rebasin_cli.report.measurements import BarrierRecord, CurveRecord, MergeRecord, PairRecord
from rebasin_cli.report.names import input_names
from rebasin_cli.report.terminal_plot import loss_plot
from rebasin_cli.report.verdict import is_one_basin, verdict
from tests.report.examples import ALIGN, ARCHITECTURE, BARRIER, INTERPOLATE, LAM
from tests.report.test_forms import shown, with_more

_HASH = "0" * 64


def checked(error: float | None) -> RunDocument:
    record = CheckedRecord("mlp", 4, 9, error)
    return replace(INTERPOLATE, architecture=replace(ARCHITECTURE, checked=record))


def test_the_verdict_is_one_line_with_all_that_matters() -> None:
    first = "One basin: barrier 1.200 → 0.010, cosine 0.036 → 0.632, function "
    for document, how in ((checked(None), "assumed"), (checked(1e-16), "checked")):
        assert shown(document).splitlines()[0] == first + how
    assert verdict(ALIGN) == "B aligned onto A: cosine 0.036 → 0.632"
    assert verdict(replace(ALIGN, command="interpolate")) == "No loss measured: cosine 0.036 → 0.632"
    assert verdict(RunDocument("inspect")) == ""


def curve(*loss: float, accuracy: Sequence[float] = ()) -> CurveRecord:
    between = max(x - (1 - i / (len(loss) - 1)) * loss[0] - i / (len(loss) - 1) * loss[-1] for i, x in enumerate(loss))
    return CurveRecord(loss, tuple(accuracy) or (math.nan,) * len(loss), between, between)


@pytest.mark.parametrize(
    ("aligned", "within"),
    [
        (curve(1, 1.05, 1), True),
        (curve(1, 1.2, 1), False),
        (curve(1, 5, 1, accuracy=(0.9, 0.895, 0.92)), True),  # where there is an accuracy, it decides
        (curve(1, 1.01, 1, accuracy=(0.9, 0.86, 0.92)), False),
        (curve(1, math.nan, 1), None),
    ],
)
def test_one_basin_or_not(aligned: CurveRecord, within: bool | None) -> None:
    assert is_one_basin(BarrierRecord((0.0, 0.5, 1.0), curve(1, 9, 1), aligned)) is within


def test_the_naive_path_alone_and_a_sweep_cut_short() -> None:
    alone = replace(INTERPOLATE, barrier=replace(BARRIER, aligned=None), distance=None)
    assert verdict(alone) == "Not one basin: barrier 1.200"
    assert verdict(replace(INTERPOLATE, barrier=replace(BARRIER, missing=3))).startswith("Not decided: ")


def test_five_rows_of_points_unless_asked_for() -> None:
    rows = re.compile(r"^ *(0|0\.\d+|1(?:\.0+)?)  +\d", re.MULTILINE)
    assert rows.findall(shown(INTERPOLATE)) == ["0", "0.25", "0.5", "0.75", "1"]
    assert len(rows.findall(shown(INTERPOLATE, verbose=True))) == len(LAM)


def test_a_screen_has_room_for_a_summary() -> None:
    dims = {
        f"{stem}.{i}": DimRecord(64, moved=0.9, gain=float(n))
        for n, stem in enumerate("abcdefghijklmnop")
        for i in range(12)
    }
    large = replace(ARCHITECTURE, dims=dims)
    align = replace(checked(None), architecture=replace(large, checked=CheckedRecord()), command="align", barrier=None)
    assert len(shown(align).splitlines()) <= 25
    assert len(shown(replace(align, command="interpolate", barrier=BARRIER)).splitlines()) <= 40
    grid = dims_grid(large, every_dim=False)
    assert [row[0] for row in grid.rows] == [f"{stem}.{{i}} × 12" for stem in "ijklmnop"]  # the largest gains
    assert "of 16 kinds" in grid.title


def test_more_than_two_curves_have_their_barriers_in_the_table() -> None:
    text = shown(with_more())
    assert re.search(r"^barrier +1\.200 +0\.010 +0\.010 +0\.010$", text, re.MULTILINE)
    assert "barrier" not in shown(INTERPOLATE).split("\n", 1)[1]


def test_folded_dims_have_the_gains_of_all() -> None:
    dims = {f"in.{i}.{j}": DimRecord(8, moved=1.0, gain=1.5) for i in range(2) for j in range(3)}
    dims["h.0"], dims["h.1"] = DimRecord(8, moved=0.5, gain=4.0), DimRecord(8, moved=0.0, fixed="outputs")
    assert list(folded(dims)) == ["in.{i}.{j} × 6", "h.0", "h.1"]
    rows = {row[0]: row for row in dims_grid(replace(ARCHITECTURE, dims=dims), every_dim=False).rows}
    assert rows["in.{i}.{j} × 6"][3] == "+9"
    assert rows["h.1"][2:] == ("–", "–", "–", "fixed: outputs")


def test_inputs_are_named_by_what_tells_them_apart() -> None:
    paths = {
        "model.1": "/x/one/model.safetensors",
        "model.2": "/x/two/model.safetensors",
        "model.3": "/y/c.safetensors",
    }
    inputs = {role: InputRecord(path) for role, path in paths.items()}
    names = input_names(inputs)
    assert names == {
        "model.1": "one/model.safetensors", "model.2": "two/model.safetensors", "model.3": "c.safetensors",
    }  # fmt: skip
    assert input_names({"a": InputRecord("/x/m"), "b": InputRecord("/x/m")}) == {"a": "m", "b": "m"}
    merge = MergeRecord(
        "to-first", "weights", (1.0,), 0, (), "", 0.0, 0, pairs=(PairRecord("model.1", "model.3", 2, 1),)
    )
    text = shown(RunDocument("merge", inputs=inputs, merge=merge))
    assert "one/model.safetensors, c.safetensors" in text
    assert "model.1" not in text


@pytest.mark.parametrize("unicode", [True, False])
def test_the_legend_is_whole_and_tells_curves_apart(unicode: bool) -> None:
    barrier = with_more().barrier
    assert barrier is not None
    lines = loss_plot(barrier, width=40, unicode=unicode).plain.splitlines()
    assert max(map(len, lines)) <= 40
    legend = " ".join(line.strip() for line in lines[12:])
    names = ("naive", "aligned", "aligned + bn", "aligned + repair")
    samples = [re.search(rf"(\S+) {re.escape(name)}(?:   | \S*[⠂+x*o]| *$)", legend) for name in names]
    assert len({found[1] for found in samples if found}) == 4
    for mark in "ox" if unicode else "o*x":
        assert any(mark in line for line in lines[:10])


def test_what_was_written_and_what_to_do_next() -> None:
    import io

    from rich.console import Console

    from rebasin_cli.report.console import print_summary

    out = io.StringIO()
    command = "rebasin interpolate " + "a-long-name.safetensors " * 6
    print_summary(Console(file=out, width=80), ALIGN, document_file="/models/b.rebasin.json", then=command.strip())
    text = out.getvalue()
    assert re.search(
        r"wrote +\S*b\.aligned\.safetensors\n +\S*b\.permutation\.safetensors\n +\S*b\.rebasin\.json", text
    )
    assert f"next   {command.strip()}\n" in text  # in one line, to be pasted
