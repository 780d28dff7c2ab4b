"""What a merge is worth: the line that is said, and the gates that it can be held to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Rebasin
from tests.cli.test_merge import EVALUATE, JUDGE
from tests.small import mlp_state, save

MERGE = ("merge", "a.safetensors", "b.safetensors", "-o", "m.safetensors", "--force")
STRANGERS = ("a.safetensors", "c.safetensors")
AT = ("interpolate", *STRANGERS, "--at", 0.5, "-o", "m.safetensors", "--steps", 3, "--force")


@pytest.fixture
def three(pair: Path) -> Path:
    """A, B (A shuffled), and a stranger C."""
    save(pair / "c.safetensors", mlp_state(4))
    return pair


def test_one_network_in_two_orders_is_as_good(rebasin: Rebasin, three: Path) -> None:
    done = rebasin(*MERGE, "--data", "data.npz", "--at-least-as-good", "--max-loss", 10)
    assert done.code == 0, done.err
    verdict = done.document["verdict"]
    assert (verdict["basis"], verdict["bad"]) == ("losses", False)
    assert verdict["loss"] == pytest.approx(verdict["members"], abs=1e-6)
    assert "note: verdict: as good as a single model, and the ensemble gains nothing over one" in done.err
    shown = rebasin("report", "--markdown", "-", stdin=done.out.encode()).out
    assert verdict["text"] in shown


def test_a_bad_merge_is_a_warning_and_fails_gates(rebasin: Rebasin, three: Path) -> None:
    call = ("merge", *STRANGERS, "-o", "m.safetensors", "--force", "--data", "data.npz")
    done = rebasin(*call)
    assert done.code == 0, done.err
    scores, verdict = done.document["merge"]["scores"], done.document["verdict"]
    assert list(scores) == ["model.1", "model.2", "ensemble", "naive average", "merged"]
    assert verdict["ensemble"] == scores["ensemble"]["loss"]
    assert verdict["members"] == pytest.approx((scores["model.1"]["loss"] + scores["model.2"]["loss"]) / 2)
    assert any(text == f"verdict: {verdict['text']}" for text in done.document["warnings"]) == verdict["bad"]
    limited = rebasin(*call, "--max-loss", verdict["loss"] * 0.9)
    assert limited.code == 1
    assert "above --max-loss" in limited.err
    assert Path("m.safetensors").exists()
    assert rebasin(*call, "--max-loss", verdict["loss"] * 1.1).code == 0
    assert rebasin(*call, "--at-least-as-good").code == (1 if verdict["loss"] > verdict["members"] else 0)


def test_a_terminal_is_told_the_verdict_once(rebasin: Rebasin, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = rebasin(
        "merge", *STRANGERS, "-o", "m.safetensors", "--data", "data.npz", "--format", "text", "--color", "never"
    )
    document = json.loads(Path("m.rebasin.json").read_text())
    assert "verdict" not in done.err
    assert " ".join(done.out.split()).count(document["verdict"]["text"]) == 1
    said = f"verdict: {document['verdict']['text']}" in document["warnings"]
    assert said == document["verdict"]["bad"]


def test_a_plain_mean_that_is_worse_than_every_model(rebasin: Rebasin, three: Path) -> None:
    """A and itself shuffled, left in their orders: the mean of the two answers otherwise than both."""
    call = ("interpolate", "a.safetensors", "b.safetensors", "--no-align", "--at", 0.5, "-o", "m.safetensors")
    done = rebasin(*call, "--data", "data.npz", "--steps", 3, "--at-least-as-good")
    assert done.code == 1
    assert "verdict: worse than every model: do not use it" in done.err
    assert "it is not --at-least-as-good" in done.err
    verdict = done.document["verdict"]
    assert verdict["bad"]
    assert "kept" not in verdict  # two models that are one gain nothing together
    assert done.document["warnings"][-1] == f"verdict: {verdict['text']}"


def test_a_point_of_a_path_has_a_verdict(rebasin: Rebasin, three: Path) -> None:
    done = rebasin(*AT, "--data", "data.npz")
    assert done.code == 0, done.err
    verdict, barrier = done.document["verdict"], done.document["barrier"]
    scores = verdict["scores"]
    assert list(scores) == ["A", "B", "ensemble", "naive", "aligned"]
    assert scores["aligned"]["loss"] == barrier["aligned"]["loss"][1] == verdict["loss"]
    assert scores["naive"]["loss"] == barrier["naive"]["loss"][1]
    assert "## Worth" in rebasin("report", "--markdown", "-", stdin=done.out.encode()).out
    assert rebasin(*AT, "--data", "data.npz", "--max-loss", 0).code == 1
    off = rebasin(*AT[:4], 0.3, *AT[5:], "--data", "data.npz")
    assert off.document["verdict"]["loss"] not in barrier["aligned"]["loss"]
    end = rebasin(*AT[:4], 1, *AT[5:], "--data", "data.npz")
    assert "verdict" not in end.document
    path = rebasin("interpolate", *STRANGERS, "--data", "data.npz", "--steps", 3)
    assert "verdict" not in path.document


def test_without_data_cosines_give_the_verdict(rebasin: Rebasin, three: Path) -> None:
    alike = rebasin(*MERGE)
    assert alike.document["verdict"]["cosine"] == pytest.approx(1)
    assert not alike.document["verdict"]["bad"]
    apart = rebasin(*AT)
    assert apart.document["verdict"]["cosine"] == pytest.approx(apart.document["distance"]["cosine_after"])
    assert "warning: verdict: not measured, likely worse than every model" in apart.err


def test_a_command_gives_a_verdict_without_an_ensemble(rebasin: Rebasin, three: Path) -> None:
    (three / "eval.py").write_text(EVALUATE)
    done = rebasin(*MERGE, "--eval-command", JUDGE, "--steps", 3)
    assert done.code == 0, done.err
    assert "ensemble" not in done.document["merge"]["scores"]
    assert "ensemble" not in done.document["verdict"]
    assert "as good as its models on average" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*MERGE, "--max-loss", 1), "--max-loss runs a network on examples, and without data there are none"),
        ((*MERGE, "--at-least-as-good"), "add --data FILE"),
        (("interpolate", *STRANGERS, "--data", "data.npz", "--max-loss", 1), "add --at LAM -o FILE"),
    ],
)
def test_gates_need_a_merge_and_its_loss(
    rebasin: Rebasin, three: Path, arguments: tuple[object, ...], says: str
) -> None:
    done = rebasin(*arguments)
    assert done.code == 2
    assert says in done.err
