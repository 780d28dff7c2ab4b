"""`rebasin apply`: a saved permutation reused, undone, and refused where it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.report.codec import from_json, read_document
from tests.cli.conftest import Rebasin
from tests.small import WIDTHS, mlp_state, save


@pytest.fixture
def aligned(rebasin: Rebasin, pair: Path) -> Path:
    assert rebasin("align", "a.safetensors", "b.safetensors").code == 0
    return pair


def test_apply_does_what_align_did(rebasin: Rebasin, aligned: Path) -> None:
    done = rebasin("apply", "b.permutation.safetensors", "b.safetensors", "-o", "x.safetensors")
    assert done.code == 0
    one, two = load_file("x.safetensors"), load_file("b.aligned.safetensors")
    assert all(torch.equal(one[key], two[key]) for key in two)
    assert done.document["outputs"]["applied"] == str(aligned / "x.safetensors")
    assert read_document(Path("x.rebasin.json")) == from_json(done.out, "stdout")


def test_the_summary_names_the_run_document(rebasin: Rebasin, aligned: Path) -> None:
    call = ("apply", "b.permutation.safetensors", "b.safetensors", "-o", "x.safetensors", "--format", "text")
    done = rebasin(*call)
    assert done.code == 0, done.err
    assert "x.rebasin.json" in done.out


@pytest.mark.parametrize(
    "command",
    [
        ("merge", "a.safetensors", "b.safetensors", "b.permutation.safetensors", "-o", "m.safetensors"),
        ("align", "a.safetensors", "b.permutation.safetensors"),
        ("interpolate", "b.permutation.safetensors", "a.safetensors", "--at", 0.5, "-o", "m.safetensors"),
    ],
)
def test_a_permutation_is_no_checkpoint(command: tuple[object, ...], rebasin: Rebasin, aligned: Path) -> None:
    """As where the shell makes a list of `*.safetensors`; the advice works."""
    refused = rebasin(*command)
    assert refused.code == 3
    assert "b.permutation.safetensors is a permutation of units, and no checkpoint" in refused.err
    words = refused.err.partition("`rebasin ")[2].partition("`")[0].replace("CHECKPOINT", "b.safetensors").split()
    assert rebasin(*words, "-o", "x.safetensors").code == 0
    looked = rebasin("inspect", "b.permutation.safetensors")
    assert looked.code == 0
    assert "a permutation of the dims of `mlp`" in looked.err
    assert "no architecture" not in looked.err


def test_a_permutation_of_no_dims_can_be_applied(rebasin: Rebasin, pair: Path) -> None:
    frozen = [option for dim in ("h.0", "h.1") for option in ("--freeze", dim)]
    assert rebasin("align", "a.safetensors", "b.safetensors", *frozen).code == 0
    done = rebasin("apply", "b.permutation.safetensors", "b.safetensors", "-o", "x.safetensors")
    assert done.code == 0, done.err
    one, two = load_file("x.safetensors"), load_file("b.safetensors")
    assert all(torch.equal(one[key], two[key]) for key in two)


def test_inverse_undoes_it(rebasin: Rebasin, aligned: Path) -> None:
    arguments = ("apply", "b.permutation.safetensors", "b.aligned.safetensors", "--inverse", "-o", "x.safetensors")
    done = rebasin(*arguments)
    assert done.code == 0
    one, two = load_file("x.safetensors"), load_file("b.safetensors")
    assert all(torch.equal(one[key], two[key]) for key in two)
    assert done.document["architecture"]["dims"]["h.0"]["moved"] > 0


def test_another_checkpoint_of_the_same_shape(rebasin: Rebasin, aligned: Path) -> None:
    save(aligned / "other.safetensors", mlp_state(77))
    done = rebasin("apply", "b.permutation.safetensors", "other.safetensors", "-o", "x.safetensors")
    assert done.code == 0
    permutation, other = load_file("b.permutation.safetensors"), load_file("other.safetensors")
    assert torch.equal(load_file("x.safetensors")["fc.0.bias"], other["fc.0.bias"][permutation["h.0"]])


def test_dry_run_writes_nothing(rebasin: Rebasin, aligned: Path) -> None:
    before = sorted(aligned.iterdir())
    done = rebasin("apply", "b.permutation.safetensors", "b.safetensors", "-o", "x.safetensors", "--dry-run")
    assert done.code == 0
    assert done.document["plan"]["writes"] > 0
    assert sorted(aligned.iterdir()) == before


def test_other_widths_are_refused(rebasin: Rebasin, aligned: Path) -> None:
    save(aligned / "wide.safetensors", mlp_state(0, (WIDTHS[0], 12, 8, WIDTHS[-1])))
    done = rebasin("apply", "b.permutation.safetensors", "wide.safetensors", "-o", "x.safetensors")
    assert done.code == 3
    assert "[8] in the permutation and [12] in the checkpoint" in done.err
    assert not Path("x.safetensors").exists()


def test_another_depth_is_refused(rebasin: Rebasin, aligned: Path) -> None:
    save(aligned / "short.safetensors", mlp_state(0, (WIDTHS[0], 8, WIDTHS[-1])))
    done = rebasin("apply", "b.permutation.safetensors", "short.safetensors", "-o", "x.safetensors")
    assert done.code == 3


def test_a_changed_spec_is_refused(rebasin: Rebasin, aligned: Path) -> None:
    Path("mlp.yaml").write_text("name: mlp\ntensors:\n  fc.{i}.weight: h.{i} h.{prev i}\n  fc.{i}.bias: h.{i}\n")
    arguments = ("apply", "b.permutation.safetensors", "b.safetensors", "-o", "x.safetensors", "--arch", "mlp.yaml")
    done = rebasin(*arguments)
    assert done.code == 3
    assert "was made with the spec `mlp`" in done.err


def test_a_checkpoint_is_no_permutation(rebasin: Rebasin, aligned: Path) -> None:
    done = rebasin("apply", "a.safetensors", "b.safetensors", "-o", "x.safetensors")
    assert done.code == 3
    assert "is not a permutation file" in done.err
