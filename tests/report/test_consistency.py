"""Documents whose figures do not go together are refused; every other one has every form."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.report.codec import from_json, to_json
from rebasin_cli.report.console import to_text
from tests.report.examples import EXAMPLES, INTERPOLATE, PLANE
from tests.report.forms import to_html, to_markdown

Edit = Callable[[Any], object]
EDITS: dict[str, tuple[Edit, str]] = {
    "λ downwards": (lambda d: d["barrier"]["lambda"].reverse(), "does not ascend from 0 to 1"),
    "λ that stays": (lambda d: d["barrier"].update({"lambda": [0.5] * 9}), "does not ascend"),
    "λ above 1": (lambda d: d["barrier"]["lambda"].__setitem__(-1, 1.5), "does not ascend"),
    "λ that is null": (lambda d: d["barrier"]["lambda"].__setitem__(0, None), "got `null`, at `barrier.lambda[0]`"),
    "fewer λ": (lambda d: d["barrier"]["lambda"].pop(), "the naive curve has 9 values of loss, and `barrier.lambda` 8"),
    "no λ": (lambda d: d["barrier"]["lambda"].clear(), "`barrier.lambda` is empty"),
    "fewer losses": (lambda d: d["barrier"]["aligned"]["loss"].pop(), "the aligned curve has 8 values of loss"),
    "no accuracy": (lambda d: d["barrier"]["naive"]["accuracy"].clear(), "has 0 values of accuracy"),
    "a metric cut short": (lambda d: d["barrier"]["naive"].update(metrics={"f1": [1.0]}), "has 1 values of f1"),
    "a loss beyond drawing": (lambda d: d["barrier"]["naive"]["loss"].__setitem__(0, -1e308), "above 1e+100"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_figures_that_do_not_go_together(name: str) -> None:
    edit, says = EDITS[name]
    document = json.loads(to_json(INTERPOLATE))
    edit(document)
    with pytest.raises(ContentError, match="not a run document") as caught:
        from_json(json.dumps(document), "run.json")
    assert says in caught.value.what


PLANES: dict[str, tuple[Edit, str]] = {
    "x that stays": (lambda plane: plane["x"].__setitem__(1, -1.0), "`plane.x` does not ascend"),
    "one y": (lambda plane: plane.update(y=[0.0]), "`plane.y` does not ascend"),
    "an x beyond drawing": (lambda plane: plane["x"].__setitem__(2, 1e200), "`plane.x` has a value above"),
    "fewer rows": (lambda plane: plane["loss"].pop(), "`plane.loss` has not a row for each y"),
    "a short row": (lambda plane: plane["accuracy"][0].pop(), "`plane.accuracy` has not a row"),
    "a loss beyond drawing": (lambda plane: plane["loss"][0].__setitem__(0, 1e200), "`plane.loss` has a value above"),
    "a corner beyond drawing": (lambda plane: plane["points"]["A"].update(x=1e200), "`plane.points` has a value"),
}


@pytest.mark.parametrize("name", PLANES)
def test_planes_that_do_not_go_together(name: str) -> None:
    edit, says = PLANES[name]
    document = json.loads(to_json(PLANE))
    edit(document["plane"])
    with pytest.raises(ContentError, match="not a run document") as caught:
        from_json(json.dumps(document), "run.json")
    assert says in caught.value.what


def test_a_merge_without_pairs_models_or_mean() -> None:
    merge = {
        "algorithm": "x", "method": "weights", "weights": [1.0], "seed": 0, "objective": [], "stop": "", "seconds": 0.0,
        "matches": 0, "pairs": [], "moved": [], "data": "",
    }  # fmt: skip
    pair = {"first": "a", "second": "b", "before": 1.0, "after": 1.0, "naive": None, "aligned": None}
    score = {"loss": 1.0, "accuracy": 1.0, "metrics": {}}
    without_mean = {"merged": score, "model.a": score, "model.b": score}
    for given, says in (
        ({}, "pairs"),
        ({"pairs": [pair], "scores": {"merged": score}}, "scores"),
        ({"pairs": [pair], "scores": without_mean}, "scores"),
    ):
        document = {**json.loads(to_json(INTERPOLATE)), "barrier": None, "merge": {**merge, **given}}
        with pytest.raises(ContentError, match=says):
            from_json(json.dumps(document), "run.json")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_read_has_every_form(seed: int) -> None:
    """One value replaced, again and again: what is no document any more is told, all else is shown."""
    chosen = random.Random(seed)
    values = (None, -1, 0, 1e308, -1e308, 1e-320, 2**62, "", "x", [], {}, True, [None], [1.0] * 9, ["x"], {"x": {}})
    for example in EXAMPLES.values():
        text = to_json(example)
        places = list(_places(json.loads(text)))
        for _ in range(40):
            document = holder = json.loads(text)
            *steps, last = chosen.choice(places)
            for step in steps:
                holder = holder[step]
            holder[last] = chosen.choice(values)
            try:
                read = from_json(json.dumps(document), "run.json")
            except ContentError:
                continue
            for form in (to_text, to_html, to_markdown, to_json):
                assert form(read), (steps, last, holder[last])


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*place, key)
        yield from _places(inner, (*place, key))
