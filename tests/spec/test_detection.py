"""Which architecture a checkpoint is, told from its shapes."""

from __future__ import annotations

import pytest

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.spec import Layout, PermutationSpec, detect
from rebasin_cli.spec.language.loading import parse_spec


def named(name: str, tensors: str, model_type: str = "nothing") -> PermutationSpec:
    lines = "".join(f"  {line.strip()}\n" for line in tensors.split(";"))
    return parse_spec(f"title: {name.title()} network\nmodel_types: [{model_type}]\ntensors:\n{lines}", f"{name}.yaml")


CHAIN = named("chain", "l.{i}.w: h.{i} h.{prev i}; l.{i}.b?: h.{i}")
NORMED = named("normed", "l.{i}.w: h.{i} h.{prev i}; l.{i}.b: h.{i}; n.{i}.w: h.{i}", "normed")
TWIN = named("twin", "l.{i}.w: u.{i} u.{prev i}; l.{i}.b?: _", "twin")
OTHER = named("other", "x.{i}.w: h.{i} _ _")
FAR = named("far", "far.away.from.it.all: h")
SPECS = [FAR, CHAIN, OTHER, NORMED, TWIN]
SHAPES = {"l.0.w": (4, 3), "l.0.b": (4,), "l.1.w": (2, 4), "l.1.b": (2,)}
NORMS = {"n.0.w": (4,), "n.1.w": (2,)}


def refused(shapes: dict[str, tuple[int, ...]], specs: list[PermutationSpec], **options: object) -> ContentError:
    with pytest.raises(ContentError) as caught:
        detect(shapes, specs=specs, **options)  # type: ignore[arg-type]
    return caught.value


def test_the_one_that_covers_everything() -> None:
    layout = detect(SHAPES | NORMS, specs=SPECS)
    assert isinstance(layout, Layout)
    assert layout.spec is NORMED
    assert detect({"module.x.0.w": (2, 3, 4)}, specs=SPECS).spec is OTHER


def test_a_tie_names_all_and_stops() -> None:
    error = refused(SHAPES, SPECS)
    assert error.what.splitlines() == [
        "2 architectures fit this checkpoint equally well",
        "  - chain: Chain network (2 dims would move)",
        "  - twin: Twin network (2 dims would move)",
    ]
    assert error.remedy == "say which it is: --arch chain"


def test_model_type_decides_a_tie() -> None:
    assert detect(SHAPES, specs=SPECS, config={"model_type": "twin"}).spec is TWIN
    assert "equally well" in refused(SHAPES, SPECS, config={"model_type": "unheard-of"}).what


def test_model_type_never_overrules_the_shapes() -> None:
    assert detect(SHAPES | NORMS, specs=SPECS, config={"model_type": "twin"}).spec is NORMED
    assert detect(SHAPES, specs=[CHAIN, NORMED], config={"model_type": "normed"}).spec is CHAIN


def test_a_near_miss_shows_three_and_their_first_differences() -> None:
    error = refused(SHAPES | NORMS | {"n.1.odd": (2, 2, 2), "n.1.w": (3,)}, SPECS)
    lines = error.what.splitlines()
    assert lines[0] == "no architecture fits this checkpoint; the nearest are"
    assert lines[1] == "  - normed: 2 differences, first of them"
    assert lines[2] == "      no line speaks of n.1.odd [2, 2, 2] (normed.yaml:6)"
    assert [line.split(":")[0] for line in lines if line.startswith("  - ")] == ["  - normed", "  - chain", "  - twin"]
    assert "far" not in error.what
    assert "--arch" in error.remedy
    assert "--ignore" in error.remedy


def test_unknown_tensors_come_with_options_to_type() -> None:
    odd = {"n.1.odd": (2, 2, 2), "queue.keys": (3, 4), "queue.labels": (3,), "steps": ()}
    error = refused(SHAPES | NORMS | odd, SPECS)
    assert error.what == (
        "`normed` fits but for 3 tensors of which it says nothing: "
        "n.1.odd [2, 2, 2], queue.keys [3, 4], queue.labels [3]"
    )
    assert "--ignore n.1.odd --ignore 'queue.*'" in error.remedy
    assert detect(SHAPES | NORMS | odd, specs=SPECS, ignore=["n.1.odd", "queue.*"]).spec is NORMED


def test_unknown_scalars_need_no_option() -> None:
    layout = detect(SHAPES | NORMS | {"n_averaged": (), "metric.total": ()}, specs=SPECS)
    assert layout.spec is NORMED
    assert layout.notes == ("no line speaks of n_averaged, metric.total; scalars stay",)
    assert layout.tensors["n_averaged"].section == "ignored"


def test_the_wrapper_that_most_keys_have() -> None:
    shapes = {f"module.{key}": shape for key, shape in (SHAPES | NORMS).items()}
    assert detect(shapes | {"n_averaged": ()}, specs=SPECS).prefix == "module."
    error = refused(shapes | {"loss.weight": (7,)}, SPECS)
    assert error.what == "`normed` fits but for 1 tensor of which it says nothing: loss.weight [7]"
    assert error.where == "the other keys begin with module."


def test_a_second_network_gets_one_ignore_pattern() -> None:
    shapes = {f"{side}.{key}": shape for side in ("query", "key") for key, shape in (SHAPES | NORMS).items()}
    assert "--ignore 'key.*'" in refused(shapes | {"queue": (3, 4)}, SPECS).remedy
    assert detect(shapes | {"queue": (3, 4)}, specs=SPECS, ignore=["key.*", "queue"]).prefix == "query."


def test_tensors_of_another_spec_are_not_unknown() -> None:
    error = refused(SHAPES | NORMS | {"n.0.w": (5,)}, SPECS)
    assert "dim h.0 is 4 by l.0.w axis 0, but 5 by n.0.w axis 0" in error.what
    assert "--ignore 'n.*'" not in error.remedy


def test_the_one_that_the_config_names_is_among_the_nearest() -> None:
    far = named("far", "far.away.from.it.all: h", "distant")
    error = refused(SHAPES | {"odd": (1,)}, [far, CHAIN, OTHER, NORMED, TWIN], config={"model_type": "distant"})
    assert "  - far: " in error.what


def test_a_contradiction_of_sizes_is_a_near_miss() -> None:
    error = refused(SHAPES | NORMS | {"n.0.w": (5,)}, SPECS)
    assert "normed: 1 difference" in error.what
    assert "dim h.0 is 4 by l.0.w axis 0, but 5 by n.0.w axis 0" in error.what


def test_only_the_first_three_differences_are_shown() -> None:
    odd = {f"odd.{i}.{'abcdef'[i]}": (1,) for i in range(6)}
    error = refused(SHAPES | odd | {"l.1.b": (3,)}, [CHAIN])
    assert "chain: 7 differences, first of them" in error.what
    assert error.what.count("no line speaks of") == 3


def test_what_the_user_says_holds_for_the_one_found() -> None:
    layout = detect(SHAPES | NORMS, specs=SPECS, freeze=["h.0"], overrides={"h.1": 2})
    assert layout.dims["h.0"].fixed == "frozen by --freeze"
    assert "--set h.1=7" in refused(SHAPES | NORMS, SPECS, overrides={"h.1": 7}).what
    with pytest.raises(UsageError, match="--freeze zz"):
        detect(SHAPES | NORMS, specs=SPECS, freeze=["zz"])


def test_ignored_tensors_do_not_count() -> None:
    assert detect(SHAPES | NORMS | {"odd": (1,)}, specs=SPECS, ignore=["odd"]).spec is NORMED
    with pytest.raises(UsageError, match="--ignore zz matches no tensor"):
        detect(SHAPES, specs=SPECS, ignore=["zz"])


def test_nothing_to_detect() -> None:
    assert refused({}, SPECS).what == "the checkpoint has no tensors"


def test_shipped_specs_are_the_choice_if_none_is_given() -> None:
    shapes = {"0.weight": (5, 3), "0.bias": (5,), "2.weight": (2, 5), "2.bias": (2,)}
    layout = detect(shapes)
    assert (layout.spec.name, layout.moving()) == ("mlp", ("h.0",))
    assert "none is near" in refused({"surely.no.such.tensor": (1, 2, 3, 4, 5)}, None).what  # type: ignore[arg-type]


def test_specs_that_say_nearly_nothing_are_not_near() -> None:
    names = [f"blocks.{i}.{c}.weight" for i in range(2) for c in ("c1", "c2")]
    shapes = {"stem.weight": (16, 1, 3, 3), "head.weight": (10, 16)} | dict.fromkeys(names, (16, 16, 3, 3))
    assert "none is near" in refused(shapes, None).what  # type: ignore[arg-type]
