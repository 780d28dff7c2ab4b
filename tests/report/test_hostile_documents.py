"""A run document whose every text and name is hostile, in every form of it."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from msgspec.structs import replace
from rich.console import Console

from rebasin_cli.errors import ContentError
from rebasin_cli.report.codec import from_json, to_json
from rebasin_cli.report.console import print_summary, to_text
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measurements import MergeRecord, PairRecord, Record, ScoreRecord
from tests.hostile import HOSTILE, SURROGATES, assert_harmless, assert_inert
from tests.report.examples import ALIGN, CHECKED, INSPECT, INTERPOLATE, OTHERS
from tests.report.forms import to_html, to_markdown, to_png
from tests.report.test_forms import shown, with_more

MERGE = RunDocument(
    command="merge",
    merge=MergeRecord(
        "cycle", "weights", (0.5, 0.5), 0, (1.0,), "converged", 0.1, 1, pairs=(PairRecord("a", "b", 1.0, 0.5),),
        scores={"one": ScoreRecord(1.0, 0.5, {"metric": 0.5})}, unit="nats",
    ),
)  # fmt: skip
_UNIT = replace(INTERPOLATE, barrier=replace(with_more().barrier, unit="nats"))
_DOCUMENTS = (ALIGN, CHECKED, INSPECT, _UNIT, OTHERS, replace(OTHERS, plan=None), MERGE)
_EVERY = {**HOSTILE, **SURROGATES}


def poisoned(value: Any, with_text: str) -> Any:
    """The same value with a hostile end on each of its texts and names."""
    if isinstance(value, str):
        return value + with_text
    if isinstance(value, Mapping):
        return {poisoned(name, with_text): poisoned(item, with_text) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(poisoned(item, with_text) for item in value)
    if isinstance(value, Record):
        fields = {name: poisoned(getattr(value, name), with_text) for name in value.__struct_fields__}
        return replace(value, **fields)
    return value


@pytest.fixture(params=_EVERY)
def hostile(request: pytest.FixtureRequest) -> str:
    return _EVERY[request.param]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_terminal(hostile: str, encoding: str) -> None:
    for document in _DOCUMENTS:
        harmful = poisoned(document, hostile)
        assert_harmless(shown(harmful, encoding=encoding, width=2000))  # lines are broken by the text alone


def test_text_in_colour_keeps_its_brackets() -> None:
    for name in ("rich", "rich end", "rich link", "emoji code"):
        stream = io.StringIO()
        console = Console(file=stream, width=200, force_terminal=True, color_system=None)
        print_summary(console, poisoned(_UNIT, _EVERY[name]), verbose=True)
        assert f"macro-f1{_EVERY[name]}" in stream.getvalue()


def test_text_for_a_file(hostile: str) -> None:
    for document in _DOCUMENTS:
        assert_inert(to_text(poisoned(document, hostile)))


def test_markdown(hostile: str) -> None:
    for document in _DOCUMENTS:
        text = to_markdown(poisoned(document, hostile))
        assert_harmless(text)
        text.encode()
        body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # metadata are no Markdown
        body = re.sub(r"^    .*$", "", body, flags=re.MULTILINE)  # the command, which is code
        outside = re.sub(r"\\.|`[^`\n]*`", "", body)  # what is escaped, and the one span of code at the end
        assert re.fullmatch(r"[^`]*", outside)
        if text.startswith("---"):
            assert set(yaml.safe_load(text.split("\n---\n")[0])) == {"base_model", "library_name", "tags", "rebasin"}
        assert re.findall(r"<[^>]*>?", outside) == ["<sub>", "</sub>"]
        assert not re.search(r"\[|://|www\.|&#?\w+;", outside)
        rows = [line for line in outside.splitlines() if line.startswith("|")]
        widths = [row.count("|") for row in rows]
        assert all(3 <= width <= 9 for width in widths)


class _Page(HTMLParser):
    """Names of tags and of attributes, and the texts."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(name for name, _ in attrs)}


def _names(page: str) -> set[str]:
    parser = _Page()
    parser.feed(page)
    return parser.names


def test_html(hostile: str) -> None:
    for document in _DOCUMENTS:
        page = to_html(poisoned(document, hostile))
        assert_harmless(page)
        page.encode()
        assert _names(page) == _names(to_html(poisoned(document, "x")))
        for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
            ElementTree.fromstring(drawing)


def test_json(hostile: str) -> None:
    for document in _DOCUMENTS:
        harmful = poisoned(document, hostile)
        text = to_json(harmful)
        assert_harmless(text)
        text.encode()
        if hostile in (HOSTILE["nul"], SURROGATES["surrogate"]) and (document.inputs or document.outputs):
            with pytest.raises(ContentError, match="not the name of a file"):
                from_json(text, "there")
        else:
            assert to_json(from_json(text, "there")) == text
        assert json.loads(text)["command"] == document.command + hostile


def test_png(hostile: str) -> None:
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no font has every sign
        for value in (hostile, f"_{hostile}"):
            barrier = poisoned(_UNIT, value).barrier
            assert to_png(barrier).startswith(b"\x89PNG")
