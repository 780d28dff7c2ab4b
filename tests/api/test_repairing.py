"""`repair` and `resume`: the command's bytes and figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import rebasin_cli as rebasin
from tests.api.conftest import State


@pytest.mark.parametrize("polish", [None, "least-squares"])
def test_repair_writes_the_bytes_of_the_command(
    polish: str | None, folder: Path, a: State, b: State, rebasin_command: Callable[..., None]
) -> None:
    rebasin_command("interpolate", "a.safetensors", "b.safetensors", "--at", "0.5", "-o", "half.safetensors")
    rebasin_command("align", "a.safetensors", "b.safetensors", "-o", "aligned.safetensors")
    ends = ("--end", "a.safetensors", "--end", "aligned.safetensors")
    more = ("--polish", polish) if polish else ()
    rebasin_command("repair", "half.safetensors", "--data", "data.npz", *ends, *more, "-o", "by_command.safetensors")
    options = {"polish": polish} if polish else {}
    done = rebasin.repair("half.safetensors", data="data.npz", ends=("a.safetensors", "aligned.safetensors"), **options)
    assert done.save("by_call.safetensors") == Path("by_call.safetensors")
    assert Path("by_call.safetensors").read_bytes() == Path("by_command.safetensors").read_bytes()
    assert done.repaired.keys() == a.keys()
    with pytest.raises(rebasin.UsageError, match="exists"):
        done.save("by_call.safetensors")
    data = np.load("data.npz")
    examples = (torch.from_numpy(data["inputs"]), torch.from_numpy(data["targets"]))
    path = rebasin.interpolate(a, b)
    again = rebasin.repair(path.at(0.5), data=examples, ends=(a, path.at(1)), **options)
    assert all(torch.equal(again.repaired[key], done.repaired[key]) for key in a)


def test_repair_refuses_what_does_not_fit(folder: Path) -> None:
    with pytest.raises(rebasin.UsageError, match="a path has two ends"):
        rebasin.repair("a.safetensors", data="data.npz", ends=("a.safetensors",))
    with pytest.raises(rebasin.UsageError, match="lam is 'x'"):
        rebasin.repair("a.safetensors", data="data.npz", ends=("a.safetensors",) * 2, lam="x")  # type: ignore[arg-type]
    with pytest.raises(rebasin.UsageError, match="those of distillation"):
        rebasin.repair("a.safetensors", data="data.npz", polish_steps=3)


def test_resume_goes_on_from_the_file_of_either(folder: Path, rebasin_command: Callable[..., None]) -> None:
    first = rebasin.interpolate("a.safetensors", "b.safetensors", data="data.npz", steps=3, resume="run.json")
    kept = json.loads(Path("run.json").read_text())
    assert kept["barrier"]["naive"]["loss"] == list(first.losses["naive"])
    rebasin_command(
        "interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz", "--steps", "5", "--resume", "run.json"
    )
    finer = json.loads(Path("run.json").read_text())["barrier"]["aligned"]["loss"]
    again = rebasin.interpolate("a.safetensors", "b.safetensors", data="data.npz", steps=5, resume="run.json")
    assert list(again.losses["aligned"]) == finer
    assert finer[::2] == list(first.losses["aligned"])
    with pytest.raises(rebasin.UsageError, match="steps"):  # would leave points out
        rebasin.interpolate("a.safetensors", "b.safetensors", data="data.npz", steps=4, resume="run.json")
