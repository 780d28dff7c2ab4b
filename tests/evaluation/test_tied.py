"""Tied weights: one tensor of a module, in the checkpoint under one name or under several."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import evaluate
from rebasin_cli.evaluation.networks.module_network import ModuleNetwork

TOKENS = torch.randint(7, (20, 5), generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(7, (20,), generator=torch.Generator().manual_seed(2))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(7, 16)
        self.mid = nn.Linear(16, 16)
        self.out = nn.Linear(16, 7, bias=False)
        self.out.weight = self.emb.weight

    def forward(self, tokens: Tensor) -> Tensor:
        answers: Tensor = self.out(torch.relu(self.mid(self.emb(tokens).mean(1))))
        return answers


def tied() -> tuple[Tied, dict[str, Tensor]]:
    torch.manual_seed(0)
    module = Tied()
    return module, {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}


def network(state: dict[str, Tensor]) -> ModuleNetwork:
    return ModuleNetwork("tied", Tied(), {key: tuple(t.shape) for key, t in state.items()}, "")


@pytest.mark.parametrize("left_out", ["", "emb.weight", "out.weight"])
def test_whichever_names_the_checkpoint_has(left_out: str) -> None:
    module, state = tied()
    state.pop(left_out, None)
    with torch.no_grad():
        wanted = nn.functional.cross_entropy(module(TOKENS), LABELS).item()
    assert evaluate(network(state), state, Dataset(TOKENS, LABELS, "tokens")).loss == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("key", ["emb.weight", "out.weight"])
def test_copies_that_are_not_equal_are_refused(key: str) -> None:
    _, state = tied()
    state[key] = state[key].roll(1, 1)
    with pytest.raises(ContentError, match=r"emb.weight and out.weight are one tensor in tied, and two here"):
        network(state).load(state)


def test_gradients_reach_both_copies() -> None:
    module, state = tied()
    nn.functional.cross_entropy(module(TOKENS), LABELS).backward()  # type: ignore[no-untyped-call]
    wanted = module.emb.weight.grad
    assert wanted is not None
    free = {key: tensor.requires_grad_() for key, tensor in state.items()}
    made = network(state)
    nn.functional.cross_entropy(made.logits(made.load(free), TOKENS), LABELS).backward()  # type: ignore[no-untyped-call]
    for key in ("emb.weight", "out.weight"):
        torch.testing.assert_close(free[key].grad, wanted)


def test_all_keys_of_a_tied_tensor_are_named() -> None:
    _, state = tied()
    assert network(state).keys("emb.weight") == ("emb.weight", "out.weight")
    del state["emb.weight"]
    assert network(state).keys("emb.weight") == ("out.weight",)
    assert network(state).keys("mid.bias") == ("mid.bias",)
