"""What runs for which choice: the default's second method, and where it is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rebasin_cli.errors import ContentError
from rebasin_cli.pipeline import methods
from rebasin_cli.pipeline.methods import MatchChoice, Running, match_states
from rebasin_cli.spec import bind, load_spec
from tests.networks import tiny_layout, tiny_state

RUNNING = Running("cpu", lambda: None, lambda *_: None)
BOTH = ["anchored, forward order", "frank-wolfe, barycentre"]


def starts(name: str, folder: Path, **choice: object) -> list[str]:
    layout, a, b = tiny_layout(name, folder), tiny_state(name, 1), tiny_state(name, 2)
    result = match_states(layout, a, b, MatchChoice(**choice), RUNNING)  # type: ignore[arg-type]
    return [trial.name for trial in result.trials]


@pytest.mark.parametrize("name", ["chain", "residual", "recurrent", "tied", "heads", "experts"])
def test_the_default_has_frank_wolfe_beside_the_descent(name: str, tmp_path: Path) -> None:
    assert starts(name, tmp_path) == BOTH


def test_not_where_no_dims_can_move_together(tmp_path: Path) -> None:
    assert starts("groups", tmp_path) == []


BLOCK = """
sizes:
  width: [3]
dims:
  v: within head
tensors:
  "{q,k}": (head _:width) s
  v: (head v) s
  o: s (head v)
  up.{i}: m.{i} s
  down.{i}: s m.{i}
  out: _ s
"""
SHAPES = {
    "q": (6, 8), "k": (6, 8), "v": (8, 8), "o": (8, 8), "up.0": (9, 8), "down.0": (8, 9), "up.1": (9, 8),
    "down.1": (8, 9), "out": (3, 8),
}  # fmt: skip


def test_a_transformer_gets_more_than_a_descent(tmp_path: Path) -> None:
    (tmp_path / "block.yaml").write_text(BLOCK)
    layout = bind(load_spec(tmp_path / "block.yaml"), SHAPES)
    gains = []
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        a, b = ({k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in SHAPES.items()} for _ in "ab")
        fast, default = (
            match_states(layout, a, b, MatchChoice(quality=quality), RUNNING).objective[-1]
            for quality in ("fast", "default")
        )
        gains.append(default - fast)
    assert min(gains) >= 0
    assert sum(gain > 1 for gain in gains) > 4


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
