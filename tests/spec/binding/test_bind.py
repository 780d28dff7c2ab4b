"""A spec bound to a checkpoint: the layout, and the error if they do not fit."""

from __future__ import annotations

import pytest

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.spec import Mismatch, Request, attempt, bind
from rebasin_cli.spec.binding.binder import Binder
from tests.spec.building import bound, refusal, shown, spec_of, still

MLP = """
    dims:
      h.{last i}: fixed because these are the outputs
    tensors:
      fc{i}.weight: h.{i} h.{prev i}
      fc{i}.bias: h.{i}
    buffers:
      bn{i}.mean?: h.{i}
    ignored:
      - "*.seen"
    """
SHAPES: dict[str, tuple[int, ...]] = {
    "fc1.weight": (5, 3),
    "fc1.bias": (5,),
    "bn1.mean": (5,),
    "bn1.seen": (),
    "fc2.weight": (6, 5),
    "fc2.bias": (6,),
    "fc3.weight": (2, 6),
    "fc3.bias": (2,),
}


def test_every_tensor_is_accounted_for() -> None:
    layout = bound(MLP, SHAPES)
    assert {key: tensor.section for key, tensor in layout.tensors.items()} == {
        key: "buffers" if "mean" in key else "ignored" if "seen" in key else "tensors" for key in SHAPES
    }
    assert layout.tensors["bn1.seen"].pieces == ()
    weight = layout.tensors["fc2.weight"]
    assert (weight.pattern, weight.line) == ("h.{i} h.{prev i}", 4)
    assert layout.users == {
        "h.1": ("fc1.weight", "fc1.bias", "bn1.mean", "fc2.weight"),
        "h.2": ("fc2.weight", "fc2.bias", "fc3.weight"),
        "h.3": (),
    }
    assert layout.moving() == ("h.1", "h.2")
    assert still(layout) == {"h.3": "these are the outputs"}
    assert shown(layout, "fc3.bias") == ["0: _ 2*1"]


def test_the_order_of_the_checkpoint_is_kept() -> None:
    backwards = dict(reversed(SHAPES.items()))
    layout = bound(MLP, backwards)
    assert list(layout.tensors) == list(backwards)
    assert layout.dims.keys() == {"h.1", "h.2", "h.3"}


def test_dims_come_in_the_order_in_which_tensors_name_them() -> None:
    """And not in that of a set, which differs from run to run, and with it the order of a sweep."""
    layout = bound(
        "dims:\n  o: within z\ntensors:\n  x: (n o) k z m b y\n  y: z\n",
        {"x": (6, 2, 1, 4, 5, 6), "y": (1,)},
        overrides={"n": 2},
    )
    assert list(layout.dims) == ["n", "z", "o", "k", "m", "b", "y"]


@pytest.mark.parametrize("freeze", [["h.1"], ["h.?", "h.1"], ["h"]])
def test_frozen_dims_stay(freeze: list[str]) -> None:
    layout = bound(MLP, SHAPES, freeze=freeze)
    assert layout.dims["h.1"].fixed == "frozen by --freeze"
    assert layout.dims["h.3"].fixed == "these are the outputs"
    assert layout.users["h.1"] == ()
    assert shown(layout, "fc1.bias") == ["0: _ 5*1"]


def test_freezing_an_unknown_dim_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--freeze hh: the spec `test` has no such dim here") as caught:
        bound(MLP, SHAPES, freeze=["hh"])
    assert caught.value.remedy == "did you mean `h`?"


def test_ignored_tensors_are_kept_unmatched() -> None:
    extra = SHAPES | {"ema.decay": (1,), "ema.steps": ()}
    assert "no line speaks of ema.decay [1]" in refusal(MLP, extra)
    layout = bound(MLP, extra, ignore=["ema.*"])
    assert list(layout.tensors) == list(extra)
    assert layout.tensors["ema.decay"].section == "ignored"
    (note,) = layout.notes
    assert note.startswith("left alone by --ignore, as no line speaks of them: ema.decay, ema.steps")


def test_a_tensor_of_the_spec_may_be_ignored() -> None:
    layout = bound(MLP, SHAPES, ignore=["fc2.bias"])
    assert layout.tensors["fc2.bias"].section == "ignored"
    assert layout.users["h.2"] == ("fc2.weight", "fc2.bias", "fc3.weight")
    assert shown(layout, "fc2.bias") == shown(bound(MLP, SHAPES), "fc2.bias")


def test_ignoring_nothing_or_everything_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--ignore zzz\.\* matches no tensor"):
        bound(MLP, SHAPES, ignore=["zzz.*"])
    with pytest.raises(UsageError, match="--ignore leaves no tensor"):
        bound(MLP, SHAPES, ignore=["*"])


def test_the_prefix_is_found_once_a_key_is_ignored() -> None:
    shapes = {f"module.{key}": shape for key, shape in SHAPES.items()} | {"epoch": ()}
    layout = bound(MLP, shapes, ignore=["epoch"])
    assert layout.prefix == "module."
    assert list(layout.tensors) == list(shapes)


def test_a_misfit_lists_what_is_left_over_on_both_sides() -> None:
    shapes = {key: shape for key, shape in SHAPES.items() if key != "fc2.bias"} | {"head.weight": (2, 2)}
    with pytest.raises(ContentError) as caught:
        bound(MLP, shapes)
    error = caught.value
    assert "the spec `test` does not fit this checkpoint (2 differences)" in error.what
    assert "  - no line speaks of head.weight [2, 2]" in error.what
    assert "  - fc2.bias is absent, although fc2.weight is there" in error.what
    assert error.where == "test.yaml:4"
    assert "--arch" in error.remedy
    assert "--ignore" in error.remedy


def test_a_long_list_is_cut_and_counted() -> None:
    said = refusal(MLP, SHAPES | {f"odd{i}.x": (1,) for i in range(20)})
    assert said.count("no line speaks of") == 8
    assert "and 12 more" in said


def test_one_difference_is_not_a_plural() -> None:
    assert "(1 difference)" in refusal(MLP, SHAPES | {"odd": (1,)})


def test_different_widths_name_both_tensors() -> None:
    said = refusal(MLP, SHAPES | {"fc2.weight": (6, 4)})
    assert "dim h.1 is 5 by fc1.weight axis 0, but 4 by fc2.weight axis 1" in said


def test_an_attempt_gives_the_reasons_as_values() -> None:
    spec = spec_of(MLP)
    result = attempt(spec, {"odd": (1,)}, Request())
    assert isinstance(result, Mismatch)
    assert result.spec is spec
    assert [p.what for p in result.faults] == [
        "no line speaks of odd [1]",
        "no tensor fits `fc{i}.weight`",
        "no tensor fits `fc{i}.bias`",
    ]


def test_only_a_prefix_that_covers_all_tensors_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    run = Binder.run
    monkeypatch.setattr(Binder, "run", lambda self: (tried.append(str(self.prefix)), run(self))[1])
    wide = {f"model.{key}": shape for key, shape in SHAPES.items()} | {"model.fc2.weight": (6, 4)}
    result = attempt(spec_of(MLP), wide, Request())
    assert isinstance(result, Mismatch)
    assert (result.prefix, tried) == ("model.", ["model."])


def test_nothing_given_is_changed() -> None:
    shapes, config, overrides = dict(SHAPES), {"a": [1]}, {"h.1": 5}
    bind(spec_of(MLP), shapes, Request(config, overrides))
    assert (shapes, config, overrides) == (SHAPES, {"a": [1]}, {"h.1": 5})
