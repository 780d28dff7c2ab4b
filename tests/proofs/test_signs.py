"""What a proof says of signs and scales that are right, wrong, or of which the network tells nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rebasin_cli.proofs.proof import SIGNED_ELEMENTS, Proof, prove
from rebasin_cli.proofs.subjects.modules import module_subject, randomise
from rebasin_cli.spec.language.loading import parse_spec

SPEC = """
signs:
  - s
  - m
tensors:
  stem.weight: s _
  norm.weight: "|s|"
  gate.weight: "|m| s"
  up.weight: m s
  down.weight: s m
  head.weight: _ s
"""


class Gated(nn.Module):
    """A stream with one gated MLP before it."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(5, 6, bias=False), nn.RMSNorm(6)
        self.gate, self.up = nn.Linear(6, 7, bias=False), nn.Linear(6, 7, bias=False)
        self.down, self.head = nn.Linear(7, 6, bias=False), nn.Linear(6, 5, bias=False)
        self.inner = inner or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.stem(x)
        n = self.norm(s)
        return self.head(s + self.down(torch.sigmoid(self.gate(n)) * self.inner(self.up(n))))


def proof(text: str, module: nn.Module | None = None) -> Proof:
    torch.manual_seed(0)
    subject = module_subject("a test network", randomise(module or Gated()), (torch.randn(8, 5, dtype=torch.float64),))
    return prove(parse_spec(text), subject)


def test_right_signs_are_proved() -> None:
    found = proof(SPEC)
    assert found.holds
    assert found.signs is not None
    assert found.signs.families == ("s", "m")
    assert found.signs.elements == SIGNED_ELEMENTS
    assert found.signs.error < 1e-12
    assert "with signs of s, m turned" in found.describe()


class _Fused(nn.Module):
    """Products of two halves of one layer's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(5, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.both(x).chunk(2, -1)
        return (one * two).sum(-1, keepdim=True)


def test_signs_that_act_twice_on_one_tensor_are_proved() -> None:
    text = "signs:\n  - h\ntensors:\n  both.weight: h + h _\n"
    assert proof(text, _Fused()).holds
    broken = proof(text.replace("h + h", "h + |h|"), _Fused())
    assert broken.signs is not None
    assert broken.signs.breaking == ("h",)


class _Chain(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.stem, self.between, self.head = nn.Linear(5, 6), between, nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.between(self.stem(x)))


CHAIN = "scales:\n  - h{needs}\ntensors:\n  stem.bias: h\n  stem.weight: h _\n  head.weight: _ h\n  head.bias: _\n"


def test_right_scales_are_proved() -> None:
    found = proof(CHAIN.format(needs=""), _Chain(nn.LeakyReLU()))
    assert found.holds
    assert found.scales is not None
    assert found.scales.error < 1e-12
    assert "with scales of h changed" in found.describe()


def test_wrong_scales_are_refuted() -> None:
    found = proof(CHAIN.format(needs=""), _Chain(nn.GELU()))
    assert not found.holds
    assert "changing scales of h alone breaks the function" in found.describe()
    misplaced = SPEC.replace("tensors:", "scales:\n  - m\ntensors:").replace("down.weight: s m", "down.weight: s /m")
    assert proof(SPEC.replace("tensors:", "scales:\n  - m\ntensors:")).holds
    assert not proof(misplaced).holds


def test_scales_that_need_relu_are_no_fault_without_it() -> None:
    with_relu, without = (proof(CHAIN.format(needs=" before ReLU"), _Chain(each)) for each in (nn.ReLU(), nn.GELU()))
    assert with_relu.holds
    assert without.holds
    assert "the scales of h do not hold here" in without.describe()


def test_an_odd_unit_keeps_the_signs() -> None:
    assert proof(SPEC, Gated(nn.Tanh())).holds


@pytest.mark.parametrize(
    ("old", "new", "family"),
    [('"|s|"', "s", "s"), ('"|m| s"', "m s", "m"), ("up.weight: m s", 'up.weight: "|m| s"', "m")],
)
def test_signs_that_act_in_the_wrong_place_are_found(old: str, new: str, family: str) -> None:
    found = proof(SPEC.replace(old, new))
    assert not found.holds
    assert found.error < 1e-12  # the permutations are right
    assert found.signs is not None
    assert found.signs.breaking == (family,)
    assert f"turning signs of {family} alone breaks the function" in found.describe()


def test_a_unit_that_is_not_odd_has_no_signs() -> None:
    found = proof(SPEC, Gated(nn.ReLU()))
    assert not found.holds
    assert found.signs is not None
    assert found.signs.breaking == ("m",)


def test_signs_that_the_network_cannot_tell_are_not_proved() -> None:
    text = SPEC.replace("down.weight: s m", "down.weight: s |m|")  # on rows whose squares are taken
    found = proof(text, Gated(_Square()))
    assert found.signs is not None
    assert found.signs.error < 1e-12
    assert found.signs.untold == ("m",)
    assert "the outputs do not depend on signs of m" in found.describe()


class _Square(nn.Module):
    """Even, so that signs on its side alone are another symmetry."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.square()


def test_a_spec_without_signs_has_no_proof_of_them() -> None:
    plain = SPEC.replace("|", "").replace("signs:\n  - s\n  - m\n", "")
    assert proof(plain).signs is None
