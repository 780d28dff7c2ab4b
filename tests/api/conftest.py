"""A pair of networks as users hand them over, and the command in this process."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.cli import main
from tests.small import WIDTHS, mlp_state, save_pair, shuffled

State = dict[str, Tensor]


def perceptron(state: State) -> nn.Module:
    """A module of the keys `fc.0.weight`, …, in evaluation mode."""

    class Perceptron(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(WIDTHS))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.fc[:-1]:
                x = layer(x).relu()
            return self.fc[-1](x)  # type: ignore[no-any-return]

    module = Perceptron()
    module.load_state_dict(state)
    return module.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a.safetensors, b.safetensors and data.npz."""
    save_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def a() -> State:
    return mlp_state(0)


@pytest.fixture
def b(a: State) -> State:
    return shuffled(a, 1)


@pytest.fixture
def rebasin_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Call `rebasin ARGUMENTS`, which has to succeed."""

    def call(*arguments: object) -> None:
        code = main([str(argument) for argument in arguments])
        assert code == 0, capsys.readouterr().err

    return call


@pytest.fixture(scope="session")
def noise() -> Callable[[State, int], State]:
    """Another network near the first: every tensor with a tenth of noise."""

    def near(state: State, seed: int) -> State:
        generator = torch.Generator().manual_seed(seed)
        return {key: t + 0.1 * torch.randn(t.shape, generator=generator, dtype=t.dtype) for key, t in state.items()}

    return near


@pytest.fixture
def model(a: State) -> nn.Module:
    """A as a module."""
    return perceptron(a)


@pytest.fixture
def second_model(b: State) -> nn.Module:
    """B as a module."""
    return perceptron(b)
