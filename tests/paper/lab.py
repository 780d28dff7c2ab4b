"""What every claim stands on: networks trained by recipe, and the product's commands run on them; both are kept."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cache
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rebasin_cli.cli import main
from tests.paper.datasets import Images, digits, images, mnist1d, text
from tests.paper.networks import MAKERS, OWN

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how: the whole of it names the file that it is kept in.

    Attributes:
        options: of the maker, by name.
        data: "images", "digits", "mnist1d" or "text"; side: of the images; examples: how many, from the first on.
        share: of the classes 0 to 4 the part to train on, and of the others what is left of 1 (split data); else None.
        half: train on a random half of the examples that this seed draws; None: on all.
        noise: fraction of the labels that are drawn at random.
    """

    maker: str
    options: tuple[tuple[str, Any], ...]
    data: str = "images"
    side: int = 14
    examples: int = 60_000
    epochs: int = 10
    rate: float = 1e-3
    batch: int = 500
    optimiser: str = "adam"
    constant: bool = True
    share: float | None = None
    half: int | None = None
    noise: float = 0.0
    decay: float = 0.0


def mlp(*widths: int, **more: Any) -> Recipe:
    """A perceptron."""
    return Recipe("mlp", (("widths", widths),), **more)


def resnet(width: int, norm: str = "", blocks: int = 3, **more: Any) -> Recipe:
    """A ResNet of 3 stages: 20 layers with 3 blocks; norm: "", "-bn" or "-gn"."""
    options = (("width", width), ("blocks", blocks))
    return Recipe(f"resnet{norm}", options, rate=3e-3, batch=128, constant=False, **more)


def vgg(base: int, maker: str = "vgg", **more: Any) -> Recipe:
    """A VGG whose first layer has `base` channels: 64 in full width."""
    return Recipe(maker, (("base", base),), batch=128, constant=False, **more)


class CommandFailedError(RuntimeError):
    """A command of the product ended with this code."""

    def __init__(self, told: str, code: int) -> None:
        super().__init__(told)
        self.code = code


class Costs:
    """Processor seconds of everything that was used, trained or run now or before; each counts once."""

    def __init__(self) -> None:
        self.used: dict[Path, float] = {}
        self._began, self._within = time.process_time(), 0.0

    def take(self, path: Path, now: float = 0.0) -> None:
        """Count a file's making; `now`: what it took in this process, if it was made just now."""
        beside = path.with_suffix(".seconds")
        self.used[path] = float(beside.read_text()) if beside.exists() else math.nan
        self._within += now

    def total(self) -> float:
        """All of it, together with what this process did besides; NaN where a file does not say what it took."""
        return sum(self.used.values()) + time.process_time() - self._began - self._within


class Lab:
    """Trains, measures and remembers.

    Attributes:
        quick: whether rows take what ten minutes allow.
        seed: of the first network; those beside it have the seeds after it.
        costs: what was used since they were last set to zero.
    """

    def __init__(self, folder: Path, *, quick: bool, seed: int = 0, root: Path | None = None) -> None:
        self.folder, self.quick, self.seed, self.root = folder, quick, seed, root
        self.costs = Costs()
        for name in ("networks", "data", "runs", "scratch"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def sized(self, recipe: Recipe, examples: int, epochs: int) -> Recipe:
        """The recipe as it is, or cut down where time is short."""
        return replace(recipe, examples=examples, epochs=epochs) if self.quick else recipe

    def place(self, recipe: Recipe, number: int) -> Path:
        """Where a network lies, or will."""
        return self.folder / "networks" / f"{recipe.maker}-{self._hash(recipe)}-{self.seed + number}.safetensors"

    def trained(self, *wanted: tuple[Recipe, int]) -> list[Path]:
        """The networks of some recipes and seeds (0 is the lab's own), trained if they are not there yet."""
        jobs = [(recipe, self.seed + number) for recipe, number in wanted]
        paths = [self.place(*each) for each in wanted]
        missing = {path: job for path, job in zip(paths, jobs, strict=True) if not path.exists()}
        now = 0.0
        if len(missing) == 1:
            now = _train_into(self.root, *missing.popitem()[::-1])
        elif missing:
            with ProcessPoolExecutor(2, get_context("spawn")) as pool:
                for done in [pool.submit(_train_into, self.root, job, path) for path, job in missing.items()]:
                    done.result()
        for path in paths:
            self.costs.take(path, now)
            now = 0.0
        return paths

    def pair(self, recipe: Recipe) -> list[Path]:
        """Two networks that differ in their seed alone."""
        return self.trained((recipe, 0), (recipe, 1))

    def data(self, recipe: Recipe, *, train: bool = False, limit: int = 10_000) -> Path:
        """A file of examples as the network takes them: the test half, or of the half that it was trained on."""
        path = self.folder / "data" / f"{recipe.data}-{recipe.side}-{'train' if train else 'test'}-{limit}.npz"
        if not path.exists():
            found = data_of(recipe, self.root)
            inputs, targets = (found.inputs, found.targets) if train else (found.test_inputs, found.test_targets)
            np.savez(path, inputs=inputs[:limit].numpy(), targets=targets[:limit].numpy())
        return path

    def scratch(self, name: str) -> Path:
        """A file of a claim's own, for this form and seed alone: another seed's must not be taken for it."""
        return self.folder / "scratch" / f"{'quick' if self.quick else 'full'}-{self.seed}-{name}"

    def rebasin(self, *arguments: object, recipe: Recipe | None = None) -> Document:
        """Run a command of the product, and return its run document; one that this product made before is not repeated.

        What was made before is found by the product's files, the words, and the contents of files of claims' own.

        Args:
            recipe: whose network the command runs, if it is one that has to be named.

        Raises:
            CommandFailedError: the command failed, with what it said.
        """
        words = [str(argument) for argument in arguments]
        if recipe is not None and recipe.maker in OWN:
            words += ["--network", f"tests.paper.networks:{OWN[recipe.maker]}"]
        own = [path for path in map(Path, _inputs(words)) if path.parent.name == "scratch" and path.is_file()]
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in own]
        kept = self.folder / "runs" / f"{self._hash([_product(), *words, *contents])}.json"
        now = 0.0
        if not kept.exists():
            began = time.process_time()
            out, err = StringIO(), StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                code = main([*words, "--json"])
            if code:
                raise CommandFailedError(f"rebasin {' '.join(words)} ended with {code}: {err.getvalue()}", code)
            now = time.process_time() - began
            kept.with_suffix(".seconds").write_text(f"{now:.3f}")
            kept.write_text(out.getvalue())
        self.costs.take(kept, now)
        document: Document = json.loads(kept.read_text())
        return document

    def halves(self, recipe: Recipe) -> tuple[Path, Path]:
        """The test half of the data as two files: one to judge by, and one to fit on."""
        found = data_of(recipe, self.root)
        middle = len(found.test_inputs) // 2
        paths = []
        for name, part in (("first", slice(0, middle)), ("second", slice(middle, None))):
            path = self.folder / "data" / f"{recipe.data}-{recipe.side}-{name}-half.npz"
            if not path.exists():
                np.savez(path, inputs=found.test_inputs[part].numpy(), targets=found.test_targets[part].numpy())
            paths.append(path)
        return paths[0], paths[1]

    def barrier(
        self, recipe: Recipe, a: Path, b: Path, *more: object, steps: int = 11, limit: int = 10_000,
        data: Path | None = None,
    ) -> Document:  # fmt: skip
        """The curves between two networks on test data."""
        data = data or self.data(recipe, limit=min(limit, 2000) if self.quick else limit)
        found: Document = self.rebasin("interpolate", a, b, "--data", data, "--steps", steps, *more, recipe=recipe)[
            "barrier"
        ]
        return found

    def _hash(self, value: object) -> str:
        told = asdict(value) if isinstance(value, Recipe) else value
        where = str(self.root or "")
        return hashlib.sha256(json.dumps([told, where], sort_keys=True).encode()).hexdigest()[:16]


def _inputs(words: Sequence[str]) -> list[str]:
    """The words of a command without what it writes."""
    return [word for before, word in zip(["", *words], words, strict=False) if before != "-o"]


@cache
def _product() -> str:
    """A hash of the product's own files and of the claims' networks and specs: another one may find other figures."""
    root = Path(__file__).parents[2]
    files = [*root.glob("rebasin_cli/**/*.py"), *root.glob("architectures/*.yaml"), *root.glob("tests/paper/specs/*")]
    told = hashlib.sha256()
    for file in sorted([*files, root / "tests/paper/networks.py"]):
        told.update(file.read_bytes())
    return told.hexdigest()


def data_of(recipe: Recipe, root: Path | None) -> Images:
    """All of the data of a recipe."""
    others = {"digits": digits, "mnist1d": mnist1d, "text": text}
    return others[recipe.data]() if recipe.data in others else images(recipe.side, root)


def _train_into(root: Path | None, job: tuple[Recipe, int], path: Path) -> float:
    """Train, write, and say how many seconds of a processor it took."""
    torch.set_num_threads(1)
    began = time.process_time()
    network = train(*job, root)
    part = path.with_suffix(".part")
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, part)
    seconds = time.process_time() - began
    path.with_suffix(".seconds").write_text(f"{seconds:.3f}")
    part.replace(path)
    print(f"  trained {path.stem} in {seconds:.0f} s", flush=True)
    return seconds


def train(recipe: Recipe, seed: int, root: Path | None = None) -> nn.Module:
    """Train one network: the seed draws its first weights and the order of the examples, and nothing else differs."""
    inputs, targets = _examples(recipe, data_of(recipe, root))
    torch.manual_seed(seed)
    network = MAKERS[recipe.maker](**dict(recipe.options))
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "adam":
        optimiser = torch.optim.Adam(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    else:
        optimiser = torch.optim.SGD(network.parameters(), lr=recipe.rate, momentum=0.9, weight_decay=recipe.decay)
    steps = recipe.epochs * -(-len(inputs) // recipe.batch)
    schedule: torch.optim.lr_scheduler.LRScheduler
    if recipe.constant or not steps:
        schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)
    else:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps)
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(inputs)).split(recipe.batch):
            optimiser.zero_grad(set_to_none=True)
            answers = network(inputs[batch])
            loss = nn.functional.cross_entropy(answers.flatten(0, -2), targets[batch].flatten())
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def _examples(recipe: Recipe, found: Images) -> tuple[Tensor, Tensor]:
    inputs, targets = found.inputs[: recipe.examples], found.targets[: recipe.examples].clone()
    if recipe.noise:
        drawn = torch.Generator().manual_seed(1)
        wrong = torch.rand(len(targets), generator=drawn) < recipe.noise
        targets[wrong] = torch.randint(int(targets.max()) + 1, targets.shape, generator=drawn)[wrong]
    if recipe.half is not None:
        chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(recipe.half))[: len(inputs) // 2]
        inputs, targets = inputs[chosen], targets[chosen]
    if recipe.share is not None:
        place = torch.rand(len(inputs), generator=torch.Generator().manual_seed(2))
        first = targets < (int(targets.max()) + 1) // 2
        chosen = torch.where(first, place < recipe.share, place >= recipe.share).nonzero()[:, 0]
        inputs, targets = inputs[chosen], targets[chosen]
    return inputs, targets


def middle(values: Sequence[float]) -> float:
    """The value at λ = ½ of a curve of an odd number of points."""
    return values[len(values) // 2]
