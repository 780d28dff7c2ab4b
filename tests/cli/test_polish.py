"""`--polish`: merges whose weights are fitted to their models, on `merge`, `interpolate --at` and `repair`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.benchmarks.train_resnet import ResNet
from tests.cli.conftest import Rebasin
from tests.evaluation.building import randomise
from tests.small import mlp_state, save

WIDTHS = (16, 24, 24, 5)
MODELS = ("a.safetensors", "b.safetensors", "c.safetensors")
MERGE = ("merge", *MODELS, "-o", "m.safetensors", "--force", "--polish", "least-squares")


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three unrelated networks, inputs to fit on without targets, and data that A answers."""
    for seed, name in enumerate(MODELS):
        save(tmp_path / name, {key: tensor / 4 for key, tensor in mlp_state(seed, WIDTHS).items()})
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "fit.npz", inputs=generator.standard_normal((600, 16)).astype(np.float32))
    np.savez(
        tmp_path / "data.npz",
        inputs=generator.standard_normal((60, 16)).astype(np.float32),
        targets=generator.integers(0, 5, 60),
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answers(name: str, inputs: torch.Tensor) -> torch.Tensor:
    """What a network makes of inputs, by torch alone."""
    state = load_file(name)
    for layer in range(3):
        inputs = inputs @ state[f"fc.{layer}.weight"].T + state[f"fc.{layer}.bias"]
        inputs = inputs.relu() if layer < 2 else inputs
    return inputs


def error(name: str) -> float:
    """How far a merge's answers are from the mean of its models'."""
    inputs = torch.from_numpy(np.load("data.npz")["inputs"])
    wanted = sum(answers(model, inputs) for model in MODELS) / 3
    return float((answers(name, inputs) - wanted).square().mean())


def test_a_merge_comes_nearer_to_its_models_without_labels(rebasin: Rebasin, three: Path) -> None:
    assert rebasin("merge", *MODELS, "-o", "plain.safetensors").code == 0
    done = rebasin(*MERGE, "--fit-data", "fit.npz")
    assert done.code == 0, done.err
    plain, fitted = load_file("plain.safetensors"), load_file("m.safetensors")
    assert {key: (t.shape, t.dtype) for key, t in plain.items()} == {k: (t.shape, t.dtype) for k, t in fitted.items()}
    assert error("m.safetensors") < 0.5 * error("plain.safetensors")
    assert done.document["inputs"]["fit-data"]["path"] == str(three / "fit.npz")
    with safe_open("m.safetensors", "pt") as opened:
        assert opened.metadata()["rebasin.polish"].startswith("least-squares on ")


def test_the_same_call_gives_the_same_bytes(rebasin: Rebasin, three: Path) -> None:
    written = []
    for _ in range(2):
        assert rebasin(*MERGE, "--fit-data", "fit.npz").code == 0
        written.append(Path("m.safetensors").read_bytes())
    assert written[0] == written[1]


def test_the_polished_merge_is_scored_and_judged_last(rebasin: Rebasin, three: Path) -> None:
    done = rebasin(*MERGE, "--fit-data", "fit.npz", "--data", "data.npz", "--repair", "repair", "--steps", 3)
    assert done.code == 0, done.err
    scores = done.document["merge"]["scores"]
    assert list(scores)[-3:] == ["merged", "merged + repair", "merged + least squares"]
    assert done.document["verdict"]["loss"] == scores["merged + least squares"]["loss"]
    judged = rebasin("interpolate", *["m.safetensors"] * 2, "--no-align", "--data", "data.npz", "--steps", 2)
    found = judged.document["barrier"]["naive"]["loss"][0]
    assert found == pytest.approx(scores["merged + least squares"]["loss"], rel=1e-5)


def test_without_fit_data_the_data_themselves_are_fitted_on(rebasin: Rebasin, three: Path) -> None:
    done = rebasin(*MERGE, "--data", "data.npz", "--steps", 3)
    assert done.code == 0, done.err
    assert "statistics are fitted on examples of --data itself" in done.err
    few = rebasin(*MERGE, "--fit-data", "fit.npz", "--fit-limit", 10)
    assert "10 examples are few for the inputs of fc.0.weight, fc.1.weight, fc.2.weight" in few.err


def test_a_point_of_a_path_is_polished(rebasin: Rebasin, three: Path) -> None:
    call = ("interpolate", *MODELS[:2], "--at", 0.25, "-o", "p.safetensors", "--polish", "least-squares", "--force")
    done = rebasin(*call, "--fit-data", "fit.npz", "--data", "data.npz", "--steps", 3)
    assert done.code == 0, done.err
    scores = done.document["verdict"]["scores"]
    assert list(scores) == ["A", "B", "ensemble", "naive", "aligned", "aligned + least squares"]
    judged = rebasin("interpolate", *["p.safetensors"] * 2, "--no-align", "--data", "data.npz", "--steps", 2)
    found = judged.document["barrier"]["naive"]["loss"][0]
    assert found == pytest.approx(scores["aligned + least squares"]["loss"], rel=1e-5)
    first = Path("p.safetensors").read_bytes()
    assert rebasin(*call, "--fit-data", "fit.npz").code == 0  # without anything to judge by
    assert len(Path("p.safetensors").read_bytes()) == len(first)
    end = rebasin(*call[:4], 1, *call[5:], "--fit-data", "fit.npz")
    assert end.code == 0, end.err
    with safe_open("p.safetensors", "pt") as opened:
        assert "rebasin.polish" not in opened.metadata()


def test_repair_polishes_a_merge_that_is_there(rebasin: Rebasin, three: Path) -> None:
    assert rebasin(*MERGE, "--fit-data", "fit.npz").code == 0
    assert rebasin("merge", *MODELS, "-o", "plain.safetensors", "--force").code == 0
    ends: list[str] = []
    for number, name in enumerate(MODELS, 1):
        rebasin("apply", f"plain.{number}.permutation.safetensors", name, "-o", f"{number}.safetensors")
        ends += ["--end", f"{number}.safetensors"]
    call = ("repair", "plain.safetensors", *ends, "--polish", "least-squares", "-o", "r.safetensors")
    done = rebasin(*call, "--data", "fit.npz")
    assert done.code == 0, done.err
    wanted, found = load_file("m.safetensors"), load_file("r.safetensors")
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5)
    told = rebasin(*call, "--data", "data.npz", "--force")
    assert "after: loss" in told.err


def test_distillation_goes_on_from_least_squares(rebasin: Rebasin, three: Path) -> None:
    call = (*MERGE[:-1], "distill", "--polish-steps", 50, "--fit-data", "fit.npz")
    done = rebasin(*call, "--data", "data.npz", "--steps", 3)
    assert done.code == 0, done.err
    assert list(done.document["merge"]["scores"])[-2:] == ["merged + least squares", "merged + distilled"]
    assert "distance to the ensemble" in done.err
    one = load_file("m.safetensors")
    assert rebasin(*call).code == 0
    two = load_file("m.safetensors")
    assert not torch.equal(one["fc.0.weight"], two["fc.0.weight"])  # nothing says that these are classes
    assert rebasin(*call, "--loss", "cross-entropy").code == 0
    torch.testing.assert_close(load_file("m.safetensors")["fc.0.weight"], one["fc.0.weight"])
    assert rebasin(*MERGE, "--fit-data", "fit.npz").code == 0
    assert not torch.equal(load_file("m.safetensors")["fc.0.weight"], two["fc.0.weight"])


def test_ignored_tensors_stay_those_of_the_first(rebasin: Rebasin, three: Path) -> None:
    call = (*MERGE, "--fit-data", "fit.npz", "--ignore", "fc.2.*")
    done = rebasin(*call)
    assert done.code == 0, done.err
    first, merged = load_file(MODELS[0]), load_file("m.safetensors")
    assert torch.equal(first["fc.2.weight"], merged["fc.2.weight"])
    assert not torch.equal(first["fc.1.weight"], merged["fc.1.weight"])


def test_batchnorm_and_half_precision_keep_their_form(
    rebasin: Rebasin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(MODELS[:2]):
        state = {k: t.contiguous() for k, t in randomise(ResNet(4, 1, 3), seed).float().state_dict().items()}
        save(tmp_path / name, {k: t.bfloat16() if t.is_floating_point() else t for k, t in state.items()})
    np.savez("fit.npz", inputs=np.random.default_rng(0).random((40, 3, 8, 8), dtype=np.float32))
    done = rebasin("merge", *MODELS[:2], "-o", "m.safetensors", "--polish", "least-squares", "--fit-data", "fit.npz")
    assert done.code == 0, done.err
    assert "are interpolated, not recomputed" not in done.err
    one, merged = load_file(MODELS[0]), load_file("m.safetensors")
    assert {k: (t.shape, t.dtype) for k, t in one.items()} == {k: (t.shape, t.dtype) for k, t in merged.items()}
    assert all(bool(t.isfinite().all()) for t in merged.values() if t.is_floating_point())


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.ModuleList([nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 5)])

    def forward(self, x):
        return self.fc[2](self.fc[1](self.fc[0](x).relu()).relu())

def make():
    return Net()

def loader():
    return torch.randn(600, 16, generator=torch.Generator().manual_seed(1))
"""


def test_a_network_and_a_loader_of_ones_own(rebasin: Rebasin, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (three / "polished_net.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(three))
    done = rebasin(*MERGE, "--network", "polished_net:make", "--fit-data", "polished_net:loader")
    assert done.code == 0, done.err
    assert rebasin("merge", *MODELS, "-o", "plain.safetensors").code == 0
    assert error("m.safetensors") < 0.5 * error("plain.safetensors")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (MERGE, "add --fit-data FILE or --data FILE"),
        ((*MERGE, "--polish-steps", 3, "--fit-data", "fit.npz"), "add --polish distill"),
        ((*MERGE, "--eval-command", "true {checkpoint}"), "add --fit-data FILE"),
        (
            ("interpolate", *MODELS[:2], "--polish", "least-squares", "--data", "data.npz"),
            "name it: --at 0.5 -o FILE.safetensors",
        ),
        (
            ("repair", MODELS[0], "--end", MODELS[1], "--polish", "least-squares", "--data", "fit.npz"),
            "--end is given 1 times",
        ),
    ],
)
def test_what_cannot_be_polished(rebasin: Rebasin, three: Path, arguments: tuple[object, ...], says: str) -> None:
    before = sorted(three.iterdir())
    done = rebasin(*arguments)
    assert done.code in (2, 3)
    assert says in done.err
    assert sorted(three.iterdir()) == before
