"""What `--metric` measures, against scikit-learn and against definitions written out in full."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, top_k_accuracy_score
from torch import Tensor, nn

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import Judging, evaluate
from rebasin_cli.evaluation.metrics import METRICS, find_metrics
from rebasin_cli.evaluation.scores import Scores
from tests.evaluation.building import network_for, randomise
from tests.small import run

CLASSES = 9


def examples() -> tuple[dict[str, Tensor], Dataset, Tensor]:
    """A network, examples of 7 of its 9 classes, and its logits."""
    module = randomise(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, CLASSES)))
    generator = torch.Generator().manual_seed(3)
    inputs = torch.rand(83, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        logits = module(inputs)
    noise = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    targets = (logits + noise)[:, :7].argmax(1)  # right sometimes
    return dict(module.state_dict()), Dataset(inputs, targets, "random"), logits


def measured(*names: str, batch_size: int = 512) -> Scores:
    state, data, _ = examples()
    return evaluate(network_for("mlp", state), state, data, Judging(batch_size=batch_size, metrics=find_metrics(names)))


def test_macro_f1_and_top5_are_those_of_scikit_learn() -> None:
    _, data, logits = examples()
    found = measured("macro-f1", "top5").metrics
    answers = logits.argmax(1)
    assert 0 < found["macro-f1"] < found["top5"] < 1
    assert found["macro-f1"] == pytest.approx(f1_score(data.targets, answers, average="macro"), rel=1e-12)
    wanted = top_k_accuracy_score(data.targets, logits, k=5, labels=range(CLASSES))
    assert found["top5"] == pytest.approx(wanted, rel=1e-12)


def test_calibration_error_is_the_one_defined() -> None:
    _, data, logits = examples()
    confidence, answers = (t.numpy() for t in logits.softmax(1).max(1))
    right = answers == data.targets.numpy()
    wanted = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            wanted += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert wanted > 0.01
    assert measured("calibration-error").metrics["calibration-error"] == pytest.approx(wanted, rel=1e-9)


def test_reliability_sorts_answers_by_confidence() -> None:
    _, data, logits = examples()
    scores = measured("calibration-error", batch_size=10)
    bins = scores.reliability
    assert sum(each.count for each in bins) == len(data)
    confidence = logits.softmax(1).max(1).values
    assert sum(b.count * b.confidence for b in bins) / len(data) == pytest.approx(float(confidence.mean()))
    assert sum(b.count * b.accuracy for b in bins) / len(data) == pytest.approx(scores.accuracy)
    error = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / len(data)
    assert error == pytest.approx(scores.metrics["calibration-error"])
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)
    assert measured("top5").reliability == ()


def test_perplexity_is_the_exponential_of_the_loss() -> None:
    scores = measured("perplexity")
    assert scores.metrics == {"perplexity": pytest.approx(math.exp(scores.loss))}


@pytest.mark.parametrize("name", METRICS)
def test_the_batch_size_changes_nothing(name: str) -> None:
    assert measured(name, batch_size=7).metrics == pytest.approx(measured(name).metrics, rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_what_is_no_question_does_not_count(name: str) -> None:
    """Tokens without an answer, here two in three, beside those of a classifier."""
    _, data, logits = examples()
    plain, spread = (make() for make in find_metrics((name, name)) * 2)
    plain.add(logits, data.targets)
    targets = torch.full((83, 3), -100)
    targets[:, 1] = data.targets
    others = torch.randn(83, 3, CLASSES, dtype=torch.float64)
    others[:, 1] = logits
    spread.add(others, targets)
    assert spread.values(0.5) == pytest.approx(plain.values(0.5), rel=1e-12)


def test_an_example_without_an_answer_is_wrong() -> None:
    logits = torch.eye(6, dtype=torch.float64)
    logits[0] = math.nan
    found = {}
    for make in find_metrics(("top5", "macro-f1", "calibration-error")):
        metric = make()
        metric.add(logits, torch.arange(6))
        found |= metric.values(1.0)
    assert found["top5"] == pytest.approx(5 / 6)
    assert found["macro-f1"] == pytest.approx(5 / 6)
    assert math.isnan(found["calibration-error"])


def test_top5_of_five_classes_is_refused() -> None:
    with pytest.raises(ContentError, match="is 1 for every network with 5 classes"):
        find_metrics(("top5",))[0]().add(torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("name", ["macro_f1", "f1", "absent:f", "math:absent", "math:pi"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_metrics((name,))
    assert name in caught.value.what


OWN = """
def doubled(outputs, targets):
    return {"first": outputs[:, 0].mean(), "size": float(len(targets))}
def mean(outputs, targets):
    assert outputs.dtype.is_floating_point
    return (outputs.argmax(1) == targets).float().mean()
def accuracy(outputs, targets):
    return 1
def words(outputs, targets):
    return "good"
def raises(outputs, targets):
    raise RuntimeError("no such thing")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metrics.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)


@pytest.mark.usefixtures("own")
def test_a_function_of_ones_own_is_averaged_over_examples() -> None:
    _, _, logits = examples()
    scores = measured("own_metrics:mean", "own_metrics:doubled", batch_size=50)  # batches of 50 and 33
    assert scores.metrics["mean"] == pytest.approx(scores.accuracy, rel=1e-6)
    assert scores.metrics["first"] == pytest.approx(logits[:, 0].mean().item())
    assert scores.metrics["size"] == pytest.approx((50 * 50 + 33 * 33) / 83)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "words"),
    [("accuracy", "two figures are called `accuracy`"), ("words", "`words` is a str"), ("raises", "no such thing")],
)
def test_a_function_of_ones_own_that_will_not_do(name: str, words: str) -> None:
    with pytest.raises(ContentError, match=words):
        measured(f"own_metrics:{name}")


def test_every_name_is_in_the_help(tmp_path: Path) -> None:
    for command in ("interpolate", "merge"):
        shown = run(command, "--help", cwd=tmp_path, COLUMNS="200").stdout.decode()
        assert all(name in shown for name in METRICS), command
