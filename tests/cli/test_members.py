"""`FILE:PREFIX`: one of several networks in a file by how its tensors' names begin, and all of them as models."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import rebasin_cli as api
from tests.cli.conftest import Rebasin
from tests.small import mlp_state, save

FORMS = [("", ".safetensors"), ("models.", ".pt"), ("ensemble.models.", ".safetensors")]


def together(stem: str, count: int = 3) -> dict[str, torch.Tensor]:
    """Several networks under one roof."""
    return {f"{stem}{i}.{key}": tensor for i in range(count) for key, tensor in mlp_state(i).items()}


def write(path: Path, state: Any) -> Path:
    """A file in the format of its name."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with every network in a file of its own, too."""
    for number in range(3):
        save(tmp_path / f"m{number}.safetensors", mlp_state(number))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("stem", "ending"), FORMS)
def test_a_member_is_what_it_is_alone(rebasin: Rebasin, folder: Path, stem: str, ending: str) -> None:
    file = write(Path(f"all{ending}"), together(stem))
    done = rebasin("align", f"{file}:{stem}0", f"{file}:{stem}1")
    assert done.code == 0, done.err
    assert done.document["inputs"]["b"]["key"] == f"{stem}1"
    alone = rebasin("align", "m0.safetensors", "m1.safetensors")
    written = load_file(done.document["outputs"]["aligned"])
    other = load_file(alone.document["outputs"]["aligned"])
    assert set(written) == set(other)
    assert all(torch.equal(written[key], other[key]) for key in other)
    shown = rebasin("inspect", f"{file}:{stem}2", "--json")
    assert set(shown.document["tensors"]) == set(mlp_state(0))
    assert (
        rebasin("interpolate", f"{file}:{stem}0", f"{file}:{stem}1", "--at", "0.5", "-o", "half.safetensors").code == 0
    )


@pytest.mark.parametrize(("stem", "ending"), FORMS)
def test_all_members_of_a_file_are_merged(rebasin: Rebasin, folder: Path, stem: str, ending: str) -> None:
    file = write(Path(f"all{ending}"), together(stem, 3))
    done = rebasin("merge", f"{file}:{stem}*", "-o", "merged.safetensors")
    assert done.code == 0, done.err
    one_by_one = rebasin("merge", *(f"m{i}.safetensors" for i in range(3)), "-o", "other.safetensors")
    objective = one_by_one.document["merge"]["objective"]
    assert done.document["merge"]["objective"] == pytest.approx(objective)  # sums over tensors in another order
    merged, other = load_file("merged.safetensors"), load_file("other.safetensors")
    assert all(torch.equal(merged[key], other[key]) for key in other)
    found = api.merge([f"{file}:{stem}*"]).merged
    assert all(torch.equal(found[key], other[key]) for key in other)


def test_networks_by_key_are_members_too(rebasin: Rebasin, folder: Path) -> None:
    torch.save({"models": [mlp_state(0), mlp_state(1)], "epoch": 3}, "list.pt")
    torch.save({"state_dict": together("models.", 2), "epoch": 3}, "nested.pt")
    merged = []
    for named in ("list.pt:models.*", "nested.pt:models.*"):
        done = rebasin("merge", named, "-o", "merged.safetensors", "-f")
        assert done.code == 0, done.err
        merged.append(load_file("merged.safetensors"))
    assert all(torch.equal(merged[0][key], merged[1][key]) for key in merged[0])
    assert rebasin("inspect", "nested.pt:state_dict.models.1").code == 0


def test_members_are_aligned_onto_a_network(rebasin: Rebasin, folder: Path) -> None:
    save_file(together("models."), "all.safetensors")
    done = rebasin("align", "m0.safetensors", "all.safetensors:models.*", "-o", "out")
    assert done.code == 0, done.err
    assert {path.name for path in (folder / "out").iterdir() if "permutation" not in path.name} == {
        f"all.models.{i}.safetensors" for i in range(3)
    }
    own, first = load_file("out/all.models.0.safetensors"), mlp_state(0)
    assert all(torch.equal(own[key], first[key]) for key in first)
    again = rebasin("rerun", "out.rebasin.json", "--into", "again")
    assert again.code == 0, again.err


def test_a_file_of_copies_is_told_and_the_advice_works(rebasin: Rebasin, folder: Path) -> None:
    save_file(together("ensemble.models."), "all of them.safetensors")
    refused = rebasin("align", "m0.safetensors", "all of them.safetensors")
    assert refused.code == 3
    said = " ".join(refused.err.split())
    assert "3 copies of one network (`mlp`): ensemble.models.0, ensemble.models.1, ensemble.models.2" in said
    advice = re.search(r"name one of them, ('.*?'); or make one of all: (rebasin .*)$", said)
    assert advice is not None, said
    (one,) = shlex.split(advice[1])
    assert rebasin("align", "m0.safetensors", one).code == 0
    assert rebasin(*shlex.split(advice[2])[1:]).code == 0


def test_a_colon_in_a_name_is_a_part_of_it(rebasin: Rebasin, folder: Path) -> None:
    save_file(together("models."), "run:3.safetensors")
    save(Path("m0.safetensors:models.0"), mlp_state(5))
    assert rebasin("inspect", "run:3.safetensors:models.1").code == 0
    done = rebasin("align", "m0.safetensors:models.0", "run:3.safetensors:models.1", "-o", "x.safetensors")
    assert done.code == 0, done.err
    assert done.document["inputs"]["a"]["path"].endswith("/m0.safetensors:models.0")
    assert "key" not in done.document["inputs"]["a"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("inspect", "all.safetensors:models.9"), 2, "it has models.0, models.1, models.2"),
        (("inspect", "m0.safetensors:models.9"), 2, "leave the key away"),
        (("inspect", "all.safetensors:models.*"), 2, "name one: all.safetensors:models.0"),
        (("merge", "all.safetensors:nets.*", "-o", "x.safetensors"), 3, "no tensor whose name begins with `nets.…`"),
        (("merge", "all.safetensors:*", "-o", "x.safetensors"), 3, "one there: models"),
    ],
)
def test_a_member_that_is_not_there_is_told(
    rebasin: Rebasin, folder: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    save_file(together("models."), "all.safetensors")
    done = rebasin(*arguments)
    assert done.code == code
    assert said in " ".join(done.err.split())


def test_only_the_member_named_has_to_be_finite(rebasin: Rebasin, folder: Path) -> None:
    state = together("models.", 2)
    state["models.1.fc.0.bias"][0] = float("nan")
    save_file(state, "all.safetensors")
    assert rebasin("align", "m1.safetensors", "all.safetensors:models.0").code == 0
    assert rebasin("align", "m1.safetensors", "all.safetensors:models.1").code == 3


def test_a_teacher_beside_a_student_is_named(rebasin: Rebasin, folder: Path) -> None:
    one = {
        f"{role}.{key}": tensor for i, role in enumerate(("teacher", "student")) for key, tensor in mlp_state(i).items()
    }
    save_file(one, "both.safetensors")
    assert rebasin("align", "both.safetensors:teacher", "both.safetensors:student").code == 0
