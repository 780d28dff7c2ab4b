"""What signs are worth on trained networks: pairs of small ones like LLaMA, over characters of this project's sources.

    python -m tests.benchmarks.signs [--seeds 0 1 2] [--steps 1200]

Each is trained from its own seed, which takes a minute or two, and kept in a folder. For every pair the barrier along
the straight path (loss above the line between the ends, at its highest), ‖A − B‖, and the time of the match.

Signs bring the weights nearer on every pair, by 1 per cent of the distance; the barrier is lower on one pair of three
(1.87, 1.84, 1.94 nats against 1.73, 1.94, 1.87 by permutations and 2.35, 2.12, 2.15 as they are). So permutations
are the default.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from tempfile import gettempdir
from time import perf_counter

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rebasin_cli.matching.problem import Problem
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.pipeline.method_choice import match_choice
from rebasin_cli.pipeline.methods import Running, match_by_search
from rebasin_cli.spec import Layout, Request, bind, find_spec

WIDTH, LAYERS, HEADS, PAIRS, INNER, LENGTH = 64, 2, 4, 2, 128, 64
HEAD = WIDTH // HEADS
GRID = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SOURCES = Path(__file__).parents[2] / "rebasin_cli"

State = Mapping[str, Tensor]


def rotated(x: Tensor) -> Tensor:
    """Queries or keys (.., tokens, HEAD) turned by their places."""
    rates = 10000.0 ** (-torch.arange(0, HEAD, 2) / HEAD)
    angles = torch.arange(x.shape[-2])[:, None] * rates.repeat(2)
    one, two = x.chunk(2, -1)
    return x * angles.cos() + torch.cat((-two, one), -1) * angles.sin()


class Attention(nn.Module):
    """With half as many key and value heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(WIDTH, PAIRS * HEAD, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, HEAD)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        k, v = (part.repeat_interleave(HEADS // PAIRS, 1) for part in (rotated(k), v))
        mixed = F.scaled_dot_product_attention(rotated(q), k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Gated."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(WIDTH, INNER, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Both, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), Mlp()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """A language model with the names of the shipped spec."""

    def __init__(self, characters: int, layers: int = LAYERS) -> None:
        super().__init__()
        self.embed_tokens, self.lm_head = nn.Embedding(characters, WIDTH), nn.Linear(WIDTH, characters, bias=False)
        self.layers, self.norm = nn.Sequential(*(Block() for _ in range(layers))), nn.RMSNorm(WIDTH)
        for weight in (parameter for parameter in self.parameters() if parameter.dim() > 1):
            nn.init.normal_(weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.norm(self.layers(self.embed_tokens(x))))


def read_text() -> tuple[Tensor, Tensor, int]:
    """Characters to train on, lines of others to judge by, and how many kinds there are."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(SOURCES.rglob("*.py")))
    codes = torch.tensor([ord(character) for character in text if ord(character) < 128])
    kinds, data = codes.unique(return_inverse=True)
    cut = len(data) * 9 // 10
    return data[:cut], data[cut:].unfold(0, LENGTH + 1, LENGTH + 1)[:400], len(kinds)


def loss_of(network: nn.Module, lines: Tensor) -> Tensor:
    """Cross-entropy of the next character, in nats."""
    return F.cross_entropy(network(lines[:, :-1]).flatten(0, 1), lines[:, 1:].flatten())


def trained(seed: int, steps: int, data: Tensor, kinds: int, folder: Path) -> State:
    """A network of its own seed, from the folder if it is there."""
    file = folder / f"llama-{seed}-{steps}-{kinds}.safetensors"
    if not file.exists():
        torch.manual_seed(seed)
        network = Llama(kinds)
        optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.1)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
        for _ in range(steps):
            starts = torch.randint(len(data) - LENGTH - 1, (24,)).tolist()
            loss = loss_of(network, torch.stack([data[at : at + LENGTH + 1] for at in starts]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
        save_file(network.state_dict(), file)
    return load_file(file)


def barrier(network: nn.Module, lines: Tensor, a: State, b: State) -> float:
    """How far the loss between two states rises above the line between theirs."""

    @torch.no_grad()
    def at(lam: float) -> float:
        network.load_state_dict({key: torch.lerp(a[key], b[key], lam) for key in a})
        return float(loss_of(network, lines))

    ends = at(0.0), at(1.0)
    return max(at(lam) - (1 - lam) * ends[0] - lam * ends[1] for lam in GRID)


def matched(layout: Layout, a: State, b: State) -> tuple[State, float]:
    """B as the default match has it, and the seconds that took."""
    began = perf_counter()
    found = match_by_search(Problem(layout, a, b), match_choice(), Running("cpu", lambda: None, lambda *_: None))
    return dict(permuted(found.permutation, layout, b)), perf_counter() - began


def main() -> None:
    """Train what is not there, and print a line for each pair and symmetry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()))
    given = parser.parse_args()
    data, lines, kinds = read_text()
    states = {seed: trained(seed, given.steps, data, kinds, given.folder) for seed in given.seeds}
    network = Llama(kinds)
    shapes = {key: tuple(tensor.shape) for key, tensor in states[given.seeds[0]].items()}
    signed = bind(find_spec("llama"), shapes, Request(overrides={"head_dim": HEAD}, signs=True))
    for one, two in combinations(given.seeds, 2):
        a, b = states[one], states[two]
        for name, layout in (("naive", None), ("permutations", signed.without_signs()), ("signs", signed)):
            moved, seconds = (b, 0.0) if layout is None else matched(layout, a, b)
            distance = sum(float((a[key] - moved[key]).square().sum()) for key in a) ** 0.5
            height = barrier(network, lines, a, moved)
            print(f"{one}, {two}  {name:12}  barrier {height:.3f}  ‖A − B‖ {distance:.2f}  {seconds:.1f} s")


if __name__ == "__main__":
    main()
