"""`rebasin merge`: N models into one."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from tests.cli.conftest import Rebasin
from tests.small import READER, mlp_state, run, save, save_pair, shuffled


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with one network in four orders and data whose labels are its own answers."""
    save_pair(tmp_path)
    for number, seed in ((1, None), (2, 5), (3, 6), (4, 7)):
        state = mlp_state(0) if seed is None else shuffled(mlp_state(0), seed)
        save(tmp_path / f"m{number}.safetensors", state)
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODELS = ("m1.safetensors", "m2.safetensors", "m3.safetensors", "m4.safetensors")


@pytest.mark.parametrize("algorithm", ["cycle-consistent", "frank-wolfe", "merge-many", "to-first", "hierarchical"])
def test_one_network_in_four_orders_is_itself(rebasin: Rebasin, family: Path, algorithm: str) -> None:
    done = rebasin(
        "merge", *MODELS, "-o", "merged.safetensors", "--algorithm", algorithm, "--data", "data.npz", "--restarts", 3
    )
    assert done.code == 0, done.err
    first, merged = load_file("m1.safetensors"), load_file("merged.safetensors")
    assert list(first) == list(merged)
    for key, tensor in first.items():
        assert torch.equal(tensor, merged[key]), key
    record = done.document["merge"]
    assert record["algorithm"] == algorithm
    assert record["weights"] == [0.25] * 4
    assert [pair["after"] for pair in record["pairs"]] == [0.0] * 6
    assert min(pair["before"] for pair in record["pairs"]) > 1
    scores = record["scores"]
    assert scores["merged"] == scores["model.1"]
    assert scores["naive average"]["loss"] > scores["merged"]["loss"]
    assert all(pair["aligned"] == pytest.approx(0, abs=1e-5) for pair in record["pairs"])
    assert min(pair["naive"] for pair in record["pairs"]) > 0
    assert record["moved"][0] == 0


def test_a_model_that_is_named_twice_is_told(rebasin: Rebasin, family: Path) -> None:
    done = rebasin("merge", *MODELS[:2], MODELS[1], "-o", "m.safetensors")
    assert done.code == 0, done.err
    assert "m2.safetensors is named 2 times" in done.err
    assert any("m2.safetensors is named 2 times" in warning for warning in done.document["warnings"])


def test_metrics_are_measured_of_every_network(rebasin: Rebasin, family: Path) -> None:
    done = rebasin("merge", *MODELS[:2], "-o", "m.safetensors", "--data", "data.npz", "--metric", "macro-f1")
    assert done.code == 0, done.err
    scores = done.document["merge"]["scores"]
    assert set(scores) == {"model.1", "model.2", "ensemble", "naive average", "merged"}
    assert scores["model.1"]["metrics"] == scores["model.2"]["metrics"] == {"macro-f1": 1.0}
    assert scores["naive average"]["metrics"]["macro-f1"] < 1
    assert "| macro-f1 |" in rebasin("report", "--markdown", "-", stdin=done.out.encode()).out


def test_every_permutation_is_a_file_that_apply_takes(rebasin: Rebasin, family: Path) -> None:
    assert rebasin("merge", *MODELS, "-o", "merged.safetensors").code == 0
    for number, model in enumerate(MODELS, 1):
        permutation = f"merged.{number}.permutation.safetensors"
        assert rebasin("apply", permutation, model, "-o", f"moved{number}.safetensors").code == 0
    moved = [load_file(f"moved{number}.safetensors") for number in (1, 2, 3, 4)]
    merged = load_file("merged.safetensors")
    for key, tensor in merged.items():
        assert torch.allclose(tensor, sum(state[key] for state in moved) / 4, atol=1e-6)


def test_weights_dtypes_and_integers_of_the_first(rebasin: Rebasin, family: Path) -> None:
    for number, dtype in ((1, torch.bfloat16), (2, torch.float32), (3, torch.float16)):
        state: dict[str, torch.Tensor] = {key: t.to(dtype) for key, t in mlp_state(number).items()}
        state["ema.step"] = torch.tensor([number])
        save(family / f"t{number}.safetensors", state)
    done = rebasin(
        "merge", "t1.safetensors", "t2.safetensors", "t3.safetensors", "-o", "out.safetensors", "--weights", "2,1,1",
        "--ignore", "ema.*", "--report", "run.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    out = load_file("out.safetensors")
    assert out["ema.step"].tolist() == [1]
    assert out["fc.0.weight"].dtype == torch.bfloat16
    assert json.loads(Path("run.json").read_text())["merge"]["weights"] == [0.5, 0.25, 0.25]
    last = "fc.2.bias"  # never moves
    states = [mlp_state(number)[last].to(dtype).float() for number, dtype in
              ((1, torch.bfloat16), (2, torch.float32), (3, torch.float16))]  # fmt: skip
    expected = 0.5 * states[0] + 0.25 * states[1] + 0.25 * states[2]
    assert torch.allclose(out[last].float(), expected, rtol=2**-8)


def test_three_strangers_come_nearer(rebasin: Rebasin, family: Path) -> None:
    for number in (1, 2, 3):
        save(family / f"s{number}.safetensors", mlp_state(number))
    done = rebasin("merge", "s1.safetensors", "s2.safetensors", "s3.safetensors", "-o", "out.safetensors")
    assert done.code == 0
    record = done.document["merge"]
    assert record["objective"][-1] > record["objective"][0]
    assert sum(pair["after"] for pair in record["pairs"]) < sum(pair["before"] for pair in record["pairs"])
    assert "scores" not in record
    shown = rebasin("report", "out.rebasin.json", "--markdown", "-").out
    assert "3 models merged" in shown
    assert "s1.safetensors, s3.safetensors" in shown


def test_dry_run_writes_nothing(rebasin: Rebasin, family: Path) -> None:
    before = sorted(family.iterdir())
    done = rebasin("merge", *MODELS, "-o", "merged.safetensors", "--dry-run")
    assert done.code == 0
    assert sorted(family.iterdir()) == before
    targets = done.document["plan"]["targets"]
    assert targets["merged"] == str(family / "merged.safetensors")
    assert targets["permutation.4"] == str(family / "merged.4.permutation.safetensors")


def test_the_merge_goes_through_a_pipe(family: Path) -> None:
    done = run("merge", *MODELS, "-o", "-", cwd=family)
    assert done.returncode == 0, done.stderr
    merged = load(done.stdout)
    assert all(torch.equal(merged[key], tensor) for key, tensor in mlp_state(0).items())
    taken = run("merge", *MODELS, "-o", "-", "--json", cwd=family)
    assert taken.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("m1.safetensors", "-o", "x.safetensors"), 2, "two models or more"),
        ((*MODELS, "-o", "x.safetensors", "--weights", "1,2"), 2, "2 numbers for 4 models"),
        ((*MODELS, "-o", "x.safetensors", "--weights", "1,2,0,1"), 2, "'0' is not a finite number"),
        ((*MODELS, "-o", "x.safetensors", "--weights", "1,a,2,1"), 2, "'a' is not a finite number"),
        ((*MODELS, "-o", "m2.safetensors"), 2, "both an input"),
        ((*MODELS, "-o", "data.npz"), 2, "another format"),
        ((*MODELS, "-o", "x.safetensors", "--network", "a:b"), 2, "No module named 'a'"),
        ((*MODELS, "wide.safetensors", "-o", "x.safetensors"), 3, "9"),
        ((*MODELS, "nan.safetensors", "-o", "x.safetensors"), 3, "nan"),
        ((*MODELS, "absent.safetensors", "-o", "x.safetensors"), 4, "absent"),
    ],
)
def test_refusals(rebasin: Rebasin, family: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    save(family / "wide.safetensors", mlp_state(0, (32, 9, 8, 16)))
    spoiled = mlp_state(0)
    spoiled["fc.0.bias"][0] = float("nan")
    save(family / "nan.safetensors", spoiled)
    before = sorted(family.iterdir())
    done = rebasin("merge", *arguments)
    assert done.code == code, done.err
    assert says.lower() in done.err.lower()
    assert sorted(family.iterdir()) == before


def test_an_output_that_exists_needs_force(rebasin: Rebasin, family: Path) -> None:
    assert rebasin("merge", *MODELS, "-o", "merged.safetensors").code == 0
    assert rebasin("merge", *MODELS, "-o", "merged.safetensors").code == 2
    assert rebasin("merge", *MODELS, "-o", "merged.safetensors", "--force").code == 0


@pytest.mark.parametrize("algorithm", ["cycle-consistent", "merge-many", "to-first"])
def test_one_network_by_activations_is_itself(rebasin: Rebasin, family: Path, algorithm: str) -> None:
    call = ("merge", *MODELS, "-o", "merged.safetensors", "--method", "activations", "--algorithm", algorithm)
    done = rebasin(*call, "--data", "data.npz")
    assert done.code == 0, done.err
    first, merged = load_file("m1.safetensors"), load_file("merged.safetensors")
    for key, tensor in first.items():
        torch.testing.assert_close(merged[key], tensor)
    record = done.document["merge"]
    assert (record["method"], record["algorithm"]) == ("activations", algorithm)
    assert max(pair["after"] for pair in record["pairs"]) < 1e-5
    alone = rebasin(*call, "--fit-data", "data.npz", "--force")
    assert alone.code == 0, alone.err
    assert "scores" not in alone.document["merge"]
    again = load_file("merged.safetensors")
    assert all(torch.equal(again[key], tensor) for key, tensor in merged.items())


def test_strangers_come_nearer_by_activations(rebasin: Rebasin, family: Path) -> None:
    for number in (1, 2, 3):
        save(family / f"s{number}.safetensors", mlp_state(number))
    call = ("merge", "s1.safetensors", "s2.safetensors", "s3.safetensors", "-o", "o.safetensors", "--data", "data.npz")
    done = rebasin(*call, "--method", "activations", "--similarity", "covariance", "--fit-batch-size", 7)
    assert done.code == 0, done.err
    assert min(done.document["merge"]["moved"][1:]) > 0.3
    assert rebasin("apply", "o.2.permutation.safetensors", "s2.safetensors", "-o", "moved.safetensors").code == 0


EVALUATE = (
    READER
    + """
import pathlib, sys
dtypes, state = read(sys.argv[1])
with open("seen", "a") as log:
    log.write(" ".join(sorted(set(dtypes.values()))) + "\\n")
if pathlib.Path("fail").exists() and len(open("seen").readlines()) == int(open("fail").read()):
    sys.exit("it broke")
print(json.dumps({"loss": abs(state["fc.0.weight"]).mean(), "norm": 2.0}))
"""
)
JUDGE = shlex.quote(sys.executable) + " eval.py {checkpoint}"


def test_a_command_judges_every_network_and_pair(rebasin: Rebasin, family: Path) -> None:
    (family / "eval.py").write_text(EVALUATE)
    half = {key: tensor.bfloat16() for key, tensor in mlp_state(0).items()}
    save(family / "half.safetensors", {**half, "ema.step": torch.tensor([3])})
    for name in ("m2", "m3"):
        save(family / f"{name}.safetensors", {**load_file(f"{name}.safetensors"), "ema.step": torch.tensor([4])})
    models = ("half.safetensors", "m2.safetensors", "m3.safetensors")
    done = rebasin("merge", *models, "-o", "x.safetensors", "--eval-command", JUDGE, "--steps", 3, "--ignore", "ema.*")
    assert done.code == 0, done.err
    record = done.document["merge"]
    scores = record["scores"]
    assert list(scores) == ["model.1", "model.2", "model.3", "naive average", "merged"]
    for role, name in (("model.2", "m2"), ("merged", "x")):
        written = float(load_file(f"{name}.safetensors")["fc.0.weight"].float().abs().mean())
        assert scores[role]["loss"] == pytest.approx(written, rel=1e-6)
    assert scores["naive average"]["loss"] < 0.9 * scores["merged"]["loss"]
    assert scores["merged"]["metrics"] == {"norm": 2.0}
    assert scores["merged"]["accuracy"] is None
    assert all(pair["naive"] is not None and pair["aligned"] is not None for pair in record["pairs"])
    assert (record["unit"], record["data"]) == ("the command's own unit", JUDGE)
    seen = (family / "seen").read_text().splitlines()
    assert len(seen) == 5 + 2 * 3  # models, both means, and a midpoint of every pair, twice
    kinds = [line.split()[0] for line in seen[:5]]  # those of each model's own file; means are like the first
    assert kinds == ["BF16", "F32", "F32", "BF16", "BF16"]


def test_a_network_that_a_command_cannot_judge_is_named(rebasin: Rebasin, family: Path) -> None:
    (family / "eval.py").write_text(EVALUATE)
    (family / "fail").write_text("2")
    done = rebasin("merge", *MODELS[:2], "-o", "x.safetensors", "--eval-command", JUDGE)
    assert done.code == 3
    assert "1 networks of the merge could not be measured; model.2: the evaluation command ended" in done.err
    assert done.document["merge"]["failures"].keys() == {"model.2"}
    assert Path("x.safetensors").exists()
    (family / "seen").unlink()
    (family / "fail").write_text("1")
    early = rebasin("merge", *MODELS[:2], "-o", "y.safetensors", "--eval-command", JUDGE)
    assert (early.code, early.out) == (3, "")
    assert not Path("y.safetensors").exists()


ACTIVATIONS = (*MODELS, "-o", "x.safetensors", "--method", "activations")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (ACTIVATIONS, 2, "add --data"),
        ((*ACTIVATIONS, "--eval-command", "true {checkpoint}"), 2, "add --fit-data"),
        ((*ACTIVATIONS, "--data", "data.npz", "--algorithm", "hierarchical"), 2, "--algorithm cycle-consistent"),
        ((*ACTIVATIONS, "--data", "data.npz", "--algorithm", "frank-wolfe"), 2, "--algorithm cycle-consistent"),
        ((*MODELS, "-o", "x.safetensors", "--method", "ste"), 2, "'ste' is not one of"),
        ((*MODELS, "-o", "x.safetensors", "--tap", "h.0=fc.0"), 2, "--method weights looks at no activations"),
        ((*MODELS, "-o", "x.safetensors", "--eval-command", "eval.py"), 2, "{checkpoint}"),
        (
            (*MODELS, "-o", "x.safetensors", "--eval-command", "true {checkpoint}", "--data", "data.npz"),
            2,
            "two judges",
        ),
    ],
)
def test_refusals_of_judges_and_methods(
    rebasin: Rebasin, family: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    before = sorted(family.iterdir())
    done = rebasin("merge", *arguments)
    assert done.code == code, done.err
    assert says in done.err
    assert sorted(family.iterdir()) == before


def test_a_command_judges_models_with_names_of_their_own(rebasin: Rebasin, family: Path) -> None:
    """A wrapper on one side: each is judged under its own names, what lies between two under those of the first."""
    (family / "eval.py").write_text(EVALUATE.replace(
        'with open("seen"', "state = {key.removeprefix('module.'): t for key, t in state.items()}\nwith open('seen'"
    ))  # fmt: skip
    for name in ("m2", "m3"):
        state = load_file(f"{name}.safetensors")
        save(family / f"w{name}.safetensors", {f"module.{key}": t.bfloat16() for key, t in state.items()})
    models = ("m1.safetensors", "wm2.safetensors", "wm3.safetensors")
    done = rebasin("merge", *models, "-o", "x.safetensors", "--eval-command", JUDGE, "--steps", 3)
    assert done.code == 0, done.err
    scores = done.document["merge"]["scores"]
    assert scores["model.2"]["loss"] == pytest.approx(scores["model.1"]["loss"], rel=1e-2)
    assert all(pair["aligned"] is not None for pair in done.document["merge"]["pairs"])
