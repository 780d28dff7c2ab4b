"""`rebasin interpolate`: curves, barrier, gate, and checkpoints along the path."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rebasin_cli.report.codec import from_json
from tests.cli.conftest import Rebasin
from tests.small import mlp_state, save


def test_naive_and_aligned_curves(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("interpolate", "a.safetensors", "b.safetensors", "--steps", 5, "--data", "data.npz")
    assert done.code == 0, done.err
    barrier = done.document["barrier"]
    assert barrier["lambda"] == [0, 0.25, 0.5, 0.75, 1]
    assert barrier["examples"] == 60
    naive, aligned = barrier["naive"], barrier["aligned"]
    assert naive["barrier"] > 0.05
    # B is A shuffled, so that the aligned path stays where it is: the labels are A's own answers.
    assert aligned["barrier"] == pytest.approx(0, abs=1e-6)
    assert aligned["accuracy"] == [1.0] * 5
    assert naive["loss"][0] == aligned["loss"][0]
    assert naive["loss"][-1] == pytest.approx(aligned["loss"][-1], abs=1e-6)


def test_without_data_there_is_no_barrier_and_a_note_says_so(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("interpolate", "a.safetensors", "b.safetensors")
    assert done.code == 0
    assert "barrier" not in done.document
    assert done.document["distance"]["after"] == 0
    assert "--data" in done.err
    assert sorted(path.name for path in pair.iterdir()) == ["a.safetensors", "b.safetensors", "data.npz"]


def test_no_align_is_the_naive_path_alone(rebasin: Rebasin, pair: Path) -> None:
    arguments = ("interpolate", "a.safetensors", "b.safetensors", "--no-align", "--data", "data.npz", "--steps", 3)
    document = rebasin(*arguments).document
    assert "aligned" not in document["barrier"]
    assert "match" not in document
    assert document["distance"]["after"] == document["distance"]["before"]


def test_a_given_permutation_is_taken_and_nothing_matched(rebasin: Rebasin, pair: Path) -> None:
    rebasin("align", "a.safetensors", "b.safetensors")
    arguments = ("interpolate", "a.safetensors", "b.safetensors", "--permutation", "b.permutation.safetensors")
    done = rebasin(*arguments, "--data", "data.npz", "--steps", 3)
    assert done.code == 0
    assert "match" not in done.document
    assert done.document["barrier"]["aligned"]["accuracy"] == [1.0, 1.0, 1.0]
    assert "permutation" in done.document["inputs"]


def test_a_permutation_of_other_checkpoints_is_told(rebasin: Rebasin, pair: Path) -> None:
    rebasin("align", "a.safetensors", "b.safetensors")
    save(pair / "c.safetensors", mlp_state(4))
    done = rebasin("interpolate", "a.safetensors", "c.safetensors", "--permutation", "b.permutation.safetensors")
    assert done.code == 0
    assert "another B" in done.err


def test_one_point_as_a_checkpoint(rebasin: Rebasin, pair: Path) -> None:
    save(pair / "c.safetensors", mlp_state(4))
    arguments = ("interpolate", "a.safetensors", "c.safetensors", "--no-align", "--at", 0.25, "-o", "m.safetensors")
    done = rebasin(*arguments)
    assert done.code == 0, done.err
    a, c, merged = (load_file(name) for name in ("a.safetensors", "c.safetensors", "m.safetensors"))
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, 0.75 * a[key] + 0.25 * c[key])
    assert done.document["outputs"]["merged"] == str(pair / "m.safetensors")
    assert json.loads(Path("m.rebasin.json").read_text())["outputs"]["merged"] == "m.safetensors"
    with safe_open("m.safetensors", "pt") as opened:
        assert opened.metadata()["rebasin.lambda"] == "0.25"


def test_every_point_as_a_checkpoint(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("interpolate", "a.safetensors", "b.safetensors", "--steps", 3, "-o", "points")
    assert done.code == 0, done.err
    names = [f"lam-{lam}.safetensors" for lam in ("0.0000", "0.5000", "1.0000")]
    assert sorted(path.name for path in (pair / "points").iterdir()) == [*names, "rebasin-points.json"]
    a = load_file("a.safetensors")
    for name in names:  # B is A shuffled: every point of the aligned path is A
        for key, tensor in load_file(f"points/{name}").items():
            torch.testing.assert_close(tensor, a[key])
    assert Path("points.rebasin.json").is_file()


def test_points_that_names_cannot_tell_apart_are_refused(rebasin: Rebasin, pair: Path) -> None:
    path = ("interpolate", "a.safetensors", "b.safetensors", "-o", "points", "--dry-run", "--steps")
    done = rebasin(*path, 10_002)
    assert (done.code, "10,002 checkpoints cannot be told apart" in done.err) == (2, True), done.err
    advised = re.search(r"--steps (\d+)", done.err)
    assert advised
    assert rebasin(*path, advised[1]).code == 0


def test_integers_and_dtypes_are_as_and_it_says_so(rebasin: Rebasin, pair: Path) -> None:
    a = {key: tensor.half() for key, tensor in load_file("a.safetensors").items()}
    save(pair / "a16.safetensors", {**a, "steps": torch.tensor([3])})
    save(pair / "b32.safetensors", {**load_file("b.safetensors"), "steps": torch.tensor([5])})
    arguments = (
        "interpolate",
        "a16.safetensors",
        "b32.safetensors",
        "--ignore",
        "steps",
        "--at",
        0.5,
        "-o",
        "m.safetensors",
    )
    done = rebasin(*arguments)
    assert done.code == 0, done.err
    merged = load_file("m.safetensors")
    assert merged["steps"].tolist() == [3]
    assert merged["fc.0.weight"].dtype == torch.float16
    assert "steps" in done.err
    assert "F16" in done.err


def test_the_gate_fails_after_everything_is_written(rebasin: Rebasin, pair: Path) -> None:
    arguments = (
        "interpolate",
        "a.safetensors",
        "b.safetensors",
        "--data",
        "data.npz",
        "--steps",
        5,
        "--report",
        "r.json",
    )
    failed = rebasin(*arguments, "--no-align", "--max-barrier", 0.01)
    assert failed.code == 1
    assert "--max-barrier 0.01" in failed.err
    assert from_json(Path("r.json").read_text(), "r.json").barrier is not None
    passed = rebasin(*arguments, "--force", "--max-barrier", 0.01)
    assert passed.code == 0


def test_ends_near_chance_are_told(rebasin: Rebasin, pair: Path) -> None:
    state = {key: torch.zeros_like(tensor) for key, tensor in mlp_state(0).items()}
    save(pair / "z.safetensors", state)
    done = rebasin("interpolate", "a.safetensors", "z.safetensors", "--data", "data.npz", "--steps", 3)
    assert done.code == 0, done.err
    assert "B is right on" in done.err
    assert "A is right on" not in done.err


def test_the_plot_is_a_png(rebasin: Rebasin, pair: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ("interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz", "--steps", 3, "--plot", "p.png")
    assert rebasin(*arguments).code == 0
    assert Path("p.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_save_permutation_makes_it_reusable(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("interpolate", "a.safetensors", "b.safetensors", "--save-permutation", "p.safetensors")
    assert done.document["outputs"]["permutation"] == str(pair / "p.safetensors")
    assert rebasin("apply", "p.safetensors", "b.safetensors", "-o", "x.safetensors").code == 0
    assert torch.equal(load_file("x.safetensors")["fc.1.weight"], load_file("a.safetensors")["fc.1.weight"])


# -- a document that comes through the pipe ----------------------------------------------------------------


def test_a_piped_document_is_worked_on_and_nothing_matched_again(rebasin: Rebasin, pair: Path) -> None:
    before = rebasin("align", "a.safetensors", "b.safetensors")
    elsewhere = pair / "elsewhere"
    elsewhere.mkdir()
    with pytest.MonkeyPatch.context() as moved:
        moved.chdir(elsewhere)
        done = rebasin("interpolate", "--steps", 3, "--data", "../data.npz", stdin=before.out.encode())
    assert done.code == 0, done.err
    old, new = before.document, done.document
    assert new["command"] == "interpolate"
    assert new["match"] == old["match"]
    assert new["outputs"] == old["outputs"]
    assert {role: new["inputs"][role] for role in ("a", "b")} == old["inputs"]
    assert "error" not in old["architecture"].pop("checked")
    assert new["architecture"].pop("checked")["error"] < 1e-12
    assert new["architecture"] == old["architecture"]
    assert new["barrier"]["aligned"]["accuracy"] == [1.0, 1.0, 1.0]


def test_a_piped_document_takes_the_permutation_as_it_is(rebasin: Rebasin, pair: Path) -> None:
    """Even a bad one: proof that nothing is matched anew."""
    before = rebasin("align", "a.safetensors", "b.safetensors", "--max-sweeps", 1, "--freeze", "h.1")
    done = rebasin("interpolate", "--steps", 3, "--data", "data.npz", stdin=before.out.encode())
    assert done.code == 0, done.err
    assert done.document["distance"] == before.document["distance"]
    assert done.document["barrier"]["aligned"]["barrier"] > 0.01


def test_explicit_checkpoints_win_over_the_pipe(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("interpolate", "a.safetensors", "a.safetensors", "--no-align", stdin=b"no document at all")
    assert done.code == 0


def test_a_file_that_changed_since_is_refused(rebasin: Rebasin, pair: Path) -> None:
    before = rebasin("align", "a.safetensors", "b.safetensors")
    save(pair / "b.safetensors", mlp_state(8))
    done = rebasin("interpolate", "--steps", 3, stdin=before.out.encode())
    assert done.code == 3
    assert "b.safetensors has changed" in done.err


def test_a_permutation_that_was_replaced_is_refused(rebasin: Rebasin, pair: Path) -> None:
    before = rebasin("align", "a.safetensors", "b.safetensors")
    save(pair / "c.safetensors", mlp_state(8))
    rebasin("align", "a.safetensors", "c.safetensors")
    Path("c.permutation.safetensors").replace("b.permutation.safetensors")
    done = rebasin("interpolate", stdin=before.out.encode())
    assert done.code == 3
    assert "was replaced" in done.err


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (b"", 2, "the command before the pipe failed"),
        (b"\n", 2, "the command before the pipe failed"),
        (b"hello", 3, "not a run document"),
        (b"[]", 3, "not a run document"),
        (b'{"schema_version": 2}', 3, "schema_version 2"),
        (b'{"schema_version": 1, "command": "align", "wings": 2}', 3, "unknown field `wings`"),
        (b'{"schema_version": 1, "command": "align"}', 3, "names no checkpoint A"),
        (b'{"schema_version": 1, "command": 7}', 3, "got `int`, at `command`"),
    ],
)
def test_what_is_no_document_is_refused(rebasin: Rebasin, pair: Path, text: bytes, code: int, says: str) -> None:
    done = rebasin("interpolate", stdin=text)
    assert done.code == code
    assert says in done.err
    assert done.out == ""


def test_a_document_without_an_architecture_is_refused(rebasin: Rebasin, pair: Path) -> None:
    entry = {"path": str(pair / "a.safetensors"), "sha256": None}
    text = json.dumps({"schema_version": 1, "command": "x", "inputs": {"a": entry, "b": entry}})
    done = rebasin("interpolate", stdin=text.encode())
    assert done.code == 3
    assert "no architecture" in done.err


def test_a_weight_of_its_own_and_the_arc(rebasin: Rebasin, pair: Path) -> None:
    base = ("interpolate", "a.safetensors", "b.safetensors", "--no-align", "--steps", 3, "--at", 0.5)
    assert rebasin(*base, "-o", "x.safetensors", "--weight", "fc.0.*=0", "--weight", "fc.1.bias=1").code == 0
    a, b, x = (load_file(f"{name}.safetensors") for name in "abx")
    assert torch.equal(x["fc.0.weight"], a["fc.0.weight"])
    assert torch.equal(x["fc.1.bias"], b["fc.1.bias"])
    assert torch.equal(x["fc.1.weight"], torch.lerp(a["fc.1.weight"], b["fc.1.weight"], 0.5))
    assert rebasin(*base, "-o", "y.safetensors", "--combine", "slerp").code == 0
    key = "fc.1.weight"
    assert float(load_file("y.safetensors")[key].norm()) == pytest.approx(float(a[key].norm()), rel=1e-5)


def test_the_best_point_is_the_one_with_the_lowest_loss(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin(
        "interpolate", "a.safetensors", "b.safetensors", "--no-align", "--data", "data.npz", "--steps", 5,
        "--at", "best", "-o", "x.safetensors",
    )  # fmt: skip
    assert done.code == 0, done.err
    losses = done.document["barrier"]["naive"]["loss"]
    inside = min(losses[1:-1])
    lam = done.document["barrier"]["lambda"][losses.index(inside)]
    assert 0 < lam < 1
    assert done.document["at"] == lam
    assert f"λ = {lam:g}" in done.err
    assert min(losses) < inside  # both ends know it all
    (said,) = (text for text in done.document["warnings"] if "no merge is better" in text)
    assert "A alone has" in said
    a, b = load_file("a.safetensors"), load_file("b.safetensors")
    for key, tensor in load_file("x.safetensors").items():
        assert torch.equal(tensor, torch.lerp(a[key], b[key], lam))


ADVICE = [
    (), ("--quality", "high"), ("--restarts", "3"), ("--method", "frank-wolfe"), ("--method", "activations"),
    ("--method", "ste", "--epochs", "1"), ("--method", "sinkhorn"), ("--resume", "run.json"),
]  # fmt: skip


@pytest.mark.parametrize("options", ADVICE, ids=str)
def test_what_a_failed_gate_recommends_works(rebasin: Rebasin, pair: Path, options: tuple[str, ...]) -> None:
    save(pair / "c.safetensors", mlp_state(5))
    run = ("interpolate", "a.safetensors", "c.safetensors", "--data", "data.npz", "--steps", "3", "--max-barrier", "-1")
    failed = rebasin(*run, *options)
    assert failed.code == 1
    assert "--seed" not in failed.err
    (found,) = re.findall(r"`([^`]+)` may find", failed.err)
    again = rebasin(*run, *options, *found.split())
    assert again.code == 1, again.err
    assert again.document["match"] != failed.document["match"]


def test_a_gate_after_a_pipe_recommends_a_command_that_works(rebasin: Rebasin, pair: Path) -> None:
    save(pair / "c.safetensors", mlp_state(5))
    before = rebasin("align", "a.safetensors", "c.safetensors")
    failed = rebasin(
        "interpolate", "--data", "data.npz", "--steps", "3", "--max-barrier", "-1", stdin=before.out.encode()
    )
    assert failed.code == 1
    (found,) = re.findall(r"`rebasin ([^`]+)` may find", failed.err)
    again = rebasin(*shlex.split(found), "--force")
    assert again.code == 0, again.err
    assert len(again.document["match"]["trials"]) > len(before.document["match"]["trials"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--at", "best", "-o", "x.safetensors"), "--data"),
        (("--at", "beast", "-o", "x.safetensors"), "not a number from 0 to 1"),
        (("--at", "0.5", "-o", "x.safetensors", "--weight", "nowhere*=0.3"), "no tensor is called so"),
        (("--at", "0.5", "-o", "x.safetensors", "--weight", "fc.*=1.5"), "not a number from 0 to 1"),
        (("--at", "0.5", "-o", "x.safetensors", "--weight", "fc.*=x"), "not a number"),
        (("--weight", "fc.*=0.3"), "--at"),
        (("--at", "best", "-o", "x.safetensors", "--data", "data.npz", "--steps", "2"), "--steps 3"),
    ],
)
def test_weights_and_points_that_make_no_sense(
    rebasin: Rebasin, pair: Path, options: tuple[str, ...], says: str
) -> None:
    done = rebasin("interpolate", "a.safetensors", "b.safetensors", *options)
    assert done.code == 2
    assert says in done.err
    assert not Path("x.safetensors").exists()


@pytest.mark.parametrize("pattern", ["fc.2.*", "fc.0.bias", "fc.1.weight"])
def test_the_end_of_the_path_is_b_whatever_is_ignored(rebasin: Rebasin, pair: Path, pattern: str) -> None:
    options = ("--data", "data.npz", "--steps", 3)
    plain = rebasin("interpolate", "a.safetensors", "b.safetensors", *options).document["barrier"]
    done = rebasin("interpolate", "a.safetensors", "b.safetensors", "--ignore", pattern, *options)
    for curve in ("naive", "aligned"):
        assert done.document["barrier"][curve]["loss"][-1] == pytest.approx(plain[curve]["loss"][-1], rel=1e-5)


def test_what_only_b_has_is_left_out_and_said(rebasin: Rebasin, pair: Path) -> None:
    state = load_file("a.safetensors")
    save(pair / "c.safetensors", {key: tensor for key, tensor in state.items() if key != "fc.1.bias"})
    done = rebasin("interpolate", "c.safetensors", "b.safetensors", "--data", "data.npz", "--steps", 3)
    assert done.code == 0, done.err
    assert "B is not measured and mixed as it is: 1 tensor (fc.1.bias) are left out" in done.err


@pytest.mark.parametrize("classes", [5, 100])
def test_a_head_of_other_classes_stays_as(rebasin: Rebasin, pair: Path, classes: int) -> None:
    b = load_file("b.safetensors")
    save(pair / "c.safetensors", {**b, "fc.2.weight": torch.randn(classes, 8), "fc.2.bias": torch.randn(classes)})
    options = ("--ignore", "fc.2.*", "--at", 1, "-o", "end.safetensors")
    done = rebasin("interpolate", "a.safetensors", "c.safetensors", *options)
    assert done.code == 0, done.err
    assert torch.equal(load_file("end.safetensors")["fc.2.weight"], load_file("a.safetensors")["fc.2.weight"])
    assert "fc.2.weight" in done.err.partition("B is not measured and mixed as it is")[2]
    curve = rebasin("interpolate", "a.safetensors", "c.safetensors", *options[:2], "--data", "data.npz", "--steps", 3)
    assert curve.code == 0, curve.err
    merged = rebasin("merge", "a.safetensors", "c.safetensors", "b.safetensors", "-o", "m.safetensors", *options[:2],
                     "--data", "data.npz")  # fmt: skip
    assert merged.code == 3, merged.err  # the second model cannot be measured by the first one's network
    assert "model.2" in merged.err
    assert load_file("m.safetensors").keys() == load_file("a.safetensors").keys()
