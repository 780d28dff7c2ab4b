"""Checkpoints in another form than the spec has: real networks, run before and after."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from tests.cli.conftest import Rebasin

warnings.filterwarnings("ignore", category=FutureWarning)  # torch's older functions are what files still have


def pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", 0.5)


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": weight_norm,
    "weight norm, new": parametrizations.weight_norm,
    "weight norm of inputs": lambda layer: weight_norm(layer, dim=1),
    "weight norm of all": lambda layer: weight_norm(layer, dim=None),
    "spectral norm": spectral_norm,
    "spectral norm, new": parametrizations.spectral_norm,
    "pruned": pruned,
    "compiled in part": lambda layer: nn.DataParallel(layer),
}


def chain(wrap: Callable[[nn.Module], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = (wrap(nn.Linear(8, 16)), nn.ReLU(), wrap(nn.Linear(16, 12)), nn.ReLU(), nn.Linear(12, 4))
    return nn.Sequential(*layers).train().eval()


def assert_kept(rebasin: Rebasin, a: nn.Module, b: nn.Module, x: Tensor, *options: str) -> str:
    """B aligned onto A computes what it did, with its units in another order; what was said."""
    torch.save(a.state_dict(), "a.pt")
    torch.save(b.state_dict(), "b.pt")
    done = rebasin("align", "a.pt", "b.pt", "-f", *options)
    assert done.code == 0, done.err
    with torch.no_grad():
        before = b(x)
        state = load_file("b.aligned.safetensors")
        assert set(state) == set(b.state_dict())
        assert any(not torch.equal(tensor, state[key]) for key, tensor in b.state_dict().items())
        b.load_state_dict(state)
        torch.testing.assert_close(b(x), before, rtol=1e-5, atol=1e-5)
    return done.err


@pytest.mark.parametrize("way", WAYS)
def test_layers_in_another_form(rebasin: Rebasin, pair: Path, way: str) -> None:
    assert_kept(rebasin, chain(WAYS[way], 0), chain(WAYS[way], 1), torch.randn(5, 8))


def test_old_and_new_weight_norm_are_compared(rebasin: Rebasin, pair: Path) -> None:
    a, b = chain(WAYS["weight norm"], 0), chain(WAYS["weight norm, new"], 1)
    assert_kept(rebasin, a, b, torch.randn(5, 8))


def test_spectral_norm_of_convolutions(rebasin: Rebasin, pair: Path) -> None:
    class Net(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.features = nn.Sequential(
                spectral_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), spectral_norm(nn.Conv2d(8, 12, 3)), nn.ReLU()
            )
            self.classifier = nn.Sequential(nn.Linear(12, 5))
            self.train()(torch.randn(2, 3, 8, 8))
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(self.features(x).mean((2, 3)))

    said = assert_kept(rebasin, Net(0), Net(1), torch.randn(2, 3, 8, 8))
    assert "make them permanent in both before you merge" in said


class Attention(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        parts = (part.unflatten(2, (4, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, 2))
        mixed = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class NanoGPT(nn.Module):
    """A language model with nanoGPT's names and orientation: GPT-2's, but for linear layers stored [out, in]."""

    def __init__(self, seed: int, bias: bool, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(20, width), "wpe": nn.Embedding(8, width)})
        self.transformer["h"] = nn.ModuleList(
            nn.ModuleDict({
                "ln_1": nn.LayerNorm(width, bias=bias),
                "attn": Attention(width, bias),
                "ln_2": nn.LayerNorm(width, bias=bias),
                "mlp": nn.ModuleDict({
                    "c_fc": nn.Linear(width, 24, bias=bias), "c_proj": nn.Linear(24, width, bias=bias),
                }),
            })
            for _ in range(layers)
        )  # fmt: skip
        self.transformer["ln_f"] = nn.LayerNorm(width, bias=bias)
        self.lm_head = nn.Linear(width, 20, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.transformer["wte"](tokens) + self.transformer["wpe"].weight[: tokens.shape[1]]
        for block in self.transformer["h"]:
            x = x + block["attn"](block["ln_1"](x))
            x = x + block["mlp"]["c_proj"](nn.functional.gelu(block["mlp"]["c_fc"](block["ln_2"](x))))
        return self.lm_head(self.transformer["ln_f"](x))


@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt_stores_its_layers_the_other_way_round(rebasin: Rebasin, pair: Path, bias: bool) -> None:
    a, b = NanoGPT(0, bias), NanoGPT(1, bias)
    said = assert_kept(rebasin, a, b, torch.randint(0, 20, (3, 8)), "--set", "head=4")
    assert "the other way round than `gpt2` says" in said


def test_a_folded_batchnorm(rebasin: Rebasin, pair: Path) -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from rebasin_cli.evaluation.libraries import library

    library("torchvision")
    from torchvision.models.resnet import BasicBlock, ResNet

    def folded(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7).eval()
        for module in net.modules():
            for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("0", "1")):
                if isinstance(getattr(module, norm, None), nn.BatchNorm2d):
                    nn.init.uniform_(getattr(module, norm).weight, 0.5, 1.5)
                    nn.init.normal_(getattr(module, norm).bias)
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                    setattr(module, norm, nn.Identity())
        return net

    said = assert_kept(rebasin, folded(0), folded(1), torch.randn(2, 3, 32, 32))
    assert "it was folded into them" in said
