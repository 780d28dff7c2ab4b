"""`--repair` and `rebasin repair`: curves, checkpoints with the same tensors, and refusals."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.benchmarks.train_resnet import ResNet
from tests.cli.conftest import Rebasin
from tests.evaluation.building import randomise
from tests.small import run, save


@pytest.fixture
def resnets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks with BatchNorm and 48 images."""
    for seed, name in enumerate(("a", "b")):
        state = randomise(ResNet(4, 1, 3), seed).float().state_dict()
        save(tmp_path / f"{name}.safetensors", {k: t.contiguous() for k, t in state.items()})
    inputs = np.random.default_rng(0).random((48, 3, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "data.npz", inputs=inputs, targets=np.arange(48) % 10)
    monkeypatch.chdir(tmp_path)
    return tmp_path


PATH = ("interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz", "--steps", 3)


def test_every_repair_is_a_curve_of_its_own(rebasin: Rebasin, resnets: Path) -> None:
    done = rebasin(*PATH, "--repair", "bn", "--repair", "repair")
    assert done.code == 0, done.err
    barrier = done.document["barrier"]
    assert list(barrier["repaired"]) == ["aligned + bn", "aligned + repair"]
    for curve in barrier["repaired"].values():
        assert curve["loss"][0] == barrier["naive"]["loss"][0]
        assert curve["loss"][2] == barrier["aligned"]["loss"][2]
        assert curve["loss"][1] != barrier["aligned"]["loss"][1]
    assert "are interpolated, not recomputed" not in done.err
    shown = rebasin("report", "--markdown", "-", stdin=done.out.encode())
    assert "| λ | naive | aligned | aligned + bn | aligned + repair |" in shown.out
    assert "## Accuracy" in shown.out


def test_without_repair_the_report_says_how_to(rebasin: Rebasin, resnets: Path) -> None:
    done = rebasin(*PATH)
    assert "repaired" not in done.document["barrier"]
    assert "--repair bn recomputes them" in done.err


def test_the_point_that_is_written_is_the_repaired_one(rebasin: Rebasin, resnets: Path) -> None:
    done = rebasin(*PATH, "--no-align", "--repair", "repair", "--at", 0.5, "-o", "m.safetensors")
    assert done.code == 0, done.err
    a, b, merged = (load_file(f"{name}.safetensors") for name in "abm")
    assert {k: (t.shape, t.dtype) for k, t in a.items()} == {k: (t.shape, t.dtype) for k, t in merged.items()}
    key = "layer1.0.bn1.weight"
    assert not torch.allclose(merged[key], torch.lerp(a[key], b[key], 0.5), rtol=1e-3)
    torch.testing.assert_close(merged["fc.weight"], torch.lerp(a["fc.weight"], b["fc.weight"], 0.5))
    judged = rebasin("interpolate", "m.safetensors", "m.safetensors", "--no-align", "--data", "data.npz", "--steps", 2)
    repaired = done.document["barrier"]["repaired"]["naive + repair"]
    assert judged.document["barrier"]["naive"]["loss"][0] == pytest.approx(repaired["loss"][1], rel=1e-5)


def test_repair_as_a_command_equals_repair_along_the_path(rebasin: Rebasin, resnets: Path) -> None:
    rebasin(*PATH, "--no-align", "--at", 0.5, "-o", "m.safetensors")
    for kind, ends in (("bn", ()), ("repair", ("--end", "a.safetensors", "--end", "b.safetensors"))):
        rebasin(*PATH, "--no-align", "--at", 0.5, "--repair", kind, "-o", "wanted.safetensors", "--force")
        done = rebasin("repair", "m.safetensors", *ends, "--data", "data.npz", "-o", "r.safetensors", "--force")
        assert done.code == 0, done.err
        assert "accuracy" in done.err
        wanted, found = load_file("wanted.safetensors"), load_file("r.safetensors")
        assert list(wanted) == list(found)
        for key, tensor in wanted.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-6)


@pytest.fixture
def three(resnets: Path) -> Path:
    """A third network beside the two."""
    save(
        resnets / "c.safetensors",
        {k: t.contiguous() for k, t in randomise(ResNet(4, 1, 3), 2).float().state_dict().items()},
    )
    return resnets


MERGE = ("merge", "a.safetensors", "b.safetensors", "c.safetensors", "--data", "data.npz", "-o", "m.safetensors")


def test_a_merge_is_repaired_and_the_last_kind_is_written(rebasin: Rebasin, three: Path) -> None:
    done = rebasin(*MERGE, "--steps", 3, "--repair", "bn", "--repair", "repair")
    assert done.code == 0, done.err
    scores = done.document["merge"]["scores"]
    repaired = [f"{name}{how}" for name in ("naive average", "merged") for how in ("", " + bn", " + repair")]
    assert list(scores)[3:] == ["ensemble", *repaired]
    assert len({score["loss"] for score in scores.values()}) == len(scores)
    assert "are interpolated, not recomputed" not in done.err
    judged = rebasin("interpolate", *["m.safetensors"] * 2, "--no-align", "--data", "data.npz", "--steps", 2)
    assert judged.document["barrier"]["naive"]["loss"][0] == pytest.approx(scores["merged + repair"]["loss"], rel=1e-4)
    shown = rebasin("report", "--text", "-", stdin=done.out.encode()).out
    assert f"(loss {scores['merged + repair']['loss']:.3f}" in shown.splitlines()[0]


def test_a_repaired_merge_has_the_mean_deviations_of_its_models(rebasin: Rebasin, three: Path) -> None:
    done = rebasin(*MERGE, "--steps", 3, "--repair", "repair", "--weights", "1,1,2")
    assert done.code == 0, done.err
    for number, name in enumerate("abc", 1):
        rebasin("apply", f"m.{number}.permutation.safetensors", f"{name}.safetensors", "-o", f"{number}.safetensors")
    one, two, three_, merged = (deviations(three / f"{name}.safetensors") for name in ("1", "2", "3", "m"))
    torch.testing.assert_close(merged, 0.25 * one + 0.25 * two + 0.5 * three_, rtol=1e-3, atol=1e-4)


def deviations(path: Path) -> torch.Tensor:
    """Of every channel behind the first normalisation, by torch alone."""
    network = ResNet(4, 1, 3)
    network.load_state_dict(load_file(path))
    network.eval()
    found: list[torch.Tensor] = []
    network.bn1.register_forward_hook(lambda module, inputs, output: found.append(output.std((0, 2, 3), correction=0)))
    with torch.no_grad():
        network(torch.from_numpy(np.load(path.parent / "data.npz")["inputs"]))
    return found[0]


def test_a_merge_without_repair_says_that_statistics_do_not_fit(rebasin: Rebasin, three: Path) -> None:
    done = rebasin(*MERGE, "--steps", 3)
    assert "running statistics are interpolated, not recomputed" in done.err
    assert list(done.document["merge"]["scores"])[-1] == "merged"


def test_a_merge_of_two_is_the_midpoint_repaired(rebasin: Rebasin, resnets: Path) -> None:
    rebasin(*PATH, "--at", 0.5, "--repair", "repair", "-o", "wanted.safetensors")
    two = ("merge", "a.safetensors", "b.safetensors", "--algorithm", "to-first", "--data", "data.npz")
    assert rebasin(*two, "--repair", "repair", "--steps", 3, "-o", "m.safetensors").code == 0
    wanted, found = load_file("wanted.safetensors"), load_file("m.safetensors")
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5)


def test_as_a_process_it_writes_beside_the_checkpoint(resnets: Path) -> None:
    done = run("repair", "a.safetensors", "--data", "data.npz", cwd=resnets)
    assert done.returncode == 0, done.stderr
    assert (resnets / "a.repaired.safetensors").exists()
    assert b'"repaired"' in done.stdout
    inputs = json.loads(done.stdout)["inputs"]
    assert inputs["checkpoint"]["sha256"] == sha256((resnets / "a.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("repair", "a.safetensors", "--data", "data.npz", "--end", "b.safetensors"), 2, "two ends"),
        (("repair", "a.safetensors", "--data", "data.npz", "-o", "a.safetensors"), 2, "both an input and"),
        (("repair", "a.safetensors", "--data", "absent.npz"), 4, "absent.npz"),
        (("interpolate", "a.safetensors", "b.safetensors", "--repair", "bn"), 2, "--data"),
        (("merge", "a.safetensors", "b.safetensors", "-o", "m.safetensors", "--repair", "bn"), 2, "--data"),
        ((*PATH, "--repair", "bn", "--fit-data", "grey.npz"), 3, "channels"),
    ],
)
def test_refusals(rebasin: Rebasin, resnets: Path, arguments: tuple[object, ...], code: int, words: str) -> None:
    np.savez("grey.npz", inputs=np.zeros((4, 1, 8, 8), np.float32), targets=np.zeros(4, np.int64))
    done = rebasin(*arguments)
    assert done.code == code, done.err
    assert words in done.err
    assert sorted(p.name for p in resnets.iterdir()) == ["a.safetensors", "b.safetensors", "data.npz", "grey.npz"]


def test_a_network_without_batchnorm_has_no_statistics_to_reset(rebasin: Rebasin, pair: Path) -> None:
    arguments = ("interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz")
    done = rebasin(*arguments, "--repair", "bn")
    assert done.code == 3
    assert "no BatchNorm" in done.err
    assert "--repair repair" in done.err
    assert rebasin(*arguments, "--repair", "repair", "--steps", 3).code == 0
    own = ("repair", "a.safetensors", "--data", "data.npz")
    done = rebasin(*own)
    assert done.code == 3
    assert "--repair" not in done.err
    assert "try:   --end A --end B.aligned.safetensors," in done.err
    assert rebasin(*own, "--end", "a.safetensors", "--end", "b.safetensors", "-o", "r.safetensors").code == 0
