"""The page in a browser: it says and fetches nothing, and what can be pressed works, on a screen, a phone and paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from rebasin_cli.report.comparison import runs_of
from rebasin_cli.report.document import DimRecord, RunDocument
from rebasin_cli.report.html import page_of
from tests.browser import CHROMIUM, Browser
from tests.hostile import HOSTILE
from tests.report.examples import ALIGN, ARCHITECTURE, EXAMPLES, INTERPOLATE
from tests.report.forms import to_html
from tests.report.test_hostile_documents import poisoned
from tests.report.test_page import MERGE, OTHER

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

_DIMS = {f"h.{i}": DimRecord(100, moved=i / 20, gain=float(i % 7)) for i in range(20)}
_DIMS |= {"embed": DimRecord(8, moved=0.5, gain=500.0), "out": DimRecord(8, fixed="these are the outputs")}
MANY_DIMS = replace(ALIGN, architecture=replace(ARCHITECTURE, dims=_DIMS))
LONG = replace(INTERPOLATE, outputs={"aligned": "/x/" + "long-name-" * 30 + ".safetensors"})
_SAID = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")

Open = Callable[..., Browser]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Open:
    """Open the page of a document, or a page."""

    def opened(document: RunDocument | str, width: int = 1280) -> Browser:
        page = tmp_path / "report.html"
        page.write_text(document if isinstance(document, str) else to_html(document), encoding="utf-8")
        browser.open(page, width)
        return browser

    return opened


def test_nothing_is_said_and_nothing_is_fetched(show: Open) -> None:
    pages = [to_html(document) for document in (*EXAMPLES.values(), MERGE, MANY_DIMS)]
    pages.append(page_of(runs_of([INTERPOLATE, OTHER, MERGE], ["x", "y", "z"])))
    pages += [to_html(poisoned(INTERPOLATE, HOSTILE[name])) for name in ("html", "attribute", "entity", "overrides")]
    for page in pages:
        browser = show(page)
        assert browser.said(*_SAID) == []
        fetched = {request["request"]["url"].partition(":")[0] for request in browser.said("Network.requestWillBeSent")}
        assert fetched <= {"file", "data"}
        assert len(browser.said("Network.requestWillBeSent")) <= 2  # the page, and its empty icon
        assert browser.run("document.title")


def test_the_policy_forbids_what_a_document_might_smuggle_in(show: Open) -> None:
    browser = show(to_html(INTERPOLATE).replace("</body>", "<script>document.title = 'ran'</script></body>"))
    assert browser.run("document.title") != "ran"
    assert "violates the following Content Security Policy" in browser.said("Log.entryAdded")[0]["entry"]["text"]
    assert browser.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"


def test_the_command_is_copied(show: Open) -> None:
    browser = show(INTERPOLATE)
    command = browser.run("document.querySelector('pre').textContent")
    assert command.startswith("rebasin interpolate a.safetensors b.safetensors --arch mlp ")
    browser.allow("clipboardReadWrite", "clipboardSanitizedWrite")
    browser.click(".copy")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert browser.run("document.querySelector('.copy').textContent") == "Copied"
    assert browser.run("navigator.clipboard.readText()") == command


def _names(browser: Browser) -> list[str]:
    found: list[str] = browser.run(
        "[...document.querySelectorAll('.dims tr:not(.member) > th[scope=row]')].map(x => x.textContent)"
    )
    return found


def test_dims_are_sorted_by_figures(show: Open) -> None:
    browser = show(MANY_DIMS)
    assert _names(browser) == ["h.{i}", "embed", "out"]
    press = "[...document.querySelectorAll('.dims .sort')].find(x => x.textContent === {!r}).click()"
    browser.run(press.format("gain"))
    assert _names(browser) == ["embed", "h.{i}", "out"]  # 500, 57 and none
    members = "[...document.querySelectorAll('.dims .member > th')].map(x => x.textContent)"
    assert browser.run(members)[:2] == ["h.6", "h.13"]
    assert browser.run("document.querySelector('.dims [aria-sort=descending]').textContent") == "gain"
    browser.run(press.format("gain"))
    assert _names(browser) == ["out", "h.{i}", "embed"]
    browser.run(press.format("dim"))
    assert _names(browser) == ["embed", "h.{i}", "out"]
    assert browser.run(members)[:11][-1] == "h.10"  # by number, not by letter


def test_families_unfold(show: Open) -> None:
    browser = show(MANY_DIMS)
    height = "document.querySelector('.member').getBoundingClientRect().height"
    assert browser.run(height) == 0
    browser.run("document.querySelector('.fold').click()")
    assert browser.run(height) > 0
    assert browser.run("document.querySelector('.fold').getAttribute('aria-expanded')") == "true"
    assert show(ALIGN).run("document.querySelectorAll('.closed').length") == 0  # of few dims none is hidden


def test_the_axis_becomes_logarithmic(show: Open) -> None:
    browser = show(INTERPOLATE)
    shown = "[...document.querySelectorAll('.in-linear, .in-log')].map(x => getComputedStyle(x).display)"
    assert browser.run(shown) == ["block", "none", "block"]
    browser.run("document.querySelector('.switch + label').click()")
    assert browser.run(shown) == ["none", "block", "block"]


@pytest.mark.parametrize("document", [INTERPOLATE, MERGE, MANY_DIMS, LONG, EXAMPLES["inspect"]])
def test_a_phone_scrolls_tables_and_not_the_page(show: Open, document: RunDocument) -> None:
    browser = show(document, width=390)
    assert browser.run("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]


def test_a_phone_shows_a_comparison(show: Open) -> None:
    browser = show(page_of(runs_of([INTERPOLATE, OTHER], ["x", "y"])), width=390)
    assert browser.run("document.documentElement.scrollWidth") == 390


def test_paper_has_no_buttons_and_every_fold_open(show: Open) -> None:
    browser = show(replace(MANY_DIMS, barrier=INTERPOLATE.barrier))
    browser.ask("Emulation.setEmulatedMedia", media="print")
    try:
        hidden = "['.copy', '.switch', '.downloads'].every(x => !document.querySelector(x).checkVisibility())"
        assert browser.run(hidden)
        assert browser.run("document.querySelector('.member').getBoundingClientRect().height") > 0
        browser.run("dispatchEvent(new Event('beforeprint'))")
        assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
        browser.run("dispatchEvent(new Event('afterprint'))")
        assert browser.run("document.querySelectorAll('details[open]').length") == 0
        assert browser.pdf().startswith(b"%PDF")
    finally:
        browser.ask("Emulation.setEmulatedMedia", media="")


def test_a_dark_screen_gets_a_dark_page(show: Open) -> None:
    browser = show(INTERPOLATE)
    colour = (
        "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.querySelector('.curve')).stroke"
    )
    light = browser.run(colour)
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        assert browser.run(colour) != light
    finally:
        browser.ask("Emulation.setEmulatedMedia", features=[])
