"""Losses on answers of every kind, against torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.compatibility import fitting_loss
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import Judging, evaluate
from rebasin_cli.evaluation.inputs import Inputs
from rebasin_cli.evaluation.networks.module_network import ModuleNetwork
from rebasin_cli.evaluation.scores import Scores


class Answering(nn.Module):
    """Linear in its one input, with what is made of the answers said by a function."""

    def __init__(self, width: int, answers: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, width)
        self.answers = answers

    def forward(self, x: Tensor) -> Any:
        return self.answers(self.linear(x))


def scored(module: nn.Module, inputs: Inputs, targets: Tensor, name: str | None = None, size: int = 7) -> Scores:
    state = {key: tensor.detach().double() for key, tensor in module.state_dict().items()}
    network = ModuleNetwork("mine", module, {key: tuple(t.shape) for key, t in state.items()}, "")
    data = Dataset(inputs, targets, "random")
    return evaluate(network, state, data, Judging(loss=fitting_loss(name, network, state, data), batch_size=size))


def answers_of(module: nn.Module, *inputs: Any) -> Any:
    with torch.no_grad():
        return module.double()(*inputs)


INPUTS = torch.randn(29, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)  # 29 = 4 · 7 + 1
NUMBERS = torch.randn(29, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
LABELS = torch.randint(4, (29, 3), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", [None, "mse", "mae"])
@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 3, 2)])
def test_numbers_are_compared_one_by_one(name: str | None, shape: tuple[int, ...]) -> None:
    module = Answering(12, lambda x: x.reshape(-1, *shape))
    found = scored(module, INPUTS, NUMBERS.reshape(29, *shape), name)
    wanted = F.l1_loss if name == "mae" else F.mse_loss
    assert found.loss == pytest.approx(wanted(answers_of(module, INPUTS).reshape(29, 12), NUMBERS).item(), rel=1e-12)
    assert math.isnan(found.accuracy)


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x[:, 0], lambda x: x.squeeze()], ids=["(N, 1)", "(N,)", "()"])
@pytest.mark.parametrize("shape", [(29,), (29, 1)])
def test_one_number_an_example_has_one_axis_or_two(make: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    """Broadcasting (29, 1) against (29,) would compare everything with everything."""
    module = Answering(1, make)
    wanted = F.mse_loss(answers_of(module, INPUTS).reshape(29), NUMBERS[:, 0]).item()
    assert scored(module, INPUTS, NUMBERS[:, 0].reshape(shape)).loss == pytest.approx(wanted, rel=1e-12)


def test_integers_are_compared_as_numbers_if_that_is_said() -> None:
    module = Answering(3, lambda x: x)
    wanted = F.mse_loss(answers_of(module, INPUTS), LABELS.double()).item()
    assert scored(module, INPUTS, LABELS, "mse").loss == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("positions", [(3,), (3, 1), (1, 3)])
def test_a_label_for_every_position(first: bool, positions: tuple[int, ...]) -> None:
    """Classes last, as language models have them, or first, as segmentation does; some positions without an answer."""
    labels = LABELS.reshape(29, *positions).clone()
    labels[::3] = -100

    def make(x: Tensor) -> Tensor:
        x = x.reshape(-1, *positions, 4)
        return x.movedim(-1, 1) if first else x

    module = Answering(12, make)
    logits = answers_of(module, INPUTS).reshape(29, 4, 3).movedim(1, -1) if first else answers_of(module, INPUTS)
    logits, flat = logits.reshape(-1, 4), labels.flatten()
    found = scored(module, INPUTS, labels)
    assert found.loss == pytest.approx(F.cross_entropy(logits, flat).item(), rel=1e-12)
    assert found.accuracy == pytest.approx((logits.argmax(1) == flat)[flat >= 0].double().mean().item(), rel=1e-12)


class Pair(NamedTuple):
    answer: Tensor
    extra: Tensor


@dataclass
class Object:
    answer: Tensor
    extra: Tensor


@dataclass
class WithLogits:
    extra: Tensor
    logits: Tensor


SHAPES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "tensor": (lambda x: x, ""),
    "logits": (lambda x: WithLogits(x.mean(), x), ""),
    "dict of logits": (lambda x: {"loss": x.mean(), "logits": x}, ""),
    "dict": (lambda x: {"answer": x, "extra": x.mean()}, "`answer` is judged, extra are not"),
    "dataclass": (lambda x: Object(x, x.mean()), "`answer` is judged, extra are not"),
    "named tuple": (lambda x: Pair(x, x.mean()), "`answer` is judged, extra are not"),
    "nested": (lambda x: ([x], {"more": x.mean()}), "`0.0` is judged, 1.more are not"),
    "alone": (lambda x: [x], ""),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_answer_among_the_outputs(case: str) -> None:
    make, note = SHAPES[case]
    module = Answering(12, make)
    assert scored(module, INPUTS, NUMBERS).loss == scored(Answering(12, lambda x: x), INPUTS, NUMBERS).loss
    state = dict(module.state_dict())
    network = ModuleNetwork("mine", module, {key: tuple(t.shape) for key, t in state.items()}, "")
    notes = fitting_loss(None, network, state, Dataset(INPUTS, NUMBERS, "random")).notes
    assert [text.rpartition(": ")[2] for text in notes] == [note][: bool(note)]


def test_outputs_without_a_tensor() -> None:
    with pytest.raises(ContentError, match="mine returned dict, which holds no logits"):
        scored(Answering(12, lambda x: {"a": 3.0}), INPUTS, NUMBERS)


def test_what_the_shapes_do_not_tell_is_said() -> None:
    module = Answering(9, lambda x: x.reshape(-1, 3, 3))
    state = dict(module.state_dict())
    network = ModuleNetwork("mine", module, {key: tuple(t.shape) for key, t in state.items()}, "")
    loss = fitting_loss(None, network, state, Dataset(INPUTS, LABELS % 3, "random"))
    assert loss.notes == ("classes are taken for axis -1 of (2, 3, 3), which the shapes do not tell",)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(6, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        answers: Tensor = self.one(x) * self.two(y)
        return answers


class Whole(Two):
    def forward(self, batch: Any) -> Tensor:  # type: ignore[override]
        return super().forward(*(batch.values() if isinstance(batch, dict) else batch))


@pytest.mark.parametrize("kind", [Two, Whole])
@pytest.mark.parametrize("named", [False, True])
def test_several_inputs_reach_the_forward(kind: type[Two], named: bool) -> None:
    module, more = kind(), NUMBERS[:, :2]
    inputs: Inputs = {"x": INPUTS, "y": more} if named else (INPUTS, more)
    wanted = F.mse_loss(answers_of(Two(), INPUTS, more), NUMBERS[:, :3]).item()
    assert scored(module, inputs, NUMBERS[:, :3]).loss == pytest.approx(wanted, rel=1e-12)


def test_names_that_a_forward_does_not_take() -> None:
    with pytest.raises(ContentError, match=r"`inputs.x` of shape \(29, 6\), `inputs.z` of shape .*unexpected keyword"):
        scored(Two(), {"x": INPUTS, "z": NUMBERS[:, :2]}, NUMBERS[:, :3])


OWN = """
import torch
def huber(outputs, targets):
    return torch.nn.functional.huber_loss(outputs["mean"], targets, delta=0.5)
def smooth(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)
def each(outputs, targets):
    return (outputs["mean"] - targets).square()
def word(outputs, targets):
    return "good"
def breaks(outputs, targets):
    raise KeyError("scale")
def number(outputs, targets):
    return float((outputs["mean"] - targets).abs().mean())
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_losses.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_losses", raising=False)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["huber", "number"])
def test_a_function_of_ones_own_gets_the_outputs_whole(name: str) -> None:
    module = Answering(12, lambda x: {"scale": x.exp(), "mean": x})
    answers = answers_of(module, INPUTS)["mean"]
    wanted = F.huber_loss(answers, NUMBERS, delta=0.5) if name == "huber" else F.l1_loss(answers, NUMBERS)
    found = scored(module, INPUTS, NUMBERS, f"own_losses:{name}")
    assert found.loss == pytest.approx(wanted.item(), rel=1e-12)
    assert math.isnan(found.accuracy)


@pytest.mark.usefixtures("own")
def test_classes_have_an_accuracy_beside_a_loss_of_ones_own() -> None:
    module, labels = Answering(4, lambda x: x), LABELS[:, 0]
    found = scored(module, INPUTS, labels, "own_losses:smooth")
    plain = scored(module, INPUTS, labels)
    assert found.accuracy == plain.accuracy
    assert found.loss != plain.loss


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "words"),
    [("each", r"returned a tensor of shape \(2, 12\)"), ("word", "returned str"), ("breaks", "KeyError: 'scale'")],
)
def test_a_function_of_ones_own_that_will_not_do(name: str, words: str) -> None:
    with pytest.raises(ContentError, match=words):
        scored(Answering(12, lambda x: {"mean": x}), INPUTS, NUMBERS, f"own_losses:{name}")
