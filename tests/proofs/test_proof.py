"""What a proof says of specs that are right, wrong in one dim, or that prove nothing."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.proofs.proof import Subject, prove
from rebasin_cli.proofs.subjects.modules import module_subject, randomise
from rebasin_cli.proofs.subjects.user import user_subject
from rebasin_cli.spec import PermutationSpec, load_spec

RIGHT = """
dims:
  h.2: fixed
tensors:
  net.{i}.weight: h.{i} h.{prev i}
  net.{i}.bias: h.{i}
"""


class Chain(nn.Module):
    """Linear, ReLU, linear; and a layer nobody listens to."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Deaf(Chain):
    """Runs a layer and throws its result away."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(5, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.side(x)
        return super().forward(x)


def subject(module: nn.Module) -> Subject:
    torch.manual_seed(0)
    return module_subject("a test network", randomise(module), (torch.randn(4, 5, dtype=torch.float64),))


def spec(text: str, folder: Path) -> PermutationSpec:
    path = folder / "s.yaml"
    path.write_text(text)
    return load_spec(path)


def test_a_right_spec_is_proved(tmp_path: Path) -> None:
    proof = prove(spec(RIGHT, tmp_path), subject(Chain()))
    assert proof.holds
    assert proof.error < 1e-12
    assert "unchanged" in proof.describe()


def test_a_wrong_spec_names_the_dim_and_the_module(tmp_path: Path) -> None:
    proof = prove(spec(RIGHT.replace("h.2: fixed", "h.0: fixed"), tmp_path), subject(Chain()))
    assert not proof.holds
    assert proof.breaking == ("h",)
    assert "permuting h alone breaks the function" in proof.describe()


def test_the_first_module_that_differs_is_named(tmp_path: Path) -> None:
    wrong = """
tensors:
  net.0.weight: h _
  net.0.bias: _
  net.2.weight: _ h
  net.2.bias: _
"""
    proof = prove(spec(wrong, tmp_path), subject(Chain()))
    assert (proof.breaking, proof.first) == (("h",), "net.0")


def test_a_dim_that_the_outputs_do_not_depend_on_is_not_proved(tmp_path: Path) -> None:
    proof = prove(spec(RIGHT + "  side.weight: deaf _\n", tmp_path), subject(Deaf()))
    assert proof.error < 1e-12
    assert proof.untold == ("deaf",)
    assert not proof.holds


def test_a_spec_that_moves_nothing_is_refused(tmp_path: Path) -> None:
    text = "tensors:\n  net.{i}.weight: _ _\n  net.{i}.bias: _\n"
    with pytest.raises(ContentError, match="moves nothing"):
        prove(spec(text, tmp_path), subject(Chain()))


HEADS = """
import torch
from torch import nn

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))
        self.out = nn.Linear(12, 3)
    def forward(self, x):
        split = lambda layer: layer(x).unflatten(-1, (3, 4)).transpose(1, 2)
        mixed = (split(self.q) @ split(self.k).transpose(-1, -2) / 2).softmax(-1) @ split(self.v)
        return self.out(self.o(mixed.transpose(1, 2).flatten(2)).relu())

class Rounded(nn.Module):
    # runs in float64, with a norm that is computed in float32
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 7), nn.Linear(7, 3)
    def forward(self, x):
        y = self.a(x).float()
        return self.b((y / y.pow(2).mean(-1, keepdim=True).sqrt()).to(x.dtype))

class Single(nn.Module):
    # float32 and nothing else
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 7), nn.Linear(7, 3)
    def forward(self, tokens):
        return self.b(self.a(nn.functional.one_hot(tokens, 4).float()).relu())

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.mid = nn.Embedding(7, 6), nn.Linear(6, 6)
        self.out = nn.Linear(6, 7, bias=False)
        self.out.weight = self.emb.weight
    def forward(self, tokens):
        return self.out(self.mid(self.emb(tokens).mean(1)).relu())

heads = lambda: (Attention(), torch.randn(2, 5, 12))
rounded = lambda: (Rounded(), torch.randn(4, 5))
single = lambda: (Single(), torch.randint(0, 4, (5,)))
tied = lambda: (Tied(), torch.randint(0, 7, (20, 5)))
"""
HEADS_SPEC = """
dims:
  qk: within head
  v: within head
tensors:
  "{q,k}.weight": (head qk) _
  "{q,k}.bias": (head qk)
  v.weight: (head v) _
  v.bias: (head v)
  o.weight: m (head v)
  o.bias: m
  out.weight: _ m
  out.bias: _
"""
TWO_LAYERS = """
tensors:
  a.weight: h _
  a.bias: h
  b.weight: _ h
  b.bias: _
"""
TIED = """
tensors:
  emb.weight: _ e
  mid.weight: f e
  mid.bias: f
  out.weight: _ f
dims:
  f: same as e
"""


@pytest.fixture
def networks(module_file: Path) -> None:
    module_file.write_text(HEADS)


def with_heads(heads: int) -> Subject:
    return replace(user_subject("own_network:heads"), overrides={"head": heads})


@pytest.mark.usefixtures("networks")
def test_dims_without_a_size_are_not_proved(tmp_path: Path) -> None:
    proof = prove(spec(HEADS_SPEC, tmp_path), user_subject("own_network:heads"))
    assert proof.error < 1e-6
    assert not proof.holds
    assert proof.unsized == ("head", "qk", "v")
    assert "give --set head=N or" in proof.describe()
    assert prove(spec(HEADS_SPEC, tmp_path), with_heads(3)).holds
    assert not prove(spec(HEADS_SPEC, tmp_path), with_heads(4)).holds


@pytest.mark.usefixtures("networks")
def test_heads_that_are_wrong_inside_are_named(tmp_path: Path) -> None:
    wrong = HEADS_SPEC.replace("  v.weight: (head v)", "  v.weight: (head qk)").replace(
        "v.bias: (head v)", "v.bias: (head qk)"
    )
    proof = prove(spec(wrong, tmp_path), with_heads(3))
    assert proof.breaking == ("qk", "v")


@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize("network", ["rounded", "single"])
def test_code_that_rounds_to_float32_is_judged_by_it(tmp_path: Path, network: str) -> None:
    subject = user_subject(f"own_network:{network}")
    proof = prove(spec(TWO_LAYERS, tmp_path), subject)
    assert proof.holds, proof.describe()
    assert 1e-9 < proof.error < proof.tolerance < 1e-4
    wrong = prove(spec(TWO_LAYERS.replace("a.bias: h", "a.bias: _"), tmp_path), subject)
    assert not wrong.holds
    assert wrong.breaking == ("h",)


@pytest.mark.usefixtures("networks")
def test_tied_weights_move_alike(tmp_path: Path) -> None:
    subject = user_subject("own_network:tied")
    assert subject.ties == (("emb.weight", "out.weight"),)
    proof = prove(spec(TIED, tmp_path), subject)
    assert proof.holds, proof.describe()
    apart = prove(spec(TIED.replace("dims:\n  f: same as e\n", ""), tmp_path), subject)
    assert not apart.holds
    assert apart.parted == (("emb.weight", "out.weight"),)
    assert "emb.weight and out.weight are one tensor of the network" in apart.describe()


def test_dims_of_two_units_that_ought_to_be_one_are_told_apart(tmp_path: Path) -> None:
    """Where every dim must move, two units always change places, in both dims alike."""
    module = nn.Sequential(nn.Linear(5, 2), nn.ReLU(), nn.Linear(2, 3))
    wrong = "tensors:\n  0.weight: one _\n  0.bias: one\n  2.weight: _ two\n  2.bias: _\n"
    found = [prove(spec(wrong, tmp_path), subject(module), seed) for seed in range(10)]
    assert not any(proof.holds for proof in found)
    assert any(prove(spec(wrong, tmp_path), subject(module), seed, elements=1).error < 1e-9 for seed in range(10))


def test_proving_ends_in_time(tmp_path: Path) -> None:
    proof = prove(spec(RIGHT, tmp_path), subject(Chain()), elements=10**9, seconds=0.05)
    assert proof.holds
    assert 1 <= proof.elements < 10**9
    assert f"{proof.elements} random permutation" in proof.describe()


@pytest.fixture
def module_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_network", raising=False)
    return tmp_path / "own_network.py"


def test_a_users_network_is_proved_by_its_name(module_file: Path, tmp_path: Path) -> None:
    module_file.write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        def make():
            return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(2, 5)
        """)
    )
    text = "dims:\n  h.2: fixed\ntensors:\n  '{i}.weight': h.{i} h.{prev i}\n  '{i}.bias': h.{i}\n"
    assert prove(spec(text, tmp_path), user_subject("own_network:make")).holds


@pytest.mark.parametrize(
    ("code", "reference", "error", "message"),
    [
        ("", "own_network", UsageError, "expected package.module:factory"),
        ("", "absent_module:make", UsageError, "No module named 'absent_module'"),
        ("", "own_network:make", UsageError, "has no attribute 'make'"),
        ("def make(): return 3", "own_network:make", ContentError, "returned int"),
        ("def make(): raise ValueError('no')", "own_network:make", ContentError, "raised ValueError: no"),
        (
            "import torch\ndef make(): return torch.nn.Linear(3, 2), torch.zeros(1, 4)",
            "own_network:make", ContentError, "does not run on its inputs",
        ),
    ],
)  # fmt: skip
def test_a_users_network_that_cannot_be_used_is_answered(
    module_file: Path, code: str, reference: str, error: type[Exception], message: str
) -> None:
    module_file.write_text(code)
    with pytest.raises(error, match=message):
        user_subject(reference)
