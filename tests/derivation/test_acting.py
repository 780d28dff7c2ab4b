"""Signs and scales that are derived with a spec: those that the network has, in the places where they act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rebasin_cli.derivation.derive as deriving
from rebasin_cli.derivation.candidate import Candidate, Judge
from rebasin_cli.derivation.derive import Derivation, derive
from rebasin_cli.derivation.writing import spec_text
from rebasin_cli.spec.language.loading import parse_spec
from tests.derivation.test_derive import derived


class Perceptron(nn.Module):
    """Two hidden layers of 6 and 5 units."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.function(self.b(self.function(self.a(x)))))


class Gated(nn.Module):
    """An MLP of 7 units whose gate is fed by a layer of its own, behind a norm that keeps signs."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(4, 6), nn.Linear(6, 3)
        self.gate, self.up, self.down = nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(7, 6)
        self.norm = nn.RMSNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        read = self.norm(x)
        return self.out(self.norm(x + self.down(F.silu(self.gate(read)) * self.up(read))))


class Attention(nn.Module):
    """Two heads of 5 query and 3 value dims with layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 10), nn.Linear(4, 10), nn.Linear(4, 6)
        self.o = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.q(x), self.k(x), self.v(x)))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def found(module: nn.Module, *shape: int) -> Derivation:
    torch.manual_seed(0)
    return derive(module, torch.randn(4, *shape, generator=torch.Generator().manual_seed(1)))


def said(found: Derivation) -> tuple[set[str], set[str]]:
    """The families with signs and with scales."""
    assert found.proof.holds, found.proof.describe()
    return tuple(set(proof.families) if proof else set() for proof in (found.proof.signs, found.proof.scales))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("function", "signs", "scales"),
    [(torch.relu, False, True), (torch.tanh, True, False), (F.gelu, False, False), (F.leaky_relu, False, True)],
)
def test_what_a_function_keeps_is_found(function: Callable[[Tensor], Tensor], signs: bool, scales: bool) -> None:
    units = {"a", "b"}
    assert said(found(Perceptron(function), 4)) == (units if signs else set(), units if scales else set())


def test_gates_and_gains_stand_in_bars() -> None:
    derivation = found(Gated(), 5, 4)
    signs, scales = said(derivation)
    assert scales == {"gate"}
    assert signs == {"gate", "inp"}
    lines = [line.strip() for line in derivation.text.splitlines()]
    assert 'gate.weight: "|gate| inp"' in lines
    assert "up.weight: gate inp" in lines
    assert "down.weight: inp gate" in lines
    assert 'norm.weight: "|inp|"' in lines


def test_keys_are_divided_where_queries_are_multiplied() -> None:
    derivation = found(Attention(), 5, 4)
    signs, scales = said(derivation)
    assert len(signs) == 2
    assert signs == scales
    text = derivation.text
    marked = [line for line in text.splitlines() if "/" in line]
    assert len(marked) == 2, text
    assert {line.strip().split(".")[0] for line in marked} in ({"q"}, {"k"})


@pytest.mark.parametrize(
    ("name", "signs", "scales"),
    [
        ("nanogpt", {"qk", "v"}, {"v"}),
        ("encoder", {"qk", "v"}, {"v", "linear1"}),
        ("chain", set(), {"ch", "h"}),
        ("glu", {"b"}, {"b"}),
        ("grouped rotary", {"o", "v"}, {"v"}),
        ("bottlenecks", set(), {"stem", "conv1", "conv2"}),
        ("gru", set(), set()),
    ],
)
def test_networks_have_what_they_have(name: str, signs: set[str], scales: set[str]) -> None:
    assert said(derived(name)) == (signs, scales)


def test_what_is_not_proved_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(judge: Judge, made: Candidate, seed: int) -> Candidate:
        draft = replace(made.draft, signs=frozenset(made.draft.names))
        return replace(made, draft=draft, spec=parse_spec(spec_text(draft), "wrong.yaml"))

    monkeypatch.setattr(deriving, "with_acting", wrong)
    assert said(found(Perceptron(torch.relu), 4)) == (set(), set())
