"""`align_many` writes what `rebasin align A B1 B2 … -o FOLDER` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import rebasin_cli as rebasin
from tests.api.conftest import State
from tests.small import mlp_state, save


def held(folder: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("together", [False, True])
def test_files_are_those_of_the_command(folder: Path, rebasin_command: Callable[..., None], *, together: bool) -> None:
    save(folder / "c.safetensors", mlp_state(3))
    paths = ["b.safetensors", folder / "c.safetensors"]
    rebasin_command("align", "a.safetensors", *paths, "-o", "there", *(["--together"] if together else []))
    done = rebasin.align_many("a.safetensors", paths, "here", together=together, summary="moments.safetensors")
    assert held(folder / "here") == held(folder / "there")
    assert (folder / "moments.safetensors").exists()
    assert not done.failed
    assert [Path(member.outputs["aligned"]).name for member in done.members] == ["b.safetensors", "c.safetensors"]
    assert "2 of 2 checkpoints aligned" in repr(done)


def test_one_that_cannot_be_aligned_is_told_and_others_are_done(folder: Path, a: State) -> None:
    save(folder / "narrow.safetensors", mlp_state(1, (32, 6, 8, 16)))
    with pytest.warns(rebasin.RebasinWarning, match="narrow.safetensors was not aligned"):
        done = rebasin.align_many(a, ["b.safetensors", "narrow.safetensors"], "here")
    assert [Path(member.input.path).name for member in done.failed] == ["narrow.safetensors"]
    assert (folder / "here" / "b.safetensors").exists()
    again = rebasin.align_many(a, ["b.safetensors"], "here", resume="here.rebasin.json")
    assert not again.failed


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("b.safetensors", "one path"),
        ([{}], "model 1 is a dict"),
        ([], "nothing to align"),
        (["b.safetensors"] * 2, "both"),
    ],
)
def test_what_is_no_list_of_paths_is_refused(folder: Path, models: object, said: str) -> None:
    with pytest.raises(rebasin.UsageError, match=said):
        rebasin.align_many("a.safetensors", models, "here")  # type: ignore[arg-type]
