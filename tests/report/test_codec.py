"""The document's JSON: golden, described by the shipped schema, read back as it was, and strictly."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.errors import ContentError, SystemFailure
from rebasin_cli.report import document as values
from rebasin_cli.report.codec import SCHEMA_PATH, from_json, read_document, to_json
from rebasin_cli.report.document import CurveRecord, RunDocument, TensorRecord
from tests.report.examples import ALIGN, BARRIER, EXAMPLES, INTERPOLATE

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden(name: str) -> None:
    """A document that earlier versions wrote must stay readable: change a golden file only with the schema version."""
    golden = (GOLDEN / f"{name}.json").read_text(encoding="utf-8")
    assert to_json(EXAMPLES[name]) == golden
    assert from_json(golden, name) == EXAMPLES[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_schema_describes_it(name: str) -> None:
    VALIDATOR.validate(json.loads(to_json(EXAMPLES[name])))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_and_the_dataclasses_name_the_same_fields() -> None:
    described = {"RunDocument": SCHEMA, **SCHEMA["$defs"]}
    named = {
        "RunDocument": "RunDocument", "input": "InputRecord", "architecture": "ArchitectureRecord",
        "options": "SpecOptions", "dim": "DimRecord", "match": "MatchRecord", "distance": "DistanceRecord",
        "curve": "CurveRecord", "barrier": "BarrierRecord", "tensor": "TensorRecord", "listed": "ListedArchitecture",
        "check": "CheckRecord", "plan": "PlanRecord", "trial": "TrialRecord",
        "merge": "MergeRecord", "pair": "PairRecord", "score": "ScoreRecord",
        "checked": "CheckedRecord", "derivation": "DerivationRecord",
    }  # fmt: skip
    assert set(described) == set(named)
    for part, kind in named.items():
        names = [field.name for field in dataclasses.fields(getattr(values, kind))]
        fields = {"lambda" if name == "lam" else name for name in names}
        assert set(described[part]["properties"]) == fields, kind
        assert described[part]["additionalProperties"] is False


def test_losses_that_are_not_finite_are_null() -> None:
    curve = CurveRecord((0.1, math.inf, math.nan), (0.5, 0.5, 0.5), math.nan, math.inf)
    barrier = dataclasses.replace(BARRIER, lam=(0.0, 0.5, 1.0), naive=curve, aligned=None)
    text = to_json(dataclasses.replace(INTERPOLATE, barrier=barrier))
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
        (_changed(command=None), "`command` is null, not a text"),
        (_changed(extra=1), "unknown field `extra`"),
        (_changed(inputs={"a": {"sha256": None}}), "no `inputs.a.path` in it"),
        (_changed(inputs=[]), "`inputs` is [], not an object"),
        (_changed(warnings=["x", 3]), "`warnings[1]` is 3, not a text"),
        (_changed(peak_memory_bytes=True), "`peak_memory_bytes` is true, not a whole number"),
        (_changed(distance={"before": "x"}), '`distance.before` is "x", not a number'),
        (_changed(match={"method": "weights"}), "no `match.seed` in it"),
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


def test_a_record_that_many_tensors_share_is_written_for_each() -> None:
    shared = TensorRecord("F32", (2, 3))
    text = to_json(RunDocument(command="inspect", tensors={"a": shared, "é": shared, "c": TensorRecord("F32", ())}))
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    assert from_json(text, "x").tensors == {"a": shared, "é": shared, "c": TensorRecord("F32", ())}
