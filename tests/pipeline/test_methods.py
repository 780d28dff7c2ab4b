"""What runs for which choice: the default's second method, and where it is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.pipeline import methods
from rebasin_cli.pipeline.methods import MatchChoice, Running, match_states
from tests.networks import tiny_layout, tiny_state

RUNNING = Running("cpu", lambda: None, lambda *_: None)
BOTH = ["anchored, forward order", "frank-wolfe, barycentre"]


def starts(name: str, folder: Path, **choice: object) -> list[str]:
    layout, a, b = tiny_layout(name, folder), tiny_state(name, 1), tiny_state(name, 2)
    result = match_states(layout, a, b, MatchChoice(**choice), RUNNING)  # type: ignore[arg-type]
    return [trial.name for trial in result.trials]


@pytest.mark.parametrize("name", ["chain", "residual", "recurrent", "tied"])
def test_the_default_has_frank_wolfe_beside_the_descent(name: str, tmp_path: Path) -> None:
    assert starts(name, tmp_path) == BOTH


@pytest.mark.parametrize("name", ["heads", "groups", "experts"])
def test_not_where_something_would_be_solved_twice(name: str, tmp_path: Path) -> None:
    assert starts(name, tmp_path) == []


@pytest.mark.parametrize(
    "choice", [{"quality": "fast"}, {"restarts": 1}, {"start": "identity"}, {"order": "random"}], ids=str
)
def test_not_where_something_else_was_asked_for(choice: dict[str, object], tmp_path: Path) -> None:
    assert starts("chain", tmp_path, **choice) == []


def test_not_where_it_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "CHEAP", 10)
    assert starts("chain", tmp_path) == []
    assert "sinkhorn, barycentre" not in starts("chain", tmp_path, quality="high")
    assert starts("chain", tmp_path, method="sinkhorn") == ["anchored, forward order", "sinkhorn, barycentre"]


@pytest.mark.parametrize("method", ["frank-wolfe", "sinkhorn"])
def test_a_method_that_can_move_nothing_says_so(method: str, tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="none can move so"):
        starts("groups", tmp_path, method=method)
