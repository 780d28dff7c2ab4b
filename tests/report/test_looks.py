"""The tables of tensors, and of specs by kind."""

from __future__ import annotations

from rebasin_cli.report.contents import architectures_grids
from rebasin_cli.report.dims import dims_grid
from rebasin_cli.report.document import ArchitectureRecord, DimRecord, ListedArchitecture, RunDocument, TensorRecord
from rebasin_cli.report.tensors import FEW_TENSORS, size_text, tensors_grid
from rebasin_cli.spec import Request, bind, shipped_spec, shipped_specs
from rebasin_cli.spec.kinds import KINDS
from tests.report.test_forms import shown

_HASH = "0" * 64


def layers(count: int) -> dict[str, TensorRecord]:
    found = {}
    for i in range(count):
        before = f"h.{i - 1}" if i else "_"
        found[f"net.{i}.0.weight"] = TensorRecord("F32", (8, 8), "tensors", f"(h.{i} _:4) + s.99 {before}", 3)
        found[f"net.{i}.0.bias"] = TensorRecord("BF16", (8,), "buffers", f"h.{i}", 4)
    return found


def test_few_tensors_are_shown_one_by_one() -> None:
    few = tensors_grid(layers(2), every_tensor=False)
    assert few.rows[2] == ("net.1.0.weight", "F32", "8×8", "(h.1 _:4) + s.99 h.0")
    assert tensors_grid(layers(FEW_TENSORS), every_tensor=True).columns == few.columns


def test_many_tensors_are_folded_where_numbers_alone_differ() -> None:
    grid = tensors_grid(layers(FEW_TENSORS), every_tensor=False)
    assert grid.rows == (
        ("net.0.0.weight", "1", "F32", "8×8", "(h.0 _:4) + s.99 _"),
        ("net.{i}.0.bias", "40", "BF16", "8", "h.{i} (buffer)"),
        ("net.{i}.0.weight", "39", "F32", "8×8", "(h.{i} _:4) + s.99 h.{i-1}"),
    )
    assert size_text(layers(2)) == "144 parameters, F32, BF16"


def test_axes_name_the_dims_of_the_checkpoint() -> None:
    shapes = {"embed_tokens.weight": (10, 8), "norm.weight": (8,), "lm_head.weight": (10, 8)}
    for i in range(2):
        own = f"layers.{i}"
        shapes |= {f"{own}.self_attn.{x}_proj.weight": (8, 8) for x in "qo"}
        shapes |= {f"{own}.self_attn.{x}_proj.weight": (4, 8) for x in "kv"}
        shapes |= {f"{own}.mlp.{x}_proj.weight": (6, 8) for x in ("gate", "up")}
        shapes |= {f"{own}.mlp.down_proj.weight": (8, 6)}
        shapes |= {f"{own}.{x}_layernorm.weight": (8,) for x in ("input", "post_attention")}
    layout = bind(shipped_spec("llama"), shapes, Request(overrides={"head_dim": 2}))
    assert layout.tensors["layers.1.self_attn.q_proj.weight"].reading() == "(kv.1 q.1 _:head_dim) embed"
    assert layout.tensors["layers.1.mlp.down_proj.weight"].reading() == "embed mlp.1"


def test_dims_of_a_checkpoint_keep_the_names_that_freeze_takes() -> None:
    dims = {f"h.{i}": DimRecord(4) for i in range(12)}
    architecture = ArchitectureRecord("own", "own", _HASH, proved=False, dims=dims)
    assert dims_grid(architecture, every_dim=False).rows == (("h.0 … h.11 (12)", "4", ""),)
    text = shown(RunDocument("inspect", architecture=architecture, tensors=layers(1)))
    assert "--freeze h.0 keeps this one in place, --freeze h all of h.*" in text


def test_every_shipped_spec_has_one_kind() -> None:
    names = [name for found in KINDS.values() for name in found]
    assert sorted(names) == sorted(shipped_specs())


def test_specs_are_listed_by_kind() -> None:
    listed = [
        ListedArchitecture(name, f"{name} (of a kind)", _HASH, "x.yaml", True) for name in ("vgg", "llama", "vit")
    ]
    grids = architectures_grids([*listed, ListedArchitecture("own", "mine", _HASH, "own.yaml", False)], short=True)
    assert [grid.title for grid in grids] == ["Vision", "Language, decoders", "Others"]
    assert grids[0].rows == (("vgg", "vgg"), ("vit", "vit"))
