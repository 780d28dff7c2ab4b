"""The document's JSON: golden, described by the shipped schema, read back as it was, and strictly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rebasin_cli.errors import ContentError, SystemFailure
from rebasin_cli.report import document as values
from rebasin_cli.report.codec import SCHEMA_PATH, from_json, read_document, schema, to_json
from rebasin_cli.report.document import ArchitectureRecord, RunDocument, TensorRecord
from rebasin_cli.report.measurements import CurveRecord
from tests.report.examples import ALIGN, BARRIER, EXAMPLES, INTERPOLATE

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden(name: str) -> None:
    golden = (GOLDEN / f"{name}.json").read_text(encoding="utf-8")
    assert to_json(EXAMPLES[name]) == golden
    assert from_json(golden, name) == EXAMPLES[name]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/*.json")), ids=lambda path: f"{path.parent.name} {path.stem}")
def test_documents_of_earlier_versions_are_read(path: Path) -> None:
    """A golden file stays as it is: when the form changes, the old one goes into a folder of its own."""
    assert from_json(path.read_text(encoding="utf-8"), path.name) == EXAMPLES[path.stem]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_schema_describes_it(name: str) -> None:
    VALIDATOR.validate(json.loads(to_json(EXAMPLES[name])))


def test_the_schema_is_that_of_the_document() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema(), "run `make schema`"
    assert all(part["additionalProperties"] is False for part in SCHEMA["$defs"].values())


def test_what_has_its_default_is_left_out() -> None:
    text = to_json(RunDocument("inspect", architecture=ArchitectureRecord("mlp", "a title", "0" * 64, True)))
    assert json.loads(text) == {
        "schema_version": 1, "command": "inspect", "warnings": [],
        "architecture": {"name": "mlp", "title": "a title", "sha256": "0" * 64, "proved": True},
    }  # fmt: skip


def test_losses_that_are_not_finite_are_null() -> None:
    curve = CurveRecord((0.1, math.inf, math.nan), (0.5, 0.5, 0.5), math.nan, math.inf)
    barrier = replace(BARRIER, lam=(0.0, 0.5, 1.0), naive=curve, aligned=None)
    text = to_json(replace(INTERPOLATE, barrier=barrier))
    VALIDATOR.validate(json.loads(text))
    assert json.loads(text)["barrier"]["naive"]["loss"] == [0.1, None, None]
    back = from_json(text, "x").barrier
    assert back is not None
    assert back.naive is not None
    assert math.isnan(back.naive.loss[2])
    assert math.isnan(back.naive.barrier)


_TEXT = st.text(max_size=20)
_NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@given(
    command=_TEXT,
    outputs=st.dictionaries(_TEXT, st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)),
    warnings=st.lists(_TEXT, max_size=3).map(tuple),
    numbers=st.tuples(_NUMBER, _NUMBER, _NUMBER, _NUMBER),
)
def test_round_trip(
    command: str, outputs: dict[str, str], warnings: tuple[str, ...], numbers: tuple[float, ...]
) -> None:
    document = RunDocument(command, outputs=outputs, warnings=warnings, distance=values.DistanceRecord(*numbers))
    text = to_json(document)
    assert from_json(text, "x") == document
    VALIDATOR.validate(json.loads(text))


def _changed(**changes: Any) -> str:
    return json.dumps({**json.loads(to_json(ALIGN)), **changes})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1 is not JSON"),
        ("\n\n{", "is not JSON"),
        ("7", "no `schema_version`"),
        ("[" * 100_000, "not a run document"),
        (_changed(schema_version=0), "schema_version 0, this program reads 1"),
        (_changed(schema_version="1"), "schema_version '1'"),
        (_changed(schema_version=True), "schema_version True"),
        (_changed(command=None), "expected `str`, got `null`, at `command`"),
        (_changed(extra=1), "unknown field `extra`"),
        (_changed(**{"\ud800": 1}), r"unknown field '\ud800'"),
        (_changed(inputs={"a": {"sha256": None}}), "there is no field `path`, at `inputs[...]`"),
        (_changed(inputs={"a": {"path": "/x", "more": 1}}), "unknown field `more`, at `inputs[...]`"),
        (_changed(inputs=[]), "expected `object`, got `array`, at `inputs`"),
        (_changed(warnings=["x", 3]), "expected `str`, got `int`, at `warnings[1]`"),
        (_changed(peak_memory_bytes=True), "expected `int`, got `bool`, at `peak_memory_bytes`"),
        (_changed(peak_memory_bytes=1.0), "expected `int`, got `float`, at `peak_memory_bytes`"),
        (_changed(distance={"before": "x"}), "expected `float | null`, got `str`, at `distance.before`"),
        (_changed(distance={"before": True}), "expected `float | null`, got `bool`, at `distance.before`"),
        (_changed(match={"method": "weights"}), "there is no field `seed`, at `match`"),
        (_changed(at=math.nan), "NaN is no number in JSON"),
        (_changed(at=-math.inf), "-Infinity is no number in JSON"),
        (_changed(peak_memory_bytes=1 << 63), "the number 9223372036854775808… is too large"),
        (_changed(peak_memory_bytes=0)[:-1].replace(": 0,", f": {'7' * 5000},") + "}", "is too large"),
        (_changed(at=0.125).replace("0.125", "1e999"), "the number 1e999 is too large"),
        (_changed(at=0.125)[:-1] + ', "at": 1}', "`at` stands twice in one object"),
        (_changed(inputs={"a": {"path": "a\0b"}}), "`inputs.a.path` is"),
        (_changed(outputs={"aligned": "a\ud800b"}), "`outputs.aligned` is"),
    ],
)
def test_what_is_not_a_document(text: str, says: str) -> None:
    with pytest.raises(ContentError) as failure:
        from_json(text, "stdin")
    assert says in failure.value.what
    assert failure.value.where == "stdin"
    assert failure.value.remedy


def test_reading_files(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(to_json(ALIGN), encoding="utf-8")
    assert read_document(tmp_path / "run.json") == ALIGN
    with pytest.raises(SystemFailure):
        read_document(tmp_path / "absent.json")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ContentError, match="byte 0 is not UTF-8"):
        read_document(tmp_path / "bytes")


def test_json_is_laid_out_as_pythons_own() -> None:
    shared = TensorRecord("F32", (2, 3))
    text = to_json(RunDocument(command="inspect", tensors={"a": shared, "é": shared, "c": TensorRecord("F32", ())}))
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    assert from_json(text, "x").tensors == {"a": shared, "é": shared, "c": TensorRecord("F32", ())}


def test_bytes_that_are_no_text_are_kept() -> None:
    document = RunDocument("align", outputs={"aligned": "/x/\udcff"}, distance=values.DistanceRecord(math.nan, 1, 2, 3))
    text = to_json(document)
    assert json.loads(text)["distance"]["before"] is None
    assert from_json(text, "x").outputs == document.outputs
