"""Interpolation: exact ends, a's dtypes, and what stays a's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.merging.interpolation import interpolate_tensor, interpolated
from rebasin_cli.merging.options import lambda_grid

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


def layout(**sections: str) -> Any:
    """As much of a layout as interpolation looks at: the section of every key."""
    return SimpleNamespace(tensors={key: SimpleNamespace(section=section) for key, section in sections.items()})


def pair(dtype: torch.dtype, shape: tuple[int, ...] = (7, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return a.to(dtype), b.to(dtype)


def same_bits(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.dtype == y.dtype and torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8))


class Recording(Mapping[str, torch.Tensor]):
    """A state dict that remembers which of its tensors were read."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.read: list[str] = []

    def __getitem__(self, key: str) -> torch.Tensor:
        self.read.append(key)
        return self.tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@pytest.mark.parametrize("dtype", FLOATS)
def test_both_ends_are_exact(dtype: torch.dtype) -> None:
    a, b = pair(dtype)
    assert same_bits(interpolate_tensor(a, b, 0.0), a)
    assert same_bits(interpolate_tensor(a, b, 1.0), b)


def test_ends_keep_what_arithmetic_would_lose() -> None:
    a = torch.tensor([-0.0, 1e-45, float("inf"), float("nan")])
    b = torch.tensor([float("inf"), -0.0, 3.0, 1.0])
    assert same_bits(interpolate_tensor(a, b, 0.0), a)
    assert same_bits(interpolate_tensor(b, a, 1.0), a)


@pytest.mark.parametrize("dtype", FLOATS)
def test_midpoints_are_mixed_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    a, b = pair(dtype)
    got = interpolate_tensor(a, b, 0.3)
    exact = 0.7 * a.double() + 0.3 * b.double()
    assert got.dtype == dtype
    if dtype == torch.float64:
        torch.testing.assert_close(got, exact, rtol=1e-15, atol=1e-15)
    elif dtype == torch.float32:
        torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-7)
    else:  # rounding the exact value once gives the same numbers
        torch.testing.assert_close(got.double(), exact.to(dtype).double(), rtol=0, atol=0)


def test_half_precision_does_not_overflow_on_the_way() -> None:
    a = torch.full((3,), 60000.0, dtype=torch.float16)
    b = torch.full((3,), -60000.0, dtype=torch.float16)
    torch.testing.assert_close(interpolate_tensor(a, b, 0.25), torch.full((3,), 30000.0, dtype=torch.float16))


def test_the_wider_of_two_dtypes_is_used_and_the_result_is_as_a() -> None:
    a, b = pair(torch.float64)
    got = interpolate_tensor(a.float(), b, 0.4)
    assert same_bits(got, torch.lerp(a.float().double(), b, 0.4).float())


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.floats(0, 1))
def test_equal_values_stay_put(value: float, lam: float) -> None:
    a = torch.tensor([value])
    assert torch.equal(interpolate_tensor(a, a.clone(), lam), a)


@given(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32), st.floats(0, 1))
def test_a_mix_lies_between_its_ends(a: float, b: float, lam: float) -> None:
    got = interpolate_tensor(torch.tensor([a]), torch.tensor([b]), lam).item()
    slack = 1e-5
    assert min(a, b) - slack <= got <= max(a, b) + slack


@pytest.mark.parametrize("lam", [0.25, 1.0])
def test_integers_and_bools_are_a(lam: float) -> None:
    for a, b in (
        (torch.tensor([1, 2]), torch.tensor([5, 6])),
        (torch.tensor([True, False]), torch.tensor([False, True])),
        (torch.tensor(3), torch.tensor(8)),
    ):
        assert same_bits(interpolate_tensor(a, b, lam), a)


def test_ignored_tensors_are_a_even_of_another_shape() -> None:
    a = torch.randn(3)
    assert same_bits(interpolate_tensor(a, torch.randn(4), 1.0, ignored=True), a)


def test_what_has_no_midpoint_is_b_at_the_end_of_the_path() -> None:
    a = {"head": torch.randn(3), "count": torch.tensor([1]), "other": torch.randn(2)}
    b = {"head": torch.randn(3), "count": torch.tensor([7]), "other": torch.randn(5)}
    bound = layout(head="ignored", count="tensors", other="ignored")
    for lam in (0.0, 0.5, 0.99):
        assert all(same_bits(interpolated(bound, a, b, lam)[key], a[key]) for key in a)
    end = interpolated(bound, a, b, 1.0)
    assert same_bits(end["head"], b["head"])
    assert same_bits(end["count"], b["count"])
    assert same_bits(end["other"], a["other"])  # B has none of that shape


def test_inputs_are_untouched() -> None:
    a, b = pair(torch.float32)
    before = a.clone(), b.clone()
    interpolate_tensor(a, b, 0.5)
    assert same_bits(a, before[0])
    assert same_bits(b, before[1])


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan"), float("inf")])
def test_lambda_outside_the_path_is_refused(lam: float) -> None:
    a, b = pair(torch.float32)
    with pytest.raises(UsageError, match=r"between 0 .* and 1"):
        interpolate_tensor(a, b, lam)
    with pytest.raises(UsageError, match=r"between 0 .* and 1"):
        interpolated(layout(w="tensors"), {"w": a}, {"w": b}, lam)


def test_shapes_and_kinds_must_agree() -> None:
    with pytest.raises(ContentError, match=r"\(2, 3\) and B's \(3, 2\)"):
        interpolate_tensor(torch.zeros(2, 3), torch.zeros(3, 2), 0.5)
    with pytest.raises(ContentError, match="float32 and B's int64"):
        interpolate_tensor(torch.zeros(2), torch.zeros(2, dtype=torch.int64), 0.5)


def test_a_lazy_checkpoint_has_the_keys_and_sections_of_a() -> None:
    a = {"w": torch.zeros(2), "mean": torch.zeros(2), "count": torch.tensor(3), "table": torch.zeros(2)}
    b = {"table": torch.ones(2), "count": torch.tensor(9), "mean": torch.full((2,), 4.0), "w": torch.ones(2)}
    sections = layout(w="tensors", mean="buffers", count="ignored", table="ignored")
    mixed = interpolated(sections, a, b, 0.25)
    assert list(mixed) == list(a)
    assert len(mixed) == 4
    torch.testing.assert_close(mixed["w"], torch.full((2,), 0.25))
    torch.testing.assert_close(mixed["mean"], torch.full((2,), 1.0))
    assert mixed["count"].item() == 3
    torch.testing.assert_close(mixed["table"], torch.zeros(2))


def test_a_lazy_checkpoint_reads_only_what_is_asked_for() -> None:
    a = Recording({"w": torch.zeros(2), "v": torch.zeros(2), "table": torch.zeros(2), "n": torch.tensor(1)})
    b = Recording(dict(a.tensors))
    sections = layout(w="tensors", v="tensors", table="ignored", n="buffers")
    mixed = interpolated(sections, a, b, 0.5)
    assert (a.read, b.read) == ([], [])
    for key in ("w", "table", "n"):
        mixed[key]
    assert (a.read, b.read) == (["w", "table", "n"], ["w"])
    interpolated(sections, a, b, 0.0)["v"]
    assert b.read == ["w"]


def test_an_error_names_the_tensor() -> None:
    mixed = interpolated(layout(w="tensors"), {"w": torch.zeros(2)}, {"w": torch.zeros(3)}, 0.5)
    with pytest.raises(ContentError) as caught:
        mixed["w"]
    assert caught.value.where == "w"


def test_grids_have_both_ends() -> None:
    grid = lambda_grid(25)
    assert (len(grid), grid[0], grid[12], grid[-1]) == (25, 0.0, 0.5, 1.0)
    torch.testing.assert_close(torch.tensor(grid, dtype=torch.float64), torch.linspace(0, 1, 25, dtype=torch.float64))
    assert lambda_grid(2) == (0.0, 1.0)


@pytest.mark.parametrize("steps", [1, 0, -3])
def test_grids_without_both_ends_are_refused(steps: int) -> None:
    with pytest.raises(UsageError, match="both ends"):
        lambda_grid(steps)
