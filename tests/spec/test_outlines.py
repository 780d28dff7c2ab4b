"""What is known of the shipped specs without parsing them: it is true, and a changed spec is parsed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rebasin_cli.spec import detect, shipped_spec, shipped_specs
from rebasin_cli.spec.binding.bind import matcher_for
from rebasin_cli.spec.language.loading import architectures_folder
from rebasin_cli.spec.registry import FILE, outlines_text, read_outlines, shipped_outlines

MLP = {"fc.0.weight": (4, 4), "fc.0.bias": (4,), "fc.1.weight": (4, 4), "fc.1.bias": (4,)}


def test_the_outlines_are_those_of_the_specs() -> None:
    assert (architectures_folder() / FILE).read_text() == outlines_text(), "run `make outlines`"
    assert set(shipped_outlines()) == set(shipped_specs())


@pytest.mark.parametrize("change", ["a line", "another spec", "no file", "not JSON", "other JSON"])
def test_old_outlines_are_not_used(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "specs"
    shutil.copytree(architectures_folder(), folder)
    known = read_outlines(folder / FILE, _specs(folder))
    assert known == shipped_outlines()
    if change == "a line":
        with (folder / "sd-vae.yaml").open("a") as spec:
            spec.write("# changed\n")
    elif change == "another spec":
        shutil.copy(folder / "mlp.yaml", folder / "mlp2.yaml")
    elif change == "no file":
        (folder / FILE).unlink()
    else:
        (folder / FILE).write_text("{" if change == "not JSON" else "[1]")
    assert read_outlines(folder / FILE, _specs(folder)) == {}


def test_only_specs_that_may_fit_are_parsed() -> None:
    shipped_spec.cache_clear()
    assert detect(MLP).spec.name == "mlp"
    assert shipped_spec.cache_info().currsize == 1


@pytest.mark.parametrize("name", shipped_specs())
def test_an_outline_says_yes_wherever_a_spec_has_lines(name: str) -> None:
    matcher = matcher_for(shipped_spec(name))
    outline = shipped_outlines()[name]
    for skeleton, lines in matcher.exact.items():
        key = skeleton.replace("#", "7")
        for line in lines:
            axes = len(line.pattern.axes) if line.pattern else 3
            assert outline.may_cover({key: (2,) * axes})


def _specs(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
