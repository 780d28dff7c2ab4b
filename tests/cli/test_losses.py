"""Targets of every kind, several inputs and every loss, with networks of one's own and by real processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.cli.conftest import Rebasin
from tests.small import READER, run, save, save_pair

NETWORKS = """
import torch
from torch import nn

class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.ModuleList([nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3)])
    def forward(self, x):
        for layer in self.fc[:-1]:
            x = torch.relu(layer(x))
        return self.fc[-1](x)

class Segmentation(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)])
        self.head = nn.Conv2d(8, 5, 1)
    def forward(self, x):
        for layer in self.features:
            x = torch.relu(layer(x))
        return {"out": self.head(x), "aux": x.mean()}

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(4, 8)
        self.out = nn.Linear(8, 4)
    def forward(self, x, other):
        return self.out(torch.relu(self.left(x) + self.right(other)))

class Gaussian(Regression):
    def forward(self, x):
        answers = super().forward(x)
        return {"mean": answers[:, :1], "scale": answers[:, 1:2]}

def make(kind):
    def factory(state):
        module = kind()
        module.load_state_dict(state)
        return module
    return factory

regression, segmentation, two, gaussian = map(make, (Regression, Segmentation, Two, Gaussian))

def pairs():
    generator = torch.Generator().manual_seed(1)
    for count in (20, 20, 7):
        x, y = torch.randn(count, 6, generator=generator), torch.randn(count, 4, generator=generator)
        yield {"x": x, "other": y.numpy()}, torch.randint(4, (count,), generator=generator)

def places():
    batches = list(pairs())
    return tuple(torch.cat([torch.as_tensor(b[0][name]) for b in batches]) for name in ("x", "other")), torch.cat([
        b[1] for b in batches])

def triples():
    return [(torch.zeros(2, 6), torch.zeros(2, 4), torch.zeros(2))]

def likelihood(outputs, targets):
    return nn.functional.gaussian_nll_loss(outputs["mean"][:, 0], targets, outputs["scale"].exp()[:, 0])

def stiff(outputs, targets):
    return float((outputs - targets).square().mean())

def silent(outputs, targets):
    return (outputs - targets).square().mean() * float("nan")
"""
SPEC = """
name: two
tensors:
  "{left,right}.weight": h _
  "{left,right}.bias": h
  out.weight: _ h
  out.bias: _
"""
SHAPES = {
    "regression": {"fc.0": (8, 12), "fc.1": (8, 8), "fc.2": (3, 8)},
    "segmentation": {"features.0": (8, 3, 3, 3), "features.1": (8, 8, 3, 3), "head": (5, 8, 1, 1)},
    "two": {"left": (8, 6), "right": (8, 4), "out": (4, 8)},
}
ARCHES = {"segmentation": "seg.yaml", "two": "two.yaml"}


def state(kind: str, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in SHAPES[kind].items():
        found[f"{name}.weight"] = torch.randn(shape, generator=generator) / 3
        found[f"{name}.bias"] = torch.randn(shape[0], generator=generator) / 3
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(NETWORKS)
    (tmp_path / "two.yaml").write_text(SPEC)
    (tmp_path / "seg.yaml").write_text(
        "name: seg\ntensors:\n  features.0.weight: a _ _ _\n  features.0.bias: a\n  features.1.weight: b a _ _\n"
        "  features.1.bias: b\n  head.weight: _ b _ _\n  head.bias: _\n"
    )
    for kind in SHAPES:
        for seed, name in enumerate("abc"):
            save(tmp_path / f"{kind}.{name}.safetensors", state(kind, seed))
    random = np.random.default_rng(0)
    inputs = random.standard_normal((47, 12)).astype(np.float32)
    np.savez(tmp_path / "numbers.npz", inputs=inputs, targets=random.standard_normal((47, 3)))
    np.savez(tmp_path / "single.npz", inputs=inputs, targets=random.standard_normal(47).astype(np.float32))
    np.savez(tmp_path / "labels.npz", inputs=inputs, targets=np.arange(47) % 3)
    masks = random.integers(0, 5, (9, 6, 7))
    masks[:, 0] = -100
    np.savez(tmp_path / "masks.npz", inputs=random.standard_normal((9, 3, 6, 7)).astype(np.float32), targets=masks)
    return tmp_path


def path(kind: str, *arguments: object) -> tuple[object, ...]:
    arch = ("--arch", ARCHES[kind]) if kind in ARCHES else ()
    return ("interpolate", f"{kind}.a.safetensors", f"{kind}.b.safetensors", "--steps", 3, *arch, *arguments)


def document(folder: Path, *arguments: object) -> Any:
    done = run(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def answers(state: dict[str, Tensor], inputs: Tensor) -> Tensor:
    for layer in range(3):
        inputs = inputs @ state[f"fc.{layer}.weight"].T + state[f"fc.{layer}.bias"]
        inputs = inputs.relu() if layer < 2 else inputs
    return inputs


@pytest.mark.parametrize("network", [(), ("--network", "mine:regression")], ids=["shipped", "own"])
@pytest.mark.parametrize("loss", [None, "mse", "mae"])
def test_regression(folder: Path, network: tuple[str, ...], loss: str | None) -> None:
    chosen = ("--loss", loss) if loss else ()
    done = run(*path("regression", "--data", "numbers.npz", *network, *chosen, "--plot", "p.png"), cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    assert ("the targets are floats, so the loss is the mean squared error" in done.stderr.decode()) == (loss is None)
    barrier = json.loads(done.stdout)["barrier"]
    data = np.load(folder / "numbers.npz")
    for end, name in ((0, "a"), (2, "b")):
        found = answers(load_file(folder / f"regression.{name}.safetensors"), torch.from_numpy(data["inputs"]))
        difference = found.double() - torch.from_numpy(data["targets"])
        wanted = difference.abs().mean() if loss == "mae" else difference.square().mean()
        for curve in ("naive", "aligned"):
            assert barrier[curve]["loss"][end] == pytest.approx(float(wanted), rel=1e-5)
    assert barrier["naive"]["accuracy"] == [None] * 3
    assert barrier["unit"] == f"mean {'absolute' if loss == 'mae' else 'squared'} error per example"
    for form in ("--text", "--markdown", "--html"):
        shown = run("report", form, "-", cwd=folder, stdin=done.stdout).stdout.decode()
        assert barrier["unit"] in shown
        assert "nan" not in shown.replace("mean", "")
        assert "ccuracy" not in shown


def test_segmentation(folder: Path) -> None:
    done = run(*path("segmentation", "--data", "masks.npz", "--network", "mine:segmentation"), cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    assert "`out` is judged, aux are not" in done.stderr.decode()
    barrier = json.loads(done.stdout)["barrier"]
    assert barrier["unit"] == "nats per position"
    weights = load_file(folder / "segmentation.b.safetensors")
    data = np.load(folder / "masks.npz")
    x, targets = (torch.from_numpy(data[name]) for name in ("inputs", "targets"))
    for name, padding in (("features.0", 1), ("features.1", 1), ("head", 0)):
        x = torch.nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)
        x = x if name == "head" else x.relu()
    wanted = torch.nn.functional.cross_entropy(x, targets)
    right = (x.argmax(1) == targets)[targets >= 0].float().mean()
    for curve in ("naive", "aligned"):
        assert barrier[curve]["loss"][2] == pytest.approx(float(wanted), rel=1e-5)
        assert barrier[curve]["accuracy"][2] == pytest.approx(float(right), rel=1e-6)


def test_several_inputs_by_name_by_place_and_from_a_file(folder: Path) -> None:
    call = path("two", "--network", "mine:two", "--data")
    named = document(folder, *call, "mine:pairs")["barrier"]
    placed = document(folder, *call, "mine:places")["barrier"]
    assert named["naive"]["loss"] == pytest.approx(placed["naive"]["loss"], rel=1e-6)
    assert (named["examples"], named.get("unit", "")) == (47, "")
    random = np.random.default_rng(3)
    x, other = random.standard_normal((30, 6)), random.standard_normal((30, 4))
    np.savez(folder / "d.npz", **{"inputs.other": other, "inputs.x": x, "targets": np.arange(30) % 4})
    found = document(folder, *call, "d.npz")["barrier"]
    weights = {key: tensor.double() for key, tensor in load_file(folder / "two.b.safetensors").items()}
    hidden = torch.from_numpy(x) @ weights["left.weight"].T + weights["left.bias"] + weights["right.bias"]
    hidden = (hidden + torch.from_numpy(other) @ weights["right.weight"].T).relu()
    logits = hidden @ weights["out.weight"].T + weights["out.bias"]
    wanted = float(torch.nn.functional.cross_entropy(logits, torch.arange(30) % 4))
    assert found["aligned"]["loss"][2] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    "method", [("activations",), ("ste",), ("sinkhorn", "--objective", "midpoint")], ids=lambda m: m[0]
)
@pytest.mark.parametrize("kind", ["regression", "two"])
def test_methods_that_look_at_such_data(folder: Path, method: tuple[str, ...], kind: str) -> None:
    data = "numbers.npz" if kind == "regression" else "mine:pairs"
    call = path(kind, "--network", f"mine:{kind}", "--data", data, "--method", *method)
    found = document(folder, *call, *(() if method[0] == "activations" else ("--epochs", 2)))
    assert found["match"]["method"] == method[0]
    barrier = found["barrier"]
    assert barrier["aligned"]["loss"][2] == pytest.approx(barrier["naive"]["loss"][2], rel=1e-5)
    if method[0] != "activations":
        assert len(found["match"]["losses"]) == 3


def test_a_loss_of_ones_own_by_every_command(folder: Path) -> None:
    call = ("--network", "mine:gaussian", "--data", "single.npz", "--loss", "mine:likelihood")
    barrier = document(folder, *path("regression", *call))["barrier"]
    data = np.load(folder / "single.npz")
    found = answers(load_file(folder / "regression.a.safetensors"), torch.from_numpy(data["inputs"]))
    wanted = torch.nn.functional.gaussian_nll_loss(found[:, 0], torch.from_numpy(data["targets"]), found[:, 1].exp())
    assert barrier["naive"]["loss"][0] == pytest.approx(float(wanted), rel=1e-5)
    assert barrier["unit"] == "mine:likelihood per example"
    models = [f"regression.{name}.safetensors" for name in "abc"]
    merged = document(folder, "merge", *models, "-o", "m.safetensors", *call)["merge"]
    assert merged["scores"]["model.1"]["loss"] == barrier["naive"]["loss"][0]
    assert merged["scores"]["model.1"]["accuracy"] is None
    assert merged["unit"] == barrier["unit"]
    shown = run("report", "m.rebasin.json", "--markdown", "-", cwd=folder).stdout.decode()
    assert "Worth, loss in mine:likelihood per example" in shown
    assert "ccuracy" not in shown
    fitted = document(
        folder, "align", *models[:2], *call, "--method", "ste", "--epochs", 2, "-o", "x.safetensors"
    )["match"]  # fmt: skip
    assert len(fitted["losses"]) == 3
    done = run("repair", "m.safetensors", *call, "--end", models[0], "--end", models[1], cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    assert "(mine:likelihood per example) on the examples fitted on" in done.stderr.decode()


def test_a_loss_that_is_no_number_is_named(folder: Path) -> None:
    call = ("--data", "numbers.npz", "--loss", "mine:silent")
    done = run(*path("regression", *call), cwd=folder)
    assert "the loss of the naive path is not finite at λ = 0, 0.5, 1" in done.stderr.decode()
    models = [f"regression.{name}.safetensors" for name in "abc"]
    done = run("merge", *models, "-o", "m.safetensors", *call, cwd=folder)
    assert (
        "the loss of model.1, model.2, model.3, ensemble, naive average, merged is not finite" in done.stderr.decode()
    )


def test_ends_that_are_no_better_than_one_answer(folder: Path) -> None:
    done = run(*path("regression", "--data", "numbers.npz"), cwd=folder)
    assert "A's loss is" in done.stderr.decode()
    assert "one answer for every example has" in done.stderr.decode()


def test_resuming_tells_losses_apart(folder: Path) -> None:
    call = path("regression", "--data", "numbers.npz", "--resume", "sweep.json")
    assert run(*call, cwd=folder).returncode == 0
    assert run(*call, "--loss", "mse", cwd=folder).returncode == 0
    done = run(*call, "--loss", "mae", cwd=folder)
    assert done.returncode == 2
    assert "it differs in loss" in done.stderr.decode()


REGRESSION, SINGLE = ("--data", "numbers.npz"), ("--data", "single.npz")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((*REGRESSION, "--loss", "cross-entropy"), 3, "needs class numbers"),
        (("--data", "labels.npz", "--loss", "mse"), 3, "(2, 3), and the targets are (2,)"),
        (SINGLE, 3, "(2, 3), and the targets are (2,)"),
        ((*REGRESSION, "--loss", "rmse"), 2, "did you mean `mse`?"),
        ((*REGRESSION, "--loss", "midpoint"), 2, "--method sinkhorn --objective midpoint"),
        ((*REGRESSION, "--loss", "mine:absent"), 2, "has no attribute"),
        ((*REGRESSION, "--loss", "mine:likelihood"), 3, "raised IndexError"),
        ((*REGRESSION, "--method", "ste", "--loss", "mine:stiff"), 3, "goes along a gradient"),
        ((*REGRESSION, "--method", "ste", "--loss", "mine:silent"), 3, "A's loss (mine:silent) is nan"),
        ((*REGRESSION, "--metric", "top5"), 2, "--metric top5 is of answers that are classes"),
        ((*REGRESSION, "--metric", "perplexity"), 2, "exponential of cross-entropy"),
        (("--data", "mine:pairs"), 3, "several inputs (inputs.x, inputs.other)"),
        (("--data", "mine:triples"), 3, "a batch is 3 things, not a pair"),
        (("--loss", "mse"), 2, "--data"),
        (("--loss", "mse", "--eval-command", "true {checkpoint}"), 2, "--loss is for --data"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_matching(
    folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = run(*path("regression", *arguments), cwd=folder)
    assert done.returncode == code, done.stderr.decode()
    assert words in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--loss", "mse"), "--method weights goes down no loss"),
        (("--loss", "random", "--method", "sinkhorn"), "--method sinkhorn --objective random"),
        (("--loss", "mse", "--method", "activations", *REGRESSION), "--method activations goes down no loss"),
    ],
)
def test_align_takes_a_loss_where_one_is_gone_down(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run("align", "regression.a.safetensors", "regression.b.safetensors", *arguments, cwd=folder)
    assert done.returncode == 2
    assert words in done.stderr.decode()


SERVER = """
import json, sys
from judge import worth
print("a word to whoever watches", file=sys.stderr)
for line in sys.stdin:
    print(json.dumps({"loss": worth(json.loads(line)["checkpoint"])}), flush=True)
"""


def test_a_server_judges_as_the_command_does(rebasin: Rebasin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    judge = READER + "\ndef worth(path):\n    return sum(float(abs(v).mean()) for v in read(path)[1].values())\n"
    (tmp_path / "judge.py").write_text(
        judge + "if __name__ == '__main__':\n    import sys; print(worth(sys.argv[1]))\n"
    )
    (tmp_path / "serve.py").write_text(SERVER)
    documents = []
    for how in (
        ("--eval-command", f"{sys.executable} judge.py {{checkpoint}}"),
        ("--eval-server", f"{sys.executable} serve.py"),
    ):
        done = rebasin("interpolate", "a.safetensors", "b.safetensors", "--steps", 2, *how)
        assert done.code == 0, done.err
        documents.append(done.document["barrier"])
    assert documents[0]["aligned"]["loss"] == documents[1]["aligned"]["loss"]
    assert documents[0]["naive"]["loss"] == documents[1]["naive"]["loss"]
    both = rebasin(
        "merge", "a.safetensors", "b.safetensors", "-o", "m.safetensors", *how, "--eval-command", "true {checkpoint}"
    )
    assert both.code == 2
    assert "--eval-command and --eval-server are two judges" in both.err
