"""What no spec can be derived from is refused before any long work; the caller's module is as it was afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebasin_cli.derivation.derive import derive
from rebasin_cli.errors import ContentError
from tests.derivation.networks import vectors
from tests.derivation.networks_others import UnusedBranch


class Mlp(nn.Module):
    """A hidden layer of ten; `between` comes after it and `after` at the end."""

    def __init__(
        self, between: Callable[[Tensor], Tensor] = torch.tanh, after: Callable[[Tensor], Any] = torch.tanh
    ) -> None:
        super().__init__()
        self.a, self.out, self.between, self.after = nn.Linear(6, 10), nn.Linear(10, 3), between, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.out(self.between(self.a(x))))


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


class Factored(nn.Linear):
    """Defined where its weights are independent alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.linalg.cholesky(self.weight @ self.weight.T)


class Remembering(nn.Module):
    """Keeps what it computed for the next call, as an attribute or in a buffer."""

    def __init__(self, kept: str) -> None:
        super().__init__()
        self.cell, self.out, self.last = nn.GRUCell(6, 8), nn.Linear(8, 2), None
        self.register_buffer("state", torch.zeros(5, 8))
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        if self.kept == "buffer":
            self.state.copy_(self.cell(x, self.state).detach())
            return self.out(self.state)
        self.last = self.cell(x, self.last)
        return self.out(self.last)


REFUSED: dict[str, tuple[nn.Module, Any, str, str]] = {
    "other inputs": (Mlp(), vectors(5), "does not run on the inputs: RuntimeError: mat1", "floats of shape (5, 5)"),
    "missing inputs": (Mlp(), (vectors(6), vectors(6)), "TypeError", "(floats of shape (5, 6), floats"),
    "tokens for floats": (nn.Embedding(4, 3), vectors(6), "does not run on the inputs", "floats of shape (5, 6)"),
    "noise": (nn.Sequential(nn.Linear(6, 9), Noisy(), nn.Linear(9, 2)), vectors(6), "not deterministic: 1 gave", ""),
    "not a number": (Mlp(after=torch.log), vectors(6), "not a number at random weights", "first in the whole"),
    "no gradient": (Mlp(after=lambda x: x.detach()), vectors(6), "no gradient reaches any weight", ""),
    "detached": (Mlp(between=lambda x: x.detach() * 0), vectors(6), "nothing in this network may be permuted", ""),
    "choices": (Mlp(after=lambda x: x.argmax(-1)), vectors(6), "no tensor of floats", "int64 of shape (5,)"),
    "nothing hidden": (nn.Linear(6, 3), vectors(6), "nothing in this network may be permuted", ""),
    "own weights alone": (Factored(6, 6), vectors(6), "does not run at other weights than its own: ", ""),
    "remembering": (Remembering("attribute"), vectors(6), "not deterministic: cell gave", ""),
    "in place": (Mlp(between=lambda x: x.exp().add_(1)), vectors(6), "no gradient of the network can be computed", ""),
    "a buffer": (Remembering("buffer"), vectors(6), "writes into one of its own tensors", ""),
    "numpy": (Mlp(between=lambda x: torch.from_numpy(x.detach().numpy())), vectors(6), "computes in numpy", ""),
    "a program": (nn.Sequential(torch.jit.trace(Mlp(), vectors(6))), vectors(6), "0 is a program of torch.jit", ""),
    "equal choices": (Mlp(between=lambda x: x + (0 * x).argmax(-1)[:, None]), vectors(6), "chooses (argmax", "of 10"),
    "no parameters": (nn.Tanh(), vectors(6), "no parameters", ""),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_a_network_is_refused_with_the_reason(kind: str) -> None:
    module, inputs, what, where = REFUSED[kind]
    with pytest.raises(ContentError) as caught:
        derive(module, inputs)
    assert what in caught.value.what
    assert where in caught.value.where
    assert caught.value.remedy


def test_that_time_ran_out_is_no_finding() -> None:
    with pytest.raises(ContentError, match="was found in 0 s") as caught:
        derive(Mlp(), vectors(6), seconds=0.0)
    assert "--max-seconds" in caught.value.remedy


def test_a_module_is_given_back_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3)).train()
    module[2].eval()
    module[3].weight.requires_grad_(False)
    module(vectors(6)).sum().backward()
    state = {key: (tensor, tensor.clone()) for key, tensor in module.state_dict(keep_vars=True).items()}
    gradient = module[0].weight.grad
    for inputs in (vectors(6), vectors(5)):
        try:
            derive(module, inputs)
        except ContentError:
            assert inputs.shape[1] == 5
        assert [part.training for part in module.modules()] == [True, True, True, False, True]
        for key, tensor in module.state_dict(keep_vars=True).items():
            assert tensor is state[key][0]
            assert tensor.dtype == state[key][1].dtype
            assert torch.equal(tensor, state[key][1])
        assert not module[3].weight.requires_grad
        assert module[0].weight.requires_grad
        assert not module[1].running_mean.requires_grad
        assert module[0].weight.grad is gradient


def test_tensors_that_nothing_reads_are_named() -> None:
    found = derive(UnusedBranch(), vectors(6))
    assert found.unread == tuple(f"auxiliary.{place}" for place in ("0.weight", "0.bias", "2.weight", "2.bias"))
    assert "- auxiliary.{i}.weight       # the outputs do not depend on it" in found.text
    assert found.holds


def test_scores_that_are_masked_with_infinity_are_outputs() -> None:
    mask = torch.tensor([True, False, False])
    assert derive(Mlp(after=lambda x: x.masked_fill(mask, float("-inf"))), vectors(6)).holds


def test_constants_in_float32_of_the_code_are_read() -> None:
    constant = torch.randn(10, 10, generator=torch.Generator().manual_seed(1))
    module = Mlp(between=lambda x: F.linear(x, constant).tanh(), after=lambda x: x.to(torch.float32))
    module = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), module)
    assert derive(module, vectors(6)).proof.layout.moving() == ("h.0",)


def test_units_that_are_sorted_may_be_permuted() -> None:
    assert derive(Mlp(between=lambda x: x.sort(-1).values), vectors(6)).proof.layout.moving() == ("a",)


def test_a_choice_by_the_inputs_alone_is_none() -> None:
    inputs = vectors(6)
    module = Mlp(between=lambda x: x + (inputs > 0).double().argmax(-1)[:, None])
    assert derive(module, inputs).proof.layout.moving() == ("a",)


class Scheduled(Mlp):
    """A table of the code, of which other values give no number."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.linspace(0.1, 0.9, 50).view(5, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).tanh() + (1 - self.kept).sqrt().mean())


def test_a_table_that_takes_no_other_values_stays() -> None:
    found = derive(Scheduled(), vectors(6))
    assert found.holds
    assert found.proof.layout.moving() == ("a",)
