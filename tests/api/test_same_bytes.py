"""The functions and the commands write the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import rebasin_cli as rebasin
from tests.api.conftest import State
from tests.networks import TINY, tiny_state
from tests.same_outputs import VOLATILE
from tests.small import mlp_state, save, shuffled

Command = Callable[..., None]
METHODS = ("weights", "frank-wolfe", "sinkhorn")
PAIR = ("a.safetensors", "b.safetensors")


def figures(value: Any) -> Any:
    """A document without times, places, versions and memory, and without how the command was called."""
    if isinstance(value, Mapping):
        left = ("outputs", "invocations")
        return {name: figures(part) for name, part in value.items() if not VOLATILE.search(name) and name not in left}
    return [figures(part) for part in value] if isinstance(value, list) else value


def same(ours: Path, theirs: Path) -> None:
    """Both wrote the same files, under two names; documents tell the same."""
    for one in sorted(theirs.parent.glob(f"{theirs.stem}.*")):
        other = ours.with_name(one.name.replace(theirs.stem, ours.stem, 1))
        if one.suffix == ".json":
            assert figures(json.loads(other.read_text())) == figures(json.loads(one.read_text()))
        else:
            assert other.read_bytes() == one.read_bytes(), one.name


@pytest.mark.parametrize("name", TINY)
def test_align_from_memory_writes_what_the_command_writes(
    name: str, folder: Path, rebasin_command: Command, noise: Callable[[State, int], State]
) -> None:
    state = tiny_state(name, 0)
    models = {"one": state, "two": noise(tiny_state(name, 1), 1)}
    for file, tensors in models.items():
        save(folder / f"{file}.safetensors", tensors)
    (folder / "own.yaml").write_text(TINY[name].text)
    sizes = dict(TINY[name].sizes or {})
    options = [word for size in sizes.items() for word in ("--set", "=".join(map(str, size)))]
    for method in METHODS if name != "groups" else METHODS[:1]:  # a group's dims do not move together
        rebasin_command(
            "align", "one.safetensors", "two.safetensors", "-o", f"{method}.theirs.safetensors",
            "--arch", "own.yaml", "--method", method, *options,
        )  # fmt: skip
        with pytest.warns(rebasin.RebasinWarning, match="not a shipped spec"):
            found = rebasin.align(models["one"], models["two"], spec="own.yaml", method=method, set=sizes)  # type: ignore[arg-type]
        found.save(f"{method}.ours.safetensors")
        for ending in ("safetensors", "permutation.safetensors"):
            one, two = (folder / f"{method}.{whose}.{ending}" for whose in ("theirs", "ours"))
            assert two.read_bytes() == one.read_bytes(), f"{method}, {ending}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": "high", "seed": 3, "freeze": ["h.0"]},
        {"start": "identity", "order": "random", "threads": 2},
        {"method": "activations", "data": "data.npz", "similarity": "covariance"},
        {"method": "ste", "data": "data.npz", "epochs": 2},
        {"method": "sinkhorn", "objective": "midpoint", "data": "data.npz", "epochs": 1},
    ],
    ids=lambda options: options.get("method", "-".join(options) or "default"),
)
def test_align_of_files_writes_what_the_command_writes(
    options: dict[str, Any], folder: Path, rebasin_command: Command
) -> None:
    lists = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
    words = [word for name, values in lists.items() for value in values for word in (f"--{name}", value)]
    rebasin_command("align", *PAIR, "-o", "theirs.safetensors", *words)
    found = rebasin.align(*PAIR, **options)
    found.save("ours.safetensors")
    same(folder / "ours.safetensors", folder / "theirs.safetensors")


def test_a_point_and_the_losses_are_those_of_the_command(folder: Path, rebasin_command: Command) -> None:
    words = ("--data", "data.npz", "--limit", 50, "--steps", 5, "--combine", "slerp")
    rebasin_command("interpolate", *PAIR, *words, "--at", 0.5, "-o", "theirs.safetensors")
    path = rebasin.interpolate(*PAIR, data="data.npz", limit=50, steps=5, combine="slerp")
    path.save("ours.safetensors", at=0.5)
    same(folder / "ours.safetensors", folder / "theirs.safetensors")
    rebasin_command("interpolate", *PAIR, *words, "--at", "best", "-o", "best.theirs.safetensors")
    with pytest.warns(rebasin.RebasinWarning, match="no merge is better"):
        path.save("best.ours.safetensors", at="best")
    same(folder / "best.ours.safetensors", folder / "best.theirs.safetensors")


def test_a_merge_is_that_of_the_command(folder: Path, rebasin_command: Command) -> None:
    models = [mlp_state(0), shuffled(mlp_state(0), 1), shuffled(mlp_state(5), 2)]
    files = [save(folder / f"m{i}.safetensors", state) for i, state in enumerate(models)]
    rebasin_command("merge", *files, "-o", "theirs.safetensors", "--weights", "1,2,1", "--algorithm", "merge-many")
    merged = rebasin.merge(files, weights=[1, 2, 1], algorithm="merge-many")
    merged.save("ours.safetensors")
    same(folder / "ours.safetensors", folder / "theirs.safetensors")
    held = rebasin.merge(models, weights=[1, 2, 1], algorithm="merge-many").merged
    assert all(torch.equal(held[key], merged.merged[key]) for key in models[0])


def test_a_permutation_is_applied_as_by_the_command(folder: Path, rebasin_command: Command) -> None:
    rebasin.align("a.safetensors", "b.safetensors").save("x.safetensors")
    rebasin_command("apply", "x.permutation.safetensors", "b.safetensors", "-o", "theirs.safetensors", "--inverse")
    moved = rebasin.apply("x.permutation.safetensors", "b.safetensors", inverse=True)
    moved.save("ours.safetensors")
    same(folder / "ours.safetensors", folder / "theirs.safetensors")


def test_a_spec_is_derived_and_kept_as_by_the_command(folder: Path, rebasin_command: Command) -> None:
    (folder / "own.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), "
        "torch.nn.Linear(7, 3))\n"
    )
    rebasin_command("arch", "derive", "own:make", "--inputs", "4x5", "-o", "theirs.yaml")
    rebasin.derive("own:make", "4x5").save("ours.yaml")
    assert (folder / "ours.yaml").read_text() == (folder / "theirs.yaml").read_text()
