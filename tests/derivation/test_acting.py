"""Signs, scales and maps that are derived with a spec: those that the network has, in the places where they act."""

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
from rebasin_cli.evaluation.libraries import library
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


def rotated(found: Derivation) -> set[str]:
    """The families with maps."""
    return set(found.proof.rotations.families) if found.proof.rotations else set()


@pytest.mark.parametrize(
    ("function", "signs", "scales"),
    [(torch.relu, False, True), (torch.tanh, True, False), (F.gelu, False, False), (F.leaky_relu, False, True)],
)
def test_what_a_function_keeps_is_found(function: Callable[[Tensor], Tensor], signs: bool, scales: bool) -> None:
    units = {"a", "b"}
    derivation = found(Perceptron(function), 4)
    assert said(derivation) == (units if signs else set(), units if scales else set())
    assert rotated(derivation) == set()


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
    assert signs == scales == rotated(derivation)
    text = derivation.text
    marked = [line for line in text.splitlines() if "/" in line]
    assert len(marked) == 2, text
    assert {line.strip().split(".")[0] for line in marked} in ({"q"}, {"k"})


@pytest.mark.parametrize(
    ("name", "signs", "scales", "rotations"),
    [
        ("nanogpt", {"qk", "v"}, {"qk", "v"}, {"qk", "v"}),
        ("encoder", {"qk", "v"}, {"qk", "v", "linear1"}, {"qk", "v"}),
        ("chain", set(), {"ch", "h"}, set()),
        ("glu", {"a", "b"}, {"a", "b"}, set()),
        ("norm first", {"qk", "v"}, {"qk", "v"}, {"embed", "qk", "v"}),
        ("grouped rotary", {"o", "v", "up"}, {"v", "up"}, {"o", "v"}),
        ("bottlenecks", set(), {"stem", "conv1", "conv2"}, set()),
        ("gru", set(), set(), set()),
        ("mixture", {"qk", "v"}, {"qk", "v"}, {"qk", "v"}),  # experts by key read its stream
    ],
)
def test_networks_have_what_they_have(name: str, signs: set[str], scales: set[str], rotations: set[str]) -> None:
    assert said(derived(name)) == (signs, scales)
    assert rotated(derived(name)) == rotations


def test_queries_and_keys_in_one_tensor_are_told_apart() -> None:
    lines = {line.strip() for line in derived("nanogpt").text.splitlines()}
    fused = "(head.{i} qk.{i}) + (head.{i} /qk.{i}) + (head.{i} v.{i})"
    other = "(head.{i} /qk.{i}) + (head.{i} qk.{i}) + (head.{i} v.{i})"
    assert lines & {f"blocks.{{i}}.qkv.weight: {text} embed" for text in (fused, other)}


def test_gates_in_one_tensor_with_what_they_gate_stand_in_bars() -> None:
    assert "a.weight: a + |a| _" in derived("glu").text


class Linear(nn.Module):
    """Two linear layers with nothing between, and two with a norm of every unit's own between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 5)
        self.gain = nn.Parameter(torch.randn(5))
        self.c = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(self.a(x)) * self.gain))


def test_what_is_between_two_linear_layers_has_maps() -> None:
    assert rotated(found(Linear(), 4)) == {"a"}


@pytest.mark.parametrize("scaled", [None, 0.5])
def test_a_library_vit_is_rotated_unless_its_units_are_scaled(scaled: float | None) -> None:
    vit_of = library("timm.models.vision_transformer").VisionTransformer
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 5}
    derivation = found(vit_of(**sizes, mlp_ratio=2, init_values=scaled), 3, 8, 8)
    assert said(derivation) == ({"qk", "v"}, {"qk", "v"})
    assert rotated(derivation) == {"qk", "v"} | (set() if scaled else {"embed"})
    norm = "blocks.{i}.norm1.weight: blocks.{i}.norm1.bias blocks.{i}.attn.qkv.weight"
    assert (norm in derivation.text) is (scaled is None)


@pytest.mark.parametrize("tied", [False, True])
def test_a_gpt2_of_a_library_is_rotated_unless_its_head_is_tied(tied: bool) -> None:
    transformers = library("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=7, n_embd=12, n_layer=2, n_head=3, tie_word_embeddings=tied
    )
    config._attn_implementation = "eager"
    derivation = derive(transformers.GPT2LMHeadModel(config), torch.randint(11, (4, 6)))
    assert said(derivation) == ({"qk", "v"}, {"qk", "v"})
    assert rotated(derivation) == {"qk", "v"} | (set() if tied else {"embed"})
    assert (" keeping ones" in derivation.text) is not tied


class Normed(nn.Module):
    """Layers with a norm behind each, in lists, and a head: of all norms it reads the last alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in ((5, 8), (8, 9), (9, 7)))
        self.norms = nn.ModuleList(nn.LayerNorm(n) for n in (8, 9, 7))
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        return self.head(x)


def test_a_norm_whose_line_is_that_of_others_is_left_out() -> None:
    """The head does not tell the number of the norm that it reads: a spec that says so is refused."""
    found = derive(Normed(), torch.randn(5, 5))
    assert sorted(found.proof.layout.moving()) == ["layers.0", "layers.1", "layers.2"]
    assert not found.spec.norms


def test_what_is_not_proved_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(judge: Judge, made: Candidate, seed: int) -> Candidate:
        draft = replace(made.draft, signs=frozenset(made.draft.names))
        return replace(made, draft=draft, spec=parse_spec(spec_text(draft), "wrong.yaml"))

    monkeypatch.setattr(deriving, "with_acting", wrong)
    assert said(found(Perceptron(torch.relu), 4)) == (set(), set())


class Policy(nn.Module):
    """Torch's distributions refuse what is not a number, as of a variance below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh()), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=self.head(self.body(x))).logits


def test_signs_that_the_code_refuses_are_none() -> None:
    assert said(found(Policy(), 4)) == (set(), set())
