"""`--symmetry scales` on the commands that match or apply: a ReLU network, planted and undone."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Request, bind, find_spec
from tests.cli.conftest import Rebasin
from tests.small import save

PAIR = ("align", "a.safetensors", "b.safetensors", "--symmetry", "scales")
NETWORK = """
import torch
from torch import nn

def relu():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(5, 4)

def tanh():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)), torch.randn(5, 4)
"""


def relu_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


def write_pair(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """A, and B, the same network with its units permuted and scaled; B is returned."""
    a = {key: tensor.to(dtype) for key, tensor in relu_network().state_dict().items()}
    layout = bind(find_spec("mlp"), {key: tuple(tensor.shape) for key, tensor in a.items()}, Request(scales=True))
    b = {key: tensor.contiguous() for key, tensor in permuted(Permutation.random(layout, 1), layout, a).items()}
    for name, state in (("a", a), ("b", b)):
        save(folder / f"{name}.safetensors", state)
    return b


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets_of_scales", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    write_pair(tmp_path, torch.float32)
    (tmp_path / "nets_of_scales.py").write_text(NETWORK)
    return tmp_path


def assert_near(one: str, two: str, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(load_file(one), load_file(two), rtol=tolerance, atol=tolerance)


def test_a_member_is_as_far_away_as_it_is_alone(rebasin: Rebasin, planted: Path) -> None:
    """Both are distances of the balanced forms, in which networks are compared whose units are scaled."""
    alone = rebasin(*PAIR)
    many = rebasin(*PAIR, "-o", "out", "--together")
    assert (alone.code, many.code) == (0, 0), alone.err + many.err
    (member,) = many.document["members"]["members"]
    assert member["distance"]["before"] == pytest.approx(alone.document["distance"]["before"])
    assert member["distance"]["after"] < 1e-5


def test_the_sides_of_a_plane_are_distances_of_the_weights(rebasin: Rebasin, planted: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    b = {key: t + 0.1 * torch.randn(t.shape, generator=generator) for key, t in load_file("b.safetensors").items()}
    save(planted / "b.safetensors", b)
    np.savez(planted / "d.npz", inputs=np.ones((6, 4), np.float32), targets=np.arange(6) % 3)
    assert rebasin(*PAIR).code == 0
    done = rebasin(
        "plane", "a.safetensors", "b.safetensors", "--symmetry", "scales", "--data", "d.npz", "--steps", "2",
        "--permutation", "b.permutation.safetensors",
    )  # fmt: skip
    assert done.code == 0, done.err
    ends = {"A": "a.safetensors", "B": "b.safetensors", "π(B)": "b.aligned.safetensors"}
    states = {name: torch.cat([t.flatten() for _, t in sorted(load_file(f).items())]) for name, f in ends.items()}
    places = {name: (point["x"], point["y"]) for name, point in done.document["plane"]["points"].items()}
    for one, two in itertools.combinations(ends, 2):
        side = float((states[one] - states[two]).norm())
        assert math.dist(places[one], places[two]) == pytest.approx(side, rel=1e-5), (one, two)


def test_align_scales_and_apply_does_and_undoes_it(rebasin: Rebasin, planted: Path) -> None:
    done = rebasin(*PAIR)
    assert done.code == 0, done.err
    assert "only where ReLU or leaky ReLU follows" in done.err
    assert "rounded once" in done.err
    assert_near("b.aligned.safetensors", "a.safetensors")
    assert done.document["distance"]["after"] < 1e-5 < done.document["distance"]["before"]
    assert done.document["architecture"]["options"]["symmetry"] == "scales"
    assert {d["symmetry"] for d in done.document["architecture"]["dims"].values() if d.get("symmetry")} == {"scales"}
    with safe_open("b.permutation.safetensors", "pt") as file:
        assert file.metadata()["format"] == "rebasin.permutation/3"
        assert "scales:h.0" in file.keys()  # noqa: SIM118  (a file, no mapping)
    assert rebasin("apply", "b.permutation.safetensors", "b.safetensors", "-o", "there.safetensors").code == 0
    assert load_file("there.safetensors").keys() == load_file("a.safetensors").keys()
    assert_near("there.safetensors", "b.aligned.safetensors", 0.0)
    back = rebasin("apply", "b.permutation.safetensors", "a.safetensors", "--inverse", "-o", "back.safetensors")
    assert back.code == 0, back.err
    assert_near("back.safetensors", "b.safetensors")


def test_interpolate_and_merge_take_scales(rebasin: Rebasin, planted: Path) -> None:
    given = PAIR[1:]
    assert rebasin("interpolate", *given, "--at", 0.5, "-o", "half.safetensors").code == 0
    assert rebasin("merge", *given, "-o", "merged.safetensors").code == 0
    document = rebasin(*PAIR).out
    assert rebasin("interpolate", "--at", 0.5, "-o", "piped.safetensors", stdin=document.encode()).code == 0
    for name in ("half", "merged", "piped"):
        assert_near(f"{name}.safetensors", "a.safetensors")


def test_half_precision_is_rounded_once(rebasin: Rebasin, planted: Path) -> None:
    b = write_pair(planted, torch.bfloat16)
    assert rebasin(*PAIR, "--force").code == 0
    aligned, scales = load_file("b.aligned.safetensors"), load_file("b.permutation.safetensors")
    wide = b["0.bias"].double()[scales["h.0"]] * scales["scales:h.0"]
    assert torch.equal(aligned["0.bias"], wide.bfloat16())


def test_a_network_that_is_run_refutes_the_scales(rebasin: Rebasin, planted: Path) -> None:
    assert rebasin(*PAIR, "--network", "nets_of_scales:relu").code == 0
    refused = rebasin(*PAIR, "--arch", "mlp", "--network", "nets_of_scales:tanh", "-o", "other.safetensors")
    assert refused.code == 3
    assert "the network is another" in refused.err
    assert not Path("other.safetensors").exists()


def test_where_no_dim_has_scales_it_says_so(rebasin: Rebasin, planted: Path) -> None:
    refused = rebasin(*PAIR, "--freeze", "h")
    assert refused.code == 2
    assert "gives scales to no dim" in refused.err


def test_damaged_scales_are_refused(rebasin: Rebasin, planted: Path) -> None:
    assert rebasin(*PAIR).code == 0
    with safe_open("b.permutation.safetensors", "pt") as file:
        metadata = file.metadata()
    arrays = load_file("b.permutation.safetensors")
    arrays["scales:h.0"][0] = -1
    save(planted / "damaged.safetensors", arrays, metadata)
    refused = rebasin("apply", "damaged.safetensors", "b.safetensors", "-o", "x.safetensors")
    assert refused.code == 3
    assert "not positive numbers" in refused.err
