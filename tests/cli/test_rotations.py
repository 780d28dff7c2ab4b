"""`--symmetry rotations` on the commands that match or apply: a small GPT-2, planted and undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.permutation.files import save_permutation
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.proofs.subjects.modules import randomise
from rebasin_cli.spec import Request, bind, find_spec
from tests.cli.conftest import Rebasin
from tests.small import save
from tests.small_gpts import sequences, trained

SIZES = {
    "n_embd": 32, "n_head": 4, "n_layer": 2, "n_inner": 24, "n_positions": 16, "vocab_size": 40, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
PAIR = ("align", "a", "b", "--symmetry", "rotations", "-o", "out")
SAVED = "out.permutation.safetensors"


def network(**more: Any) -> Any:
    transformers = library("transformers")
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**SIZES, "tie_word_embeddings": False, **more}))


def logits(state: dict[str, Tensor]) -> Tensor:
    model = network()
    model.load_state_dict(state)
    with torch.no_grad():
        found: Tensor = model.eval()(torch.arange(12)[None]).logits
    return found


def state_of(folder: str) -> dict[str, Tensor]:
    return load_file(f"{folder}/model.safetensors")


def plant(folder: Path, a: dict[str, Tensor], spec: str, config: dict[str, Any]) -> None:
    """Write a folder a, and a folder b with A and noise, permuted and rotated."""
    shapes = {key: tuple(tensor.shape) for key, tensor in a.items()}
    layout = bind(find_spec(spec), shapes, Request(config, rotations=True))
    noisy = {key: tensor + 1e-3 * torch.randn_like(tensor) for key, tensor in a.items()}
    b = dict(permuted(Permutation.random(layout, 1), layout, noisy))
    for name, state in (("a", a), ("b", b)):
        (folder / name).mkdir()
        save(folder / name / "model.safetensors", {key: t.float().contiguous() for key, t in state.items()})
        (folder / name / "config.json").write_text(json.dumps(config))


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders a and b, B being A with noise, permuted and rotated."""
    monkeypatch.chdir(tmp_path)
    a = {key: tensor.clone() for key, tensor in randomise(network()).state_dict().items()}
    config = {**SIZES, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "tie_word_embeddings": False}
    plant(tmp_path, a, "gpt2", config)
    return tmp_path


def test_align_rotates_and_apply_does_and_undoes_it(rebasin: Rebasin, planted: Path) -> None:
    done = rebasin(*PAIR)
    assert done.code == 0, done.err
    assert "rounded once" in done.err
    document = done.document
    assert document["distance"]["after"] < 0.5 < document["distance"]["before"]
    assert document["architecture"]["checked"]["error"] < 1e-5
    assert document["architecture"]["dims"]["embed"]["symmetry"] == "rotations"
    assert document["architecture"]["dims"]["embed"]["moved"] == 1.0
    a, b, out = state_of("a"), state_of("b"), state_of("out")
    torch.testing.assert_close(logits(out), logits(b), rtol=1e-5, atol=1e-5)
    assert max(float((out[key] - a[key]).abs().max()) for key in a) < 0.1
    assert max(float((b[key] - a[key]).abs().max()) for key in a) > 1
    with safe_open(SAVED, "pt") as file:
        assert file.metadata()["format"] == "rebasin.permutation/4"
    assert rebasin("apply", SAVED, "b", "-o", "there").code == 0
    there = state_of("there")
    assert all(torch.equal(there[key], out[key]) for key in out)
    back = rebasin("apply", SAVED, "there", "--inverse", "-o", "back")
    assert back.code == 0, back.err
    torch.testing.assert_close(state_of("back"), b, rtol=1e-5, atol=1e-5)


def test_rotary_pairs_are_rotated_applied_and_undone(
    rebasin: Rebasin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    transformers = library("transformers")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 16, "tie_word_embeddings": False,
    }  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()
    a = {key: tensor.double() for key, tensor in randomise(model).state_dict().items()}
    plant(tmp_path, a, "llama", {**sizes, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})

    def answers(folder: str) -> Tensor:
        model.load_state_dict(state_of(folder))
        with torch.no_grad():
            found: Tensor = model.float()(torch.arange(12)[None]).logits
        return found

    done = rebasin(*PAIR)
    assert done.code == 0, done.err
    assert done.document["distance"]["after"] < 0.5 < done.document["distance"]["before"]
    dims = done.document["architecture"]["dims"]
    assert dims["rope.0"]["symmetry"] == "rotations"
    assert dims["rope.0"]["moved"] == 1.0
    assert "at identity: rope" not in done.err
    torch.testing.assert_close(answers("out"), answers("b"), rtol=1e-4, atol=1e-5)
    maps = load_file(SAVED)
    assert maps["map:rope.0"].shape == (2, 8, 8)
    assert "rope.0" not in maps
    assert rebasin("apply", SAVED, "b", "-o", "there").code == 0
    there, out = state_of("there"), state_of("out")
    assert all(torch.equal(there[key], out[key]) for key in out)
    assert rebasin("apply", SAVED, "out", "--inverse", "-o", "back").code == 0
    torch.testing.assert_close(state_of("back"), state_of("b"), rtol=1e-5, atol=1e-5)
    plain = rebasin("align", "a", "b", "--symmetry", "rotations", "--freeze", "rope", "-o", "plain")
    assert plain.code == 0, plain.err
    assert plain.document["distance"]["after"] > 2 * done.document["distance"]["after"]


def test_interpolate_writes_the_mean_of_a_and_b_rotated(rebasin: Rebasin, planted: Path) -> None:
    assert rebasin(*PAIR).code == 0
    for name, given in (("half", ("--symmetry", "all")), ("saved", ("--permutation", SAVED))):
        done = rebasin("interpolate", "a", "b", *given, "--at", 0.5, "-o", name)
        assert done.code == 0, done.err
        a, out, half = state_of("a"), state_of("out"), state_of(name)
        torch.testing.assert_close(half, {key: (a[key] + out[key]) / 2 for key in a}, rtol=1e-5, atol=1e-6)


def test_half_precision_is_rounded_once(rebasin: Rebasin, planted: Path) -> None:
    b = {key: tensor.bfloat16() for key, tensor in state_of("b").items()}
    save(planted / "b" / "model.safetensors", b)
    done = rebasin(*PAIR)
    assert done.code == 0, done.err
    arrays, out = load_file(SAVED), state_of("out")
    wide = b["transformer.wte.weight"].double()[:, arrays["embed"]] @ arrays["map:embed"].T
    assert torch.equal(out["transformer.wte.weight"], wide.bfloat16())


@pytest.mark.parametrize("symmetry", ["rotations", "all"])
def test_maps_are_learned_by_a_loss_and_applied_as_others(
    rebasin: Rebasin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symmetry: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        save(tmp_path / f"{name}.safetensors", trained(seed))
    drawn = sequences(1000, 4).numpy()
    np.savez(tmp_path / "data.npz", inputs=drawn[:, :-1], targets=drawn[:, 1:])
    whose = ("--arch", "gpt2", "--set", "head=2", "--network", "tests.small_gpts:make", "--data", "data.npz")
    done = rebasin(
        "align", "a.safetensors", "b.safetensors", *whose, "--symmetry", symmetry, "--method", "ste", "--epochs", 3,
        "--fit-batch-size", 64, "-o", "out.safetensors",
    )  # fmt: skip
    assert done.code == 0, done.err
    match = done.document["match"]
    assert match["method"] == "ste"
    assert min(match["losses"]) < match["losses"][0]
    assert done.document["architecture"]["checked"]["error"] < 1e-5
    assert done.document["architecture"]["dims"]["embed"]["symmetry"] == "rotations"
    with safe_open(SAVED, "pt") as file:
        assert file.metadata()["format"] == "rebasin.permutation/4"
    assert rebasin("apply", SAVED, "b.safetensors", "--set", "head=2", "-o", "there.safetensors").code == 0
    there, out = load_file("there.safetensors"), load_file("out.safetensors")
    assert all(torch.equal(there[key], out[key]) for key in out)
    barriers = {}
    for method in ("weights", "ste"):
        how = ("--method", method) if method == "weights" else ("--permutation", SAVED)
        judged = rebasin(
            "interpolate", "a.safetensors", "b.safetensors", *whose, *how, "--steps", 3,
            *(("--symmetry", symmetry) if method == "weights" else ()),
        )  # fmt: skip
        assert judged.code == 0, judged.err
        barriers[method] = judged.document["barrier"]["aligned"]["barrier"]
    assert barriers["ste"] < 0.8 * barriers["weights"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("merge", "a", "b", "--symmetry", "rotations", "--algorithm", "frank-wolfe", "-o", "x"), "rotates none"),
        (("merge", "a", "b", "--symmetry", "rotations", "--method", "sinkhorn", "-o", "x"), "rotates nothing"),
        (("align", "a", "b", "c", "--symmetry", "rotations", "--method", "sinkhorn", "-o", "x"), "rotates nothing"),
        ((*PAIR, "--method", "frank-wolfe"), "use --method weights or ste"),
        ((*PAIR, "--method", "activations", "--data", "x.npz"), "rotates nothing"),
        ((*PAIR, "--method", "ste"), "add --data"),
        ((*PAIR, "--freeze", "embed", "--freeze", "qk", "--freeze", "v"), "rotates no dim that may move"),
    ],
)
def test_what_cannot_be_rotated_is_refused(
    rebasin: Rebasin, planted: Path, arguments: tuple[str, ...], says: str
) -> None:
    refused = rebasin(*arguments)
    assert refused.code == 2
    assert says in refused.err
    assert not Path("x").exists()


def test_a_file_without_maps_is_applied_without_rotations(rebasin: Rebasin, planted: Path) -> None:
    a = state_of("a")
    a["transformer.ln_f.weight"][3] = 0  # no rotation could be
    layout = bind(
        find_spec("gpt2"), {key: tuple(t.shape) for key, t in a.items()}, Request(SIZES, signs=True, scales=True)
    )
    save(planted / "b" / "model.safetensors", a)
    save_permutation(planted / "p.safetensors", Permutation.random(layout, 1), layout, inputs={})
    for given in (
        ("apply", "p.safetensors", "b"),
        ("interpolate", "a", "b", "--permutation", "p.safetensors", "--at", 1),
    ):
        done = rebasin(*given, "-o", f"by-{given[0]}")
        assert done.code == 0, done.err
        assert "rotat" not in done.err
        torch.testing.assert_close(logits(state_of(f"by-{given[0]}")), logits(a), rtol=1e-5, atol=1e-5)


@pytest.fixture
def three(planted: Path) -> Path:
    """A third folder, c: B with noise, permuted and rotated again."""
    b = state_of("b")
    shapes = {key: tuple(tensor.shape) for key, tensor in b.items()}
    layout = bind(find_spec("gpt2"), shapes, Request(SIZES, rotations=True))
    noisy = {key: tensor + 1e-3 * torch.randn_like(tensor) for key, tensor in b.items()}
    (planted / "c").mkdir()
    moved = permuted(Permutation.random(layout, 2), layout, noisy)
    save(planted / "c" / "model.safetensors", {key: tensor.contiguous() for key, tensor in moved.items()})
    (planted / "c" / "config.json").write_bytes((planted / "b" / "config.json").read_bytes())
    return planted


@pytest.mark.parametrize("symmetry", ["rotations", "all"])
def test_merge_writes_the_mean_of_rotated_models_and_their_maps(rebasin: Rebasin, three: Path, symmetry: str) -> None:
    done = rebasin("merge", "a", "b", "c", "--symmetry", symmetry, "-o", "merged")
    assert done.code == 0, done.err
    record = done.document["merge"]
    assert all(pair["after"] < 1 < pair["before"] for pair in record["pairs"])
    assert list(record["objective"]) == sorted(record["objective"])
    torch.testing.assert_close(logits(state_of("merged")), logits(state_of("a")), rtol=0, atol=0.1)
    assert float((logits(state_of("a")) - logits(state_of("c"))).abs().max()) > 1e-4
    ordered = [state_of("a")]
    for number, name in ((2, "b"), (3, "c")):
        applied = rebasin("apply", f"merged.{number}.permutation.safetensors", name, "-o", f"there-{name}")
        assert applied.code == 0, applied.err
        ordered.append(state_of(f"there-{name}"))
        torch.testing.assert_close(logits(ordered[-1]), logits(state_of(name)), rtol=1e-5, atol=1e-5)
    mean = {key: sum(state[key] for state in ordered) / 3 for key in ordered[0]}
    torch.testing.assert_close(state_of("merged"), mean, rtol=1e-5, atol=1e-6)


def test_merge_by_frank_wolfe_leaves_rotations_out_of_all(rebasin: Rebasin, planted: Path) -> None:
    done = rebasin("merge", "a", "b", "--symmetry", "all", "--algorithm", "frank-wolfe", "-o", "merged")
    assert done.code == 0, done.err
    assert "rotations are left out" in done.err


def test_three_trained_models_have_a_better_mean_rotated(
    rebasin: Rebasin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [f"{name}.safetensors" for name in "abc"]
    for seed, file in enumerate(files):
        save(tmp_path / file, trained(seed))
    drawn = sequences(1000, 4).numpy()
    np.savez(tmp_path / "data.npz", inputs=drawn[:, :-1], targets=drawn[:, 1:])
    whose = ("--arch", "gpt2", "--set", "head=2", "--network", "tests.small_gpts:make", "--data", "data.npz")
    losses = {}
    for symmetry, more in (("permutations", ()), ("rotations", ()), ("all", ("--restarts", 2))):
        done = rebasin(
            "merge", *files, *whose, "--symmetry", symmetry, *more, "--steps", 3, "-o", f"{symmetry}.safetensors"
        )
        assert done.code == 0, done.err
        assert ("two starts of their own" in done.err) == bool(more)
        losses[symmetry] = done.document["merge"]["scores"]["merged"]["loss"]
    single = done.document["merge"]["scores"]["model.1"]["loss"]
    assert losses["rotations"] - single < 0.6 * (losses["permutations"] - single)
    assert losses["all"] - single < 0.6 * (losses["permutations"] - single)


def test_many_are_rotated_onto_the_first_as_each_is_alone(rebasin: Rebasin, three: Path) -> None:
    assert rebasin(*PAIR).code == 0
    done = rebasin("align", "a", "b", "c", "--symmetry", "rotations", "-o", "many")
    assert done.code == 0, done.err
    assert (three / "many/b/model.safetensors").read_bytes()[-1000:] == (three / "out/model.safetensors").read_bytes()[
        -1000:
    ]
    assert all(member["distance"]["after"] < 1 for member in done.document["members"]["members"])


def test_many_are_rotated_into_one_order(rebasin: Rebasin, three: Path) -> None:
    done = rebasin("align", "a", "b", "c", "--symmetry", "rotations", "--together", "-o", "many")
    assert done.code == 0, done.err
    for member in done.document["members"]["members"]:
        assert member["distance"]["after"] < 1 < member["distance"]["before"]
    for name in "bc":
        torch.testing.assert_close(logits(state_of(f"many/{name}")), logits(state_of(name)), rtol=1e-5, atol=1e-5)


def test_a_merge_refuses_gains_of_zero(rebasin: Rebasin, three: Path) -> None:
    c = state_of("c")
    c["transformer.ln_f.weight"][3] = 0
    save(three / "c" / "model.safetensors", c)
    refused = rebasin("merge", "a", "b", "c", "--symmetry", "rotations", "-o", "merged")
    assert refused.code == 3
    assert "ln_f.weight has gains of 0" in refused.err


def test_a_spec_without_rotations_says_which_have_some(rebasin: Rebasin, pair: Path) -> None:
    refused = rebasin("align", "a.safetensors", "b.safetensors", "--symmetry", "rotations")
    assert refused.code == 2
    assert "the spec `mlp` rotates no dim" in refused.err
    assert "docs/families.md tells which specs have rotations" in " ".join(refused.err.split())


def tie(*folders: str) -> None:
    """Make the head of networks the embedding, stored under both names."""
    for folder in folders:
        state = state_of(folder)
        save(Path(folder) / "model.safetensors", {**state, "lm_head.weight": state["transformer.wte.weight"].clone()})


@pytest.mark.parametrize(
    "call",
    [
        PAIR,
        ("interpolate", "a", "b", "--symmetry", "all", "--at", 1, "-o", "out"),
        ("merge", "a", "b", "--symmetry", "rotations", "--weights", "0.001,999.999", "-o", "out"),
        ("align", "a", "b", "b2", "--symmetry", "rotations", "--together", "-o", "many"),
    ],
    ids=["align", "interpolate", "merge", "together"],
)
def test_a_stored_tied_head_keeps_its_stream_unrotated(rebasin: Rebasin, planted: Path, call: tuple[Any, ...]) -> None:
    tie("a", "b")
    (planted / "b2").mkdir()
    for file in (planted / "b").iterdir():
        (planted / "b2" / file.name).write_bytes(file.read_bytes())
    done = rebasin(*call)
    assert done.code == 0, done.err
    told = " ".join(done.err.split())
    assert "embed is not rotated: lm_head.weight and transformer.wte.weight are equal" in told
    out = state_of("many/b" if call[-1] == "many" else "out")
    assert torch.equal(out["lm_head.weight"], out["transformer.wte.weight"])
    if call[0] != "merge":
        torch.testing.assert_close(logits(out), logits(state_of("b")), rtol=1e-4, atol=1e-5)
    if call == PAIR:
        dims = done.document["architecture"]["dims"]
        assert (dims["embed"].get("symmetry"), dims["v.0"]["symmetry"]) == (None, "rotations")
        applied = rebasin("apply", SAVED, "b", "-o", "there")
        assert applied.code == 0, applied.err
        assert all(torch.equal(tensor, out[key]) for key, tensor in state_of("there").items())


def test_a_head_tied_in_a_alone_is_no_hindrance(rebasin: Rebasin, planted: Path) -> None:
    tie("a")
    done = rebasin(*PAIR)
    assert done.code == 0, done.err
    assert done.document["architecture"]["dims"]["embed"]["symmetry"] == "rotations"
    torch.testing.assert_close(logits(state_of("out")), logits(state_of("b")), rtol=1e-4, atol=1e-5)


def test_gains_of_zero_keep_the_stream(rebasin: Rebasin, planted: Path) -> None:
    b = state_of("b")
    b["transformer.ln_f.weight"][3] = 0
    save(planted / "b" / "model.safetensors", b)
    refused = rebasin(*PAIR)
    assert refused.code == 3
    assert "ln_f.weight has gains of 0" in refused.err
    assert rebasin(*PAIR, "--freeze", "embed").code == 0


@pytest.mark.parametrize("lacks", ["a", "b"])
def test_a_stream_that_can_be_rotated_in_one_end_alone_is_not(rebasin: Rebasin, planted: Path, lacks: str) -> None:
    states = {name: state_of(name) for name in "ab"}
    kept = {key: tensor for key, tensor in states[lacks].items() if key != "lm_head.weight"}
    save(planted / lacks / "model.safetensors", kept)
    done = rebasin(*PAIR)
    assert done.code == 0, done.err
    assert "embed is not rotated" in done.err
    dims = done.document["architecture"]["dims"]
    assert (dims["embed"].get("symmetry"), dims["v.0"]["symmetry"]) == (None, "rotations")
    ends = [{"lm_head.weight": state["transformer.wte.weight"], **state} for state in map(state_of, ("b", "out"))]
    torch.testing.assert_close(*map(logits, ends), rtol=1e-4, atol=1e-5)
