"""Small GPTs under nanoGPT's names, trained in a few seconds on sequences in which two characters tell the next."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from rebasin_cli.spec import Layout, Request, bind, find_spec
from tests.benchmarks.rotations import Gpt

CHARACTERS, LENGTH, HEADS, STEPS = 12, 12, 2, 250

State = Mapping[str, Tensor]


def make() -> Gpt:
    """A network with one of all weights that the seed of torch gives."""
    return Gpt(CHARACTERS, width=24, layers=2, heads=HEADS, length=LENGTH)


@cache
def sequences(count: int, seed: int) -> Tensor:
    """(count, LENGTH + 1) characters."""
    chances = (2.5 * torch.randn(CHARACTERS**2, CHARACTERS, generator=torch.Generator().manual_seed(0))).softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(CHARACTERS, (count, LENGTH + 1), generator=generator)
    for at in range(2, LENGTH + 1):
        rows = chances[found[:, at - 2] * CHARACTERS + found[:, at - 1]]
        found[:, at] = torch.multinomial(rows, 1, generator=generator)[:, 0]
    return found


def loss_of(network: Gpt, state: State, drawn: Tensor) -> Tensor:
    """Mean loss of the next character, in nats."""
    logits: Tensor = functional_call(network, dict(state), (drawn[:, :-1],))
    return F.cross_entropy(logits.flatten(0, 1), drawn[:, 1:].flatten())


@cache
def trained(seed: int) -> dict[str, Tensor]:
    """The tensors of a trained network; not to be changed."""
    torch.manual_seed(seed)
    network, data = make(), sequences(4096, 1)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(STEPS):
        loss = loss_of(network, dict(network.named_parameters()), data[torch.randint(len(data), (64,))])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}


def layout_of(state: State) -> Layout:
    """The GPT-2 spec with rotations."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return bind(find_spec("gpt2"), shapes, Request(overrides={"head": HEADS}, rotations=True))
