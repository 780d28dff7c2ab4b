"""What runs for which choice: the default's second method, and where it is left out."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.matching.options import ActivationOptions
from rebasin_cli.matching.problem import Problem, StopMatching
from rebasin_cli.pipeline import methods
from rebasin_cli.pipeline.method_choice import METHODS, NOT_OPTIONS, match_choice
from rebasin_cli.pipeline.methods import RUNS, Running, match_by_search
from rebasin_cli.spec import bind, load_spec
from tests.networks import tiny_layout, tiny_state
from tests.signed_networks import SIGNED, signed_layout, signed_state

RUNNING = Running("cpu", lambda: None, lambda *_: None)
BOTH = ["anchored, forward order", "frank-wolfe, barycentre"]


def starts(name: str, folder: Path, **choice: object) -> list[str]:
    layout, a, b = tiny_layout(name, folder), tiny_state(name, 1), tiny_state(name, 2)
    method = str(choice.pop("method", "weights"))
    result = match_by_search(Problem(layout, a, b), match_choice(method, choice), RUNNING)
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
            match_by_search(Problem(layout, a, b), match_choice(given={"quality": quality}), RUNNING).objective[-1]
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


OWNERS = {
    "start": ("identity", {"weights", "frank-wolfe", "sinkhorn"}),
    "order": ("random", {"weights", "frank-wolfe", "sinkhorn"}),
    "restarts": (3, {"weights", "frank-wolfe", "sinkhorn"}),
    "quality": ("high", {"weights", "frank-wolfe", "sinkhorn"}),
    "objective": ("midpoint", {"sinkhorn"}),
    "similarity": ("covariance", {"activations"}),
    "mix": (0.5, {"activations"}),
    "epochs": (3, {"ste"}),
    "momentum": (0.3, {"ste"}),
    "learning_rate": (0.5, {"sinkhorn", "ste"}),
}
"""A value of every option that is not its default, and the methods that read it."""


def test_every_option_of_a_method_is_in_the_table() -> None:
    known = {name for method in METHODS for name in {f.name for f in fields(method.options)} - set(NOT_OPTIONS)}
    assert known == set(OWNERS)


@pytest.mark.parametrize("name", OWNERS)
@pytest.mark.parametrize("method", ["weights", "frank-wolfe", "sinkhorn", "activations", "ste"])
def test_an_option_of_another_method_is_refused(method: str, name: str) -> None:
    value, owners = OWNERS[name]
    if method in owners:
        assert getattr(match_choice(method, {name: value}).options, name) == value
        return
    with pytest.raises(UsageError, match=f"--method {method} does not read it") as caught:
        match_choice(method, {name: value})
    assert str(caught.value).startswith(f"--{name.replace('_', '-')} {value}")
    assert caught.value.remedy is not None
    assert all(owner in caught.value.remedy for owner in owners)


@pytest.mark.parametrize("name", ["start", "order", "restarts", "quality"])
def test_a_search_by_a_loss_reads_no_start(name: str) -> None:
    value = OWNERS[name][0]
    with pytest.raises(UsageError, match="does not read it"):
        match_choice("sinkhorn", {"objective": "midpoint", name: value})
    assert match_choice("sinkhorn", {"objective": "random", "epochs": 3}).options.epochs == 3


def test_what_was_not_given_is_not_refused() -> None:
    given = {"start": None, "momentum": None, "epochs": None, "objective": None, "restarts": None}
    assert match_choice("activations", given).options == ActivationOptions()


def test_every_method_has_what_runs_it() -> None:
    assert {method.options for method in METHODS} == set(RUNS)


@pytest.mark.parametrize("options", [{}, {"quality": "fast"}, {"restarts": 3}])
@pytest.mark.parametrize("name", list(SIGNED))
def test_signs_never_stay_below_permutations(name: str, options: dict[str, object]) -> None:
    for seed in range(3):
        problem = Problem(signed_layout(name), signed_state(name, 10 + seed), signed_state(name, 20 + seed))
        choice = match_choice("weights", options)
        plain = match_by_search(problem.without_signs(), choice, RUNNING)
        found = match_by_search(problem, choice, RUNNING)
        assert not plain.permutation.has_signs
        assert found.objective[-1] >= plain.objective[-1]
        assert found.trials[0].name == "where permutations alone end"
        assert found.trials[0].objective >= plain.objective[-1]


def test_signs_keep_what_was_found_when_time_ends() -> None:
    problem = Problem(signed_layout("stream"), signed_state("stream", 1), signed_state("stream", 2))
    plain = match_by_search(problem.without_signs(), match_choice(), RUNNING)
    calls = [0]

    def check() -> None:
        calls[0] += 1
        if calls[0] > plain_calls:
            raise StopMatching("time")

    plain_calls = 10**9
    match_by_search(problem.without_signs(), match_choice(), Running("cpu", check, lambda *_: None))
    plain_calls, calls[0] = calls[0], 0
    found = match_by_search(problem, match_choice(), Running("cpu", check, lambda *_: None))
    assert found.stop == "time"
    assert found.objective[-1] >= plain.objective[-1]


def test_a_method_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="no method `weigths`") as refusal:
        match_choice("weigths")
    assert refusal.value.remedy == "did you mean `weights`?"
