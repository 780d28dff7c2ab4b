"""The terminal, the plot, HTML, Markdown and PNG."""

from __future__ import annotations

import builtins
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace
from rich.console import Console

from rebasin_cli.errors import UsageError
from rebasin_cli.report import png
from rebasin_cli.report.comparison import runs_of
from rebasin_cli.report.console import print_summary
from rebasin_cli.report.contents import facts, grids, headline
from rebasin_cli.report.dims import FEW_DIMS, dims_grid
from rebasin_cli.report.document import (
    ArchitectureRecord,
    DimRecord,
    InputRecord,
    MatchRecord,
    RunDocument,
    TrialRecord,
)
from rebasin_cli.report.markdown import markdown_of
from rebasin_cli.report.measurements import BarrierRecord, CurveRecord
from rebasin_cli.report.terminal_plot import loss_plot
from tests.report.examples import ALIGN, ARCHITECTURE, BARRIER, EXAMPLES, INTERPOLATE
from tests.report.forms import to_html, to_markdown, to_png


def shown(document: RunDocument, *, width: int = 80, encoding: str = "utf-8", verbose: bool = False) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_summary(Console(file=stream, width=width, no_color=True), document, verbose=verbose)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


# -- the terminal ------------------------------------------------------------------------------------------


def test_the_summary_says_what_matters() -> None:
    text = shown(INTERPOLATE)
    assert text.startswith("One basin: barrier 1.200 → 0.010, cosine 0.036 → 0.632\n")
    for part in (
        "objective 5.9 → 105, 28 assignments",
        "98.8 %",
        "+34.5",
        "for each h.0",
        "these are the outputs",
    ):
        assert part in text
    every = shown(INTERPOLATE, verbose=True)
    assert "above the line between the ends (Entezari et al.)" in every
    assert "above the mean of the ends (Frankle et al.)" in every
    assert "102.0 %" in text  # v.0 is further away than before


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_eighty_columns_in_every_encoding(name: str, encoding: str) -> None:
    lines = shown(EXAMPLES[name], encoding=encoding).splitlines()
    wide = [line for line in lines if len(line) > 80]
    assert not wide
    assert encoding != "ascii" or "\n".join(lines).isascii()


def test_many_dims_are_folded_by_template_unless_asked_for() -> None:
    dims = {f"mlp.{i}": DimRecord(100 + i, moved=0.5, gain=2.0 + i) for i in range(40)}
    architecture = replace(ARCHITECTURE, dims=dims)
    folded = dims_grid(architecture, every_dim=False)
    assert folded.rows == (("mlp.{i} × 40", "100–139", "50.0 %", "+860", "–", "+2 to +41 each"),)
    assert len(dims_grid(architecture, every_dim=True).rows) == 40
    document = replace(ALIGN, architecture=architecture)
    assert "mlp.17" not in shown(document)
    assert "mlp.17" in shown(document, verbose=True)


def test_every_command_has_a_headline() -> None:
    assert headline(ALIGN) == "B aligned onto A: distance 17.91 → 11.07"
    assert headline(EXAMPLES["inspect"]) == "2 tensors, no known architecture"
    assert headline(EXAMPLES["others"]).startswith("Plan of `rebasin arch check`")
    assert headline(replace(EXAMPLES["others"], plan=None, architectures=None)) == "0 of 1 check passed"


def test_every_form_names_the_unit_of_the_losses() -> None:
    for unit, words in (("", "nats per example"), ("nats per masked token", "nats per masked token")):
        document = replace(INTERPOLATE, barrier=replace(BARRIER, unit=unit))
        for text in (shown(document, verbose=True), to_html(document), to_markdown(document)):
            assert f"Loss in {words}" in text
            assert f"Barrier, in {words}" in text


def with_more() -> RunDocument:
    """Metrics, one of them missing in places, and repaired curves."""
    naive = replace(BARRIER.naive, metrics={"macro-f1": (0.5,) * 8 + (math.nan,)})
    more = {f"aligned + {kind}": replace(BARRIER.aligned, basis={"repair": kind}) for kind in ("bn", "repair")}
    return replace(INTERPOLATE, barrier=replace(BARRIER, naive=naive, repaired=more))


def test_what_does_not_fit_side_by_side_has_its_own_tables() -> None:
    assert [grid.title for grid in grids(INTERPOLATE)][1:2] == ["Loss in nats per example, accuracy"]
    titles = {grid.title: grid for grid in grids(with_more())}
    names = ("λ", "naive", "aligned", "aligned + bn", "aligned + repair")
    for title in ("Loss in nats per example", "Accuracy", "macro-f1"):
        assert titles[title].columns == names
    assert [row[1:3] for row in titles["macro-f1"].rows] == [("0.5", "–")] * 8 + [("–", "–")]
    assert titles["Accuracy"].rows[4] == ("0.5000", "50.0 %", "90.0 %", "90.0 %", "90.0 %")
    text = shown(with_more(), verbose=True)
    assert max(map(len, text.splitlines())) <= 80
    assert "0.5000   50.0 %" in text
    assert "<figcaption>macro-f1</figcaption>" in to_html(with_more())


def test_the_best_curve_and_the_kinds_of_curves() -> None:
    barrier = with_more().barrier
    assert barrier is not None
    assert [barrier.kind(name) for name in barrier.curves] == ["naive", "aligned", "bn", "repair"]
    assert barrier.best == ("aligned + repair", barrier.repaired["aligned + repair"])
    assert BARRIER.best == ("aligned", BARRIER.aligned)
    odd = replace(BARRIER, repaired={"a name from elsewhere": BARRIER.aligned})
    assert odd.kind("a name from elsewhere") == "repair"


def test_facts_name_inputs_and_outputs() -> None:
    rows = dict(facts(ALIGN))
    assert rows["A"] == "/models/a.safetensors"
    assert rows["aligned →"] == "/models/b.aligned.safetensors"
    assert "5.9 → 105 (converged), 28 assignments" in rows["⟨A, π(B)⟩"]


# -- the plot ----------------------------------------------------------------------------------------------


def test_the_plot_in_ascii() -> None:
    text = loss_plot(BARRIER, width=36, height=9, unicode=False).plain
    rows = [line.partition("|")[2] or line.partition("+")[2] for line in text.splitlines()[:9]]
    assert len(rows) == 9
    assert rows[-1].count("*") > 20  # aligned stays at the bottom
    top = rows[0].index("o")
    assert abs(top - len(rows[-1]) / 2) < 4  # naive peaks in the middle
    assert text.endswith("ooo naive   *** aligned")
    assert text.isascii()
    assert max(map(len, text.splitlines()[:-1])) <= 37


def test_the_plot_in_braille() -> None:
    text = loss_plot(BARRIER, width=60, height=10)
    assert len(text.plain.splitlines()) == 13
    lit = [sum(0x2800 < ord(sign) <= 0x28FF for sign in line) for line in text.plain.splitlines()[:10]]
    assert all(lit)
    assert lit[-1] > 40
    assert {span.style for span in text.spans} >= {"red", "green"}


@pytest.mark.parametrize("unicode", [True, False])
def test_plots_of_odd_curves(unicode: bool) -> None:
    def plot(*loss: float, lam: tuple[float, ...] = (0.0, 0.5, 1.0)) -> str:
        curve = CurveRecord(loss, (0.5,) * len(loss), 0.0, 0.0)
        return loss_plot(BarrierRecord(lam, curve, None), unicode=unicode).plain

    assert plot(1, 1, 1)  # flat
    assert plot(0, 0, 0)
    assert plot(1e-12, 2e-12, 1e-12)
    assert plot(1e30, 2e30, 1e30)
    assert plot(1, math.inf, 2)  # a point that is not finite is left out
    assert plot(math.nan, math.nan, math.nan) == ""
    assert plot(1, lam=(0.5,)) == ""


# -- pages -------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Tags in balance, and every attribute that would fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in ("meta", "line", "path", "rect", "br", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in ("path", "rect", "line"):
            raise AssertionError(f"</{tag}> closes {self.open[-1:]}")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_is_whole_and_fetches_nothing(name: str) -> None:
    html = to_html(EXAMPLES[name])
    page = _Page()
    page.feed(html)
    assert page.open == []
    assert {place.partition(",")[0].partition(";")[0] for place in page.fetched} <= {
        "href=data:", "href=data:text/csv", "href=data:application/json",
    }  # fmt: skip
    assert page.tags.count("script") == page.tags.count("style") == 1
    assert not {"img", "iframe", "object"} & set(page.tags)
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in html


def test_the_page_escapes_and_warns() -> None:
    html = to_html(replace(ALIGN, warnings=("<b>heads & tails</b>",)))
    assert "&lt;b&gt;heads &amp; tails&lt;/b&gt;" in html
    assert "<b>heads" not in html


def test_markdown_tables_are_tables() -> None:
    text = to_markdown(INTERPOLATE)
    assert "\n# One basin: barrier 1.200 → 0.010, cosine 0.036 → 0.632\n" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1
    assert "**Note:** heads could not be sized" in text


def test_a_model_card_begins_with_what_a_hub_reads() -> None:
    for document, written in ((INTERPOLATE, 0.5), (ALIGN, None)):
        text = to_markdown(replace(document, at=written))
        _, front, body = text.split("---\n", 2)
        fields = yaml.safe_load(front)
        assert fields["base_model"] == ["a.safetensors", "b.safetensors"]
        assert fields["library_name"] == "safetensors"
        assert fields["tags"] == ["rebasin", "git-re-basin", *(["merge"] if written else [])]
        assert fields["rebasin"]["method"] == "weights"
        assert fields["rebasin"]["cosine"] == {"before": 0.0358, "after": 0.6316}
        assert body.lstrip().startswith("# ")
        assert "    rebasin " in body
        assert "/models" not in text
    assert fields["rebasin"].get("barrier") is None
    assert to_markdown(EXAMPLES["inspect"]).startswith("# ")  # nothing that a hub would take
    folder = replace(ALIGN, inputs={"a": InputRecord("/cache/models--org--net/snapshots/1"), "b": InputRecord("/x/b")})
    front = yaml.safe_load(to_markdown(folder).split("---\n", 2)[1])
    assert (front["base_model"], front["library_name"]) == (["org/net", "b"], "transformers")


def test_markdown_of_several_runs_compares_them() -> None:
    other = replace(INTERPOLATE, match=replace(INTERPOLATE.match, seed=3))
    text = markdown_of(runs_of([INTERPOLATE, other], ["x", "y"]))
    assert text.startswith("# 2 runs compared\n\n| run | files | method | seed |")
    assert "\n## seed 3\n" in text


_STARTS = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("form", png.FORMS)
def test_the_picture(form: png.Form) -> None:
    pytest.importorskip("matplotlib")
    picture = png.to_picture([("", BARRIER)], form)
    assert picture.startswith(_STARTS[form])
    assert len(picture) > 10_000
    assert png.to_picture([("", BARRIER)], form) == picture


def test_a_picture_has_curves_ends_arrows_and_names() -> None:
    pytest.importorskip("matplotlib")
    loss, accuracy = png.figure_of(BARRIER).axes
    assert {text.get_text() for text in loss.texts} == {"naive: 1.200", "aligned: 0.010", ""}  # and one arrow
    assert {text.get_text() for text in accuracy.texts} == {"naive", "aligned"}
    lines = {line.get_label(): line for line in loss.lines}
    assert lines["naive, barrier 1.200"].get_marker() != lines["aligned, barrier 0.010"].get_marker()
    assert lines["naive, barrier 1.200"].get_linestyle() != lines["aligned, barrier 0.010"].get_linestyle()
    runs = [("one", BARRIER), ("two", replace(BARRIER, repaired={"aligned + bn": BARRIER.aligned}))]
    assert png.to_picture(runs, "png").startswith(_STARTS["png"])


@pytest.mark.parametrize("name", ["x.jpg", "x", "x.png.txt", ".png", "-"])
def test_the_suffix_decides_the_form(name: str) -> None:
    assert png.form_of(Path("x.SVG")) == "svg"
    with pytest.raises(UsageError, match=r"a plot is a \.png, \.svg or \.pdf file"):
        png.form_of(Path(name))


def test_a_picture_of_what_was_not_measured() -> None:
    pytest.importorskip("matplotlib")
    lost = CurveRecord((0.1,) * 4 + (math.nan,) * 5, (0.5,) * 9, math.nan, math.nan)
    assert to_png(replace(BARRIER, naive=lost, aligned=None)).startswith(b"\x89PNG")


def test_without_matplotlib_the_remedy_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as failure:
        to_png(BARRIER)
    assert "pip install 'rebasin-cli[plot]'" in failure.value.remedy


def test_showing_needs_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document can be looked at where torch is not installed."""
    real = builtins.__import__

    def refuse(name: str, *arguments: object, **more: object) -> object:
        if name.split(".")[0] in ("torch", "numpy", "scipy"):
            raise ImportError(name)
        return real(name, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert shown(INTERPOLATE)
    assert to_html(INTERPOLATE)
    assert to_markdown(INTERPOLATE)


def test_a_family_has_moved_what_its_units_have() -> None:
    """Two dims of different sizes: ten of thirty units have moved."""
    dims = {"s.1": DimRecord(10, moved=1.0, gain=2.0), "s.2": DimRecord(20, moved=0.0, gain=0.5)}
    many = {f"h.{i}": DimRecord(4, moved=0.0, gain=0.0) for i in range(FEW_DIMS)}
    architecture = ArchitectureRecord("own", "own", "0" * 64, proved=False, dims={**dims, **many})
    (row,) = (row for row in dims_grid(architecture, every_dim=False).rows if row[0] == "s.{i} × 2")
    assert row[2:4] == ("33.3 %", "+2.5")


def test_what_was_kept_of_several_starts_is_named() -> None:
    """The one that is kept need not have reached most by the last digit."""
    trials = (TrialRecord("one", 2.0, 0.1, kept=True), TrialRecord("two", 2.0 + 1e-13, 0.2))
    match = MatchRecord("weights", 0, (1.0, 2.0), "converged", {"all": 0.3}, trials=trials)
    rows = dict(facts(RunDocument("align", match=match)))
    assert rows["starts"] == "2, reaching 2 to 2 (kept: one)"
    assert rows["⟨A, π(B)⟩"] == "1 → 2 (converged), 0 assignments, 0.3 s in all starts"
