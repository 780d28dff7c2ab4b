"""`interpolate --ensemble` and `--calibrate`: curves of averaged answers, and points at temperatures of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import rebasin_cli
from rebasin_cli.cli import main
from tests.cli.conftest import Rebasin
from tests.small import mlp_state, save, save_pair

PATH = ("interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz", "--steps", 3)
FIT = ("--fit-data", "fit.npz", "--calibrate")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks, and two files of examples whose labels are A's or B's answers with noise."""
    save_pair(tmp_path)
    save(tmp_path / "b.safetensors", mlp_state(5))
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    for name, seed in (("data", 1), ("fit", 2)):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(60, 32, generator=generator)
        logits = torch.cat([_logits(a, inputs[:30]), _logits(b, inputs[30:])])
        noise = 0.5 * logits.std() * torch.randn(logits.shape, generator=generator)
        np.savez(tmp_path / f"{name}.npz", inputs=inputs.numpy(), targets=(logits + noise).argmax(1).numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _logits(state: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    for layer in range(3):
        inputs = F.linear(inputs, state[f"fc.{layer}.weight"], state[f"fc.{layer}.bias"])
        inputs = torch.relu(inputs) if layer < 2 else inputs
    return inputs


def _examples(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(path) as file:
        return torch.from_numpy(file["inputs"]), torch.from_numpy(file["targets"])


def test_the_ensemble_is_a_curve_and_no_point_of_the_line(rebasin: Rebasin, folder: Path) -> None:
    plain = rebasin(*PATH).document["barrier"]
    found = rebasin(*PATH, "--ensemble").document["barrier"]
    inputs, targets = _examples("data.npz")
    parts = [_logits(load_file(f"{name}.safetensors"), inputs).double().softmax(1) for name in "ab"]
    wanted = F.nll_loss(((parts[0] + parts[1]) / 2).log(), targets)
    ensemble = found["ensemble"]["loss"]
    assert ensemble[1] == pytest.approx(float(wanted), rel=1e-5)
    assert (ensemble[0], ensemble[2]) == (found["naive"]["loss"][0], found["naive"]["loss"][2])
    assert {name: found[name] for name in ("naive", "aligned")} == {n: plain[n] for n in ("naive", "aligned")}


def test_each_point_is_judged_at_its_own_temperature(rebasin: Rebasin, folder: Path) -> None:
    plain = rebasin(*PATH).document["barrier"]
    done = rebasin(*PATH, *FIT, "--ensemble", "--metric", "calibration-error")
    found = done.document["barrier"]
    assert "no checkpoint holds it" in done.err
    inputs, targets = _examples("data.npz")
    fit_inputs, fit_targets = _examples("fit.npz")
    a, b = load_file("a.safetensors"), load_file("b.safetensors")
    middle = {key: (a[key] + b[key]) / 2 for key in a}
    temperature = found["naive"]["metrics"]["temperature"][1]
    assert found["naive"]["loss"][1] == pytest.approx(
        float(F.cross_entropy(_logits(middle, inputs).double() / temperature, targets)), rel=1e-5
    )
    near = {
        t: float(F.cross_entropy(_logits(middle, fit_inputs) / (t * temperature), fit_targets)) for t in (0.9, 1, 1.1)
    }
    assert min(near, key=near.__getitem__) == 1
    assert found["naive"]["loss"][1] < plain["naive"]["loss"][1]
    assert found["naive"]["accuracy"] == plain["naive"]["accuracy"]
    bins = found["ensemble"]["reliability"][1]
    assert sum(each["count"] for each in bins) == 60


def test_temperatures_are_gone_on_with(rebasin: Rebasin, folder: Path) -> None:
    keeps = (*PATH, *FIT, "--ensemble", "--metric", "calibration-error", "--resume", "run.json")
    first = rebasin(*keeps).code
    before = json.loads((folder / "run.json").read_text())["barrier"]
    again = rebasin(*keeps)
    assert (first, again.code) == (0, 0)
    assert json.loads((folder / "run.json").read_text())["barrier"] == before
    other = rebasin(*PATH, "--ensemble", "--metric", "calibration-error", "--resume", "run.json")
    assert (other.code, "temperature fitted on" in other.err) == (2, True)
    left = rebasin(*PATH, *FIT, "--metric", "calibration-error", "--resume", "run.json")
    assert (left.code, "add --ensemble" in left.err) == (2, True)


def test_examples_that_are_all_right_have_no_temperature(rebasin: Rebasin, folder: Path) -> None:
    inputs, _ = _examples("fit.npz")
    np.savez("fit.npz", inputs=inputs.numpy(), targets=_logits(load_file("a.safetensors"), inputs).argmax(1).numpy())
    done = rebasin(*PATH, *FIT)
    assert "naive, λ = 0, 1: no temperature fits the examples best" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*PATH[:3], "--calibrate"), "--calibrate runs a network on examples"),
        ((*PATH[:3], "--ensemble"), "--ensemble runs a network on examples"),
        ((*PATH[:3], "--eval-command", "echo 1 {checkpoint}", "--calibrate"), "a command shows none"),
        ((*PATH[:3], "--eval-command", "echo 1 {checkpoint}", "--ensemble"), "a command shows none"),
        ((*PATH, *FIT, "--loss", "mse"), "--loss cross-entropy"),
        ((*PATH, "--fit-data", "fit.npz"), "add --repair, --polish, --calibrate"),
    ],
)
def test_what_has_no_temperature(rebasin: Rebasin, folder: Path, arguments: tuple[object, ...], says: str) -> None:
    if "mse" in arguments:
        for name in ("data", "fit"):
            inputs, targets = _examples(f"{name}.npz")
            np.savez(f"{name}.npz", inputs=inputs.numpy(), targets=F.one_hot(targets, 16).float().numpy())
    done = rebasin(*arguments)
    assert (done.code, says in done.err) == (2, True)


def test_reports_show_how_sure_networks_are(rebasin: Rebasin, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = (*PATH, "--ensemble", "--metric", "calibration-error")
    rebasin(*calls, "--report", "run.json")
    assert main(["report", "run.json", "--html", "run.html", "--markdown", "run.md"]) == 0
    page, card = Path("run.html").read_text(), Path("run.md").read_text()
    assert "How sure, and how often right" in page
    assert page.count("confidence: probability of the answer") == 1
    for row in ("A", "B", "naive at 0.5", "aligned at 0.5", "ensemble at 0.5", "as sure as right"):
        assert f"| {row} |" in card
        assert f">{row}</text>" in page or f"</svg>{row}</li>" in page
    plain = rebasin(*PATH, "--report", "plain.json")
    assert plain.code == 0
    main(["report", "plain.json", "--html", "plain.html"])
    assert "how often right" not in Path("plain.html").read_text()


def test_keywords_of_the_api_do_the_same(folder: Path) -> None:
    options = {"data": "data.npz", "steps": 3, "ensemble": True}
    line = rebasin_cli.interpolate("a.safetensors", "b.safetensors", **options)  # type: ignore[arg-type]
    assert list(line.losses) == ["naive", "aligned", "ensemble"]
    assert line.barrier == line.barriers["aligned"]
    fitted = rebasin_cli.interpolate(
        "a.safetensors",
        "b.safetensors",
        **options,
        calibrate=True,
        fit_data="fit.npz",  # type: ignore[arg-type]
    )
    assert fitted.losses["naive"][1] < line.losses["naive"][1]
    with pytest.raises(rebasin_cli.UsageError, match="calibrate= is for a loss"):
        rebasin_cli.interpolate("a.safetensors", "b.safetensors", calibrate=True)
    with pytest.raises(rebasin_cli.UsageError, match="a function shows none"):
        rebasin_cli.interpolate("a.safetensors", "b.safetensors", loss=lambda state: 1.0, ensemble=True)
