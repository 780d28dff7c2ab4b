"""`--symmetry signs` on every command that matches or applies: a stream under RMSNorm, planted and undone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import log10
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import rebasin_cli
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from tests.cli.conftest import Rebasin
from tests.signed_networks import SIGNED, signed_layout, signed_state
from tests.small import save, save_pair

SIGNS = ("--arch", "stream.yaml", "--set", "head_dim=4", "--symmetry", "signs")


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A in bfloat16, and B, the same network with its units permuted and signs of theirs turned."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stream.yaml").write_text("name: stream\n" + SIGNED["stream"].text)
    a = {key: tensor.bfloat16() for key, tensor in signed_state("stream", 1).items()}
    layout = signed_layout("stream")
    b = dict(permuted(Permutation.random(layout, 4), layout, a))
    for name, state in (("a", a), ("b", b)):
        save(tmp_path / f"{name}.safetensors", {key: tensor.contiguous() for key, tensor in state.items()})
    return tmp_path


def same_bits(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[key].view(torch.int16), two[key].view(torch.int16)) for key in two)


def test_align_turns_signs_and_apply_does_and_undoes_it(rebasin: Rebasin, planted: Path) -> None:
    done = rebasin("align", "a.safetensors", "b.safetensors", *SIGNS, "--restarts", 5)
    assert done.code == 0, done.err
    a, b, aligned = (load_file(f"{name}.safetensors") for name in ("a", "b", "b.aligned"))
    assert same_bits(aligned, a)
    assert done.document["distance"]["after"] == 0
    assert done.document["architecture"]["options"]["symmetry"] == "signs"
    dims = done.document["architecture"]["dims"]
    assert {name for name, dim in dims.items() if dim.get("symmetry") == "signs"} == {"s", "v", "m"}
    assert 0 < dims["s"]["turned"] < 1
    arguments = ("b.permutation.safetensors", "--arch", "stream.yaml")
    assert rebasin("apply", *arguments, "b.safetensors", "-o", "there.safetensors").code == 0
    assert same_bits(load_file("there.safetensors"), a)
    back = rebasin("apply", *arguments, "a.safetensors", "--inverse", "-o", "back.safetensors")
    assert back.code == 0
    assert back.document["architecture"]["dims"]["s"]["turned"] == dims["s"]["turned"]
    assert same_bits(load_file("back.safetensors"), b)


def test_interpolate_and_merge_take_signs(rebasin: Rebasin, planted: Path) -> None:
    a = load_file("a.safetensors")
    given = ("a.safetensors", "b.safetensors", *SIGNS, "--restarts", 5)
    assert rebasin("interpolate", *given, "--at", 0.5, "-o", "half.safetensors").code == 0
    assert same_bits(load_file("half.safetensors"), a)
    assert rebasin("merge", *given, "-o", "merged.safetensors").code == 0
    torch.testing.assert_close(load_file("merged.safetensors"), a, rtol=0, atol=0)
    document = rebasin("align", *given).out
    piped = rebasin("interpolate", "--at", 0.5, "-o", "piped.safetensors", stdin=document.encode())
    assert piped.code == 0, piped.err
    assert same_bits(load_file("piped.safetensors"), a)


def test_without_it_no_sign_is_turned(rebasin: Rebasin, planted: Path) -> None:
    done = rebasin("align", "a.safetensors", "b.safetensors", "--arch", "stream.yaml", "--set", "head_dim=4")
    assert done.code == 0
    architecture = done.document["architecture"]
    assert "symmetry" not in architecture["options"]
    assert not any(dim.keys() & {"symmetry", "turned"} for dim in architecture["dims"].values())
    assert all(bool((perm >= 0).all()) for perm in load_file("b.permutation.safetensors").values())


def test_arch_show_names_the_dims_with_signs(rebasin: Rebasin, planted: Path) -> None:
    shown = rebasin("arch", "show", "stream.yaml", "--json").document
    assert {name for name, dim in shown["architecture"]["dims"].items() if dim.get("symmetry")} == {"s", "v", "m"}
    assert shown["tensors"]["gate"]["pattern"] == "|m| s"


def test_every_unit_with_a_sign_counts_twice(rebasin: Rebasin, planted: Path) -> None:
    given = ("arch", "show", "stream.yaml", "a.safetensors", "--set", "head_dim=4", "--count")
    architecture = rebasin(*given, "--json").document["architecture"]
    signs = 10 + 2 * 5 + 12  # of the stream, the value dims of each head, the MLP
    assert architecture["log10_signs"] == pytest.approx(signs * log10(2))
    total = architecture["log10_symmetries"] + architecture["log10_signs"]
    assert f"10^{total:.1f} with signs" in rebasin(*given).out


def test_a_plane_has_b_with_its_signs_turned(rebasin: Rebasin, planted: Path) -> None:
    (planted / "far.py").write_text(
        "from safetensors.torch import load_file\n"
        "A = load_file('a.safetensors')\n"
        "import sys\n"
        "state = load_file(sys.argv[1])\n"
        "print(sum(float((state[key].double() - A[key].double()).square().sum()) for key in A) ** 0.5)\n"
    )
    a = load_file("a.safetensors")
    save(planted / "b.safetensors", {k: t + 0.01 if k == "out" else t for k, t in load_file("b.safetensors").items()})
    given = ("a.safetensors", "b.safetensors", *SIGNS, "--restarts", 5, "--steps", 2)
    done = rebasin("plane", *given, "--eval-command", f"{sys.executable} far.py {{checkpoint}}", "--json")
    assert done.code == 0, done.err
    points = done.document["plane"]["points"]
    assert points["π(B)"]["x"] == pytest.approx(done.document["distance"]["after"], rel=1e-6)
    assert points["π(B)"]["loss"] == pytest.approx(points["π(B)"]["x"], rel=1e-2)
    assert points["π(B)"]["loss"] < 0.02 * a["out"].numel() < points["B"]["loss"]


@pytest.mark.filterwarnings("ignore::rebasin_cli.RebasinWarning")  # the spec does not ship
def test_a_function_turns_signs_by_a_keyword(planted: Path) -> None:
    found = rebasin_cli.align(
        "a.safetensors", "b.safetensors", spec="stream.yaml", set={"head_dim": 4}, symmetry="signs", restarts=5
    )
    assert same_bits(found.aligned, load_file("a.safetensors"))
    again = rebasin_cli.apply(found.permutation, "b.safetensors", spec="stream.yaml")
    assert same_bits(again.applied, load_file("a.safetensors"))
    assert found.permutation.saved.signs_sha256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("integers", "is of type I8, whose elements have no sign bit"),
        ("frozen", "gives signs to no dim that may move"),
        ("activations", "--method activations turns no signs"),
    ],
)
def test_what_signs_cannot_be_is_refused(change: str, said: str, rebasin: Rebasin, planted: Path) -> None:
    given: tuple[object, ...] = ("a.safetensors", "b.safetensors", *SIGNS)
    if change == "integers":
        for name in ("a", "b"):
            state = load_file(f"{name}.safetensors")
            save(planted / f"{name}.safetensors", {**state, "up": state["up"].to(torch.int8)})
    elif change == "frozen":
        given = (*given, *(option for dim in ("s", "v", "m") for option in ("--freeze", dim)))
    else:
        _, _, data = save_pair(planted / "data") if (planted / "data").mkdir() is None else ()  # type: ignore[misc]
        given = (*given, "--method", "activations", "--data", data)
    done = rebasin("align", *given)
    assert done.code in (2, 3)
    assert said in done.err
    assert not Path("b.aligned.safetensors").exists()


def test_b_may_have_names_of_its_own(rebasin: Rebasin, planted: Path) -> None:
    b = load_file("b.safetensors")
    save(planted / "b.safetensors", {f"module.{key}": tensor for key, tensor in b.items()})
    done = rebasin("align", "a.safetensors", "b.safetensors", *SIGNS, "--restarts", 5)
    assert done.code == 0, done.err
    aligned = {key.removeprefix("module."): t for key, t in load_file("b.aligned.safetensors").items()}
    assert same_bits(aligned, load_file("a.safetensors"))
