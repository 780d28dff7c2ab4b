"""What is said of a merge, from figures that are given."""

from __future__ import annotations

import re
from math import inf, nan

import pytest
from msgspec.structs import replace

from rebasin_cli.report.measurements import ScoreRecord, VerdictRecord
from rebasin_cli.report.tiles import sentence, tone
from rebasin_cli.report.worth import judge, judge_unmeasured, noticeably_above
from tests.report.examples import INTERPOLATE
from tests.report.forms import to_markdown
from tests.report.test_forms import shown
from tests.report.test_page import MERGE


def verdict(merged: float, *, ensemble: float | None = 0.2, models: tuple[float, ...] = (0.3, 0.5)) -> VerdictRecord:
    scores = {f"model.{i}": ScoreRecord(loss, nan) for i, loss in enumerate(models, 1)}
    if ensemble is not None:
        scores["ensemble"] = ScoreRecord(ensemble, nan)
    names = list(scores)[: len(models)]
    return judge({**scores, "merged": ScoreRecord(merged, nan)}, names, [1 / len(models)] * len(models))


def test_the_share_of_the_ensembles_gain() -> None:
    found = verdict(0.276)
    assert (found.members, found.ensemble, found.loss) == (0.4, 0.2, 0.276)
    assert found.kept == pytest.approx(0.62)
    assert not found.bad
    assert found.text.startswith("keeps 62 % of what the ensemble gains over a single model")


@pytest.mark.parametrize(
    ("merged", "ensemble", "bad", "says"),
    [
        (0.51, 0.2, True, "worse than every model: do not use it"),
        (0.45, 0.2, True, "worse than its models on average: take one of them, the best has 0.300"),
        (0.35, 0.2, False, "keeps 25 %"),
        (0.35, 0.2, False, "the best model alone has 0.300"),
        (0.15, 0.2, False, "as good as the ensemble of its models, or better"),
        (0.4, 0.4, False, "as good as a single model, and the ensemble gains nothing"),
        (0.4, 0.6, False, "as good as a single model, and the ensemble gains nothing"),
        (0.4, None, False, "as good as its models on average, or better"),
        (0.51, None, True, "do not use it"),
        (nan, 0.2, True, "no finite loss: do not use it"),
        (inf, 0.2, True, "no finite loss: do not use it"),
    ],
)
def test_what_is_said(merged: float, ensemble: float | None, bad: bool, says: str) -> None:
    found = verdict(merged, ensemble=ensemble)
    assert found.bad is bad
    assert says in found.text


def test_rounding_makes_no_merge_worse() -> None:
    assert not verdict(0.3 + 1e-8, ensemble=0.3, models=(0.3, 0.3)).bad
    assert not noticeably_above(0.3 + 1e-8, 0.3)
    assert noticeably_above(0.3001, 0.3)
    assert noticeably_above(nan, 0.3)


def test_a_model_that_was_not_measured_is_told() -> None:
    found = verdict(0.4, models=(0.3, nan))
    assert found.bad
    assert "a model has no finite loss" in found.text


def test_models_count_by_their_weights() -> None:
    scores = {name: ScoreRecord(loss, nan) for name, loss in (("A", 1.0), ("B", 3.0), ("aligned", 1.4))}
    found = judge(scores, ("A", "B"), (0.75, 0.25))
    assert found.members == 1.5
    assert not found.bad


@pytest.mark.parametrize(
    ("cosines", "bad", "says"),
    [
        ((0.97,), False, "likely about as good as its models: the two have a cosine of 0.97"),
        ((0.97, 0.65), True, "which only data tell: the least alike two have a cosine of 0.65"),
        ((0.2,), True, "likely worse than every model"),
        ((nan,), True, "likely worse"),
    ],
)
def test_without_data_cosines_speak(cosines: tuple[float, ...], bad: bool, says: str) -> None:
    found = judge_unmeasured(cosines)
    assert found.bad is bad
    assert says in found.text
    assert found.loss is None
    fitted = judge_unmeasured(cosines, fitted=True)
    assert not fitted.bad
    assert ("how near it came only data tell" in fitted.text) == (cosines != (0.97,))


def test_a_merge_begins_with_what_it_is_worth() -> None:
    for loss, word in ((0.276, "good"), (0.6, "bad")):
        document = replace(MERGE, verdict=verdict(loss))
        assert sentence(document).startswith(f"{len(MERGE.merge.weights)} models merged: {verdict(loss).text}")
        assert tone(document) == word
    assert tone(replace(MERGE, verdict=judge_unmeasured((0.2,)))) == tone(MERGE)


def test_a_point_of_a_path_is_judged_below_the_path() -> None:
    document = replace(INTERPOLATE, at=0.5, verdict=verdict(0.276))
    assert sentence(document) == sentence(INTERPOLATE)
    assert re.search(r"\bmerge +keeps 62 %", shown(document))
    card = to_markdown(document)
    assert "| Loss of a model and of the merge | 0.400 → 0.276 | keeps 62 %" in card
