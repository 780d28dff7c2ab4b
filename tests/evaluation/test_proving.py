"""What a proof says of specs that are right, wrong in one dim, or that prove nothing."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.proving import Subject, prove
from rebasin_cli.evaluation.subjects.modules import module_subject, randomise
from rebasin_cli.evaluation.subjects.user import user_subject
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
