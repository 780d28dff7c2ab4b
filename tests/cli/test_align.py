"""`rebasin align`: what it writes, what it prints, and what it leaves alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rebasin_cli.report.codec import from_json, read_document
from tests.cli.conftest import Rebasin
from tests.small import DATA, mlp_state, save, shuffled

_FLOATS = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn)


def test_a_shuffled_copy_is_put_back_bit_by_bit(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("align", "a.safetensors", "b.safetensors")
    assert done.code == 0
    a, aligned = load_file("a.safetensors"), load_file("b.aligned.safetensors")
    assert list(a) == list(aligned)
    for key, tensor in a.items():
        assert torch.equal(tensor, aligned[key]), key
    distance = done.document["distance"]
    assert distance["after"] == 0
    assert distance["before"] > 1
    assert distance["cosine_after"] == pytest.approx(1, abs=1e-12)


def test_default_outputs_lie_beside_b_and_inputs_stay(rebasin: Rebasin, pair: Path) -> None:
    (pair / "elsewhere").mkdir()
    (pair / "b.safetensors").rename(pair / "elsewhere" / "b.v2.safetensors")
    before = {path: path.read_bytes() for path in pair.rglob("*.safetensors")}
    assert rebasin("align", "a.safetensors", "elsewhere/b.v2.safetensors").code == 0
    assert sorted(path.name for path in (pair / "elsewhere").iterdir()) == [
        "b.v2.aligned.safetensors", "b.v2.permutation.safetensors", "b.v2.rebasin.json", "b.v2.safetensors",
    ]  # fmt: skip
    for path, data in before.items():
        assert path.read_bytes() == data


def test_the_document_is_the_same_in_the_pipe_and_in_the_file(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("align", "a.safetensors", "b.safetensors")
    document = from_json(done.out, "stdout")
    assert document == read_document(Path("b.rebasin.json"))
    assert document.inputs["a"].sha256 == sha256((pair / "a.safetensors").read_bytes()).hexdigest()
    assert document.outputs == {
        "aligned": str(pair / "b.aligned.safetensors"),
        "permutation": str(pair / "b.permutation.safetensors"),
    }
    assert document.match is not None
    assert list(document.match.objective) == sorted(document.match.objective)


def test_metadata_is_bs_and_the_recipe(rebasin: Rebasin, pair: Path) -> None:
    assert rebasin("align", "a.safetensors", "b.safetensors", "--seed", 3).code == 0
    with safe_open("b.aligned.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata["note"] == "B's own"
    assert metadata["rebasin.inputs.a"] == sha256(Path("a.safetensors").read_bytes()).hexdigest()
    assert metadata["rebasin.inputs.b"] == sha256(Path("b.safetensors").read_bytes()).hexdigest()
    assert metadata["rebasin.spec.name"] == "mlp"
    assert len(metadata["rebasin.spec.sha256"]) == 64
    assert (metadata["rebasin.method"], metadata["rebasin.seed"]) == ("weights", "3")
    assert metadata["rebasin.version"]


@pytest.mark.parametrize("dtype", _FLOATS, ids=str)
def test_every_dtype_is_moved_bit_by_bit(rebasin: Rebasin, tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: tensor.to(dtype) for key, tensor in mlp_state(0).items()}
    a = save(tmp_path / "a.safetensors", state)
    b = tmp_path / "b.safetensors"
    integers = {
        key: tensor.view({1: torch.uint8, 2: torch.int16, 8: torch.int64}[dtype.itemsize])
        for key, tensor in state.items()
    }
    save_file({key: tensor.view(dtype) for key, tensor in shuffled(integers, 4).items()}, b)
    assert rebasin("align", a, b).code == 0
    aligned = load_file(tmp_path / "b.aligned.safetensors")
    for key, tensor in state.items():
        assert aligned[key].dtype == dtype
        assert torch.equal(aligned[key].view(torch.uint8), tensor.view(torch.uint8)), key


def test_named_outputs(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("align", "a.safetensors", "b.safetensors", "-o", "x.safetensors", "--report", "r.json")
    assert done.code == 0
    assert {path.name for path in pair.iterdir()} == {
        "a.safetensors", "b.safetensors", "data.npz", "x.safetensors", "x.permutation.safetensors", "r.json",
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes(rebasin: Rebasin, pair: Path) -> None:
    save(pair / "c.safetensors", mlp_state(9))
    for name in ("one", "two"):
        assert rebasin("align", "a.safetensors", "c.safetensors", "-o", f"{name}.safetensors", "--seed", 5).code == 0
    assert Path("one.safetensors").read_bytes() == Path("two.safetensors").read_bytes()
    assert Path("one.permutation.safetensors").read_bytes() == Path("two.permutation.safetensors").read_bytes()


def test_dry_run_plans_and_writes_nothing(rebasin: Rebasin, pair: Path) -> None:
    before = sorted(pair.iterdir())
    done = rebasin("align", "a.safetensors", "b.safetensors", "--dry-run")
    assert done.code == 0
    assert sorted(pair.iterdir()) == before
    plan = done.document["plan"]
    assert plan["targets"]["aligned"] == str(pair / "b.aligned.safetensors")
    assert plan["writes"] == sum(t.numel() * 4 for t in mlp_state(0).values())
    assert plan["peak_memory_bytes"] > 0
    assert done.document["architecture"]["dims"]["h.0"]["size"] == 8


def test_dry_run_refuses_what_the_run_would(rebasin: Rebasin, pair: Path) -> None:
    Path("b.aligned.safetensors").write_bytes(b"mine")
    assert rebasin("align", "a.safetensors", "b.safetensors", "--dry-run").code == 2


def test_identity_is_told(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("align", "a.safetensors", "a.safetensors", "-o", "x.safetensors")
    assert done.code == 0
    assert "identity" in done.err
    assert any("identity" in warning for warning in done.document["warnings"])
    quiet = rebasin("align", "a.safetensors", "a.safetensors", "-o", "y.safetensors", "-q")
    assert quiet.err == ""
    assert quiet.document["warnings"] == done.document["warnings"]


def test_freeze_keeps_a_dim_in_place(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("align", "a.safetensors", "b.safetensors", "--freeze", "h.0")
    assert done.code == 0
    dims = done.document["architecture"]["dims"]
    assert dims["h.0"]["moved"] == 0
    assert "--freeze" in dims["h.0"]["fixed"]
    assert dims["h.1"]["moved"] > 0
    assert done.document["architecture"]["options"]["freeze"] == ["h.0"]
    b, aligned = load_file("b.safetensors"), load_file("b.aligned.safetensors")
    assert torch.equal(b["fc.0.weight"], aligned["fc.0.weight"])


def test_a_spec_of_ones_own_is_said_to_be_unproved(rebasin: Rebasin, pair: Path) -> None:
    Path("own.yaml").write_text(
        "name: own\ntensors:\n"
        "  fc.0.weight: one _\n  fc.0.bias: one\n"
        "  fc.1.weight: two one\n  fc.1.bias: two\n"
        "  fc.2.weight: _ two\n  fc.2.bias: _\n"
    )
    done = rebasin("align", "a.safetensors", "b.safetensors", "--arch", "own.yaml")
    assert done.code == 0
    architecture = done.document["architecture"]
    assert architecture["proved"] is False
    assert architecture["file"] == str(pair / "own.yaml")
    assert "not a shipped spec" in done.err
    piped = rebasin("interpolate", "--steps", 3, stdin=done.out.encode())
    assert piped.code == 0
    assert piped.document["architecture"]["name"] == "own"


def test_ignored_tensors_may_be_missing_on_one_side(rebasin: Rebasin, pair: Path) -> None:
    save(pair / "c.safetensors", {**load_file("b.safetensors"), "ema.step": torch.tensor([7])})
    done = rebasin("align", "a.safetensors", "c.safetensors", "--ignore", "ema.*")
    assert done.code == 0, done.err  # a pattern is for A or for B
    done = rebasin("align", "a.safetensors", "c.safetensors", "--ignore", "emma.*", "-f")
    assert done.code == 2
    save(pair / "a2.safetensors", {**load_file("a.safetensors"), "ema.other": torch.zeros(3)})
    done = rebasin("align", "a2.safetensors", "c.safetensors", "--ignore", "ema.*", "-f")
    assert done.code == 0, done.err
    assert load_file("c.aligned.safetensors")["ema.step"].tolist() == [7]


def test_a_wrapper_on_one_side_stays_there(rebasin: Rebasin, pair: Path) -> None:
    save(pair / "c.safetensors", {f"module.{key}": tensor for key, tensor in load_file("b.safetensors").items()})
    done = rebasin("align", "a.safetensors", "c.safetensors")
    assert done.code == 0, done.err
    assert rebasin("align", "a.safetensors", "b.safetensors").code == 0
    plain, wrapped = load_file("b.aligned.safetensors"), load_file("c.aligned.safetensors")
    assert set(wrapped) == {f"module.{key}" for key in plain}
    assert all(torch.equal(wrapped[f"module.{key}"], plain[key]) for key in plain)


def test_a_head_of_other_classes_follows_its_inputs(rebasin: Rebasin, pair: Path) -> None:
    b = load_file("b.safetensors")
    save(pair / "c.safetensors", {**b, "fc.2.weight": torch.randn(100, 8), "fc.2.bias": torch.randn(100)})
    refused = rebasin("align", "a.safetensors", "c.safetensors")
    assert refused.code == 3
    option = re.search(r"--ignore '([^']*)'", refused.err)
    assert option, refused.err
    done = rebasin("align", "a.safetensors", "c.safetensors", "--ignore", option[1])
    assert done.code == 0, done.err
    one, two, x = load_file("c.safetensors"), load_file("c.aligned.safetensors"), torch.randn(5, 32)
    assert torch.allclose(outputs(one, x), outputs(two, x), atol=1e-5)
    assert not torch.equal(one["fc.0.weight"], two["fc.0.weight"])
    assert rebasin("apply", "c.permutation.safetensors", "c.safetensors", "-o", "again.safetensors",
                   "--ignore", option[1]).code == 0  # fmt: skip
    assert all(torch.equal(tensor, two[key]) for key, tensor in load_file("again.safetensors").items())


def test_the_head_of_one_that_the_other_lacks_moves(rebasin: Rebasin, pair: Path) -> None:
    Path("own.yaml").write_text(
        "tensors:\n  fc.0.weight: h _\n  fc.0.bias: h\n  fc.1.weight: k h\n  fc.1.bias: k\n"
        "  fc.2.weight?: _ k\n  fc.2.bias?: _\n"
    )
    a = {key: tensor for key, tensor in load_file("a.safetensors").items() if not key.startswith("fc.2")}
    save(pair / "a2.safetensors", a)
    done = rebasin("align", "a2.safetensors", "b.safetensors", "--arch", "own.yaml")
    assert done.code == 0, done.err
    assert "in B and not in A: 2 tensors (fc.2.bias, fc.2.weight)" in done.err
    one, two, x = load_file("b.safetensors"), load_file("b.aligned.safetensors"), torch.randn(5, 32)
    assert torch.allclose(outputs(one, x), outputs(two, x), atol=1e-5)
    assert not torch.equal(one["fc.2.weight"], two["fc.2.weight"])


def outputs(state: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """What the perceptron of `mlp_state` makes of `x`."""
    for layer in range(3):
        x = x @ state[f"fc.{layer}.weight"].T + state[f"fc.{layer}.bias"]
        x = x.relu() if layer < 2 else x
    return x


def test_sharded_folder_in_folder_out(rebasin: Rebasin, pair: Path) -> None:
    state = load_file("b.safetensors")
    folder = pair / "model"
    folder.mkdir()
    first = {key: tensor for key, tensor in state.items() if key.startswith("fc.0")}
    rest = {key: tensor for key, tensor in state.items() if key not in first}
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for name, part in zip(names, (first, rest), strict=True):
        save(folder / name, part)
    weight_map = {**dict.fromkeys(first, names[0]), **dict.fromkeys(rest, names[1])}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    done = rebasin("align", "a.safetensors", "model/")
    assert done.code == 0, done.err
    out = pair / "model.aligned"
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "config.json", "model.safetensors.index.json"])
    assert set(load_file(out / names[0])) == set(first)
    assert torch.equal(load_file(out / names[0])["fc.0.weight"], load_file("a.safetensors")["fc.0.weight"])


@pytest.mark.parametrize(
    "how", [(), ("--quality", "high"), ("--method", "frank-wolfe"), ("--method", "sinkhorn"), ("--restarts", 4)]
)
def test_a_trained_network_and_itself(rebasin: Rebasin, pair: Path, how: tuple[object, ...]) -> None:
    """Some of its units are as good as dead, so that rounding would choose among them."""
    a = DATA / "digits_mlp_a.safetensors"
    save(pair / "copy.safetensors", load_file(a), {"note": "other bytes, the same weights"})
    for b, said in ((a, "the same file"), (pair / "copy.safetensors", "the identity is the optimum")):
        done = rebasin("align", a, b, "-o", "out.safetensors", "--force", *how)
        assert done.code == 0, done.err
        assert {dim["moved"] for dim in done.document["architecture"]["dims"].values()} == {0.0}
        assert done.document["distance"]["after"] == 0.0
        assert [said in text for text in done.document["warnings"]] == [True]
        assert all(torch.equal(load_file("out.safetensors")[key], tensor) for key, tensor in load_file(a).items())


@pytest.mark.parametrize("how", [(), ("--quality", "fast"), ("--method", "frank-wolfe"), ("--restarts", 4)])
def test_gains_are_what_the_objective_rose(rebasin: Rebasin, pair: Path, how: tuple[object, ...]) -> None:
    a, b = (DATA / f"digits_mlp_{name}.safetensors" for name in "ab")
    done = rebasin("align", a, b, "-o", "out.safetensors", *how)
    objective = done.document["match"]["objective"]
    dims = done.document["architecture"]["dims"].values()
    assert sum(dim.get("gain", 0.0) for dim in dims) == pytest.approx(objective[-1] - objective[0])
    assert min(dim["gain"] for dim in dims if "gain" in dim) > 1


@pytest.mark.parametrize(
    "words", [("align", "a.safetensors", "b.safetensors"), ("merge", "a.safetensors", "b.safetensors")]
)
def test_a_plan_is_shown_where_the_checkpoint_would_be_streamed(
    rebasin: Rebasin, pair: Path, words: tuple[str, ...]
) -> None:
    planned = rebasin(*words, "-o", "-", "--dry-run")
    assert planned.code == 0, planned.err
    assert planned.document["plan"]["peak_memory_bytes"] > 0
