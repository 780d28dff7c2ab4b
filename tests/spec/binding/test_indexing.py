"""Dims that act on keys: experts as whole tensors."""

from __future__ import annotations

from rebasin_cli.spec import INDEX_SIDE
from tests.spec.building import bound, owners, refusal, shown, sizes

EXPERTS = """
    dims:
      expert.{i}: index e in h.{i}.experts.{e}.*
      ff.{i}: within expert.{i}
    tensors:
      h.{i}.gate: expert.{i} _
      h.{i}.experts.{e}.up: ff.{i} _
      h.{i}.experts.{e}.up.bias?: ff.{i}
      h.{i}.experts.{e}.scale?:
    """


def experts(n: int, width: int = 5) -> dict[str, tuple[int, ...]]:
    return {"h.0.gate": (n, 2)} | {f"h.0.experts.{e}.up": (width, 2) for e in range(n)}


def test_a_dim_may_act_on_the_numbers_in_keys() -> None:
    layout = bound(EXPERTS, experts(3) | {f"h.0.experts.{e}.scale": () for e in range(3)})
    assert sizes(layout) == {"expert.0": 3, "ff.0": 5}
    up = layout.tensors["h.0.experts.2.up"]
    assert (up.index_dim, up.place) == ("expert.0", 2)
    assert up.siblings == ("h.0.experts.0.up", "h.0.experts.1.up", "h.0.experts.2.up")
    assert up.pieces[0].sides[0].owner == INDEX_SIDE
    scale = layout.tensors["h.0.experts.1.scale"]
    assert scale.siblings == ("h.0.experts.0.scale", "h.0.experts.1.scale", "h.0.experts.2.scale")
    assert scale.dims() == ("expert.0",)


def test_siblings_are_keys_on_disk() -> None:
    layout = bound(EXPERTS, {f"module.{key}": shape for key, shape in experts(2).items()})
    assert layout.tensors["module.h.0.experts.1.up"].siblings == ("module.h.0.experts.0.up", "module.h.0.experts.1.up")


def test_more_than_nine_are_in_the_order_of_their_numbers() -> None:
    siblings = bound(EXPERTS, experts(12)).tensors["h.0.experts.11.up"].siblings
    assert [key.split(".")[3] for key in siblings] == [str(e) for e in range(12)]


def test_one_expert_has_nothing_to_choose() -> None:
    layout = bound(EXPERTS, experts(1))
    assert owners(layout) == {}
    assert shown(layout, "h.0.experts.0.up") == ["0: ff.0 5*2, _ 2*1"]
    assert layout.tensors["h.0.experts.0.up"].index_dim is None


def test_frozen_experts_keep_their_own_inner_order() -> None:
    layout = bound(EXPERTS, experts(3), freeze=["expert"])
    assert layout.moving() == ("ff.0",)
    assert layout.tensors["h.0.experts.0.up"].index_dim == "expert.0"
    layout = bound(EXPERTS, experts(3), freeze=["expert", "ff"])
    assert layout.tensors["h.0.experts.0.up"].index_dim is None


def test_a_number_that_is_absent() -> None:
    shapes = experts(4)
    del shapes["h.0.experts.2.up"]
    assert "h.0.experts.0.up: number 2 of expert.0 is absent" in refusal(EXPERTS, shapes)


def test_experts_of_different_widths() -> None:
    said = refusal(EXPERTS, experts(3) | {"h.0.experts.1.up": (7, 2)})
    assert "h.0.experts.0.up is [5, 2] and h.0.experts.1.up is [7, 2], but dim expert.0 puts one in" in said


def test_more_experts_than_the_router_has() -> None:
    said = refusal(EXPERTS, experts(3) | {"h.0.gate": (4, 2)})
    assert "dim expert.0 is 3 by the number of keys like h.0.experts.0.up, but 4 by h.0.gate axis 0" in said


def test_a_dim_named_by_the_number_that_moves_is_refused() -> None:
    text = """
        dims:
          expert.{i}: index e in h.{i}.experts.{e}.*
        tensors:
          h.{i}.gate: expert.{i} _
          h.{i}.experts.{e}.up: ff.{i}.{e} _
        """
    said = refusal(text, experts(2))
    assert "h.0.experts.0.up: dim `ff.{i}.{e}` has `{e}` in its name, and `expert.{i}` moves `{e}`" in said
    assert "say in `dims` that it is `within expert.{i}`" in said


def test_a_line_that_does_not_bind_the_number() -> None:
    text = """
        dims:
          expert.{i}: index e in h.{i}.experts.{e}.*
        tensors:
          h.{i}.gate: expert.{i} _
          h.{i}.experts.{n}.up: _ _
        """
    assert "h.0.experts.0.up: the line that claims it has no `{e}`" in refusal(text, experts(2))


def test_experts_within_groups_of_the_keys() -> None:
    layout = bound(
        """
        dims:
          group: index g in moe.{g}.*
          expert: within group
          ff: within group
        tensors:
          moe.{g}.gate: expert _
          moe.{g}.up: (expert ff) _
          router: group _
        """,
        {"router": (2, 3)} | {f"moe.{g}.gate": (4, 3) for g in range(2)} | {f"moe.{g}.up": (20, 3) for g in range(2)},
    )
    assert shown(layout, "moe.1.up") == ["0: expert<-1 4*15, ff<-1 5*3, _ 3*1"]
