"""Names of outputs, and their collisions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import UsageError
from rebasin_cli.pipeline.targets import (
    Targets,
    base_of,
    beside,
    check_apart,
    check_weights_name,
    output_base,
)
from tests.small import mlp_state, save


@pytest.mark.parametrize(
    ("path", "base"),
    [("b.safetensors", "b"), ("x/b.v2.pt", "x/b.v2"), ("b", "b"), ("../b.ckpt", "../b"), (".hidden", ".hidden")],
)
def test_the_base_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, base: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    expected = (tmp_path / "here" / base).resolve()
    assert base_of(Path(path), is_folder=False) == expected


def test_the_base_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.v1").mkdir()
    monkeypatch.chdir(tmp_path / "model.v1")
    for named in (".", "../model.v1", "../model.v1/", "model.safetensors.index.json"):
        assert base_of(Path(named), is_folder=True) == tmp_path / "model.v1"
    assert beside(tmp_path / "model.v1", ".aligned") == tmp_path / "model.v1.aligned"


def test_the_base_of_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_base(Path("x.safetensors")) == tmp_path / "x"
    assert output_base(Path("points.v1")) == tmp_path / "points.v1"


def test_a_name_of_another_format_is_refused() -> None:
    for name in ("x.pt", "x.CKPT", "x.bin"):
        with pytest.raises(UsageError, match="another format"):
            check_weights_name(Path(name), is_folder=False)
    check_weights_name(Path("x.pt"), is_folder=True)
    check_weights_name(Path("x.weights"), is_folder=False)


def test_links_do_not_hide_an_input(tmp_path: Path) -> None:
    a = save(tmp_path / "a.safetensors", mlp_state(0))
    link = tmp_path / "link.safetensors"
    link.symlink_to(a)
    with pytest.raises(UsageError, match="both an input and the aligned output"):
        check_apart([open_checkpoint(a)], {"aligned": link})
    with pytest.raises(UsageError, match="both an input"):
        check_apart([open_checkpoint(link)], {"aligned": a})


def test_files_of_a_folder_are_inputs_too(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    save(folder / "model.safetensors", mlp_state(0))
    (folder / "config.json").write_text("{}")
    opened = open_checkpoint(folder)
    for target in (folder, folder / "model.safetensors", folder / "config.json"):
        with pytest.raises(UsageError, match="both an input"):
            check_apart([opened], {"report": target})
    check_apart([opened], {"report": folder / "run.json", "aligned": tmp_path / "m.aligned"})


def test_two_outputs_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(UsageError, match="both the one and the two output"):
        check_apart([], {"one": tmp_path / "x", "none": None, "two": tmp_path / "sub" / ".." / "x"})


def test_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    target.write_text("old")
    with Outputs(force=True) as outputs:
        outputs.write(target, ("λ" * 100_000).encode())
        assert target.read_text() == "old"
    assert target.read_text(encoding="utf-8") == "λ" * 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_targets_are_absolute_and_leave_out_what_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    targets = Targets.of("merged", {"plot": None, "report": Path("run.json"), "merged": sys.stdout.buffer})
    assert targets.paths() == {"report": tmp_path / "run.json"}
    assert targets.written() == {}
    assert targets["merged"] is sys.stdout.buffer


def test_existing_outputs_need_force_or_are_replaceable(tmp_path: Path) -> None:
    a = open_checkpoint(save(tmp_path / "a.safetensors", mlp_state(0)))
    report = tmp_path / "run.json"
    report.write_text("{}")
    targets = Targets.of("merged", {"report": report, "merged": tmp_path / "m.safetensors"})
    with pytest.raises(UsageError, match="exists"):
        targets.check([a], a, force=False)
    targets.check([a], a, force=False, replaceable=[report])
    targets.check([a], a, force=True)
